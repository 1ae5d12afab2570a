"""Rows of the ledger: one knob of one theorem each, from where its condition holds to where it is far violated."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from jax import Array

from sims.lab import knobs
from sims.lab.knobs import D, N
from svtheory import Scenario, conditioned_frame, tight_frame, worst_case_frame

TARGET = 20.0  # logit asked for while density is turned
TARGETS = {0.2: (0.1, 1, 5, 20, 80), 0.9: (1, 5, 20, 80)}  # logits, by density


@dataclass(frozen=True)
class Row:
    """One knob of one theorem: `build(value, key)` is a scenario that matches query feature 0 with key feature 0.

    Heads are trained to the optimum, or, where the knob is `timed`, by gradient flow for so long; their singular
    vectors are compared with the features as they are, or `unwhitened`.
    """

    theorem: str
    knob: str
    values: tuple[float, ...]
    build: Callable[[Array, Array], Scenario]
    objective: str = "square"
    timed: bool = False
    unwhitened: bool = False


def _softmax_rows(bias: bool) -> list[Row]:
    """Tight frames, on which only a mean can turn the vectors away, and random frames, on which all are turned."""
    tight, suffix = partial(tight_frame, dim=D, n_features=N), ", query bias" if bias else ""
    density = Row(
        "T18",
        f"density p at t = {TARGET:g}{suffix}",
        (0.1, 0.2, 0.4, 0.6, 0.9),
        lambda p, key: knobs.softmax(tight, p, TARGET, bias, key),
    )
    sizes = [
        Row(
            "T18",
            f"target t at p = {p:g}{suffix}",
            values,
            lambda t, key, p=p: knobs.softmax(knobs.unit_frame, p, t, bias, key),
        )
        for p, values in TARGETS.items()
    ]
    return [replace(row, objective="softmax") for row in (density, *sizes)]


ROWS = [
    Row("T1", "missing rank of X and Y", (0, 2, 4, 6), knobs.rank_deficient),
    Row("T1", "N/D", (0.5, 1, 1.5, 2, 3, 4), knobs.crowded),
    Row("T2", "angle off an eigenvector / worst", (0, 0.2, 0.4, 0.6, 0.8, 1), knobs.off_eigenvector),
    Row("T3", "condition number, random", (1, 3, 10, 30, 100, 300), partial(knobs.conditioned, conditioned_frame)),
    Row("T3", "condition number, worst case", (1, 3, 10, 30, 100, 300), partial(knobs.conditioned, worst_case_frame)),
    Row("T4", "overlap of two pairs' features", (0, 0.2, 0.4, 0.6, 0.8, 0.9), knobs.overlapping),
    Row("T5", "correlation", (0, 0.3, 0.6, 0.8, 0.9, 0.97), partial(knobs.correlated, tight_frame)),
    Row("T5", "mean / standard deviation", (0, 0.25, 0.5, 1, 2, 4), knobs.with_mean),
    *_softmax_rows(bias=False),
    *_softmax_rows(bias=True),
    Row("T7", "second pair / first, H = 1", (0, 0.3, 0.6, 0.8, 1.2, 2, 4), knobs.narrow),
    Row("T8", "weight decay / threshold", (0, 0.2, 0.4, 0.6, 0.8, 0.95), knobs.decaying),
    Row("T14", "gap / disturbance", (3, 1, 0.3, 0.1, 0.03, 0.01), knobs.near_gap),
    Row(
        "T15",
        "correlation, unwhitened",
        (0, 0.3, 0.6, 0.8, 0.9, 0.97),
        partial(knobs.correlated, partial(conditioned_frame, condition=10.0)),
        unwhitened=True,
    ),
    Row("T17", "time / slowest", (0.001, 0.01, 0.1, 0.3, 1, 3, 10), knobs.aged, timed=True),
]
