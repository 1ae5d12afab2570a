"""Unwhitening: features read back from singular vectors, before and after, by anisotropy and by side (T15).

Under softmax a fully trained head's singular vectors are probes of its features, turned away from them by the tokens'
covariance K (T6). Multiplied by K they are the features again: on the key side always, on the query side of a head
with a query bias; without the bias the mean token is mixed in, and is projected out of both before they are compared.
All of it needs uncorrelated activations: where they are correlated, what comes back is the mixture `Y V e_j`, whose
cosine with the feature is predicted as well. Features are random frames of condition number kappa. Heads are trained on
samples: z is 1 - |cos| of predicted with trained vectors, in units of what so many contexts leave (T21).

Rules, set before the run, for each side and condition number: mean |predicted - measured| cosine, before and after, at
most 0.02. A feature counts as recovered when the median measured cosine after unwhitening is at least 0.98.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product
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
from sims.lab.knobs import fading, matched
from sims.lab.recovery import READINGS, SIDES, compared
from sims.lab.shortfall import z_cell
from sims.lab.sizes import Frames
from sims.lab.sweep import Batch, each, grid, sweep
from svtheory import BernoulliUniform, Scenario, chance_alignment, conditioned_frame
from svtheory.reports.options import at_least
from svtheory.reports.plotting import chance_line, panels
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

THEOREMS = ("T6", "T15")
SETTINGS = ("no query bias", "query bias", "correlated")
TOLERANCE, RECOVERED = 0.02, 0.98
PROBABILITY, CORRELATION = 0.2, 0.8  # correlated activations have covariance CORRELATION^|i - j|
STRENGTH, N_KEYS = 1.0, 8


@dataclass(frozen=True)
class Config(Frames):
    """Size of the sweep."""

    ARRAYS = (*Frames.ARRAYS, "frames n_features n_features", "frames dim n_features", "frames contexts dim")

    conditions: Annotated[tuple[float, ...], at_least(1)] = (1.0, 10.0, 100.0)
    """Condition numbers of the frames."""
    frames: Annotated[int, at_least(2)] = 3
    """Random heads for each setting and condition number."""
    steps: Annotated[int, at_least(1)] = 60
    """Steps of L-BFGS."""
    contexts: Annotated[int, at_least(1)] = 8192
    """Sampled contexts a head."""


SCALES = {
    "quick": Config(),
    "paper": Config(conditions=(1.0, 3.0, 10.0, 30.0, 100.0), frames=12, steps=100, contexts=16384),
    "full": Config(dim=32, n_features=64, frames=64, steps=300, contexts=65536),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train, unwhiten and compare in every setting."""
    batches = [_heads(config, number, setting) for number, setting in enumerate(SETTINGS)]
    train = partial(simulate_ensemble, training=Training(steps=config.steps, contexts=config.contexts))
    read = partial(compared, config.contexts, jax.random.fold_in(jax.random.key(config.seed), len(SETTINGS)))
    results = sweep(batches, train, read, checkpoints(folder), ("side", "reading"))
    results = results.assign_coords(side=list(SIDES), reading=list(READINGS))
    results = results.assign_attrs(chance=chance_alignment(config.dim))
    rows = [_row(results, *cell) for cell in product(SETTINGS, SIDES, config.conditions)]
    return Outcome(_summary(results, rows), results, {"unwhitening": _exhibit(results)}, rows)


def _heads(config: Config, number: int, setting: str) -> Batch:
    """All heads of one setting."""
    condition = grid(condition=config.conditions, frame=range(config.frames))["condition"]
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number), condition.size)
    scenarios = each(partial(_scenario, config, setting), jnp.asarray(condition, float), keys)
    return Batch(scenarios, keys, {"setting": setting, "condition": condition})


def _scenario(config: Config, setting: str, condition: Array, key: Array) -> Scenario:
    """Query feature 0 matched with key feature 0."""
    N = config.n_features
    law = fading(N, CORRELATION) if setting == "correlated" else BernoulliUniform(PROBABILITY, N)
    options = {"objective": "softmax", "n_keys": N_KEYS, "query_bias": setting == "query bias"}
    return matched(
        lambda key: conditioned_frame(key, config.dim, N, condition),
        key,
        STRENGTH,
        query_law=law,
        key_law=law,
        **options,
    )


def _reading(setting: str, side: str) -> str:
    """How the theory reads the feature back: the mean token is mixed in on the query side without a bias only."""
    return READINGS[2] if side == "query" and setting == "no query bias" else READINGS[1]


def _row(results: xr.Dataset, setting: str, side: str, condition: float) -> dict[str, Any]:
    """One line of the table."""
    heads = results.sel(head=(results.setting == setting) & (results.condition == condition), side=side)
    reading = _reading(setting, side)
    before, after = heads.sel(reading=READINGS[0]), heads.sel(reading=reading)
    error = max(np.abs(x.predicted - x.measured).mean().item() for x in (before, after))
    removed = heads.removed.mean().item() if reading == READINGS[2] else 0.0
    return {
        "setting": setting,
        "side": side,
        "condition number": condition,
        "before": before.predicted.mean().item(),
        "before, measured": with_error(before.measured),
        "after": after.predicted.mean().item(),
        "after, measured": with_error(after.measured),
        "mean token removed": removed,
        "z": z_cell(heads.cosine.values, heads.sin2.values),
        "|error|": error,
        "recovered": bool(after.measured.median() >= RECOVERED),
        "holds": error <= TOLERANCE,
    }


def _summary(results: xr.Dataset, rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"heads": results.sizes["head"]}
    for setting in SETTINGS:
        for side in SIDES:
            heads = results.sel(head=results.setting == setting, side=side)
            name = f"{setting} {side}".replace(" ", "_")
            before, after = (heads.measured.sel(reading=r) for r in (READINGS[0], _reading(setting, side)))
            summary[f"median_cosine_before_{name}"] = before.median().item()
            summary[f"median_cosine_after_{name}"] = after.median().item()
    recovered = {name: np.mean([row["recovered"] for row in rows if row["setting"] == name]) for name in SETTINGS}
    return summary | {
        "chance_cosine": results.attrs["chance"],
        "max_mean_absolute_error_cosine": max(row["|error|"] for row in rows),
        **{f"rows_recovered_share_{name.replace(' ', '_')}": float(share) for name, share in recovered.items()},
    }


def _exhibit(results: xr.Dataset) -> Exhibit:
    figure, axes = panels(len(SETTINGS), 2, width=3.9, height=3.3)
    for row, side in zip(axes, SIDES, strict=True):
        for ax, setting in zip(row, SETTINGS, strict=True):
            heads = results.sel(head=results.setting == setting, side=side)
            shown = READINGS if _reading(setting, side) == READINGS[2] else READINGS[:2]
            curves(ax, heads, "condition", {reading: {"reading": reading} for reading in shown})
            chance_line(ax, results.attrs["chance"])
            ax.set(xscale="log", ylim=(0, 1.05), title=f"{setting}, {side} side")
    for ax in axes[-1]:
        ax.set_xlabel("condition number of the frame operator")
    for ax in axes[:, 0]:
        ax.set_ylabel("|cos| with the matched feature")
        ax.legend(loc=(0.03, 0.33))
    return Exhibit(
        figure,
        "The matched feature read from the first singular vector, before and after unwhitening: predicted (lines) and "
        "trained heads (points, standard error). Correlated activations come back as a mixture, as predicted.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
