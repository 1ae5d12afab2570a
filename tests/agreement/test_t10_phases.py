import jax
import numpy as np
import pytest

from proofs.theorems import t10_phases as t10
from svtheory import orthogonalization_threshold
from svtheory.geometry.phases import ARRANGEMENTS, collapse_threshold, stationary_arrangements
from tests.agreement.claims import close, function

SIZES = [(n, d) for d in (3, 4, 6, 10, 16) for n in (d, d + 1, 2 * d, 3 * d, 5 * d)]
COUPLINGS = np.array([0.5, 2.0, 3.0, 5.0, 9.0, 20.0])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_thresholds():
    g_c = function(t10.g_c, t10.N, t10.D)
    crossing = t10.theorem.claim["collapsed: crosses the orthogonalised"].rhs
    g_star = function(t10.g - crossing, t10.N, t10.D)
    for n in range(4, 104):
        for d in (3, n // 2 + 2, n):
            assert close(1 + orthogonalization_threshold(n, d), 1 + g_c(n, d))
            assert close(10 + collapse_threshold(n, d), 10 + g_star(n, d))


def test_energies():
    """Every listed arrangement where it is valid: its energy is the claim's at the claim's s."""
    sizes = t10.N, t10.D, t10.g
    claimed = {
        "orthogonalised": lambda n, d, g, s_1: function(t10.orthogonalised, *sizes)(n, d, g),
        "one-sided": lambda n, d, g, s_1: function(t10.one_sided(t10.s), *sizes, t10.s)(n, d, g, s_1),
        "collapsed": lambda n, d, g, s_1: function(t10.collapsed(t10.s), *sizes, t10.s)(n, d, g, s_1),
    }
    compared = dict.fromkeys(claimed, 0)
    for n, d in SIZES:
        found = stationary_arrangements(n, d, COUPLINGS)
        for name, energy in claimed.items():
            row = ARRANGEMENTS.index(name)
            for g, value, s_1 in zip(COUPLINGS, found.energy[row], found.s_1[row], strict=True):
                if np.isfinite(value):
                    compared[name] += 1
                    assert close(value, energy(n, d, g, float(s_1)))
    assert all(count >= 20 for count in compared.values())


def test_the_one_sided_eigenvalue():
    """`s_1 (D - 1) = N - 1 - g (D - 2)/2`, the hypothesis that defines it."""
    definition = t10.theorem.hypotheses["s_1 of the one-sided arrangement"]
    slack = function(definition.lhs - definition.rhs, t10.N, t10.D, t10.g, t10.s_one)
    for n, d in SIZES:
        found = stationary_arrangements(n, d, COUPLINGS)
        s_1 = np.asarray(found.s_1[ARRANGEMENTS.index("one-sided")])
        valid = np.isfinite(s_1)
        assert np.abs(slack(n, d, COUPLINGS[valid], s_1[valid])).max(initial=0) <= 1e-10 * n
