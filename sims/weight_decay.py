"""Weight decay: values are lowered, pairs disappear one after the other, and vectors turn from duals to features.

Four matched pairs of different strengths; L2 decay g on both factors, part of the loss, is swept from nothing to more
than any pair survives. On tight frames vectors stay, and `sigma_k = max(sigma*_k - g/(alpha beta), 0)` (T8), so pair k
disappears at `g = alpha beta sigma*_k`; a narrow head keeps the top of these. On frames that are not tight the decay of
both factors is the nuclear norm of Omega, and `predict` solves that convex problem (T24); T8's formula with mean
eigenvalues for alpha and beta is drawn there too, as what would be said without it. On every frame nothing is left from
`g = |M|_2` on, where M is what training pulls towards.

One pair alone is followed over the condition number of its frames: without decay its vectors are the features' duals,
and as g rises to |M|_2 they turn to the features themselves, whatever the anisotropy. Two pairs are followed likewise;
they end in a mixture of the two.

Rules, set before the run. For each kind of features: no singular value is off by more than 0.001 sigma*_1, no |cos|
of a surviving predicted vector with its trained one is below 0.999, and heads vanish on the right side of `|M|_2`
(where at least 0.001 sigma*_1 is predicted to be left: just below `|M|_2` anisotropic frames leave less, which counts
as gone). For each condition number: the same of values and vectors, and for one pair a mean |predicted - measured|
cosine with the features of at most 0.005.
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

from sims.engines.simulation import Training, simulate_ensemble
from sims.lab.command import command
from sims.lab.knobs import independent
from sims.lab.sizes import Precise
from sims.lab.sweep import Batch, each, grid, sweep
from svtheory import (
    Scenario,
    Spectrum,
    chance_alignment,
    compare,
    conditioned_frame,
    correlations,
    frame_operator,
    matching,
    predict,
    tight_frame,
)
from svtheory.geometry import antipodal
from svtheory.reports.options import above, at_least
from svtheory.reports.plotting import COLOURS, GREY, chance_line, measured, panels
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

THEOREMS = ("T8", "T24")
KINDS = ("antipodal", "tight", "not tight")
ALONE, BOTH = FOLLOWED = ("one pair", "two pairs")
STRENGTHS = (1.0, 0.8, 0.55, 0.3)
PLACES = [2 * k for k in range(len(STRENGTHS))]
VALUE_TOLERANCE, COSINE, ZERO = 1e-3, 0.999, 1e-3  # in units of sigma*_1
TURN = 0.005


@dataclass(frozen=True)
class Config(Precise):
    """Size of the sweep."""

    ARRAYS = ("decays seeds dim dim", "decays seeds narrow dim")

    dim: Annotated[int, at_least(len(STRENGTHS))] = 8
    """Dimension D; there are N = 2 D features."""
    narrow: Annotated[int, at_least(1)] = 2
    """Head dimension of the narrow heads."""
    condition: Annotated[float, above(1)] = 10.0
    """Condition number of the frames that are not tight."""
    decays: Annotated[int, at_least(3)] = 10
    """How many values of the decay."""
    seeds: Annotated[int, at_least(2)] = 3
    """Random heads for each kind and decay."""
    followed: Annotated[tuple[float, ...], at_least(1)] = (1.0, 10.0, 100.0)
    """Condition numbers of the frames on which one pair, and two, are followed."""
    steps: Annotated[int, at_least(1)] = 600
    """Steps of L-BFGS."""


SCALES = {
    "quick": Config(),
    "paper": Config(dim=16, decays=17, seeds=8, steps=1500),
    "full": Config(dim=32, decays=25, seeds=16, steps=4000),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train and compare every decay: heads with room for all pairs, narrow ones, and those of one or two."""
    full: dict[str, float] = dict.fromkeys(KINDS, config.condition)
    batches = [_heads(config, config.dim, full, 1.1), _heads(config, config.narrow, {KINDS[0]: config.condition}, 1.1)]
    batches += [_heads(config, config.dim, dict.fromkeys(FOLLOWED, kappa), 0.95) for kappa in config.followed]
    train = partial(simulate_ensemble, training=Training(steps=config.steps))
    results = sweep(batches, train, _read, checkpoints(folder), ("mode", "side"))
    results = results.assign_attrs(chance=chance_alignment(config.dim))
    names = ("kind", "room", "condition")
    groups = dict.fromkeys(zip(*(results[name].values for name in names), strict=True))
    parts = [
        results.sel(head=np.all([results[n] == x for n, x in zip(names, group, strict=True)], axis=0))
        for group in groups
    ]
    rows = [_row(part) for part in parts]
    several, alone = ([part for part in parts if part.kind.values[0] in kinds] for kinds in (KINDS, (ALONE,)))
    return Outcome(
        _summary(results, rows), results, {"weight_decay": _exhibit(several), "turn": _turn_exhibit(alone)}, rows
    )


def _heads(config: Config, room: int, kinds: dict[str, float], most: float) -> Batch:
    """Heads of `room` dimensions on frames of each kind and its condition number, over the decay up to a share."""
    shares = np.linspace(0, most, config.decays)
    cells = grid(kind=kinds, share=shares, seed=range(config.seeds))
    key = jax.random.key(config.seed)
    frames = jax.vmap(partial(jax.random.fold_in, key))(cells["seed"])  # the same at every decay
    condition = np.array([kinds[kind] for kind in cells["kind"]])
    pairs = np.array([len(STRENGTHS) if kind in KINDS else 1 + FOLLOWED.index(kind) for kind in cells["kind"]])
    frame = np.array([KINDS.index(kind) if kind in KINDS else 2 for kind in cells["kind"]])
    given = frame, condition, pairs, cells["share"], frames
    labels = {"kind": cells["kind"], "room": room, "condition": condition, "share": cells["share"]}
    return Batch(each(partial(_scenario, config, room), *given), jax.random.fold_in(key, room), labels)


def _scenario(
    config: Config, room: int, kind: Array, condition: Array, pairs: Array, share: Array, key: Array
) -> Scenario:
    """The first few of four pairs; the decay is `share` of the one from which nothing is left."""
    D, N = config.dim, 2 * config.dim

    def frame(key):
        turn, other = jax.random.split(key)
        digons = jax.random.orthogonal(turn, D) @ antipodal(D)
        random = jax.lax.cond(
            kind == 2, lambda: conditioned_frame(other, D, N, condition), lambda: tight_frame(other, D, N)
        )
        return jnp.where(kind == 0, digons, random)

    X, Y = independent(frame, key)
    target = matching(N, N, PLACES, PLACES, jnp.where(jnp.arange(len(STRENGTHS)) < pairs, jnp.array(STRENGTHS), 0))
    decay = share * jnp.linalg.norm(_pull(Scenario(X, Y, target)), ord=2)
    return Scenario(X, Y, target, head_dim=room, weight_decay=decay)


def _pull(scenario: Scenario) -> Array:
    """M, what training pulls towards, shape (D, D)."""
    query, key = correlations(scenario)
    return jnp.linalg.multi_dot([query, scenario.target, key.T], precision="highest")


def _read(scenario: Scenario, trained: Spectrum) -> dict[str, Array]:
    """Leading values, in units of the largest without decay, and cosines of vectors, predicted, trained, and features.

    `expected`, `seen` and `dual` are those of the k-th vectors with the k-th pair's features on both sides: predicted,
    trained, and predicted without decay.
    """
    free, found = predict(replace(scenario, weight_decay=0.0)), predict(scenario)
    features = scenario.query_features, scenario.key_features
    agreement, undecayed = compare(found, trained, features), compare(free, trained, features)
    kept = min(len(STRENGTHS), scenario.rank)
    alpha, beta = (jnp.trace(frame_operator(F)) / scenario.dim for F in features)
    naive = jnp.maximum(free.values - scenario.weight_decay / (alpha * beta), 0)
    values = {"predicted": found.values, "measured": trained.values, "naive": naive}
    read = {name: x[:kept] / free.values[0] for name, x in values.items()}
    read["cosine"] = jnp.minimum(agreement.left, agreement.right)[:kept]
    both = {
        "expected": (agreement.predicted_left, agreement.predicted_right),
        "seen": (agreement.measured_left, agreement.measured_right),
        "dual": (undecayed.predicted_left, undecayed.predicted_right),
    }
    ranks = jnp.arange(kept)
    read |= {name: jnp.stack([side[ranks, 2 * ranks] for side in sides], axis=1) for name, sides in both.items()}
    missing = len(STRENGTHS) - kept
    padded = {
        name: jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1), constant_values=jnp.nan) for name, x in read.items()
    }
    return padded | {"decay": scenario.weight_decay}


def _row(part: xr.Dataset) -> dict[str, Any]:
    """One line of the table: one kind of features, condition number and head dimension, all decays."""
    kind, alone = part.kind.values[0], part.kind.values[0] == ALONE
    error, naive = (np.abs(part.measured - formula).max().item() for formula in (part.predicted, part.naive))
    cosine = part.cosine.where(part.predicted > VALUE_TOLERANCE).min().item()
    seen, foreseen = ((values > ZERO).sum("mode") for values in (part.measured, part.predicted))
    beyond = part.share >= 1
    vanished = ((seen == 0) == beyond).where(beyond | (foreseen > 0), True).all().item()
    turned, dual = (np.abs(part[name] - part.seen).sel(mode=0).mean().item() for name in ("expected", "dual"))
    return {
        "features": kind,
        "condition number": 1.0 if kind in KINDS[:2] else float(part.condition[0]),
        "H": int(part.room[0]),
        "heads": part.sizes["head"],
        "prediction": "T8" if kind in KINDS[:2] else "T24",
        "largest |error| / sigma*_1": error,
        "of the tight formula": naive,
        "lowest |cos|": cosine,
        "chance": part.attrs["chance"],
        "survivors right": (seen == foreseen).mean().item(),
        "nothing left from |M|_2": vanished,
        "mean |error| of cos(u, x)": turned if alone else None,
        "of the dual's": dual if alone else None,
        "holds": vanished and error <= VALUE_TOLERANCE and cosine >= COSINE and (turned <= TURN or not alone),
    }


def _summary(results: xr.Dataset, rows: list[dict[str, Any]]) -> dict[str, Any]:
    alone = [row for row in rows if row["features"] == ALONE]
    return {
        "heads": results.sizes["head"],
        "max_error_value_over_largest": max(row["largest |error| / sigma*_1"] for row in rows),
        "lowest_cosine": min(row["lowest |cos|"] for row in rows),
        "survivors_right_share": float(np.mean([row["survivors right"] for row in rows])),
        "tight_formula_max_error_value": max(row["of the tight formula"] for row in rows),
        "vanishing_point_holds": all(row["nothing left from |M|_2"] for row in rows),
        "turn_mean_error_cosine": max(row["mean |error| of cos(u, x)"] for row in alone),
        "turn_mean_error_cosine_of_the_dual": max(row["of the dual's"] for row in alone),
        "chance_cosine": results.attrs["chance"],
    }


def _exhibit(parts: list[xr.Dataset]) -> Exhibit:
    figure, (axes,) = panels(len(parts), 1, width=3.6, height=3.6)
    for ax, part in zip(axes, parts, strict=True):
        grouped = part[["predicted", "measured", "naive"]].groupby("share")
        mean, deviation = grouped.mean(), grouped.std(ddof=1)
        tight = part.kind.values[0] != KINDS[2]
        for mode, colour in zip(range(len(STRENGTHS)), (COLOURS[0], *COLOURS[2:]), strict=False):
            label = f"predicted ({'T8' if tight else 'T24'})" if mode == 0 else None
            ax.plot(mean.share, mean.predicted.isel(mode=mode), label=label, color=COLOURS[1])
            if not tight:
                label = "tight formula" if mode == 0 else None
                ax.plot(mean.share, mean.naive.isel(mode=mode), label=label, color=GREY, linestyle="--", linewidth=1)
            seen, error = mean.measured.isel(mode=mode), deviation.measured.isel(mode=mode)
            measured(ax, mean.share, seen, error, color=colour, fmt="os^D"[mode], markersize=4)
        ax.axvline(1, ymax=0.72, color=GREY, linestyle=":", label=r"$|M|_2$")
        ax.set(
            xlabel=r"weight decay $g\,/\,|M|_2$",
            ylim=(-0.05, 1.4),
            title=f"{part.kind.values[0]}, H = {int(part.room[0])}",
        )
        ax.set_yticks(np.linspace(0, 1, 6))
        ax.legend(loc="upper right")
    axes[0].set_ylabel(r"$\sigma_k\,/\,\sigma^*_1$")
    return Exhibit(
        figure,
        "Singular values of trained heads (points, standard deviation over frames) against weight decay: on tight "
        "frames straight lines, elsewhere those of the nuclear norm; the tight formula (dashed) fails there.",
    )


def _turn_exhibit(parts: list[xr.Dataset]) -> Exhibit:
    figure, ((ax,),) = panels(width=5.2)
    for part, colour in zip(parts, COLOURS, strict=False):
        first = part[["expected", "seen"]].sel(mode=0).mean("side").groupby("share")
        mean, error = first.mean(), first.std(ddof=1) / np.sqrt(first.count())
        ax.plot(mean.share, mean.expected, color=colour, label=f"condition number {float(part.condition[0]):g}")
        measured(ax, mean.share, mean.seen, error.seen, color=colour, markersize=4)
    chance_line(ax, parts[0].attrs["chance"])
    ax.set(xlabel=r"weight decay $g\,/\,|M|_2$", ylabel="|cos(u, x)| and |cos(v, y)|, mean", ylim=(0, 1.05))
    ax.legend(loc="lower right")
    return Exhibit(
        figure,
        "One matched pair: |cos| of its singular vectors with its features against weight decay, predicted (lines) and "
        "of trained heads (points, standard error over frames): from duals on the left to features on the right.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
