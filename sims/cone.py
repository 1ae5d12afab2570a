"""Cone (the paper's App C): a mean direction that all tokens share, swept from none to dominant, turns the query side.

Features are tight frames and activations uncorrelated, so that nothing but their mean can turn a singular vector away
from its feature. Theory says on which side it does (T5, T6): under softmax on the query side, whose head sees the
second moment, but never on the key side, nor on the query side of a head with a query bias, which both see the
covariance; under the squared objective on both. The mean token projected out of both, vector and feature are one again
(T15). The cone is the mean of the activations over their standard deviation.

Rules, set before the run, for each objective, side and mean: mean |predicted - measured| cosine, of the vector as it is
and with the mean token removed, at most 0.02; and no side that should not turn is below 0.98.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from sims.engines.simulation import Training, simulate_ensemble
from sims.lab.command import command
from sims.lab.recovery import READINGS, recoveries
from svtheory import Gaussian, Scenario, Spectrum, chance_alignment, compare, predict, single_pair, tight_frame
from svtheory.checks import InputError, whole
from svtheory.reports.plotting import (
    COLOURS,
    chance_line,
    measured,
    panels,
)
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

SETTINGS = {
    "softmax": {"objective": "softmax"},
    "softmax, query bias": {"objective": "softmax", "query_bias": True},
    "square": {"objective": "square"},
}
SIDES = ("query", "key")
TURNS = {("softmax", "query"), ("square", "query"), ("square", "key")}  # what a mean may turn (T5, T6)
TOLERANCE, UNTURNED = 0.02, 0.98
READ = (READINGS[0], READINGS[2])  # a tight frame's unwhitening is the identity
LOGIT = 0.5  # standard deviation of the logits asked for, over keys


@dataclass(frozen=True)
class Config:
    """Size of the sweep."""

    dim: int = 10
    """Dimension D."""
    n_features: int = 20
    """Features N, at least D."""
    means: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    """Means of the activations, over their standard deviation."""
    frames: int = 3
    """Random heads for each setting and mean."""
    steps: int = 50
    """Steps of L-BFGS."""
    contexts: int = 4096
    """Sampled contexts a head, softmax objective."""
    seed: int = 0
    """Random seed."""
    dtype: Literal["float32", "float64"] = "float64"
    """Precision of the whole run."""

    def __post_init__(self):
        whole("dim", self.dim, 2)
        whole("n_features", self.n_features, self.dim)
        for name, least in (("frames", 2), ("steps", 1), ("contexts", 1)):
            whole(name, getattr(self, name), least)
        if not self.means or min(self.means) < 0:
            raise InputError(f"means must be at least 0, got {self.means}")


SCALES = {
    "quick": Config(),
    "paper": Config(means=(0.0, 0.25, 0.5, 1.0, 2.0, 4.0), frames=8, steps=200, contexts=16384),
    "full": Config(dim=32, n_features=64, frames=64, steps=200, contexts=65536),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train and compare in every setting."""
    results = xr.concat([_train(config, setting, folder) for setting in SETTINGS], "head")
    rows = [_row(results, setting, side, mean) for setting in SETTINGS for side in SIDES for mean in config.means]
    return Outcome(_summary(results, rows), results, {"cone": _exhibit(results)}, rows)


def _train(config: Config, setting: str, folder: Path) -> xr.Dataset:
    """All heads of one setting."""
    number = list(SETTINGS).index(setting)
    means = np.repeat(np.array(config.means), config.frames)
    # the same frames at every mean
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number), config.frames)
    keys = jnp.tile(keys, len(config.means))
    # one after the other: batched QR factorisations side by side can deadlock on a small CPU
    build = jax.jit(partial(jax.lax.map, lambda cell: _scenario(config, setting, *cell)))
    scenarios = build((jnp.asarray(means, float), keys))
    steps = config.steps if "softmax" in setting else 10 * config.steps
    training = Training(steps=steps, contexts=config.contexts)
    label = f"{means.size} heads, {setting}"
    trained = simulate_ensemble(scenarios, keys, training, checkpoints(folder) / str(number), label)
    found = jax.jit(partial(jax.lax.map, lambda cell: _read(*cell)))((scenarios, trained))
    data = {name: (("head", "side", "reading")[: values.ndim], np.asarray(values)) for name, values in found.items()}
    coordinates = {
        "side": list(SIDES),
        "reading": list(READINGS),
        "setting": ("head", [setting] * means.size),
        "cone": ("head", means),
    }
    return xr.Dataset(data, coordinates, {"chance": chance_alignment(config.dim)})


def _scenario(config: Config, setting: str, mean: Array, key: Array) -> Scenario:
    """Query feature 0 matched with key feature 0."""
    N = config.n_features
    X, Y = (tight_frame(k, config.dim, N) for k in jax.random.split(key))
    law = Gaussian(jnp.full(N, mean), jnp.eye(N))
    strength = LOGIT / jnp.sqrt(1 + mean**2)
    return Scenario(X, Y, single_pair(N, N, 0, 0, strength), law, law, **SETTINGS[setting])


def _read(scenario: Scenario, trained: Spectrum) -> dict[str, Array]:
    """Cosines of the matched features with the first singular vectors, and of predicted with trained vectors."""
    prediction = predict(scenario)
    (predicted, _), (seen, removed) = recoveries(prediction, scenario), recoveries(trained, scenario)
    agreement = compare(prediction, trained)
    cosine = jnp.stack([agreement.left[0], agreement.right[0]])
    return {"predicted": predicted, "measured": seen, "removed": removed, "cosine": cosine}


def _row(results: xr.Dataset, setting: str, side: str, mean: float) -> dict[str, Any]:
    """One line of the table."""
    heads = results.sel(head=(results.setting == setting) & (results.cone == mean), side=side)
    before, cleaned = (heads.sel(reading=reading) for reading in READ)
    error = max(np.abs(x.predicted - x.measured).mean().item() for x in (before, cleaned))
    stays = (setting, side) in TURNS or before.measured.min().item() >= UNTURNED
    return {
        "objective": setting,
        "side": side,
        "mean / s.d.": mean,
        "|cos|": before.predicted.mean().item(),
        "measured": _with_error(before.measured),
        "mean removed": cleaned.predicted.mean().item(),
        "mean removed, measured": _with_error(cleaned.measured),
        "|cos(predicted, trained)|": heads.cosine.median().item(),
        "|error|": error,
        "verdict": "holds" if error <= TOLERANCE and stays else "fails",
    }


def _with_error(values: xr.DataArray) -> str:
    return f"{values.mean().item():.3f} ± {values.std(ddof=1).item() / np.sqrt(values.size):.3f}"


def _summary(results: xr.Dataset, rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"heads": results.sizes["head"]}
    for setting in SETTINGS:
        for side in SIDES:
            heads = results.sel(head=results.setting == setting, side=side)
            name = f"{setting} {side}".replace(",", "").replace(" ", "_")
            summary[f"lowest_cosine_{name}"] = heads.measured.sel(reading=READ[0]).min().item()
            summary[f"lowest_cosine_mean_removed_{name}"] = heads.measured.sel(reading=READ[1]).min().item()
    return summary | {
        "chance_cosine": results.attrs["chance"],
        "median_cosine_with_prediction": results.cosine.median().item(),
        "max_mean_absolute_error_cosine": max(row["|error|"] for row in rows),
        "rows": len(rows),
        "rows_that_hold": sum(row["verdict"] == "holds" for row in rows),
        "holds": all(row["verdict"] == "holds" for row in rows),
    }


def _exhibit(results: xr.Dataset) -> Exhibit:
    figure, (axes,) = panels(len(SETTINGS), 1, width=4.3, height=3.8)
    curves = [("query", READ[0]), ("key", READ[0]), ("query", READ[1])]
    for ax, setting in zip(axes, SETTINGS, strict=True):
        for (side, reading), colour, shape in zip(curves, COLOURS, "os^", strict=False):
            heads = results.sel(head=results.setting == setting, side=side, reading=reading)
            grouped = heads[["predicted", "measured"]].groupby("cone")
            average, error = grouped.mean(), grouped.std(ddof=1) / np.sqrt(grouped.count())
            label = f"{side} side" if reading == READ[0] else f"{side} side, {reading}"
            ax.plot(average.cone, average.predicted, color=colour)
            measured(ax, average.cone, average.measured, error.measured, color=colour, fmt=shape, label=label)
        chance_line(ax, results.attrs["chance"])
        ax.set(ylim=(0, 1.05), xlabel="mean / standard deviation of the activations", title=setting)
    axes[0].set_ylabel("|cos| with the matched feature")
    axes[0].legend(loc=(0.03, 0.36))
    return Exhibit(
        figure,
        "Alignment against the mean of the activations: predicted (lines) and trained heads (points, standard error). "
        "Under softmax the cone turns the query side only, and not with a query bias.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
