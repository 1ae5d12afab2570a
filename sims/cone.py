"""Cone (the paper's App C): a mean direction that all tokens share, swept from none to dominant, turns the query side.

Features are tight frames and activations uncorrelated, so that nothing but their mean can turn a singular vector away
from its feature. Theory says on which side it does (T5, T6): under softmax on the query side, whose head sees the
second moment, but never on the key side, nor on the query side of a head with a query bias, which both see the
covariance; under the squared objective on both. The mean token projected out of both, vector and feature are one again
(T15). The cone is the mean of the activations over their standard deviation. Softmax heads are trained on samples: z is
1 - |cos| of predicted with trained vectors, in units of what so many contexts leave (T21).

Rules, set before the run, for each objective, side and mean: mean |predicted - measured| cosine, of the vector as it is
and with the mean token removed, at most 0.02; and no side that should not turn is below 0.98.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from sims.engines.simulation import Training, simulate_ensemble
from sims.lab.command import command
from sims.lab.curves import curves, with_error
from sims.lab.knobs import matched
from sims.lab.recovery import READINGS, SIDES, compared
from sims.lab.shortfall import z_cell
from sims.lab.sizes import Frames
from sims.lab.sweep import Batch, each, grid, sweep
from svtheory import Gaussian, Scenario, Spectrum, chance_alignment, tight_frame
from svtheory.reports.options import at_least
from svtheory.reports.plotting import chance_line, panels
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

THEOREMS = ("T5", "T6", "T15")
SETTINGS = {
    "softmax": {"objective": "softmax"},
    "softmax, query bias": {"objective": "softmax", "query_bias": True},
    "square": {"objective": "square"},
}
TURNS = {("softmax", "query"), ("square", "query"), ("square", "key")}  # what a mean may turn (T5, T6)
TOLERANCE, UNTURNED = 0.02, 0.98
READ = (READINGS[0], READINGS[2])  # a tight frame's unwhitening is the identity
LOGIT = 0.5  # standard deviation of the logits asked for, over keys


@dataclass(frozen=True)
class Config(Frames):
    """Size of the sweep."""

    ARRAYS = (*Frames.ARRAYS, "frames n_features n_features", "frames dim n_features", "frames contexts dim")

    means: Annotated[tuple[float, ...], at_least(0)] = (0.0, 0.5, 1.0, 2.0)
    """Means of the activations, over their standard deviation."""
    frames: Annotated[int, at_least(2)] = 3
    """Random heads for each setting and mean."""
    steps: Annotated[int, at_least(1)] = 50
    """Steps of L-BFGS."""
    contexts: Annotated[int, at_least(1)] = 4096
    """Sampled contexts a head, softmax objective."""


SCALES = {
    "quick": Config(),
    "paper": Config(means=(0.0, 0.25, 0.5, 1.0, 2.0, 4.0), frames=8, steps=200, contexts=16384),
    "full": Config(dim=32, n_features=64, frames=64, steps=200, contexts=65536),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train and compare in every setting."""
    batches = [_heads(config, number, setting) for number, setting in enumerate(SETTINGS)]
    read = partial(compared, config.contexts, jax.random.fold_in(jax.random.key(config.seed), len(SETTINGS)))
    results = sweep(batches, partial(_train, config), read, checkpoints(folder), ("side", "reading"))
    results = results.assign_coords(side=list(SIDES), reading=list(READINGS))
    results = results.assign_attrs(chance=chance_alignment(config.dim))
    rows = [_row(results, setting, side, mean) for setting in SETTINGS for side in SIDES for mean in config.means]
    return Outcome(_summary(results, rows), results, {"cone": _exhibit(results)}, rows)


def _heads(config: Config, number: int, setting: str) -> Batch:
    """All heads of one setting."""
    cells = grid(cone=config.means, frame=range(config.frames))
    # the same frames at every mean
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number), config.frames)[cells["frame"]]
    scenarios = each(partial(_scenario, config, setting), jnp.asarray(cells["cone"], float), keys)
    return Batch(scenarios, keys, {"setting": setting, "cone": cells["cone"]})


def _train(config: Config, scenarios: Scenario, keys: Array, **place: Any) -> Spectrum:
    steps = config.steps if scenarios.objective == "softmax" else 10 * config.steps
    return simulate_ensemble(scenarios, keys, Training(steps=steps, contexts=config.contexts), **place)


def _scenario(config: Config, setting: str, mean: Array, key: Array) -> Scenario:
    """Query feature 0 matched with key feature 0."""
    N = config.n_features
    law = Gaussian(jnp.full(N, mean), jnp.eye(N))
    strength = LOGIT / jnp.sqrt(1 + mean**2)
    return matched(
        lambda key: tight_frame(key, config.dim, N), key, strength, query_law=law, key_law=law, **SETTINGS[setting]
    )


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
        "measured": with_error(before.measured),
        "mean removed": cleaned.predicted.mean().item(),
        "mean removed, measured": with_error(cleaned.measured),
        "|cos(predicted, trained)|": heads.cosine.median().item(),
        "z": z_cell(heads.cosine.values, heads.sin2.values),
        "|error|": error,
        "holds": error <= TOLERANCE and stays,
    }


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
    }


def _exhibit(results: xr.Dataset) -> Exhibit:
    figure, (axes,) = panels(len(SETTINGS), 1, width=4.3, height=3.8)
    chosen = {
        "query side": {"side": "query", "reading": READ[0]},
        "key side": {"side": "key", "reading": READ[0]},
        f"query side, {READ[1]}": {"side": "query", "reading": READ[1]},
    }
    for ax, setting in zip(axes, SETTINGS, strict=True):
        curves(ax, results.sel(head=results.setting == setting), "cone", chosen)
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
