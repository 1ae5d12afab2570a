"""Frames: what a set of feature vectors, the columns of X, is to linear algebra (theory: "Setting and notation").

Every function takes `X` of shape (D, N) and follows its dtype; products are taken at the highest matmul precision.
Anything but a finite real matrix raises InputError or TypeError, and so does one whose result its dtype does not hold.
"""

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.checks import held, real_array
from svtheory.geometry.columns import unit_columns
from svtheory.numerics import exact_products, inverse, numerical_rank_tolerance, positive


@exact_products
def frame_operator(X: Array) -> Array:
    """The frame operator `S_X = X X^T`, shape (D, D)."""
    X = real_array("X", X, ndim=2)
    return held("X", X @ X.T, X)


def dual_frame(X: Array) -> Array:
    """The canonical dual frame, columns `x~_i = (X^T)^+ e_i = S_X^+ x_i`, shape (D, N).

    >>> dual_frame(jnp.array([[2.0, 0.0], [0.0, 4.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    return _dual_frame(real_array("X", X, ndim=2))


@jax.jit
@exact_products
def _dual_frame(X: Array) -> Array:
    # of X, not of X^T: beside an SVD of X, XLA then takes one for both
    return jnp.linalg.pinv(X, rtol=max(X.shape) * jnp.finfo(X.dtype).eps).T


@exact_products
def leverage(X: Array) -> Array:
    """The leverage projection `P_X = X^+ X`, shape (N, N)."""
    X = real_array("X", X, ndim=2)
    return dual_frame(X).T @ X


def feature_dimensionality(X: Array) -> Array:
    """Feature dimensionality `D_i = |x_i|^2 / sum_j (x^_i . x_j)^2`, 0 for a zero feature; shape (N,).

    The share of a dimension that feature i has to itself (Elhage et al. 2022): 1 alone, 1/2 in an antipodal pair,
    2/3 in a triangle (T2).

    >>> feature_dimensionality(jnp.array([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])).tolist()
    [0.5, 0.5, 1.0]
    """
    return _feature_dimensionality(real_array("X", X, ndim=2))


@jax.jit
@exact_products
def _feature_dimensionality(X: Array) -> Array:
    unit = unit_columns(X)
    overlaps = unit.T @ X
    own = jnp.diagonal(overlaps)  # 0 for a zero feature
    # ratios of lengths keep their digits however small the features are
    return inverse(((overlaps / positive(own)[:, None]) ** 2).sum(axis=1))


def frame_bounds(X: Array) -> tuple[Array, Array]:
    """The frame bounds `(m, L)`: the extreme eigenvalues of `S_X` on its range (the zero frame gives (0, 0))."""
    smallest, largest = _extreme_singular_values(X)
    return held("X", smallest**2, smallest), held("X", largest**2, largest)


def condition_number(X: Array) -> Array:
    """`kappa = L/m` of the frame operator on its range; NaN for the zero frame."""
    smallest, largest = _extreme_singular_values(X)
    return (largest / smallest) ** 2


def spread(X: Array) -> Array:
    """The relative eigenvalue spread `eps = (L - m)/(L + m)` of the frame operator: 0 iff the frame is tight (T3)."""
    smallest, largest = _extreme_singular_values(X)
    ratio = smallest / largest
    return (1 - ratio) * (1 + ratio) / (1 + ratio**2)


def _extreme_singular_values(X: Array) -> tuple[Array, Array]:
    return _extremes(real_array("X", X, ndim=2))


@jax.jit
def _extremes(X: Array) -> tuple[Array, Array]:
    values = jnp.linalg.svd(X, compute_uv=False)
    on_range = values > numerical_rank_tolerance(values, max(X.shape))
    return jnp.min(jnp.where(on_range, values, values[0])), values[0]


@exact_products
def frame_potential(X: Array) -> Array:
    """The frame potential `FP = |X^T X|_F^2 = tr S_X^2`; at least `(sum |x_i|^2)^2 / D`, with equality iff tight (T10).

    >>> float(frame_potential(jnp.eye(3)))
    3.0
    """
    X = real_array("X", X, ndim=2)
    return held("X", ((X.T @ X) ** 2).sum(), X)
