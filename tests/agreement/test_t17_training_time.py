import jax
import numpy as np
import pytest

from proofs.theorems import t17_training_time as t17
from svtheory import Gaussian, Scenario, filtered_optimum
from svtheory.prediction import training_condition_number
from svtheory.prediction.training_time import training_condition_numbers
from tests.agreement.claims import frames, function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def _filtered(A, B, middle, start, time):
    """The claimed solution, entry by entry in the eigenbases of A and B."""
    solution = function(t17.solution, t17.target, t17.rate, t17.time, t17.start)
    (lam, P), (mu, Q) = np.linalg.eigh(A), np.linalg.eigh(B)
    rates = np.outer(lam, mu)
    moving = rates > 1e-10 * rates.max()
    pulled, begun = P.T @ middle @ Q, P.T @ start @ Q
    return P @ np.where(moving, solution(pulled, np.where(moving, rates, 1), time, begun), begun) @ Q.T


def test_without_laws():
    computed = jax.jit(filtered_optimum)
    for rng, X, Y, T in frames(17):
        time, start = rng.uniform(0.01, 2), rng.normal(size=(len(X), len(X)))
        wanted = _filtered(X @ X.T, Y @ Y.T, X @ T @ Y.T, start, time)
        found = np.asarray(computed(Scenario(X, Y, T), time, start))
        assert np.abs(found - wanted).max() <= 1e-10 * np.abs(wanted).max()


def test_softmax_at_small_logits():
    computed = jax.jit(filtered_optimum)
    for rng, X, Y, T in frames(18):
        laws = [
            Gaussian(rng.normal(size=size), np.diag(rng.uniform(0.5, 2, size))) for size in (X.shape[1], Y.shape[1])
        ]
        C, V = np.asarray(laws[0].second_moment()), np.asarray(laws[1].covariance())
        time, pace = rng.uniform(0.01, 1), 1 - 1 / 4
        wanted = _filtered(X @ C @ X.T, Y @ V @ Y.T, X @ C @ T @ V @ Y.T, np.zeros((len(X), len(X))), pace * time)
        scenario = Scenario(X, Y, T, *laws, objective="softmax", n_keys=4)
        found = np.asarray(computed(scenario, time))
        assert np.abs(found - wanted).max() <= 1e-10 * np.abs(wanted).max()


def test_condition_numbers():
    claimed = function(t17.kappa_t, t17.m, t17.L, t17.tau)
    rng, computed = np.random.default_rng(19), jax.jit(training_condition_number)
    for _ in range(100):
        m, ratio, tau = rng.uniform(0.1, 2), rng.uniform(1, 50), rng.uniform(0.01, 5)
        assert np.isclose(computed(m, m * ratio, tau), claimed(m, m * ratio, tau), rtol=1e-10)


def test_condition_numbers_of_two_sides():
    claimed = function(t17.theorem.claim["kappa' is kappa_t at L_s t"].rhs.doit(), t17.m, t17.L, t17.L_s, t17.tau)
    for rng, X, Y, T in frames(20):
        tau = rng.uniform(0.01, 2)
        query, key = (np.linalg.svd(F, compute_uv=False) ** 2 for F in (X, Y))
        (m_r, L_r), (m_s, L_s) = ((v[v > 1e-10 * v[0]][-1], v[0]) for v in (query, key))
        found = training_condition_numbers(Scenario(X, Y, T), tau)
        assert np.allclose(found, [claimed(m_r, L_r, L_s, tau), claimed(m_s, L_s, L_r, tau)], rtol=1e-10)
