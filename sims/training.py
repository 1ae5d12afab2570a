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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes

from sims.engines.flow import flow
from sims.engines.simulation import Weights, small_factors
from sims.lab.command import command
from sims.lab.rules import Rule, judged, row, standard_error
from sims.models.toys import (
    ToyConfig,
    features_and_head,
    scenario,
    stacked_tasks,
    train_toys,
)
from svtheory import (
    Scenario,
    alignment,
    chance_alignment,
    compare,
    feature_dimensionality,
    growth,
    half_times,
    matching,
    predict,
    single_pair,
    spectrum,
    tight_frame,
)
from svtheory.checks import InputError, whole
from svtheory.prediction import mode_start
from svtheory.reports.plotting import (
    COLOURS,
    GREY,
    chance_line,
    measured,
    panels,
    predicted_against_measured,
)
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

REACHED = 0.9  # cosine, or dimensionality, that counts as arrived
STEP = 0.02  # length of an Euler step, in units of the fastest mode's time
HALF_TIMES = 1.6  # how long the flow is followed, in half-times of the slowest mode


@dataclass(frozen=True)
class Config(ToyConfig):
    """Options of the experiment."""

    modes: tuple[float, ...] = (4.0, 3.0, 2.0, 1.0)
    """Target logits of the pairs on fixed features, falling."""
    start: float = 1e-4
    """Standard deviation of the entries of W_Q and W_K at the start on fixed features, times sqrt(D)."""
    strength: float = 20.0
    """Target logit of the pair whose features are trained."""

    def __post_init__(self):
        super().__post_init__()
        falling = all(a > b for a, b in zip(self.modes, (*self.modes[1:], 0.0), strict=True))
        if not self.modes or not falling or len(self.modes) > min(self.n_features, self.head_dim, self.dim):
            raise InputError(f"--modes must be falling numbers above 0, at most D, H and N of them, got {self.modes}")
        for name in ("start", "strength"):
            if not 0 < getattr(self, name) < np.inf:
                raise InputError(f"--{name} must be a finite number above 0, got {getattr(self, name)}")
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
    return Outcome(summary(config, results, rows), results, figures(config, results), rows)


def fixed_features(config: Config, folder: Path) -> xr.Dataset:
    """Sizes and vectors of the modes along gradient flow, predicted and measured."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 0), config.members)
    scenarios, weights = jax.jit(partial(jax.lax.map, partial(drawn, config)))(keys)
    predictions, starts, half = jax.jit(partial(jax.lax.map, foreseen))((scenarios, weights))
    modes = len(config.modes)
    rates = jax.jit(jax.vmap(curvature))(scenarios, predictions)
    last = HALF_TIMES * half[:, modes - 1]
    steps = int(np.ceil((rates * last).max() / STEP))
    times, omega = flow(scenarios, weights, last, steps, checkpoint=checkpoints(folder) / "fixed", label="fixed")
    curves = jax.jit(jax.vmap(growth, (0, 1, 0)))(scenarios, jnp.asarray(times), starts)[..., :modes]
    sizes, left, right = jax.jit(jax.vmap(jax.vmap(read_modes, (0, None)), (1, 0)))(jnp.asarray(omega), predictions)
    grid = ("member", "record", "mode")
    arrays = {
        "time": (grid[:2], times.T),
        "predicted_size": (grid, curves),
        "size": (grid, sizes[..., :modes]),
        "cosine_left": (grid, left[..., :modes]),
        "cosine_right": (grid, right[..., :modes]),
        "final_size": (grid[::2], predictions.values[:, :modes]),
        "predicted_half_time": (grid[::2], half[:, :modes]),
    }
    results = xr.Dataset({name: (axes, np.asarray(x)) for name, (axes, x) in arrays.items()})
    passed = results.size >= results.final_size / 2
    results["half_time"] = crossing(results.time, results.size - results.final_size / 2, passed)
    aligned = np.minimum(results.cosine_left, results.cosine_right)
    results["cosine_at_half_size"] = aligned.isel(record=passed.argmax("record"))
    return results.assign_coords(mode=np.arange(1, modes + 1), member=np.arange(config.members))


def drawn(config: Config, key: Array) -> tuple[Scenario, Weights]:
    """A matching of the first features of two random tight frames, and the small random head that starts."""
    query, key_, head = jax.random.split(key, 3)
    X, Y = (tight_frame(key, config.dim, config.n_features) for key in (query, key_))
    first = range(len(config.modes))
    T = matching(config.n_features, config.n_features, first, first, jnp.array(config.modes, float))
    return Scenario(X, Y, T), small_factors(config.dim, config.head_dim, config.start, head)


def foreseen(cell: tuple[Scenario, Weights]) -> tuple[Any, Array, Array]:
    """The spectrum, the size a_0 from which each mode grows, and when each is half-way."""
    scenario, weights = cell
    start = mode_start(scenario, weights["W_Q"], weights["W_K"])
    return predict(scenario), start, half_times(scenario, start)


def curvature(scenario: Scenario, prediction: Any) -> Array:
    """The rate at which the strongest mode settles, `2 alpha beta sigma*_1`."""
    alpha, beta = (jnp.linalg.norm(F, 2) ** 2 for F in (scenario.query_features, scenario.key_features))
    return 2 * alpha * beta * prediction.values[0]


def read_modes(omega: Array, prediction: Any) -> tuple[Array, Array, Array]:
    """`u_k^T Omega v_k` along the predicted vectors, and the |cos| of the measured ones with these, each (K,)."""
    U, _, Vt = jnp.linalg.svd(omega)
    sizes = jnp.einsum("dk,de,ek->k", prediction.left, omega, prediction.right, precision="highest")
    left, right = alignment(prediction.left, U), alignment(prediction.right, Vt.T)
    # singular pairs are in the order of their present size, modes in that of their final one
    pair = jnp.argmax(left * right, axis=1)
    chosen = jnp.arange(len(pair)), pair
    return sizes, left[chosen], right[chosen]


def crossing(time: xr.DataArray, excess: xr.DataArray, passed: xr.DataArray) -> xr.DataArray:
    """When `excess` first passes 0, between records linearly; NaN where it never does."""
    after = passed.argmax("record")
    before = np.maximum(after - 1, 0)
    (t0, t1), (e0, e1) = ((x.isel(record=before), x.isel(record=after)) for x in (time, excess))
    return (t0 + (t1 - t0) * np.clip(-e0 / (e1 - e0), 0, 1)).where(passed.any("record"))


def trained_features(config: Config, folder: Path) -> xr.Dataset:
    """Cosines, sizes and dimensionalities along the training of features and head together."""
    T = single_pair(config.n_features, config.n_features, 0, 1, config.strength)
    tasks = stacked_tasks(config, jnp.broadcast_to(T, (config.members, *T.shape)))
    _, history = train_toys(config, tasks, checkpoints(folder) / "trained", records=100, observe=features_and_head)
    snapshots = {name: jnp.asarray(history[name]).swapaxes(0, 1) for name in ("W", "W_Q", "W_K")}
    follow = jax.jit(partial(jax.lax.map, lambda member: jax.lax.map(partial(read_toy, config, member[1]), member[0])))
    found = follow((snapshots, tasks))
    arrays = {name: (("member", "step"), np.asarray(x)) for name, x in found.items()}
    return xr.Dataset(arrays, {"member": np.arange(config.members), "step": history["step"]})


def read_toy(config: Config, task: Any, weights: dict[str, Array]) -> dict[str, Array]:
    """The first singular pair of one moment, and what theory expects of its features."""
    W = weights["W"]
    head = spectrum(weights["W_Q"], weights["W_K"])
    agreement = compare(predict(scenario(config, W, task)), head, (W, W))
    return {
        "cosine_query": agreement.measured_left[0, 0],
        "cosine_key": agreement.measured_right[0, 1],
        "expected_cosine_query": agreement.predicted_left[0, 0],
        "expected_cosine_key": agreement.predicted_right[0, 1],
        "sigma_1": head.values[0],
        "dimensionality": feature_dimensionality(W)[:2].min(),
    }


def table_rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """One row a mode, and one for each moment at which something of the trained features has arrived."""
    rows = []
    for mode in results.mode.values:
        some = results.sel(mode=mode)
        ratio = (some.half_time / some.predicted_half_time).values
        rows.append(row(f"mode {mode}: half-time / predicted", ratio, Rule("furthest", "within 10 % of", 1)))
        rows.append(
            row(f"mode {mode}: |cos| at half size", some.cosine_at_half_size.values, Rule("lowest", ">=", REACHED))
        )
    first, features = arrivals(results)
    for what, steps in (("cosines", first), ("dimensionalities", features)):
        middle = {"quantity": f"median step from which {what} exceed {REACHED}", "mean": np.median(steps), "s.e.": None}
        rows.append(middle | judged(None, steps))
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


def summary(config: Config, results: xr.Dataset, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Headline figures."""
    ratio = (results.half_time / results.predicted_half_time).values
    first, features = arrivals(results)
    ruled = [row for row in rows if row["rule"]]
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
        "rules": len(ruled),
        "rules_held": sum(bool(row["holds"]) for row in ruled),
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
        cosines.plot(
            results.step, results[f"expected_cosine_{side}"].median("member"), color=colour, label=f"expected, {side}"
        )
        measured(cosines, few.step, *spread(few[f"cosine_{side}"]), color=colour, label=f"trained, {side}")
    chance_line(cosines, chance_alignment(config.dim))
    cosines.set(xlabel="training step", ylabel="|cos| with the matched feature", ylim=(0, 1.03))
    measured(dimensionality, few.step, *spread(few.dimensionality), color=COLOURS[3], label=r"$\min(D_0, D_1)$")
    measured(
        dimensionality, few.step, *spread(few.sigma_1 / config.strength), color=COLOURS[4], label=r"$\sigma_1 / t$"
    )
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
