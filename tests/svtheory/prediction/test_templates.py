import jax
import numpy as np
import pytest

from svtheory import InputError
from svtheory.prediction import cyclic_spectrum, order_spectrum
from svtheory.spectra import value_gaps, value_groups
from svtheory.targets import categories, order, shift

GAP = 1e-9  # of projections: 1e-12 over the least gap
of_order, of_cycle = jax.jit(order_spectrum, static_argnums=(0, 1, 2)), jax.jit(cyclic_spectrum)


def holds(s, T, tolerance):
    """Whether s is a singular value decomposition of T, its zeros left out, and `spectrum`'s gaps are its own."""
    s = jax.tree.map(np.asarray, s)
    values = np.linalg.svd(T, compute_uv=False)
    K, scale = len(s.values), values[0]
    assert np.allclose(s.values, values[:K], rtol=0, atol=tolerance * scale)
    assert np.all(values[K:] < tolerance * scale)
    assert np.allclose((s.left * s.values) @ s.right.T, T, rtol=0, atol=tolerance * scale)
    assert np.allclose(s.left.T @ s.left, np.eye(K), rtol=0, atol=tolerance)
    assert np.allclose(s.right.T @ s.right, np.eye(K), rtol=0, atol=tolerance)
    assert np.all(s.gaps <= value_gaps(values)[:K] + 10 * tolerance * scale)
    groups = np.asarray(value_groups(values, 1e-9))[:K]
    for group in set(groups.tolist()):  # of equal values the subspace, from the decomposition itself
        own = groups == group
        U, _, Vt = np.linalg.svd(T)
        for vectors, wanted in ((s.left, U[:, :K]), (s.right, Vt.T[:, :K])):
            assert np.allclose(vectors[:, own] @ vectors[:, own].T, wanted[:, own] @ wanted[:, own].T, atol=GAP)


@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("centred", [False, True, "both"])
@pytest.mark.parametrize(
    "sizes", [(2, 5, 8), pytest.param(range(2, 65), marks=pytest.mark.slow)], ids=["some", "2 to 64"]
)
def test_orders_against_their_decomposition(sizes, centred, sign):
    with jax.enable_x64():
        for n in sizes:
            if (n, centred, sign) == (2, "both", True):
                continue  # nothing is left
            T, mean = np.asarray(order(n)), np.full((n, n), 1 / n)
            T = T + T - 1 - np.eye(n) if sign else T
            T = T - T @ mean if centred else T
            holds(of_order(n, centred, sign), T - mean @ T if centred == "both" else T, 1e-12)


def test_cycles_against_their_decomposition():
    with jax.enable_x64():
        for n in (1, 2, 5, 8):
            g, steps = np.random.default_rng(n).normal(size=n), np.arange(n)
            holds(of_cycle(g), g[(steps[:, None] - steps) % n], 1e-12)
        assert np.allclose(of_cycle(np.eye(8)[-3 % 8]).values, 1, rtol=1e-14)  # shift(8, 3)
        assert np.isclose(np.asarray(of_cycle(g - g.mean()).values)[-1], 0, atol=1e-14)


def test_no_feature_of_an_order_is_aligned(dtype):
    for n in (5, 20):
        s = jax.tree.map(np.asarray, of_order(n))
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
        (lambda: order_spectrum(3, "keys"), "centred must be False, True .* got 'keys'"),
        (lambda: order_spectrum(2, "both", sign=True), "n must be a whole number of at least 3, got 2"),
        (lambda: cyclic_spectrum(np.eye(3)), "profile must have 1 axes"),
        (lambda: shift(3, 0.5), "by must be a whole number"),
        (lambda: categories([]), "labels must name a category for each feature, got none"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()
