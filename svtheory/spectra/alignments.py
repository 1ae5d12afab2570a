"""Alignments: cosines between singular vectors and features, their matching, and what chance would give (T12)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
from jax import Array

from svtheory.checks import InputError, random_key, real_array, whole
from svtheory.factorisations import symmetric_root
from svtheory.geometry.columns import unit_columns
from svtheory.numerics import exact_products


def alignment(vectors: Array, features: Array) -> Array:
    """The table `|cos(u_k, x_i)|`, shape (K, N), of vectors (D, K) with features (D, N); 0 for a zero column.

    >>> print(np.asarray(alignment(jnp.eye(2), jnp.array([[3.0], [-4.0]]))).round(2))
    [[0.6]
     [0.8]]
    """
    vectors, features = real_array("vectors", vectors, ndim=2), real_array("features", features, ndim=2)
    if vectors.shape[0] != features.shape[0]:
        turned = ", which looks transposed: features are columns" if features.shape[1] == vectors.shape[0] else ""
        raise InputError(
            f"features must have {vectors.shape[0]} rows, as vectors do, got shape {features.shape}{turned}"
        )
    return _alignment(vectors, features)


@jax.jit
@exact_products
def _alignment(vectors: Array, features: Array) -> Array:
    return jnp.abs(unit_columns(vectors).T @ unit_columns(features))


def best_matching(table: Array) -> tuple[np.ndarray, np.ndarray]:
    """The one-to-one matching of rows with columns that maximises the sum of `table` (K, N): indices (rows, columns).

    >>> [indices.tolist() for indices in best_matching(jnp.array([[0.9, 0.8], [0.8, 0.1]]))]
    [[0, 1], [1, 0]]
    """
    return scipy.optimize.linear_sum_assignment(np.asarray(real_array("table", table, ndim=2)), maximize=True)


def principal_cosines(A: Array, B: Array) -> Array:
    """Cosines of the principal angles between the spans of the columns of A (D, a) and B (D, b), falling, (min(a, b),).

    Columns must be linearly independent. Raises InputError for different D.
    """
    A, B = real_array("A", A, ndim=2), real_array("B", B, ndim=2)
    if A.shape[0] != B.shape[0]:
        raise InputError(f"B must have {A.shape[0]} rows, as A does, got shape {B.shape}")
    return _principal_cosines(A, B)


@jax.jit
@exact_products
def _principal_cosines(A: Array, B: Array) -> Array:
    (Q, _), (P, _) = jnp.linalg.qr(A), jnp.linalg.qr(B)
    return jnp.minimum(jnp.linalg.svd(Q.T @ P, compute_uv=False), 1)


def chance_alignment(dim: int, comparisons: int = 1) -> float:
    """The expected largest |cos| of a random direction with `comparisons` independent ones.

    `|cos|^2 ~ Beta(1/2, (D-1)/2)`, so `E max = int_0^1 1 - F(c)^n dc`; for one comparison
    `Gamma(D/2) / (sqrt(pi) Gamma((D+1)/2))` (T12).

    >>> round(chance_alignment(2), 6) == round(2 / math.pi, 6)
    True
    """
    whole("dim", dim, 2)
    whole("comparisons", comparisons, 1)
    if comparisons == 1:
        return math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    # c = sin(a) spreads the nodes where F changes
    angle = (nodes + 1) * math.pi / 4
    below = scipy.special.betainc(0.5, (dim - 1) / 2, np.sin(angle) ** 2) ** comparisons
    return float(np.sum(weights * (1 - below) * np.cos(angle)) * math.pi / 4)


def alignment_p_value(cosine: Array | float, dim: int, comparisons: int = 1) -> Array:
    """Bonferroni p-value of the best |cos| among `comparisons`: `min(1, n (1 - I_{c^2}(1/2, (D-1)/2)))` (T12)."""
    whole("dim", dim, 2)
    whole("comparisons", comparisons, 1)
    return _p_value(real_array("cosine", cosine), dim, comparisons)


@jax.jit
def _p_value(cosine: Array, dim: int, comparisons: int) -> Array:
    cosine = jnp.minimum(jnp.abs(cosine), 1)
    # the complement, taken as such, keeps its digits where the cosine is near 1
    apart = cosine > 0  # at 0 the tail has a peak, and no derivative
    complement = jnp.where(apart, (1 - cosine) * (1 + cosine), 0.5)
    tail = jnp.where(apart, jax.scipy.special.betainc((dim - 1) / 2, 0.5, complement), 1)
    return jnp.minimum(comparisons * tail, 1)


@exact_products
def sampled_chance(key: Array, covariance: Array, features: Array, draws: int = 1000) -> tuple[Array, Array]:
    """Mean over random directions `g ~ N(0, covariance)` of their best |cos| with the features, and its standard error.

    The chance level of an anisotropic model, higher than `chance_alignment` (T12). Covariance (D, D), features (D, N).
    """
    random_key("key", key)
    root = symmetric_root(real_array("covariance", covariance, ndim=2))
    directions = root @ jax.random.normal(key, (root.shape[1], draws), root.dtype)
    best = alignment(directions, features).max(axis=1)
    return best.mean(), best.std(ddof=1) / math.sqrt(draws)
