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
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes

from sims.engines.simulation import Training, simulate_ensemble
from sims.lab.command import command
from sims.lab.curves import by_label, with_error
from sims.lab.sizes import Precise
from sims.lab.sweep import Batch, each, grid, sweep, without_decay
from svtheory import BernoulliUniform, Scenario, Spectrum, matching, mode_strengths, predict
from svtheory.geometry import antipodal, simplex, tegum
from svtheory.reports.options import at_least
from svtheory.reports.plotting import COLOURS, GREY, measured, panels, predicted_against_measured
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

THEOREMS = ("T7",)
OBJECTIVES = ("square", "softmax")
KINDS = ("orthonormal", "polytopes", "random frame", "equal targets")
TOLERANCE = {"square": 0.01, "softmax": 0.1}
STRONGEST = {"square": 1.0, "softmax": 0.3}
APART = 0.05  # least relative distance of modes H and H + 1
WHOLE = 0.9  # a share from which a pair counts as kept; below 1 - WHOLE it is dropped, in between it shares
PROBABILITY, N_KEYS = 0.2, 8


@dataclass(frozen=True)
class Config(Precise):
    """Size of the experiment."""

    ARRAYS = ("square_seeds copies copies 13 13", "softmax_seeds contexts copies 9")

    copies: Annotated[int, at_least(1)] = 1
    """Copies c of the block of features: D = 9 c, 6 c pairs, head dimension H = 3 c."""
    square_seeds: Annotated[int, at_least(2)] = 5
    """Random heads for each number of pairs, squared objective."""
    softmax_seeds: Annotated[int, at_least(2)] = 2
    """Random heads for each number of pairs, softmax objective."""
    square_steps: Annotated[int, at_least(1)] = 300
    """Steps of L-BFGS, squared objective."""
    softmax_steps: Annotated[int, at_least(1)] = 40
    """Steps of L-BFGS, softmax objective."""
    contexts: Annotated[int, at_least(1)] = 4096
    """Sampled contexts a head, softmax objective."""

    @property
    def room(self) -> int:
        """The head dimension H."""
        return 3 * self.copies


SCALES = {
    "quick": Config(),
    "paper": Config(copies=3, square_seeds=24, softmax_seeds=6, contexts=16384),
    "full": Config(copies=6, square_seeds=100, softmax_seeds=50, contexts=65536),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train and compare for each kind of features and each number of pairs, under both objectives."""
    batches = [_heads(config, number, objective) for number, objective in enumerate(OBJECTIVES)]
    read = partial(_read, config)
    results = sweep(batches, partial(_train, config), read, checkpoints(folder), ("pair",))
    results = results.assign_attrs(room=config.room)
    cells = dict.fromkeys(zip(*(results[name].values for name in ("objective", "kind", "pairs")), strict=True))
    rows = [_row(results, *cell) for cell in cells]
    return Outcome(_summary(results), results, {"capacity": _exhibit(results)}, rows)


def _heads(config: Config, number: int, objective: str) -> Batch:
    """All heads of one objective."""
    seeds = config.square_seeds if objective == "square" else config.softmax_seeds
    pairs = [times * config.copies for times in (2, 3, 4, 6)]
    cells = grid(kind=range(len(KINDS)), pairs=pairs, seed=range(seeds))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number), cells["kind"].size)
    scenarios = each(partial(_scenario, config, objective), cells["kind"], cells["pairs"], keys)
    labels = {"objective": objective, "kind": np.array(KINDS)[cells["kind"]], "pairs": cells["pairs"]}
    return Batch(scenarios, keys, labels)


def _train(config: Config, scenarios: Scenario, keys: Array, **place: Any) -> Spectrum:
    steps = config.square_steps if scenarios.objective == "square" else config.softmax_steps
    return simulate_ensemble(scenarios, keys, Training(steps=steps, contexts=config.contexts), **place)


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
    scenario = without_decay(scenario)
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


def _row(results: xr.Dataset, objective: str, kind: str, pairs: int) -> dict[str, Any]:
    heads = results.sel(head=(results.objective == objective) & (results.kind == kind) & (results.pairs == pairs))
    told = heads.sel(head=heads.apart > APART)
    error = _errors(told).mean("head") if told.sizes["head"] else _errors(heads).mean("head")
    return {
        "objective": objective,
        "features": kind,
        "pairs / H": f"{pairs} / {results.attrs['room']}",
        "heads": heads.sizes["head"],
        "told apart": told.sizes["head"],
        "kept": float(heads.predicted.sum("pair").mean()),
        "measured": with_error(heads.measured.sum("pair")),
        "sharing": _sharing(heads.predicted),
        "seen": _sharing(heads.measured),
        "|error|": float(error.theory),
        "if cut off": float(error.cut_off),
        "chance": float(error.chance),
        "holds": bool(error.theory <= TOLERANCE[objective]) if told.sizes["head"] else None,
    }


def _summary(results: xr.Dataset) -> dict[str, Any]:
    summary: dict[str, Any] = {"heads": results.sizes["head"]}
    for objective in OBJECTIVES:
        crowded = (results.objective == objective) & (results.pairs > results.attrs["room"]) & (results.apart > APART)
        error = _errors(results.sel(head=crowded))
        summary |= {f"mean_absolute_error_share_{objective}_{name}": error[name].mean().item() for name in error}
        spread = error.theory.std(ddof=1).item() / np.sqrt(error.sizes["head"])
        summary[f"mean_absolute_error_share_{objective}_theory_standard_error"] = spread
    return summary


def _exhibit(results: xr.Dataset) -> Exhibit:
    figure, ((counts, baselines), scatters) = panels(2, 2, width=4.8, height=4.0)
    square = results.sel(head=results.objective == "square")
    for number, (kind, colour) in enumerate(zip(KINDS, COLOURS, strict=False)):
        style = {"fmt": "os^D"[number], "color": colour}
        kept = square.sel(head=square.kind == kind)[["predicted", "measured"]].sum("pair").groupby("pairs")
        mean, deviation = kept.mean(), kept.std(ddof=1)
        beside = mean.pairs + 0.08 * (number - 1.5) * results.attrs["room"] / 3
        counts.plot(mean.pairs, mean.predicted, color=colour)
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
    mean, error = by_label(_errors(heads), "pairs")
    labels = {"theory": "T7", "cut_off": "optimum cut off", "chance": "chance, H of the pairs"}
    for (name, label), colour, shape in zip(labels.items(), COLOURS, "os^", strict=False):
        measured(ax, mean.pairs, mean[name], error[name], fmt=f"{shape}-", color=colour, label=label)
    ax.axvline(heads.attrs["room"], color=GREY, linestyle=":", label="head dimension H")
    ax.set(
        xlabel="pairs asked for", ylabel="mean |predicted - measured| share", title="which ones: three guesses, square"
    )
    ax.legend()


main = command(run, SCALES)

if __name__ == "__main__":
    main()
