import jax
import numpy as np
import pytest

from proofs.theorems import t08_soft_threshold as t08
from svtheory import Scenario, optimal_omega, predict
from svtheory.prediction import imbalance
from tests.agreement.claims import close, function

SHAPES = ((4, 2, 3), (3, 3, 3), (3, 6, 5), (4, 7, 2))  # D, N, M: below, at and above D


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def _tight(rng, dim, size, rank):
    """A frame that is tight on a subspace, and its eigenvalue there."""
    rank = min(rank, size)
    basis, rows = np.linalg.qr(rng.normal(size=(dim, rank)))[0], np.linalg.qr(rng.normal(size=(size, rank)))[0]
    scale = rng.uniform(0.5, 2)
    return scale * basis @ rows.T, scale**2


def tight_scenarios(seed):
    """X, its eigenvalue, Y, its eigenvalue, T; every other frame does not span its space even where N allows it."""
    rng = np.random.default_rng(seed)
    for dim, n, m in SHAPES:
        for draw in range(25):
            rank = dim - draw % 2
            (X, alpha), (Y, beta) = _tight(rng, dim, n, rank), _tight(rng, dim, m, rank)
            yield rng, X, alpha, Y, beta, rng.normal(size=(n, m))


def test_optimum_without_decay():
    symbols = t08.X, t08.Y, t08.T, t08.alpha, t08.beta
    claimed, computed = function(t08.theorem.claim["optimum without decay"].rhs, *symbols), jax.jit(optimal_omega)
    for _, X, alpha, Y, beta, T in tight_scenarios(0):
        assert close(computed(Scenario(X, Y, T)), claimed(X, Y, T, alpha, beta))


def test_each_value_is_zero_or_lowered_by_theta():
    excess = function(t08.theorem.claim["soft threshold"].args[1].lhs, t08.s, t08.sigma, t08.theta)
    computed = jax.jit(predict)
    for rng, X, alpha, Y, beta, T in tight_scenarios(1):
        free = computed(Scenario(X, Y, T))
        g = alpha * beta * rng.uniform(0, 1.2) * float(free.values[0])
        decayed = computed(Scenario(X, Y, T, weight_decay=g))
        sigma, s, theta = np.asarray(free.values), np.asarray(decayed.values), g / (alpha * beta)
        assert np.abs(excess(s, sigma, theta)).max() <= 1e-10 * sigma[0] ** 2
        assert ((s > 0) == (sigma > theta)).all()
        kept = s > 1e-6 * sigma[0]
        overlap = np.abs(np.sum(np.asarray(free.left) * np.asarray(decayed.left), axis=0))
        assert np.allclose(overlap[kept], 1, atol=1e-10)


def test_optimum_attains_the_bound():
    computed, free = jax.jit(predict), jax.jit(optimal_omega)
    objective = function(t08.theorem.claim["optimum"].lhs, t08.A, t08.B, t08.U, t08.V, t08.Sigma, t08.theta)
    for rng, X, alpha, Y, beta, T in tight_scenarios(2):
        best = np.linalg.svd(np.asarray(free(Scenario(X, Y, T))))
        theta = rng.uniform(0, 1) * best[1][0]
        spectrum = computed(Scenario(X, Y, T, weight_decay=theta * alpha * beta))
        root = np.sqrt(np.asarray(spectrum.values))[:, None]
        A, B = root * np.asarray(spectrum.left).T, root * np.asarray(spectrum.right).T
        shrunk = np.maximum(best[1] - theta, 0)
        lowest = ((best[1] - shrunk) ** 2).sum() / 2 + theta * shrunk.sum()
        assert close(objective(A, B, best[0], best[2].T, np.diag(best[1]), theta), lowest)


def test_imbalance():
    claimed = function(t08.theorem.claim["its decay"].lhs.expr, t08.start, t08.g, t08.t)
    rng, computed = np.random.default_rng(3), jax.jit(imbalance)
    for _ in range(100):
        W_Q, W_K, (g, t) = rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), rng.uniform(0, 2, 2)
        assert close(computed(W_Q, W_K, g, t), claimed(W_Q @ W_Q.T - W_K @ W_K.T, g, t))
