"""Threefry: the uniform and normal numbers of `jax.random`, made where they are read."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Uniform numbers of [0, 1), bit for bit those of `jax.random.uniform(key, shape, dtype)`.

    On a CPU `jax.random` runs the rounds of its cipher as a loop over arrays in memory, which takes several times as
    long as training a small model on the numbers. Written out, they become part of whatever reads the numbers. Fewer
    than 2^32 numbers at a time; other dtypes and keys than float32 and threefry are left to `jax.random`.
    """
    if not _ours(key, dtype):
        return jax.random.uniform(key, shape, dtype)
    count = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    first, second = threefry(jax.random.key_data(key), jnp.zeros_like(count), count)
    mantissa = (first ^ second) >> jnp.uint32(9)
    return jax.lax.bitcast_convert_type(mantissa | jnp.uint32(0x3F800000), jnp.float32) - 1


def normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Standard normal numbers, those of `jax.random.normal(key, shape, dtype)` to rounding, as `uniform` makes them."""
    if not _ours(key, dtype):
        return jax.random.normal(key, shape, dtype)
    least = np.nextafter(np.float32(-1), np.float32(0))
    u = jnp.maximum(least, uniform(key, shape, dtype) * (1 - least) + least)
    return np.float32(math.sqrt(2)) * jax.lax.erf_inv(u)


def _ours(key: Array, dtype: Any) -> bool:
    return dtype == jnp.float32 and jax.random.key_impl(key) == "threefry2x32"


def threefry(key: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """The cipher threefry2x32 of the words x, y (...) under a key (2,), 20 rounds (Salmon et al. 2011)."""
    words = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
    x, y = x + words[0], y + words[1]
    for turn in range(1, 6):
        for distance in ROTATIONS[(turn - 1) % 2]:
            x = x + y
            y = x ^ ((y << jnp.uint32(distance)) | (y >> jnp.uint32(32 - distance)))
        x, y = x + words[turn % 3], y + words[(turn + 1) % 3] + jnp.uint32(turn)
    return x, y
