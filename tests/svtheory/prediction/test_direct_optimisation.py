"""The optima of T1, T4, T5, T7, T8 and T24 against heads whose factors were optimised directly, in float64."""

import jax
import numpy as np
import pytest
import scipy.optimize

from svtheory import BernoulliUniform, Gaussian, Scenario, matching, predict, single_pair

D, N, M = 4, 7, 6
PAIRS = ([0, 1, 2, 3], [2, 0, 5, 1], [3.0, -2.0, 1.0, 2.5])


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def optimised_omega(scenario, seed):
    """Omega of the factors that L-BFGS finds for `(1/2) E (r^T Omega s - f^T T g)^2` with the factors' decay."""
    X, Y, T = (np.asarray(a) for a in (scenario.query_features, scenario.key_features, scenario.target))
    laws = scenario.query_law, scenario.key_law
    C, C_ = (
        np.eye(n) if law is None else np.asarray(law.second_moment()) for n, law in zip(T.shape, laws, strict=True)
    )
    g, rng = float(scenario.weight_decay), np.random.default_rng(seed)
    # a start inside the tokens' range ends at the least-norm optimum
    start = np.stack([rng.normal(size=(scenario.rank, n)) @ F.T / 5 for n, F in zip(T.shape, (X, Y), strict=True)])

    def loss_and_gradient(flat):
        W_Q, W_K = flat.reshape(start.shape)
        error = X.T @ W_Q.T @ W_K @ Y - T
        dOmega = X @ C @ error @ C_ @ Y.T
        loss = (np.trace(C @ error @ C_ @ error.T) + g * (flat @ flat)) / 2
        return loss, np.stack([W_K @ dOmega.T, W_Q @ dOmega]).ravel() + g * flat

    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 0, "gtol": 1e-13, "maxcor": 60}
    found = scipy.optimize.minimize(loss_and_gradient, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    W_Q, W_K = found.x.reshape(start.shape)
    return W_Q.T @ W_K


def features(seed, N, rank=D):
    rng = np.random.default_rng(seed)
    return np.linalg.qr(rng.normal(size=(D, rank)))[0] @ rng.normal(size=(rank, N))


def gaussian(seed, size):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size)) / 2 + np.eye(size)
    return Gaussian(rng.normal(size=size), root @ root.T)


def one_pair(rank=D, present=N):
    """A pair of features of which only the first few are there, and which span `rank` dimensions."""
    X, Y = (features(0, N, rank) * (np.arange(N) < present), features(1, M, rank) * (np.arange(M) < present))
    return Scenario(X, Y, single_pair(N, M, 0, 1, 2.0))


def four_pairs(query_law=None, key_law=None, **options):
    return Scenario(features(2, N), features(3, M), matching(N, M, *PAIRS), query_law, key_law, **options)


def decayed(**options):
    X, Y = (np.linalg.qr(features(8, n).T)[0].T for n in (N, M))
    return Scenario(1.3 * X, 2 * Y, matching(N, M, *PAIRS), weight_decay=1.5, **options)


SCENARIOS = {
    "T1, more features than dimensions": one_pair,
    "T1, as many": lambda: one_pair(present=D),
    "T1, fewer features than dimensions": lambda: one_pair(present=3),
    "T1, dependent features": lambda: one_pair(rank=2),
    "T4": four_pairs,
    "T5, present or absent": lambda: four_pairs(BernoulliUniform(0.4, N), BernoulliUniform(0.7, M)),
    "T5, correlated": lambda: four_pairs(gaussian(6, N), gaussian(7, M)),
    "T7": lambda: four_pairs(head_dim=2),
    "T7, correlated": lambda: four_pairs(gaussian(6, N), gaussian(7, M), head_dim=3),
    "T8": decayed,
    "T8, rank 2": lambda: decayed(head_dim=2),
    "T24": lambda: four_pairs(weight_decay=2.0),
    "T24, correlated": lambda: four_pairs(gaussian(6, N), gaussian(7, M), weight_decay=10.0),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_optimised_factors_end_at_the_closed_form(name):
    scenario = SCENARIOS[name]()
    found, expected = optimised_omega(scenario, seed=10), predict(scenario)
    omega = (np.asarray(expected.left) * np.asarray(expected.values)) @ np.asarray(expected.right).T
    assert np.linalg.norm(found - omega) < 1e-5 * np.linalg.norm(omega)
    values = np.linalg.svd(found, compute_uv=False)[: scenario.rank]
    np.testing.assert_allclose(values, expected.values, atol=1e-5 * values[0])


@pytest.mark.parametrize("name", ["T8", "T24", "T24, correlated"])
def test_the_decay_above_removes_some_modes_and_not_others(name):
    values = np.asarray(predict(SCENARIOS[name]()).values)
    assert 1 <= (values > 1e-12).sum() < 4
