"""Anisotropy (the paper's Fig 4): how alignment falls as features fill space unevenly, and the sharp bound below it.

Features W are held fixed at a prescribed condition number kappa of their frame operator, from a tight frame to far
past the range that the paper measured in GPT-2, and a head is trained alone on one matched pair. Theory predicts its
singular vectors (T1), so also their cosine with the features; 2 sqrt(kappa)/(1 + kappa) bounds that cosine from below
(T3), and the frame constructed for it attains the bound. The paper's measure of anisotropy is |E_X|_2 / alpha, with
E_X = S_X - alpha I and alpha = N/D.

On the way there anisotropy shows late only: early in training singular vectors are the features themselves, at the end
their duals (T17). Heads are followed along gradient flow, from nothing, Omega trained directly as T17 has it, and from
a small start through its factors, for which T17 is a guide. Both are read by progress, |Omega(t)|_F / |Omega*|_F, at
which the filter of finite training time says what alignment to expect.

Rules, set before the run: mean |predicted - measured| cosine at most 0.01, at the end of training and along it; no
cosine below the bound by more than 0.001; the constructed frames within 0.001 of it; factors within 0.05 of the filter.
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
from sims.lab.courses import PROGRESS, followed, read_course
from sims.lab.curves import by_label
from sims.lab.knobs import matched
from sims.lab.rules import Rule, judged, standard_error
from sims.lab.sizes import Frames
from sims.lab.sweep import Batch, each, grid, sweep, without_decay
from svtheory import (
    Scenario,
    Spectrum,
    chance_alignment,
    compare,
    conditioned_frame,
    frame_operator,
    kantorovich_bound,
    predict,
    worst_case_frame,
)
from svtheory.reports.options import above, at_least
from svtheory.reports.plotting import COLOURS, GREY, chance_line, measured, panels, predicted_against_measured
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

THEOREMS = ("T1", "T3", "T17")
NEAR, GUIDED, BOUNDED = Rule("mean", "<=", 0.01), Rule("mean", "<=", 0.05), Rule("highest", "<=", 0.001)
PAPER = (0.3, 1.7)  # |E_X|_2 / alpha of the dictionaries that the paper measured


@dataclass(frozen=True)
class Config(Frames):
    """Size of the sweep."""

    ARRAYS = (*Frames.ARRAYS, "conditions frames n_features n_features", "conditions frames dim n_features")

    dim: Annotated[int, at_least(4)] = 10
    """Dimension D."""
    largest: Annotated[float, above(1)] = 1000.0
    """The largest condition number."""
    conditions: Annotated[int, at_least(2)] = 13
    """How many condition numbers, log-spaced from 1."""
    frames: Annotated[int, at_least(2)] = 12
    """Random frames for each."""
    followed: Annotated[tuple[float, ...], at_least(1)] = (4.0, 16.0)
    """Condition numbers at which heads are followed along training; steps grow with their square."""
    steps: Annotated[int, at_least(1)] = 800
    """Steps of L-BFGS."""


SCALES = {
    "quick": Config(conditions=10, frames=8),
    "paper": Config(dim=16, n_features=512, conditions=19, frames=16, steps=1000),
    "full": Config(dim=64, n_features=2048, conditions=25, frames=256, steps=2000),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train and compare at every condition number, on random and on constructed frames; follow some heads."""
    train = partial(simulate_ensemble, training=Training(steps=config.steps))
    trained = sweep([_heads(config)], train, _read, checkpoints(folder), ("side",))
    trained = trained.reset_coords("bound").assign_coords(side=["query", "key"])
    trained = trained.assign_attrs(chance=chance_alignment(config.dim))
    place = checkpoints(folder) / "followed"
    course = sweep([_followed(config)], followed, read_course, place, ("progress",), "followed")
    course = course.assign_coords(progress=PROGRESS)
    figures = {"anisotropy": _exhibit(trained), "time": _time_exhibit(course)}
    rows = _rows(trained, course)
    return Outcome(_summary(trained, rows), xr.merge([trained, course]), figures, rows)


def _heads(config: Config) -> Batch:
    """Heads at every condition number, many on random frames and one on constructed ones."""
    conditions = jnp.geomspace(1.0, config.largest, config.conditions)
    kinds = {"random": config.frames, "constructed": 1}
    cells = [(kind, k) for kind, copies in kinds.items() for k in range(config.conditions) for _ in range(copies)]
    kind, number = map(np.array, zip(*cells, strict=True))
    keys = jax.random.split(jax.random.key(config.seed), len(cells))
    kappa = conditions[number]
    scenarios = each(partial(_scenario, config), kappa, kind == "random", keys)
    return Batch(scenarios, keys, {"frame": kind, "condition": kappa, "bound": kantorovich_bound(kappa)})


def _followed(config: Config) -> Batch:
    """Heads on random frames that are followed along training."""
    kappa = grid(condition=config.followed, frame=range(config.frames))["condition"]
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), kappa.size)
    scenarios = each(partial(_scenario, config), jnp.asarray(kappa, float), np.ones(kappa.size, bool), keys)
    return Batch(scenarios, keys, {"followed_condition": kappa})


def _scenario(config: Config, condition: Array, random: Array, key: Array) -> Scenario:
    """Feature 0 of one frame matched with feature 0 of another, random or constructed ones."""

    def frame(key):
        shape = config.dim, config.n_features, condition
        return jax.lax.cond(random, lambda: conditioned_frame(key, *shape), lambda: worst_case_frame(key, *shape))

    return matched(frame, key)


def _read(scenario: Scenario, trained: Spectrum) -> dict[str, Array]:
    """Cosines of the matched features with the first singular vectors, and of predicted with trained vectors."""
    features = scenario.query_features, scenario.key_features
    agreement = compare(predict(without_decay(scenario)), trained, features)
    return {
        "predicted": jnp.stack([agreement.predicted_left[0, 0], agreement.predicted_right[0, 0]]),
        "measured": jnp.stack([agreement.measured_left[0, 0], agreement.measured_right[0, 0]]),
        "cosine": jnp.stack([agreement.left[0], agreement.right[0]]),
        "anisotropy": _anisotropy(scenario),
    }


def _anisotropy(scenario: Scenario) -> Array:
    """`|E_X|_2 / alpha`, for query features scaled to a mean squared length of 1."""
    values = jnp.linalg.eigvalsh(frame_operator(scenario.query_features))
    return jnp.abs(values / values.mean() - 1).max()


def _by_condition(trained: xr.Dataset, kind: str) -> tuple[xr.Dataset, xr.Dataset]:
    """Means over heads and sides at each condition number, and their standard errors."""
    return by_label(trained.sel(head=trained.frame == kind).mean("side"), "condition")


def _rows(trained: xr.Dataset, course: xr.Dataset) -> list[dict[str, Any]]:
    """Cosines at each condition number, then what is held to a rule."""
    (mean, error), (worst, _) = (_by_condition(trained, kind) for kind in ("random", "constructed"))
    columns = {
        "condition number": mean.condition,
        "|E_X|/alpha": mean.anisotropy,
        "predicted": mean.predicted,
        "bound": mean.bound,
        "worst case": worst.measured,
        "mean": mean.measured,
        "s.e.": error.measured,
    }
    random, constructed = (trained.sel(head=trained.frame == kind) for kind in ("random", "constructed"))
    held = {
        "|predicted - trained| cosine": (np.abs(random.predicted - random.measured), NEAR),
        "the same, Omega along training": (np.abs(course.cosine_Omega - course.cosine_predicted), NEAR),
        "the same, factors along training": (np.abs(course.cosine_factors - course.cosine_predicted), GUIDED),
        "bound - |cos|": (trained.bound - trained.measured, BOUNDED),
        "|bound - |cos||, constructed frames": (np.abs(constructed.bound - constructed.measured), BOUNDED),
    }
    cosines = [{name: x[k].item() for name, x in columns.items()} for k in range(mean.sizes["condition"])]
    return [{"quantity": "|cos|, random frames", **row, **judged(None, mean.measured)} for row in cosines] + [
        {"quantity": quantity, **dict.fromkeys(columns), "mean": x.mean().item()}
        | {"s.e.": standard_error(x.mean(x.dims[1]).values), **judged(rule, x.values[np.isfinite(x.values)])}
        for quantity, (x, rule) in held.items()
    ]


def _summary(trained: xr.Dataset, rows: list[dict[str, Any]]) -> dict[str, Any]:
    random = trained.sel(head=trained.frame == "random")
    within = random.sel(head=(random.anisotropy >= PAPER[0]) & (random.anisotropy <= PAPER[1])).measured.mean("side")
    error, along, factors, below, attained = (row["value"] for row in rows if row["rule"])
    return {
        "heads": trained.sizes["head"],
        "mean_absolute_error_cosine": error,
        "max_absolute_error_cosine": np.abs(random.predicted - random.measured).max().item(),
        "median_cosine_with_prediction": np.median(trained.cosine).item(),
        "mean_cosine_in_paper_range": within.mean().item(),
        "mean_cosine_in_paper_range_standard_error": (within.std(ddof=1) / np.sqrt(max(within.size, 1))).item(),
        "heads_in_paper_range": within.size,
        "furthest_below_bound_cosine": max(below, 0.0),
        "worst_case_distance_from_bound_cosine": attained,
        "mean_absolute_error_cosine_along_training": along,
        "mean_absolute_error_cosine_along_training_of_factors": factors,
        "chance_cosine": trained.attrs["chance"],
    }


def _exhibit(results: xr.Dataset) -> Exhibit:
    figure, ((curve, scatter),) = panels(2, 1, width=5.2, height=4.2)
    (random, error), (constructed, _) = (_by_condition(results, kind) for kind in ("random", "constructed"))
    curve.plot(random.condition, random.predicted, color=COLOURS[1], label="predicted, mean (T1)")
    curve.plot(random.condition, random.bound, color=COLOURS[6], linestyle="--", label="sharp bound (T3)")
    heads = results.sel(head=results.frame == "random")
    curve.plot(heads.condition, heads.measured, ".", color=COLOURS[5], alpha=0.35, markersize=3, zorder=0)
    measured(curve, random.condition, random.measured, error.measured, label="trained, mean and s.e.")
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


def _time_exhibit(course: xr.Dataset) -> Exhibit:
    conditions = np.unique(course.followed_condition)
    figure, axes = panels(len(conditions), 1, width=5.2, height=4.0)
    flows = (("Omega", COLOURS[0], "o", "Omega trained directly"), ("factors", COLOURS[2], "s", "factors"))
    for ax, condition in zip(axes[0], conditions, strict=True):
        some = course.sel(followed=course.followed_condition == condition)
        ax.plot(some.progress, some.cosine_predicted.mean("followed"), color=COLOURS[1], label="predicted (T17)")
        for kind, colour, marker, label in flows:
            x = some[f"cosine_{kind}"]
            error = x.std("followed", ddof=1) / np.sqrt(x.sizes["followed"])
            measured(ax, some.progress, x.mean("followed"), error, color=colour, fmt=marker, label=label)
        ax.axhline(1, color=GREY, linestyle=":", linewidth=1)
        ax.set(ylim=(0, 1.05), title=f"condition number {condition:g}")
        ax.set(xlabel=r"progress $|\Omega(t)|_F / |\Omega^*|_F$", ylabel="|cos(singular vector, matched feature)|")
        ax.legend(loc="lower left")
    return Exhibit(
        figure,
        "Alignment along training: early heads show features, late ones duals. Omega trained directly follows the "
        "prediction; a head trained through its factors follows it roughly.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
