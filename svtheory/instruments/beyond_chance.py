"""Beyond chance: which hypotheses explain which heads better than random heads, over all heads at once (T16)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from svtheory.heads.sequential import sequential_p_values
from svtheory.heads.turned_heads import NULLS
from svtheory.instruments.grades import LEVEL
from svtheory.instruments.hypothesised import Reading
from svtheory.instruments.labels import Labels
from svtheory.instruments.leads import TABLE
from svtheory.instruments.survey import adjusted
from svtheory.progress import rounds

ROUND = 99
"""Random heads at a time."""
P_VALUES = ("p_value", "p_value_for_all", "adjusted_p_value", "adjusted_p_value_least")
VARIABLES: Labels = {
    "p_value": "share of random heads that the hypothesis explains as well",
    "p_value_for_all": "p-value times the number of hypotheses (Bonferroni)",
    "adjusted_p_value": "the same, adjusted over heads (Benjamini and Hochberg)",
    "adjusted_p_value_least": "what the adjusted p-value might yet become, at least, were draws to go on",
    "draws": ("random heads drawn", "heads"),
    "null": "functional cosine of the hypothesis with a random head",
    "random_head": "what of the head is turned at random: its whitened form, or the head itself",
}


class Part(NamedTuple):
    """Heads that are read together, and their places in the table."""

    layer: int
    heads: list[int]
    reading: Reading


def beyond_chance(parts: Sequence[Part], shape: tuple[int, int, int], key: Array, draws: int) -> dict[str, Any]:
    """p-values from random heads, drawn until it is settled which are at most LEVEL, and the first round of cosines."""
    A, tests = shape[2], int(np.prod(shape))
    most = max(draws, int(np.ceil(shape[0] * shape[1] * A / LEVEL)) - 1)  # or one head alone could not be found
    counted = rounds("explain: random heads", ROUND, most)
    first = np.empty((*shape, len(NULLS), ROUND), np.float32)

    def draw(number: int, wanted: np.ndarray) -> np.ndarray:
        next(counted, None)
        wanted, reached = wanted.reshape(shape), np.zeros((*shape, len(NULLS), ROUND), bool)
        for part in parts:
            if not wanted[part.layer, part.heads].any():
                continue
            at = jax.random.fold_in(jax.random.fold_in(key, number), part.layer)
            null = np.asarray(part.reading.turned(at, ROUND))
            # what is undefined counts as reached
            reached[part.layer, part.heads] = ~(null < np.asarray(part.reading.held.least)[..., None, None])
            if number == 0:
                first[part.layer, part.heads] = null
        return reached.reshape(tests, len(NULLS), ROUND)

    def for_all(p: np.ndarray) -> np.ndarray:
        return np.minimum(1, A * p.reshape(shape))

    def judged(p: np.ndarray, level: float) -> np.ndarray:
        return adjusted(for_all(p), 2) <= level

    tally = sequential_p_values(draw, tests, len(NULLS), LEVEL, most, judged=judged)
    counted.close()
    p = tally.p_value
    return {
        "p_value": (TABLE, p.reshape(shape)),
        "p_value_for_all": (TABLE, for_all(p)),
        "adjusted_p_value": (TABLE, adjusted(for_all(p), 2)),
        "adjusted_p_value_least": (TABLE, adjusted(for_all(tally.lower), 2)),
        "draws": (TABLE, tally.draws.max(axis=1).reshape(shape)),
        "null": ((*TABLE, "random_head", "draw"), first),
    }
