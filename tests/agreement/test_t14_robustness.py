import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proofs.engine.examples import value
from proofs.theorems import t14_robustness as t14
from svtheory import spectrum
from svtheory.spectra.perturbation import wedin_bound, wedin_own_bound
from tests.agreement.claims import close, function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_own_gap():
    claim = t14.theorem.claim["u, with the own gap, from below"].args[1]
    bound = function(claim.gts / t14.g, t14.e, t14.g)
    rng = np.random.default_rng(0)
    for _ in range(100):
        found = spectrum(jnp.asarray(rng.normal(size=(5, 5))), jnp.eye(5))
        error = rng.uniform(0, 0.3)
        assert close(wedin_own_bound(found, error), np.minimum(bound(error, np.asarray(found.gaps)), 1))


def test_wedin_on_the_middle_vector():
    before, after = (np.array(m.tolist(), dtype=float) for m in (t14.diag(2, 1, 0), t14.matrix))
    clean, moved = (spectrum(jnp.asarray(m.T), jnp.eye(3)) for m in (before, after))
    sines = [1 - float(a[:, 1] @ b[:, 1]) ** 2 for a, b in ((clean.left, moved.left), (clean.right, moved.right))]
    claimed = [float(value(sine, {})) for sine in (t14.sine_u, t14.sine_v)]
    assert np.allclose(sines, claimed, rtol=1e-10)
    error = float(t14.size)
    bound = float(wedin_bound(clean, moved, error)[1])
    assert close(bound, np.sqrt(2) * error)
    assert error < np.sqrt(sines[0]) < np.sqrt(sum(sines)) <= bound
