import jax
import numpy as np
import pytest

from proofs.theorems import t07_reduced_rank as t07
from svtheory import Gaussian, Scenario, optimal_omega
from tests.agreement.claims import frames, function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def _root(moment):
    """The symmetric root of a moment, exactly 0 outside its range."""
    values, vectors = np.linalg.eigh(moment)
    return (vectors * np.sqrt(np.where(values > 1e-10 * values[-1], values, 0))) @ vectors.T


def _claimed(R, Q, middle, rank):
    gamma = np.linalg.pinv(R, rcond=1e-7) @ middle @ np.linalg.pinv(Q, rcond=1e-7)
    top = np.linalg.svd(gamma)[0][:, :rank]
    optimum = function(t07.theorem.claim["optimum"].rhs, t07.R, t07.Q, t07.Mid, t07.left)
    return optimum(R, Q, middle, top @ top.T)


def _agrees(found, wanted, *roots):
    condition = max(np.linalg.norm(root, 2) * np.linalg.norm(np.linalg.pinv(root, rcond=1e-7), 2) for root in roots)
    return np.abs(np.asarray(found) - wanted).max() <= max(1e-10, 1e-15 * condition**3) * np.abs(wanted).max()


@pytest.mark.parametrize("rank", [1, 2])
def test_without_laws(rank):
    computed = optimal_omega
    for _, X, Y, T in frames(7):
        R, Q = _root(X @ X.T), _root(Y @ Y.T)
        assert _agrees(computed(Scenario(X, Y, T, head_dim=rank)), _claimed(R, Q, X @ T @ Y.T, rank), R, Q)


@pytest.mark.parametrize("query_bias", [False, True])
def test_softmax(query_bias):
    computed = optimal_omega
    for rng, X, Y, T in frames(8):
        laws = [
            Gaussian(rng.normal(size=size), np.diag(rng.uniform(0.5, 2, size))) for size in (X.shape[1], Y.shape[1])
        ]
        moments = np.asarray(laws[0].second_moment()), np.asarray(laws[1].covariance())
        A, middle = X @ moments[0] @ X.T, X @ moments[0] @ T @ moments[1] @ Y.T
        if query_bias:  # the head reads (r; 1)
            mean = np.asarray(laws[0].mean())
            A = np.block([[A, (X @ mean)[:, None]], [(X @ mean)[None, :], np.ones((1, 1))]])
            middle = np.vstack([middle, mean @ T @ moments[1] @ Y.T])
        R, Q = _root(A), _root(Y @ moments[1] @ Y.T)
        scenario = Scenario(X, Y, T, *laws, objective="softmax", head_dim=1, query_bias=query_bias)
        assert _agrees(computed(scenario), _claimed(R, Q, middle, 1)[: len(X)], R, Q)
