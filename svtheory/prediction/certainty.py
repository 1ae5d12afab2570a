"""Certainty: what of an optimum rounding may have made, and which vectors the objective leaves open (T6, T7, T14)."""

import jax.numpy as jnp
from jax import Array, lax

from svtheory.laws import Law
from svtheory.numerics import exact_products, positive
from svtheory.prediction.whitened import SAFETY, Side, Whitened

Modes = tuple[Array, Array, Array]


@exact_products
def rounding(whitened: Whitened, modes: Modes | None, rank: int, largest: Array) -> Array:
    """How far rounding may have moved the optimum, spectral norm, a scalar; `largest` is its first singular value.

    A side `Z` moved by d moves `(Z^T)^+ B` by at most `2 d |(Z^T)^+ B| / s_min + d |(1 - P P^T) B| / s_min^2` to first
    order (Wedin 1973). Where a narrow head keeps the top of the core's `modes`, these turn by their own error over
    their distance to the first one dropped, number `rank`.
    """
    (query, key, T), largest = lax.stop_gradient((whitened, largest))
    error = max(len(query.inverse), *T.shape) * jnp.finfo(T.dtype).eps * largest
    for side, columns in ((query, T @ key.probes.T), (key, T.T @ query.probes.T)):
        reach = side.reach()
        error += side.rounding * reach * (2 * largest + reach * jnp.linalg.norm(side.untold(columns)))
    if modes is None:
        return error
    loose, c = core_rounding(whitened), lax.stop_gradient(modes[1])
    beyond = c[:rank] - c[rank]
    room = jnp.where(beyond > SAFETY * loose, beyond, jnp.inf).min()
    return error + query.reach() * key.reach() * loose * (1 + 2 * c[0] / room)


@exact_products
def doubt(whitened: Whitened) -> Array:
    """What directions would add to the optimum that were dropped though rounding need not have made them, a scalar."""
    query, key, T = lax.stop_gradient(whitened)
    columns = T @ key.probes.T, T.T @ query.probes.T
    return jnp.linalg.norm(query.doubtful @ columns[0]) + jnp.linalg.norm(key.doubtful @ columns[1])


@exact_products
def core_rounding(whitened: Whitened) -> Array:
    """How far rounding may have moved the core, spectral norm: its coordinates turn by `d / s_min` on each side."""
    query, key, T = lax.stop_gradient(whitened)
    size = jnp.linalg.norm(lax.stop_gradient(whitened.core))
    factors = jnp.linalg.norm(query.readout) * jnp.linalg.norm(T) * jnp.linalg.norm(key.readout)
    loose = jnp.finfo(T.dtype).eps * factors
    for side, columns in ((query, T @ key.readout.T), (key, T.T @ query.readout.T)):
        loose += side.rounding * side.reach() * (size + jnp.linalg.norm(side.untold(columns)))
    return loose


@exact_products
def undecided(whitened: Whitened, modes: Modes | None, rank: int, left: Array, right: Array, error: Array) -> Array:
    """Which singular pairs (D, K) hang on the choice among equal modes that a narrow head cannot all keep, shape (K,).

    Those that the modes equal to the first one dropped reach on either side, beyond rounding (T7).
    """
    if modes is None:
        return jnp.zeros(left.shape[1], bool)
    (U, c, Vt), (query, key, _), left, right = lax.stop_gradient((modes, whitened, left, right))
    tied = jnp.abs(c - c[rank]) <= SAFETY * core_rounding(whitened)
    span = [side.inverse @ jnp.where(tied[None, :], basis, 0) for side, basis in ((query, U), (key, Vt.T))]
    sizes = [jnp.linalg.norm(columns) for columns in span]
    moved = [jnp.linalg.norm(columns.T @ u, axis=0) for columns, u in zip(span, (left, right), strict=True)]
    return tied[:rank].any() & (c[rank] * jnp.maximum(moved[0] * sizes[1], moved[1] * sizes[0]) > error)


@exact_products
def mean_outside(features: Array, law: Law, side: Side) -> Array:
    """The share of the mean token that lies outside the range of a centred side's moment, 0 to rounding, a scalar.

    Not 0 iff some w has the same `w . r` for all tokens r, not 0: then a bias can do the work of Omega (T6).
    """
    X, mean, side = lax.stop_gradient((features, law.mean(), side))
    token, U = X @ mean, jnp.where(side.scale > 0, side.basis, 0)
    outside, size = jnp.linalg.norm(token - U @ (U.T @ token)), jnp.linalg.norm(token)
    slack = SAFETY * side.rounding * side.reach() * (size + jnp.linalg.norm(X * mean[None, :]))
    slack = jnp.minimum(slack, jnp.finfo(X.dtype).eps ** 0.5 * size)  # what rounding hides more of may be outside
    return jnp.where(outside > slack, outside / positive(size), 0)
