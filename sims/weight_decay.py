"""Weight decay: every singular value is lowered by one threshold, and pairs disappear one after the other.

Four matched pairs of different strengths; L2 decay g on both factors, part of the loss, is swept from nothing to more
than any pair survives. On tight frames theory is exact (T8): vectors stay, and `sigma_k = max(sigma*_k - g/(alpha
beta), 0)`, so pair k disappears at `g = alpha beta sigma*_k`; a narrow head keeps the top of these. On frames that are
not tight no closed form holds, and `predict` refuses to give one: the formula with mean eigenvalues for alpha and beta
is drawn there to show that it fails. One thing holds on every frame: nothing is left from `g = |M|_2` on, where M is
what training pulls towards, since decay of both factors is the nuclear norm of Omega, whose dual norm this is.

Rules, set before the run, for each kind of features: no singular value is off by more than 0.001 sigma*_1, no |cos|
of a surviving predicted vector with its trained one is below 0.999, and heads vanish on the right side of `|M|_2`.
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
from svtheory.reports.plotting import COLOURS, GREY, measured, panels
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

THEOREMS = ("T8",)
KINDS = ("antipodal", "tight", "not tight")
STRENGTHS = (1.0, 0.8, 0.55, 0.3)
VALUE_TOLERANCE, COSINE, ZERO = 1e-3, 0.999, 1e-3  # in units of sigma*_1


@dataclass(frozen=True)
class Config(Precise):
    """Size of the sweep."""

    dim: Annotated[int, at_least(len(STRENGTHS))] = 8
    """Dimension D; there are N = 2 D features."""
    narrow: Annotated[int, at_least(1)] = 2
    """Head dimension of the narrow heads."""
    condition: Annotated[float, above(1)] = 10.0
    """Condition number of the frames that are not tight."""
    decays: Annotated[int, at_least(3)] = 12
    """How many values of the decay."""
    seeds: Annotated[int, at_least(2)] = 3
    """Random heads for each kind and decay."""
    steps: Annotated[int, at_least(1)] = 300
    """Steps of L-BFGS."""


SCALES = {
    "quick": Config(),
    "paper": Config(dim=16, decays=25, seeds=16, steps=1000),
    "full": Config(dim=64, decays=49, seeds=64, steps=3000),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train and compare every decay, on heads with room for all pairs and on narrow ones."""
    batches = [_heads(config, config.dim, KINDS), _heads(config, config.narrow, KINDS[:1])]
    train = partial(simulate_ensemble, training=Training(steps=config.steps))
    results = sweep(batches, train, _read, checkpoints(folder), ("mode",))
    results = results.assign_attrs(chance=chance_alignment(config.dim))
    groups = dict.fromkeys(zip(results.kind.values, results.room.values, strict=True))
    parts = [results.sel(head=(results.kind == kind) & (results.room == room)) for kind, room in groups]
    rows = [_row(part) for part in parts]
    return Outcome(_summary(results, rows), results, {"weight_decay": _exhibit(parts)}, rows)


def _heads(config: Config, room: int, kinds: tuple[str, ...]) -> Batch:
    """All heads of `room` dimensions; the decay's share is of the one from which nothing is left."""
    shares = np.linspace(0, 1.1, config.decays)
    cells = grid(kind=range(len(kinds)), share=shares, seed=range(config.seeds))
    key = jax.random.key(config.seed)
    frames = jax.vmap(partial(jax.random.fold_in, key))(cells["seed"])  # the same at every decay
    scenarios = each(partial(_scenario, config, room), cells["kind"], cells["share"], frames)
    labels = {"kind": np.array(kinds)[cells["kind"]], "room": room, "share": cells["share"]}
    return Batch(scenarios, jax.random.fold_in(key, room), labels)


def _scenario(config: Config, room: int, kind: Array, share: Array, key: Array) -> Scenario:
    """Four pairs; the decay is `share` of the one from which nothing is left."""
    D, N = config.dim, 2 * config.dim

    def frame(key):
        turn, other = jax.random.split(key)
        digons = jax.random.orthogonal(turn, D) @ antipodal(D)
        random = jax.lax.cond(
            kind == 2, lambda: conditioned_frame(other, D, N, config.condition), lambda: tight_frame(other, D, N)
        )
        return jnp.where(kind == 0, digons, random)

    X, Y = map(frame, jax.random.split(key))
    places = [2 * k for k in range(len(STRENGTHS))]
    target = matching(N, N, places, places, jnp.array(STRENGTHS))
    decay = share * jnp.linalg.norm(_pull(Scenario(X, Y, target)), ord=2)
    return Scenario(X, Y, target, head_dim=room, weight_decay=decay)


def _pull(scenario: Scenario) -> Array:
    """M, what training pulls towards, shape (D, D)."""
    query, key = correlations(scenario)
    return jnp.linalg.multi_dot([query, scenario.target, key.T], precision="highest")


def _read(scenario: Scenario, trained: Spectrum) -> dict[str, Array]:
    """Leading singular values, in units of the largest without decay, and cosines with the undecayed vectors."""
    free = predict(replace(scenario, weight_decay=0.0))
    agreement = compare(free, trained)
    kept = min(len(STRENGTHS), scenario.rank)
    features = scenario.query_features, scenario.key_features
    alpha, beta = (jnp.trace(frame_operator(F)) / scenario.dim for F in features)
    naive = jnp.maximum(free.values - scenario.weight_decay / (alpha * beta), 0)
    values = {"predicted": predict(scenario).values, "measured": trained.values, "naive": naive}
    pad = jnp.full(len(STRENGTHS) - kept, jnp.nan)
    found = {name: jnp.append(x[:kept] / free.values[0], pad) for name, x in values.items()}
    cosine = jnp.minimum(agreement.left, agreement.right)[:kept]
    return found | {"cosine": jnp.append(cosine, pad), "decay": scenario.weight_decay}


def _row(part: xr.Dataset) -> dict[str, Any]:
    """One line of the table: one kind of features and one head dimension, all decays."""
    refused = bool(np.isnan(part.predicted.sel(head=part.share > 0)).all())
    formula = part.naive if refused else part.predicted
    error = np.abs(part.measured - formula).max().item()
    cosine = part.cosine.where(formula > VALUE_TOLERANCE).min().item()
    seen, foreseen = ((values > ZERO).sum("mode") for values in (part.measured, formula))
    vanished = ((seen == 0) == (part.share >= 1)).all().item()
    exact = error <= VALUE_TOLERANCE and cosine >= COSINE
    return {
        "features": part.kind.values[0],
        "H": int(part.room[0]),
        "heads": part.sizes["head"],
        "prediction": "refused; the tight formula" if refused else "T8",
        "largest |error| / sigma*_1": error,
        "lowest |cos|": cosine,
        "chance": part.attrs["chance"],
        "survivors right": (seen == foreseen).mean().item(),
        "nothing left from |M|_2": vanished,
        "holds": vanished and (refused or exact),
    }


def _summary(results: xr.Dataset, rows: list[dict[str, Any]]) -> dict[str, Any]:
    exact = [row for row in rows if row["prediction"] == "T8"]
    (refused,) = (row for row in rows if row["prediction"] != "T8")
    return {
        "heads": results.sizes["head"],
        "max_error_value_over_largest": max(row["largest |error| / sigma*_1"] for row in exact),
        "lowest_cosine": min(row["lowest |cos|"] for row in exact),
        "survivors_right_share": float(np.mean([row["survivors right"] for row in exact])),
        "not_tight_max_error_value_over_largest": refused["largest |error| / sigma*_1"],
        "not_tight_lowest_cosine": refused["lowest |cos|"],
        "vanishing_point_holds": all(row["nothing left from |M|_2"] for row in rows),
        "chance_cosine": results.attrs["chance"],
    }


def _exhibit(parts: list[xr.Dataset]) -> Exhibit:
    figure, (axes,) = panels(len(parts), 1, width=3.6, height=3.6)
    for ax, part in zip(axes, parts, strict=True):
        grouped = part[["predicted", "measured", "naive"]].groupby("share")
        mean, deviation = grouped.mean(), grouped.std(ddof=1)
        refused = part.kind.values[0] == KINDS[2]
        line = {"color": GREY, "linestyle": "--"} if refused else {"color": COLOURS[1]}
        label = "tight formula (predict refuses)" if refused else "predicted (T8)"
        for mode, colour in zip(range(len(STRENGTHS)), (COLOURS[0], *COLOURS[2:]), strict=False):
            curve = (mean.naive if refused else mean.predicted).isel(mode=mode)
            ax.plot(mean.share, curve, label=label if mode == 0 else None, **line)
            seen, error = mean.measured.isel(mode=mode), deviation.measured.isel(mode=mode)
            measured(ax, mean.share, seen, error, color=colour, fmt="os^D"[mode], markersize=4)
        ax.axvline(1, color=GREY, linestyle=":", label=r"$|M|_2$")
        ax.set(xlabel=r"weight decay $g\,/\,|M|_2$", title=f"{part.kind.values[0]}, H = {int(part.room[0])}")
        ax.legend()
    axes[0].set_ylabel(r"$\sigma_k\,/\,\sigma^*_1$")
    return Exhibit(
        figure,
        "Singular values of trained heads (points, standard deviation over frames) against weight decay: on tight "
        "frames straight lines, as predicted; elsewhere none is predicted, and the tight formula (dashed) fails.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
