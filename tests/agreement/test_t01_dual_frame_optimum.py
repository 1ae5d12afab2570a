import jax
import numpy as np
import pytest

from proofs.theorems import t01_dual_frame_optimum as t01
from svtheory import Scenario, dual_frame, optimal_omega, predict
from tests.agreement.claims import close, frames, function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_optimum():
    claimed = function(t01.theorem.claim["optimum"].rhs, t01.X, t01.T, t01.Y)
    computed = optimal_omega
    for _, X, Y, T in frames():
        assert close(computed(Scenario(X, Y, T)), claimed(X, T, Y))


def test_single_pair():
    symbols = t01.X, t01.Y, t01.e_i, t01.e_j, t01.t
    sigma, u, v = (function(t01.theorem.claim[name].rhs, *symbols) for name in ("sigma", "u", "v"))
    computed = predict
    for rng, X, Y, T in frames():
        i, j, t = rng.integers(T.shape[0]), rng.integers(T.shape[1]), rng.normal()
        e_i, e_j = np.eye(T.shape[0])[:, [i]], np.eye(T.shape[1])[:, [j]]
        values = X, Y, e_i, e_j, t
        spectrum = computed(Scenario(X, Y, t * e_i @ e_j.T))
        assert close(spectrum.values[0], sigma(*values))
        assert close(np.outer(spectrum.left[:, 0], spectrum.right[:, 0]), u(*values) @ v(*values).T)


def test_dual_frame():
    claimed, computed = function(t01.dual_x, t01.X, t01.e_i), jax.jit(dual_frame)
    for _, X, _, _ in frames():
        assert close(computed(X), np.hstack([claimed(X, column[:, None]) for column in np.eye(X.shape[1])]))
