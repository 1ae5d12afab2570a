"""Rules: what a statistic of measurements is held to, written before the run, and how many of a table hold."""

import operator
from typing import NamedTuple

import numpy as np

STATISTICS = {
    "lowest": lambda x, bound: np.min(x),
    "mean": lambda x, bound: np.mean(x),
    "median": lambda x, bound: np.median(x),
    "highest": lambda x, bound: np.max(x),
    "furthest": lambda x, bound: np.ravel(x)[np.argmax(abs(np.ravel(x) - bound))],
}
RELATIONS = {
    ">=": operator.ge,
    "<=": operator.le,
    "<": operator.lt,
    "within 10 % of": lambda x, bound: abs(x / bound - 1) <= 0.1,
}


class Rule(NamedTuple):
    """A bound that a statistic is held to.

    >>> rule = Rule("lowest", ">=", 0.9)
    >>> str(rule), rule.value(np.array([0.8, 1.0])), rule.holds(np.array([0.8, 1.0]))
    ('lowest >= 0.9', 0.8, False)
    """

    statistic: str
    relation: str
    bound: float

    def __str__(self):
        return f"{self.statistic} {self.relation} {self.bound:g}"

    def value(self, x: np.ndarray) -> float:
        """The statistic of x."""
        return float(STATISTICS[self.statistic](x, self.bound))

    def holds(self, x: np.ndarray) -> bool:
        """Whether the statistic of x keeps the bound."""
        return bool(RELATIONS[self.relation](self.value(x), self.bound))


def judged(rule: Rule | None, x: np.ndarray) -> dict[str, object]:
    """The last columns of a table row: the rule for x, its value, and whether it holds; empty without a rule."""
    return {"rule": str(rule or ""), "value": rule and rule.value(x), "holds": rule and rule.holds(x)}


def row(quantity: str, x: np.ndarray, rule: Rule | None = None, **labels: object) -> dict[str, object]:
    """A table row about measurements x: labels, mean, standard error, rule; of fewer than two nothing is said."""
    if np.size(x) < 2:
        return {"quantity": quantity, **labels, "mean": None, "s.e.": None, **judged(None, x)}
    return {"quantity": quantity, **labels, "mean": np.mean(x), "s.e.": standard_error(x), **judged(rule, x)}


def standard_error(x: np.ndarray) -> float:
    """Of the mean of independent measurements x."""
    return float(np.std(x, ddof=1) / np.sqrt(np.size(x)))
