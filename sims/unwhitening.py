"""Unwhitening: features read back from singular vectors, before and after, by anisotropy and by side (T15).

Under softmax a fully trained head's singular vectors are probes of its features, turned away from them by the tokens'
covariance K (T6). Multiplied by K they are the features again: on the key side always, on the query side of a head
with a query bias; without the bias the mean token is mixed in, and is projected out of both before they are compared.
All of it needs uncorrelated activations: where they are correlated, what comes back is the mixture `Y V e_j`, whose
cosine with the feature is predicted as well. Features are random frames of condition number kappa.

Rules, set before the run, for each side and condition number: mean |predicted - measured| cosine, before and after, at
most 0.02. A feature counts as recovered when the median measured cosine after unwhitening is at least 0.98.
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
from svtheory import (
    BernoulliUniform,
    Gaussian,
    Scenario,
    Spectrum,
    chance_alignment,
    conditioned_frame,
    predict,
    single_pair,
)
from svtheory.checks import InputError, whole
from svtheory.reports.plotting import (
    COLOURS,
    chance_line,
    measured,
    panels,
)
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

SETTINGS = ("no query bias", "query bias", "correlated")
TOLERANCE, RECOVERED = 0.02, 0.98
PROBABILITY, CORRELATION = 0.2, 0.8  # correlated activations have covariance CORRELATION^|i - j|
STRENGTH, N_KEYS = 1.0, 8


@dataclass(frozen=True)
class Config:
    """Size of the sweep."""

    dim: int = 10
    """Dimension D."""
    n_features: int = 20
    """Features N, at least D."""
    conditions: tuple[float, ...] = (1.0, 10.0, 100.0)
    """Condition numbers of the frames."""
    frames: int = 3
    """Random heads for each setting and condition number."""
    steps: int = 60
    """Steps of L-BFGS."""
    contexts: int = 8192
    """Sampled contexts a head."""
    seed: int = 0
    """Random seed."""
    dtype: Literal["float32", "float64"] = "float64"
    """Precision of the whole run."""

    def __post_init__(self):
        whole("dim", self.dim, 2)
        whole("n_features", self.n_features, self.dim)
        for name, least in (("frames", 2), ("steps", 1), ("contexts", 1)):
            whole(name, getattr(self, name), least)
        if not self.conditions or min(self.conditions) < 1:
            raise InputError(f"conditions must be at least 1, got {self.conditions}")


SCALES = {
    "quick": Config(),
    "paper": Config(conditions=(1.0, 3.0, 10.0, 30.0, 100.0), frames=12, steps=100, contexts=16384),
    "full": Config(dim=32, n_features=64, frames=64, steps=300, contexts=65536),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train, unwhiten and compare in every setting."""
    results = xr.concat([_train(config, setting, folder) for setting in SETTINGS], "head")
    rows = [
        _row(results, setting, side, condition)
        for setting in SETTINGS
        for side in results.side.values
        for condition in config.conditions
    ]
    return Outcome(_summary(results, rows), results, {"unwhitening": _exhibit(results)}, rows)


def _train(config: Config, setting: str, folder: Path) -> xr.Dataset:
    """All heads of one setting."""
    number = SETTINGS.index(setting)
    conditions = np.repeat(np.array(config.conditions), config.frames)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number), conditions.size)
    # one after the other: batched QR factorisations side by side can deadlock on a small CPU
    build = jax.jit(partial(jax.lax.map, lambda cell: _scenario(config, setting, *cell)))
    scenarios = build((jnp.asarray(conditions, float), keys))
    training = Training(steps=config.steps, contexts=config.contexts)
    label = f"{conditions.size} heads, {setting}"
    trained = simulate_ensemble(scenarios, keys, training, checkpoints(folder) / str(number), label)
    found = jax.jit(partial(jax.lax.map, lambda cell: _read(*cell)))((scenarios, trained))
    data = {name: (("head", "side", "reading")[: values.ndim], np.asarray(values)) for name, values in found.items()}
    coordinates = {
        "side": ["query", "key"],
        "reading": list(READINGS),
        "setting": ("head", [setting] * conditions.size),
        "condition": ("head", conditions),
    }
    return xr.Dataset(data, coordinates, {"chance": chance_alignment(config.dim)})


def _scenario(config: Config, setting: str, condition: Array, key: Array) -> Scenario:
    """Query feature 0 matched with key feature 0."""
    N = config.n_features
    X, Y = (conditioned_frame(k, config.dim, N, condition) for k in jax.random.split(key))
    law = BernoulliUniform(PROBABILITY, N)
    if setting == "correlated":
        law = Gaussian(jnp.zeros(N), CORRELATION ** jnp.abs(jnp.arange(N)[:, None] - jnp.arange(N)[None, :]))
    target = single_pair(N, N, 0, 0, STRENGTH)
    return Scenario(X, Y, target, law, law, "softmax", n_keys=N_KEYS, query_bias=setting == "query bias")


def _read(scenario: Scenario, trained: Spectrum) -> dict[str, Array]:
    """Cosines of the matched feature with the first singular vector, as `READINGS`, and the mean token's share."""
    (predicted, predicted_share), (seen, share) = recoveries(predict(scenario), scenario), recoveries(trained, scenario)
    return {"predicted": predicted, "measured": seen, "predicted_removed": predicted_share, "removed": share}


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
        "before, measured": _with_error(before.measured),
        "after": after.predicted.mean().item(),
        "after, measured": _with_error(after.measured),
        "mean token removed": removed,
        "|error|": error,
        "recovered": bool(after.measured.median() >= RECOVERED),
        "verdict": "holds" if error <= TOLERANCE else "fails",
    }


def _with_error(values: xr.DataArray) -> str:
    return f"{values.mean().item():.3f} ± {values.std(ddof=1).item() / np.sqrt(values.size):.3f}"


def _summary(results: xr.Dataset, rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"heads": results.sizes["head"]}
    for setting in SETTINGS:
        for side in ("query", "key"):
            heads = results.sel(head=results.setting == setting, side=side)
            name = f"{setting} {side}".replace(" ", "_")
            before, after = (heads.measured.sel(reading=r) for r in (READINGS[0], _reading(setting, side)))
            summary[f"median_cosine_before_{name}"] = before.median().item()
            summary[f"median_cosine_after_{name}"] = after.median().item()
    held = [row["verdict"] == "holds" for row in rows]
    recovered = {name: np.mean([row["recovered"] for row in rows if row["setting"] == name]) for name in SETTINGS}
    return summary | {
        "chance_cosine": results.attrs["chance"],
        "max_mean_absolute_error_cosine": max(row["|error|"] for row in rows),
        "rows": len(rows),
        "rows_that_hold": sum(held),
        **{f"rows_recovered_share_{name.replace(' ', '_')}": float(share) for name, share in recovered.items()},
        "holds": all(held),
    }


def _exhibit(results: xr.Dataset) -> Exhibit:
    figure, axes = panels(len(SETTINGS), 2, width=3.9, height=3.3)
    for row, side in zip(axes, ("query", "key"), strict=True):
        for ax, setting in zip(row, SETTINGS, strict=True):
            heads = results.sel(head=results.setting == setting, side=side)
            grouped = heads[["predicted", "measured"]].groupby("condition")
            mean, error = grouped.mean(), grouped.std(ddof=1) / np.sqrt(grouped.count())
            shown = READINGS if _reading(setting, side) == READINGS[2] else READINGS[:2]
            for reading, colour, shape in zip(shown, COLOURS, "os^", strict=False):
                line, points = mean.sel(reading=reading), error.sel(reading=reading).measured
                ax.plot(line.condition, line.predicted, color=colour)
                measured(ax, line.condition, line.measured, points, color=colour, fmt=shape, label=reading)
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
