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

from sims.engines.flow import flow, rates
from sims.engines.simulation import Training, simulate_ensemble, small_factors
from sims.lab.command import command
from sims.lab.curves import by_label
from sims.lab.rules import Rule, judged, standard_error
from sims.lab.sizes import Frames
from sims.lab.sweep import Batch, each, grid, sweep
from svtheory import (
    Scenario,
    Spectrum,
    alignment,
    chance_alignment,
    compare,
    conditioned_frame,
    filtered_optimum,
    frame_operator,
    kantorovich_bound,
    optimal_omega,
    predict,
    single_pair,
    worst_case_frame,
)
from svtheory.reports.options import above, at_least
from svtheory.reports.plotting import (
    COLOURS,
    GREY,
    chance_line,
    measured,
    panels,
    predicted_against_measured,
)
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

THEOREMS = ("T1", "T3", "T17")
TOLERANCE, BOUND_TOLERANCE = 0.01, 0.001
FACTORS_TOLERANCE = 0.05
PROGRESS = np.linspace(0.05, 0.95, 19)  # |Omega(t)|_F / |Omega*|_F at which heads are compared
STEP = 0.5  # of an Euler step, in units of the largest curvature
FOLLOWED = {"Omega": 4.0, "factors": 20.0}  # how long, in times of the slowest direction
START = 0.01  # of the factors, as in Training
PAPER = (0.3, 1.7)  # |E_X|_2 / alpha of the dictionaries that the paper measured


@dataclass(frozen=True)
class Config(Frames):
    """Size of the sweep."""

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
    follow, place = partial(_follow, config), checkpoints(folder) / "followed"
    course = sweep([_followed(config)], follow, _read_course, place, ("progress",), "followed")
    course = course.assign_coords(progress=PROGRESS)
    figures = {"anisotropy": _exhibit(trained), "time": _time_exhibit(course)}
    return Outcome(_summary(trained, course), xr.merge([trained, course]), figures, _rows(trained, course))


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

    X, Y = map(frame, jax.random.split(key))
    return Scenario(X, Y, single_pair(config.n_features, config.n_features, 0, 0))


def _read(scenario: Scenario, trained: Spectrum) -> dict[str, Array]:
    """Cosines of the matched features with the first singular vectors, and of predicted with trained vectors."""
    X, Y = scenario.query_features[:, :1], scenario.key_features[:, :1]
    prediction = predict(scenario)
    agreement = compare(prediction, trained)

    def matched(spectrum):
        sides = (spectrum.left, X), (spectrum.right, Y)
        return jnp.stack([alignment(vectors[:, :1], F)[0, 0] for vectors, F in sides])

    return {
        "predicted": matched(prediction),
        "measured": matched(trained),
        "cosine": jnp.stack([agreement.left[0], agreement.right[0]]),
        "anisotropy": _anisotropy(scenario),
    }


def _follow(config: Config, scenarios: Scenario, keys: Array, checkpoint: Path, label: str) -> dict[str, Array]:
    """Omega (M, R, D, D) along both flows."""
    size, slowest, curvature = each(_pace, scenarios)
    starts = {
        "Omega": {"Omega": jnp.zeros((len(keys), config.dim, config.dim))},
        "factors": jax.jit(jax.vmap(partial(small_factors, config.dim, config.dim, START)))(keys),
    }
    found = {}
    for kind, weights in starts.items():
        # the curvature of a factored head grows with its size
        scale = 2 * size if kind == "factors" else 1
        last = FOLLOWED[kind] / slowest / (size if kind == "factors" else 1)
        steps = int((last * curvature * scale).max() / STEP) + 1
        _, omega = flow(scenarios, weights, last, steps, 1000, checkpoint / kind, f"{label}, {kind}")
        found[kind] = jnp.asarray(omega).swapaxes(0, 1)
    return found


def _pace(scenario: Scenario) -> tuple[Array, ...]:
    """`|Omega*|_F`, and the smallest and largest rate of the flow, products of frame bounds."""
    return jnp.linalg.norm(optimal_omega(scenario)), *rates(scenario)


def _read_course(scenario: Scenario, flows: dict[str, Array]) -> dict[str, Array]:
    """Alignment by progress, along the filter of finite training time and along both flows."""
    times = FOLLOWED["Omega"] / rates(scenario)[0] * jnp.geomspace(1e-6, 10.0, 400)
    filtered = jax.lax.map(partial(filtered_optimum, scenario), times)
    along = {"predicted": filtered, **flows}
    return {f"cosine_{kind}": _by_progress(scenario, omega) for kind, omega in along.items()}


def _by_progress(scenario: Scenario, omega: Array) -> Array:
    """Mean over sides of |cos| of leading vectors with features 0 along Omega (R, D, D), by progress; NaN beyond it."""
    progress = jnp.linalg.norm(omega, axis=(1, 2)) / jnp.linalg.norm(optimal_omega(scenario))
    U, _, Vt = jnp.linalg.svd(omega)
    left = alignment(U[:, :, 0].T, scenario.query_features[:, :1])[:, 0]
    right = alignment(Vt[:, 0].T, scenario.key_features[:, :1])[:, 0]
    return jnp.interp(jnp.asarray(PROGRESS), progress, (left + right) / 2, right=jnp.nan)


def _anisotropy(scenario: Scenario) -> Array:
    """`|E_X|_2 / alpha`, for query features scaled to a mean squared length of 1."""
    values = jnp.linalg.eigvalsh(frame_operator(scenario.query_features))
    return jnp.abs(values / values.mean() - 1).max()


def _by_condition(trained: xr.Dataset, kind: str) -> tuple[xr.Dataset, xr.Dataset]:
    """Means over heads and sides at each condition number, and their standard errors."""
    return by_label(trained.sel(head=trained.frame == kind).mean("side"), "condition")


def _errors(trained: xr.Dataset, course: xr.Dataset) -> dict[str, xr.DataArray]:
    """|predicted - measured| cosine of random heads at the end of training, and along both flows."""
    random = trained.sel(head=trained.frame == "random")
    along = {kind: np.abs(course[f"cosine_{kind}"] - course.cosine_predicted) for kind in FOLLOWED}
    return {"trained": np.abs(random.predicted - random.measured), **along}


def _rows(trained: xr.Dataset, course: xr.Dataset) -> list[dict[str, Any]]:
    """Cosines at each condition number, then what is held to a rule."""
    rows = []
    for kind in ("random", "constructed"):
        mean, error = _by_condition(trained, kind)
        for number in range(mean.sizes["condition"]):
            here = mean.isel(condition=number)
            rows.append(
                {
                    "quantity": f"|cos|, {kind} frames",
                    "condition number": here.condition.item(),
                    "|E_X|/alpha": here.anisotropy.item(),
                    "predicted": here.predicted.item(),
                    "bound": here.bound.item(),
                    "mean": here.measured.item(),
                    "s.e.": error.measured[number].item(),
                    **judged(None, here.measured.values),
                }
            )
    errors, constructed = _errors(trained, course), trained.sel(head=trained.frame == "constructed")
    near, guided = Rule("mean", "<=", TOLERANCE), Rule("mean", "<=", FACTORS_TOLERANCE)
    bounded = Rule("highest", "<=", BOUND_TOLERANCE)
    held = {
        "|predicted - trained| cosine": (errors["trained"], near),
        "the same, Omega along training": (errors["Omega"], near),
        "the same, factors along training": (errors["factors"], guided),
        "bound - |cos|": (trained.bound - trained.measured, bounded),
        "|bound - |cos||, constructed frames": (np.abs(constructed.bound - constructed.measured), bounded),
    }
    for quantity, (x, rule) in held.items():
        by_head = x.mean(x.dims[1]).values
        found = {"quantity": quantity, "mean": x.mean().item(), "s.e.": standard_error(by_head)}
        rows.append(dict.fromkeys(rows[0]) | found | judged(rule, x.values[np.isfinite(x.values)]))
    return rows


def _summary(trained: xr.Dataset, course: xr.Dataset) -> dict[str, Any]:
    random, constructed = (trained.sel(head=trained.frame == kind) for kind in ("random", "constructed"))
    within = random.sel(head=(random.anisotropy >= PAPER[0]) & (random.anisotropy <= PAPER[1])).measured.mean("side")
    errors = _errors(trained, course)
    return {
        "heads": trained.sizes["head"],
        "mean_absolute_error_cosine": errors["trained"].mean().item(),
        "max_absolute_error_cosine": errors["trained"].max().item(),
        "median_cosine_with_prediction": np.median(trained.cosine).item(),
        "mean_cosine_in_paper_range": within.mean().item(),
        "mean_cosine_in_paper_range_standard_error": (within.std(ddof=1) / np.sqrt(max(within.size, 1))).item(),
        "heads_in_paper_range": within.size,
        "furthest_below_bound_cosine": max((trained.bound - trained.measured).max().item(), 0.0),
        "worst_case_distance_from_bound_cosine": np.abs(constructed.measured - constructed.bound).max().item(),
        "mean_absolute_error_cosine_along_training": errors["Omega"].mean().item(),
        "mean_absolute_error_cosine_along_training_of_factors": errors["factors"].mean().item(),
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
    figure, axes = panels(len(np.unique(course.followed_condition)), 1, width=5.2, height=4.0)
    for ax, condition in zip(axes[0], np.unique(course.followed_condition), strict=True):
        some = course.sel(followed=course.followed_condition == condition)
        ax.plot(some.progress, some.cosine_predicted.mean("followed"), color=COLOURS[1], label="predicted (T17)")
        kinds = zip(FOLLOWED, (COLOURS[0], COLOURS[2]), ("o", "s"), ("Omega trained directly", "factors"), strict=True)
        for kind, colour, marker, label in kinds:
            x = some[f"cosine_{kind}"]
            error = x.std("followed", ddof=1) / np.sqrt(x.sizes["followed"])
            measured(ax, some.progress, x.mean("followed"), error, color=colour, fmt=marker, label=label)
        ax.axhline(1, color=GREY, linestyle=":", linewidth=1)
        ax.set(
            ylim=(0, 1.05), xlabel=r"progress $|\Omega(t)|_F / |\Omega^*|_F$", title=f"condition number {condition:g}"
        )
        ax.set_ylabel("|cos(singular vector, matched feature)|")
        ax.legend(loc="lower left")
    return Exhibit(
        figure,
        "Alignment along training: early heads show features, late ones duals. Omega trained directly follows the "
        "prediction; a head trained through its factors follows it roughly.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
