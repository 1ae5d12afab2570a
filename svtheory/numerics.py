"""Numerics: exact products, scaling by powers of 2, and what counts as zero."""

import jax
import jax.numpy as jnp
from jax import Array

exact_products = jax.default_matmul_precision("highest")


def numerical_rank_tolerance(values: Array, size: int) -> Array:
    """The largest singular value that counts as zero beside `values[0]`, the largest: `size * epsilon * values[0]`."""
    return size * jnp.finfo(values.dtype).eps * values[0]


def scaled(X: Array) -> tuple[Array, Array]:
    """X over the power of 2 that brings its largest entry to between 1/2 and 1, and the exponent; 0 for zeros."""
    _, exponent = jnp.frexp(jax.lax.stop_gradient(jnp.abs(X).max()))
    return shifted(X, -exponent), exponent


def shifted(X: Array, exponent: Array) -> Array:
    """`X 2^exponent`, exactly, in three factors of which the dtype holds each."""
    third = exponent // 3
    for power in (third, third, exponent - 2 * third):
        X = X * jnp.ldexp(jnp.ones((), X.dtype), power)
    return X
