"""Leads: by how much each hypothesis about a head is ahead of its rivals, with intervals (T16)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from svtheory.heads.hypotheses import Hypothesis
from svtheory.instruments.labels import Labels, label
from svtheory.instruments.survey import PLACE

TABLE = (*PLACE, "hypothesis")
INTERVAL = 0.95
TAILS = ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2)
VARIABLES: Labels = {
    "lowest": "functional cosine, lower end of its 95 % interval over samples drawn again",
    "highest": "functional cosine, upper end of its interval",
    "margin": "lead of the functional cosine over the best rival",
    "margin_lowest": "lead, lower end of its 95 % interval",
    "margin_highest": "lead, upper end of its interval",
    "nearest_rival": "the best rival: another hypothesis, or permuted templates",
    "rank": "place of the template among permuted ones, 1 ahead of all",
    "member": "of a family the member that fits best, by its name",
    "first_member": "the least member that samples drawn again choose, 2.5th percentile",
    "last_member": "the largest member that samples drawn again choose, 97.5th percentile",
}


def leads(results: xr.Dataset, again: np.ndarray) -> dict[str, Any]:
    """Intervals of functional cosines, and the lead over permuted templates and over the other hypotheses.

    `again` are the cosines on samples drawn again, (layers, heads, resamples, A). In an interval of the lead all
    hypotheses are drawn again together, permuted templates not at all.
    """
    both = np.concatenate([results.functional_cosine.values[:, :, None], again], axis=2)
    others = _others(both)
    permuted = np.where(np.isnan(results.permuted), -np.inf, results.permuted).max(axis=-1)
    rival = np.maximum(permuted[:, :, None], others.max(axis=-1))
    lead = np.where(np.isfinite(rival), both - rival, np.nan)
    nearest = np.where(permuted >= others[:, :, 0].max(axis=-1), both.shape[-1], others[:, :, 0].argmax(axis=-1))
    nearest = np.where(np.isfinite(rival[:, :, 0]), nearest, both.shape[-1] + 1)
    names = np.array([*results.hypothesis.values, "permuted templates", "none"])
    (lowest, highest), (least, most) = (np.quantile(x, TAILS, axis=2) for x in (again, lead[:, :, 1:]))
    found = {"lowest": lowest, "highest": highest, "margin": lead[:, :, 0], "margin_lowest": least}
    found |= {"margin_highest": most, "nearest_rival": names[nearest]}
    found |= {"rank": 1 + (results.permuted.values >= both[:, :, 0, :, None]).sum(axis=-1)}
    return {name: (TABLE, x) for name, x in found.items()}


def _others(x: np.ndarray) -> np.ndarray:
    """What each of x (..., A) is beside the others, (..., A, A); -inf in its own place."""
    return np.where(np.eye(x.shape[-1], dtype=bool), -np.inf, x[..., None, :])


def families(hypotheses: Sequence[Hypothesis], members: np.ndarray) -> Iterator[np.ndarray]:
    """Of each hypothesis the cosines of its members, (..., P), among those of all, (..., Q)."""
    ends = np.cumsum([len(hypothesis.family) for hypothesis in hypotheses])
    for hypothesis, end in zip(hypotheses, ends, strict=True):
        yield members[..., end - len(hypothesis.family) : end]


def best_members(hypotheses: Sequence[Hypothesis], members: np.ndarray, again: np.ndarray) -> dict[str, Any]:
    """Each family's functional cosines, its best member, and the first and last of those that new samples choose.

    members (layers, heads, Q), again (layers, heads, resamples, Q).
    """
    found: dict[str, Any] = {}
    shape = *members.shape[:2], len(hypotheses)
    named = {name: np.full(shape, np.nan) for name in ("member", "first_member", "last_member")}
    both = zip(hypotheses, families(hypotheses, members), families(hypotheses, again), strict=True)
    for a, (hypothesis, own, drawn) in enumerate(both):
        if len(hypothesis.family) == 1:
            continue
        called, dim = np.asarray(hypothesis.members), f"member_{hypothesis.name}"
        of_member = label(f'member of the family "{hypothesis.name}", by its name')
        cosines = label(f'functional cosine of each member of "{hypothesis.name}"')
        found[f"members_{hypothesis.name}"] = xr.DataArray(
            own, {dim: (dim, called, of_member)}, (*PLACE, dim), attrs=cosines
        )
        tails = np.quantile(called[drawn.argmax(axis=-1)], TAILS, axis=-1, method="nearest")
        for name, x in zip(named, (called[own.argmax(axis=-1)], *tails), strict=True):
            named[name][..., a] = x
    return found | {name: (TABLE, x) for name, x in named.items()}
