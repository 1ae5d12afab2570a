"""The optimum: the head that training arrives at, in closed form (T1, T5, T6, T7, T8).

All of them are one formula. Write each side's token moment as a square, `A = Z Z^T` with `Z = X R`: R = I without a
law, a root of the second moment C under the squared objective, a root of the covariance V where softmax (or a query
bias) centres. With `Z = U diag(s) P^T`, the template asks, in whitened coordinates, for the core
`G = (P^T R^T) T (R' P')`, and the optimum is `(U s^+) G (U' s'^+)^T`; a head of smaller rank keeps the top of G.
"""

import jax.numpy as jnp
from jax import Array

from svtheory.checks import InputError, concrete
from svtheory.frames import exact_products
from svtheory.moments import Side, is_tight, sides
from svtheory.scenarios import Scenario
from svtheory.spectra import Spectrum, safe_svd, spectrum_of


@exact_products
def optimal_omega(scenario: Scenario) -> Array:
    """The least-norm optimum `Omega*` of the scenario's objective, shape (D, D).

    - squared, no law (T1; the paper's Theorem 1): `(X^T)^+ T Y^+`
    - squared (T5): `S_r^+ X C_r T C_s Y^T S_s^+`
    - softmax, to leading order in the logits (T6): `S_r^+ X C_r T V_s Y^T K_s^+`, and with a query bias
      `K_r^+ X V_r T V_s Y^T K_s^+`
    - head_dim (T7), reduced-rank regression: `A^{+1/2} [A^{+1/2} M B^{+1/2}]_H B^{+1/2}`
    - weight_decay (T8): see `predict`
    """
    query, key = sides(scenario)
    omega = _undecayed(scenario, query, key)
    if concrete(scenario.weight_decay) and scenario.weight_decay == 0:
        return omega
    U, values, Vt = safe_svd(omega)
    return (U * _soft_threshold(values, scenario, query, key)[None, :]) @ Vt


@exact_products
def predict(scenario: Scenario) -> Spectrum:
    """The spectrum that theory predicts for a scenario's trained head: the SVD of `optimal_omega`.

    K = min(head_dim or D, D) pairs, zero-padded; values to leading order in the logits (T6). Weight decay g lowers each
    value by `g / (alpha beta)`, not below 0, where the token moments are `alpha I` and `beta I` on their ranges and the
    objective is squared (T8); elsewhere no closed form holds: InputError, or NaN while JAX traces.
    Works under jit, vmap and grad; `vmap(predict)` reads stacked scenarios.

    >>> from svtheory import Scenario, single_pair
    >>> spectrum = predict(Scenario(2 * jnp.eye(2), jnp.eye(2), single_pair(2, 2, 0, 1, 6.0)))
    >>> spectrum.values.tolist(), jnp.abs(spectrum.left[:, 0]).tolist()
    ([3.0, 0.0], [1.0, 0.0])
    """
    query, key = sides(scenario)
    U, values, Vt = safe_svd(_undecayed(scenario, query, key))
    values = _soft_threshold(values, scenario, query, key)
    K = scenario.rank
    return spectrum_of(U[:, :K], values[:K], Vt[:K].T)


@exact_products
def mode_strengths(scenario: Scenario) -> Array:
    """Singular values of `A^{+1/2} M B^{+1/2}`, falling, shape (K,), K at most D: by them a narrow head chooses (T7).

    A head of H dimensions keeps the first H modes, uniquely iff values H and H + 1 differ. For matched features that
    are orthogonal and aligned, without laws, they are `|t_k| sqrt(D_i D_j)`.

    >>> from svtheory import Scenario, single_pair
    >>> mode_strengths(Scenario(2 * jnp.eye(2), jnp.eye(2), single_pair(2, 2, 0, 1, 6.0))).tolist()
    [6.0, 0.0]
    """
    query, key = sides(scenario)
    return jnp.linalg.svd(_core(scenario, query, key), compute_uv=False)


def _core(scenario: Scenario, query: Side, key: Side) -> Array:
    """The template in whitened coordinates."""
    return query.readout @ scenario.target @ key.readout.T


def _undecayed(scenario: Scenario, query: Side, key: Side) -> Array:
    core = _core(scenario, query, key)
    if scenario.head_dim is not None and scenario.head_dim < min(core.shape):
        top = safe_svd(core)[0][:, : scenario.head_dim]
        core = top @ (top.T @ core)
    return query.inverse @ core @ key.inverse.T


def _soft_threshold(values: Array, scenario: Scenario, query: Side, key: Side) -> Array:
    """The singular values of Omega lowered by `g / (alpha beta)`, where T8 holds."""
    g = scenario.weight_decay
    if concrete(g) and g == 0:
        return values
    exact = is_tight(query) & is_tight(key) & (scenario.objective == "square")
    if concrete(exact) and concrete(g) and not exact:
        raise InputError(
            f"weight_decay must be 0 here, got {float(g)}: its closed form (T8) holds for the square objective and "
            "tight token moments on both sides only"
        )
    lowered = jnp.maximum(values - g / (query.scale[0] * key.scale[0]) ** 2, 0)
    return jnp.where(g == 0, values, jnp.where(exact, lowered, jnp.nan))
