"""Robustness (T14): both forms of Wedin's bound, and which vectors may be named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svtheory import (
    InputError,
    Spectrum,
    nameable,
    wedin_bound,
)
from svtheory.factorisations import safe_svd
from svtheory.geometry.columns import sine
from svtheory.spectra import mixed_gaps, wedin_own_bound
from svtheory.spectra.spectra import spectrum_of

D = 5
seeds = st.integers(0, 2**16)


def decomposed(omega):
    U, values, Vt = safe_svd(omega)
    return spectrum_of(U, values, Vt.T)


@jax.jit
def perturbed(omega, E):
    """Sines of both angles and both bounds for omega + E."""
    before, after = decomposed(omega), decomposed(omega + E)
    size = jnp.linalg.norm(E, 2)
    sines = [sine(before.left, after.left), sine(before.right, after.right)]
    return sines, wedin_bound(before, after, size), wedin_own_bound(before, size)


@given(seeds, st.floats(1e-4, 2))
def test_both_bounds_hold(seed, size):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        found = perturbed(rng.normal(size=(D, D)), size * rng.normal(size=(D, D)))
    (left, right), mixed, own = jax.tree.map(np.asarray, found)
    assert (np.sqrt(left**2 + right**2) <= mixed + 1e-7).all()
    assert (np.maximum(left, right) <= own + 1e-7).all()
    assert (mixed <= np.sqrt(2)).all()
    assert (own <= 1).all()


def test_a_middle_vector_violates_the_constant_1():
    """`Omega = diag(2, 1, 0)`, `E = e (u_1 v_2^T + u_2 v_3^T)`: the ratio tends to `sqrt(14)/3 = 1.247` as e falls."""
    E = np.zeros((D, D))
    E[0, 1] = E[1, 2] = 1e-4
    with jax.enable_x64(True):
        (left, right), mixed, _ = jax.tree.map(np.asarray, perturbed(np.diag([2.0, 1.0, 0.0, 0.0, 0.0]), E))
    ratio = np.sqrt(left[1] ** 2 + right[1] ** 2) / (mixed[1] / np.sqrt(2))
    np.testing.assert_allclose(ratio, np.sqrt(14) / 3, rtol=1e-3)


def test_mixed_gaps_are_what_they_say():
    def spectrum(values):
        values = jnp.asarray(values)
        return spectrum_of(jnp.eye(D)[:, : values.size], values, jnp.eye(D)[:, : values.size])

    before, after = spectrum([5.0, 3.0]), spectrum([5.2, 2.5, 0.1])
    np.testing.assert_allclose(mixed_gaps(before, after), [2.5, 2.2], rtol=1e-6)
    # values that are not given are 0: here two of them lie below the last
    np.testing.assert_allclose(mixed_gaps(spectrum([1.0]), spectrum([1.0])), [1.0])
    np.testing.assert_allclose(wedin_bound(before, after, 0.5), np.sqrt(2) * 0.5 / np.array([2.5, 2.2]), rtol=1e-6)
    np.testing.assert_allclose(wedin_own_bound(before, 0.1), [(1 + np.sqrt(2)) * 0.1 / 2] * 2, rtol=1e-6)
    assert wedin_bound(before, after, 0.0).tolist() == [0, 0]
    assert wedin_own_bound(spectrum([3.0, 3.0]), 0.1).tolist() == [1, 1]
    assert mixed_gaps(*[spectrum_of(jnp.eye(1), jnp.ones(1), jnp.eye(1))] * 2).tolist() == [np.inf]


def test_only_vectors_whose_gap_is_above_the_error_are_named(dtype, eps):
    values = jnp.asarray([4.0, 2.0, 2.0, 1e-3, 0.0], dtype)
    spectrum = spectrum_of(jnp.eye(D), values, jnp.eye(D))
    assert nameable(spectrum).tolist() == [True, False, False, True, False]
    assert nameable(spectrum, 1e-2).tolist() == [True, False, False, False, False]
    below_rounding = spectrum_of(jnp.eye(D), values.at[3].set(2 * eps), jnp.eye(D))
    assert nameable(below_rounding).tolist() == [True, False, False, False, False]


def test_precision_vmap_gradients_and_one_trace(dtype):
    omegas = jnp.asarray(np.random.default_rng(1).normal(size=(2, D, D)), dtype)
    traces = []

    @jax.jit
    @jax.vmap
    def mapped(omega):
        traces.append(None)

        def total(omega):
            before, after = decomposed(omega), decomposed(omega + 0.01)
            return (wedin_bound(before, after, 0.01) + wedin_own_bound(before, 0.01)).sum()

        return jax.value_and_grad(total)(omega), nameable(decomposed(omega))

    (value, gradient), named = mapped(omegas)
    mapped(omegas + 1)
    assert len(traces) == 1
    assert {value.dtype, gradient.dtype} == {dtype}
    assert jnp.isfinite(gradient).all()
    assert named.all()


def test_wrong_arguments_are_named():
    spectrum = spectrum_of(jnp.eye(2), jnp.ones(2), jnp.eye(2))
    other = Spectrum(jnp.eye(3), jnp.ones(3), jnp.eye(3), jnp.ones(3))
    with pytest.raises(InputError, match="measurement must be a spectrum in dimension 2, got 3"):
        mixed_gaps(spectrum, other)
    with pytest.raises(InputError, match=r"error must be at least 0, got -1\.0"):
        wedin_own_bound(spectrum, -1.0)


def rectangular(A):
    U, values, Vt = np.linalg.svd(A, full_matrices=False)
    return spectrum_of(jnp.asarray(U), jnp.asarray(values), jnp.asarray(Vt.T))


def test_a_matrix_that_is_not_square_has_a_zero_on_its_longer_side():
    """`diag(1, 1e-3)` in 2 x 3 with 1e-3 at the third column: v_2 turns by 45 degrees, whatever the distance to 1."""
    A, E = np.zeros((2, 3)), np.zeros((2, 3))
    A[0, 0], A[1, 1], E[1, 2] = 1, 1e-3, 1e-3
    with jax.enable_x64(True):
        for before, after in ((A, A + E), (A.T, (A + E).T)):
            clean, moved = rectangular(before), rectangular(after)
            found = np.asarray(wedin_bound(clean, moved, 1e-3))
            turned = np.sqrt(sine(clean.left, moved.left) ** 2 + sine(clean.right, moved.right) ** 2)
            np.testing.assert_allclose(mixed_gaps(clean, moved)[1], 1e-3, rtol=1e-9)
            np.testing.assert_allclose(turned[1], np.sqrt(0.5), rtol=1e-6)
            assert (turned <= found + 1e-9).all()


@given(seeds, st.floats(1e-4, 2), st.sampled_from([(2, 3), (5, 3), (4, 7)]))
def test_the_mixed_bound_holds_for_rectangles(seed, size, shape):
    rng = np.random.default_rng(seed)
    A, E = rng.normal(size=shape), size * rng.normal(size=shape)
    with jax.enable_x64(True):
        clean, moved = rectangular(A), rectangular(A + E)
        turned = np.sqrt(sine(clean.left, moved.left) ** 2 + sine(clean.right, moved.right) ** 2)
        assert (turned <= np.asarray(wedin_bound(clean, moved, np.linalg.norm(E, 2))) + 1e-7).all()


def test_both_dimensions_must_agree():
    with pytest.raises(InputError, match="measurement must be a spectrum in dimension 2 x 3, got 2 x 4"):
        mixed_gaps(rectangular(np.eye(2, 3)), rectangular(np.eye(2, 4)))
