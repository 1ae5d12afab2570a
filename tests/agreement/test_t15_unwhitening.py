import jax
import numpy as np
import pytest

from proofs.theorems import t15_unwhitening as t15
from svtheory.spectra.unwhitening import unwhiten
from tests.agreement.claims import close, frames, function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def _unit(column):
    return column / np.linalg.norm(column)


def test_without_a_bias():
    pattern = t15.theorem.claim["query side"].rhs.xreplace({t15.u_raw: t15.theorem.claim["u"].rhs})
    symbols = t15.X, t15.F, t15.F_V, t15.Z, t15.e_i, t15.mu, t15.mean
    claimed, probe = function(pattern, *symbols), function(t15.theorem.claim["u"].rhs, *symbols)
    for rng, X, _, _ in frames():
        size = X.shape[1]
        spread, mu = np.diag(rng.uniform(1, 2, size=size)), rng.uniform(size=(size, 1))
        root = np.concatenate([spread, mu], axis=1)
        values = X, root, spread, X @ root, np.eye(size)[:, :1], mu, X @ mu
        u, K_r = probe(*values), X @ spread @ spread @ X.T
        found, share = unwhiten(u, K_r)
        wanted = claimed(*values)
        assert np.abs(np.asarray(found) - _unit(wanted)).max() <= 1e-10
        assert close(share, 0) or not np.asarray(share).any()
        kept, share = unwhiten(u, K_r, (X @ mu)[:, 0])
        cosine = float(_unit(wanted)[:, 0] @ _unit(X @ mu)[:, 0])
        assert np.isclose(float(share[0]), cosine**2, atol=1e-10)
        across = np.eye(len(X)) - _unit(X @ mu) @ _unit(X @ mu).T
        direction = across @ X[:, :1]
        if np.linalg.norm(direction) > 1e-3 * np.linalg.norm(X[:, 0]):
            assert abs(float(_unit(direction)[:, 0] @ np.asarray(kept)[:, 0])) >= 1 - 1e-10
