"""Scaling by powers of 2 against numpy, over all that a dtype holds and beyond."""

import jax
import jax.numpy as jnp
import numpy as np

from svtheory.numerics import scaled, shifted


def test_powers_of_two_are_exact(dtype):
    """Whatever is lost is below the smallest normal number, as a device may flush what is there."""
    kind, rng = np.finfo(dtype), np.random.default_rng(0)
    exponents = np.array([0, 1, -1, kind.minexp, kind.maxexp, 2 * kind.minexp, 2 * kind.maxexp, 3000, -3000], np.int32)
    sizes = rng.integers(kind.minexp, kind.maxexp - 1, (9, 20))
    X = np.ldexp(rng.uniform(1, 2, (9, 20)) * rng.choice([-1, 0, 1], (9, 20)), sizes).astype(dtype)
    with np.errstate(over="ignore"):
        wanted = np.ldexp(X, exponents[:, None])
    found = np.asarray(jax.jit(jax.vmap(shifted))(X, exponents))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(wanted))
    finite = np.isfinite(wanted)
    np.testing.assert_allclose(found[finite], wanted[finite], rtol=0, atol=float(kind.tiny))
    normal = finite & (np.abs(wanted) >= kind.tiny)
    np.testing.assert_array_equal(found[normal], wanted[normal])


def test_arrays_are_scaled_to_between_a_half_and_one(dtype):
    kind = np.finfo(dtype)
    X = np.array([[kind.max, 0.25 * kind.max], [kind.tiny, 0.0], [0.75, -1.0], [3.0, -2.0], [0.0, 0.0]], dtype)
    unit, exponents = jax.tree.map(np.asarray, jax.jit(jax.vmap(scaled))(jnp.asarray(X)))
    np.testing.assert_array_equal(exponents, np.frexp(np.abs(X).max(axis=1))[1])
    np.testing.assert_array_equal(unit, np.ldexp(X, -exponents[:, None]))
    assert jax.jit(scaled)(jnp.array([jnp.inf, 1.0], dtype))[1] == 0
