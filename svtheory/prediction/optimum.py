"""The optimum: the head that training arrives at, in closed form (T1, T5, T6, T7, T8).

All of them are one formula. Write each side's token moment as a square, `A = Z Z^T` with `Z = X R`: R = I without a
law, a root of the second moment C under the squared objective, a root of the covariance V where softmax (or a query
bias) centres. With `Z = U diag(s) P^T`, the template asks, in whitened coordinates, for the core
`G = (P^T R^T) T (R' P')`, and the optimum is `(U s^+) G (U' s'^+)^T`; a head of smaller rank keeps the top of G.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.checks import InputError, concrete
from svtheory.factorisations import safe_svd
from svtheory.numerics import exact_products, inverse, shifted
from svtheory.prediction.certainty import Modes, doubt, mean_outside, rounding, undecided
from svtheory.prediction.whitened import Whitened, has_query_bias, narrowed, whiten
from svtheory.scenarios import Scenario, at_unit_size
from svtheory.spectra.spectra import Spectrum, value_gaps


class Optimum(NamedTuple):
    """The SVD of the optimum, and what is known of it.

    left, values, right  as in Spectrum, K pairs
    error                how far rounding may have moved the matrix, spectral norm, a scalar
    doubt                what directions would add to it that are too small to tell from none, a scalar
    undecided            whether each pair hangs on a choice that the objective leaves open, shape (K,): which of equal
                         modes a narrow head keeps (T7), what is Omega and what bias (T6)
    undecayed            the values without weight decay, shape (K,)
    scenario             the scenario whose optimum it is
    tokens               its tokens, whitened
    trained              the same as the head sees them, which may be too narrow for a bias and all modes (T7)
    modes                the SVD of its core, of which a head keeps the top that is too narrow for all of it; else None
    """

    left: Array
    values: Array
    right: Array
    error: Array
    doubt: Array
    undecided: Array
    undecayed: Array
    scenario: Scenario
    tokens: Whitened
    trained: Whitened
    modes: Modes | None

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
    - weight_decay (T8): see `predict`
    """
    decays = not concrete(scenario.weight_decay) or bool(scenario.weight_decay != 0)
    omega, unit, closed = _optimal_omega(scenario, decays)
    check_closed(closed)
    return held_at_size(omega, unit)


@partial(jax.jit, static_argnums=1)
@exact_products
def _optimal_omega(scenario: Scenario, decays: bool) -> tuple[Array, Array, Array]:
    """The optimum, the same at unit size, and whether it has a closed form."""
    unit, exponent = at_unit_size(scenario)
    trained = _as_trained(unit, whiten(unit))
    omega = _undecayed(trained, unit.head_dim)[0]
    if decays:
        U, values, Vt = safe_svd(omega)
        omega = (U * _soft_threshold(values, unit, trained)[None, :]) @ Vt
    return shifted(omega, exponent), omega, is_closed(unit, trained)


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

    K = min(head_dim or D, D) pairs, zero-padded; values to leading order in the logits (T6). Weight decay g lowers each
    value by `g / (alpha beta)`, not below 0, where the token moments are `alpha I` and `beta I` on their ranges and the
    objective is squared (T8); elsewhere no closed form holds: InputError, or NaN while JAX traces.
    Works under jit, vmap and grad; `vmap(predict)` reads stacked scenarios.

    The gap of a pair is 0, and `nameable` refuses it, where rounding may have made its vectors (features or moments
    near singular), where the head must drop one of equal modes (T7), and, for all pairs, where a query bias can do the
    work of Omega: if some w has `w . r = 1` for all tokens, as for one-hot activations of independent features, then
    `Omega + w c^T` and c less in the key-only term make the same logits, for any c (T6). What is returned there is one
    of many optima, of least norm.

    >>> from svtheory import Scenario, single_pair
    >>> spectrum = predict(Scenario(2 * jnp.eye(2), jnp.eye(2), single_pair(2, 2, 0, 1, 6.0)))
    >>> spectrum.values.tolist(), jnp.abs(spectrum.left[:, 0]).tolist()
    ([3.0, 0.0], [1.0, 0.0])
    """
    found, unit, closed = _predict(scenario)
    check_closed(closed)
    held_at_size(found.values, unit)
    return found


@jax.jit
@exact_products
def _predict(scenario: Scenario) -> tuple[Spectrum, Array, Array]:
    """The spectrum, its values at unit size, and whether they have a closed form."""
    unit, exponent = at_unit_size(scenario)
    found = optimum(unit)
    values, gaps = (shifted(x, exponent) for x in (found.values, value_gaps(found.values)))
    spectrum = Spectrum(found.left, values, found.right, jnp.where(found.named(), gaps, 0 * gaps))
    return spectrum, found.values, is_closed(unit, found.trained)


@jax.jit
@exact_products
def optimum(scenario: Scenario) -> Optimum:
    """What is known of a scenario's optimum; `predict` hides what is not behind a gap of 0."""
    K, tokens = scenario.rank, whiten(scenario)
    trained = _as_trained(scenario, tokens)
    omega, modes = _undecayed(trained, scenario.head_dim)
    U, values, Vt = safe_svd(omega)
    lowered = _soft_threshold(values, scenario, trained)
    left, right = U[:, :K], Vt[:K].T
    error, unknown = rounding(trained, modes, K, values[0]), doubt(trained)
    free = undecided(trained, modes, K, left, right, error + unknown)
    if scenario.query_law is not None and has_query_bias(scenario):
        free |= mean_outside(scenario.query_features, scenario.query_law, tokens.query) > 0
    return Optimum(left, lowered[:K], right, error, unknown, free, values[:K], scenario, tokens, trained, modes)


@jax.jit
@exact_products
def mode_strengths(scenario: Scenario) -> Array:
    """Singular values of `A^{+1/2} M B^{+1/2}`, falling, shape (K,), K at most D: by them a narrow head chooses (T7).

    A head of H dimensions keeps the first H modes, uniquely iff values H and H + 1 differ. For matched features that
    are orthogonal and aligned, without laws, they are `|t_k| sqrt(D_i D_j)`. With a query bias A and M are those of
    `(r; 1)`.

    >>> from svtheory import Scenario, single_pair
    >>> mode_strengths(Scenario(2 * jnp.eye(2), jnp.eye(2), single_pair(2, 2, 0, 1, 6.0))).tolist()
    [6.0, 0.0]
    """
    return jnp.linalg.svd(narrowed(scenario, whiten(scenario)).core, compute_uv=False)


def _as_trained(scenario: Scenario, tokens: Whitened) -> Whitened:
    """What a head keeps the core of, all of it or its top."""
    return narrowed(scenario, tokens) if scenario.rank < scenario.dim else tokens


def _undecayed(trained: Whitened, head_dim: int | None) -> tuple[Array, Modes | None]:
    """The optimum without decay, and the SVD of its core where the head may be too narrow for all of it."""
    core, modes = trained.core, None
    if head_dim is not None and head_dim < min(core.shape):
        modes = safe_svd(core)
        top = modes[0][:, :head_dim]
        core = top @ (top.T @ core)
    return trained.unwhitened(core), modes


def _soft_threshold(values: Array, scenario: Scenario, trained: Whitened) -> Array:
    """The singular values of Omega lowered by `g / (alpha beta)`; NaN where T8 does not hold."""
    g = scenario.weight_decay
    lowered = jnp.maximum(values - g * inverse(trained.eigenvalues[0, 0]), 0)
    return jnp.where(g == 0, values, jnp.where(is_closed(scenario, trained), lowered, jnp.nan))


def is_closed(scenario: Scenario, trained: Whitened) -> Array:
    """Whether the optimum has a closed form: without weight decay, or where T8 holds."""
    return (scenario.weight_decay == 0) | (trained.is_tight() & (scenario.objective == "square"))


def check_closed(closed: Array) -> None:
    """Raise InputError for a weight decay without a closed form."""
    if concrete(closed) and not closed:
        raise InputError(
            "weight_decay must be 0 here, not above: its closed form (T8) holds for the square objective and "
            "tight token moments on both sides only"
        )
