"""Columns: length, unit, cosine and sine of the columns of a matrix, with safe roots and divisions."""

import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import real_array


def unit_columns(X: Array) -> Array:
    """The columns of X (D, N) at unit length, a zero column as it is; neither tiny nor huge lengths are lost."""
    largest = jnp.abs(X).max(axis=0, keepdims=True)
    X = X / jnp.where(largest > 0, largest, 1)
    squared = (X**2).sum(axis=0, keepdims=True)
    return X / jnp.sqrt(jnp.where(squared > 0, squared, 1))


def sine(A: Array, B: Array) -> Array:
    """`sin` of the angle between the lines of the columns of A and B (D, N), shape (N,); 0 where either is zero."""
    a, b = unit_columns(A), unit_columns(B)
    across = b - (a * b).sum(axis=0, keepdims=True) * a
    return jnp.where(a.any(axis=0), root((across**2).sum(axis=0)), 0)


def root(squared: Array) -> Array:
    """The square root, with derivative 0 at 0."""
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def lengths(columns: Array, of_zero: float = 0) -> Array:
    """Lengths of columns, `of_zero` for a zero column, with derivative 0 there."""
    X = real_array("features", columns, ndim=2)
    largest = lax.stop_gradient(jnp.abs(X).max(axis=0))
    unit = X / jnp.where(largest > 0, largest, 1)[None, :]
    return jnp.where(largest > 0, largest * root((unit**2).sum(axis=0)), of_zero)
