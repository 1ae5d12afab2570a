"""Threefry: uniform and normal numbers from a counter and a key, made where they are read."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
ROUNDS = 13  # of jax.random's 20; 7 are enough for the tests of neighbours beside this module's, 6 are not


def uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Uniform numbers of [0, 1), as of `jax.random.uniform(key, shape, dtype)` but from fewer rounds of its cipher.

    On a CPU `jax.random` runs the rounds of its cipher as a loop over arrays in memory, which takes several times as
    long as training a small model on the numbers. Written out, they become part of whatever reads the numbers. Fewer
    than 2^32 numbers at a time; other dtypes and keys than float32 and threefry are left to `jax.random`.
    """
    if dtype != jnp.float32 or jax.random.key_impl(key) != "threefry2x32":
        return jax.random.uniform(key, shape, dtype)
    count = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    first, second = threefry(jax.random.key_data(key), jnp.zeros_like(count), count, ROUNDS)
    mantissa = (first ^ second) >> jnp.uint32(9)
    return jax.lax.bitcast_convert_type(mantissa | jnp.uint32(0x3F800000), jnp.float32) - 1


def normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Standard normal numbers, made of `uniform` ones as `jax.random.normal(key, shape, dtype)` makes them."""
    if dtype != jnp.float32:
        return jax.random.normal(key, shape, dtype)
    least = np.nextafter(np.float32(-1), np.float32(0))
    u = jnp.maximum(least, uniform(key, shape, dtype) * (1 - least) + least)
    return np.float32(math.sqrt(2)) * jax.lax.erf_inv(u)


def threefry(key: Array, x: Array, y: Array, rounds: int) -> tuple[Array, Array]:
    """The cipher threefry2x32 of the words x, y (...) under a key (2,), of so many rounds (Salmon et al. 2011)."""
    words = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
    x, y = x + words[0], y + words[1]
    for done in range(1, rounds + 1):
        distance = ROTATIONS[(done - 1) % 8]
        x = x + y
        y = x ^ ((y << jnp.uint32(distance)) | (y >> jnp.uint32(32 - distance)))
        if done % 4 == 0:
            turn = done // 4
            x, y = x + words[turn % 3], y + words[(turn + 1) % 3] + jnp.uint32(turn)
    return x, y
