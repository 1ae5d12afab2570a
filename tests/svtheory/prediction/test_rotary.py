"""T13: complex rank-one form against rotated scores, predicted spectra against RoPE heads optimised directly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from svtheory import (
    BernoulliUniform,
    InputError,
    Scenario,
    matching,
    predict,
    rotary_head,
    rotary_spectra,
    single_pair,
    spectrum,
)
from svtheory.prediction import RotaryHead, plane_cost, projected_profile

OFFSETS = np.arange(16.0)

head_of = jax.jit(rotary_head, static_argnums=3)
omega_at = jax.jit(RotaryHead.omega)
cost = jax.jit(plane_cost)
project = jax.jit(projected_profile)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def naive_score(W_Q, W_K, r, s, frequencies, pairing, query_position, key_position):
    """Rotate the planes of queries and keys by their positions, one at a time, as a transformer does."""
    half = len(frequencies)

    def rotated(x, position):
        y = x.copy()
        for h, theta in enumerate(frequencies):
            a, b = (2 * h, 2 * h + 1) if pairing == "adjacent" else (h, h + half)
            c, n = np.cos(theta * position), np.sin(theta * position)
            y[a], y[b] = c * x[a] - n * x[b], n * x[a] + c * x[b]
        return y

    return rotated(W_Q @ r, query_position) @ rotated(W_K @ s, key_position)


@given(st.integers(0, 2**31 - 1), st.sampled_from(["adjacent", "half-split"]), st.integers(0, 3), st.integers(0, 50))
def test_scores_are_those_of_rotated_queries_and_keys(seed, pairing, rotated_planes, offset):
    """Also where only some rows are rotated."""
    rng = np.random.default_rng(seed)
    W_Q, W_K, r, s = rng.normal(size=(6, 5)), rng.normal(size=(6, 4)), rng.normal(size=5), rng.normal(size=4)
    frequencies = rng.uniform(0, 2, size=max(rotated_planes, 1)) * (rotated_planes > 0)
    head = head_of(W_Q, W_K, frequencies, pairing)
    for key_position in (0, 7):
        score = naive_score(W_Q, W_K, r, s, frequencies, pairing, key_position + offset, key_position)
        np.testing.assert_allclose(r @ np.asarray(omega_at(head, float(offset))) @ s, score, atol=1e-11)


def test_a_head_without_rotation_is_its_own_omega(dtype):
    rng = np.random.default_rng(0)
    W_Q, W_K = (jnp.asarray(rng.normal(size=(4, 3)), dtype) for _ in range(2))
    head = head_of(W_Q, W_K, jnp.zeros(2, dtype), "half-split")
    for offset in (0.0, 3.0):
        omega = omega_at(head, offset)
        assert omega.dtype == dtype
        np.testing.assert_allclose(omega, W_Q.T @ W_K, rtol=1e-5)
    values = jax.jit(lambda head: spectrum(*head.at(5)))(head).values
    np.testing.assert_allclose(values[:3], np.linalg.svd(W_Q.T @ W_K, compute_uv=False), rtol=1e-4)


def test_a_profile_within_the_span_is_kept():
    frequencies = np.array([0.3, 1.1])
    angles = OFFSETS[:, None] * frequencies[None, :]
    profile = np.cos(angles) @ [1, -2] + np.sin(angles) @ [0.5, 3]
    np.testing.assert_allclose(project(profile, frequencies, OFFSETS), profile, atol=1e-12)
    # an unrotated plane keeps a constant; so do as many frequencies as pin every offset
    np.testing.assert_allclose(project(np.ones(16), np.zeros(1), OFFSETS), 1, rtol=1e-12)
    anything = np.random.default_rng(0).normal(size=16)
    np.testing.assert_allclose(project(anything, np.arange(1, 9) / 3, OFFSETS), anything, atol=1e-6)


@given(st.integers(0, 2**31 - 1))
def test_the_projection_is_weighted_least_squares(seed):
    """Equal to the normal equations', linear, idempotent, and blind to the size of the weights."""
    rng = np.random.default_rng(seed)
    frequencies, weights = rng.uniform(0.1, 3, size=3), rng.uniform(0.1, 2, size=16)
    g, other = rng.normal(size=(2, 16))
    angles = OFFSETS[:, None] * frequencies[None, :]
    design = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    root = np.sqrt(weights)
    fitted = design @ np.linalg.lstsq(root[:, None] * design, root * g, rcond=None)[0]
    found, others = (np.asarray(project(profile, frequencies, OFFSETS, weights)) for profile in (g, other))
    np.testing.assert_allclose(found, fitted, atol=1e-8)
    for profile, expected in ((2 * g - other, 2 * found - others), (found, found)):
        np.testing.assert_allclose(project(profile, frequencies, OFFSETS, weights), expected, atol=1e-8)
    np.testing.assert_allclose(project(g, frequencies, OFFSETS, 7 * weights), found, atol=1e-11)


@jax.jit
def value_and_slope(flat, X, Y, C, C_, target, frequencies, p):
    """`sum_d p(d) E (r^T Omega_d s - f^T T_d g)^2` of the factors of a rotary head, and its gradient."""

    def loss(flat):
        head = rotary_head(*flat.reshape(2, -1, X.shape[0]), frequencies, "adjacent")
        error = jax.vmap(lambda d, T: X.T @ head.omega(d) @ Y - T)(jnp.asarray(OFFSETS), target)
        return jnp.einsum("d,dij,jk,dlk,li->", p / p.sum(), error, C_, error, C)

    return jax.value_and_grad(loss)(flat)


def optimised_head(X, Y, C, C_, target, frequencies, p, rng, starts=1):
    """The rotary head of least loss that L-BFGS finds, and that loss."""

    def numpy_value_and_slope(flat):
        return tuple(np.asarray(a) for a in value_and_slope(flat, X, Y, C, C_, target, frequencies, p))

    size = 4 * len(X) * frequencies.size
    options = {"maxiter": 5000, "maxfun": 10000, "ftol": 1e-16, "gtol": 1e-12, "maxcor": 40}
    found = [
        scipy.optimize.minimize(
            numpy_value_and_slope, rng.normal(size=size) / 3, jac=True, method="L-BFGS-B", options=options
        )
        for _ in range(starts)
    ]
    best = min(found, key=lambda result: result.fun)
    return rotary_head(*best.x.reshape(2, -1, len(X)), frequencies, "adjacent"), best.fun


PROFILES = {
    "constant": np.ones(16),
    "falling": np.exp(-OFFSETS / 4),
    "previous token": (OFFSETS == 1).astype(float),
}


@pytest.mark.parametrize("with_law", [False, True])
@pytest.mark.parametrize("profile", PROFILES)
def test_optimised_heads_have_the_predicted_spectrum_at_every_offset(profile, with_law):
    """At every offset with g^ above 5 % of its maximum."""
    rng = np.random.default_rng(len(profile))
    D, N = 5, 7
    X, Y = rng.normal(size=(2, D, N))
    law = BernoulliUniform(0.3, N) if with_law else None
    scenario = Scenario(X, Y, single_pair(N, N, 2, 4, 3.0), law, law)
    C = np.eye(N) if law is None else np.asarray(law.second_moment())
    frequencies, weights, g = np.array([0.05, 0.4, 1.3]), 16 - OFFSETS, PROFILES[profile]
    target = g[:, None, None] * np.asarray(scenario.target)[None]
    head, _ = optimised_head(X, Y, C, C, target, frequencies, weights, rng)
    predicted = jax.tree.map(np.asarray, rotary_spectra(scenario, g, frequencies, OFFSETS, weights))
    strength = predicted.values[:, 0] / predicted.values[:, 0].max()
    assert (strength > 0.05).sum() >= 5
    measured_at = jax.jit(lambda head, d: spectrum(*head.at(d)))
    for k in np.flatnonzero(strength > 0.05):
        measured = jax.tree.map(np.asarray, measured_at(head, OFFSETS[k]))
        assert measured.left[:, 0] @ predicted.left[k, :, 0] * (measured.right[:, 0] @ predicted.right[k, :, 0]) > 0.999
        assert abs(measured.left[:, 0] @ predicted.left[k, :, 0]) > 0.999
        np.testing.assert_allclose(measured.values[0], predicted.values[k, 0], rtol=1e-3)


def test_predicted_spectra_scale_the_optimum(dtype):
    rng = np.random.default_rng(1)
    X, Y = (jnp.asarray(rng.normal(size=(4, 6)), dtype) for _ in range(2))
    scenario = Scenario(X, Y, single_pair(6, 6, 0, 1, jnp.asarray(2.0, dtype)), head_dim=2)
    g = jnp.asarray(np.cos(OFFSETS / 3), dtype)
    frequencies, offsets = jnp.asarray([1 / 3], dtype), jnp.asarray(OFFSETS, dtype)
    compiled = jax.jit(rotary_spectra)
    found, best = compiled(scenario, g, frequencies, offsets), predict(scenario)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {dtype}
    assert found.left.shape == (16, 4, 2)
    tolerance = 100 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found.values[:, 0], np.abs(g) * best.values[0], atol=tolerance * best.values[0])
    np.testing.assert_allclose(found.gaps[:, 0], found.values[:, 0], rtol=tolerance)
    signed = (
        found.values[:, 0] * (best.left[:, 0] @ found.left[:, :, 0].T) * (best.right[:, 0] @ found.right[:, :, 0].T)
    )
    np.testing.assert_allclose(signed, g * best.values[0], atol=tolerance * best.values[0])
    again = 2 * g
    with jax.no_tracing():
        compiled(scenario, again, frequencies, offsets)


@pytest.mark.parametrize("frequency", [0.0, 0.01, 0.05, 0.2, 0.3, 1.0])
def test_two_pairs_in_one_plane_cost_what_the_best_head_pays(frequency):
    strength, weights = 1.5, np.exp(-OFFSETS / 20)
    target = np.repeat(strength * np.diag([1.0, 1, 0])[None], 16, axis=0)
    rng = np.random.default_rng(0)
    for p in (np.ones(16), weights):
        _, loss = optimised_head(*[np.eye(3)] * 4, target, np.array([frequency]), p, rng, starts=4)
        np.testing.assert_allclose(cost(frequency, OFFSETS, p, strength), loss, rtol=1e-6, atol=1e-10)


def test_published_costs_of_two_pairs(dtype):
    costs = jnp.stack([cost(jnp.asarray(f, dtype), jnp.asarray(OFFSETS, dtype)) for f in (0.01, 0.05, 0.3)])
    assert costs.dtype == dtype
    np.testing.assert_allclose(costs, [0.004246396, 0.104021971, 1.797783034], rtol=1e-5)
    # small angles keep their digits: 2 theta^2 var(d)
    tiny = cost(jnp.asarray(1e-5, dtype), jnp.asarray(OFFSETS, dtype))
    np.testing.assert_allclose(tiny, 2e-10 * OFFSETS.var(), rtol=1e-4)


def test_costs_under_vmap_and_grad():
    frequencies = np.array([0.01, 0.05, 0.2, 0.3])
    costs = jax.jit(jax.vmap(lambda f: plane_cost(f, OFFSETS)))(frequencies)
    np.testing.assert_allclose(costs, [float(cost(f, OFFSETS)) for f in frequencies], rtol=1e-12)
    for f in (0.05, 0.3):
        difference = (cost(f + 1e-5, OFFSETS) - cost(f - 1e-5, OFFSETS)) / 2e-5
        np.testing.assert_allclose(jax.jit(jax.grad(plane_cost))(f, OFFSETS), difference, rtol=1e-5)


def test_the_gradient_of_a_projection():
    rng = np.random.default_rng(2)
    g, frequencies = rng.normal(size=16), np.array([0.2, 0.9])
    at = jax.jit(lambda f: (projected_profile(g, f, OFFSETS) ** 3).sum())
    h = 1e-6 * np.eye(2)
    differences = [(at(frequencies + step) - at(frequencies - step)) / 2e-6 for step in h]
    np.testing.assert_allclose(jax.grad(at)(frequencies), differences, rtol=1e-5)


def scenario_of(**options):
    return Scenario(np.eye(3), np.eye(3), options.pop("target", single_pair(3, 3, 0, 1)), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rotary_head(np.eye(3), np.eye(3), [1.0], "adjacent"), "W_Q must have an even number of rows"),
        (lambda: rotary_head(np.eye(4), np.eye(2), [1.0], "adjacent"), "W_K must have 4 rows"),
        (lambda: rotary_head(np.eye(2), np.eye(2), [1.0, 2.0], "adjacent"), "frequencies must be at most 1"),
        (lambda: rotary_head(np.eye(2), np.eye(2), [1.0], "interleaved"), "pairing must be one of 'adjacent'"),
        (lambda: projected_profile(np.ones(3), [1.0], OFFSETS), r"profile must have shape \(16,\)"),
        (lambda: projected_profile(np.ones(16), [1.0], OFFSETS, np.ones(3)), r"weights must have shape \(16,\)"),
        (lambda: plane_cost(0.1, OFFSETS, OFFSETS), "weights must be positive, got 0.0"),
        (
            lambda: rotary_spectra(scenario_of(target=matching(3, 3, [0, 1], [0, 1], [1.0, 2.0])), *[[1.0]] * 3),
            "scenario must have a target of one pair",
        ),
        (lambda: rotary_spectra(scenario_of(weight_decay=0.1), *[[1.0]] * 3), "no weight decay"),
        (
            lambda: rotary_spectra(
                scenario_of(objective="softmax", query_law=BernoulliUniform(0.5, 3), key_law=BernoulliUniform(0.5, 3)),
                *[[1.0]] * 3,
            ),
            "scenario must have the square objective",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
