"""Sequential p-values: Monte-Carlo draws for many tests until their verdicts are known (Besag and Clifford 1991).

A test ends at the draw in which its null has reached the statistic `enough` times, `p = enough / draws`; one that
never does ends after `most` draws, `p = (1 + reached) / (1 + most)`. Both have `P(p <= level) <= level` where the null
holds. Long before, p lies between two bounds: what it becomes if no further draw reaches the statistic, and if all do.
Rejection by Benjamini and Hochberg is monotone in the p-values; once it is the same for all lower as for all upper
bounds, no further draw can change it: it is settled, and it is the verdict that all `most` draws would have given. The
upper bound is reported: it is never below the p-value of the finished test, so it is one itself, whenever one stops.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control

from svtheory.checks import InputError, whole

ENOUGH = 10
"""At how often reached a test ends: its p-value then has a relative standard error of about a third."""


@dataclass(frozen=True)
class Tally:
    """What has been drawn for each of many tests, each against one or several nulls.

    reached  how often a null reached the statistic, at most `enough`, shape (tests, nulls)
    draws    in how many draws: up to the one that was enough, shape (tests, nulls)
    most     draws at which every test ends
    enough   how often reached ends a test
    """

    reached: np.ndarray
    draws: np.ndarray
    most: int
    enough: int

    @property
    def lower(self) -> np.ndarray:
        """The p-value if no further draw reaches the statistic, the largest over the nulls, shape (tests,)."""
        ended = self.reached >= self.enough
        p = np.where(ended, self.enough / np.maximum(self.draws, 1), (1 + self.reached) / (1 + self.most))
        return p.max(axis=1)

    @property
    def p_value(self) -> np.ndarray:
        """The p-value if every further draw reaches the statistic, the largest over the nulls, shape (tests,).

        Once a test has ended this is its p-value; before, a valid one that is no smaller.
        """
        missing = self.enough - self.reached
        last = self.draws + missing  # the draw in which it would be enough
        late = (1 + self.reached + self.most - self.draws) / (1 + self.most)
        return np.where(last <= self.most, self.enough / np.maximum(last, 1), late).max(axis=1)

    @property
    def open(self) -> np.ndarray:
        """Which tests have not ended, shape (tests,): neither null was reached often enough, and draws are left."""
        return np.all((self.reached < self.enough) & (self.draws < self.most), axis=1)

    def settled(self, level: float, judged: Callable[[np.ndarray, float], np.ndarray] | None = None) -> bool:
        """Whether no further draw can change which tests Benjamini and Hochberg, or `judged`, reject at `level`."""
        judge = judged or rejected
        return bool((judge(self.lower, level) == judge(self.p_value, level)).all())

    def counted(self, reached: np.ndarray) -> "Tally":
        """The tally after another round: whether each draw's null reaches the statistic, shape (tests, nulls, round).

        Draws after the one that is enough, and those beyond `most`, do not count; rows of tests that have ended are not
        looked at.
        """
        left = np.minimum(self.most - self.draws, reached.shape[-1])
        counts = np.cumsum(reached, axis=-1) + self.reached[..., None]
        before = (counts < self.enough).sum(axis=-1)  # draws of this round after which the test still goes on
        draws = np.where(self.open[:, None], np.minimum(before + 1, left), 0)
        new = np.take_along_axis(np.cumsum(reached, axis=-1), np.maximum(draws - 1, 0)[..., None], axis=-1)[..., 0]
        total = self.reached + np.where(draws > 0, new, 0)
        return Tally(total, self.draws + draws, self.most, self.enough)


def rejected(p_values: np.ndarray, level: float) -> np.ndarray:
    """Which tests Benjamini and Hochberg's procedure rejects at `level`, shape (tests,).

    >>> rejected(np.array([0.01, 0.04, 0.3]), 0.05).tolist()
    [True, False, False]
    """
    return np.asarray(false_discovery_control(p_values) <= level)


def sequential_p_values(
    draw: Callable[[int, np.ndarray], np.ndarray],
    tests: int,
    nulls: int,
    level: float,
    most: int,
    enough: int = ENOUGH,
    judged: Callable[[np.ndarray, float], np.ndarray] | None = None,
) -> Tally:
    """Draw rounds until Benjamini and Hochberg's verdicts at `level` are settled, or for `most` draws at the latest.

    `draw(round, wanted)` gives the draws of round 0, 1, ... as booleans (tests, nulls, round): whether the null's draw
    reaches the statistic, that is speaks at least as strongly. Rounds may differ in length; every test sees the draws
    of a round in the same order. `wanted`, shape (tests,), says which tests are still open: rows of others are free.
    A test against several nulls has the largest of their p-values, and ends as soon as one has been reached often
    enough: the others' can then not be larger. Verdicts of another rule than Benjamini and Hochberg's over all tests,
    as monotone in the p-values (tests,), are `judged(p_values, level)`.
    Raises InputError for fewer than one test, null or draw, or a level outside (0, 1).

    >>> never = lambda round, wanted: np.zeros((1, 1, 50), bool)
    >>> sequential_p_values(never, tests=1, nulls=1, level=0.05, most=999).p_value.round(3).tolist()
    [0.048]
    """
    for name, x in {"tests": tests, "nulls": nulls, "most": most, "enough": enough}.items():
        whole(name, x, 1)
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level!r}")
    tally = Tally(np.zeros((tests, nulls), int), np.zeros((tests, nulls), int), most, enough)
    number = 0
    while tally.open.any() and not tally.settled(level, judged):
        tally = tally.counted(np.asarray(draw(number, tally.open)))
        number += 1
    return tally
