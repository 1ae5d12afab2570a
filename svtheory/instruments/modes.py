"""Modes: the first modes of what a hypothesis predicts of a head, as the data see them, beside the head's own (T22)."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from svtheory.heads.read_together import SIDES
from svtheory.instruments.beyond_chance import Part
from svtheory.instruments.carried import VARIABLES as CARRIED_VARIABLES
from svtheory.instruments.carried import both_readings, carried
from svtheory.instruments.grades import UNEXPLAINED, best, foremost
from svtheory.instruments.hypothesised import Reading
from svtheory.instruments.labels import SCORE, Labels
from svtheory.spectra.alignments import chance_alignment
from svtheory.spectra.balanced import balanced
from svtheory.spectra.spectra import spectrum

MODES = 2
"""How many are compared."""
RANDOM = 1000
"""Random modes behind the chance level of a pattern."""
VARIABLES: Labels = {
    **CARRIED_VARIABLES,
    "pattern_cosine": "|cos| of a mode's pattern as predicted with the head's own",
    "pattern_chance_cosine": "|cos| of a predicted pattern with that of a random mode, mean",
    "seen_cosine": "|cos| of a mode as predicted with the head's own, as the data see them",
    "seen_chance_cosine": "|cos| of random directions of what the data see, mean",
    "predicted_value": ("singular value that the best hypothesis predicts of the head", SCORE),
    "mode": "mode, 1 of the largest balanced value",
}


def first_modes(parts: Sequence[Part], results: xr.Dataset) -> xr.Dataset:
    """Of heads that are explained, if only partly, and of the foremost one, what `compared_modes` finds; else NaN."""
    found = best(results)
    place = {name: foremost(found)[name].item() for name in ("layer", "head")}
    names, asked = list(results.hypothesis.values), found.grade != UNEXPLAINED
    asked.loc[place] = True
    records = []
    for part in parts:
        for j, head in enumerate(part.heads):
            if not asked[part.layer, head]:
                continue
            here = found.isel(layer=part.layer, head=head)
            member = part.reading.held.best[j, names.index(here.hypothesis.item())]
            record = compared_modes(part.reading, j, int(member))
            records.append(record.expand_dims({"layer": [here.layer.item()], "head": [here["head"].item()]}))
    return xr.merge(records, join="outer", compat="no_conflicts").reindex(layer=results.layer, head=results["head"])


def compared_modes(reading: Reading, head: int, member: int) -> xr.Dataset:
    """Singular values that a member predicts of a head, and |cos| of its first modes with the head's own.

    Of patterns, beside those of a random mode; and of the modes as the data see them, `u~_k`, whose chance level is
    that of directions of their range.
    """
    asked, factors = reading.asked, reading.factors
    moments = asked.query.moment, asked.key.moment
    both = both_readings(reading.predicted(head, member), moments)
    predicted, told = both
    weights = factors.W_Q[head], factors.W_K[head]
    own = balanced(*weights, *moments)
    lying = carried((spectrum(*weights), own), both, moments)
    rng, found = np.random.default_rng(0), {}
    for side, moment in zip(SIDES, moments, strict=True):
        (pattern, probe), (seen, _) = (
            tuple(np.asarray(getattr(modes, f"{side}_{what}"))[:, :MODES] for what in ("patterns", "probes"))
            for modes in (told, own)
        )
        axes, lengths = np.asarray(moment.axes), np.asarray(moment.lengths)
        random = axes @ (lengths[:, None] * rng.normal(size=(lengths.size, RANDOM)))
        found[side] = {
            "pattern_cosine": _cosines(pattern, seen).diagonal(),
            "pattern_chance_cosine": _cosines(pattern, random).mean(axis=1),
            "seen_cosine": np.abs((probe * seen).sum(axis=0)),
            "seen_chance_cosine": np.full(pattern.shape[1], chance_alignment(max(2, int((lengths > 0).sum())))),
        }
    columns = {name: (("side", "mode"), np.stack([found[side][name] for side in SIDES])) for name in found[SIDES[0]]}
    modes = np.arange(1, 1 + next(iter(columns.values()))[1].shape[1])
    # of fewer samples than pairs, what is predicted has no more
    lacking = min(factors.W_Q.shape[1:]) - len(predicted.values)
    values = {"predicted_value": ("pair", np.pad(np.asarray(predicted.values), (0, lacking)))}
    return xr.Dataset(columns | values, {"side": list(SIDES), "mode": modes}).merge(lying)


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|cos| of columns, 0 with one that vanishes."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=0), np.finfo(x.dtype).tiny) for x in (a, b))
    return np.abs(a.T @ b)
