import jax
import numpy as np
import pytest

from proofs.theorems import t09_learning_times as t09
from svtheory import Scenario, growth, half_times, predict
from tests.agreement.claims import close, function
from tests.agreement.test_t08_soft_threshold import tight_scenarios

SYMBOLS = t09.alpha, t09.beta, t09.a_0, t09.s


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_sizes_of_modes():
    size, idle = function(t09.size, *SYMBOLS, t09.t), function(t09.idle_size, *SYMBOLS, t09.t)
    grown, computed = jax.jit(growth), predict
    for rng, X, alpha, Y, beta, T in tight_scenarios(4):
        scenario = Scenario(X, Y, T)
        s = np.asarray(computed(scenario).values)
        s = np.where(s > 1e-12 * s[0], s, 0)
        a_0, times = rng.uniform(0.01, 0.3), rng.uniform(0, 3, 4)
        wanted = np.where(
            s > 0,
            size(alpha, beta, a_0, np.where(s > 0, s, 1), times[:, None]),
            idle(alpha, beta, a_0, s, times[:, None]),
        )
        assert close(grown(scenario, times, a_0), wanted)


def test_half_times():
    claimed = function(t09.half_time, *SYMBOLS)
    waited, computed = jax.jit(half_times), predict
    for rng, X, alpha, Y, beta, T in tight_scenarios(5):
        scenario = Scenario(X, Y, T)
        s = np.asarray(computed(scenario).values)
        a_0 = rng.uniform(0.01, 0.1) * s[0]
        learnt = s > 2 * a_0
        assert close(np.asarray(waited(scenario, a_0))[learnt], claimed(alpha, beta, a_0, s[learnt]))


def test_order_of_strength_beyond_the_bracketed_threshold():
    below, above = float(t09.BELOW), float(t09.ABOVE)
    tau = function(t09.tau, t09.x)
    ratios = np.linspace(above, 40, 200)
    assert (np.diff(tau(ratios)) < 0).all()
    assert (np.diff(tau(np.linspace(2, below, 200))) > 0).all()
