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
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from sims.engines.flow import flow, rates
from sims.engines.simulation import Training, simulate_ensemble, small_factors
from sims.lab.command import command
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
from svtheory.checks import InputError, whole
from svtheory.reports.plotting import (
    COLOURS,
    GREY,
    chance_line,
    measured,
    panels,
    predicted_against_measured,
)
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

TOLERANCE, BOUND_TOLERANCE = 0.01, 0.001
FACTORS_TOLERANCE = 0.05
PROGRESS = np.linspace(0.05, 0.95, 19)  # |Omega(t)|_F / |Omega*|_F at which heads are compared
STEP = 0.5  # of an Euler step, in units of the largest curvature
FOLLOWED = {"Omega": 4.0, "factors": 20.0}  # how long, in times of the slowest direction
START = 0.01  # of the factors, as in Training
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
    followed: tuple[float, ...] = (4.0, 16.0)
    """Condition numbers at which heads are followed along training; steps grow with their square."""
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
        if not self.followed or not all(1 <= x < np.inf for x in self.followed):
            raise InputError(f"followed must be finite condition numbers of at least 1, got {self.followed}")


SCALES = {
    "quick": Config(conditions=10, frames=8),
    "paper": Config(dim=16, n_features=512, conditions=19, frames=16, steps=1000),
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
        scenarios, keys, Training(steps=config.steps), checkpoints(folder) / "trained", f"{len(cells)} heads"
    )
    trained = _results(cells, kappa, scenarios, predictions, measurements)
    course = _course(config, folder)
    figures = {"anisotropy": _exhibit(trained), "time": _time_exhibit(course)}
    return Outcome(_summary(trained, course), xr.merge([trained, course]), figures, _rows(trained))


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


def _course(config: Config, folder: Path) -> xr.Dataset:
    """|cos| of the leading singular vectors with the matched features by progress, predicted and along both flows."""
    kappa = jnp.repeat(jnp.array(config.followed, float), config.frames)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), len(kappa))
    random = jnp.ones(len(kappa), bool)
    build = jax.jit(partial(jax.lax.map, lambda cell: _scenario(config, *cell)))
    scenarios = build((kappa, random, keys))
    size, slowest, curvature = jax.jit(partial(jax.lax.map, _pace))(scenarios)
    found = {"predicted": jax.jit(partial(jax.lax.map, _foreseen))((scenarios, FOLLOWED["Omega"] / slowest))}
    starts = {
        "Omega": {"Omega": jnp.zeros((len(kappa), config.dim, config.dim))},
        "factors": jax.jit(jax.vmap(partial(small_factors, config.dim, config.dim, START)))(keys),
    }
    for kind, weights in starts.items():
        # the curvature of a factored head grows with its size
        scale = 2 * size if kind == "factors" else 1
        last = FOLLOWED[kind] / slowest / (size if kind == "factors" else 1)
        steps = int((last * curvature * scale).max() / STEP) + 1
        _, omega = flow(
            scenarios, weights, last, steps, 1000, checkpoints(folder) / kind, f"{len(kappa)} heads, {kind}"
        )
        read = jax.jit(partial(jax.lax.map, _by_progress))
        found[kind] = read((scenarios, jnp.asarray(omega).swapaxes(0, 1)))
    arrays = {f"cosine_{kind}": (("followed", "progress"), np.asarray(x)) for kind, x in found.items()}
    return xr.Dataset(arrays, {"progress": PROGRESS, "followed_condition": ("followed", np.asarray(kappa))})


def _pace(scenario: Scenario) -> tuple[Array, ...]:
    """`|Omega*|_F`, and the smallest and largest rate of the flow, products of frame bounds."""
    return jnp.linalg.norm(optimal_omega(scenario)), *rates(scenario)


def _foreseen(cell: tuple[Scenario, Array]) -> Array:
    """Alignment by progress, along the filter of finite training time."""
    scenario, last = cell
    times = last * jnp.geomspace(1e-6, 10.0, 400)
    return _by_progress((scenario, jax.lax.map(partial(filtered_optimum, scenario), times)))


def _by_progress(cell: tuple[Scenario, Array]) -> Array:
    """Mean over sides of |cos| of leading vectors with features 0 along Omega (R, D, D), by progress; NaN beyond it."""
    scenario, omega = cell
    progress = jnp.linalg.norm(omega, axis=(1, 2)) / jnp.linalg.norm(optimal_omega(scenario))
    U, _, Vt = jnp.linalg.svd(omega)
    left = alignment(U[:, :, 0].T, scenario.query_features[:, :1])[:, 0]
    right = alignment(Vt[:, 0].T, scenario.key_features[:, :1])[:, 0]
    return jnp.interp(jnp.asarray(PROGRESS), progress, (left + right) / 2, right=jnp.nan)


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


def _summary(results: xr.Dataset, course: xr.Dataset) -> dict[str, Any]:
    random = results.sel(head=results.frame == "random")
    constructed = results.sel(head=results.frame == "constructed")
    error = np.abs(random.predicted - random.measured)
    within = random.sel(head=(random.anisotropy >= PAPER[0]) & (random.anisotropy <= PAPER[1])).measured.mean("side")
    below = (results.bound - results.measured).max().item()
    attained = np.abs(constructed.measured - constructed.bound).max().item()
    on_the_way, factors = (
        np.abs(course[f"cosine_{kind}"] - course.cosine_predicted).mean().item() for kind in FOLLOWED
    )
    exact = error.mean() <= TOLERANCE and on_the_way <= TOLERANCE and factors <= FACTORS_TOLERANCE
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
        "mean_absolute_error_cosine_along_training": on_the_way,
        "mean_absolute_error_cosine_along_training_of_factors": factors,
        "chance_cosine": results.attrs["chance"],
        "holds": bool(exact and below <= BOUND_TOLERANCE and attained <= BOUND_TOLERANCE),
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
