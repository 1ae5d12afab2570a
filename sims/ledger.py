"""Ledger: every condition of the theory, from satisfied to far violated, predicted and measured.

One row is one knob of one theorem. For each value of the knob heads are trained on random features; theory predicts
their first singular pair before, and whether that pair is aligned with the matched features or not. A row holds when
the predicted vectors are the trained ones: median |cos| at least 0.999 and 1st percentile at least 0.99 under the
squared objective, 0.995 and 0.98 under softmax, and, where the alignment itself varies by more than 0.1, R^2 of
predicted against measured alignment at least 0.99. The rule was set before the runs.

Conditions that are not about the vectors of one head on given features have experiments of their own: `training` (T9),
`phase` (T10), `sad_toy` (T11), `rotary` (T13) and `explain` (T16).
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from sims.engines.flow import flow, rates
from sims.engines.simulation import Training, simulate_ensemble
from sims.lab.command import command
from svtheory import (
    BernoulliUniform,
    Gaussian,
    Law,
    Scenario,
    Spectrum,
    alignment,
    chance_alignment,
    compare,
    conditioned_frame,
    filtered_optimum,
    matching,
    predict,
    single_pair,
    spectrum,
    tight_frame,
    unwhiten,
    worst_case_frame,
)
from svtheory.checks import whole
from svtheory.reports.plotting import (
    COLOURS,
    GREY,
    measured,
    panels,
    predicted_against_measured,
)
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

D, N = 10, 20
STEP = 0.5  # of an Euler step, in units of the largest curvature
DISTURBANCE = 0.1  # spectral norm of what is added to the target
KAPPA = 100.0  # condition number of the frames in which a feature is turned away from an eigenvector
MEDIAN = {"square": 0.999, "softmax": 0.995}
FIRST_PERCENTILE = {"square": 0.99, "softmax": 0.98}
R2, VARIES = 0.99, 0.1


@dataclass(frozen=True)
class Config:
    """Size of the ledger."""

    square_seeds: int = 3
    """Random heads for each value of a knob, squared objective."""
    softmax_seeds: int = 3
    """Random heads for each value of a knob, softmax objective."""
    square_steps: int = 800
    """Steps of L-BFGS, squared objective."""
    softmax_steps: int = 60
    """Steps of L-BFGS, softmax objective."""
    contexts: int = 8192
    """Sampled contexts a head, softmax objective."""
    seed: int = 0
    """Random seed."""
    dtype: Literal["float32", "float64"] = "float64"
    """Precision of the whole run."""

    def __post_init__(self):
        for name in ("square_seeds", "softmax_seeds", "square_steps", "softmax_steps", "contexts"):
            whole(name, getattr(self, name), 1)


SCALES = {
    "quick": Config(),
    "paper": Config(square_seeds=14, softmax_seeds=10, contexts=16384),
    "full": Config(square_seeds=200, softmax_seeds=100, contexts=65536),
}


@dataclass(frozen=True)
class Row:
    """One knob of one theorem: `build(value, key)` is a scenario that matches query feature 0 with key feature 0.

    Heads are trained to the optimum, or, where the knob is `timed`, by gradient flow for so long; their singular
    vectors are compared with the features as they are, or `unwhitened`.
    """

    theorem: str
    knob: str
    values: tuple[float, ...]
    build: Callable[[Array, Array], Scenario]
    objective: str = "square"
    timed: bool = False
    unwhitened: bool = False


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train and compare every row of the ledger; heads of one shape are trained together."""
    keys = jax.random.split(jax.random.key(config.seed), len(ROWS))
    batches = [_batch(config, row, key) for row, key in zip(ROWS, keys, strict=True)]
    tables = []
    for number, group in enumerate(_alike(batches)):
        scenarios = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(batches[index] for index in group))
        checkpoint = checkpoints(folder) / str(number)
        if ROWS[group[0]].timed:
            times = jnp.concatenate([jnp.asarray(_values(config, ROWS[index])) for index in group])
            predictions, spectra = _flow(scenarios, times, checkpoint)
        else:
            predictions = jax.jit(partial(jax.lax.map, predict))(scenarios)
            spectra = _train(config, scenarios, jax.random.fold_in(keys[group[0]], 1), checkpoint)
        found = jax.jit(partial(jax.lax.map, _compare))((scenarios, predictions, spectra))
        tables.append(_results(config, group, found))
    results = xr.concat(tables, "head").sortby("row")
    rows = [_verdict(row, results.sel(head=results.row == index)) for index, row in enumerate(ROWS)]
    figures = {
        "agreement": Exhibit(
            _agreement_figure(results),
            "Alignment of the first singular vectors with the matched features: trained heads against the theory, "
            "every condition from satisfied to violated.",
        ),
        "rows": Exhibit(
            _rows_figure(results),
            "The same by knob, query side: mean predicted alignment as a line, trained heads as points with the "
            "standard deviation over random features.",
        ),
    }
    return Outcome(_summary(results, rows), results, figures, rows)


def _unit_frame(key: Array) -> Array:
    X = jax.random.normal(key, (D, N))
    return X / jnp.linalg.norm(X, axis=0, keepdims=True)


def _both(frame: Callable[[Array], Array], key: Array, strength: float = 1.0, **options: Any) -> Scenario:
    """The scenario of two independent frames whose first features are matched."""
    X, Y = map(frame, jax.random.split(key))
    return Scenario(X, Y, single_pair(X.shape[1], Y.shape[1], 0, 0, strength), **options)


def _rank_deficient(missing: Array, key: Array) -> Scenario:
    """Features in a random subspace of D - missing dimensions; a strong target outgrows the start outside it."""

    def frame(key):
        left, right = jax.random.split(key)
        X = jnp.where(jnp.arange(D)[:, None] < D - missing, jax.random.normal(right, (D, N)), 0)
        return jax.random.orthogonal(left, D) @ (X / jnp.linalg.norm(X, axis=0, keepdims=True))

    return _both(frame, key, strength=20.0)


def _crowded(ratio: Array, key: Array) -> Scenario:
    """N = ratio D features of condition number 10; the columns up to 4 D are zero, so that all ratios share a shape."""
    present = jnp.round(ratio * D)

    def frame(key):
        X = jnp.where(jnp.arange(4 * D)[None, :] < present, jax.random.normal(key, (D, 4 * D)), 0)
        U, _, Vt = jnp.linalg.svd(X, full_matrices=False)
        rank = jnp.minimum(present, D)
        eigenvalues = 10.0 ** (-jnp.arange(D) / (rank - 1))
        scale = jnp.sqrt(jnp.where(jnp.arange(D) < rank, eigenvalues, 0))
        return U @ (scale[:, None] * Vt)

    return _both(frame, key)


def _off_eigenvector(share: Array, key: Array) -> Scenario:
    """The matched feature turned from the eigenvector of the smallest eigenvalue to the angle that aligns worst."""
    eigenvalues = jnp.geomspace(1.0, KAPPA, D)
    angle = share * jnp.arctan(jnp.sqrt(KAPPA))

    def frame(key):
        left, right = jax.random.split(key)
        x = jnp.zeros(D).at[0].set(jnp.cos(angle)).at[-1].set(jnp.sin(angle))
        # unit x and eigenvalues of at least 1 leave a positive semi-definite remainder for the other features
        values, vectors = jnp.linalg.eigh(jnp.diag(eigenvalues) - jnp.outer(x, x))
        others = vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :] @ jax.random.orthogonal(left, N - 1)[:D]
        return jax.random.orthogonal(right, D) @ jnp.column_stack([x, others])

    return _both(frame, key)


def _conditioned(frame: Callable, condition: Array, key: Array) -> Scenario:
    return _both(lambda key: frame(key, D, N, condition), key)


def _correlated(frame: Callable, correlation: Array, key: Array) -> Scenario:
    """Centred activations whose correlation falls as `correlation^|i - j|`."""
    distance = jnp.abs(jnp.arange(N)[:, None] - jnp.arange(N)[None, :])
    law = Gaussian(jnp.zeros(N), correlation**distance)
    return _both(lambda key: frame(key, D, N), key, query_law=law, key_law=law)


def _with_mean(mean: Array, key: Array) -> Scenario:
    """Tight frames; uncorrelated activations of unit variance and the given mean."""
    law = Gaussian(jnp.full(N, mean), jnp.eye(N))
    return _both(lambda key: tight_frame(key, D, N), key, query_law=law, key_law=law)


def _overlapping(cosine: Array, key: Array) -> Scenario:
    """Two pairs whose query features have the given cosine, in dimensions of their own; so have the keys'."""

    def frame(key):
        X = jnp.eye(D, N).at[:, 1].set(0).at[0, 1].set(cosine).at[1, 1].set(jnp.sqrt(1 - cosine**2))
        return jax.random.orthogonal(key, D) @ X

    X, Y = map(frame, jax.random.split(key))
    return Scenario(X, Y, matching(N, N, (0, 1), (0, 1), jnp.array([1.0, 0.6])))


def _near_gap(gap: Array, key: Array) -> Scenario:
    """Two pairs of orthogonal features whose strengths differ by `gap`, and a fixed disturbance of the target."""
    X, Y, E = (jax.random.orthogonal(k, D) for k in jax.random.split(key, 3))
    empty = jnp.zeros((D, N - D))
    target = jnp.zeros((N, N)).at[0, 0].set(1 + gap).at[1, 1].set(1.0).at[:D, :D].add(DISTURBANCE * E)
    return Scenario(jnp.column_stack([X, empty]), jnp.column_stack([Y, empty]), target)


def _narrow(strength: Array, key: Array) -> Scenario:
    """A head of dimension 1 and two pairs in tight frames: the first of strength 1, the second of the given one."""
    X, Y = (tight_frame(k, D, N) for k in jax.random.split(key))
    target = matching(N, N, (0, 1), (0, 1), jnp.stack([jnp.ones(()), strength]))
    return Scenario(X, Y, target, head_dim=1)


def _decaying(share: Array, key: Array) -> Scenario:
    """Tight frames and two pairs; weight decay takes the given share of what would remove the first."""
    X, Y = (tight_frame(k, D, N) for k in jax.random.split(key))
    bare = Scenario(X, Y, matching(N, N, (0, 1), (0, 1), jnp.array([1.0, 0.6])))
    return replace(bare, weight_decay=share * predict(bare).values[0] * (N / D) ** 2)


def _aged(time: Array, key: Array) -> Scenario:
    """Frames of condition number 16; the time is not the scenario's, but the training's."""
    return _both(lambda key: conditioned_frame(key, D, N, 16.0), key)


def _softmax(frame: Callable, probability: Array | float, strength: Array | float, bias: bool, key: Array) -> Scenario:
    """The paper's activations under softmax, one frame for queries and keys; features 0 and 1 are matched."""
    X = frame(key)
    law = BernoulliUniform(probability, N)
    target = single_pair(N, N, 0, 0, strength)
    return Scenario(X, jnp.roll(X, -1, axis=1), target, law, law, "softmax", query_bias=bias)


def _softmax_rows(bias: bool) -> list[Row]:
    """Tight frames, on which only a mean can turn the vectors away, and random frames, on which all are turned."""
    tight, suffix = partial(tight_frame, dim=D, n_features=N), ", query bias" if bias else ""
    density = Row(
        "T6", f"density p{suffix}", (0.1, 0.2, 0.4, 0.6, 0.9), lambda p, key: _softmax(tight, p, 5, bias, key)
    )
    size = Row("T6", f"target t{suffix}", (0.1, 1, 5, 20, 40), lambda t, key: _softmax(_unit_frame, 0.2, t, bias, key))
    return [replace(row, objective="softmax") for row in (density, size)]


ROWS = [
    Row("T1", "missing rank of X and Y", (0, 2, 4, 6), _rank_deficient),
    Row("T1", "N/D", (0.5, 1, 1.5, 2, 3, 4), _crowded),
    Row("T2", "angle off an eigenvector / worst", (0, 0.2, 0.4, 0.6, 0.8, 1), _off_eigenvector),
    Row("T3", "condition number, random", (1, 3, 10, 30, 100, 300), partial(_conditioned, conditioned_frame)),
    Row("T3", "condition number, worst case", (1, 3, 10, 30, 100, 300), partial(_conditioned, worst_case_frame)),
    Row("T4", "overlap of two pairs' features", (0, 0.2, 0.4, 0.6, 0.8, 0.9), _overlapping),
    Row("T5", "correlation", (0, 0.3, 0.6, 0.8, 0.9, 0.97), partial(_correlated, tight_frame)),
    Row("T5", "mean / standard deviation", (0, 0.25, 0.5, 1, 2, 4), _with_mean),
    *_softmax_rows(bias=False),
    *_softmax_rows(bias=True),
    Row("T7", "second pair / first, H = 1", (0, 0.3, 0.6, 0.8, 1.2, 2, 4), _narrow),
    Row("T8", "weight decay / threshold", (0, 0.2, 0.4, 0.6, 0.8, 0.95), _decaying),
    Row("T14", "gap / disturbance", (3, 1, 0.3, 0.1, 0.03, 0.01), lambda x, key: _near_gap(x * DISTURBANCE, key)),
    Row(
        "T15",
        "correlation, unwhitened",
        (0, 0.3, 0.6, 0.8, 0.9, 0.97),
        partial(_correlated, partial(conditioned_frame, condition=10.0)),
        unwhitened=True,
    ),
    Row("T17", "time / slowest", (0.001, 0.01, 0.1, 0.3, 1, 3, 10), _aged, timed=True),
]


def _values(config: Config, row: Row) -> np.ndarray:
    """The knob's value at each head of the row."""
    seeds = config.square_seeds if row.objective == "square" else config.softmax_seeds
    return np.repeat(np.array(row.values, float), seeds)


def _batch(config: Config, row: Row, key: Array) -> Scenario:
    """The scenarios of a row, stacked, in the order of `_values`."""
    values = jnp.asarray(_values(config, row))
    # one after the other: batched QR factorisations side by side can deadlock on a small CPU
    build = jax.jit(partial(jax.lax.map, lambda cell: row.build(*cell)))
    return build((values, jax.random.split(key, len(values))))


def _alike(batches: list[Scenario]) -> list[list[int]]:
    """Indices of the batches whose scenarios have one structure and shape and are trained alike, group by group."""
    groups = defaultdict(list)
    for index, batch in enumerate(batches):
        leaves, structure = jax.tree.flatten(batch)
        groups[structure, tuple(leaf.shape[1:] for leaf in leaves), ROWS[index].timed].append(index)
    return list(groups.values())


def _train(config: Config, scenarios: Scenario, key: Array, checkpoint: Path) -> Spectrum:
    heads, objective = scenarios.target.shape[0], scenarios.objective
    training = {
        # what the data never visits stays as it starts, so it starts small
        "square": Training(steps=config.square_steps, start=0.01),
        "softmax": Training(steps=config.softmax_steps, contexts=config.contexts),
    }[objective]
    keys = jax.random.split(key, heads)
    return simulate_ensemble(scenarios, keys, training, checkpoint, f"{heads} heads, {objective}")


def _flow(scenarios: Scenario, times: Array, checkpoint: Path) -> tuple[Spectrum, Spectrum]:
    """Omega trained from nothing for `times`, in units of the slowest direction's: predicted (T17) and measured."""
    slowest, curvature = jax.jit(jax.vmap(rates))(scenarios)
    last = times / slowest
    filtered = jax.jit(partial(jax.lax.map, lambda cell: filtered_optimum(*cell)))((scenarios, last))
    start = {"Omega": jnp.zeros_like(filtered)}
    steps = int((last * curvature).max() / STEP) + 1
    _, omega = flow(scenarios, start, last, steps, 1, checkpoint, f"{len(times)} heads, for a time")
    decompose = jax.jit(partial(jax.lax.map, lambda omega: spectrum(jnp.eye(D), omega)))
    return decompose(filtered), decompose(jnp.asarray(omega[-1]))


def _compare(cell: tuple[Scenario, Spectrum, Spectrum]) -> dict[str, Array]:
    """The first singular pair, predicted and trained, on both sides, as it is and unwhitened."""
    scenario, prediction, measurement = cell
    X, Y = scenario.query_features, scenario.key_features
    found = compare(prediction, measurement, (X, Y))
    moments = token_moment(X, scenario.query_law), token_moment(Y, scenario.key_law)

    def unwhitened(spectrum):
        read = zip((spectrum.left, spectrum.right), (X, Y), moments, strict=True)
        return jnp.stack([alignment(unwhiten(v[:, :1], K)[0], F[:, :1])[0, 0] for v, F, K in read])

    return {
        "predicted_alignment": jnp.stack([found.predicted_left[0, 0], found.predicted_right[0, 0]]),
        "measured_alignment": jnp.stack([found.measured_left[0, 0], found.measured_right[0, 0]]),
        "predicted_unwhitened": unwhitened(prediction),
        "measured_unwhitened": unwhitened(measurement),
        "cosine": jnp.stack([found.left[0], found.right[0]]),
        "predicted_sigma": prediction.values[0],
        "measured_sigma": measurement.values[0],
    }


def token_moment(X: Array, law: Law | None) -> Array:
    """`S = X C X^T`, with C = I without a law."""
    C = jnp.eye(X.shape[1]) if law is None else law.second_moment()
    return jnp.linalg.multi_dot([X, C, X.T], precision="highest")


def _results(config: Config, group: list[int], found: dict[str, Array]) -> xr.Dataset:
    """Labelled arrays over heads and sides."""
    rows = np.concatenate([np.full(len(_values(config, ROWS[index])), index) for index in group])
    data = {name: (("head", "side")[: values.ndim], np.asarray(values)) for name, values in found.items()}
    coordinates = {
        "side": ["query", "key"],
        "row": ("head", rows),
        "theorem": ("head", [ROWS[index].theorem for index in rows]),
        "knob": ("head", [ROWS[index].knob for index in rows]),
        "value": ("head", np.concatenate([_values(config, ROWS[index]) for index in group])),
        "objective": ("head", [ROWS[index].objective for index in rows]),
    }
    results = xr.Dataset(data, coordinates, {"chance": chance_alignment(D)})
    read = np.array([ROWS[index].unwhitened for index in rows])[:, None]
    for kind in ("predicted", "measured"):
        plain, turned_back = results[f"{kind}_alignment"], results[f"{kind}_unwhitened"]
        results[f"{kind}_alignment"] = plain.where(~read, turned_back)
    return results.drop_vars(["predicted_unwhitened", "measured_unwhitened"])


def _verdict(row: Row, heads: xr.Dataset) -> dict[str, Any]:
    """One line of the table."""
    cosine, seen = heads.cosine.values, heads.measured_alignment.values
    median, p01, r2 = np.median(cosine), np.quantile(cosine, 0.01), _r2(heads)
    accurate = median >= MEDIAN[row.objective] and p01 >= FIRST_PERCENTILE[row.objective]
    holds = accurate and (np.ptp(seen) <= VARIES or r2 >= R2)
    return {
        "": row.theorem,
        "knob": f"{row.knob}, {row.values[0]:g} to {row.values[-1]:g}",
        "objective": row.objective,
        "heads": heads.sizes["head"],
        "alignment": f"{seen.min():.2f} to {seen.max():.2f}",
        "median |cos|": f"{median:.5f}",
        "1st percentile": f"{p01:.5f}",
        "R²": r2,
        "verdict": "holds" if holds else "fails",
    }


def _r2(heads: xr.Dataset) -> float:
    """Share of the variance of measured alignments that the predicted ones explain; NaN where they do not vary."""
    predicted, seen = heads.predicted_alignment.values, heads.measured_alignment.values
    if np.ptp(seen) <= VARIES:
        return float("nan")
    return float(1 - ((seen - predicted) ** 2).sum() / ((seen - seen.mean()) ** 2).sum())


def _summary(results: xr.Dataset, rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary = {"heads": results.sizes["head"]}
    for objective in ("square", "softmax"):
        cosine = results.cosine.values[results.objective.values == objective]
        summary |= {
            f"median_cosine_{objective}": np.median(cosine),
            f"p01_cosine_{objective}": np.quantile(cosine, 0.01),
            f"mean_cosine_{objective}": cosine.mean(),
            f"mean_cosine_{objective}_standard_error": cosine.mean(axis=1).std(ddof=1) / np.sqrt(len(cosine)),
        }
    return summary | {
        "chance_cosine": results.attrs["chance"],
        "alignment_r2": _r2(results),
        "alignment_min": results.measured_alignment.min().item(),
        "alignment_max": results.measured_alignment.max().item(),
        "rows": len(rows),
        "rows_that_hold": sum(row["verdict"] == "holds" for row in rows),
    }


def _agreement_figure(results: xr.Dataset):
    figure, ((square, softmax),) = panels(2, 1, width=4.6, height=4.4)
    for ax, objective in ((square, "square"), (softmax, "softmax")):
        heads = results.sel(head=results.objective == objective)
        theorems = sorted(np.unique(heads.theorem), key=lambda name: int(name[1:]))
        for theorem, (marker, colour) in zip(theorems, product("o^s", COLOURS), strict=False):
            some = heads.sel(head=heads.theorem == theorem)
            predicted_against_measured(
                ax, some.predicted_alignment.values.ravel(), some.measured_alignment.values.ravel(),
                color=colour, fmt=marker, label=theorem, markersize=3.5, alpha=0.6,
            )  # fmt: skip
        ax.axhline(results.attrs["chance"], color=GREY, linestyle=":", label="chance")
        ax.set(xlim=(0, 1.03), ylim=(0, 1.03), title=f"{objective} objective")
        ax.set(xlabel="predicted |cos(singular vector, feature)|", ylabel="measured |cos(singular vector, feature)|")
        ax.legend(fontsize=8)
    return figure


def _rows_figure(results: xr.Dataset):
    columns = 4
    figure, axes = panels(columns, -(-len(ROWS) // columns), width=3.3, height=2.7)
    for index, (ax, row) in enumerate(zip(axes.ravel(), ROWS, strict=False)):
        heads = results.sel(head=results.row == index, side="query")
        grouped = heads[["predicted_alignment", "measured_alignment"]].groupby("value")
        mean, deviation = grouped.mean(), grouped.std()
        ax.plot(mean.value, mean.predicted_alignment, color=COLOURS[1], label="predicted")
        measured(ax, mean.value, mean.measured_alignment, deviation.measured_alignment, label="trained")
        ax.axhline(results.attrs["chance"], color=GREY, linestyle=":", label="chance")
        if min(row.values) > 0 and max(row.values) / min(row.values) > 10:
            ax.set_xscale("log")
        ax.set(ylim=(0, 1.05), xlabel=row.knob, title=row.theorem + (", softmax" if row.objective == "softmax" else ""))
        if index % columns == 0:
            ax.set_ylabel("|cos(u, matched feature)|")
    axes[0, 0].legend()
    for ax in axes.ravel()[len(ROWS) :]:
        ax.set_axis_off()
    return figure


main = command(run, SCALES)

if __name__ == "__main__":
    main()
