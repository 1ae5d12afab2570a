"""Capacity (the paper's App E): more matched pairs than head dimensions; which pairs survive, and which share.

K pairs of differing target strengths are asked of a head of H dimensions, K from below to above H. Theory (T7) says
which are kept: with orthogonal features those of largest |t| sqrt(D_i D_j), whole, and the others not at all; where
features are not orthogonal, pairs share singular pairs. The share of a pair is the logit `x_i^T Omega y_j` that the
head gives it over that of a head with room for all. Two baselines stand beside it: cutting the wide head's optimum
off at its H-th singular value, and chance, K pairs of which any H may be kept. Of equal targets on orthonormal
features theory promises their number only: any H-dimensional mixture of them is as good.

Rules, set before the run: a row holds when the mean |predicted - measured| share is at most 0.01 under the squared
objective and 0.1 under softmax, whose theory is to leading order in the logits. Heads whose modes H and H + 1 are
nearer than 5 % are left out: no theory tells these apart.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes

from sims.engines.simulation import Training, simulate_ensemble
from sims.lab.command import command
from svtheory import (
    BernoulliUniform,
    Scenario,
    Spectrum,
    matching,
    mode_strengths,
    predict,
)
from svtheory.checks import whole
from svtheory.geometry import antipodal, simplex, tegum
from svtheory.reports.plotting import (
    COLOURS,
    GREY,
    measured,
    panels,
    predicted_against_measured,
)
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

OBJECTIVES = ("square", "softmax")
KINDS = ("orthonormal", "polytopes", "random frame", "equal targets")
TOLERANCE = {"square": 0.01, "softmax": 0.1}
STRONGEST = {"square": 1.0, "softmax": 0.3}
APART = 0.05  # least relative distance of modes H and H + 1
WHOLE = 0.9  # a share from which a pair counts as kept; below 1 - WHOLE it is dropped, in between it shares
PROBABILITY, N_KEYS = 0.2, 8


@dataclass(frozen=True)
class Config:
    """Size of the experiment."""

    copies: int = 1
    """Copies c of the block of features: D = 9 c, 6 c pairs, head dimension H = 3 c."""
    square_seeds: int = 5
    """Random heads for each number of pairs, squared objective."""
    softmax_seeds: int = 2
    """Random heads for each number of pairs, softmax objective."""
    square_steps: int = 300
    """Steps of L-BFGS, squared objective."""
    softmax_steps: int = 40
    """Steps of L-BFGS, softmax objective."""
    contexts: int = 4096
    """Sampled contexts a head, softmax objective."""
    seed: int = 0
    """Random seed."""
    dtype: Literal["float32", "float64"] = "float64"
    """Precision of the whole run."""

    @property
    def room(self) -> int:
        """The head dimension H."""
        return 3 * self.copies

    def __post_init__(self):
        whole("copies", self.copies, 1)
        for name in ("square_seeds", "softmax_seeds"):
            whole(name, getattr(self, name), 2)
        for name in ("square_steps", "softmax_steps", "contexts"):
            whole(name, getattr(self, name), 1)


SCALES = {
    "quick": Config(),
    "paper": Config(copies=3, square_seeds=24, softmax_seeds=6, contexts=16384),
    "full": Config(copies=6, square_seeds=100, softmax_seeds=50, contexts=65536),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train and compare for each kind of features and each number of pairs, under both objectives."""
    tables = [_train(config, objective, folder) for objective in OBJECTIVES]
    results = xr.concat(tables, "head")
    rows = _rows(results)
    return Outcome(_summary(results, rows), results, {"capacity": _exhibit(results)}, rows)


def _train(config: Config, objective: str, folder: Path) -> xr.Dataset:
    """Shares of all pairs in the heads of one objective."""
    seeds, steps = {
        "square": (config.square_seeds, config.square_steps),
        "softmax": (config.softmax_seeds, config.softmax_steps),
    }[objective]
    numbers = [times * config.copies for times in (2, 3, 4, 6)]
    cells = [(kind, number) for kind in range(len(KINDS)) for number in numbers for _ in range(seeds)]
    kinds, asked = jnp.array(cells).T
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), OBJECTIVES.index(objective)), len(cells))
    # one after the other: batched QR factorisations side by side can deadlock on a small CPU
    build = jax.jit(partial(jax.lax.map, lambda cell: _scenario(config, objective, *cell)))
    scenarios = build((kinds, asked, keys))
    training = Training(steps=steps, contexts=config.contexts)
    label = f"{len(cells)} heads, {objective}"
    trained = simulate_ensemble(scenarios, keys, training, checkpoints(folder) / objective, label)
    found = jax.jit(partial(jax.lax.map, lambda cell: _read(config, *cell)))((scenarios, trained))
    coordinates = {
        "objective": ("head", [objective] * len(cells)),
        "kind": ("head", [KINDS[kind] for kind, _ in cells]),
        "pairs": ("head", np.asarray(asked)),
    }
    data = {name: (("head", "pair")[: values.ndim], np.asarray(values)) for name, values in found.items()}
    return xr.Dataset(data, coordinates, {"room": config.room})


def _blocks(copies: int) -> tuple[Array, np.ndarray]:
    """Lone features, digons, triangles and tetrahedra, orthogonal to each other, and one feature of each."""
    features = tegum(*[jnp.eye(2), antipodal(2), simplex(2), simplex(3)] * copies)
    first = np.array([0, 1, 2, 4, 6, 9])[None, :] + 13 * np.arange(copies)[:, None]
    return features, first.ravel()


def _scenario(config: Config, objective: str, kind: Array, number: Array, key: Array) -> Scenario:
    """`number` pairs, each of features of different polytopes, matched at random."""
    polytopes, first = _blocks(config.copies)
    D, N = polytopes.shape
    query, key, order, strength = jax.random.split(key, 4)
    lone = jnp.zeros((D, N)).at[np.arange(first.size), first].set(1)

    def frame(key):
        turn, other = jax.random.split(key)
        random = jax.random.normal(other, (D, N))
        random /= jnp.linalg.norm(random, axis=0, keepdims=True)
        return jax.random.orthogonal(turn, D) @ jnp.stack([lone, polytopes, random, lone])[kind]

    # indices of a target must be known while compiling, so the key features change places instead
    Y = frame(key)
    Y = Y.at[:, first].set(Y[:, jax.random.permutation(order, first)])
    strengths = jax.random.permutation(strength, jnp.where(kind == 3, 1, jnp.linspace(1.0, 0.5, first.size)))
    strengths *= STRONGEST[objective]
    target = matching(N, N, [*first], [*first], jnp.where(jnp.arange(first.size) < number, strengths, 0))
    law = BernoulliUniform(PROBABILITY, N) if objective == "softmax" else None
    return Scenario(frame(query), Y, target, law, law, objective, config.room, n_keys=N_KEYS)


def _read(config: Config, scenario: Scenario, trained: Spectrum) -> dict[str, Array]:
    """Shares of all pairs in the predicted, the trained and the cut-off head, and how far modes H, H + 1 are apart."""
    _, first = _blocks(config.copies)
    wide = replace(scenario, head_dim=None)
    best, modes = predict(wide), mode_strengths(wide)
    cut = jax.tree.map(lambda leaf: leaf[..., : config.room], best)
    X, Y = scenario.query_features[:, first], scenario.key_features[:, first]

    def share(spectrum):
        return _logits(X, spectrum, Y) / _logits(X, best, Y)

    asked = scenario.target[first, first] > 0
    shares = {"predicted": predict(scenario), "measured": trained, "cut_off": cut}
    return {
        **{name: jnp.where(asked, share(spectrum), jnp.nan) for name, spectrum in shares.items()},
        "apart": jnp.where(asked.sum() > config.room, 1 - modes[config.room] / modes[config.room - 1], 1),
    }


def _logits(X: Array, spectrum: Spectrum, Y: Array) -> Array:
    """`x_i^T Omega y_i` of each column of X and Y (D, P), shape (P,)."""
    read, written = (jnp.matmul(A.T, B, precision="highest") for A, B in ((X, spectrum.left), (Y, spectrum.right)))
    return (read * spectrum.values[None, :] * written).sum(axis=1)


def _errors(heads: xr.Dataset) -> xr.Dataset:
    """Mean |error| over the pairs of each head, of the theory, of the cut-off optimum and of chance."""
    ignorance = np.minimum(heads.attrs["room"] / heads.pairs, 1)
    guesses = {"theory": heads.predicted, "cut_off": heads.cut_off, "chance": ignorance}
    return xr.Dataset({name: np.abs(heads.measured - guess).mean("pair") for name, guess in guesses.items()})


def _sharing(shares: xr.DataArray) -> float:
    """Mean number of pairs that are neither kept nor dropped."""
    return float(((shares > 1 - WHOLE) & (shares < WHOLE)).sum("pair").mean())


def _rows(results: xr.Dataset) -> list[dict[str, Any]]:
    cells = dict.fromkeys(zip(*(results[name].values for name in ("objective", "kind", "pairs")), strict=True))
    return [_row(results, *cell) for cell in cells]


def _row(results: xr.Dataset, objective: str, kind: str, pairs: int) -> dict[str, Any]:
    heads = results.sel(head=(results.objective == objective) & (results.kind == kind) & (results.pairs == pairs))
    told = heads.sel(head=heads.apart > APART)
    error = _errors(told).mean("head") if told.sizes["head"] else _errors(heads).mean("head")
    kept = heads.measured.sum("pair")
    verdict = "holds" if error.theory <= TOLERANCE[objective] else "fails"
    return {
        "objective": objective,
        "features": kind,
        "pairs / H": f"{pairs} / {results.attrs['room']}",
        "heads": heads.sizes["head"],
        "told apart": told.sizes["head"],
        "kept": float(heads.predicted.sum("pair").mean()),
        "measured": f"{kept.mean():.3f} ± {kept.std(ddof=1) / np.sqrt(kept.size):.3f}",
        "sharing": _sharing(heads.predicted),
        "seen": _sharing(heads.measured),
        "|error|": float(error.theory),
        "if cut off": float(error.cut_off),
        "chance": float(error.chance),
        "verdict": verdict if told.sizes["head"] else "not unique",
    }


def _summary(results: xr.Dataset, rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"heads": results.sizes["head"]}
    for objective in OBJECTIVES:
        crowded = (results.objective == objective) & (results.pairs > results.attrs["room"]) & (results.apart > APART)
        error = _errors(results.sel(head=crowded))
        summary |= {f"mean_absolute_error_share_{objective}_{name}": error[name].mean().item() for name in error}
        spread = error.theory.std(ddof=1).item() / np.sqrt(error.sizes["head"])
        summary[f"mean_absolute_error_share_{objective}_theory_standard_error"] = spread
    judged = [row["verdict"] for row in rows if row["verdict"] != "not unique"]
    return summary | {
        "rows": len(rows),
        "rows_judged": len(judged),
        "rows_that_hold": judged.count("holds"),
        "holds": judged.count("holds") == len(judged),
    }


def _exhibit(results: xr.Dataset) -> Exhibit:
    figure, ((counts, baselines), scatters) = panels(2, 2, width=4.8, height=4.0)
    square = results.sel(head=results.objective == "square")
    for number, (kind, colour) in enumerate(zip(KINDS, COLOURS, strict=False)):
        style = {"fmt": "os^D"[number], "color": colour}
        kept = square.sel(head=square.kind == kind)[["predicted", "measured"]].sum("pair").groupby("pairs")
        mean, deviation = kept.mean(), kept.std(ddof=1)
        counts.plot(mean.pairs, mean.predicted, color=colour)
        beside = mean.pairs + 0.08 * (number - 1.5) * results.attrs["room"] / 3
        measured(counts, beside, mean.measured, deviation.measured, label=kind, **style)
        for ax, objective in zip(scatters, OBJECTIVES, strict=True):
            told = results.sel(head=(results.objective == objective) & (results.kind == kind) & (results.apart > APART))
            shares = told.predicted.values.ravel(), told.measured.values.ravel()
            predicted_against_measured(ax, *shares, markersize=4, alpha=0.5, **style)
            ax.set(
                xlabel="predicted share of a pair's logit", ylabel="measured share", title=f"every pair, {objective}"
            )
    counts.axvline(results.attrs["room"], color=GREY, linestyle=":", label="head dimension H")
    counts.set(xlabel="pairs asked for", ylabel="pairs kept, sum of shares", title="how many, square")
    counts.legend()
    _draw_errors(baselines, square.sel(head=square.apart > APART))
    return Exhibit(
        figure,
        "Pairs kept by a head of H dimensions, predicted (lines) and trained (points, standard deviation over heads); "
        "how much worse than T7 it is to cut the wide optimum off at its H-th singular value, or to guess; and the "
        "share of every pair that theory tells apart, predicted and measured.",
    )


def _draw_errors(ax: Axes, heads: xr.Dataset) -> None:
    """Mean |error| of a pair's share against the number of pairs."""
    grouped = _errors(heads).groupby("pairs")
    mean, deviation, number = grouped.mean(), grouped.std(ddof=1), grouped.count()
    labels = {"theory": "T7", "cut_off": "optimum cut off", "chance": "chance, H of the pairs"}
    for (name, label), colour, shape in zip(labels.items(), COLOURS, "os^", strict=False):
        error = deviation[name] / np.sqrt(number[name])
        measured(ax, mean.pairs, mean[name], error, fmt=f"{shape}-", color=colour, label=label)
    ax.axvline(heads.attrs["room"], color=GREY, linestyle=":", label="head dimension H")
    ax.set(
        xlabel="pairs asked for", ylabel="mean |predicted - measured| share", title="which ones: three guesses, square"
    )
    ax.legend()


main = command(run, SCALES)

if __name__ == "__main__":
    main()
