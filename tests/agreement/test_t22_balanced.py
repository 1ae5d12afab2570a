import jax
import numpy as np
import pytest

from proofs.theorems import t22_balanced as t22
from svtheory import balanced_spectrum
from tests.agreement.claims import close, frames, function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_the_pair_of_a_matched_feature():
    """Values, patterns and probes of the optimum's only pair, in frames of any rank."""
    claim = t22.theorem.claim
    omega = claim["optimum"].rhs
    symbols = t22.T_0, t22.X, t22.Y, t22.F, t22.G, t22.Z, t22.W, t22.e_i, t22.e_j, t22.t, t22.f_i, t22.g_j
    head, size = function(omega, *symbols), function(claim["value"].rhs, *symbols)
    patterns = [function(claim[name].rhs, *symbols) for name in (PATTERN, f"{PATTERN}, key side")]
    jitted = jax.jit(balanced_spectrum)
    for rng, X, Y, _ in frames():
        F, G = (np.diag(rng.uniform(1, 2, size=n.shape[1])) for n in (X, Y))
        e_i, e_j = np.eye(X.shape[1])[:, :1], np.eye(Y.shape[1])[:, -1:]
        values = np.zeros((X.shape[1], Y.shape[1])), X, Y, F, G, X @ F, Y @ G, e_i, e_j, 1.5, F[0, 0], G[-1, -1]
        A, B = X @ F @ F @ X.T, Y @ G @ G @ Y.T
        found = jitted(np.eye(len(X)), head(*values), A, B)
        assert np.isclose(found.values[0], size(*values), rtol=1e-10)
        assert np.all(np.asarray(found.values[1:]) < 1e-10 * found.values[0])
        for pattern, seen in zip(patterns, (found.query_patterns, found.key_patterns), strict=True):
            wanted = pattern(*values)[:, 0]
            seen = np.asarray(seen)[:, 0]
            assert close(seen * np.sign(seen @ wanted) / np.linalg.norm(seen), wanted / np.linalg.norm(wanted))
        assert np.isclose(abs(found.query_probes[:, 0] @ found.query_patterns[:, 0]), 1, rtol=1e-10)


PATTERN = "its pattern is the feature"
