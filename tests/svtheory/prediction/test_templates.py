import jax
import numpy as np
import pytest

from svtheory import InputError
from svtheory.prediction import order_spectrum
from svtheory.targets import categories, order, shift


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(
    "sizes", [(2, 3, 8, 64), pytest.param(range(2, 65), marks=pytest.mark.slow)], ids=["some", "2 to 64"]
)
def test_order_against_its_decomposition(sizes, centred):
    with jax.enable_x64():
        for n in sizes:
            T = np.asarray(order(n))
            if centred:
                T = T - T.mean(axis=1, keepdims=True)
            s = jax.tree.map(np.asarray, order_spectrum(n, centred))
            values = np.linalg.svd(T, compute_uv=False)
            K = n - 1 if centred else n
            assert s.values.shape == (K,)
            assert np.allclose(s.values, values[:K], rtol=0, atol=1e-12 * values[0])
            assert np.all(values[K:] < 1e-12)
            assert np.allclose((s.left * s.values) @ s.right.T, T, rtol=0, atol=1e-12 * values[0])
            assert np.allclose(s.left.T @ s.left, np.eye(K), rtol=0, atol=1e-12)
            assert np.allclose(s.right.T @ s.right, np.eye(K), rtol=0, atol=1e-12)
            assert np.allclose(s.gaps[:-1], np.minimum(values[: K - 1] - values[1:K], s.gaps[:-1]), atol=1e-11)


def test_no_feature_of_an_order_is_aligned(dtype):
    for n in (5, 20):
        s = order_spectrum(n)
        assert s.left.dtype == dtype
        assert max(abs(s.left).max(), abs(s.right).max()) <= 2 / np.sqrt(2 * n + 1) + 1e-6


def test_strict_order_is_the_order_of_one_less(dtype):
    T = np.asarray(order(6, strict=True))
    assert np.array_equal(T, np.arange(6)[:, None] > np.arange(6)[None, :])
    assert np.array_equal(T[1:, :-1], order(5))
    assert np.allclose(np.linalg.svd(T)[1][:-1], order_spectrum(5).values, rtol=1e-5)


@pytest.mark.parametrize("by", [-2, 0, 1, 7])
def test_a_shift_is_diagonal_in_fourier_modes(by):
    T, F = np.asarray(shift(5, by)), np.fft.fft(np.eye(5))
    assert np.array_equal(T @ np.arange(5), (np.arange(5) + by) % 5)
    modes = F @ T @ np.linalg.inv(F)
    assert np.allclose(modes, np.diag(np.diag(modes)), atol=1e-6)
    assert np.allclose(abs(np.diag(modes)), 1, atol=1e-6)


def test_categories_have_their_indicators():
    labels = ["a", "b", "a", "c", "b", "a"]
    T = np.asarray(categories(labels))
    members = np.array([[label == kind for kind in "abc"] for label in labels], float)
    assert np.array_equal(T, members @ members.T)
    assert np.allclose(np.linalg.svd(T)[1][:3], [3, 2, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: order(0), "n must be a whole number of at least 1, got 0"),
        (lambda: order_spectrum(1, centred=True), "n must be a whole number of at least 2, got 1"),
        (lambda: shift(3, 0.5), "by must be a whole number"),
        (lambda: categories([]), "labels must name a category for each feature, got none"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()
