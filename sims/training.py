"""Training (the paper's Fig 3): what moves first, the singular vectors, the singular values or the features?

Fixed features: in tight frames, under the squared objective, every mode of a head grows along a curve that is known
before training (T9). Its small random start gives the size a_0 from which each mode grows; the half-times and curves
follow. Singular vectors turn to their place while the mode is still tiny.

Trained features: features and head are trained together on one matched pair, as in the paper. The cosines of the first
singular pair with the matched features are followed, beside what theory expects of the features of that moment (T6),
the first singular value, and the orthogonality of the matched features, their feature dimensionality D_0.

Rules, set before the run: every measured half-time within 10 % of its prediction; every mode has |cos| of at least 0.9
with its predicted vectors by the time it has half its size; in every seed the singular vectors reach a cosine of 0.9
with the matched features before those reach a dimensionality of 0.9.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes

from sims.engines.simulation import Weights, small_factors
from sims.lab.command import command
from sims.lab.modes import crossing, modes_along_flow
from sims.lab.rules import Rule, judged, row, standard_error
from sims.lab.sweep import each, labelled
from sims.models.toy import Problem
from sims.models.toys import ToyConfig, compared, features_and_head, problems, train_toys
from svtheory import Scenario, chance_alignment, feature_dimensionality, matching, single_pair, tight_frame
from svtheory.checks import InputError, whole
from svtheory.reports.options import FINITE, above
from svtheory.reports.plotting import COLOURS, GREY, chance_line, measured, panels, predicted_against_measured
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

THEOREMS = ("T6", "T9")
REACHED = 0.9  # cosine, or dimensionality, that counts as arrived


@dataclass(frozen=True)
class Config(ToyConfig):
    """Options of the experiment."""

    modes: Annotated[tuple[float, ...], FINITE] = (4.0, 3.0, 2.0, 1.0)
    """Target logits of the pairs on fixed features, falling."""
    start: Annotated[float, above(0)] = 1e-4
    """Standard deviation of the entries of W_Q and W_K at the start on fixed features, times sqrt(D)."""
    strength: Annotated[float, above(0)] = 20.0
    """Target logit of the pair whose features are trained."""

    def __post_init__(self):
        super().__post_init__()
        falling = all(a > b for a, b in zip(self.modes, (*self.modes[1:], 0.0), strict=True))
        if not falling or len(self.modes) > min(self.n_features, self.head_dim, self.dim):
            raise InputError(f"--modes must be falling numbers above 0, at most D, H and N of them, got {self.modes}")
        whole("--n-features", self.n_features, self.dim)


PAPER = Config(rate=1e-3)
SCALES = {
    "quick": replace(PAPER, members=4, steps=3000),
    "paper": PAPER,
    "full": replace(PAPER, members=512, batch=1024, steps=20_000),
}


def run(config: Config, folder: Path) -> Outcome:
    """Both halves of the experiment, each predicted before it is measured."""
    fixed, vectors = fixed_features(config, folder), trained_features(config, folder)
    results = xr.merge([fixed, vectors])
    rows = table_rows(results)
    return Outcome(summary(config, results), results, figures(config, results), rows)


def fixed_features(config: Config, folder: Path) -> xr.Dataset:
    """Sizes and vectors of the modes along gradient flow, predicted and measured."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 0), config.members)
    scenarios, weights = each(partial(drawn, config), keys)
    results = modes_along_flow(scenarios, weights, len(config.modes), checkpoints(folder) / "fixed")
    passed = results.size >= results.final_size / 2
    results["half_time"] = crossing(results.time, results.size - results.final_size / 2, passed)
    aligned = np.minimum(results.cosine_left, results.cosine_right)
    results["cosine_at_half_size"] = aligned.isel(record=passed.argmax("record"))
    return results


def drawn(config: Config, key: Array) -> tuple[Scenario, Weights]:
    """A matching of the first features of two random tight frames, and the small random head that starts."""
    query, key_, head = jax.random.split(key, 3)
    X, Y = (tight_frame(key, config.dim, config.n_features) for key in (query, key_))
    first = range(len(config.modes))
    T = matching(config.n_features, config.n_features, first, first, jnp.array(config.modes, float))
    return Scenario(X, Y, T), small_factors(config.dim, config.head_dim, config.start, head)


def trained_features(config: Config, folder: Path) -> xr.Dataset:
    """Cosines, sizes and dimensionalities along the training of features and head together."""
    asked = problems(config, single_pair(config.n_features, config.n_features, 0, 1, config.strength))
    _, history = train_toys(config, asked, checkpoints(folder) / "trained", records=100, observe=features_and_head)
    snapshots = {name: jnp.asarray(history[name]).swapaxes(0, 1) for name in ("W", "W_Q", "W_K")}
    found = each(lambda problem, path: jax.lax.map(partial(read_toy, config, problem), path), asked, snapshots)
    return labelled(found, {"member": range(config.members)}, "member", "step").assign_coords(step=history["step"])


def read_toy(config: Config, problem: Problem, parameters: dict[str, Array]) -> dict[str, Array]:
    """The first singular pair of one moment, and what theory expects of its features."""
    head, D = compared(config, parameters, problem), feature_dimensionality(parameters["W"])
    return head.cosines(0, 0, 1) | {"sigma_1": head.trained.values[0], "dimensionality": D[:2].min()}


def table_rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """One row a mode, and one for each moment at which something of the trained features has arrived."""
    rows = []
    for mode in results.mode.values:
        some = results.sel(mode=mode)
        ratio = (some.half_time / some.predicted_half_time).values
        aligned = some.cosine_at_half_size.values
        rows.append(row(f"mode {mode}: half-time / predicted", ratio, Rule("furthest", "within 10 % of", 1)))
        rows.append(row(f"mode {mode}: |cos| at half size", aligned, Rule("lowest", ">=", REACHED)))
    first, features = arrivals(results)
    for what, steps in (("cosines", first), ("dimensionalities", features)):
        median = {"quantity": f"step from which {what} exceed {REACHED}, median", "mean": None, "s.e.": None}
        rows.append(median | judged(None, steps) | {"value": np.median(steps)})
    rows.append(row("vectors first (share of seeds)", (first < features).astype(float), Rule("mean", ">=", 1.0)))
    return rows


def arrivals(results: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The step from which on cosines, and dimensionalities, stay above REACHED; infinite where they end below."""
    cosine = np.minimum(results.cosine_query, results.cosine_key)
    first, features = (settled(x >= REACHED, results.step.values) for x in (cosine, results.dimensionality))
    return first, features


def settled(reached: xr.DataArray, steps: np.ndarray) -> np.ndarray:
    """The first step from which on `reached` (member, step) is true."""
    short = reached.sizes["step"] - reached.values[:, ::-1].cumprod(axis=1).sum(axis=1)
    return np.where(short < len(steps), steps[np.minimum(short, len(steps) - 1)], np.inf)


def summary(config: Config, results: xr.Dataset) -> dict[str, Any]:
    """Headline figures."""
    ratio = (results.half_time / results.predicted_half_time).values
    first, features = arrivals(results)
    return {
        "members": config.members,
        "half_time_over_predicted_lowest": ratio.min(),
        "half_time_over_predicted_highest": ratio.max(),
        "half_time_over_predicted_mean": ratio.mean(),
        "half_time_over_predicted_standard_error": standard_error(ratio.mean(axis=1)),
        "cosine_at_half_size_lowest": results.cosine_at_half_size.min().item(),
        "vectors_arrive_step_median": np.median(first),
        "features_arrive_step_median": np.median(features),
        "vectors_first_share_of_seeds": (first < features).mean(),
        "chance_cosine": chance_alignment(config.dim),
    }


def figures(config: Config, results: xr.Dataset) -> dict[str, Exhibit]:
    """Growth on fixed features, and the path of trained ones."""
    figure, ((sizes, vectors, half),) = panels(columns=3)
    draw_growth(sizes, vectors, results.isel(member=0))
    predicted_against_measured(half, results.predicted_half_time.values.ravel(), results.half_time.values.ravel())
    half.set(xlabel="predicted half-time", ylabel="half-time", title="all seeds and modes")
    together, ((cosines, dimensionality),) = panels(columns=2)
    draw_trained(config, cosines, dimensionality, results)
    return {
        "growth": Exhibit(
            figure,
            "Fixed features: each mode of one head grows along the curve predicted from its start (T9); its vectors "
            "are in place before; half-times of all seeds.",
        ),
        "features": Exhibit(
            together,
            "Features trained with the head: singular vectors arrive first, features become orthogonal after; lines "
            "are what theory expects of the features of that moment.",
        ),
    }


def draw_growth(sizes: Axes, vectors: Axes, head: xr.Dataset) -> None:
    """Sizes and cosines of the modes of one head over time."""
    for mode, colour in zip(head.mode.values, COLOURS, strict=False):
        some = head.sel(mode=mode)
        sizes.plot(some.time, some.predicted_size, color=colour, label="predicted" if mode == 1 else None)
        few = some.isel(record=slice(None, None, 6))
        measured(sizes, few.time, few["size"], color=colour, label=f"mode {mode}")
        measured(vectors, few.time, np.minimum(few.cosine_left, few.cosine_right), color=colour, label=f"mode {mode}")
        vectors.axvline(some.predicted_half_time, color=colour, linestyle="--", linewidth=1)
    vectors.plot([], [], "--", color=GREY, label="predicted half-times")
    sizes.set(xlabel="time (rate x steps)", ylabel=r"$u_k^\top \Omega v_k$", title="one head")
    vectors.set(xlabel="time (rate x steps)", ylabel="|cos| with predicted vectors", ylim=(0, 1.03), title="one head")
    for ax in (sizes, vectors):
        ax.legend(fontsize=8)


def draw_trained(config: Config, cosines: Axes, dimensionality: Axes, results: xr.Dataset) -> None:
    """Medians over seeds along training, with the range of the middle half."""
    few = results.isel(step=slice(0, None, 4))
    for side, colour in (("query", COLOURS[0]), ("key", COLOURS[2])):
        expected = results[f"expected_cosine_{side}"].median("member")
        cosines.plot(results.step, expected, color=colour, label=f"expected, {side}")
        measured(cosines, few.step, *spread(few[f"cosine_{side}"]), color=colour, label=f"trained, {side}")
    chance_line(cosines, chance_alignment(config.dim))
    cosines.set(xlabel="training step", ylabel="|cos| with the matched feature", ylim=(0, 1.03))
    measured(dimensionality, few.step, *spread(few.dimensionality), color=COLOURS[3], label=r"$\min(D_0, D_1)$")
    size = spread(few.sigma_1 / config.strength)
    measured(dimensionality, few.step, *size, color=COLOURS[4], label=r"$\sigma_1 / t$")
    dimensionality.axhline(1, color=GREY, linestyle="--", linewidth=1, label="orthogonal to all others")
    dimensionality.set(xlabel="training step", ylabel="feature dimensionality, size", ylim=(0, 1.1))
    for ax in (cosines, dimensionality):
        ax.legend(fontsize=8, loc="lower right")


def spread(x: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Median over members, and the distances down and up to the quartiles, shape (2, steps)."""
    low, middle, high = np.quantile(x.transpose("member", "step").values, (0.25, 0.5, 0.75), axis=0)
    return middle, np.stack([middle - low, high - middle])


main = command(run, SCALES)

if __name__ == "__main__":
    main()
