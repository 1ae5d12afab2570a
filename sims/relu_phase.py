"""Phases of a matched pair in a ReLU autoencoder: where they cross, and how the crossings move as features grow rare.

The linear model (T10, `phase`) counts all interference; a ReLU lets none of it through below zero, and has other states
(T19): up to N = 2D - 2 a matched pair is orthogonalised for nothing, at N = 2D it leaves its antipodes at a coupling g
well below one, where the linear law says g_c = 2(N - D)/(D - 2). That is a limit of rare features, so toys are trained
at falling probabilities p from near the lowest predicted state of each kind and from random features. A trained toy is
a line in the coupling, its loss there exact for the head and over one common sample of tokens for the reconstruction;
the least of all lines of one p is the least loss over starts at every coupling, and where its state changes is a
threshold, seen as T19's are, on couplings 1 % apart. Errors are those of several samples of tokens. With N p features
on a token the limit asks for N p well below 1: thresholds are carried to p = 0 by the parabola through the three
smallest p, those from p = 0.3, 0.1 and 0.03 are shown beside.

Rules, set before the run. A pair is superposed where s_0 and s_1 are at least 1.9, orthogonalised where both are at
most 1.1, one-sided where one is. N = 2D: both thresholds, where superposed ends and from where all is orthogonalised,
are at p = 0 within 15 % of T19's; the least p shows, over at least a tenth of its own size in g, the states that T19
does, and no others. N = 2D - 2: the pair is orthogonalised at every coupling from 2p on, at every p.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator

from sims.lab.command import command
from sims.lab.envelopes import CHANGES, carried, lowest_line
from sims.lab.rules import standard_error
from sims.lab.sizes import Precise
from sims.lab.sweep import each, grid, labelled
from sims.models.tied import lines, train_tied
from svtheory import orthogonalization_threshold
from svtheory.checks import InputError
from svtheory.geometry import STATES, ReluStates, lowest_arrangement, relu_states, relu_thresholds
from svtheory.geometry.relu_minima import crowding
from svtheory.reports.options import Limit, at_least
from svtheory.reports.plotting import COLOURS, measured, panels
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

THEOREMS = ("T10", "T19")
WITHIN, VISIBLE, FROM = 0.15, 0.1, 2.0  # of T19's threshold; of a state's g; of p
BEYOND = 30.0, 4.0  # the end of superposition, at N = 2D, or the largest p, couplings go as far as this
SOME = 4  # of the couplings at N = 2D - 2 every fourth is searched
AWAY = 0.02  # of a start from its state, each coordinate
SAMPLES = 8  # of tokens
RARE = 0.3, 0.1, 0.03, 0.01, 0.003
COARSE = RARE[:3]
FRACTION = Limit(" above 0 and below 1", lambda p: 0 < p < 1)
COLUMNS = "features", "T19", "p -> 0", "s.e.", "off", "coarse p -> 0", "linear", "states", "holds"


@dataclass(frozen=True)
class Config(Precise):
    """Size of the experiment."""

    ARRAYS = ("couplings starts dims dims", "searches dims dims", "batch dims 6", "tokens dims 6 cores")

    dims: Annotated[tuple[int, ...], at_least(4)] = (4,)
    """Dimensions D; there are 2D features, and 2D - 2."""
    probabilities: Annotated[tuple[float, ...], FRACTION] = RARE[1:]
    """Probabilities that a feature is present, at least three."""
    couplings: Annotated[int, at_least(3)] = 12
    """Couplings g at which toys are trained, evenly spaced in their logarithm."""
    searches: Annotated[int, at_least(1)] = 6
    """Random starts of each search for a state of T19."""
    starts: Annotated[int, at_least(1)] = 1
    """Toys from random features at each coupling, beside one from near each state."""
    steps: Annotated[int, at_least(1)] = 500
    """Steps of Adam."""
    batch: Annotated[int, at_least(1)] = 128
    """Tokens a step."""
    tokens: Annotated[int, at_least(1)] = 8192
    """Tokens of each sample on which trained toys are compared."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the toys."""

    def __post_init__(self):
        super().__post_init__()
        if len(set(self.probabilities)) < 3:
            raise InputError(f"--probabilities must be at least three, got {self.probabilities}")


SCALES = {
    "quick": Config(),
    "paper": Config(
        dims=(4, 6, 10),
        probabilities=RARE,
        couplings=48,
        searches=48,
        starts=2,
        steps=1500,
        batch=256,
        tokens=65536,
    ),
    "full": Config(
        dims=(4, 6, 10, 16),
        probabilities=RARE,
        couplings=96,
        searches=200,
        starts=16,
        steps=6000,
        batch=1024,
        tokens=65536,
    ),
}


def run(config: Config, folder: Path) -> Outcome:
    """Search the states of T19, train from near them, and compare where the lowest changes."""
    tables = []
    for N, D in [(2 * D, D) for D in config.dims] + [(2 * D - 2, D) for D in config.dims]:
        at, known = states(config, N, D)
        toys = trained(config, at, lowest_of_each(known, at), checkpoints(folder) / f"{N}-{D}")
        tables.append(lowest(config, at, known, toys).assign_attrs(N=N, D=D, toys=toys.sizes["toy"]))
    rows = [row for table in tables for row in (_rows(table) if table.N == 2 * table.D else [_free_row(table)])]
    columns = [*COLUMNS[:2], *map(_column, sorted(config.probabilities)[::-1]), *COLUMNS[2:]]
    rows = [{column: row.get(column, "" if column == "states" else None) for column in columns} for row in rows]
    named = [table.rename({name: f"N_{table.N}_D_{table.D}_{name}" for name in table.variables}) for table in tables]
    results = xr.merge(named).drop_attrs()
    return Outcome(_summary(tables, rows), results, {"relu_phase": _exhibit(tables)}, rows)


def states(config: Config, N: int, D: int) -> tuple[np.ndarray, list[ReluStates]]:
    """Couplings at which toys are trained, and states of T19: for N = 2D those at its thresholds, else those there."""
    if N == 2 * D:
        leaves, _, known = relu_thresholds(N, D, config.searches, config.seed)
        return np.geomspace(leaves / 2, BEYOND[0] * leaves, config.couplings), known
    at = np.geomspace(min(config.probabilities) / 2, BEYOND[1] * max(config.probabilities), config.couplings)
    return at, [relu_states(N, D, g, config.searches, config.seed) for g in at[::SOME]]


def lowest_of_each(known: list[ReluStates], at: np.ndarray) -> np.ndarray:
    """Features of the lowest state of each kind K that is known, at each coupling (G,), shape (G, K, D, N)."""
    features = np.stack([some.features for some in known])
    lowest = np.stack([some.energy(at) for some in known]).argmin(axis=0)
    return features[lowest, np.arange(features.shape[1])]


def trained(config: Config, at: np.ndarray, near: np.ndarray, checkpoint: Path) -> xr.Dataset:
    """Toys of each p and coupling (G,), from near each of the states (G, K, D, N) there and from random features."""
    kinds = near.shape[1]
    labels = grid(probability=config.probabilities, coupling=at, start=range(kinds + config.starts))
    start = np.random.default_rng(config.seed).normal(size=(labels["start"].size, *near.shape[2:]))
    chosen = near[np.searchsorted(at, labels["coupling"]), np.minimum(labels["start"], kinds - 1)]
    start = np.where((labels["start"] < kinds)[:, None, None], chosen + AWAY * start, start)
    p, key = jnp.asarray(labels["probability"], float), jax.random.key(config.seed)
    given = {"key": key, "batch": config.batch, "steps": config.steps, "checkpoint": checkpoint}
    W, b = train_tied(jnp.asarray(start, float), jnp.asarray(labels["coupling"], float), p, **given)
    samples = jax.random.split(jax.random.fold_in(key, 1), SAMPLES)
    reconstruction, leakage = each(partial(lines, samples, config.tokens), W, b, p)
    found = {"reconstruction": reconstruction, "leakage": leakage}
    table = labelled(found, labels | {"random": labels["start"] >= kinds}, "toy", "sample")
    return table.assign(s=(("toy", "side"), crowding(np.asarray(W))))


def lowest(config: Config, at: np.ndarray, known: list[ReluStates], toys: xr.Dataset) -> xr.Dataset:
    """The lowest state at couplings 1 % apart, and thresholds on each sample of tokens: T19's at p = 0, then toys'."""
    fine = np.geomspace(at[0], at[-1], round(100 * np.log(at[-1] / at[0])))
    s = np.concatenate([some.crowding for some in known])
    reconstruction = np.concatenate([some.reconstruction for some in known])
    tables = [lowest_line(fine, np.tile(reconstruction[:, None], SAMPLES), s.prod(axis=1) - 1, s)]
    for p in config.probabilities:
        own = toys.sel(toy=toys.probability == p)
        every, random = (
            lowest_line(fine, part.reconstruction.values, part.leakage.values, part.s.values)
            for part in (own, own.sel(toy=own.random))
        )
        tables.append(every.assign(random=random.energy))
    return xr.concat(tables, xr.Variable("probability", [0.0, *config.probabilities]))


def _rows(table: xr.Dataset) -> Iterator[dict[str, Any]]:
    """Lines of the table, N = 2D: both thresholds, and the states that the rarest features show."""
    told, p = table.sel(probability=0), sorted(table.probability.values[1:])
    size = f"2D, D = {table.D}"
    for k, name in enumerate(CHANGES):
        at_zero, sampled = carried(table, "threshold", p[:3])[k], carried(table, "sampled", p[:3])[:, k]
        off = at_zero / told.threshold[k].item() - 1
        yield {
            "features": f"{size}: {name}",
            "T19": told.threshold[k].item(),
            **{_column(q): table.threshold.sel(probability=q)[k].item() for q in p},
            "p -> 0": at_zero,
            "s.e.": standard_error(sampled),
            "off": off,
            "coarse p -> 0": carried(table, "threshold", COARSE)[k] if set(COARSE) <= set(p) else None,
            "linear": orthogonalization_threshold(table.N, table.D) if k else None,
            "holds": bool(abs(off) <= WITHIN),
        }
    predicted, seen = (_shown(table.sel(probability=q)) for q in (0, p[0]))
    states = f"{predicted}; at p = {p[0]:g} {seen}"
    yield {"features": f"{size}: states", "states": states, "holds": predicted == seen}


def _free_row(table: xr.Dataset) -> dict[str, Any]:
    """One line of the table, N = 2D - 2: up to which coupling the pair is not orthogonalised, in units of p."""
    p = table.probability[1:]
    alone = (table.state == len(STATES) - 1).sel(probability=p)
    last = table.coupling.where(~alone, 0).max("coupling") / p
    return {
        "features": f"2D - 2, D = {table.D}: not yet so at g/p",
        "T19": 0.0,
        **{_column(q): last.sel(probability=q).item() for q in p.values},
        "holds": bool((last < FROM).all()),
    }


def _column(p: float) -> str:
    return f"p = {p:g}"


def _shown(table: xr.Dataset) -> str:
    """The states of one p in the order of g, three letters each, without those over less than a tenth of their g."""
    runs = [list(run) for _, run in groupby(range(table.sizes["coupling"]), key=lambda i: table.state[i].item())]
    ends = [(run[0], table.coupling[run[-1]].item() / table.coupling[run[0]].item()) for run in runs]
    return ", ".join(STATES[int(table.state[first])][:3] for first, ratio in ends if ratio >= 1 + VISIBLE)


def _summary(tables: list[xr.Dataset], rows: list[dict[str, Any]]) -> dict[str, Any]:
    off = [abs(row["off"]) for row in rows if row["off"] is not None]
    excess = [(table.random / table.energy - 1).sel(probability=table.probability > 0) for table in tables]
    return {
        "toys": sum(table.toys for table in tables),
        "largest_threshold_off_share": float(np.max(off)),
        "median_excess_of_random_starts_share": float(np.median(np.concatenate([x.values.ravel() for x in excess]))),
    }


def _exhibit(tables: list[xr.Dataset]) -> Exhibit:
    full = [table for table in tables if table.N == 2 * table.D]
    figure, axes = panels(len(full), 2, width=4.6, height=3.6)
    for (above, below), table in zip(axes.T, full, strict=True):
        _draw_crowding(above, table)
        _draw_thresholds(below, table)
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(0.25, 0.93))
    return Exhibit(
        figure,
        "2D features. Above, the mean crowding of the pair in the lowest state over the coupling: T19, p = 0 (black), "
        "toys at falling p, and the linear law (T10, dashed). Below, the thresholds of the toys over p (points), "
        "carried to p = 0 by a parabola (dotted), and T19's (stars).",
    )


def _draw_crowding(ax: Axes, table: xr.Dataset) -> None:
    g = table.coupling
    for p, colour in zip(np.sort(table.probability.values[1:])[::-1], COLOURS, strict=False):
        mean, every = table.s.sel(probability=p).mean("side"), max(1, g.size // 40)
        measured(ax, g[::every], mean[::every], color=colour, markersize=4, label=f"p = {p:g}")
    ax.plot(g, table.s.sel(probability=0).mean("side"), color="black", label="T19")
    linear = lowest_arrangement(table.N, table.D, jnp.asarray(g.values))[1]
    ax.plot(g, (linear.s_0 + linear.s_1) / 2, color="black", linestyle="--", label="T10, linear")
    ax.set(xscale="log", xlabel="coupling $g$", ylabel="crowding $(s_0 + s_1)/2$", title=f"D = {table.D}")
    _plain_numbers(ax.xaxis)


def _draw_thresholds(ax: Axes, table: xr.Dataset) -> None:
    p = np.sort(table.probability.values[1:])
    fine = np.linspace(0, p[2], 50)
    for k, (name, colour) in enumerate(zip(CHANGES, COLOURS, strict=False)):
        seen = table.threshold.sel(probability=p)[:, k]
        error = table.sampled.sel(probability=p)[:, :, k].std("sample", ddof=1) / np.sqrt(SAMPLES)
        measured(ax, p, seen, error, color=colour, label=name)
        through = np.polynomial.Polynomial.fit(p[:3], seen[:3], 2) if np.isfinite(seen[:3]).all() else None
        if through:
            ax.plot(fine, through(fine), color=colour, linestyle=":")
        ax.plot(0, table.threshold.sel(probability=0)[k], "*", color=colour, markersize=11)
    ax.axhline(orthogonalization_threshold(table.N, table.D), color="black", linestyle="--", label="$g_c$, linear")
    ax.set_xscale("symlog", linthresh=p[0])
    ax.set(yscale="log", xlim=(-p[0] / 4, 1.3 * p[-1]), xlabel="probability of a feature $p$", ylabel="coupling $g$")
    _plain_numbers(ax.yaxis)


def _plain_numbers(axis: Axis) -> None:
    """1, 2 and 5 in every decade, as they are."""
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}")


main = command(run, SCALES)

if __name__ == "__main__":
    main()
