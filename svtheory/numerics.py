"""Numerics: exact products, safe divisions and roots, scaling by powers of 2, and what counts as zero."""

import jax
import jax.numpy as jnp
from jax import Array

exact_products = jax.default_matmul_precision("highest")


def positive(x: Array, where: Array | None = None) -> Array:
    """`x` to divide by: 1 in place of what is not positive, or not told to stay by `where`."""
    return jnp.where(x > 0 if where is None else where, x, 1)


def inverse(x: Array, where: Array | None = None) -> Array:
    """`1/x` where x is positive, or where told, and 0 elsewhere, as is the derivative there."""
    where = x > 0 if where is None else where
    return jnp.where(where, 1 / positive(x, where), 0)


def root(x: Array, where: Array | None = None) -> Array:
    """`sqrt(x)` where x is positive, or where told, and 0 elsewhere, as is the derivative there."""
    where = x > 0 if where is None else where
    return jnp.where(where, jnp.sqrt(positive(x, where)), 0)


def numerical_rank_tolerance(values: Array, size: int) -> Array:
    """The largest singular value that counts as zero beside `values[0]`, the largest: `size * epsilon * values[0]`."""
    return size * jnp.finfo(values.dtype).eps * values[0]


@jax.jit
def scaled(X: Array) -> tuple[Array, Array]:
    """X over the power of 2 that brings its largest entry to between 1/2 and 1, and the exponent; 0 for zeros.

    A largest entry below the normal numbers is taken for the smallest of these.
    """
    exponent = _exponent(jax.lax.stop_gradient(jnp.abs(X).max()))
    return shifted(X, -exponent), exponent


@jax.jit
def shifted(X: Array, exponent: Array) -> Array:
    """`X 2^exponent`, exactly, in three factors of which the dtype holds each."""
    third = jax.lax.div(exponent, jnp.asarray(3, exponent.dtype))
    for power in (third, third, exponent - 2 * third):
        X = X * _power_of_two(power, X.dtype)
    return X


# By their bits: `jnp.frexp` and `jnp.ldexp` are some fifty operations, which XLA repeats in every loop that uses them,
# and take a fifth of the time in which `predict` is compiled.
def _exponent(x: Array) -> Array:
    """The exponent that `frexp` gives a number of at least 0."""
    kind = jnp.finfo(x.dtype)
    stored = jax.lax.bitcast_convert_type(x, jnp.dtype(f"int{kind.bits}")) >> kind.nmant
    return jnp.where((x > 0) & (x < jnp.inf), stored.astype(jnp.int32) - (kind.maxexp - 2), 0)


def _power_of_two(exponent: Array, dtype: jnp.dtype) -> Array:
    """`2^exponent`, or the normal number nearest to it."""
    kind = jnp.finfo(dtype)
    stored = jnp.clip(exponent, kind.minexp, kind.maxexp - 1).astype(f"int{kind.bits}") + (kind.maxexp - 1)
    return jax.lax.bitcast_convert_type(stored << kind.nmant, kind.dtype)
