"""Arrangements of features: the frames that superposition makes, and frames of a prescribed spectrum.

Each builder returns features as columns, shape (D, N), of unit length unless it says otherwise.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.checks import InputError, concrete, random_key, real_array, whole
from svtheory.factorisations import after
from svtheory.numerics import exact_products, inverse
from svtheory.threefry import normal

SPARE = 32  # coordinates beyond twice the columns, from which Gaussian columns are never nearly dependent


def orthonormal(key: Array, dim: int, n_features: int) -> Array:
    """`n_features <= dim` orthonormal features, Haar-distributed; shape (dim, n_features)."""
    random_key("key", key)
    whole("dim", dim, 1)
    whole("n_features", n_features, 1)
    if n_features > dim:
        raise InputError(f"n_features must be at most dim = {dim} for orthonormal features, got {n_features}")
    return jax.random.orthogonal(key, dim)[:, :n_features]


def haar_frame(key: Array, inside: Array, columns: int, dtype: Any) -> Array:
    """A Haar frame of the coordinates that are `inside` (D,), shape (D, columns).

    Columns beyond the number of such coordinates mean nothing.
    """
    return haar_frames(normal(key, (1, len(inside), columns), dtype), inside)[0]


def haar_frames(normals: Array, inside: Array | None = None) -> Array:
    """Haar frames that normal numbers G (n, D, K) give in the coordinates that are `inside` (D,), shape (n, D, K).

    `E = G R^{-1}`, R upper triangular, its diagonal positive. A frame in twice as many coordinates as columns, and
    some, comes from Cholesky's factor, `G^T G = R^T R`: G is far from singular then, and E orthonormal to 3e-6 in
    float32. Others come from Householder's QR. Columns beyond the number of coordinates mean nothing. Without `inside`
    all coordinates are.
    """
    _, D, K = normals.shape
    G = normals if inside is None else jnp.where(inside[None, :, None], normals, 0)
    if D < 2 * K + SPARE:
        return _frames(G)
    return _tall(G) if inside is None else _tall_frames(G, inside.sum() >= 2 * K + SPARE)


def haar_frames_within(normals: Array, inside: Array) -> tuple[Array, Array]:
    """Haar frames of all coordinates (n, D, K), and of those of the first r that are `inside` (r,), (n, r, K).

    Each of the two is Haar; together they are not independent, being made of the same normal numbers (n, D, K).
    """
    D = normals.shape[1]
    every = haar_frames(normals)
    normals = after(every[:, 0], normals)
    if len(inside) < D:
        return every, haar_frames(normals[:, : len(inside)], inside)
    return every, jax.lax.cond(inside.all(), lambda: every, lambda: haar_frames(normals, inside))


# one after the other also under vmap, where both branches would run, one beside the other
@jax.custom_batching.sequential_vmap
def _tall_frames(G: Array, tall: Array) -> Array:
    return jax.lax.cond(tall, _tall, _frames, G)


def _tall(G: Array) -> Array:
    return G @ jax.lax.map(_inverse_factor, G.swapaxes(1, 2) @ G)


def _inverse_factor(gram: Array) -> Array:
    """`R^{-1}` of `G^T G = R^T R`; one after the other, as batches of factorisations can wait for one another."""
    L, one = jnp.linalg.cholesky(gram, symmetrize_input=False), jnp.eye(len(gram), dtype=gram.dtype)
    return jax.lax.linalg.triangular_solve(L, one, left_side=True, lower=True).T


def _frames(G: Array) -> Array:
    return jax.lax.map(_frame, G)


def _frame(G: Array) -> Array:
    Q, R = jnp.linalg.qr(G)
    # the signs that the factorisation chooses depend on the first coordinates; those of R's diagonal make it Haar
    return Q * jnp.where(jnp.diagonal(R) < 0, -1, 1).astype(Q.dtype)[None, :]


def antipodal(dim: int) -> Array:
    """`dim` digons, `+e_d` and `-e_d` side by side: shape (dim, 2 dim), feature dimensionality 1/2."""
    return _floats(np.kron(np.eye(whole("dim", dim, 1)), [[1, -1]]))


def simplex(dim: int) -> Array:
    """The regular simplex, `dim + 1` features with dot products `-1/dim`: shape (dim, dim + 1).

    Triangle (dim 2) and tetrahedron (dim 3) are the simplices of superposition, of feature dimensionality
    `dim/(dim + 1)`.
    """
    whole("dim", dim, 1)
    # Helmert's rows are an orthonormal basis of the hyperplane sum = 0, in which the unit vectors form the simplex.
    rows = np.arange(1.0, dim + 1)[:, None]
    columns = np.arange(dim + 1.0)[None, :]
    helmert = np.where(columns < rows, 1.0, np.where(columns == rows, -rows, 0.0)) / np.sqrt(rows * (rows + 1))
    return _floats(helmert * math.sqrt((dim + 1) / dim))


def polygon(n_features: int) -> Array:
    """The regular polygon in the plane, shape (2, n_features); the pentagon has feature dimensionality 2/5."""
    angles = 2 * np.pi * np.arange(whole("n_features", n_features, 3)) / n_features
    return _floats(np.stack([np.cos(angles), np.sin(angles)]))


def _floats(X: np.ndarray) -> Array:
    """Numbers that depend on no array, computed without a program of their own, in JAX's own precision."""
    return jax.device_put(X.astype(jnp.result_type(float)))


def tegum(*blocks: Array) -> Array:
    """The tegum product: each block of features in a subspace of its own, orthogonal to the others.

    Blocks of shapes (D_b, N_b) give shape (sum D_b, sum N_b).

    >>> tegum(antipodal(1), simplex(2)).shape
    (3, 5)
    """
    return _block_diagonal(*(real_array("blocks", block, ndim=2) for block in blocks))


_block_diagonal = jax.jit(jax.scipy.linalg.block_diag)


def frame_with_spectrum(key: Array, eigenvalues: Array, n_features: int) -> Array:
    """A random frame whose frame operator has the given `eigenvalues` (D,), scaled so that features have unit length.

    Haar-distributed singular vectors give the spectrum; N - 1 plane rotations of the columns, which leave `X X^T` as it
    is, then make all lengths equal (Schur-Horn; Dhillon et al. 2005). Shape (D, n_features), n_features >= D.
    Raises InputError for eigenvalues that are not positive or n_features < D.
    """
    random_key("key", key)
    eigenvalues = real_array("eigenvalues", eigenvalues, ndim=1)
    dim = eigenvalues.size
    if concrete(eigenvalues) and not (eigenvalues > 0).all():
        raise InputError(f"eigenvalues must be positive, got {eigenvalues.tolist()}")
    if whole("n_features", n_features, 1) < dim:
        raise InputError(f"n_features must be at least the number of eigenvalues, {dim}, got {n_features}")
    return _with_spectrum(key, eigenvalues, int(n_features))


@partial(jax.jit, static_argnums=2)
@exact_products
def _with_spectrum(key: Array, eigenvalues: Array, n_features: int) -> Array:
    left, right = jax.random.split(key)
    dim, scaled = eigenvalues.size, jnp.sqrt(eigenvalues * n_features / eigenvalues.sum())
    U = jax.random.orthogonal(left, dim, dtype=eigenvalues.dtype)
    V = jax.random.orthogonal(right, n_features, dtype=eigenvalues.dtype)[:dim]
    return _equalise_lengths((U * scaled[None, :]) @ V)


def _equalise_lengths(X: Array) -> Array:
    """Rotate pairs of columns until each has unit length; needs `|X|_F^2 = N`."""
    return jax.lax.scan(_rotate_pair, X, length=X.shape[1] - 1)[0]


def _rotate_pair(X: Array, _: None) -> tuple[Array, None]:
    """Rotate the shortest column with the longest until it has unit length."""
    squared = (X**2).sum(axis=0)
    short, long = jnp.argmin(squared), jnp.argmax(squared)
    x, y = X[:, short], X[:, long]
    below, above, product = 1 - x @ x, y @ y - 1, x @ y
    # |x + tan y|^2 = 1 + tan^2, the root that does not cancel
    root = jnp.sqrt(jnp.maximum(product**2 + above * below, 0))
    denominator = product + jnp.where(product >= 0, root, -root)
    tan = below * inverse(denominator, denominator != 0)
    cos = 1 / jnp.sqrt(1 + tan**2)
    sin = tan * cos
    return X.at[:, short].set(cos * x + sin * y).at[:, long].set(cos * y - sin * x), None


def tight_frame(key: Array, dim: int, n_features: int) -> Array:
    """A random unit-norm tight frame, `S_X = (N/D) I`; shape (dim, n_features)."""
    return frame_with_spectrum(key, jnp.ones(whole("dim", dim, 1)), n_features)


def conditioned_frame(key: Array, dim: int, n_features: int, condition: float | Array) -> Array:
    """A random unit-norm frame whose frame operator has condition number `condition >= 1`, eigenvalues log-spaced.

    Shape (dim, n_features); dim must be at least 2 unless `condition` is 1.
    """
    whole("dim", dim, 1)
    condition = _condition(condition)
    if dim == 1 and concrete(condition) and condition > 1:
        raise InputError(f"condition must be 1 in one dimension, got {condition}")
    return frame_with_spectrum(key, jnp.geomspace(1.0, condition, dim), n_features)


def extremal_pair(condition: float | Array) -> Array:
    """The two features in the plane that attain T3's bound: columns `(+-sqrt m, sqrt L)/sqrt 2`, m = 1, L = condition.

    Their lengths are `sqrt((1 + condition)/2)`, not 1; `alignment_bound` is attained by both.
    """
    condition = _condition(condition)
    short, long = jnp.ones_like(condition), jnp.sqrt(condition)
    return jnp.array([[short, -short], [long, long]]) / math.sqrt(2)


def worst_case_frame(key: Array, dim: int, n_features: int, condition: float | Array) -> Array:
    """A frame of condition number `condition` whose first two features attain T3's bound; shape (dim, n_features).

    `extremal_pair` in a random plane; the other dimensions hold a random frame with eigenvalues log-spaced between the
    extremes. Features are not of unit length. Needs `dim >= 3` and `n_features >= dim`.
    """
    random_key("key", key)
    whole("dim", dim, 3)
    condition = _condition(condition)
    left, right = jax.random.split(key)
    between = jnp.geomspace(1.0, condition, dim - 2)
    others = frame_with_spectrum(left, between, n_features - 2) * jnp.sqrt(between.sum() / (n_features - 2))
    return jax.random.orthogonal(right, dim) @ tegum(extremal_pair(condition), others)


def _condition(condition: float | Array) -> Array:
    number = real_array("condition", condition, ndim=0)
    if concrete(number) and number < 1:
        raise InputError(f"condition must be at least 1, got {condition}")
    return number
