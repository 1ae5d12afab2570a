"""Dynamics: growth of modes (T9), the conserved imbalance (T8), the filter of finite training time (T17)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from hypothesis import given
from hypothesis import strategies as st

from svtheory import (
    BernoulliUniform,
    InputError,
    OneHot,
    Scenario,
    filtered_optimum,
    growth,
    half_times,
    kantorovich_bound,
    matching,
    optimal_omega,
    single_pair,
)
from svtheory.prediction import imbalance, training_condition_number, training_condition_numbers

D, N, M = 4, 7, 6
T = matching(N, M, [0, 1, 2], [2, 0, 5], [3.0, -2.0, 1.0])
seeds = st.integers(0, 2**16)


def frame(seed, columns, rank=D):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(D, rank)) @ rng.normal(size=(rank, columns)) / np.sqrt(rank)


def tight(seed, columns, eigenvalue):
    return np.sqrt(eigenvalue) * np.linalg.qr(np.random.default_rng(seed).normal(size=(columns, D)))[0].T


def tight_scenario(**options):
    """Token moments 2 I and 3 I."""
    return Scenario(tight(0, N, 2.0), tight(1, M, 3.0), T, **options)


def lawful(objective="square", **options):
    laws = BernoulliUniform(0.4, N), BernoulliUniform(0.7, M)
    return Scenario(2 * frame(0, N), 2 * frame(1, M), T, *laws, objective, **options)


def moments(scenario):
    """Naive A, B and M of T5, or of T6 without a query bias."""
    X, Y, T = (np.asarray(a) for a in (scenario.query_features, scenario.key_features, scenario.target))
    C = np.eye(X.shape[1]) if scenario.query_law is None else np.asarray(scenario.query_law.second_moment())
    if scenario.key_law is None:
        C_ = np.eye(Y.shape[1])
    else:
        law = scenario.key_law
        C_ = np.asarray(law.covariance() if scenario.objective == "softmax" else law.second_moment())
    return X @ C @ X.T, Y @ C_ @ Y.T, X @ C @ T @ C_ @ Y.T


def integrated(velocity, start, times):
    """`start` (any shape) carried along `velocity`, at each of `times`."""
    solution = scipy.integrate.solve_ivp(
        lambda _, x: velocity(x.reshape(start.shape)).ravel(),
        (0, times[-1]), start.ravel(), "DOP853", times, rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    return solution.y.T.reshape(len(times), *start.shape)


def factor_velocity(scenario):
    A, B, target = moments(scenario)

    def velocity(W):
        descent = target - A @ W[0].T @ W[1] @ B
        return np.stack([W[1] @ descent.T, W[0] @ descent]) - float(scenario.weight_decay) * W

    return velocity


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


# T9


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_growth_follows_the_integrated_flow_of_the_factors(double, decay):
    """Modes with their own starts; the fourth has sigma* = 0, and decay makes two more of them shrink."""
    scenario, start = tight_scenario(weight_decay=decay), np.array([0.01, 0.02, 0.03, 0.04])
    U, sigma, Vt = np.linalg.svd(np.asarray(optimal_omega(tight_scenario())))
    times = np.linspace(0, 4 / 6, 9)
    W = integrated(factor_velocity(scenario), np.sqrt(start)[None, :, None] * np.stack([U.T, Vt]), times)
    sizes = [np.diagonal(U.T @ (W_Q.T @ W_K) @ Vt.T) for W_Q, W_K in W]
    np.testing.assert_allclose(growth(scenario, times, start), sizes, rtol=1e-6)
    assert (sigma[:3] > 0.1).all()


def test_growth_starts_at_the_start_and_ends_at_the_optimum(double):
    scenario = tight_scenario()
    a = growth(scenario, np.array([0.0, np.inf]), 0.01)
    np.testing.assert_allclose(a[0], 0.01)
    sigma = np.linalg.svd(np.asarray(optimal_omega(scenario)), compute_uv=False)
    np.testing.assert_allclose(a[1], sigma, rtol=1e-9, atol=1e-9)


def test_half_times_are_when_modes_are_half_way_and_in_order_of_strength(double):
    scenario = tight_scenario()
    times = half_times(scenario, 0.01)
    at_half = np.asarray(growth(scenario, times[:3], 0.01)).diagonal()
    sigma = np.linalg.svd(np.asarray(optimal_omega(scenario)), compute_uv=False)
    np.testing.assert_allclose(at_half, sigma[:3] / 2, rtol=1e-9)
    assert (np.diff(times[:3]) > 0).all()
    assert times[3] == np.inf
    np.testing.assert_array_equal(half_times(scenario, sigma[0])[:3], 0)


def test_order_of_learning_turns_at_the_stated_ratio(double):
    """`ln(s/a - 1)/s` falls with s from `s/a = 4.591` on, and rises before."""
    for ratio, sign in ((4.58, 1), (4.60, -1)):
        s = ratio * np.array([1.0, 1.0001, 1e-9, 1e-9])
        scenario = Scenario(np.eye(4), np.eye(4), np.diag(s))
        weak_strong = half_times(scenario, 1.0)[:2][::-1]
        assert np.sign(weak_strong[1] - weak_strong[0]) == sign


def test_growth_refuses_what_it_does_not_cover():
    with pytest.raises(InputError, match="objective must be 'square'"):
        growth(lawful("softmax"), jnp.ones(2), 0.1)
    with pytest.raises(InputError, match=r"tight token moments \(T9\), got condition numbers"):
        growth(lawful(), jnp.ones(2), 0.1)
    with pytest.raises(InputError, match=r"head_dim must be at least the number of modes \(T9\), got 2"):
        growth(tight_scenario(head_dim=2), jnp.ones(2), 0.1)
    scenario = tight_scenario(head_dim=3)
    assert growth(scenario, jnp.ones(2), 0.1).shape == (2, 3)
    with pytest.raises(InputError, match=r"start must be positive, got 0\.0"):
        growth(scenario, jnp.ones(2), 0.0)
    with pytest.raises(InputError, match=r"start must be a number or have shape \(3,\)"):
        growth(scenario, jnp.ones(2), jnp.ones(2))
    with pytest.raises(InputError, match=r"times must be at least 0, got -1\.0"):
        growth(scenario, jnp.array([1.0, -1.0]), 0.1)
    with pytest.raises(InputError, match="times must have 1 axes"):
        growth(scenario, 1.0, 0.1)
    assert jnp.isnan(jax.jit(growth)(lawful(), jnp.ones(2), 0.1)).all()


# the conserved imbalance


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_imbalance_is_conserved_or_decays(double, decay):
    """Along the integrated flow of an anisotropic head, from a start that is not balanced."""
    scenario = lawful(weight_decay=decay)
    start = np.random.default_rng(3).normal(size=(2, 3, D))
    W_Q, W_K = integrated(factor_velocity(scenario), start, np.array([0.0, 1.3]))[-1]
    np.testing.assert_allclose(imbalance(W_Q, W_K), imbalance(*start, decay, 1.3), atol=1e-8)


def test_imbalance_names_wrong_arguments():
    with pytest.raises(InputError, match="W_K must have 2 rows"):
        imbalance(jnp.eye(2), jnp.eye(3))
    with pytest.raises(InputError, match=r"weight_decay must be at least 0, got -1\.0"):
        imbalance(jnp.eye(2), jnp.eye(2), -1.0, 1.0)
    assert (imbalance(jnp.eye(2), 2 * jnp.eye(2), 0.0, jnp.inf) == -3 * jnp.eye(2)).all()
    assert not imbalance(jnp.eye(2), 2 * jnp.eye(2), 0.1, jnp.inf).any()


# T17


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("make", [lawful, lambda: Scenario(frame(2, N, rank=2), frame(3, M, rank=3), T)])
def test_filter_is_the_integrated_flow(double, make, decay):
    """Also where tokens do not span the space, so that part of the start stays, or decays on its own."""
    scenario = make()
    A, B, target = moments(scenario)
    start = np.random.default_rng(4).normal(size=(D, D))
    times = np.array([0.0, 0.1, 1.0, 5.0])
    flow = integrated(lambda O: target - A @ O @ B - decay * O, start, times)
    for t, expected in zip(times, flow, strict=True):
        found = filtered_optimum(scenario, t, start, omega_decay=decay)
        assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected)


def test_softmax_filter_is_the_flow_of_the_exact_cross_entropy(double):
    """All queries and pairs of keys of a finite law, enumerated; small logits, so the expansion of T6 is the limit."""
    rng = np.random.default_rng(5)
    X, Y, T = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), 1e-4 * rng.normal(size=(4, 4))
    p, q = rng.dirichlet(np.ones(4), size=2)
    scenario = Scenario(X, Y, T, OneHot(4, p), OneHot(4, q), "softmax", n_keys=3)
    i, *keys = np.meshgrid(*[np.arange(4)] * 4, indexing="ij")
    keys = np.stack(keys, axis=-1)
    weight = p[i] * q[keys].prod(axis=-1)
    r, s = X.T[i], Y.T[keys]
    wanted = softmax(T[i[..., None], keys])

    def velocity(O):
        error = wanted - softmax(np.einsum("...d,de,...ke->...k", r, O, s))
        return np.einsum("abcd,abcdx,abcdk,abcdky->xy", weight, r, error, s)

    times = np.array([0.3, 3.0, 30.0])
    for t, expected in zip(times, integrated(velocity, np.zeros((3, 3)), times), strict=True):
        found = filtered_optimum(scenario, t)
        assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("objective", ["square", "softmax"])
def test_filter_limits(double, objective):
    scenario = lawful(objective)
    _, _, target = moments(scenario)
    pace = 1 - 1 / 8 if objective == "softmax" else 1
    np.testing.assert_allclose(filtered_optimum(scenario, 1e-9), 1e-9 * pace * target, rtol=1e-6, atol=1e-15)
    np.testing.assert_array_equal(filtered_optimum(scenario, 0.0), 0)
    np.testing.assert_allclose(filtered_optimum(scenario, np.inf), optimal_omega(scenario), rtol=1e-9, atol=1e-12)


def test_decay_of_omega_filters_the_optimum(double):
    """`(lam mu + gamma) Omega = M` in the eigenbases: the ridge solution."""
    scenario, gamma = lawful(), 0.07
    A, B, target = moments(scenario)
    ridge = np.linalg.solve(np.kron(A, B) + gamma * np.eye(D * D), target.ravel()).reshape(D, D)
    np.testing.assert_allclose(filtered_optimum(scenario, np.inf, omega_decay=gamma), ridge, rtol=1e-8, atol=1e-12)


def test_filter_refuses_what_it_does_not_cover():
    with pytest.raises(InputError, match=r"head_dim must be at least 4, D, for the filter \(T17\), got 3"):
        filtered_optimum(lawful(head_dim=3), 1.0)
    with pytest.raises(InputError, match=r"weight_decay must be 0 for the filter \(T17\), got 0\.5"):
        filtered_optimum(lawful(weight_decay=0.5), 1.0)
    with pytest.raises(InputError, match=r"time must be at least 0, got -1\.0"):
        filtered_optimum(lawful(), -1.0)
    with pytest.raises(InputError, match="time must be finite"):
        filtered_optimum(lawful(), np.nan)
    with pytest.raises(InputError, match=r"start must have shape \(4, 4\)"):
        filtered_optimum(lawful(), 1.0, jnp.eye(3))
    with pytest.raises(InputError, match=r"omega_decay must be at least 0, got -1\.0"):
        filtered_optimum(lawful(), 1.0, omega_decay=-1.0)
    with pytest.raises(TypeError, match="time must be an array of real numbers"):
        filtered_optimum(lawful(), "long")  # pyright: ignore


def condition_bounds(X, Y, time):
    """Cosines of the leading vectors of `filtered_optimum` with x_0, y_0, and kappa' of both sides."""
    scenario = Scenario(X, Y, single_pair(X.shape[1], Y.shape[1], 0, 0))
    U, _, Vt = jnp.linalg.svd(filtered_optimum(scenario, time))
    cosines = jnp.abs(U[:, 0] @ X[:, 0]), jnp.abs(Vt[0] @ Y[:, 0])
    lengths = jnp.linalg.norm(X[:, 0]), jnp.linalg.norm(Y[:, 0])
    return [c / length for c, length in zip(cosines, lengths, strict=True)], training_condition_numbers(scenario, time)


def test_bounds_hold_on_a_thousand_random_frames(double):
    """kappa' of both sides, for condition numbers up to some thousands and times over eight decades."""
    rng = np.random.default_rng(6)
    X, Y = (rng.normal(size=(1000, D, n)) * rng.lognormal(0, 1.5, size=(1000, D, 1)) for n in (N, M))
    time = 10 ** rng.uniform(-6, 2, size=1000)
    cosines, kappas = jax.jit(jax.vmap(condition_bounds))(X, Y, time)
    for cosine, kappa in zip(cosines, kappas, strict=True):
        assert (cosine >= kantorovich_bound(kappa) - 1e-9).all()
        assert np.min(cosine) < 0.5
        assert np.min(cosine / kantorovich_bound(kappa)) < 1.01


def test_one_isotropic_side_gives_kappa_t_on_a_thousand_random_frames(double):
    rng = np.random.default_rng(7)
    X = rng.normal(size=(1000, D, N)) * rng.lognormal(0, 1.5, size=(1000, D, 1))
    time = 10 ** rng.uniform(-5, 2, size=1000)
    Y = np.broadcast_to(np.sqrt(2) * np.eye(D), (1000, D, D))
    (cosine, _), (kappa, _) = jax.jit(jax.vmap(condition_bounds))(X, Y, time)
    s = np.linalg.svd(X, compute_uv=False) ** 2
    np.testing.assert_allclose(kappa, training_condition_number(2 * s[:, -1], 2 * s[:, 0], time), rtol=1e-9)
    assert (cosine >= kantorovich_bound(kappa) - 1e-9).all()
    assert ((kappa >= 1) & (kappa <= s[:, 0] / s[:, -1] * (1 + 1e-9))).all()


def test_condition_numbers_rise_from_1_to_kappa(double):
    scenario = Scenario(frame(0, N), frame(1, M), T)
    kappas = np.array([training_condition_numbers(scenario, t) for t in (0.0, 0.1, 1.0, 10.0, np.inf)])
    assert (np.diff(kappas, axis=0) > 0).all()
    np.testing.assert_array_equal(kappas[0], 1)
    A, B, _ = moments(scenario)
    np.testing.assert_allclose(kappas[-1], [np.linalg.cond(A), np.linalg.cond(B)], rtol=1e-8)


@given(seeds)
def test_filter_turns_with_its_features(seed):
    """Rotating both sides rotates Omega(t); permuting features with the target changes nothing."""
    rng = np.random.default_rng(seed)
    Q, R = (np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in range(2))
    X, Y, order = frame(seed, N), frame(seed + 1, M), rng.permutation(N)
    with jax.enable_x64(True):
        expected = Q @ np.asarray(FILTERED(Scenario(X, Y, T), 0.7)) @ R.T
        found = FILTERED(Scenario(Q @ X[:, order], R @ Y, np.asarray(T)[order]), 0.7)
        np.testing.assert_allclose(found, expected, atol=1e-9)


FILTERED = jax.jit(filtered_optimum)


@pytest.mark.parametrize(("time", "decay"), [(0.3, 0.0), (0.3, 0.2), (np.inf, 0.0)])
def test_filter_has_its_true_gradient_at_a_tight_frame(double, time, decay):
    """Where all eigenvalues are equal and their derivatives are not."""
    rng = np.random.default_rng(8)
    weights, start, direction = rng.normal(size=(D, D)), rng.normal(size=(D, D)), rng.normal(size=(D, N))
    X, Y, h = tight(0, N, 2.0), tight(1, M, 3.0), 1e-5

    def projected(X):
        return (weights * FILTERED(Scenario(X, Y, T), time, start, decay)).sum()

    difference = (projected(X + h * direction) - projected(X - h * direction)) / (2 * h)
    np.testing.assert_allclose((jax.grad(projected)(X) * direction).sum(), difference, rtol=1e-6)


def test_precision_vmap_gradients_and_one_trace(dtype):
    """At a generic and at a tight frame, where derivatives of eigenvectors alone would not be finite."""
    X, Z, Y = (jnp.asarray(x, dtype) for x in (frame(0, N), tight(0, N, 2.0), tight(1, M, 3.0)))
    target, start, a = (jnp.asarray(x, dtype) for x in (T, np.eye(D), 0.1))
    traces = []

    def everything(X, time):
        traces.append(None)
        scenario, isotropic = Scenario(X, Y, target), Scenario(Z, Y, target)
        filtered = filtered_optimum(scenario, time, start), *training_condition_numbers(scenario, time)
        return filtered, (growth(isotropic, time[None], a), half_times(isotropic, a)[:3], imbalance(X, X, a, time))

    def summed(X, time):
        filtered, others = everything(X, time)
        return sum(x.sum() for x in filtered), (filtered, others)

    mapped = jax.jit(jax.vmap(jax.value_and_grad(summed, has_aux=True)))
    (_, out), gradients = mapped(jnp.stack([X, X, Z, X]), jnp.array([0.0, 1.0, 1.0, jnp.inf], dtype))
    mapped(jnp.stack([Z, Z, X, X]), jnp.array([0.0, 3.0, 1.0, 2.0], dtype))
    assert len(traces) == 1
    assert {x.dtype for x in jax.tree.leaves((out, gradients))} == {dtype}
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((out, gradients)))
    np.testing.assert_allclose(out[0][0][3], optimal_omega(Scenario(X, Y, target)), atol=2e-3)
