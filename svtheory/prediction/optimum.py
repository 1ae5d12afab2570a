"""The optimum: the head that training arrives at, in closed form (T1, T5, T6, T7, T8) or by a convex problem (T24).

All of them are one formula. Write each side's token moment as a square, `A = Z Z^T` with `Z = X R`: R = I without a
law, a root of the second moment C under the squared objective, a root of the covariance V where softmax (or a query
bias) centres. With `Z = U diag(s) P^T`, the template asks, in whitened coordinates, for the core
`G = (P^T R^T) T (R' P')`, and the optimum is `(U s^+) G (U' s'^+)^T`; a head of smaller rank keeps the top of G.
Weight decay lowers the singular values of that by one threshold where both moments are tight, and else is the convex
problem of `decay.py`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.checks import InputError, concrete, instance
from svtheory.factorisations import safe_svd
from svtheory.numerics import exact_products, inverse, numerical_rank_tolerance, shifted
from svtheory.prediction.certainty import Modes, doubt, mean_outside, rounding, undecided
from svtheory.prediction.decay import Decayed, bears_decay, decayed_optimum, objective_decay
from svtheory.prediction.whitened import SAFETY, Whitened, has_query_bias, narrowed, whiten
from svtheory.scenarios import Scenario, at_unit_size
from svtheory.spectra.spectra import Spectrum, value_gaps

REFUSALS = (
    "weight_decay must be 0 where a head_dim below D meets a query_bias: no theory covers it",
    "head_dim must be no less than the rank of what weight_decay leaves (T24), or the token moments tight (T8)",
    "weight_decay must be 0 where the token moments are too ill-conditioned for its optimum to be reached (T24)",
)
"""Why an optimum with weight decay is not given."""


class Optimum(NamedTuple):
    """The SVD of the optimum, and what is known of it.

    left, values, right  as in Spectrum, K pairs; values are NaN where the optimum is refused
    error                how far rounding may have moved the matrix, spectral norm, a scalar
    doubt                what directions would add to it that are too small to tell from none, a scalar
    undecided            whether each pair hangs on a choice that the objective leaves open, shape (K,): which of equal
                         modes a narrow head keeps (T7), what is Omega and what bias (T6)
    scenario             the scenario whose optimum it is
    tokens               its tokens, whitened
    trained              the same as the head sees them, which may be too narrow for a bias and all modes (T7)
    modes                the SVD of its core, of which a head keeps the top that is too narrow for all of it; else None
    closed               whether it has a closed form: without weight decay, or T8's, a scalar
    largest              `|M|_2`, the weight decay from which nothing is left (T24), a scalar; 0 if none was asked for
    refused              0, or one more than the place of the reason in `REFUSALS`, a scalar
    """

    left: Array
    values: Array
    right: Array
    error: Array
    doubt: Array
    undecided: Array
    scenario: Scenario
    tokens: Whitened
    trained: Whitened
    modes: Modes | None
    closed: Array
    largest: Array
    refused: Array

    @property
    def slack(self) -> Array:
        """How far the matrix may be from the optimum, spectral norm, a scalar."""
        return self.error + self.doubt

    def named(self) -> Array:
        """Whether each value is apart from all others, zero included, and its vectors are decided, shape (K,)."""
        return (value_gaps(self.values) > self.slack) & ~self.undecided


@exact_products
def optimal_omega(scenario: Scenario) -> Array:
    """The least-norm optimum `Omega*` of the scenario's objective, shape (D, D).

    - squared, no law (T1; the paper's Theorem 1): `(X^T)^+ T Y^+`
    - squared (T5): `S_r^+ X C_r T C_s Y^T S_s^+`
    - softmax, to leading order in the logits (T6): `S_r^+ X C_r T V_s Y^T K_s^+`, and with a query bias
      `K_r^+ X V_r T V_s Y^T K_s^+`
    - head_dim (T7), reduced-rank regression: `A^{+1/2} [A^{+1/2} M B^{+1/2}]_H B^{+1/2}`; with a query bias, which is
      trained in the row space of W_K, on `(r; 1)` instead of r and then without its last row
    - weight_decay (T8, T24): see `predict`
    """
    instance("scenario", scenario, Scenario)
    omega, unit, refused = _optimal_omega(scenario, bears_decay(scenario))
    check_decay(refused)
    return held_at_size(omega, unit)


@partial(jax.jit, static_argnames="decayed")
@exact_products
def _optimal_omega(scenario: Scenario, decayed: bool) -> tuple[Array, Array, Array]:
    """The optimum, the same at unit size, and whether it is refused."""
    unit, exponent = at_unit_size(scenario)
    tokens = whiten(unit)
    head = _head(unit, tokens, _as_trained(unit, tokens), decayed)
    omega, refused = head.omega, jnp.asarray(0)
    if decayed:
        U, values, Vt = safe_svd(omega)
        values, refused = _lowered(values, unit, head)
        omega = (U * values[None, :]) @ Vt
    return shifted(omega, exponent), omega, refused


def held_at_size(result: Array, unit: Array) -> Array:
    """`result`, numbers of an optimum or NaN, `unit` at unit size; InputError where the dtype does not hold it."""
    if concrete(result):
        largest = np.nanmax(np.abs(np.asarray(result)), initial=0)
        small = largest < jnp.finfo(result.dtype).tiny and bool((jnp.nan_to_num(unit) != 0).any())
        if small or not np.isfinite(largest):
            raise InputError(
                f"target, over query_features and key_features, must be of a size that {result.dtype} holds, "
                f"got one too {'small' if small else 'large'}"
            )
    return result


def predict(scenario: Scenario) -> Spectrum:
    """The spectrum that theory predicts for a scenario's trained head: the SVD of `optimal_omega`.

    Singular vectors are duals (T1, T4), with laws probes (T5, T6). K = min(head_dim or D, D) pairs, zero-padded; values
    to leading order in the logits (T6). Weight decay g, divided by `1 - 1/m` for softmax, lowers each value by `g /
    (alpha beta)`, not below 0, where the token moments are `alpha I` and `beta I` on their ranges (T8). For any other
    moments A and B the optimum is that of the convex problem `min (1/2) tr(Omega^T A Omega B) - tr(M^T Omega) + g
    |Omega|_*`, solved to a certificate (T24): vectors turn from duals towards features as g rises, and nothing is left
    from `g = |M|_2` on. InputError, or NaN while JAX traces, where the certificate is not reached, where head_dim is
    below the rank of the result, and where a query bias meets a head_dim below D.
    Works under jit, vmap and grad; `vmap(predict)` reads stacked scenarios.

    The gap of a pair is 0, and `nameable` refuses it, where rounding may have made its vectors (features or moments
    near singular), where the head must drop one of equal modes (T7), and, for all pairs, where a query bias can do the
    work of Omega: if some w has `w . r = 1` for all tokens, as for one-hot activations of independent features, then
    `Omega + w c^T` and c less in the key-only term make the same logits, for any c (T6). What is returned there is one
    of many optima, of least norm.

    >>> from svtheory import Scenario, single_pair
    >>> spectrum = predict(Scenario(2 * jnp.eye(2), jnp.eye(2), single_pair(2, 2, 0, 1, 6.0)))
    >>> spectrum.values.round(4).tolist(), jnp.abs(spectrum.left[:, 0]).round(4).tolist()
    ([3.0, 0.0], [1.0, 0.0])
    """
    instance("scenario", scenario, Scenario)
    found, unit, refused = _predict(scenario, bears_decay(scenario))
    check_decay(refused)
    held_at_size(found.values, unit)
    return found


@partial(jax.jit, static_argnames="decayed")
@exact_products
def _predict(scenario: Scenario, decayed: bool) -> tuple[Spectrum, Array, Array]:
    """The spectrum, its values at unit size, and whether they are refused."""
    unit, exponent = at_unit_size(scenario)
    found = optimum(unit, decayed)
    values, gaps = (shifted(x, exponent) for x in (found.values, value_gaps(found.values)))
    spectrum = Spectrum(found.left, values, found.right, jnp.where(found.named(), gaps, 0 * gaps))
    return spectrum, found.values, found.refused


@partial(jax.jit, static_argnames="decayed")
@exact_products
def optimum(scenario: Scenario, decayed: bool = False) -> Optimum:
    """What is known of a scenario's optimum, with its weight decay or as if it had none.

    `predict` hides what is not behind a gap of 0.
    """
    K, tokens = scenario.rank, whiten(scenario)
    trained = _as_trained(scenario, tokens)
    head = _head(scenario, tokens, trained, decayed)
    U, values, Vt = safe_svd(head.omega)
    left, right = U[:, :K], Vt[:K].T
    error, unknown = rounding(trained, head.modes, K, values[0]), doubt(trained)
    free = undecided(trained, head.modes, K, left, right, error + unknown)
    largest = jnp.zeros_like(error)
    if head.decayed is not None:
        error, free = jnp.where(head.closed, error, head.decayed.error), free & head.closed
        largest = head.decayed.largest
    if scenario.query_law is not None and has_query_bias(scenario):
        free |= mean_outside(scenario.query_features, scenario.query_law, tokens.query) > 0
    lowered, refused = _lowered(values, scenario, head)
    known = scenario, tokens, trained, head.modes, head.closed, largest, refused
    return Optimum(left, lowered[:K], right, error, unknown, free, *known)


def mode_strengths(scenario: Scenario) -> Array:
    """Singular values of `A^{+1/2} M B^{+1/2}`, falling, shape (K,), K at most D: by them a narrow head chooses (T7).

    A head of H dimensions keeps the first H modes, uniquely iff values H and H + 1 differ. For matched features that
    are orthogonal and aligned, without laws, they are `|t_k| sqrt(D_i D_j)`. With a query bias A and M are those of
    `(r; 1)`.

    >>> from svtheory import Scenario, single_pair
    >>> mode_strengths(Scenario(2 * jnp.eye(2), jnp.eye(2), single_pair(2, 2, 0, 1, 6.0))).tolist()
    [6.0, 0.0]
    """
    return _mode_strengths(instance("scenario", scenario, Scenario))


@jax.jit
@exact_products
def _mode_strengths(scenario: Scenario) -> Array:
    return jnp.linalg.svd(narrowed(scenario, whiten(scenario)).core, compute_uv=False)


def _as_trained(scenario: Scenario, tokens: Whitened) -> Whitened:
    """What a head keeps the core of, all of it or its top."""
    return narrowed(scenario, tokens) if scenario.rank < scenario.dim else tokens


class _Head(NamedTuple):
    """The matrix of a head before T8 lowers its values, the modes it chose from (T7), and what decay makes of both."""

    omega: Array
    modes: Modes | None
    closed: Array
    threshold: Array | None = None
    decayed: Decayed | None = None


def _head(scenario: Scenario, tokens: Whitened, trained: Whitened, decayed: bool) -> _Head:
    core, modes, head_dim = trained.core, None, scenario.head_dim
    if head_dim is not None and head_dim < min(core.shape):
        modes = safe_svd(core)
        top = modes[0][:, :head_dim]
        core = top @ (top.T @ core)
    omega = trained.unwhitened(core)
    if not decayed:
        return _Head(omega, modes, jnp.asarray(True))
    g = objective_decay(scenario)
    closed = (g == 0) | (tokens.is_tight() & (not _shares_with_bias(scenario)))
    found = decayed_optimum(scenario, tokens, jnp.where(closed, 0, g))
    return _Head(jnp.where(closed, omega, found.omega), modes, closed, g * inverse(tokens.eigenvalues[0, 0]), found)


def _shares_with_bias(scenario: Scenario) -> bool:
    """Whether the head has a query bias that takes its share of a narrow head (T7)."""
    return has_query_bias(scenario) and scenario.rank < scenario.dim


def _lowered(values: Array, scenario: Scenario, head: _Head) -> tuple[Array, Array]:
    """Singular values lowered by `g / (alpha beta)` where T8 holds, and why they are refused, then NaN, or 0."""
    if head.decayed is None or head.threshold is None:
        return values, jnp.asarray(0)
    thresholded = head.closed & (head.threshold > 0)
    values = jnp.where(thresholded, jnp.maximum(values - head.threshold, 0), values)
    beyond = values[scenario.rank :] > SAFETY * numerical_rank_tolerance(values, scenario.dim)
    refused = jnp.where(head.decayed.reached, jnp.where(beyond.any(), 2, 0), 3)
    refused = jnp.where(head.closed, 0, 1 if _shares_with_bias(scenario) else refused)
    return jnp.where(refused > 0, jnp.nan, values), refused


def check_decay(refused: Array) -> None:
    """Raise InputError for a weight decay that theory does not cover or the solver does not master."""
    if concrete(refused) and refused > 0:
        raise InputError(REFUSALS[int(refused) - 1])
