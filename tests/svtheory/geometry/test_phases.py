"""T10: thresholds, stationary arrangements, the exact reduction, and descent on the features themselves."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from svtheory import InputError, orthogonalization_threshold, tight_frame
from svtheory.geometry import (
    ARRANGEMENTS,
    adaptive_threshold,
    collapse_threshold,
    exact_minimum,
    lowest_arrangement,
    phase_energy,
    stationary_arrangements,
)

GRID = 57
SIZES = [(12, 10), (15, 10), (20, 10), (40, 10), (30, 6)]


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def naive_energy(W, g):
    N = W.shape[1]
    crowding = [sum((W[:, i] @ W[:, j]) ** 2 for j in range(N)) for i in range(N)]
    return sum(crowding) + g * crowding[0] * crowding[1]


def unit(V):
    return V / jnp.linalg.norm(V, axis=0, keepdims=True)


def orthogonalised_features(N, D):
    rest = tight_frame(jax.random.key(0), D - 2, N - 2)
    return jax.scipy.linalg.block_diag(jnp.eye(2), rest)


def four_numbers(N, D, g, rng, starts):
    """The least of the reduced energy over c and A, `A = w_0 w_0^T + w_1 w_1^T + B B^T`, from several starts."""

    def energy(x):
        w_0, w_1, B = np.array([1, 0]), np.array([np.cos(x[0]), np.sin(x[0])]), x[1:].reshape(2, 2)
        A = np.outer(w_0, w_0) + np.outer(w_1, w_1) + B @ B.T
        return (A**2).sum() + (N - np.trace(A)) ** 2 / (D - 2) + g * (w_0 @ A @ w_0) * (w_1 @ A @ w_1)

    return min(
        scipy.optimize.minimize(energy, 1.5 * rng.normal(size=5), options={"gtol": 1e-9}).fun for _ in range(starts)
    )


@given(st.integers(0, 2**31 - 1), st.floats(0, 20))
def test_the_energy_is_its_sum_over_pairs_and_invariant(seed, g):
    rng = np.random.default_rng(seed)
    W = np.asarray(unit(rng.normal(size=(4, 6))))
    energy = naive_energy(W, g)
    Q = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    order = np.r_[0, 1, 2 + rng.permutation(4)]
    signs = rng.choice([-1, 1], (1, 6))
    for same in (W, Q @ W, W[:, order], W[:, [1, 0, 2, 3, 4, 5]], W * signs):
        np.testing.assert_allclose(phase_energy(same, g), energy, rtol=1e-12)


def test_without_crowding_nothing_needs_to_move():
    """N = D: an orthonormal basis is best at every coupling, and the threshold is 0."""
    assert orthogonalization_threshold(5, 5) == 0
    g = np.linspace(0, 4, GRID)
    np.testing.assert_allclose(exact_minimum(5, 5, g).energy, 5 + g, rtol=1e-12)
    assert not lowest_arrangement(5, 5, g)[0].any()


@pytest.mark.parametrize(("N", "D"), SIZES)
def test_without_a_head_the_lowest_energy_is_that_of_a_tight_frame(N, D):
    np.testing.assert_allclose(exact_minimum(N, D, 0.0).energy, N**2 / D, rtol=1e-12)
    np.testing.assert_allclose(lowest_arrangement(N, D, 0.0)[1].energy, N**2 / D, rtol=1e-12)


def test_published_numbers():
    assert [orthogonalization_threshold(*size) for size in [(20, 10), (16, 8), (12, 10), (40, 10), (30, 6)]] == [
        2.5,
        8 / 3,
        0.5,
        7.5,
        12,
    ]
    names = [ARRANGEMENTS[int(lowest_arrangement(40, 10, g)[0])] for g in (1.5, 4.5, 6.0, 7.125, 7.5)]
    assert names == ["collapsed", "collapsed", "one-sided", "one-sided", "orthogonalised"]
    np.testing.assert_allclose([lowest_arrangement(40, 10, g)[1].s_1 for g in (6.0, 7.125)], [5 / 3, 7 / 6], rtol=1e-12)


@pytest.mark.parametrize(("N", "D"), [*SIZES, (4, 3), (9, 3), (7, 6), (100, 50)])
def test_the_listed_energies_are_the_exact_reduction(N, D):
    g = np.linspace(0, 1.39 * max(orthogonalization_threshold(N, D), collapse_threshold(N, D)), GRID)
    exact, (_, lowest) = exact_minimum(N, D, g), lowest_arrangement(N, D, g)
    np.testing.assert_allclose(lowest.energy, exact.energy, rtol=0, atol=1e-10)
    np.testing.assert_allclose(lowest.s_0, exact.s_0, atol=1e-6)
    np.testing.assert_allclose(lowest.s_1, exact.s_1, atol=1e-6)
    rng = np.random.default_rng(0)
    for k in (8, 32):
        np.testing.assert_allclose(four_numbers(N, D, g[k], rng, 6), exact.energy[k], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("N", "D"), [*SIZES, (9, 3), (60, 3), (200, 20)])
def test_orthogonalised_is_the_global_minimum_from_the_larger_threshold_on(N, D):
    threshold = max(orthogonalization_threshold(N, D), collapse_threshold(N, D))
    below, above = (exact_minimum(N, D, factor * threshold).s_1 for factor in (0.995, 1.005))
    np.testing.assert_allclose(above, 1, atol=1e-6)
    assert below > 1 + 1e-4


def test_each_arrangement_stops_where_it_says():
    for g, one_sided, superposed in ((0.01, 0, 0), (1.99, 0, 0), (2.01, 1, 0), (7.49, 1, 1), (7.51, 0, 0)):
        for leaf in jax.tree.leaves(stationary_arrangements(40, 10, g)):
            assert np.isfinite(leaf).tolist() == [True, bool(one_sided), True, bool(superposed)]
    assert not np.isfinite(stationary_arrangements(10, 10, 1.0).energy[1:]).any()


def test_the_arrangements_meet_at_the_threshold():
    for (N, D), name in (((40, 10), "one-sided"), ((15, 10), "superposed")):
        threshold = orthogonalization_threshold(N, D)
        found = jax.tree.map(
            lambda leaf, name=name: leaf[ARRANGEMENTS.index(name)],
            stationary_arrangements(N, D, threshold * (1 - 1e-6)),
        )
        np.testing.assert_allclose([found.s_0, found.s_1], 1, atol=1e-4)


def adaptive_energy(W, g):
    """The leakage of a head whose strength adapts, `g (1 - 1/(s_0 s_1))`, in place of `g s_0 s_1`."""
    s_0, s_1 = (W[:, :2] * (W @ W.T @ W[:, :2])).sum(axis=0)
    return ((W.T @ W) ** 2).sum() + g * (1 - 1 / (s_0 * s_1))


@partial(jax.jit, static_argnums=(0, 1))
def value_and_slope(energy, D, v, g):
    return jax.value_and_grad(lambda v: energy(unit(v.reshape(D, -1)), g))(v)


@pytest.mark.parametrize(
    ("N", "D", "energy"),
    [
        *((*size, phase_energy) for size in SIZES[::2]),  # below, at and above 2 D
        (20, 10, adaptive_energy),
        *(pytest.param(*size, phase_energy, marks=pytest.mark.slow) for size in SIZES[1::2]),
    ],
)
def test_second_order_stationarity_flips_at_the_threshold(N, D, energy):
    """By the Hessian on unit features; its lowest eigenvalue is `2 (g - g_c)` below the threshold, and 0 above."""
    W = orthogonalised_features(N, D)
    threshold = orthogonalization_threshold(N, D)
    hessian = jax.jit(jax.jacfwd(lambda v, g: value_and_slope(energy, D, v, g)[1]))
    for factor in (0.5, 0.99, 1.0, 1.01, 2.0):
        g = factor * threshold
        np.testing.assert_allclose(value_and_slope(energy, D, W.ravel(), g)[1], 0, atol=1e-10)
        lowest = np.linalg.eigvalsh(hessian(W.ravel(), g))[0]
        np.testing.assert_allclose(lowest, min(0, 2 * (g - threshold)), atol=1e-9 * N)


def descend(W, g):
    """s_0, s_1 (rising) and the energy at which L-BFGS on the directions of W ends."""

    def numpy_value_and_slope(v):
        return tuple(np.asarray(a) for a in value_and_slope(phase_energy, len(W), v, g))

    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-9}
    found = scipy.optimize.minimize(numpy_value_and_slope, W.ravel(), jac=True, method="L-BFGS-B", options=options)
    W = np.asarray(unit(found.x.reshape(W.shape)))
    return np.sort((W[:, :2] * (W @ W.T @ W[:, :2])).sum(axis=0)), found.fun


@pytest.mark.parametrize(("N", "D"), SIZES)
def test_descent_ends_in_a_listed_arrangement(N, D):
    for factor, seed in itertools.product((0.3, 0.85, 1.1), (0, 1)):
        g = factor * orthogonalization_threshold(N, D)
        found = stationary_arrangements(N, D, g)
        s, energy = descend(np.random.default_rng(seed).normal(size=(D, N)), g)
        errors = np.abs(np.stack([found.s_0, found.s_1], axis=1) / s[None, :] - 1).max(axis=1)
        nearest = np.nanargmin(errors)
        assert errors[nearest] < 1e-3
        np.testing.assert_allclose(energy, found.energy[nearest], rtol=1e-6)
        np.testing.assert_array_less(exact_minimum(N, D, g).energy, energy + 1e-6)


def test_a_stable_arrangement_need_not_be_the_lowest():
    """(30, 6) at 0.9 g_c: the collapsed energy is lower, and descent ends one-sided."""
    g = 0.9 * orthogonalization_threshold(30, 6)
    assert ARRANGEMENTS[int(lowest_arrangement(30, 6, g)[0])] == "collapsed"
    s, _ = descend(np.random.default_rng(0).normal(size=(6, 30)), g)
    np.testing.assert_allclose(s, [1, stationary_arrangements(30, 6, g).s_1[1]], rtol=1e-3)


def test_both_precisions_agree(dtype):
    g = jnp.linspace(0, 8, GRID, dtype=dtype)
    found, exact = stationary_arrangements(40, 10, g), exact_minimum(40, 10, g)
    assert {leaf.dtype for leaf in jax.tree.leaves((found, exact))} == {dtype}
    with jax.enable_x64(True):
        reference = stationary_arrangements(40, 10, np.asarray(g, float))
        lowest = lowest_arrangement(40, 10, np.asarray(g, float))[1]
    for value, expected in ((found.energy, reference.energy), (exact.energy, lowest.energy)):
        np.testing.assert_allclose(value, expected, rtol=100 * float(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(found.s_1, reference.s_1, rtol=np.sqrt(jnp.finfo(dtype).eps))


def test_jit_vmap_grad_and_shapes_agree():
    g = np.linspace(0.01, 8, GRID)
    found = stationary_arrangements(40, 10, g)

    def total(g):
        phases = stationary_arrangements(40, 10, g)
        return jnp.nansum(phases.energy) + exact_minimum(40, 10, g).energy, phases

    (energy, phases), slope = jax.jit(jax.vmap(jax.vmap(jax.value_and_grad(total, has_aux=True))))(g.reshape(3, 19))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.reshape(GRID, 4).T, b, atol=1e-9), phases, found)
    exact = exact_minimum(40, 10, g)
    np.testing.assert_allclose(energy.ravel(), np.nansum(found.energy, axis=0) + exact.energy, rtol=1e-12)
    slopes = np.nansum(found.s_0 * found.s_1, axis=0) + exact.s_0 * exact.s_1
    np.testing.assert_allclose(slope.ravel(), slopes, rtol=1e-6)
    assert {leaf.shape for leaf in jax.tree.leaves(stationary_arrangements(40, 10, g.reshape(3, 19)))} == {(4, 3, 19)}


@pytest.mark.parametrize(
    ("function", "cases"),
    [
        (stationary_arrangements, [(40, 10, 6.0)]),
        (exact_minimum, [(40, 10, 6.0), (20, 10, 1.0), (40, 10, 3.0), (12, 10, 3.0)]),
    ],
)
def test_gradients_follow_the_minimum(function, cases):
    """`dE/dg = s_0 s_1` at every stationary point, and s as by finite differences."""
    forward = jax.jacfwd(function, argnums=2)
    for N, D, g in cases:
        found, slopes, h = function(N, D, g), forward(N, D, g), 1e-3
        np.testing.assert_allclose(slopes.energy, found.s_0 * found.s_1, rtol=1e-6)
        above, below = function(N, D, g + h), function(N, D, g - h)
        jax.tree.map(lambda d, a, b: np.testing.assert_allclose(d, (a - b) / 2e-3, atol=1e-5), slopes, above, below)


def test_one_compilation_serves_all_sizes():
    for function in (stationary_arrangements, exact_minimum, lowest_arrangement):
        function(20, 10, np.linspace(0, 1, GRID))
        with jax.no_tracing():
            function(40, 8, np.linspace(3, 5, GRID))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((20, 2, 1.0), "dim must be a whole number of at least 3, got 2"),
        ((9, 10, 1.0), "n_features must be a whole number of at least 10, got 9"),
        ((20.0, 10, 1.0), "n_features must be a whole number"),
        ((20, 10, -1.0), "coupling must be at least 0, got -1.0"),
        ((20, 10, np.nan), "coupling must be finite"),
    ],
)
def test_bad_input_is_named(arguments, message):
    for function in (stationary_arrangements, exact_minimum, lowest_arrangement):
        with pytest.raises(InputError, match=message):
            function(*arguments)


def test_bad_sizes_are_named():
    for function in (orthogonalization_threshold, collapse_threshold):
        with pytest.raises(InputError, match="dim must be a whole number of at least 3"):
            function(5, 2)


@pytest.mark.parametrize(("N", "D"), SIZES)
def test_energies_cross_at_the_adaptive_threshold(N, D):
    g = adaptive_threshold(N, D)
    for features in (tight_frame(jax.random.key(1), D, N), orthogonalised_features(N, D)):
        W = np.asarray(features)
        s_0, s_1 = (sum((W[:, i] @ W) ** 2) for i in (0, 1))
        assert naive_energy(W, 0.0) + g * (1 - 1 / (s_0 * s_1)) == pytest.approx(2 + (N - 2) ** 2 / (D - 2))
    assert (g > orthogonalization_threshold(N, D)) == (N / D > (1 + 5**0.5) / 2)
