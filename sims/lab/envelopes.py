"""Envelopes: of arrangements whose loss is a line in the coupling, the lowest, its thresholds, and these as p -> 0."""

from collections.abc import Iterable

import numpy as np
import xarray as xr

from svtheory.geometry.relu_minima import changes, state

CHANGES = "superposed up to", "orthogonalised from"


def lowest_line(fine: np.ndarray, reconstruction: np.ndarray, leakage: np.ndarray, s: np.ndarray) -> xr.Dataset:
    """The lower envelope of lines `R + g L` at rising couplings g (G,), and where the kind of its state changes.

    R is given on several samples, shape (K, samples), L and the crowding s of the pair once, (K,) and (K, 2). Of the
    table, "energy", "s" and "state" are the lowest line's on the mean of all samples, "threshold" its `changes`, and
    "sampled" those on each sample.
    """
    energy = reconstruction.mean(axis=1) + fine[:, None] * leakage
    least, kinds = energy.argmin(axis=1), state(s)
    sampled = [changes(fine, kinds[(x + fine[:, None] * leakage).argmin(axis=1)]) for x in reconstruction.T]
    found = {
        "energy": ("coupling", energy.min(axis=1)),
        "s": (("coupling", "side"), s[least]),
        "state": ("coupling", kinds[least]),
        "threshold": ("change", np.array(changes(fine, kinds[least]))),
        "sampled": (("sample", "change"), np.array(sampled)),
    }
    return xr.Dataset(found, {"coupling": fine, "change": list(CHANGES)})


def carried(table: xr.Dataset, name: str, probabilities: Iterable[float]) -> np.ndarray:
    """The value at p = 0 of the parabola through those of a variable at three p; NaN where one is."""
    p = list(probabilities)
    weights = [np.prod([other / (other - own) for other in p if other != own]) for own in p]
    return np.tensordot(weights, table[name].sel(probability=p).values, 1)
