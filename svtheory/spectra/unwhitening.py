"""Unwhitening: from a singular vector, a filter, back to the feature, its pattern (T15; Haufe et al. 2014)."""

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.checks import InputError, real_array
from svtheory.geometry.columns import unit_columns
from svtheory.numerics import exact_products


def unwhiten(vectors: Array, covariance: Array, mean: Array | None = None) -> tuple[Array, Array]:
    """Unit directions `K v` of the singular vectors v, and the share of each that was removed as the mean token.

    For a fully trained single pair and uncorrelated activations, `K_s v || y_j` on softmax's key side and
    `K_r u || x_i` on the query side of a head with a query bias; without the bias `K_r u` is the feature plus a
    multiple of the mean token, which `mean` projects out (T15). Project it out of the features too before comparing.

    vectors (D, K), covariance (D, D), mean (D,); returns directions (D, K) and the removed share of squared length
    (K,).
    Raises InputError for shapes that disagree.
    """
    vectors = real_array("vectors", vectors, ndim=2)
    covariance = real_array("covariance", covariance, ndim=2)
    D = vectors.shape[0]
    if covariance.shape != (D, D):
        raise InputError(f"covariance must have shape {(D, D)}, got {covariance.shape}")
    mean = None if mean is None else real_array("mean", mean, ndim=1)
    if mean is not None and mean.shape != (D,):
        raise InputError(f"mean must have shape {(D,)}, got {mean.shape}")
    return _unwhitened(vectors, covariance, mean)


@jax.jit
@exact_products
def _unwhitened(vectors: Array, covariance: Array, mean: Array | None) -> tuple[Array, Array]:
    patterns = unit_columns(covariance @ vectors)
    if mean is None:
        return patterns, jnp.zeros(patterns.shape[1], patterns.dtype)
    share = (unit_columns(mean[:, None])[:, 0] @ patterns) ** 2
    return unit_columns(remove_direction(patterns, mean)), share


@jax.jit
@exact_products
def remove_direction(vectors: Array, direction: Array) -> Array:
    """The columns of `vectors` (D, K) less their component along `direction` (D,); a zero one removes nothing."""
    unit = unit_columns(direction[:, None])
    return vectors - unit @ (unit.T @ vectors)
