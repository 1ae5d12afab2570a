"""Grades: how far a hypothesis explains a head, in a word, from numbers that stand beside it (T16).

The cosine's square is the share of the logits' variance that the hypothesis accounts for, over independent draws of
query and key. What is asked of a grade is asked of the lower end of an interval, so that no grade hangs on a third
digit; thresholds were set before any heads but the public ones were read.
"""

import numpy as np
import xarray as xr

from svtheory.heads.hypotheses import ASKED

LEVEL = 0.01
"""Of p-values, for all hypotheses of all heads."""
MARGIN = 0.2
"""By how much a hypothesis that explains a head leads every rival."""
EXPLAINED, PARTLY, UNEXPLAINED = "explained", "partly", "unexplained"
SHARES = {EXPLAINED: 0.75, PARTLY: 0.25}
"""The least share of the logits' variance, at the lower end of its interval."""


def grades(results: xr.Dataset) -> xr.DataArray:
    """A word for each head and hypothesis.

    explained    the lower end of the interval leaves at least 3/4 of the variance accounted for, p for all hypotheses,
                 adjusted for all heads, is at most 0.01, and the margin over every rival is at least 0.2
    partly       the lower end leaves at least 1/4, p is at most 0.01, and the margin is above 0, its lower end too
    unexplained  anything less
    """
    share = np.sign(results.lowest) * results.lowest**2
    beyond = (results.adjusted_p_value <= LEVEL) & ~(results.margin_lowest <= 0) & ~(results.margin <= 0)
    explained = beyond & (share >= SHARES[EXPLAINED]) & (results.margin >= MARGIN)
    partly = beyond & (share >= SHARES[PARTLY])
    return xr.where(explained, EXPLAINED, xr.where(partly, PARTLY, UNEXPLAINED))


def best(results: xr.Dataset) -> xr.Dataset:
    """Of each head the hypothesis of the best grade, and of these the one of largest functional cosine."""
    return results.isel(hypothesis=worth(results).argmax("hypothesis"))


def foremost(found: xr.Dataset) -> xr.Dataset:
    """The head of the best grade, and of these the one of largest functional cosine, of heads with one hypothesis."""
    return found.isel(worth(found).argmax(("layer", "head")))


def worth(results: xr.Dataset) -> xr.DataArray:
    """Grades first, functional cosines, from -1 to 1, second."""
    order = (UNEXPLAINED, PARTLY, EXPLAINED)
    return sum(3 * rank * (results.grade == word) for rank, word in enumerate(order)) + results.functional_cosine


def sentence(here: xr.Dataset) -> str:
    """What is said of a head, given its best hypothesis."""
    name, grade = here.hypothesis.item(), here.grade.item()
    cosine = with_interval(here.functional_cosine, here.lowest, here.highest, ".2f")
    numbers = f"functional cosine {cosine}, margin {float(here.margin):.2f}, p {float(here.adjusted_p_value):.2g}"
    asked = f'"{name}" ({ASKED[name]})' if name in ASKED else f'"{name}"'
    if grade == UNEXPLAINED:
        return f"unexplained; nearest is {asked}, {numbers}"
    return f"{'partly ' if grade == PARTLY else ''}explained by {asked}, {numbers}"


def with_interval(x: xr.DataArray, low: xr.DataArray, high: xr.DataArray, form: str = ".3g") -> str:
    """A number and its interval, said to be of samples drawn again where it does not hold the number.

    >>> with_interval(*map(xr.DataArray, (0.95, 0.88, 0.94)))
    '0.95 (drawn again: 0.88 to 0.94)'
    """
    drawn = "drawn again: " if float(x) < float(low) or float(x) > float(high) else ""
    return f"{float(x):{form}} ({drawn}{float(low):{form}} to {float(high):{form}})"
