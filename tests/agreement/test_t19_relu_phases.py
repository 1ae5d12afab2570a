import jax
import numpy as np
import pytest

from proofs.theorems import t19_relu_phases as t19
from svtheory import relu_energy
from svtheory.geometry import antipodal, best_biases, relu_states
from tests.agreement.claims import close, function

ENERGY, BEST = jax.jit(relu_energy), jax.jit(best_biases)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def frames(dim=3, n=7):
    rng = np.random.default_rng(0)
    for _ in range(20):
        W = rng.normal(size=(dim, n))
        yield rng, W / np.linalg.norm(W, axis=0)


def test_the_energy():
    """Term by term as claimed, leakage included."""
    own, other = (function(cost, *symbols) for cost, symbols in COSTS)
    for rng, W in frames():
        b, g, products = rng.uniform(0, 0.6, size=7), rng.uniform(0, 2), W.T @ W
        through = [(products[i, j], b[j]) for i in range(7) for j in range(7) if i != j and products[i, j] > b[j]]
        s_0, s_1 = (products[:, :2] ** 2).sum(axis=0)
        wanted = own(b).sum() + sum(other(*pair) for pair in through) + g * (s_0 * s_1 - 1)
        assert close(ENERGY(W, g, b), wanted)


COSTS = (t19.own_cost, (t19.beta,)), (t19.other_cost, (t19.c, t19.beta))


def test_the_best_biases_are_stationary():
    claim = t19.theorem.claim
    own = function(claim["the slope of its own output"].rhs, t19.beta)
    other = function(claim["the slope of another's output"].rhs, t19.c, t19.beta)
    for _, W in frames():
        products, b = W.T @ W - 2 * np.eye(7), np.asarray(BEST(W))
        for c, bias in zip(products.T, b, strict=True):
            slope = own(bias) + sum(other(x, bias) / x for x in c if x > bias)
            assert abs(slope) <= 1e-10


def test_states_without_interference():
    """Superposed at 3g and one-sided at g, as claimed; orthogonalised for nothing with N = 2D - 2 features."""
    claim, g = t19.theorem.claim, 0.1
    for features, leakage in ((8, "superposed"), (7, "one-sided")):
        energy = relu_states(features, 4, g, starts=4).energy(g)
        wanted = g * float(claim[f"{leakage}: leakage"].rhs)
        assert np.isclose(energy.min(), wanted, rtol=1e-9)
    assert np.abs(relu_states(6, 4, g, starts=4).energy(g)[-1]) <= 1e-12
    assert close(ENERGY(antipodal(4)[:, [0, 2, 1, 3, 4, 5, 6, 7]], g), 3 * g)
