"""The numbers of jax.random, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory.threefry import normal, threefry, uniform


@pytest.mark.parametrize("shape", [(), (7,), (3, 2, 5)])
def test_numbers_are_those_of_jax_random(shape, dtype):
    key = jax.random.fold_in(jax.random.key(3), 1)
    assert np.array_equal(uniform(key, shape, dtype), jax.random.uniform(key, shape, dtype))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_normal_numbers_are_those_of_jax_random(impl, dtype):
    key = jax.random.key(5, impl=impl)
    drawn = jax.jit(normal, static_argnums=(1, 2))(key, (4000,), dtype)
    np.testing.assert_allclose(drawn, jax.random.normal(key, (4000,), dtype), rtol=4 * jnp.finfo(dtype).eps)


def test_other_keys_are_left_to_jax_random():
    key = jax.random.key(3, impl="rbg")
    assert np.array_equal(uniform(key, (4,), jnp.float32), jax.random.uniform(key, (4,), jnp.float32))


def test_the_cipher_gives_the_published_answer():
    """Known answers of Random123 (Salmon et al. 2011), threefry2x32 with 20 rounds."""
    pi = np.array([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], np.uint32)
    for counter, key, answer in [
        (np.zeros(2, np.uint32), np.zeros(2, np.uint32), (0x6B200159, 0x99BA4EFE)),
        (pi[:2], pi[2:], (0xC4923A9C, 0x483DF7A0)),
    ]:
        found = threefry(jnp.asarray(key), *map(jnp.asarray, counter))
        assert tuple(int(x) for x in found) == answer


def test_members_draw_their_own_numbers_under_vmap():
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = jax.jit(jax.vmap(lambda key: uniform(key, (5, 2), jnp.float32)))(keys)
    assert np.array_equal(drawn, jax.vmap(lambda key: jax.random.uniform(key, (5, 2), jnp.float32))(keys))
