"""Exact alignment: eigenvectors of the frame operator, orthogonal tight groups, quantised singular values (T2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.checks import InputError, held, non_negative, real_array
from svtheory.geometry.columns import lengths, sine, unit_columns
from svtheory.geometry.frames import dual_frame, feature_dimensionality
from svtheory.numerics import exact_products, scaled, shifted


def eigenvector_residual(X: Array) -> Array:
    """How far each feature of X (D, N) is from being an eigenvector: the sine of `S_X^+ x_i` with x_i, shape (N,).

    Between 0 and 1 and free of scale; the sine of the angle between the single pair's singular vector and the feature:
    0 **iff** `u || x_i` (T2a), and 0 for a zero feature. (`S_X x_i` would not do: it can be near x_i where u is not.)

    >>> eigenvector_residual(jnp.array([[1.0, 0.0], [0.0, 3.0]])).tolist()
    [0.0, 0.0]
    """
    X = real_array("X", X, ndim=2)
    return sine(dual_frame(X), X)


class TightGroups(NamedTuple):
    """The orthogonal tight groups among the features of a frame.

    labels       the group of each feature, shape (N,); -1 for a zero feature and for one that is in no such group
    eigenvalues  of group g at position g, falling, then zeros, shape (N,): its frame operator is `eigenvalues[g]` times
                 the identity on its span
    """

    labels: Array
    eigenvalues: Array


def tight_groups(X: Array, tolerance: Array | float = 1e-3) -> TightGroups:
    """Split the features of X (D, N) into mutually orthogonal groups, each a tight frame of its span (T2b).

    All features are exactly aligned **iff** every non-zero feature gets a label. Groups of one eigenvalue are one
    group: a tight frame is the one-group case, a feature orthogonal to all others is a group too. Features count as
    orthogonal below a cosine of `tolerance`, as eigenvectors below an `eigenvector_residual` of `tolerance`, and
    eigenvalues as equal closer than `tolerance` times the largest.

    >>> groups = tight_groups(jnp.array([[1.0, -1.0, 0.0], [0.0, 0.0, 3.0]]))
    >>> groups.labels.tolist(), groups.eigenvalues.tolist()
    ([1, 1, 0], [9.0, 2.0, 0.0])
    """
    X = real_array("X", X, ndim=2)
    groups, eigenvalues = _groups(X, non_negative("tolerance", tolerance).astype(X.dtype))
    return groups._replace(eigenvalues=held("X", eigenvalues, groups.eigenvalues))


@jax.jit
@exact_products
def _groups(X: Array, tolerance: Array) -> tuple[TightGroups, Array]:
    """The groups at unit size, and their eigenvalues at the size of X."""
    unit = unit_columns(X)
    linked = jnp.abs(unit.T @ unit) > tolerance
    together = connected(linked)
    aligned = eigenvector_residual(X) <= tolerance
    member = X.any(axis=0) & (aligned[None, :] | ~together).all(axis=1)
    small, exponent = scaled(X)
    groups = _grouped(member, jnp.where(member, ((small.T @ unit) ** 2).sum(axis=0), 0), tolerance)
    return groups, shifted(groups.eigenvalues, 2 * exponent)


def _grouped(member: Array, rayleigh: Array, tolerance: Array) -> TightGroups:
    """Labels by falling eigenvalue, a new group wherever it steps down."""
    order = jnp.argsort(-rayleigh)
    falling = rayleigh[order]
    step = jnp.concatenate([jnp.zeros(1, int), (falling[:-1] - falling[1:] > tolerance * falling[0]).astype(int)])
    labels = jnp.zeros_like(order).at[order].set(jnp.cumsum(step))
    labels = jnp.where(member, labels, -1)
    inside = labels[None, :] == jnp.arange(labels.size)[:, None]
    members = jnp.maximum(inside.sum(axis=1), 1).astype(rayleigh.dtype)
    eigenvalues = jnp.where(inside, rayleigh[None, :], 0).sum(axis=1) / members
    return TightGroups(labels, eigenvalues)


@jax.jit
def connected(linked: Array) -> Array:
    """Which of n nodes some chain of links joins, shape (n, n), from the symmetric table of links (n, n)."""
    n = linked.shape[0]
    reach = linked | jnp.eye(n, dtype=bool)
    for _ in range(max(n - 1, 1).bit_length()):
        counts = reach.astype(jnp.float32)
        reach = counts @ counts > 0
    return reach


def pair_values(X: Array, Y: Array, target: Array) -> Array:
    """`|T_ij| |x~_i| |y~_j|`: the singular value of a head trained for that pair alone, shape (N, M) (T1).

    X (D, N), Y (D, M), target T (N, M). Raises InputError for shapes that disagree.
    """
    return _scaled(target, lengths(dual_frame(X)), lengths(dual_frame(Y)))


def quantised_values(X: Array, Y: Array, target: Array) -> Array:
    """`|T_ij| D_i D_j / (|x_i| |y_j|)`, shape (N, M): the singular values that superposition geometry quantises (T2c).

    D_i is the feature dimensionality: 1 alone, 1/2 in an antipodal pair, 2/3 in a triangle. A lower bound of
    `pair_values`, which it equals iff both features are aligned; 0 for a zero feature. X (D, N), Y (D, M), T (N, M).
    Raises InputError for shapes that disagree.

    >>> X = jnp.array([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> quantised_values(X, X, 20 * jnp.eye(3)).diagonal().tolist()
    [5.0, 5.0, 20.0]
    """
    query, key = (feature_dimensionality(F) / lengths(F, 1) for F in (X, Y))
    return _scaled(target, query, key)


def _scaled(target: Array, query: Array, key: Array) -> Array:
    """`|T_ij| query_i key_j`."""
    T = real_array("target", target, ndim=2)
    if T.shape != (query.size, key.size):
        raise InputError(f"target must have shape {(query.size, key.size)}, one row a query feature, got {T.shape}")
    return held("target, over features,", *_products(T, query, key))


@jax.jit
def _products(T: Array, query: Array, key: Array) -> tuple[Array, Array]:
    """The products, and the same at unit size."""
    (T, t), (query, q), (key, k) = map(scaled, (jnp.abs(T), query, key))
    unit = T * query[:, None] * key[None, :]
    return shifted(unit, t + q + k), unit
