"""With as many rounds, the numbers of jax.random to the bit; with fewer, published answers and independent numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from svtheory import threefry as draws
from svtheory.threefry import normal, threefry, uniform


@pytest.mark.parametrize("shape", [(), (7,), (3, 2, 5)])
def test_numbers_of_twenty_rounds_are_those_of_jax_random(shape, dtype, monkeypatch):
    monkeypatch.setattr(draws, "ROUNDS", 20)
    key = jax.random.fold_in(jax.random.key(3), 1)
    assert np.array_equal(uniform(key, shape, dtype), jax.random.uniform(key, shape, dtype))


def test_normal_numbers_of_twenty_rounds_are_those_of_jax_random(dtype, monkeypatch):
    monkeypatch.setattr(draws, "ROUNDS", 20)
    key = jax.random.key(5)
    drawn = jax.jit(lambda key: normal(key, (4000,), dtype))(key)
    np.testing.assert_allclose(drawn, jax.random.normal(key, (4000,), dtype), rtol=4 * jnp.finfo(dtype).eps)


def test_normal_numbers_are_normal():
    drawn = np.asarray(normal(jax.random.key(1), (100_000,), jnp.float32), float)
    assert scipy.stats.kstest(drawn, "norm").pvalue > 0.001


def test_other_keys_are_left_to_jax_random():
    key = jax.random.key(3, impl="rbg")
    assert np.array_equal(uniform(key, (4,), jnp.float32), jax.random.uniform(key, (4,), jnp.float32))
    ours, other = (draw(key, (4,), jnp.float32) for draw in (normal, jax.random.normal))
    np.testing.assert_allclose(ours, other, rtol=1e-6)


def test_the_cipher_gives_the_published_answers():
    """Known answers of Random123 (Salmon et al. 2011), threefry2x32."""
    pi, ones = np.array([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], np.uint32), np.full(4, 2**32 - 1, np.uint32)
    for words, rounds, answer in [
        (np.zeros(4, np.uint32), 20, (0x6B200159, 0x99BA4EFE)),
        (pi, 20, (0xC4923A9C, 0x483DF7A0)),
        (np.zeros(4, np.uint32), 13, (0x9D1C5EC6, 0x8BD50731)),
        (ones, 13, (0xFD36D048, 0x2D17272C)),
        (pi, 13, (0xBA3E4725, 0xF27D669E)),
    ]:
        found = threefry(jnp.asarray(words[2:]), *map(jnp.asarray, words[:2]), rounds)
        assert tuple(int(x) for x in found) == answer


def test_numbers_are_uniform_and_independent_of_their_neighbours():
    """Of neighbouring counters and of keys that follow each other, as steps and members have them; 9 p-values in all.

    A cipher of 7 rounds passes, one of 6 fails.
    """
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(0), n))(jnp.arange(64))
    u = np.asarray(jax.jit(jax.vmap(lambda key: uniform(key, (4096,), jnp.float32)))(keys), float)
    bins = np.floor(16 * u).astype(int)
    pairs = {"counter": (bins[:, 1:], bins[:, :-1]), "next but one": (bins[:, 2:], bins[:, :-2])}
    pairs |= {"key": (bins[1:], bins[:-1]), "far": (bins[:, 2048:], bins[:, :2048])}
    p = [scipy.stats.chisquare(np.bincount(bins.ravel(), minlength=16)).pvalue]
    for one, other in pairs.values():
        p.append(scipy.stats.chisquare(np.bincount((16 * one + other).ravel(), minlength=256)).pvalue)
        p.append(scipy.stats.pearsonr(one.ravel(), other.ravel()).pvalue)
    assert min(p) > 0.001 / len(p)
    assert max(p) < 1 - 0.001 / len(p)


def test_members_draw_their_own_numbers_under_vmap():
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = jax.jit(jax.vmap(lambda key: uniform(key, (5, 2), jnp.float32)))(keys)
    assert np.array_equal(drawn, [uniform(key, (5, 2), jnp.float32) for key in keys])
