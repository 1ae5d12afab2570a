import itertools

import jax
import numpy as np
import pytest

from proofs.theorems import t02_exact_alignment as t02
from svtheory import Scenario, alignment, feature_dimensionality, predict
from svtheory.geometry.arrangements import (
    antipodal,
    polygon,
    simplex,
    tegum,
)
from tests.agreement.claims import close, frames, function

SHAPES = {
    "alone": lambda: simplex(1)[:, :1],
    "antipodal pair": lambda: antipodal(1),
    "triangle": lambda: simplex(2),
    "tetrahedron": lambda: simplex(3),
    "pentagon": lambda: polygon(5),
}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_feature_dimensionality():
    claimed, computed = function(t02.D_i, t02.X, t02.e_i), jax.jit(feature_dimensionality)
    for _, X, _, _ in frames():
        assert close(computed(X), [claimed(X, column[:, None]) for column in np.eye(X.shape[1])])


@pytest.mark.parametrize("name", SHAPES)
def test_polytopes(name):
    assert close(feature_dimensionality(SHAPES[name]())[0], float(t02.theorem.claim[f"{name}: D_i"].rhs))


@pytest.mark.parametrize(("left", "right"), list(itertools.combinations_with_replacement(SHAPES, 2)))
def test_sigma_of_an_aligned_pair(left, right):
    """Tegum products in random position: sigma^2 is the claim's right-hand side, and both features are aligned."""
    claimed = function(t02.theorem.claim["sigma of an aligned pair"].args[1].rhs, t02.X, t02.Y, t02.e_i, t02.e_j, t02.t)
    rng, built = np.random.default_rng(1), jax.jit(lambda: [tegum(SHAPES[k](), antipodal(2)) for k in (left, right)])
    for _ in range(4):
        X, Y = (np.asarray(F) * rng.uniform(0.5, 2) for F in built())
        D = max(len(X), len(Y))
        X, Y = (np.linalg.qr(rng.normal(size=(D, D)))[0][:, : len(F)] @ F for F in (X, Y))
        e_i, e_j, t = np.eye(X.shape[1])[:, :1], np.eye(Y.shape[1])[:, :1], rng.normal()
        spectrum = predict(Scenario(X, Y, t * e_i @ e_j.T))
        assert close(np.asarray(spectrum.values)[0] ** 2, claimed(X, Y, e_i, e_j, t))
        assert np.isclose(np.asarray(alignment(spectrum.left, X))[0, 0], 1, atol=1e-12)
        assert np.isclose(np.asarray(alignment(spectrum.right, Y))[0, 0], 1, atol=1e-12)
