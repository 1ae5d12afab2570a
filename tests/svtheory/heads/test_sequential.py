"""Sequential p-values against their definition by hand, their level, and verdicts that further draws cannot change."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from svtheory import InputError
from svtheory.heads.sequential import rejected, sequential_p_values

LEVEL = 0.05


def by_hand(reached, enough):
    """Besag and Clifford's p-value of one null from all of its draws."""
    total = 0
    for draw, hit in enumerate(reached, 1):
        total += hit
        if total == enough:
            return enough / draw
    return (1 + total) / (1 + len(reached))


def run(reached, enough=5, rounds=(7,), level=LEVEL):
    """Feed the given draws (tests, nulls, most) in rounds of the given lengths, the last one repeated."""
    tests, nulls, most = reached.shape
    used = []

    def draw(number, wanted):
        start = sum(used)
        used.append(rounds[min(number, len(rounds) - 1)])
        part = reached[..., start : start + used[-1]]
        pad = used[-1] - part.shape[-1]
        return np.where(wanted[:, None, None], np.pad(part, ((0, 0), (0, 0), (0, pad)), constant_values=True), True)

    return sequential_p_values(draw, tests, nulls, level, most, enough), sum(used)


@pytest.mark.parametrize("rounds", [(1,), (7,), (20, 5), (1000,)])
def test_a_test_that_runs_to_its_end_has_the_p_value_of_the_definition(rounds):
    rng = np.random.default_rng(0)
    for rate in (0.02, 0.2, 0.6):
        reached = rng.uniform(size=(1, 1, 100)) < rate
        tally, _ = run(reached, rounds=rounds, level=by_hand(reached[0, 0], 5))
        if not tally.open.any():
            assert tally.p_value[0] == pytest.approx(by_hand(reached[0, 0], 5))
            assert tally.lower[0] == tally.p_value[0]


def test_verdicts_are_those_of_all_draws_and_p_values_no_smaller():
    rng = np.random.default_rng(1)
    saved = 0
    for _ in range(60):
        rates = np.where(rng.uniform(size=(12, 1, 1)) < 0.3, 0.0005, rng.uniform(size=(12, 1, 1)))
        reached = rng.uniform(size=(12, 2, 400)) < rates
        final = np.array([max(by_hand(null, 5) for null in test) for test in reached])
        tally, drawn = run(reached, rounds=(16,))
        assert (rejected(tally.p_value, LEVEL) == (false_discovery_control(final) <= LEVEL)).all()
        assert (tally.p_value >= final - 1e-12).all()
        assert (tally.lower <= final + 1e-12).all()
        np.testing.assert_allclose(tally.p_value[~tally.open], final[~tally.open])
        saved += drawn < 400
    assert saved > 30  # most are settled before the last draw


def test_the_level_holds_however_early_it_stops():
    """Statistic and null from one law: P(p <= alpha) <= alpha for the p-values that are reported."""
    rng = np.random.default_rng(2)
    tests, most = 4000, 199
    statistic, null = rng.normal(size=(tests, 1, 1)), rng.normal(size=(tests, 1, most))
    p = np.array([run(hit[None], rounds=(19,), level=0.2)[0].p_value[0] for hit in null <= statistic])
    for alpha in (0.01, 0.05, 0.2, 0.5):
        assert (p <= alpha).mean() <= alpha + 4 * np.sqrt(alpha * (1 - alpha) / tests)
    # and it is not idle: at the level asked for nearly all of it is used
    assert (p <= 0.2).mean() > 0.2 - 5 * np.sqrt(0.2 * 0.8 / tests)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="most must be a whole number of at least 1, got 0"):
        sequential_p_values(lambda *_: np.zeros((1, 1, 1), bool), 1, 1, LEVEL, 0)
    with pytest.raises(InputError, match=r"level must lie between 0 and 1, got 1.5"):
        sequential_p_values(lambda *_: np.zeros((1, 1, 1), bool), 1, 1, 1.5, 9)
