import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proofs.theorems import t16_trained_head as t16
from svtheory.heads.explanation import explain
from tests.agreement.claims import function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def _moment(samples):
    """Eigenvectors and eigenvalues, by their mean, of the second moment of the rows."""
    values, vectors = np.linalg.eigh(samples.T @ samples / len(samples))
    return vectors, values / values.mean()


def test_filter_and_functional_cosine():
    phi = function(t16.phi, t16.x, t16.tau)
    claim = t16.theorem.claim["the functional cosine is a correlation"].lhs
    cosine = function(claim, t16.F, t16.G, t16.O, t16.P)
    explained = jax.jit(explain, static_argnums=(8, 9))
    rng = np.random.default_rng(0)
    for draw in range(100):
        W_Q, W_K = rng.normal(size=(2, 4, 4))
        queries, keys = rng.normal(size=(2, 50, 4)) @ rng.normal(size=(2, 4, 4)) + rng.normal(size=(2, 1, 4))
        q, k, T = rng.normal(size=(50, 3)), rng.normal(size=(50, 3)), rng.normal(size=(3, 3))
        found = explained(W_Q, W_K, queries, q, keys, k, T, jax.random.key(draw), True, 1)
        r, s = queries - queries.mean(axis=0), keys - keys.mean(axis=0)
        (U, lam), (V, mu) = _moment(r), _moment(s)
        M = r.T @ (q - q.mean(axis=0)) @ T @ (k - k.mean(axis=0)).T @ s
        product = lam[:, None] * mu[None, :]
        P = U @ (U.T @ M @ V * phi(product, float(found.time))) @ V.T
        F, G = U * np.sqrt(lam), V * np.sqrt(mu)
        wanted = cosine(F, G, W_Q.T @ W_K, P)
        assert jnp.isclose(found.functional_cosine, wanted, rtol=1e-10, atol=1e-12)
