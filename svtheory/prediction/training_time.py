"""Dynamics: what finite training time shows of the optimum, and when each of its modes is learnt (T8, T9, T17).

Time is that of gradient flow: learning rate times steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checks import InputError, concrete, held, instance, non_negative, real_array
from svtheory.numerics import exact_products, positive
from svtheory.prediction.certainty import core_rounding
from svtheory.prediction.optimum import Optimum, optimum, predict
from svtheory.prediction.whitened import SAFETY, Side, Whitened, whiten
from svtheory.scenarios import Scenario


@jax.jit
def remaining(rate: Array, time: Array) -> Array:
    """`e^{-rate t}` for rate >= 0; time may be infinite, which leaves 1 at rate 0 and 0 elsewhere."""
    endless = jnp.isinf(time)
    return jnp.where(endless, (rate == 0).astype(rate.dtype), jnp.exp(-rate * jnp.where(endless, 0, time)))


@jax.jit
def elapsed(rate: Array, time: Array) -> Array:
    """`int_0^t e^{-rate s} ds = (1 - e^{-rate t})/rate` for rate >= 0, and t at rate 0; time may be infinite."""
    moving, endless = rate > 0, jnp.isinf(time)
    rate = positive(rate)
    finite = -jnp.expm1(-rate * jnp.where(endless, 0, time)) / rate
    return jnp.where(moving, jnp.where(endless, 1 / rate, finite), time)


def training_condition_number(smallest: Array | float, largest: Array | float, time: Array | float) -> Array:
    """`kappa_t = kappa (1 - e^{-m t}) / (1 - e^{-L t})`: the condition number that training for `time` has seen.

    Rises from 1 at time 0, where singular vectors are features, to `kappa = L/m`, where they are duals; with
    `kantorovich_bound` it bounds the alignment at that time, the other side being isotropic with moment I (T17). `m`,
    `L` are the extreme eigenvalues of the token moment on its range (m > 0), `time` is in units of learning rate times
    steps of gradient flow. For other sides see `training_condition_numbers`.

    >>> [round(float(training_condition_number(1.0, 4.0, t)), 3) for t in (0.0, 1.0, jnp.inf)]
    [1.0, 2.576, 4.0]
    """
    m, L = (real_array(name, x) for name, x in (("smallest", smallest), ("largest", largest)))
    return _seen(m, L, real_array("time", time, endless=True))


@jax.jit
def _seen(m: Array, L: Array, t: Array) -> Array:
    started = t > 0
    safe = positive(t)
    return jnp.where(started, elapsed(m, safe) / elapsed(L, safe), 1)


def training_condition_numbers(scenario: Scenario, time: Array | float) -> tuple[Array, Array]:
    """`kappa' = kappa_r (1 - e^{-m_r L_s t})/(1 - e^{-L_r L_s t})` of the query side, and of the key side alike (T17).

    With `kantorovich_bound` they bound the cosine of a single pair's leading singular vectors with `E[r f_i]`,
    `E[s f_j]` after training for `time` from zero, whatever the anisotropy of the two sides. Under softmax time counts
    `1 - 1/m`. Raises InputError for a time that is not a number >= 0.
    """
    instance("scenario", scenario, Scenario)
    t = _pace(scenario) * _non_negative("time", time, scenario.target.dtype)
    tokens = whiten(scenario)
    (m_r, L_r), (m_s, L_s) = tokens.query.bounds(), tokens.key.bounds()
    return training_condition_number(m_r * L_s, L_r * L_s, t), training_condition_number(m_s * L_r, L_s * L_r, t)


def filtered_optimum(
    scenario: Scenario, time: Array | float, start: Array | None = None, omega_decay: Array | float = 0.0
) -> Array:
    """`Omega(t)` of the flow `dOmega/dt = M - A Omega B - gamma Omega`, shape (D, D) (T17).

    In the eigenbases of the token moments A, B, eigenvalues lam_a and mu_b,
    `Omega_ab(t) = M_ab (1 - e^{-r t})/r + e^{-r t} Omega_ab(0)` with the rate `r = lam_a mu_b + gamma`: training for a
    finite time is a filter on the optimum, which it is at `time = inf`; directions that the tokens never visit keep
    their start. M, A, B are those of T5, or of T6 with M and A B scaled by `1 - 1/m`: softmax at small logits.

    time         scalar >= 0, or inf
    start        Omega(0), shape (D, D); zero when left out
    omega_decay  gamma >= 0 of the loss `(gamma/2) |Omega|_F^2`; at `time = inf` the filter is `1/(lam_a mu_b + gamma)`

    Raises InputError for a head_dim below D or a weight_decay on the factors: no closed form holds there.
    """
    instance("scenario", scenario, Scenario)
    _check_free(scenario)
    dtype = scenario.target.dtype
    t, gamma = _non_negative("time", time, dtype), _non_negative("omega_decay", omega_decay, dtype)
    start = None if start is None else _start(start, scenario)
    return _filtered_optimum(scenario, t, gamma, start)


@jax.jit
@exact_products
def _filtered_optimum(scenario: Scenario, t: Array, gamma: Array, start: Array | None) -> Array:
    tokens, pace = whiten(scenario), _pace(scenario)
    omega = _filter(lambda rate: rate * elapsed(rate + gamma, t), tokens, tokens.core, pace)
    if start is not None:
        (W, K), (V, J) = (
            (side.inverse, jnp.diag(side.scale**2) + _coupling(side)) for side in (tokens.query, tokens.key)
        )
        visited = K @ W.T @ start @ V @ J
        forgotten = _filter(lambda rate: rate * elapsed(rate, t), tokens, visited, pace)
        omega += remaining(gamma, t) * (start - forgotten)
    return jnp.where(scenario.weight_decay == 0, omega, jnp.nan)


def _filter(function: Callable[[Array], Array], tokens: Whitened, core: Array, pace: float) -> Array:
    """`W f(pace K (x) J)[core] V^T`, f(0) = 0, where `W = U s^+` and `V` are the bases in which A is K and B is J.

    K and J are diagonal, but their derivatives are not where eigenvalues are equal, as in a tight frame.
    """
    lam, mu = (tokens.query.scale**2)[:, None], (tokens.key.scale**2)[None, :]
    rate = pace * lam * mu
    value, slope = jax.jvp(function, (rate,), (jnp.ones_like(rate),))
    coupled = pace * slope * (mu * (_coupling(tokens.query) @ core) + lam * (core @ _coupling(tokens.key)))
    return tokens.unwhitened(jnp.where(rate > 0, value * core + coupled, 0))


def _coupling(side: Side) -> Array:
    """The token moment beside its diagonal in its own eigenbasis: 0, but with its derivative; shape (r, r)."""
    precision = side.inverse.T @ side.inverse
    off = jnp.where(jnp.eye(len(precision), dtype=bool), 0, precision - lax.stop_gradient(precision))
    return -(side.scale**2)[:, None] * off * (side.scale**2)[None, :]


def growth(scenario: Scenario, times: Array, start: Array | float) -> Array:
    """Mode sizes `a_k(t)` of gradient flow on W_Q and W_K, shape (len(times), K), K = min(head_dim or D, D) (T9).

    `a_k(t) = s e^{2 alpha beta s t}/(e^{2 alpha beta s t} - 1 + s/a_0)` with `s = sigma*_k`, falling as in `predict`;
    `a_0/(1 + 2 alpha beta a_0 t)` where s = 0, in directions that tokens visit. The token moments are `alpha I` and
    `beta I` on their ranges; the factors start balanced (`W_Q W_Q^T = W_K W_K^T`) and aligned with the modes, of size
    `a_0`: `start` > 0, a number or one a mode, shape (K,). Weight decay g puts `s = sigma*_k - g/(alpha beta)`, which
    may be negative (T8).

    times  shape (len(times),), >= 0, may be infinite
    Raises InputError for an objective other than "square", token moments that are not tight, or a head_dim below the
    number of modes; the last two give NaN while JAX traces.

    >>> from svtheory import single_pair
    >>> scenario = Scenario(jnp.eye(2), jnp.eye(2), single_pair(2, 2, 0, 1, 1.0))
    >>> [round(float(a), 4) for a in growth(scenario, jnp.array([0.0, 2.0, jnp.inf]), 0.01)[:, 0]]
    [0.01, 0.3555, 1.0]
    """
    s, pace, start = (x[None, :] for x in _modes(scenario, start))
    return _grown(s, pace, start, _non_negative("times", times, s.dtype, ndim=1)[:, None])


@jax.jit
def _grown(s: Array, pace: Array, start: Array, t: Array) -> Array:
    rate = pace * jnp.abs(s)
    left, spent = remaining(rate, t), elapsed(rate, t)
    # divided through by the larger exponential, so that neither sign of s overflows
    return start * jnp.where(s < 0, left, 1) / (jnp.where(s < 0, 1, left) + start * pace * spent)


def half_times(scenario: Scenario, start: Array | float) -> Array:
    """When each mode is half-way to `s`: `ln(s/a_0 - 1)/(2 alpha beta s)`, shape (K,) (T9).

    0 for a mode that starts at or beyond `s/2`, infinite for one that is not learnt (s <= 0). Modes of one start are
    learnt in order of strength where `s/a_0 > 4.591`. Arguments and errors are those of `growth`.
    """
    return _half_times(*_modes(scenario, start))


@jax.jit
def _half_times(s: Array, pace: Array, start: Array) -> Array:
    waiting = s > 2 * start
    safe = jnp.where(waiting, s, 3 * start)
    return jnp.where(s > 0, jnp.where(waiting, jnp.log(safe / start - 1) / (pace * safe), 0), jnp.inf)


@exact_products
def mode_start(scenario: Scenario, W_Q: Array, W_K: Array) -> Array:
    """The `a_0` from which modes grow out of a small random start, `|W_Q u_k + W_K v_k|^2 / 4`, shape (K,) (T9).

    While `a_k` is far below `s` the flow is linear, `d(W_Q u_k)/dt = alpha beta s W_K v_k` and the same with the sides
    exchanged: half their sum grows as `e^{alpha beta s t}`, half their difference dies out. W_Q, W_K (H, D); u_k, v_k
    are those of `predict`. Not defined where sigma*_k is repeated or 0: its vectors are then any of their subspace.

    >>> from svtheory import single_pair
    >>> scenario = Scenario(jnp.eye(2), jnp.eye(2), single_pair(2, 2, 0, 1, 1.0))
    >>> round(float(mode_start(scenario, 0.1 * jnp.eye(2), 0.1 * jnp.eye(2)[::-1])[0]), 4)
    0.01
    """
    spectrum = predict(scenario)
    W_Q, W_K = real_array("W_Q", W_Q, ndim=2), real_array("W_K", W_K, ndim=2)
    if W_Q.shape != W_K.shape or W_Q.shape[1] != scenario.dim:
        raise InputError(f"W_Q and W_K must have shape (H, {scenario.dim}), got {W_Q.shape} and {W_K.shape}")
    return held("W_Q and W_K", ((W_Q @ spectrum.left + W_K @ spectrum.right) ** 2).sum(axis=0) / 4)


def _modes(scenario: Scenario, start: Array | float) -> tuple[Array, Array, Array]:
    """`s`, `2 alpha beta` and `a_0` of each mode, three arrays (K,); NaN where T9 does not hold."""
    instance("scenario", scenario, Scenario)
    if scenario.objective != "square":
        raise InputError(f"objective must be 'square' for the growth of modes (T9), got {scenario.objective!r}")
    found = optimum(scenario)
    tight, roomy = found.tokens.is_tight(), _has_room(found)
    if concrete(tight) and not tight:
        conditions = [L / m for m, L in (found.tokens.query.bounds(), found.tokens.key.bounds())]
        raise InputError(
            "query_features and key_features must have tight token moments (T9), got condition numbers "
            f"{conditions[0]:.4g} and {conditions[1]:.4g}"
        )
    if concrete(roomy) and not roomy:
        raise InputError(f"head_dim must be at least the number of modes (T9), got {scenario.head_dim}")
    alpha_beta = found.tokens.eigenvalues[0, 0]
    learnt = jnp.where(found.values > found.error, found.values, 0)
    s = jnp.where(tight & roomy, learnt - scenario.weight_decay / alpha_beta, jnp.nan)
    return s, jnp.full_like(s, 2 * alpha_beta), _positive_start(start, s)


def _has_room(found: Optimum) -> Array:
    """Whether the head's rank is at least the number of modes."""
    if found.modes is None:
        return jnp.asarray(True)
    return found.modes[1][found.scenario.rank] <= SAFETY * core_rounding(found.trained)


def _positive_start(start: Array | float, s: Array) -> Array:
    a = real_array("start", start)
    if a.shape not in ((), s.shape):
        raise InputError(f"start must be a number or have shape {s.shape}, one a mode, got shape {a.shape}")
    if concrete(a) and np.asarray(a).min() <= 0:
        raise InputError(f"start must be positive, got {float(np.asarray(a).min())}")
    return jnp.broadcast_to(a.astype(s.dtype), s.shape)


@exact_products
def imbalance(W_Q: Array, W_K: Array, weight_decay: Array | float = 0.0, time: Array | float = 0.0) -> Array:
    """`e^{-2 g t} (W_Q W_Q^T - W_K W_K^T)`, shape (H, H): the imbalance of two factors (H, D), `time` later (T8).

    Gradient flow conserves it for any loss of `Omega = W_Q^T W_K`; weight decay g, part of the loss, shrinks it.
    """
    W_Q, W_K = real_array("W_Q", W_Q, ndim=2), real_array("W_K", W_K, ndim=2)
    if W_Q.shape[0] != W_K.shape[0]:
        raise InputError(f"W_K must have {W_Q.shape[0]} rows, the head dimension of W_Q, got shape {W_K.shape}")
    g, t = _non_negative("weight_decay", weight_decay, W_Q.dtype), _non_negative("time", time, W_Q.dtype)
    return remaining(2 * g, t) * held("W_Q and W_K", W_Q @ W_Q.T - W_K @ W_K.T)


def _check_free(scenario: Scenario) -> None:
    if scenario.rank < scenario.dim:
        raise InputError(f"head_dim must be at least {scenario.dim}, D, for the filter (T17), got {scenario.head_dim}")
    if concrete(scenario.weight_decay) and np.asarray(scenario.weight_decay) != 0:
        raise InputError(
            f"weight_decay must be 0 for the filter (T17), got {float(scenario.weight_decay)}; decay of Omega itself "
            "is omega_decay"
        )


def _pace(scenario: Scenario) -> float:
    """The factor of M and of A B in the flow: `1 - 1/m` under softmax (T6), else 1."""
    return 1 - 1 / scenario.n_keys if scenario.objective == "softmax" else 1.0


def _start(start: Array, scenario: Scenario) -> Array:
    omega = real_array("start", start, ndim=2).astype(scenario.target.dtype)
    if omega.shape != (scenario.dim, scenario.dim):
        raise InputError(f"start must have shape {(scenario.dim, scenario.dim)}, got {omega.shape}")
    return omega


def _non_negative(name: str, x: Array | float, dtype: jnp.dtype, ndim: int = 0) -> Array:
    """`x` as an array of `ndim` axes, at least 0 and possibly infinite; raises InputError or TypeError otherwise."""
    return non_negative(name, x, ndim, endless=True).astype(dtype)
