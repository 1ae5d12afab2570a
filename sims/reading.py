"""Reading: where do raw, unwhitened and balanced vectors of a trained head show its features, and where do they not?

A head's modes are read in three ways: its singular vectors as they are; unwhitened, `A u` (T15); and balanced, as the
patterns `A^{1/2} u~` of `A^{1/2} Omega B^{1/2}` (T22), with A and B the token moments that the objective sees. Three
matched pairs of strengths t, 0.7 t and 0.5 t are read over the condition number of the features, their number a
dimension, density, strength, head dimension and training time; a pair that a narrow head drops is not read. A feature
is read at that one of the three leading modes whose vectors show both features of its pair best, in prediction and
measurement alike. Predictions come from `predict` (square objective), from `predict_finite` on contexts of its own
(softmax, with a query bias) and from the filter of finite training time (T17).

Random heads on the same tokens give chance: heads of the same singular values, raw and balanced, whose vectors are
random rotations, read by the same rule. The larger p-value of the two counts.

Rules, set before the run. In every cell and reading the mean |predicted - measured| cosine is at most 0.02. A reading
recovers the features of a cell where their median |cos| is at least 0.99. At condition number 100 and N = D, under both
objectives, patterns recover them and the median of raw vectors is below 0.6. In cells that balanced reading is
predicted to recover, every head has p <= 0.05 (random heads reach that in one of twenty cases). Under random invertible
changes of basis on both sides, of condition number 100, no balanced value or term of a trained head changes by more
than 1e-8 of the largest, while raw terms change by at least a tenth in the median. Predicted patterns of independent
features, up to condition number 1e4, are the features to a sine of 1e-8; raw vectors have a sine of at least 0.1.
Softmax heads are read at N = D, where any contexts, if they are enough, have one optimum; what superposition leaves
unexplained is sampled (T21), and drifts with strength (T18).

Trained heads that are given a query-key norm are bilinear in rescaled tokens (T23): to 1e-8 the sums of balanced terms
are their scores, and the squares of balanced values sum to the mean square of the scores, which with the moments of
tokens as they are is off by at least a tenth in the median.
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
from sims.lab import three_pairs
from sims.lab.bases import moved
from sims.lab.command import command
from sims.lab.courses import PROGRESS, at_progress, filtered, followed
from sims.lab.curves import by_label, with_error
from sims.lab.normalised import NORMALISED, normalised
from sims.lab.rules import Rule, judged
from sims.lab.shown import factors_of, random_heads, shown
from sims.lab.sizes import Precise
from sims.lab.sweep import Batch, each, grid, labelled, sweep
from sims.lab.three_pairs import PAIRS, SOFTMAX, SQUARE
from svtheory import (
    Scenario,
    Spectrum,
    predict,
    predict_finite,
)
from svtheory.checks import InputError
from svtheory.geometry.columns import sine
from svtheory.prediction.whitened import whiten
from svtheory.reports.options import MULTIPLE, PROBABILITY, above, at_least, between
from svtheory.reports.plotting import COLOURS, GREY, curve, panels
from svtheory.reports.runs import Exhibit, Outcome, checkpoints
from svtheory.spectra import READINGS, readings

THEOREMS = ("T7", "T15", "T17", "T18", "T22", "T23")
RANDOM = 39  # random heads of each kind behind a p-value
EXACT = (1.0, 10.0, 100.0, 1e3, 1e4)
RECOVERED, BAR = 0.99, 100.0
NEAR, CHANCE = Rule("mean", "<=", 0.02), Rule("highest", "<=", 0.05)
SHOWN, HIDDEN = Rule("median", ">=", RECOVERED), Rule("median", "<", 0.6)
STAYS, MOVES = Rule("highest", "<=", 1e-8), Rule("median", ">=", 0.1)
KNOBS = {
    "condition number": "condition number of the features",
    "crowd": "features a dimension, N/D",
    "density": "density p of the activations",
    "strength": "strength t, N = D",
    "head dimension": "head dimension H",
}


@dataclass(frozen=True)
class Config(Precise):
    """Size of the sweep."""

    ARRAYS = ("frames dim dim crowds crowds", "frames contexts dim")

    dim: Annotated[int, at_least(4)] = 10
    """Dimension D."""
    conditions: Annotated[tuple[float, ...], at_least(1)] = (1.0, 10.0, 100.0)
    """Condition numbers at N = D."""
    crowds: Annotated[tuple[float, ...], between(0, MULTIPLE)] = (0.5, 1.0, 1.5, 2.0, 4.0)
    """Features a dimension; three features at least."""
    densities: Annotated[tuple[float, ...], PROBABILITY] = (0.05, 0.3, 0.9)
    """Probabilities of a feature to be present, at N = D."""
    strengths: Annotated[tuple[float, ...], above(0)] = (1.0, 10.0, 40.0)
    """Strengths t of softmax heads, at N = D."""
    head_dims: Annotated[tuple[int, ...], at_least(1)] = (2,)
    """Head dimensions below D, beside D itself, at N = D."""
    frames: Annotated[int, at_least(2)] = 3
    """Random heads of each cell."""
    steps: Annotated[int, at_least(1)] = 800
    """Steps of L-BFGS, square objective."""
    softmax_steps: Annotated[int, at_least(1)] = 400
    """Steps of L-BFGS, softmax."""
    contexts: Annotated[int, at_least(2)] = 1024
    """Sampled contexts of a softmax head, and of its prediction as many others."""

    def __post_init__(self):
        super().__post_init__()
        if round(min(self.crowds) * self.dim) < PAIRS:
            raise InputError(f"--crowds must leave {PAIRS} features in {self.dim} dimensions, got {self.crowds}")
        if max(self.head_dims) > self.dim:
            raise InputError(f"--head-dims must be at most --dim, {self.dim}, got {self.head_dims}")


SCALES = {
    "quick": Config(),
    "paper": Config(
        conditions=(1.0, 3.0, 10.0, 30.0, 100.0),
        densities=(0.02, 0.05, 0.1, 0.3, 0.6, 0.9),
        strengths=(1.0, 3.0, 10.0, 30.0, 80.0),
        head_dims=(1, 2, 3, 5),
        frames=12,
        steps=2000,
        softmax_steps=800,
        contexts=4096,
    ),
    "full": Config(dim=32, frames=64, steps=4000, softmax_steps=2000, contexts=16384),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train, and read in three ways."""
    key, tables = jax.random.key(config.seed), []
    for number, (objective, steps) in enumerate(((SQUARE, config.steps), (SOFTMAX, config.softmax_steps))):
        batches = _batches(config, objective, jax.random.fold_in(key, number))
        train = partial(_trained, Training(steps=steps, contexts=config.contexts))
        place = checkpoints(folder) / objective
        tables.append(sweep(batches, train, partial(_read, config.contexts), place, ("reading", "side", "pair")))
    results = xr.concat(tables, "head").assign_coords(reading=list(READINGS), side=["query", "key"])
    course = _course(config, jax.random.fold_in(key, 2), folder)
    exact = _exact(config, jax.random.fold_in(key, 3))
    cells = _cells(results)
    rows = [_row(*cell) for cell in cells] + _course_rows(course) + _claims(results, exact)
    figures = {"reading": _exhibit(results, course)}
    return Outcome(_summary(results, exact), xr.merge([results, course, exact]), figures, rows)


def _batches(config: Config, objective: str, key: Array) -> list[Batch]:
    """What varies under one objective; head dimensions have shapes of their own."""
    varied: dict[str, tuple[float, ...]] = {"condition number": config.conditions, "density": config.densities}
    if objective == SQUARE:
        varied |= {"crowd": config.crowds, "head dimension": (*config.head_dims, config.dim)}
    else:
        varied |= {"strength": config.strengths}
    cells = [(knob, value) for knob, values in varied.items() for value in values for _ in range(config.frames)]
    keys = jax.random.split(key, len(cells))
    of_shape: dict[int | None, list[int]] = {}
    for n, (knob, value) in enumerate(cells):
        narrow = knob == "head dimension" and value < config.dim
        of_shape.setdefault(int(value) if narrow else None, []).append(n)
    columns = round(max(1, *config.crowds) * config.dim) if objective == SQUARE else config.dim
    batches = []
    for head_dim, places in of_shape.items():
        settings = [three_pairs.setting(objective, *cells[n]) for n in places]
        given = jax.tree.map(lambda *x: jnp.array(x, float), *settings), keys[np.array(places)]
        scenarios = each(partial(three_pairs.scenario, objective, config.dim, columns, head_dim), *given)
        knob, value = zip(*(cells[n] for n in places), strict=True)
        batches.append(Batch(scenarios, given[1], {"knob": knob, "objective": objective, "value": value}))
    return batches


def _trained(training: Training, scenarios: Scenario, keys: Array, **place: Any) -> tuple[Spectrum, Array]:
    """Trained heads, and keys for what is drawn to read them."""
    return simulate_ensemble(scenarios, keys, training, **place), jax.vmap(partial(jax.random.fold_in, data=7))(keys)


def _read(contexts: int, scenario: Scenario, trained: tuple[Spectrum, Array]) -> dict[str, Array]:
    """|cos| of features and vectors by reading, side and pair, predicted and measured; what chance and bases change."""
    head, key = trained
    first, second, third, fourth = jax.random.split(key, 4)
    tokens = whiten(scenario)
    foreseen = predict_finite(scenario, first, contexts, PAIRS) if scenario.objective == SOFTMAX else predict(scenario)
    W = [factors_of(s, len(head.values)) for s in (foreseen, head)]
    random = random_heads(tokens, *W[1], second, RANDOM)
    heads = jax.tree.map(lambda *x: jnp.concatenate([jnp.stack(x[:2]), x[2]]), *W, random)
    cosines, whitened = jax.lax.map(lambda W: shown(scenario, tokens, PAIRS, *W), heads)
    own, random = jnp.nanmean(cosines[1], axis=(1, 2)), jnp.nanmean(cosines[2:], axis=(2, 3))
    random = random.reshape(2, RANDOM, len(READINGS))
    stays, moves = moved(tokens, min(PAIRS, scenario.rank), *W[1], third)
    return {
        "predicted": cosines[0],
        "measured": cosines[1],
        "chance": random.mean(axis=1).max(axis=0),
        "p_value": ((1 + (random >= own[None, None, :]).sum(axis=1)) / (1 + RANDOM)).max(axis=0),
        "balanced_change": stays,
        "raw_change": moves,
        **normalised(tokens, *W[1], fourth),
        "whitened_cosine": whitened[1],
    }


def _course(config: Config, key: Array, folder: Path) -> xr.Dataset:
    """Heads of condition number KAPPA along gradient flow, by progress."""
    keys = jax.random.split(key, config.frames)
    usual = {name: jnp.full(config.frames, x) for name, x in three_pairs.setting(SQUARE, "training time", 0.0).items()}
    scenarios = each(partial(three_pairs.scenario, SQUARE, config.dim, config.dim, None), usual, keys)
    axes, place = ("reading", "progress"), checkpoints(folder) / "time"
    follow = partial(followed, kinds=("Omega",))
    course = sweep([Batch(scenarios, keys, {})], follow, _read_course, place, axes, "followed")
    return course.assign_coords(progress=PROGRESS, reading=list(READINGS))


def _read_course(scenario: Scenario, flows: dict[str, Array]) -> dict[str, Array]:
    """Mean |cos| over sides and pairs by reading and progress, filtered and along flows."""
    tokens, one = whiten(scenario), jnp.eye(scenario.dim)

    def cosines(omega):
        return shown(scenario, tokens, PAIRS, one, omega)[0].mean(axis=(1, 2))

    along = {"predicted": filtered(scenario), **flows}
    every = jax.lax.map(cosines, jnp.concatenate(list(along.values())))
    ends = np.cumsum([len(omega) for omega in along.values()])
    return {
        f"cosine_{kind}": jnp.stack([at_progress(scenario, omega, x) for x in every[end - len(omega) : end].T])
        for (kind, omega), end in zip(along.items(), ends, strict=True)
    }


def _exact(config: Config, key: Array) -> xr.Dataset:
    """The largest sine of predicted patterns, and of raw vectors, with independent features."""
    cells = grid(exact_condition=EXACT, frame=range(config.frames))["exact_condition"]
    keys = jax.random.split(key, cells.size)

    def read(condition, key):
        made_of = {**three_pairs.setting(SQUARE, "condition number", 0.0), "condition number": condition}
        independent = three_pairs.scenario(SQUARE, config.dim, config.dim, None, made_of, key)
        tokens, s = whiten(independent), predict(independent)
        found = readings(*factors_of(s, config.dim), tokens.query.moment, tokens.key.moment)
        sides = ("query_patterns", independent.query_features), ("key_patterns", independent.key_features)
        return {
            f"sine_{name}": jnp.stack(
                [sine(getattr(found[name], side)[:, :PAIRS], X[:, :PAIRS]).max() for side, X in sides]
            ).max()
            for name in ("balanced", "raw")
        }

    return labelled(each(read, jnp.asarray(cells), keys), {"exact_condition": cells}, "predicted_head")


def _cells(results: xr.Dataset) -> list[tuple[str, str, float, xr.Dataset]]:
    """Heads of one knob, objective and value."""
    places = list(zip(results.knob.values, results.objective.values, results.value.values, strict=True))
    return [
        (*place, results.isel(head=[n for n, other in enumerate(places) if other == place]))
        for place in dict.fromkeys(places)
    ]


COLUMNS = [f"{reading}, {what}" for reading in READINGS for what in ("predicted", "trained")]
COLUMNS += ["chance", "whitened cosine", "recovered, predicted", "recovered, trained"]


def _line(varies: str, objective: str, value: Any, held: dict[str, Any], **columns: Any) -> dict[str, Any]:
    """A row of the table."""
    return {"varies": varies, "objective": objective, "value": value, **dict.fromkeys(COLUMNS), **columns, **held}


def _row(knob: str, objective: str, value: float, heads: xr.Dataset) -> dict[str, Any]:
    """A cell: mean cosines, predicted and measured, by reading."""
    columns: dict[str, Any] = {}
    for reading in READINGS:
        some = heads.sel(reading=reading)
        columns |= _means(reading, some.predicted, some.measured.mean(("side", "pair")))
    columns["chance"] = heads.chance.sel(reading="balanced").mean().item()
    columns["whitened cosine"] = heads.whitened_cosine.mean().item()
    columns["recovered, predicted"], columns["recovered, trained"] = (
        ", ".join(_recovered(heads[name])) or "none" for name in ("predicted", "measured")
    )
    worst = np.abs(heads.predicted - heads.measured).mean(("head", "side", "pair"))
    return _line(knob, objective, value, judged(Rule("highest", "<=", NEAR.bound), worst.values), **columns)


def _means(reading: str, predicted: xr.DataArray, of_a_head: xr.DataArray) -> dict[str, Any]:
    return {f"{reading}, predicted": predicted.mean().item(), f"{reading}, trained": with_error(of_a_head)}


def _recovered(cosines: xr.DataArray) -> list[str]:
    """The readings that recover the features of a cell."""
    return [name for name in READINGS if cosines.sel(reading=name).median() >= RECOVERED]


def _course_rows(course: xr.Dataset) -> list[dict[str, Any]]:
    """Along training, a reading each: Omega trained directly, which the filter describes exactly."""
    rows = []
    for reading in READINGS:
        some = course.sel(reading=reading)
        error = np.abs(some.cosine_predicted - some.cosine_Omega).values
        means = _means(reading, some.cosine_predicted, some.cosine_Omega.mean("progress"))
        held = judged(NEAR, error[np.isfinite(error)])
        rows.append(_line("training time", SQUARE, f"all, {reading}", held, **means))
    return rows


def _claims(results: xr.Dataset, exact: xr.Dataset) -> list[dict[str, Any]]:
    """What is held to rules of its own."""
    rows = []

    def claim(varies: str, objective: str, value: Any, x: xr.DataArray, rule: Rule) -> None:
        found = x.values[np.isfinite(x.values)]
        if found.size:
            rows.append(_line(varies, objective, value, judged(rule, found)))

    for objective in (SQUARE, SOFTMAX):
        at = (results.knob == "condition number") & (results.objective == objective) & (results.value == BAR)
        claim("|cos| of patterns, N = D", objective, BAR, results.measured.sel(head=at, reading="balanced"), SHOWN)
        claim("|cos| of raw vectors, N = D", objective, BAR, results.measured.sel(head=at, reading="raw"), HIDDEN)
    sure = [heads for *_, heads in _cells(results) if "balanced" in _recovered(heads.predicted)]
    if sure:
        p: Any = xr.concat([heads.p_value for heads in sure], "head").sel(reading="balanced")
        claim("p of recovered features, balanced", "both", "all cells", p, CHANCE)
    claim("change of basis: balanced values and terms", "both", "all cells", results.balanced_change, STAYS)
    claim("change of basis: raw terms", "both", "all cells", results.raw_change, MOVES)
    for (name, words), rule in zip(NORMALISED.items(), (STAYS, STAYS, MOVES), strict=True):
        claim(f"query-key norm: {words}", "both", "all cells", results[name], rule)
    for condition in np.unique(exact.exact_condition):
        some = exact.sel(predicted_head=exact.exact_condition == condition)
        claim("sine of predicted patterns", SQUARE, condition, some.sine_balanced, STAYS)
        if condition > 1:
            claim("sine of predicted raw vectors", SQUARE, condition, some.sine_raw, Rule("lowest", ">=", 0.1))
    return rows


def _summary(results: xr.Dataset, exact: xr.Dataset) -> dict[str, Any]:
    found = {"heads": results.sizes["head"]}
    for objective in (SQUARE, SOFTMAX):
        at = (results.knob == "condition number") & (results.objective == objective) & (results.value == BAR)
        for reading in READINGS:
            median = results.measured.sel(head=at, reading=reading).median().item()
            found[f"median_cosine_{objective}_condition_100_{reading}"] = median
    cells = [heads for *_, heads in _cells(results)]
    return found | {
        "cells": len(cells),
        **{
            f"cells_recovered_{reading}_{name}": sum(reading in _recovered(heads[kind]) for heads in cells)
            for reading in READINGS
            for name, kind in (("predicted", "predicted"), ("trained", "measured"))
        },
        "mean_absolute_error_cosine": np.abs(results.predicted - results.measured).mean().item(),
        "largest_change_of_balanced_terms": results.balanced_change.max().item(),
        "largest_sine_of_predicted_patterns": exact.sine_balanced.max().item(),
        "chance_cosine": results.chance.sel(reading="balanced").mean().item(),
    }


def _exhibit(results: xr.Dataset, course: xr.Dataset) -> Exhibit:
    figure, axes = panels(4, 2, width=3.7, height=3.3)
    shown = [("condition number", SQUARE), ("condition number", SOFTMAX), ("crowd", SQUARE), ("density", SQUARE)]
    shown += [("density", SOFTMAX), ("strength", SOFTMAX), ("head dimension", SQUARE)]
    styles = dict(zip(READINGS, zip((COLOURS[1], COLOURS[2], COLOURS[0]), "s^o", strict=True), strict=True))
    for ax, (knob, objective) in zip(axes.flat, shown, strict=False):
        heads = results.sel(head=(results.knob == knob) & (results.objective == objective))
        for reading, (colour, shape) in styles.items():
            of_a_head = heads[["predicted", "measured", "chance"]].sel(reading=reading).mean(("side", "pair"))
            mean, error = by_label(of_a_head, "value")
            line = mean.value, mean.predicted, mean.measured, error.measured
            curve(ax, *line, color=colour, fmt=shape, label=reading)
        ax.plot(mean.value, mean.chance, ":", color=GREY, label="random heads, balanced")
        ax.set(ylim=(0, 1.05), xlabel=KNOBS[knob], title=f"{objective}{', query bias' * (objective == SOFTMAX)}")
        if knob in ("condition number", "strength"):
            ax.set_xscale("log")
    last = axes.flat[len(shown)]
    for reading, (colour, shape) in styles.items():
        some = course.sel(reading=reading)
        error = some.cosine_Omega.std("followed", ddof=1) / np.sqrt(some.sizes["followed"])
        means = some.cosine_predicted.mean("followed"), some.cosine_Omega.mean("followed")
        curve(last, course.progress, *means, error, color=colour, fmt=shape, label=reading)
    last.set(ylim=(0, 1.05), xlabel=r"progress $|\Omega(t)|_F / |\Omega^*|_F$", title="square, along training")
    for ax in axes[:, 0]:
        ax.set_ylabel("|cos| with the matched features")
    axes[0, 0].legend(loc="lower left")
    return Exhibit(
        figure,
        "Mean |cos| of three matched pairs with the vectors of their modes, in three readings: predicted (lines) and "
        "trained heads (points, standard error). Patterns are features where features are independent and activations "
        "uncorrelated; a mean that the objective sees, superposition and an unfinished training mix them.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
