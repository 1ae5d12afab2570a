"""Phases: where features go when reconstruction and the leakage of a head of fixed strength share their energy (T10).

N unit features W in D >= 3 dimensions, N >= D, of which the head matches w_0 with w_1: energy `E = FP + g s_0 s_1`,
`s_i = w_i^T S w_i`, `S = W W^T`. The coupling g grows as the squared strength of the head.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checks import InputError, concrete, held, real_array, whole
from svtheory.numerics import exact_products
from svtheory.pytrees import pytree

ARRANGEMENTS = ("orthogonalised", "one-sided", "collapsed", "superposed")
"""The order of the leading axis of `stationary_arrangements`."""


@pytree()
@dataclass(frozen=True)
class Arrangement:
    """What matters of an arrangement of features: its energy and the crowding of the matched pair; NaN where it is not.

    energy  `E = FP + g s_0 s_1`
    s_0     `w_0^T S w_0`: 1 for a feature orthogonal to all others; the smaller of the two
    s_1     `w_1^T S w_1`
    cosine  `|w_0 . w_1|`
    """

    energy: Array
    s_0: Array
    s_1: Array
    cosine: Array


def phase_energy(features: Array, coupling: Array | float) -> Array:
    """`E = FP + g s_0 s_1` of unit features (D, N), the matched pair being columns 0 and 1 (T10).

    >>> float(phase_energy(jnp.eye(3), 2.0))
    5.0
    """
    W = real_array("features", features, ndim=2)
    return held("features", _energy(W, real_array("coupling", coupling).astype(W.dtype)), W)


@jax.jit
@exact_products
def _energy(W: Array, g: Array) -> Array:
    S, pair = W @ W.T, W[:, :2]
    s_0, s_1 = (pair * (S @ pair)).sum(axis=0)
    return (S**2).sum() + g * s_0 * s_1


def orthogonalization_threshold(n_features: int, dim: int) -> float:
    """`g_c = 2(N - D)/(D - 2)`: the coupling from which a matched pair orthogonal to all other features is stable.

    Below it the orthogonalised arrangement is a strict saddle, from it on second-order stationary. The same g_c holds
    for a head whose strength adapts, leakage `g (1 - 1/(s_0 s_1))`: at `s_0 = s_1 = 1` both have one slope. Stable is
    not lowest: see `collapse_threshold` (T10).
    Raises InputError for dim < 3 or n_features < dim.

    >>> orthogonalization_threshold(20, 10)
    2.5
    """
    N, D = _sizes(n_features, dim)
    return 2 * (N - D) / (D - 2)


def collapse_threshold(n_features: int, dim: int) -> float:
    """`g* = ((N-2)^2/((D-1)(D-2)) - 2)/3`: the coupling at which the collapsed and orthogonalised energies cross.

    Negative where the orthogonalised arrangement is lower at every coupling. The orthogonalised arrangement is the
    global minimum iff `g >= max(g_c, g*)`: so it was seen on the exact reduction; it is not proved (T10).
    Raises InputError for dim < 3 or n_features < dim.

    >>> round(collapse_threshold(30, 6), 6)
    12.4
    """
    N, D = _sizes(n_features, dim)
    return ((N - 2) ** 2 / ((D - 1) * (D - 2)) - 2) / 3


def adaptive_threshold(n_features: int, dim: int) -> float:
    """`g_x = g_c N^2/(D(N + D))`: where a head of adapting strength, orthogonalised, is as low as a tight frame (T10).

    With leakage `g (1 - 1/(s_0 s_1))` a tight frame, `s_0 = s_1 = N/D`, has energy `N^2/D + g (1 - D^2/N^2)`, less than
    the orthogonalised `2 + (N-2)^2/(D-2)` below g_x. The lowest arrangement is no higher, so between g_c and g_x, that
    is for N/D above the golden ratio, the orthogonalised arrangement is stable and not lowest: of first order.
    Raises InputError for dim < 3 or n_features < dim.

    >>> round(adaptive_threshold(12, 6), 6)
    4.0
    """
    N, D = _sizes(n_features, dim)
    return orthogonalization_threshold(N, D) * N**2 / (D * (N + D))


def stationary_arrangements(n_features: int, dim: int, coupling: Array | float) -> Arrangement:
    """The four stationary arrangements at each coupling g >= 0, stacked along a leading axis as `ARRANGEMENTS` (T10).

    - orthogonalised: `s_0 = s_1 = 1`, `E = 2 + (N-2)^2/(D-2) + g`; for every g
    - one-sided: `s_0 = 1`, `s_1 = s = ((N-1) - g(D-2)/2)/(D-1)`, `E = 1 + s^2 + (N-1-s)^2/(D-2) + g s`; for
      `2 <= g <= g_c`
    - collapsed: `w_0 = +-w_1`, `s = max(2, N/(D + g(D-1)))`, `E = s^2 + (N-s)^2/(D-1) + g s^2`; for N > D
    - superposed: S has eigenvalues `1 + c` on `w_0 + w_1`, b on `w_0 - w_1` and one other on the rest, where
      `c = |w_0 . w_1|` (for opposite w_1, exchange the two); `s_0 = s_1 = s = ((1+c)^2 + b(1-c))/2`,
      `E = (1+c)^2 + b^2 + (N-1-c-b)^2/(D-2) + g s^2` at its local minimum over b and c in (0, 1); for g < g_c and,
      where N > 2D, g large enough

    Shapes (4, *coupling.shape); NaN outside the range of g in which an arrangement exists. Works under jit, vmap and
    grad in g.
    Raises InputError for dim < 3, n_features < dim or a negative coupling.

    >>> print(stationary_arrangements(40, 10, 6.0).energy.round(2))
    [188.5  188.   188.44 188.05]
    """
    return _stationary_arrangements(*_arguments(n_features, dim, coupling))


def lowest_arrangement(n_features: int, dim: int, coupling: Array | float) -> tuple[Array, Arrangement]:
    """The stationary arrangement of least energy: its index in `ARRANGEMENTS`, and itself; shapes as `coupling` (T10).

    Descent need not end in it: each arrangement that is stable keeps its own basin.

    >>> ARRANGEMENTS[int(lowest_arrangement(40, 10, 6.0)[0])]
    'one-sided'
    """
    phases = stationary_arrangements(n_features, dim, coupling)
    lowest = jnp.nanargmin(phases.energy, axis=0)
    return lowest, jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, lowest[None], axis=0)[0], phases)


def exact_minimum(n_features: int, dim: int, coupling: Array | float) -> Arrangement:
    """The global minimum of E over all unit features, from its exact reduction to two angles (T10).

    Block by block, E is at least `tr A^2 + (N - tr A)^2/(D-2) + g (w_0^T A w_0)(w_1^T A w_1)`, A being S on the plane
    of w_0 and w_1 with `A >= w_0 w_0^T + w_1 w_1^T`. With slack in both directions and `|w_0 . w_1| < 1` the only
    stationary points have `w_0 . w_1 = 0` and are saddles. So either the pair is collapsed, or
    `A = w_0 w_0^T + w_1 w_1^T + beta n n^T`; E is a quadratic in `beta >= 0`, and the angles of w_0 and w_1 with n are
    left to search, from 64 starts. N unit features reach the bound.
    Shapes as `coupling`; gradients are those of the minimum. Raises InputError as `stationary_arrangements`.

    >>> round(float(exact_minimum(40, 10, 6.0).energy), 2)
    188.0
    """
    return _exact_minimum(*_arguments(n_features, dim, coupling))


def _sizes(n_features: int, dim: int) -> tuple[int, int]:
    D = whole("dim", dim, 3)
    return whole("n_features", n_features, D), D


def _arguments(n_features: int, dim: int, coupling: Array | float) -> tuple[Array, Array, Array]:
    N, D = _sizes(n_features, dim)
    g = real_array("coupling", coupling)
    if concrete(g) and (np.asarray(g) < 0).any():
        raise InputError(f"coupling must be at least 0, got {np.asarray(g).min()}")
    # sizes as numbers: one compilation serves them all
    return jnp.asarray(N, g.dtype), jnp.asarray(D, g.dtype), g


@jax.jit
def _stationary_arrangements(N: Array, D: Array, coupling: Array) -> Arrangement:
    phases = (_orthogonalised, _one_sided, _collapsed, _superposed)
    found = jax.vmap(lambda g: jax.tree.map(lambda *leaf: jnp.stack(leaf), *(phase(N, D, g) for phase in phases)))(
        coupling.ravel()
    )
    return jax.tree.map(lambda leaf: leaf.T.reshape(4, *coupling.shape), found)


def _where(valid: Array | bool, energy: Array, s_0: Array, s_1: Array, cosine: Array) -> Arrangement:
    return Arrangement(*(jnp.where(valid, value, jnp.nan) for value in (energy, s_0, s_1, cosine)))


def _orthogonalised(N: Array, D: Array, g: Array) -> Arrangement:
    one = jnp.ones_like(g)
    return Arrangement(2 + (N - 2) ** 2 / (D - 2) + g, one, one, 0 * one)


def _one_sided(N: Array, D: Array, g: Array) -> Arrangement:
    s = ((N - 1) - g * (D - 2) / 2) / (D - 1)
    energy = 1 + s**2 + (N - 1 - s) ** 2 / (D - 2) + g * s
    valid = (g >= 2) & (g <= 2 * (N - D) / (D - 2))
    return _where(valid, energy, jnp.ones_like(g), s, jnp.zeros_like(g))


def _collapsed(N: Array, D: Array, g: Array) -> Arrangement:
    s = jnp.maximum(2, N / (D + g * (D - 1)))
    return _where(N > D, s**2 + (N - s) ** 2 / (D - 1) + g * s**2, s, s, jnp.ones_like(g))


def _superposed(N: Array, D: Array, g: Array) -> Arrangement:
    slope = jax.grad(lambda c, g: _superposed_at(N, D, c, g).energy)
    # the local minimum lies where the slope rises through zero; a minimum closer than 1/512 to a maximum is passed over
    grid = jnp.linspace(0, 1, 513, dtype=g.dtype)
    slopes = jax.vmap(slope, (0, None))(grid, lax.stop_gradient(g))
    rises = (slopes[:-1] < 0) & (slopes[1:] >= 0)
    below = grid[jnp.argmax(rises)]

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        falling = slope(middle, lax.stop_gradient(g)) < 0
        return jnp.where(falling, middle, low), jnp.where(falling, high, middle)

    c, _ = lax.fori_loop(0, 50, halve, (below, below + grid[1]))
    c = _following(slope, c, g, jax.grad(slope)(c, lax.stop_gradient(g)))
    valid = rises.any() & (g < 2 * (N - D) / (D - 2))
    found = _superposed_at(N, D, jnp.where(valid, c, 0.5), g)
    return _where(valid, found.energy, found.s_0, found.s_1, found.cosine)


def _superposed_at(N: Array, D: Array, c: Array, g: Array) -> Arrangement:
    """The superposed arrangement of angle `c = w_0 . w_1`, b at its minimum."""
    b = (2 * (N - 1 - c) / (D - 2) - g * (1 - c) * (1 + c) ** 2 / 2) / (2 + 2 / (D - 2) + g * (1 - c) ** 2 / 2)
    s = ((1 + c) ** 2 + b * (1 - c)) / 2
    return Arrangement((1 + c) ** 2 + b**2 + (N - 1 - c - b) ** 2 / (D - 2) + g * s**2, s, s, c)


def _following(slope: Callable, x: Array, g: Array, hessian: Array) -> Array:
    """`x`, a minimum found where `slope(x, g) = 0`, with its derivative in g: `dx/dg = -H^+ d slope/dg`."""
    x, hessian = lax.stop_gradient((x, hessian))
    inverse = 1 / hessian if x.ndim == 0 else jnp.linalg.pinv(hessian, rtol=1e-4, hermitian=True)
    step = jnp.dot(inverse, slope(x, g))
    return x - (step - lax.stop_gradient(step))


@jax.jit
def _exact_minimum(N: Array, D: Array, coupling: Array) -> Arrangement:
    found = jax.vmap(partial(_lower, N, D))(coupling.ravel())
    return jax.tree.map(lambda leaf: leaf.reshape(coupling.shape), found)


def _lower(N: Array, D: Array, g: Array) -> Arrangement:
    """The lower of the collapsed arrangement and the best two angles."""

    def excess(angles, g):
        return _two_angles(N, D, angles, g).energy

    held = lax.stop_gradient(g)
    first, second = jnp.meshgrid(
        jnp.linspace(0, jnp.pi / 2, 64, dtype=g.dtype), jnp.linspace(-jnp.pi / 2, jnp.pi / 2, 128, dtype=g.dtype)
    )
    # the best point of each of 64 patches
    grid = jnp.stack([first, second], axis=-1).reshape(8, 16, 8, 8, 2).swapaxes(1, 2).reshape(64, 128, 2)
    best = jax.vmap(jax.vmap(excess, (0, None)), (0, None))(grid, held).argmin(axis=1)
    starts = jnp.take_along_axis(grid, best[:, None, None], axis=1)[:, 0]
    ends = jax.vmap(partial(_compass, lambda angles: excess(angles, held)))(starts)
    angles = ends[jax.vmap(excess, (0, None))(ends, held).argmin()]
    angles = _following(jax.grad(excess), angles, g, jax.hessian(excess)(angles, held))
    found, collapsed = _two_angles(N, D, angles, g), _collapsed(N, D, g)
    found = replace(found, energy=found.energy + _orthogonalised(N, D, g).energy)
    return jax.tree.map(lambda a, b: jnp.where(collapsed.energy < found.energy, a, b), collapsed, found)


def _two_angles(N: Array, D: Array, angles: Array, g: Array) -> Arrangement:
    """The arrangement with w_0, w_1 at `angles` from n, beta at its minimum; energy less the orthogonalised one's."""
    n_0, n_1 = jnp.cos(angles) ** 2
    c = jnp.cos(angles[0] - angles[1])
    quadratic = 1 + 1 / (D - 2) + g * n_0 * n_1
    linear = (2 + g * (1 + c**2)) * (n_0 + n_1) - 2 * (N - 2) / (D - 2)
    beta = jnp.maximum(0, -linear / (2 * quadratic))
    energy = 2 * c**2 + g * c**2 * (2 + c**2) + beta * (linear + beta * quadratic)
    s_0, s_1 = 1 + c**2 + beta * n_0, 1 + c**2 + beta * n_1
    return Arrangement(energy, jnp.minimum(s_0, s_1), jnp.maximum(s_0, s_1), jnp.abs(c))


def _compass(energy: Callable, start: Array) -> Array:
    """A minimum of `energy` near `start`: go to the lowest of 8 neighbours; where none is lower, halve the distance."""
    around = jnp.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j], start.dtype)

    def step(_, state):
        x, here, distance = state
        there = jax.vmap(energy)(x[None, :] + distance * around)
        best = there.argmin()
        lower = there[best] < here
        x = jnp.where(lower, x + distance * around[best], x)
        return x, jnp.where(lower, there[best], here), jnp.where(lower, distance, distance / 2)

    return lax.fori_loop(0, 120, step, (start, energy(start), jnp.asarray(0.02, start.dtype)))[0]
