import jax
import numpy as np
import pytest

from proofs.theorems import t03_kantorovich as t03
from svtheory import alignment_bound, kantorovich_bound
from svtheory.geometry import extremal_pair, local_alignment_bound, spread
from tests.agreement.claims import close, frames, function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_bound():
    claimed = function(t03.theorem.claim["in kappa"].rhs, t03.root_m, t03.root_L)
    in_eps = function(t03.theorem.claim["in eps"].rhs, t03.root_m, t03.root_L)
    bound, relative_spread = jax.jit(alignment_bound), jax.jit(spread)
    for _, X, _, _ in frames():
        values = np.linalg.svd(X, compute_uv=False)
        values = values[values > 1e-9]
        assert close(bound(X) ** 2, claimed(values[-1], values[0]))
        assert close(1 - relative_spread(X) ** 2, in_eps(values[-1], values[0]))


def test_extremal_pair():
    claimed = function(t03.theorem.claim["two columns: cosine"].rhs, t03.root_m, t03.root_L)
    for condition in np.geomspace(1, 1e4, 100):
        X = np.asarray(extremal_pair(condition))
        dual = np.linalg.solve(X @ X.T, X[:, 0])
        squared = (dual @ X[:, 0]) ** 2 / (dual @ dual) / (X[:, 0] @ X[:, 0])
        assert close(squared, claimed(1, np.sqrt(condition)))
        assert close(kantorovich_bound(condition) ** 2, claimed(1, np.sqrt(condition)))


def test_local_bound():
    claimed, computed = function(t03.theorem.claim["local bound"].lhs, t03.X, t03.e_i), jax.jit(local_alignment_bound)
    for _, X, _, _ in frames():
        X = X / np.linalg.norm(X, axis=0)
        tangents = np.array([claimed(X, column[:, None]) for column in np.eye(X.shape[1])])
        assert np.allclose(computed(X), 1 / np.sqrt(1 + tangents), rtol=1e-9, atol=0)
