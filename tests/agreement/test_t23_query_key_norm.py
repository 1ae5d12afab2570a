import jax
import numpy as np
import pytest

from proofs.theorems import t23_query_key_norm as t23
from svtheory import Head, decompose
from svtheory.heads import Norm
from tests.agreement.claims import close, function

H, D, D_KEY, HEADS = 3, 4, 5, 2


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("together", [False, True])
def test_scores_terms_and_factors(together):
    """Formula, `decompose` and the head written out in numpy; the mean square over the head or over all heads."""
    claim = t23.theorem.claim
    product = function(claim["bilinear in rescaled tokens"].rhs, t23.x, t23.Omega, t23.y)
    factors = function(claim["factors"].rhs, t23.W, t23.V, t23.G, t23.L)
    rng = np.random.default_rng(0)
    for _ in range(25):
        W_Q, W_K = rng.normal(size=(HEADS, H, D)), rng.normal(size=(HEADS, H, D_KEY))
        gains, tokens, query = rng.normal(size=(2, H)), rng.normal(size=(3, D_KEY)), rng.normal(size=D)
        over = [W.reshape(-1, W.shape[2]) if together else W[0] for W in (W_Q, W_K)]
        norms = [Norm(gain, 1e-6, W if together else None) for gain, W in zip(gains, over, strict=True)]
        found = decompose(Head(W_Q[0], W_K[0], query_norm=norms[0], key_norm=norms[1], causal=False), query, tokens, 1)
        q = gains[0] * (W_Q[0] @ query) / np.sqrt(((over[0] @ query) ** 2).mean() + 1e-6)
        x = query / np.sqrt(((over[0] @ query) ** 2).mean() + 1e-6)
        omega = factors(W_Q[0], W_K[0], np.diag(gains[0]), np.diag(gains[1]))
        s = found.spectrum
        assert close((s.left * s.values[None, :]) @ s.right.T, omega)
        for j, token in enumerate(tokens):
            b = 1 / np.sqrt(((over[1] @ token) ** 2).mean() + 1e-6)
            score = q @ (gains[1] * (W_K[0] @ token) * b)
            assert np.isclose(found.scores[j], score, rtol=0, atol=1e-10)
            assert np.isclose(product(x[:, None], omega, b * token[:, None]), score, rtol=0, atol=1e-10)
            terms = s.values * (s.left.T @ x) * (s.right.T @ token) * b
            assert np.allclose(found.terms[j], terms, rtol=0, atol=1e-10)
        assert found.error < 1e-10
