"""Columns: length, unit, cosine and sine of the columns of a matrix; zero columns have finite derivatives."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import real_array
from svtheory.numerics import positive, root


@jax.jit
def unit_columns(X: Array) -> Array:
    """The columns of X (D, N) at unit length, a zero column as it is; neither tiny nor huge lengths are lost."""
    X = X / positive(jnp.abs(X).max(axis=0, keepdims=True))
    return X / jnp.sqrt(positive((X**2).sum(axis=0, keepdims=True)))


@jax.jit
def cosine(A: Array, B: Array) -> Array:
    """`|cos|` of the angle between the lines of the columns of A and B (D, N), shape (N,); 0 where either is zero."""
    return jnp.minimum(jnp.abs((unit_columns(A) * unit_columns(B)).sum(axis=0)), 1)


@jax.jit
def sine(A: Array, B: Array) -> Array:
    """`sin` of the angle between the lines of the columns of A and B (D, N), shape (N,); 0 where either is zero."""
    a, b = unit_columns(A), unit_columns(B)
    across = b - (a * b).sum(axis=0, keepdims=True) * a
    return jnp.where(a.any(axis=0), root((across**2).sum(axis=0)), 0)


def lengths(columns: Array, of_zero: float = 0) -> Array:
    """Lengths of columns, `of_zero` for a zero column, with derivative 0 there."""
    return _lengths(real_array("features", columns, ndim=2), of_zero)


@jax.jit
def _lengths(X: Array, of_zero: float) -> Array:
    largest = lax.stop_gradient(jnp.abs(X).max(axis=0))
    return jnp.where(largest > 0, largest * root(((X / positive(largest)[None, :]) ** 2).sum(axis=0)), of_zero)
