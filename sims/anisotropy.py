"""Anisotropy (the paper's Fig 4): how alignment falls as features fill space unevenly, and the sharp bound below it.

Features W are held fixed at a prescribed condition number kappa of their frame operator, from a tight frame to far
past the range that the paper measured in GPT-2, and a head is trained alone on one matched pair. Theory predicts its
singular vectors (T1), so also their cosine with the features; 2 sqrt(kappa)/(1 + kappa) bounds that cosine from below
(T3), and the frame constructed for it attains the bound. The paper's measure of anisotropy is |E_X|_2 / alpha, with
E_X = S_X - alpha I and alpha = N/D.

Rules, set before the run: mean |predicted - measured| cosine at most 0.01; no cosine below the bound by more than
0.001; the constructed frames within 0.001 of it.
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

from sims.lab.command import command
from sims.lab.figures import COLOURS, chance_line, measured, panels, predicted_against_measured
from sims.lab.runs import Exhibit, Outcome, checkpoints
from sims.lab.simulation import Training, simulate_ensemble
from svtheory import (
    Scenario,
    Spectrum,
    alignment,
    chance_alignment,
    compare,
    conditioned_frame,
    frame_operator,
    kantorovich_bound,
    predict,
    single_pair,
    worst_case_frame,
)
from svtheory.checks import InputError, whole

TOLERANCE, BOUND_TOLERANCE = 0.01, 0.001
PAPER = (0.3, 1.7)  # |E_X|_2 / alpha of the dictionaries that the paper measured


@dataclass(frozen=True)
class Config:
    """Size of the sweep."""

    dim: int = 10
    """Dimension D."""
    n_features: int = 20
    """Features N, at least D."""
    largest: float = 1000.0
    """The largest condition number."""
    conditions: int = 13
    """How many condition numbers, log-spaced from 1."""
    frames: int = 12
    """Random frames for each."""
    steps: int = 800
    """Steps of L-BFGS."""
    seed: int = 0
    """Random seed."""
    dtype: Literal["float32", "float64"] = "float64"
    """Precision of the whole run."""

    def __post_init__(self):
        whole("dim", self.dim, 4)
        whole("n_features", self.n_features, self.dim)
        for name in ("conditions", "frames"):
            whole(name, getattr(self, name), 2)
        whole("steps", self.steps, 1)
        if not self.largest > 1:
            raise InputError(f"largest must be above 1, got {self.largest}")


SCALES = {
    "quick": Config(),
    "paper": Config(dim=16, n_features=512, conditions=25, frames=32, steps=1000),
    "full": Config(dim=64, n_features=2048, conditions=25, frames=256, steps=2000),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train and compare at every condition number, on random and on constructed frames."""
    conditions = jnp.geomspace(1.0, config.largest, config.conditions)
    kinds = {"random": config.frames, "constructed": 1}
    cells = [(kind, k) for kind, copies in kinds.items() for k in range(len(conditions)) for _ in range(copies)]
    keys = jax.random.split(jax.random.key(config.seed), len(cells))
    kappa = conditions[jnp.array([k for _, k in cells])]
    random = jnp.array([kind == "random" for kind, _ in cells])
    # one after the other: batched QR factorisations side by side can deadlock on a small CPU
    build = jax.jit(partial(jax.lax.map, lambda cell: _scenario(config, *cell)))
    scenarios = build((kappa, random, keys))
    predictions = jax.jit(partial(jax.lax.map, predict))(scenarios)
    measurements = simulate_ensemble(
        scenarios, keys, Training(steps=config.steps), checkpoints(folder), f"{len(cells)} heads"
    )
    results = _results(cells, kappa, scenarios, predictions, measurements)
    rows = _rows(results)
    return Outcome(_summary(results), results, {"anisotropy": _exhibit(results)}, rows)


def _scenario(config: Config, condition: Array, random: Array, key: Array) -> Scenario:
    """Feature 0 of one frame matched with feature 0 of another, random or constructed ones."""

    def frame(key):
        shape = config.dim, config.n_features, condition
        return jax.lax.cond(random, lambda: conditioned_frame(key, *shape), lambda: worst_case_frame(key, *shape))

    X, Y = map(frame, jax.random.split(key))
    return Scenario(X, Y, single_pair(config.n_features, config.n_features, 0, 0))


def _results(
    cells: list[tuple[str, int]], kappa: Array, scenarios: Scenario, predictions: Spectrum, measurements: Spectrum
) -> xr.Dataset:
    """Labelled arrays over heads and sides."""

    def matched(spectrum, scenario):
        left = alignment(spectrum.left[:, :1], scenario.query_features[:, :1])[0, 0]
        right = alignment(spectrum.right[:, :1], scenario.key_features[:, :1])[0, 0]
        return jnp.stack([left, right])

    agreement = jax.jit(jax.vmap(compare))(predictions, measurements)
    data = {
        "predicted": (("head", "side"), jax.jit(jax.vmap(matched))(predictions, scenarios)),
        "measured": (("head", "side"), jax.jit(jax.vmap(matched))(measurements, scenarios)),
        "cosine": (("head", "side"), jnp.stack([agreement.left[:, 0], agreement.right[:, 0]], axis=1)),
        "bound": (("head",), kantorovich_bound(kappa)),
        "anisotropy": (("head",), jax.jit(partial(jax.lax.map, _anisotropy))(scenarios)),
    }
    coordinates = {
        "side": ["query", "key"],
        "frame": ("head", [kind for kind, _ in cells]),
        "condition": ("head", np.asarray(kappa)),
    }
    arrays = {name: (axes, np.asarray(values)) for name, (axes, values) in data.items()}
    dim = scenarios.query_features.shape[1]
    return xr.Dataset(arrays, coordinates, {"chance": chance_alignment(dim)})


def _anisotropy(scenario: Scenario) -> Array:
    """`|E_X|_2 / alpha`, for query features scaled to a mean squared length of 1."""
    values = jnp.linalg.eigvalsh(frame_operator(scenario.query_features))
    return jnp.abs(values / values.mean() - 1).max()


def _by_condition(results: xr.Dataset, kind: str) -> xr.Dataset:
    """Means over heads and sides at each condition number, with the standard error of the measured one."""
    heads = results.sel(head=results.frame == kind).mean("side")
    grouped = heads.groupby("condition")
    error = grouped.std(ddof=1).measured / np.sqrt(grouped.count().measured)
    return grouped.mean().assign(standard_error=error)


def _rows(results: xr.Dataset) -> list[dict[str, Any]]:
    random, constructed = (_by_condition(results, kind) for kind in ("random", "constructed"))
    return [
        {
            "condition number": float(condition),
            "|E_X|/alpha": float(here.anisotropy),
            "predicted |cos|": float(here.predicted),
            "measured |cos|": float(here.measured),
            "s.e.": float(here.standard_error),
            "bound": float(here.bound),
            "worst case measured": float(constructed.measured.sel(condition=condition)),
        }
        for condition, here in ((c, random.sel(condition=c)) for c in random.condition.values)
    ]


def _summary(results: xr.Dataset) -> dict[str, Any]:
    random = results.sel(head=results.frame == "random")
    constructed = results.sel(head=results.frame == "constructed")
    error = np.abs(random.predicted - random.measured)
    within = random.sel(head=(random.anisotropy >= PAPER[0]) & (random.anisotropy <= PAPER[1])).measured.mean("side")
    below = (results.bound - results.measured).max().item()
    attained = np.abs(constructed.measured - constructed.bound).max().item()
    return {
        "heads": results.sizes["head"],
        "mean_absolute_error_cosine": error.mean().item(),
        "max_absolute_error_cosine": error.max().item(),
        "median_cosine_with_prediction": np.median(results.cosine).item(),
        "mean_cosine_in_paper_range": within.mean().item(),
        "mean_cosine_in_paper_range_standard_error": (within.std(ddof=1) / np.sqrt(max(within.size, 1))).item(),
        "heads_in_paper_range": within.size,
        "furthest_below_bound_cosine": max(below, 0.0),
        "worst_case_distance_from_bound_cosine": attained,
        "chance_cosine": results.attrs["chance"],
        "holds": bool(error.mean() <= TOLERANCE and below <= BOUND_TOLERANCE and attained <= BOUND_TOLERANCE),
    }


def _exhibit(results: xr.Dataset) -> Exhibit:
    figure, ((curve, scatter),) = panels(2, 1, width=5.2, height=4.2)
    random, constructed = (_by_condition(results, kind) for kind in ("random", "constructed"))
    curve.plot(random.condition, random.predicted, color=COLOURS[1], label="predicted, mean (T1)")
    curve.plot(random.condition, random.bound, color=COLOURS[6], linestyle="--", label="sharp bound (T3)")
    heads = results.sel(head=results.frame == "random")
    curve.plot(heads.condition, heads.measured, ".", color=COLOURS[5], alpha=0.35, markersize=3, zorder=0)
    measured(curve, random.condition, random.measured, random.standard_error, label="trained, mean and s.e.")
    measured(curve, constructed.condition, constructed.measured, fmt="^", color=COLOURS[2], label="trained, worst case")
    chance_line(curve, results.attrs["chance"])
    curve.set(xscale="log", ylim=(0, 1.05), xlabel="condition number of the frame operator")
    curve.set_ylabel("|cos(singular vector, matched feature)|")
    curve.legend(loc="upper right")
    predicted_against_measured(scatter, heads.predicted.values.ravel(), heads.measured.values.ravel(), markersize=3)
    scatter.set(xlabel="predicted |cos|", ylabel="measured |cos|", title="every head, both sides")
    scatter.legend()
    return Exhibit(
        figure,
        "Mean alignment against anisotropy: trained heads (points) on the predicted curve, and the frames constructed "
        "for it on the sharp bound.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
