import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proofs.theorems import t05_population_probes as t05
from svtheory import Gaussian, Scenario, optimal_omega, predict
from tests.agreement.claims import frames, function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def _law(rng, size):
    """A law with a mean and correlations, and a square root of its second moment."""
    root, mean = rng.normal(size=(size, size)), rng.normal(size=size)
    law = Gaussian(mean, root @ root.T)
    return law, np.linalg.cholesky(np.asarray(law.second_moment()))


def _values(X, Y, F, G):
    return {t05.X: X, t05.Y: Y, t05.F: F, t05.G: G, t05.Z: X @ F, t05.W: Y @ G}


def test_optimum():
    symbols = t05.X, t05.Y, t05.F, t05.G, t05.Z, t05.W, t05.T
    claimed, computed = function(t05.theorem.claim["optimum"].rhs, *symbols), optimal_omega
    for rng, X, Y, T in frames(1):
        (query, F), (key, G) = _law(rng, X.shape[1]), _law(rng, Y.shape[1])
        wanted = claimed(*_values(X, Y, F, G).values(), T)
        # the claim squares the condition number of Z, the function does not
        loss = np.linalg.cond(X @ F @ F.T @ X.T + 1e-300) if np.linalg.matrix_rank(X) == len(X) else 1e6
        found = np.asarray(computed(Scenario(X, Y, T, query, key)))
        assert np.abs(found - wanted).max() <= max(1e-10, 1e-15 * loss) * np.abs(wanted).max()


def test_probe():
    symbols = t05.X, t05.F, t05.Z, t05.e_i
    claimed, computed = function(t05.theorem.claim["probe"].rhs, *symbols), predict
    for rng, X, Y, T in frames(2):
        (query, F), (key, _) = _law(rng, X.shape[1]), _law(rng, Y.shape[1])
        e_i, e_j = np.eye(T.shape[0])[:, :1], np.eye(T.shape[1])[:, :1]
        probe = claimed(X, F, X @ F, e_i)[:, 0]
        u = computed(Scenario(X, Y, e_i @ e_j.T, query, key)).left[:, 0]
        assert np.isclose(abs(u @ probe) / jnp.linalg.norm(probe), 1, atol=1e-10)
