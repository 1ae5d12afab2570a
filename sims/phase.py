"""Phases of a matched pair: superposed, collapsed, one-sided or orthogonalised, by coupling g and crowding N/D (T10).

Unit features descend the energy that reconstruction and the leakage of a head share, from random starts, over the plane
of g and N/D. For the linear-interference model, E = FP + g s_0 s_1, theory lists every stationary arrangement and says
which is lowest; descent ends in a listed one, not always in the lowest. Boundaries: g_c, from which the orthogonalised
arrangement is stable, and g*, where its energy crosses that of the collapsed one. If the strength of the head adapts,
leakage `g (1 - 1/(s_0 s_1))`, g_c is the same but the transition is first order: from g_c to g_x at least, where a
tight frame still has less energy, the orthogonalised arrangement is stable and not the lowest. The paper's ReLU
autoencoder with a head of fixed strength t that follows its features has the same energy, at `g = lambda t^2 E[f^2]/2`,
but for its nonlinearity and the mean of its activations: it is measured against the linear prediction, and differs, as
interference below zero costs its reconstruction nothing.

Rules, set before the run: an arrangement is a listed one when s_0, s_1 and |w_0.w_1| are each within 0.02 of its own.
For each N at least 95 % of descents end in a listed one, and none lower than the lowest of theory by more than 1e-3 of
its energy; how often the best of the starts is the lowest is reported (the first rule asked that of 95 % of couplings,
which four starts missed for two of six N). Adaptive: the orthogonalised start stays at
every g above 1.1 g_c and leaves at every g below 0.9 g_c, and the lowest state found between 1.1 g_c and 0.95 g_x is
not orthogonalised. ReLU: s_0 and s_1 are below 1.1, orthogonalised, in 95 % of models where theory says so and not
elsewhere.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import nnx
from jax import Array
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from sims.engines.descent import descend
from sims.engines.ensemble import train
from sims.lab.command import command
from sims.models.toy import Toy, activations, losses
from svtheory import (
    BernoulliUniform,
    alignment,
    feature_dimensionality,
    orthogonalization_threshold,
    single_pair,
    tight_frame,
)
from svtheory.checks import InputError, whole
from svtheory.geometry import (
    ARRANGEMENTS,
    adaptive_threshold,
    collapse_threshold,
    frame_potential,
    lowest_arrangement,
    phase_energy,
    stationary_arrangements,
    tegum,
)
from svtheory.geometry.columns import unit_columns
from svtheory.reports.plotting import COLOURS, measured, panels
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

NEAR, ENERGY, SHARE, ALONE = 0.02, 1e-3, 0.95, 1.1
STABLE, LEAVES, BEFORE = 1.1, 0.9, 0.95  # of g_c, of g_c and of g_x
ORDER = "s_0", "s_1", "cosine"  # by which arrangements are told apart
N_KEYS, RATE = 4, 1e-2  # of the ReLU model
PHASE_COLOURS = (COLOURS[2], COLOURS[4], COLOURS[1], COLOURS[5])  # in the order of ARRANGEMENTS


@dataclass(frozen=True)
class Config:
    """Size of the plane."""

    dim: int = 6
    """Dimension D."""
    crowding: tuple[float, ...] = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
    """Features over dimensions, N/D."""
    couplings: int = 8
    """Couplings g, evenly spaced up to 1.25 times the largest threshold."""
    starts: int = 3
    """Random starts at each point of the plane."""
    steps: int = 120
    """Steps of L-BFGS."""
    probabilities: tuple[float, ...] = (0.5, 0.1)
    """Probabilities that a feature of the ReLU model is present; it has N = 2 D features."""
    relu_starts: int = 2
    """Random starts of the ReLU model at each coupling."""
    relu_steps: int = 600
    """Steps of Adam, ReLU model."""
    batch: int = 128
    """Contexts a step, ReLU model."""
    seed: int = 0
    """Random seed."""
    dtype: Literal["float32", "float64"] = "float64"
    """Precision of the whole run."""

    def __post_init__(self):
        whole("dim", self.dim, 4)
        for name, least in (("couplings", 3), ("starts", 2), ("relu_starts", 2)):
            whole(name, getattr(self, name), least)
        for name in ("steps", "relu_steps", "batch"):
            whole(name, getattr(self, name), 1)
        if not self.crowding or min(self.crowding) <= 1:
            raise InputError(f"crowding must be above 1, got {self.crowding}")
        if not self.probabilities or not all(0 < p <= 1 for p in self.probabilities):
            raise InputError(f"probabilities must lie in (0, 1], got {self.probabilities}")

    @property
    def numbers(self) -> list[int]:
        """Numbers of features N."""
        return [round(ratio * self.dim) for ratio in self.crowding]

    @property
    def middle(self) -> int:
        """N of the adaptive and of the ReLU model."""
        return 2 * self.dim


SCALES = {
    "quick": Config(),
    "paper": Config(
        dim=10,
        crowding=(1.2, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0),
        couplings=24,
        starts=16,
        steps=1000,
        probabilities=(0.5, 0.3, 0.1, 0.03),
        relu_starts=6,
        relu_steps=8000,
        batch=512,
    ),
    "full": Config(dim=20, couplings=40, starts=64, steps=3000, relu_starts=64, relu_steps=20_000, batch=1024),
}


def run(config: Config, folder: Path) -> Outcome:
    """Descend everywhere on the plane, with adaptive heads and in the ReLU model; classify and compare."""
    found = descents(config, folder)
    plane = _classified(config, found.sel(member=found.kind == "linear"))
    adaptive = found.sel(member=found.kind != "linear")
    relu = relu_models(config, folder)
    rows = [_plane_row(plane.sel(member=plane.features == n), n, config.dim) for n in config.numbers]
    rows += [_adaptive_row(config, adaptive)]
    rows += [_relu_row(config, relu.sel(member=relu.probability == p), p) for p in config.probabilities]
    results = xr.merge(
        [part.rename({name: f"{key}_{name}" for name in [*part.variables, *part.dims]})
         for key, part in (("plane", plane), ("adaptive", adaptive), ("relu", relu))]
    )  # fmt: skip
    return Outcome(_summary(plane, rows), results, {"phase": _exhibit(config, plane, adaptive, relu)}, rows)


def energy(weights: Array, present: Array, coupling: Array, adaptive: Array) -> Array:
    """`FP + g s_0 s_1`, or `FP + g (1 - 1/(s_0 s_1))` of an adaptive head, of the unit features that are present."""
    W = unit_columns(weights) * present[None, :]
    D = feature_dimensionality(W)  # 1/s of a unit feature
    return jnp.where(adaptive, frame_potential(W) + coupling * (1 - D[0] * D[1]), phase_energy(W, coupling))


def order(W: Array) -> dict[str, Array]:
    """`s_0 <= s_1` and `|w_0 . w_1|` of unit features (D, N)."""
    s = jnp.sort(1 / feature_dimensionality(W)[:2])
    return {"s_0": s[0], "s_1": s[1], "cosine": alignment(W[:, :1], W[:, 1:2])[0, 0]}


def descents(config: Config, folder: Path) -> xr.Dataset:
    """Order parameters and energies of descents: the plane of the linear model, and adaptive heads from both starts.

    Kinds are "linear", from random starts, and for adaptive heads "orthogonalised", from there disturbed a little, and
    "random".
    """
    D, N = config.dim, config.middle
    cells = [("linear", n, g) for n in config.numbers for g in _couplings(config, n)]
    cells += [(kind, N, g) for kind in ("orthogonalised", "random") for g in _adaptive_couplings(config)]
    kind, features, coupling = (np.repeat(column, config.starts) for column in zip(*cells, strict=True))
    noise, frame, keys = jax.random.split(jax.random.key(config.seed), 3)
    random = jax.random.normal(noise, (kind.size, D, max(*config.numbers, N)))
    alone = jnp.zeros(random.shape[1:]).at[:, :N].set(tegum(jnp.eye(2), tight_frame(frame, D - 2, N - 2)))
    start = jnp.where((kind == "orthogonalised")[:, None, None], alone[None] + 0.01 * random, random)
    present = (jnp.arange(random.shape[-1])[None, :] < features[:, None]).astype(random.dtype)
    given = present, jnp.asarray(coupling), jnp.asarray(kind != "linear")
    where, label = checkpoints(folder) / "descents", f"{kind.size} descents"
    keys = jax.random.split(keys, kind.size)
    weights, _ = descend(energy, start, keys, config.steps, *given, checkpoint=where, label=label)
    found = jax.jit(jax.vmap(lambda V, mask: order(unit_columns(V) * mask[None, :])))(weights, present)
    found["energy"] = jax.jit(jax.vmap(energy))(weights, *given)
    data = {name: ("member", np.asarray(values)) for name, values in found.items()}
    labels = {"kind": kind, "features": features, "coupling": coupling}
    return xr.Dataset(data, {name: ("member", values) for name, values in labels.items()})


def _couplings(config: Config, n: int) -> np.ndarray:
    """Couplings up to beyond both thresholds of n features; at g = 0 there is no pair to speak of."""
    largest = 1.25 * max(orthogonalization_threshold(n, config.dim), collapse_threshold(n, config.dim))
    return np.linspace(0, largest, config.couplings + 1)[1:]


def _classified(config: Config, plane: xr.Dataset) -> xr.Dataset:
    """The listed arrangement nearest to each member, how near it is, and what theory says is lowest there."""
    columns = {"phase": [], "distance": [], "lowest": [], "lowest_energy": []}
    for n in config.numbers:
        part = plane.sel(member=plane.features == n)
        g = jnp.asarray(part.coupling.values)
        listed, (lowest, best) = stationary_arrangements(n, config.dim, g), lowest_arrangement(n, config.dim, g)
        off = np.stack([np.abs(np.asarray(getattr(listed, name)) - part[name].values[None]) for name in ORDER])
        distance = np.where(np.isnan(off).any(axis=0), np.inf, off.max(axis=0))
        for name, values in zip(columns, (distance.argmin(0), distance.min(0), lowest, best.energy), strict=True):
            columns[name].append(np.asarray(values))
    return plane.assign({name: ("member", np.concatenate(parts)) for name, parts in columns.items()})


def _adaptive_couplings(config: Config) -> np.ndarray:
    g_c, g_x = orthogonalization_threshold(config.middle, config.dim), adaptive_threshold(config.middle, config.dim)
    return np.linspace(0.4 * g_c, 2 * g_x, config.couplings)


def relu_models(config: Config, folder: Path) -> xr.Dataset:
    """Order parameters of ReLU autoencoders whose head of fixed strength follows the matched features."""
    D, N = config.dim, config.middle
    couplings = np.geomspace(0.05, 1.25, config.couplings) * orthogonalization_threshold(N, D)
    cells = [(p, g) for p in config.probabilities for g in couplings for _ in range(config.relu_starts)]
    probability, coupling = (np.array(column) for column in zip(*cells, strict=True))
    weight = 2 * coupling / second_moment(probability)  # lambda of target t = 1
    keys = jax.random.split(jax.random.key(config.seed + 2), (2, len(cells)))
    start, update = following(config)
    members = jax.jit(jax.vmap(start))(keys[0])
    given = jnp.asarray(probability), jnp.asarray(weight)
    members, _ = train(
        *(update, members, keys[1], config.relu_steps, *given),
        every=config.relu_steps,
        checkpoint=checkpoints(folder) / "relu",
        label=f"{len(cells)} ReLU models",
    )
    found = jax.jit(jax.vmap(lambda parameters: order(unit_columns(parameters["W"]))))(members[0])
    lowest = lowest_arrangement(N, D, jnp.asarray(coupling))[1]
    found |= {"s_0_predicted": lowest.s_0, "s_1_predicted": lowest.s_1}
    data = {name: ("member", np.asarray(values)) for name, values in found.items()}
    return xr.Dataset(data, {"probability": ("member", probability), "coupling": ("member", coupling)})


def second_moment(probability: np.ndarray) -> np.ndarray:
    """`E f^2` of features present with the given probabilities."""
    return np.array([float(BernoulliUniform(p, 1).second_moment()[0, 0]) for p in probability])


@cache
def following(config: Config) -> tuple[Any, Any]:
    """`(start, update)` for `ensemble.train`: Adam on W, of unit columns, and b; the head is `w_0 w_1^T` throughout."""
    D, N = config.dim, config.middle
    graph = nnx.graphdef(jax.eval_shape(lambda: Toy(N, D, 1, rngs=nnx.Rngs(0))))
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, config.relu_steps))

    def start(key):
        parameters = {"W": jax.random.normal(key, (D, N)), "b": jnp.zeros(N)}
        return parameters, optimizer.init(parameters)

    def loss(parameters, f, weight):
        W = unit_columns(parameters["W"])
        toy = nnx.merge(graph, {"W": W, "b": parameters["b"], "W_Q": W[:, 0][None], "W_K": W[:, 1][None]})
        reconstruction, attention = losses(toy, f, single_pair(N, N, 0, 1), "square")
        return reconstruction + weight * attention

    def update(member, key, probability, weight):
        parameters, state = member
        f = activations(BernoulliUniform(probability, N), key, N_KEYS, config.batch)
        value, gradient = jax.value_and_grad(loss)(parameters, f, weight)
        change, state = optimizer.update(gradient, state)
        return (optax.apply_updates(parameters, change), state), {"loss": value}

    return start, update


def _plane_row(part: xr.Dataset, n: int, dim: int) -> dict[str, Any]:
    """One line of the table: one N of the linear model, all couplings."""
    best = _best(part)
    found = np.abs(best.energy - best.lowest_energy) <= ENERGY * best.lowest_energy
    listed = part.distance <= NEAR
    lowest = (listed & (part.phase == part.lowest)).mean().item()
    none_lower = (part.energy >= part.lowest_energy * (1 - ENERGY)).all()
    holds = listed.mean() >= SHARE and none_lower
    return {
        "model": f"linear, N/D = {n / dim:.3g}",
        "g_c": orthogonalization_threshold(n, dim),
        "g*": collapse_threshold(n, dim),
        "descents": part.sizes["member"],
        "in a listed phase": listed.mean().item(),
        "in the lowest": lowest,
        "s.e.": np.sqrt(lowest * (1 - lowest) / part.sizes["member"]),
        "chance": 1 / len(ARRANGEMENTS),
        "best start is lowest": found.mean().item(),
        "found": ", ".join(name for k, name in enumerate(ARRANGEMENTS) if (best.phase == k).any()),
        "verdict": "holds" if holds else "fails",
    }


def _best(part: xr.Dataset) -> xr.Dataset:
    """The member of least energy at each coupling."""
    return part.isel(member=[int(np.argmin(g.energy.values)) + first for first, g in _runs(part)])


def _runs(part: xr.Dataset) -> list[tuple[int, xr.Dataset]]:
    """The members of each coupling, which lie side by side, and where they begin."""
    edges = np.flatnonzero(np.append(True, np.diff(part.coupling) != 0))
    ends = [*edges[1:], part.sizes["member"]]
    return [(int(a), part.isel(member=slice(a, b))) for a, b in zip(edges, ends, strict=True)]


def _adaptive_row(config: Config, adaptive: xr.Dataset) -> dict[str, Any]:
    """One line of the table: where an adaptive head holds its features orthogonal."""
    g_c, g_x = orthogonalization_threshold(config.middle, config.dim), adaptive_threshold(config.middle, config.dim)
    alone = (adaptive.s_1 <= 1 + NEAR) & (adaptive.cosine <= NEAR)
    disturbed = adaptive.kind == "orthogonalised"
    stays = alone[disturbed & (adaptive.coupling >= STABLE * g_c)]
    leaves = ~alone[disturbed & (adaptive.coupling <= LEAVES * g_c)]
    best = _best(adaptive.sortby("coupling"))
    between = (best.coupling >= STABLE * g_c) & (best.coupling <= BEFORE * g_x)
    crowded = best.s_1[between] > 1 + NEAR
    told = np.concatenate([stays.values, leaves.values])
    return {
        "model": f"adaptive head, N/D = {config.middle / config.dim:.3g}",
        "g_c": g_c,
        "g*": g_x,
        "descents": adaptive.sizes["member"],
        "in a listed phase": None,
        "in the lowest": told.mean().item(),
        "s.e.": np.sqrt(told.mean() * (1 - told.mean()) / told.size),
        "chance": 0.5,
        "best start is lowest": crowded.mean().item() if crowded.size else None,
        "found": "stable but not lowest from g_c to g_x (here for g*)",
        "verdict": "holds" if told.all() and crowded.all() else "fails",
    }


def _relu_row(config: Config, part: xr.Dataset, probability: float) -> dict[str, Any]:
    """One line of the table: at which couplings the ReLU model is orthogonalised, as against the linear one."""
    g_c = orthogonalization_threshold(config.middle, config.dim)
    alone, expected = part.s_1 <= ALONE, part.coupling >= g_c
    right = (alone == expected).mean().item()
    onset = part.coupling.where(alone).min().item()
    return {
        "model": f"ReLU, p = {probability:g}, N/D = {config.middle / config.dim:.3g}",
        "g_c": g_c,
        "g*": collapse_threshold(config.middle, config.dim),
        "descents": part.sizes["member"],
        "in a listed phase": None,
        "in the lowest": right,
        "s.e.": np.sqrt(right * (1 - right) / part.sizes["member"]),
        "chance": 0.5,
        "best start is lowest": None,
        "found": f"orthogonalised from g = {onset:.3g}" if np.isfinite(onset) else "never orthogonalised",
        "verdict": "holds" if right >= SHARE else "fails",
    }


def _summary(plane: xr.Dataset, rows: list[dict[str, Any]]) -> dict[str, Any]:
    linear = [row for row in rows if row["model"].startswith("linear")]
    listed = plane.distance <= NEAR
    summary = {
        "descents": int(sum(row["descents"] for row in rows)),
        "linear_in_a_listed_phase_share": listed.mean().item(),
        "linear_in_the_lowest_phase_share": (listed & (plane.phase == plane.lowest)).mean().item(),
        "linear_best_start_is_lowest_share": float(np.mean([row["best start is lowest"] for row in linear])),
        "chance_share": 1 / len(ARRANGEMENTS),
        "linear_rows": len(linear),
        "linear_rows_that_hold": sum(row["verdict"] == "holds" for row in linear),
    }
    for row in rows[len(linear) :]:
        name = row["model"].partition(", N/D")[0].replace(" = ", "_").replace(", ", "_").replace(" ", "_")
        summary[f"{name}_right_share"] = row["in the lowest"]
        summary[f"{name}_holds"] = row["verdict"] == "holds"
    return summary


def _exhibit(config: Config, plane: xr.Dataset, adaptive: xr.Dataset, relu: xr.Dataset) -> Exhibit:
    figure, axes = panels(2, 2, width=5.2, height=4.0)
    _draw_plane(axes[0, 0], config, plane)
    _draw_cut(axes[0, 1], config, plane)
    _draw_adaptive(axes[1, 0], config, adaptive)
    _draw_relu(axes[1, 1], config, relu)
    return Exhibit(
        figure,
        "Above, the linear model: the lowest arrangement predicted (shaded) and found (points, best start) over "
        "coupling and N/D, and the crowding s_0, s_1 along one cut. Below, where it is not the same: adaptive heads, "
        "whose transition is first order, and the ReLU model against the linear prediction (lines).",
    )


def _draw_plane(ax: Axes, config: Config, plane: xr.Dataset) -> None:
    """Predicted and found phases; couplings in units of g_c."""
    numbers = np.arange(config.dim + 1, max(config.numbers) + config.dim // 2)
    scale = np.array([orthogonalization_threshold(int(n), config.dim) for n in numbers])
    crossed = np.array([collapse_threshold(int(n), config.dim) for n in numbers]) / scale
    ratio = np.linspace(0.02, 1.25 * max(1, crossed.max()), 120)
    columns = zip(numbers.tolist(), scale, strict=True)
    phases = np.stack([lowest_arrangement(n, config.dim, jnp.asarray(ratio * g))[0] for n, g in columns])
    style: dict[str, Any] = {"cmap": ListedColormap(PHASE_COLOURS), "vmin": -0.5, "vmax": len(ARRANGEMENTS) - 0.5}
    ax.pcolormesh(ratio, numbers / config.dim, phases, alpha=0.3, shading="nearest", rasterized=True, **style)
    ax.plot(crossed[crossed > 0], numbers[crossed > 0] / config.dim, color="black", linestyle="--", label=r"$g^*$")
    ax.axvline(1, color="black", label=r"$g_c$")
    for n in config.numbers:
        best = _best(plane.sel(member=plane.features == n))
        x = best.coupling / orthogonalization_threshold(n, config.dim)
        ax.scatter(x, np.full(x.size, n / config.dim), c=best.phase, edgecolors="black", linewidths=0.5, s=32, **style)
    for name, colour in zip(ARRANGEMENTS, PHASE_COLOURS, strict=True):
        ax.plot([], [], "o", color=colour, markeredgecolor="black", label=name)
    ax.set(xlim=(0, ratio[-1]), title="linear model, lowest of the descents")
    ax.set(xlabel=r"coupling $g / g_c$", ylabel="features per dimension N/D")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)


def _draw_cut(ax: Axes, config: Config, plane: xr.Dataset) -> None:
    """`s_0` and `s_1` of every descent at the most crowded N on all listed arrangements."""
    n = max(config.numbers)
    part = plane.sel(member=plane.features == n)
    g_c = orthogonalization_threshold(n, config.dim)
    fine = jnp.linspace(part.coupling.min().item(), part.coupling.max().item(), 120)
    listed = stationary_arrangements(n, config.dim, fine)
    for k, (name, colour) in enumerate(zip(ARRANGEMENTS, PHASE_COLOURS, strict=True)):
        for s in (listed.s_0, listed.s_1):
            ax.plot(fine / g_c, s[k], color=colour, label=name if s is listed.s_1 else None)
    for s, shape in ((part.s_0, "o"), (part.s_1, "^")):
        measured(ax, part.coupling / g_c, s, fmt=shape, color=COLOURS[0], alpha=0.4, markersize=4)
    ax.set(xlabel=r"coupling $g / g_c$", ylabel=r"crowding $s_0$ (dots), $s_1$ (triangles)")
    ax.set(title=f"linear model, N/D = {n / config.dim:.3g}, every descent")
    ax.legend(fontsize=8)


def _draw_adaptive(ax: Axes, config: Config, adaptive: xr.Dataset) -> None:
    """`s_1` of descents from both starts."""
    g_c, g_x = orthogonalization_threshold(config.middle, config.dim), adaptive_threshold(config.middle, config.dim)
    for kind, colour, shape, fill in (("random", COLOURS[0], "o", "full"), ("orthogonalised", COLOURS[2], "s", "none")):
        part = adaptive.sel(member=adaptive.kind == kind)
        grouped = part.s_1.groupby(part.coupling)
        mean, deviation = grouped.mean(), grouped.std(ddof=1)
        style = {"color": colour, "fmt": shape, "fillstyle": fill, "label": f"from {kind} starts"}
        measured(ax, mean.coupling / g_c, mean, deviation, **style)
    ax.axvline(1, color=COLOURS[1], label=r"$g_c$, stable from here")
    ax.axvline(g_x / g_c, color=COLOURS[1], linestyle="--", label=r"$g_x$, not lowest before")
    ax.set(xlabel=r"coupling $g / g_c$", ylabel=r"crowding $s_1$", title="adaptive head")
    ax.legend(fontsize=8)


def _draw_relu(ax: Axes, config: Config, relu: xr.Dataset) -> None:
    """Mean `s_1` of the ReLU model over its starts, and the lowest arrangement of the linear one."""
    g_c = orthogonalization_threshold(config.middle, config.dim)
    fine = jnp.linspace(relu.coupling.min().item(), relu.coupling.max().item(), 120)
    ax.plot(
        fine / g_c, lowest_arrangement(config.middle, config.dim, fine)[1].s_1, color=COLOURS[1], label="linear, T10"
    )
    for p, colour, shape in zip(config.probabilities, (COLOURS[0], *COLOURS[2:]), "os^D", strict=False):
        part = relu.sel(member=relu.probability == p)
        grouped = part.s_1.groupby(part.coupling)
        mean, deviation = grouped.mean(), grouped.std(ddof=1)
        measured(ax, mean.coupling / g_c, mean, deviation, color=colour, fmt=shape, label=f"ReLU, p = {p:g}")
    ax.set(xlabel=r"coupling $g / g_c$", ylabel=r"crowding $s_1$", title="ReLU model")
    ax.legend(fontsize=8)


main = command(run, SCALES)

if __name__ == "__main__":
    main()
