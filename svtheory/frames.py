"""Frames: what a set of feature vectors, the columns of X, is to linear algebra (theory: "Setting and notation").

Every function takes `X` of shape (D, N) and follows its dtype; products are taken at the highest matmul precision.
"""

import jax
import jax.numpy as jnp
from jax import Array

exact_products = jax.default_matmul_precision("highest")


def numerical_rank_tolerance(values: Array, size: int) -> Array:
    """The largest singular value that counts as zero beside `values[..., 0]`: `size * epsilon * values[..., 0]`."""
    return size * jnp.finfo(values.dtype).eps * values[..., 0]


@exact_products
def frame_operator(X: Array) -> Array:
    """The frame operator `S_X = X X^T`, shape (D, D)."""
    X = jnp.asarray(X)
    return X @ X.T


@exact_products
def dual_frame(X: Array) -> Array:
    """The canonical dual frame, columns `x~_i = (X^T)^+ e_i = S_X^+ x_i`, shape (D, N).

    >>> dual_frame(jnp.array([[2.0, 0.0], [0.0, 4.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    X = jnp.asarray(X)
    return jnp.linalg.pinv(X.T, rtol=max(X.shape) * jnp.finfo(X.dtype).eps)


@exact_products
def leverage(X: Array) -> Array:
    """The leverage projection `P_X = X^+ X`, shape (N, N)."""
    X = jnp.asarray(X)
    return dual_frame(X).T @ X


def feature_dimensionality(X: Array) -> Array:
    """Feature dimensionality `D_i = |x_i|^2 / sum_j (x^_i . x_j)^2`, 0 for a zero feature; shape (N,).

    The share of a dimension that feature i has to itself (Elhage et al. 2022): 1 alone, 1/2 in an antipodal pair,
    2/3 in a triangle (T2).

    >>> feature_dimensionality(jnp.array([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])).tolist()
    [0.5, 0.5, 1.0]
    """
    X = jnp.asarray(X)
    squared = (X**2).sum(axis=0)
    crowding = _spectral_moment(X)
    present = squared > 0
    return jnp.where(present, squared**2 / jnp.where(present, crowding, 1), 0)


@exact_products
def _spectral_moment(X: Array) -> Array:
    """`x_i^T S_X x_i = sum_j (x_i . x_j)^2`, shape (N,)."""
    return ((X.T @ X) ** 2).sum(axis=1)


def frame_bounds(X: Array) -> tuple[Array, Array]:
    """The frame bounds `(m, L)`: the extreme eigenvalues of `S_X` on its range (the zero frame gives (0, 0))."""
    X = jnp.asarray(X)
    values = jnp.linalg.svd(X, compute_uv=False)
    on_range = values > numerical_rank_tolerance(values, max(X.shape))
    smallest = jnp.min(jnp.where(on_range, values, values[0]))
    return smallest**2, values[0] ** 2


def condition_number(X: Array) -> Array:
    """`kappa = L/m` of the frame operator on its range."""
    m, L = frame_bounds(X)
    return L / m


def spread(X: Array) -> Array:
    """The relative eigenvalue spread `eps = (L - m)/(L + m)` of the frame operator: 0 iff the frame is tight (T3)."""
    m, L = frame_bounds(X)
    return (L - m) / (L + m)


@exact_products
def frame_potential(X: Array) -> Array:
    """The frame potential `FP = |X^T X|_F^2 = tr S_X^2`; at least `(sum |x_i|^2)^2 / D`, with equality iff tight (T10).

    >>> float(frame_potential(jnp.eye(3)))
    3.0
    """
    X = jnp.asarray(X)
    return ((X.T @ X) ** 2).sum()
