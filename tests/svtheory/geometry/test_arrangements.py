import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import (
    InputError,
    condition_number,
    conditioned_frame,
    frame_operator,
    orthonormal,
    tight_frame,
)
from svtheory.geometry import (
    antipodal,
    extremal_pair,
    frame_with_spectrum,
    polygon,
    simplex,
    tegum,
)
from svtheory.geometry.arrangements import SPARE, haar_frames, haar_frames_within

KEY = jax.random.key(0)
SIMPLEX = jax.jit(simplex, static_argnums=0)  # as one program, not one an operation


def test_orthonormal(dtype, eps):
    for n in (1, 3, 5):
        X = np.asarray(orthonormal(KEY, 5, n))
        assert (X.dtype, X.shape) == (dtype, (5, n))
        np.testing.assert_allclose(X.T @ X, np.eye(n), atol=20 * eps)


def test_antipodal():
    assert antipodal(2).tolist() == [[1, -1, 0, 0], [0, 0, 1, -1]]


def test_simplex_dot_products(dtype, eps):
    for dim in (1, 2, 3, 7):
        X = np.asarray(SIMPLEX(dim))
        expected = np.where(np.eye(dim + 1, dtype=bool), 1, -1 / dim)
        assert (X.dtype, X.shape) == (dtype, (dim, dim + 1))
        np.testing.assert_allclose(X.T @ X, expected, atol=10 * eps)


def test_polygon(dtype, eps):
    X = np.asarray(polygon(5))
    assert X.dtype == dtype
    assert pytest.approx(np.cos(2 * np.pi * (np.arange(5)[:, None] - np.arange(5)) / 5), abs=10 * eps) == X.T @ X


def test_tegum_blocks_are_orthogonal():
    X = tegum(simplex(2), antipodal(1), jnp.eye(2))
    assert X.shape == (5, 7)
    gram = np.asarray(X.T @ X)
    assert not gram[:3, 3:].any()
    assert not gram[3:5, 5:].any()


@pytest.mark.parametrize(("D", "N"), [(1, 1), (1, 4), (4, 4), (4, 5), (4, 30)])
def test_tight_frames(D, N, dtype, eps):
    X = tight_frame(KEY, D, N)
    assert (X.dtype, X.shape) == (dtype, (D, N))
    assert np.linalg.norm(X, axis=0) == pytest.approx(np.ones(N), rel=20 * N * eps)
    assert np.asarray(frame_operator(X)) == pytest.approx(N / D * np.eye(D), abs=20 * N * eps)


@pytest.mark.parametrize("kappa", [1.0, 1.5, 30.0, 1000.0])
@pytest.mark.parametrize(("D", "N"), [(4, 4), (4, 30)])
def test_conditioned_frames(D, N, kappa, dtype, eps):
    X = conditioned_frame(KEY, D, N, kappa)
    assert X.dtype == dtype
    assert np.linalg.norm(X, axis=0) == pytest.approx(np.ones(N), rel=20 * N * eps)
    assert float(condition_number(X)) == pytest.approx(kappa, rel=20 * N * eps * kappa**0.5)


@hypothesis.given(seed=st.integers(0, 2**32 - 1), values=st.lists(st.floats(1e-2, 1e2), min_size=4, max_size=4))
def test_frames_of_any_spectrum_have_unit_length(seed, values):
    X = np.asarray(frame_with_spectrum(jax.random.key(seed), jnp.array(values), 7))
    expected = np.sort(values) * 7 / sum(values)
    assert np.linalg.norm(X, axis=0) == pytest.approx(np.ones(7), abs=1e-5)
    assert np.linalg.eigvalsh(X @ X.T) == pytest.approx(expected, abs=1e-4)


def test_random_builders_depend_on_the_key_alone():
    for build in (lambda k: orthonormal(k, 4, 3), lambda k: conditioned_frame(k, 4, 7, 3.0)):
        assert np.array_equal(build(KEY), build(KEY))
        assert not np.allclose(build(KEY), build(jax.random.key(1)))


def test_builders_under_vmap():
    frames = jax.vmap(lambda key: tight_frame(key, 3, 5))(jax.random.split(KEY, 4))
    expected = np.broadcast_to(5 / 3 * np.eye(3), (4, 3, 3))
    assert np.asarray(jax.vmap(frame_operator)(frames)) == pytest.approx(expected, abs=1e-5)


def test_extremal_pair(dtype, eps):
    X = np.asarray(extremal_pair(9.0))
    assert X.dtype == dtype
    assert np.diag([1.0, 9.0]) == pytest.approx(X @ X.T, abs=10 * eps)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: orthonormal(KEY, 2, 3), "n_features must be at most dim = 2 for orthonormal features, got 3"),
        (lambda: orthonormal(KEY, 0, 1), "dim must be a whole number of at least 1, got 0"),
        (lambda: antipodal(0), "dim must be a whole number of at least 1, got 0"),
        (lambda: simplex(1.5), "dim must be a whole number of at least 1, got 1.5"),
        (lambda: polygon(2), "n_features must be a whole number of at least 3, got 2"),
        (lambda: tight_frame(KEY, 3, 2), "n_features must be at least the number of eigenvalues, 3, got 2"),
        (lambda: frame_with_spectrum(KEY, [1.0, 0.0], 3), r"eigenvalues must be positive, got \[1.0, 0.0\]"),
        (lambda: frame_with_spectrum(KEY, [1.0, np.inf], 3), "eigenvalues must be finite, got 1 entries that are not"),
        (
            lambda: conditioned_frame(KEY, 3, 5, 0.5),
            "condition must be at least 1, .*got 0.5|condition must be at least 1, got 0.5",
        ),
        (lambda: conditioned_frame(KEY, 3, 5, np.nan), "condition must be finite, got 1 entries that are not"),
        (lambda: conditioned_frame(KEY, 1, 5, 2.0), "condition must be .*1 in one dimension, got 2.0"),
        (lambda: extremal_pair(0.9), "condition must be at least 1, got 0.9"),
    ],
)
def test_bad_input(build, sentence):
    with pytest.raises(InputError, match=sentence):
        build()


@pytest.mark.usefixtures("double_unless_told_otherwise")
@pytest.mark.parametrize(("D", "columns"), [(5, 2), (43, 5), (53, 5)])  # the last by Cholesky's factor
def test_frames_are_haar_within_some_coordinates(D, columns):
    """Orthonormal; of mean 0 and second moment `I/n` within 6 standard errors; QR's with R's diagonal positive."""
    inside, draws = np.arange(D) % 5 != 1, 4000
    n = inside.sum()
    normals = np.random.default_rng(0).normal(size=(draws, D, columns))
    frames = np.asarray(haar_frames(normals, jnp.asarray(inside)))
    assert np.abs(frames.swapaxes(1, 2) @ frames - np.eye(columns)).max() < 1e-12
    assert np.abs(frames[:, ~inside]).max() < 1e-15
    error = 6 / np.sqrt(draws * n)
    assert np.abs(frames.mean(axis=0)).max() < error
    moments = np.einsum("nik,njk->kij", frames[:, inside], frames[:, inside]) / draws
    assert np.abs(moments - np.eye(n) / n).max() < error * np.sqrt(2 / n)
    Q, R = np.linalg.qr(normals[:, inside])
    np.testing.assert_allclose(frames[:, inside], Q * np.sign(np.diagonal(R, axis1=1, axis2=2))[:, None], atol=1e-11)


@pytest.mark.usefixtures("double_unless_told_otherwise")
def test_frames_in_fewer_coordinates_than_columns_span_them():
    inside = np.array([1.0, 0, 1, 1, 0]) > 0
    crowded = np.asarray(haar_frames(np.random.default_rng(0).normal(size=(1, 5, 4)), jnp.asarray(inside)))[0]
    np.testing.assert_allclose(crowded[:, :3] @ crowded[:, :3].T, np.diag(1.0 * inside), atol=1e-12)


@pytest.mark.parametrize("columns", [1, 2, 8, 32])
def test_frames_by_cholesky_are_orthonormal_in_single_precision(columns):
    """To 3e-6, in as few coordinates as that way of making them takes: `2 K + SPARE`, some of more."""
    D = 2 * columns + SPARE
    normals = np.random.default_rng(1).normal(size=(100, D + 3, columns)).astype(np.float32)
    frames = np.asarray(haar_frames(normals, jnp.arange(D + 3) < D), float)
    assert np.abs(frames.swapaxes(1, 2) @ frames - np.eye(columns)).max() < 3e-6


def test_frames_within_are_those_of_their_own_coordinates():
    normals = np.random.default_rng(2).normal(size=(3, 6, 2))
    for inside in (np.ones(6, bool), np.arange(6) != 2, np.arange(4) != 2):
        every, within = haar_frames_within(normals, jnp.asarray(inside))
        np.testing.assert_array_equal(every, haar_frames(normals, jnp.ones(6, bool)))
        np.testing.assert_array_equal(within, haar_frames(normals[:, : len(inside)], jnp.asarray(inside)))
