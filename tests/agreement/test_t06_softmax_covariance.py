import jax
import numpy as np
import pytest
import sympy

from proofs.theorems import t06_softmax_covariance as t06
from svtheory import BernoulliUniform, Scenario, optimal_omega
from tests.agreement.claims import close, frames, function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("query_bias", [False, True])
def test_optimum(query_bias):
    """Independent activations with a mean; per-feature probabilities make all moments distinct."""
    expression = t06.centred if query_bias else t06.plain
    root, token = (t06.F_V, t06.Z_V) if query_bias else (t06.F, t06.Z)
    claimed = function(expression, t06.X, t06.Y, root, t06.G, token, t06.W, t06.T)
    computed = optimal_omega
    for rng, X, Y, T in frames(3):
        query, key = (BernoulliUniform(rng.uniform(0.05, 1, n), n) for n in T.shape)
        moment = query.covariance() if query_bias else query.second_moment()
        F, G = np.linalg.cholesky(np.asarray(moment)), np.linalg.cholesky(np.asarray(key.covariance()))
        found = computed(Scenario(X, Y, T, query, key, "softmax", query_bias=query_bias))
        assert np.allclose(found, claimed(X, Y, F, G, X @ F, Y @ G, T), rtol=0, atol=1e-10 * np.abs(found).max())


@pytest.mark.parametrize("keys", [2, 3, 4])
def test_quadratic_term(keys):
    """The expansion's leading term against the cross-entropy itself, at small logits."""
    a, b = (sympy.symbols(f"{name}1:{keys + 1}") for name in "ab")
    variance = t06.variance(keys).subs(
        {t06.a[k + 1]: a[k] for k in range(keys)} | {t06.b[k + 1]: b[k] for k in range(keys)}
    )
    claimed = function(variance / 2, *a, *b)
    rng, size = np.random.default_rng(0), 1e-3
    for _ in range(100):
        asked, given = rng.normal(size=(2, keys))
        p = jax.nn.softmax(size * asked)
        excess = p @ (jax.nn.log_softmax(size * asked) - jax.nn.log_softmax(size * given))
        assert (
            close(1 + excess / size**2, 1 + claimed(*asked, *given))
            or abs(excess / size**2 - claimed(*asked, *given))
            < 10 * size * (np.abs(asked).max() + np.abs(given).max()) ** 3
        )
