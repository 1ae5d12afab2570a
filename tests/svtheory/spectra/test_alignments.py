import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from svtheory import (
    InputError,
    alignment,
    alignment_p_value,
    chance_alignment,
    sampled_chance,
)
from svtheory.spectra import best_matching, principal_cosines


def test_alignment_against_a_loop(dtype, eps):
    rng = np.random.default_rng(0)
    U, X = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    naive = [[abs(u @ x) / np.linalg.norm(u) / np.linalg.norm(x) for x in X.T] for u in U.T]
    table = alignment(jnp.asarray(U, dtype), jnp.asarray(X, dtype))
    assert table.dtype == dtype
    assert np.asarray(table) == pytest.approx(np.array(naive), abs=20 * eps)


def test_alignment_of_zero_and_of_tiny_columns():
    table = alignment(jnp.eye(2), jnp.array([[0.0, 1e-30, 1e30], [0.0, 1e-30, 0.0]]))
    assert np.asarray(table) == pytest.approx(np.array([[0, 0.5**0.5, 1], [0, 0.5**0.5, 0]]))
    gradient = jax.grad(lambda X: alignment(jnp.eye(2), X).sum())(jnp.array([[0.0, 1.0], [0.0, 2.0]]))
    assert jnp.isfinite(gradient).all()


@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_alignment_does_not_see_signs_lengths_or_rotations(seed):
    rng = np.random.default_rng(seed)
    U, X = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    Q = scipy.stats.ortho_group.rvs(5, random_state=rng)
    moved = alignment(jnp.asarray(Q @ U * rng.normal(size=3)), jnp.asarray(Q @ X * rng.normal(size=4)))
    assert np.asarray(moved) == pytest.approx(np.asarray(alignment(U, X)), abs=1e-5)


def test_alignment_of_different_spaces():
    with pytest.raises(InputError, match=r"features must have 2 rows, as vectors do, got shape \(3, 3\)"):
        alignment(jnp.eye(2), jnp.eye(3))
    with pytest.raises(InputError, match=r"got shape \(3, 2\), which looks transposed: features are columns"):
        alignment(jnp.eye(2), jnp.ones((3, 2)))
    with pytest.raises(InputError, match=r"vectors must have 2 axes, got shape \(2,\)"):
        alignment(jnp.ones(2), jnp.eye(2))


@hypothesis.given(seed=st.integers(0, 2**32 - 1), K=st.integers(1, 4))
def test_best_matching_against_all_matchings(seed, K):
    table = np.random.default_rng(seed).uniform(size=(K, 5))
    best = max(sum(table[k, i] for k, i in enumerate(chosen)) for chosen in itertools.permutations(range(5), K))
    rows, columns = best_matching(jnp.asarray(table))
    assert table[rows, columns].sum() == pytest.approx(best, rel=1e-6)
    assert len(set(columns)) == K


def test_principal_cosines_against_scipy(dtype, eps):
    rng = np.random.default_rng(0)
    for a, b in ((1, 1), (2, 3), (3, 2)):
        A, B = rng.normal(size=(5, a)), rng.normal(size=(5, b))
        found = principal_cosines(jnp.asarray(A, dtype), jnp.asarray(B, dtype))
        assert found.dtype == dtype
        assert np.asarray(found) == pytest.approx(
            np.sort(np.cos(scipy.linalg.subspace_angles(A, B)))[::-1], abs=20 * eps
        )
    Q = np.linalg.qr(rng.normal(size=(5, 4)))[0].astype(dtype)
    assert np.asarray(principal_cosines(Q[:, :2], Q[:, :2] @ np.array([[1, 2], [0, 3]], dtype))) == pytest.approx(
        [1, 1]
    )
    assert np.asarray(principal_cosines(Q[:, :2], Q[:, 2:])) == pytest.approx([0, 0], abs=20 * eps)


@pytest.mark.parametrize(("D", "n"), [(2, 1), (3, 1), (64, 1), (2, 5), (64, 20), (64, 2000)])
def test_chance_against_draws(D, n):
    rng = np.random.default_rng(0)
    draws = 400_000 // n
    best = np.sqrt(rng.beta(1 / 2, (D - 1) / 2, size=(draws, n)).max(axis=1))
    error = best.std() / draws**0.5
    assert abs(chance_alignment(D, n) - best.mean()) <= 4 * error


def test_chance_by_hand():
    assert chance_alignment(2) == pytest.approx(2 / np.pi)
    assert chance_alignment(3) == pytest.approx(1 / 2)  # Archimedes: a coordinate on the sphere is uniform
    assert chance_alignment(3, 4) == pytest.approx(4 / 5)
    assert chance_alignment(768) == pytest.approx(np.sqrt(2 / np.pi / 768), rel=1e-3)


def test_random_directions_have_the_chance_level():
    rng = np.random.default_rng(0)
    U, X = rng.normal(size=(10, 2000)), rng.normal(size=(10, 1))
    cosines = np.asarray(alignment(U, X))
    assert abs(cosines.mean() - chance_alignment(10)) <= 4 * cosines.std() / 2000**0.5


@pytest.mark.parametrize("D", [2, 3, 64, 768])
def test_p_value_against_scipy(D, dtype, eps):
    c = np.array([0.0, 1e-3, 0.1, 0.5, 0.9, 0.99, 1.0]).astype(dtype)
    expected = scipy.stats.beta.sf(c.astype(float) ** 2, 1 / 2, (D - 1) / 2)
    found = alignment_p_value(jnp.asarray(c), D)
    assert found.dtype == dtype
    assert np.asarray(found) == pytest.approx(expected, rel=1e4 * eps, abs=1e-37)
    assert np.asarray(alignment_p_value(-c, D, 7)) == pytest.approx(
        np.minimum(7 * expected, 1), rel=1e4 * eps, abs=1e-36
    )


def test_p_values_of_random_directions_are_uniform():
    rng = np.random.default_rng(0)
    p = alignment_p_value(alignment(rng.normal(size=(6, 1000)), rng.normal(size=(6, 1)))[:, 0], 6)
    assert scipy.stats.kstest(np.asarray(p), "uniform").pvalue > 1e-3


def test_sampled_chance():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6, 3))
    isotropic, error = sampled_chance(jax.random.key(0), np.eye(6), X[:, :1], 4000)
    assert abs(isotropic - chance_alignment(6)) <= 4 * error
    assert 0 < error < 0.01
    constant, error = sampled_chance(jax.random.key(0), np.outer(X[:, 0], X[:, 0]), X, 100)
    assert float(constant) == pytest.approx(1, abs=1e-5)
    assert float(error) == pytest.approx(0, abs=1e-5)
    naive = []
    V = np.diag([25.0, 1, 1, 1, 1, 1])
    for g in rng.multivariate_normal(np.zeros(6), V, size=4000):
        naive.append(max(abs(g @ x) / np.linalg.norm(g) / np.linalg.norm(x) for x in X.T))
    found, error = sampled_chance(jax.random.key(0), V, X, 4000)
    assert abs(found - np.mean(naive)) <= 4 * np.hypot(error, np.std(naive) / 4000**0.5)


@pytest.mark.parametrize("f", [chance_alignment, lambda *a: alignment_p_value(0.5, *a)])
def test_bad_counts(f):
    with pytest.raises(InputError, match="dim must be a whole number of at least 2, got 1"):
        f(1)
    with pytest.raises(InputError, match="comparisons must be a whole number of at least 1, got 0"):
        f(5, 0)


def test_a_p_value_has_a_derivative_at_no_alignment():
    assert jax.grad(lambda c: alignment_p_value(c, 5))(0.0) == 0
    assert alignment_p_value(0.0, 5) == 1
