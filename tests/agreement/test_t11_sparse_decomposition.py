import jax
import numpy as np
import pytest

from proofs.theorems import t11_sparse_decomposition as t11
from svtheory.heads import common_rotation_sparseness, independent_rotation_sparseness, leverage_terms
from tests.agreement.claims import close, frames, function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_terms():
    symbols = t11.X, t11.Y, t11.e_i, t11.e_j, t11.f, t11.h, t11.t
    claimed = function(t11.theorem.claim["terms"].lhs, *symbols)
    for rng, X, Y, T in frames(4):
        i, j, t = int(rng.integers(T.shape[0])), int(rng.integers(T.shape[1])), rng.normal()
        f, h = rng.normal(size=(T.shape[0], 1)), rng.normal(size=(T.shape[1], 1))
        wanted = claimed(X, Y, np.eye(T.shape[0])[:, [i]], np.eye(T.shape[1])[:, [j]], f, h, t)
        found = leverage_terms(X, Y, [i], [j], [t], f[:, 0], h[:, 0])
        scale = abs(t) * np.linalg.norm(f) * np.linalg.norm(h)
        assert abs(float(found[0]) - np.asarray(wanted).item()) <= 1e-10 * scale


def test_common_rotation():
    claimed = function(t11.common, t11.rho)
    rho = np.linspace(-1, 1, 101)
    assert close(common_rotation_sparseness(rho), claimed(rho))


def test_independent_rotations():
    claimed = function(
        t11.theorem.claim["independent rotations: leading term"].rhs.subs({t11.sigmas: t11.A, t11.squares: t11.B}),
        t11.A,
        t11.B,
        t11.count,
    )
    rng = np.random.default_rng(0)
    for _ in range(100):
        sigma = rng.uniform(size=rng.choice([2, 5, 16, 63]))
        found = independent_rotation_sparseness(sigma).sparseness
        assert close(found, claimed(sigma.sum(), (sigma**2).sum(), sigma.size))
