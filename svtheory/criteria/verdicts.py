"""Verdicts: the conditions of a scenario as data, and as the table that answers a researcher's question."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jax import Array

from svtheory.checks import concrete
from svtheory.criteria.pairs import PairAlignments
from svtheory.pytrees import pytree
from svtheory.spectra.alignments import chance_alignment
from svtheory.spectra.readings import READINGS

ROUNDING = 1e-5
"""Margins and cosines below this count as 0 in a table."""


@pytree("theorem", "side", "statement", "reading")
@dataclass(frozen=True)
class Condition:
    """One condition under which vectors that are read from a head are features.

    theorem    what it rests on
    side       "query", "key" or "both"
    statement  what has to hold
    margin     how far it is from holding: 0 iff it holds exactly. A number, or one a feature of the side, (N,) or (M,),
               or one a pair, (N, M); NaN for what the target does not match
    promise    the least |cos| of what is read and feature that it guarantees, a number or one a feature of the side;
               NaN where it guarantees none, as for pairs that mix or share their value
    applies    whether its hypotheses are met, a bool scalar
    reading    what the promise is about: "raw" singular vectors, "unwhitened" ones (T15), "balanced" patterns (T22)
    """

    theorem: str
    side: str
    statement: str
    margin: Array
    promise: Array
    applies: Array
    reading: str = "raw"


@pytree("dim")
@dataclass(frozen=True)
class Conditions:
    """The conditions of a scenario, and what `predict` makes of its pairs: iterate over the conditions, print a table.

    rows      the conditions
    pairs     the predicted |cos| of each matched pair with its singular vectors, singular value and gap, each (N, M);
              for pairs that share a value (gap 0), with the space of their vectors
    dim       D
    readings  the same by each of the READINGS: raw, as in `pairs`; unwhitened (T15); balanced, whose values are those
              of `A^{1/2} Omega B^{1/2}` (T22)
    """

    rows: tuple[Condition, ...]
    pairs: PairAlignments
    dim: int
    readings: dict[str, PairAlignments]

    def __iter__(self) -> Iterator[Condition]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def chance(self) -> float:
        """The mean |cos| of random directions, 1 in one dimension."""
        return chance_alignment(self.dim) if self.dim > 1 else 1.0

    def table(self) -> list[dict[str, str | float]]:
        """What applies, a dict a row: theorem, side, reading, condition, worst margin and promise; NaN for none.

        Where several features or pairs are concerned the condition names the worst. Numbers below 1e-5 are 0.
        """
        return [_entry(row) for row in self.rows if row.applies and not np.isnan(row.margin).all()]

    def verdict(self) -> str:
        """One sentence: how near singular vectors come to features, which are not fixed, and what chance would give.

        A pair is read by the singular vectors that carry most of it. Pairs that mix (T4) may have the same ones, and
        others then are nobody's: the sentence says so.
        """
        asked, value, gap = (np.asarray(x) for x in (np.isfinite(self.pairs.value), self.pairs.value, self.pairs.gap))
        if not asked.any():
            return "The target matches no pair."
        own, mixed = _own(self.pairs)
        shared, none = asked & (gap == 0) & (value > 0), asked & (value == 0)
        clauses = []
        if own.any():
            whose = "singular vectors" if own.sum() == asked.sum() else f"the singular vectors of {_pairs(own)}"
            clauses.append(f"{whose} {self._answer(own)}")
        if mixed.any():
            whose = f"{_pairs(mixed)} mix and share the singular vectors nearest to them, which"
            clauses.append(f"{whose} {self._answer(mixed)}")
        if shared.any():
            least, exact = self._least(shared)
            holds = "its features exactly" if exact else f"its features to |cos| >= {_cosine(*least)}"
            clauses.append(f"the values of {_pairs(shared)} fix only a space of vectors, which holds {holds}")
        if none.any():
            clauses.append(f"no singular vectors can be named for {_pairs(none)}")
        return f"Fully trained, {'; '.join(clauses)}; chance is {_number(self.chance)}."

    def _answer(self, where: np.ndarray) -> str:
        """How near the singular vectors of some pairs come to the features."""
        least, exact = self._least(where)
        if exact:
            return "are features exactly"
        if float(least[0]) > self.chance:
            return f"have |cos| >= {_cosine(*least)} with their features"
        return f"are not all features, |cos| >= {_cosine(*least)} is no more than chance"

    def read_back(self) -> str:
        """One sentence: which other reading shows the features; empty where no pair has modes of its own in one."""
        clauses = []
        for name in READINGS[1:]:
            pairs = self.readings[name]
            own, _ = _own(pairs)
            if own.any():
                least, exact = self._least(own, pairs)
                asked = np.isfinite(np.asarray(pairs.gap)).sum()
                whose = name if own.sum() == asked else f"{name} ({_pairs(own)} of {asked})"
                if not exact and float(least[0]) <= self.chance:
                    clauses.append(f"{whose} not all, |cos| >= {_cosine(*least)} is no more than chance")
                else:
                    clauses.append(f"{whose} exactly" if exact else f"{whose} to |cos| >= {_cosine(*least)}")
        return f"Read back, features are shown: {'; '.join(clauses)}." if clauses else ""

    def _least(self, where: np.ndarray, pairs: PairAlignments | None = None) -> tuple[tuple[float, float], bool]:
        """The least |cos| among some pairs and its sine, and whether it is 1 to rounding."""
        pairs = pairs or self.pairs
        cosines, sines = (
            np.stack([np.asarray(query)[where], np.asarray(key)[where]])
            for query, key in ((pairs.query, pairs.key), (pairs.query_sine, pairs.key_sine))
        )
        most = float(sines.max())
        return (float(cosines.min()), most), most <= 100 * float(np.finfo(cosines.dtype).eps)

    def __str__(self) -> str:
        if not concrete(self.pairs.query) or self.pairs.query.ndim != 2:
            return repr(self)
        cells = [[x if isinstance(x, str) else _number(x) for x in entry.values()] for entry in self.table()]
        header = ["theorem", "side", "reading", "condition", "margin", "promise"]
        said = [self.verdict(), *(line for line in [self.read_back()] if line)]
        return "\n".join([*_columns(_pair_cells(self)), *said, "", *_columns([header, *cells])])


def _pair_cells(found: Conditions) -> list[list[str]]:
    """A line a pair: value, gap and cosines of singular vectors, and the lesser cosine of both sides read back."""
    header = ["pair", "sigma", "gap", "|cos(u, x)|", "|cos(v, y)|", *READINGS[1:]]
    every = [
        [np.asarray(x) for x in (pairs.query, pairs.key, pairs.query_sine, pairs.key_sine)]
        for pairs in (found.readings[name] for name in READINGS)
    ]
    value, gap = np.asarray(found.pairs.value), np.asarray(found.pairs.gap)
    cells = []
    for place in zip(*np.nonzero(np.isfinite(value)), strict=True):
        (query, key, query_sine, key_sine), *others = ([float(x[place]) for x in of_pairs] for of_pairs in every)
        lesser = [_cosine(min(q, k), max(q_sine, k_sine)) for q, k, q_sine, k_sine in others]
        cosines = [_cosine(query, query_sine), _cosine(key, key_sine), *lesser]
        cells.append([f"x_{place[0]} -> y_{place[1]}", _number(value[place]), _number(gap[place]), *cosines])
    return [header, *cells]


def _own(pairs: PairAlignments) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs have named vectors of their own, and which share them: named values are distinct, theirs equal."""
    value, named = np.asarray(pairs.value), np.asarray(pairs.gap) > 0
    share = (value[..., None] == value[named]).sum(axis=-1) > 1
    return named & ~share, named & share


def _pairs(where: np.ndarray) -> str:
    """How many pairs."""
    return f"{where.sum()} pair{'s' if where.sum() > 1 else ''}"


def _entry(row: Condition) -> dict[str, str | float]:
    margin, promise = np.asarray(row.margin), np.asarray(row.promise)
    worst = np.unravel_index(np.nanargmax(margin), margin.shape) if margin.ndim else ()
    least = np.nan if np.isnan(promise).all() else np.nanmin(promise)
    most, least = (0.0 if x < ROUNDING else float(x) for x in (margin[worst], least))
    several = most > 0 and np.isfinite(margin).sum() > 1
    return {
        "theorem": row.theorem,
        "side": row.side,
        "reading": row.reading,
        "condition": f"{row.statement} (most at {_place(row.side, worst)})" if several else row.statement,
        "margin": most,
        "promise": least,
    }


def _place(side: str, index: tuple) -> str:
    """The feature or the pair at an index of a margin."""
    letters = {"query": "x", "key": "y", "both": "xy"}[side]
    return " -> ".join(f"{letter}_{i}" for letter, i in zip(letters, index, strict=True))


def _number(x: np.ndarray | float) -> str:
    """Four digits; rounding errors are shown as 0, NaN as a dash."""
    return "-" if np.isnan(x) else "0" if abs(x) < ROUNDING else f"{x:.4g}"


def _cosine(cosine: float, sine: float) -> str:
    """A cosine to four digits; near 1, by how much it is less, from its sine."""
    below = sine**2 / (1 + cosine)
    return f"1 - {below:.2g}" if sine > ROUNDING and below < 5e-5 else _number(cosine)


def _columns(cells: list[list[str]]) -> list[str]:
    """The rows of text cells as aligned lines."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
