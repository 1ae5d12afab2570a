import jax
import numpy as np
import pytest

from proofs.theorems import t13_rotary as t13
from svtheory.prediction.rotary import plane_cost, projected_profile, rotary_head
from tests.agreement.claims import function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_a_shared_plane():
    """Where one term for both pairs is cheapest, the cost is the claim's at `m = |E e^{i theta d}|`."""
    claimed, cost = function(t13.shared, t13.t, t13.m), jax.jit(plane_cost)
    offsets, compared = np.arange(16.0), 0
    for theta in np.geomspace(1e-3, 0.05, 100):
        m = abs(np.exp(1j * theta * offsets).mean())
        found = cost(theta, offsets, strength=1.5)
        assert np.isclose(found, claimed(1.5, m), rtol=1e-8)
        compared += 1
    assert compared == 100


def test_complex_rank_one():
    """One rotated plane of a head at offset d is the claim's real part."""
    symbols = t13.a, t13.b, t13.c, t13.d, t13.C, t13.S
    claimed = function(t13.theorem.claim["complex rank one"].rhs, *symbols)
    rng = np.random.default_rng(0)
    for _ in range(100):
        W_Q, W_K, theta, d = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), rng.uniform(), rng.integers(-9, 9)
        omega = np.asarray(rotary_head(W_Q, W_K, np.array([theta]), "adjacent").omega(float(d)))
        angle = theta * d
        turned = [claimed(*W_Q[:, :, None], *W_K[:, :, None], np.cos(angle), sign * np.sin(angle)) for sign in (1, -1)]
        # the two senses of rotation are the two conventions for the sign of an offset
        assert any(np.allclose(omega, candidate, rtol=0, atol=1e-12) for candidate in turned)


def test_what_a_projection_leaves_is_orthogonal():
    """The hypothesis of "over offsets": the profile less its projection is orthogonal to cosine and sine."""
    rng, project = np.random.default_rng(0), jax.jit(projected_profile)
    for _ in range(100):
        offsets, profile, weights = np.arange(12.0), rng.normal(size=12), rng.uniform(size=12)
        theta = rng.uniform(0.1, 1.0)
        rest = profile - np.asarray(project(profile, np.array([theta]), offsets, weights))
        for wave in (np.cos(theta * offsets), np.sin(theta * offsets)):
            assert abs(weights @ (rest * wave)) <= 1e-9 * weights.sum()
