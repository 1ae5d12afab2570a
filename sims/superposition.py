"""Superposition (the paper's Fig 1): the geometry of features, with and without a head that matches two of them.

Without a head an autoencoder spreads its features evenly, in digons, triangles, pentagons and other polytopes
(Elhage et al. 2022). With a head that matches feature 0 with feature 1, those two leave superposition, and the others
share the D - 2 dimensions that are left (T10). Geometry tells dimensionality (T2): a feature in a regular polytope of n
vertices in r dimensions has D_i = r/n, and the singular vector of a head that reads it is the feature itself.

Behind a ReLU the pair leaves for nothing where N <= 2 D - 2 (T19): the others are digons, two a dimension. The quick
scale has the largest such N. At N = 2 D, 18 others in 8 dimensions are in no regular polytopes: at p = 0.1 they missed
the first rule there (0.025), at p = 0.03 the second, for 2500 steps were too few.

Rules, set before the run: mean |D_i - r/n| at most 0.02 over the features in named polytopes, and median |cos| of these
with their duals at least 0.999; dimensionalities add up to D within 10 %; with the head, the median dimensionality of
features 0 and 1 is at least 0.99, and those of the others add up to D - 2 within 10 %.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sims.lab.command import command
from sims.lab.rules import Rule, row
from sims.lab.sweep import each, grid
from sims.models.toys import ToyConfig, problems, train_toys
from svtheory import alignment, dual_frame, feature_dimensionality, polytopes, single_pair
from svtheory.geometry import polytope_name
from svtheory.geometry.columns import unit_columns
from svtheory.geometry.shapes import NAMES
from svtheory.reports.options import PROBABILITY, above
from svtheory.reports.plotting import COLOURS, GREY, measured, panels
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

THEOREMS = ("T2", "T10", "T19")
TOLERANCE = 0.02
WHOLE = Rule("mean", "within 10 % of", 1)
KINDS = "no head", "head"
FAINT = 0.1  # features shorter than this share of the longest are absent


@dataclass(frozen=True)
class Config(ToyConfig):
    """Options of the experiment."""

    coupling: float = 2.0
    """Weight lambda of the attention loss, times p."""
    strength: Annotated[float, above(0)] = 20.0
    """Target logit of the matched pair."""
    probabilities: Annotated[tuple[float, ...], PROBABILITY] = (0.02, 0.05, 0.1, 0.3)
    """Probabilities p that a feature is present; each is trained with a head and without."""


PAPER = Config(members=6, n_features=60, dim=20, head_dim=20)
SCALES = {
    "quick": replace(
        PAPER, members=3, n_features=18, dim=10, head_dim=10, steps=6000, rate=3e-3, probabilities=(0.03, 0.1)
    ),
    "paper": PAPER,
    "full": replace(PAPER, members=256, n_features=400, dim=30, head_dim=30, steps=40_000),
}


def run(config: Config, folder: Path) -> Outcome:
    """Train with and without a head, recognise the geometry, compare dimensionalities."""
    labels = grid(kind=KINDS, probability=config.probabilities, seed=range(config.members))
    T = single_pair(config.n_features, config.n_features, 0, 1, config.strength)
    p = jnp.asarray(labels["probability"], float)
    # pairs are present p^2 of the time, features p: divided by p, the coupling means the same at every p
    coupling = jnp.asarray(labels["kind"] == "head") * config.coupling / p
    parameters, _ = train_toys(config, problems(config, T, p, coupling), checkpoints(folder))
    results = dataset(labels, each(read, parameters["W"]))
    settings = product(KINDS, config.probabilities)
    rows = [row for kind, p in settings for row in table_rows(config, chosen(results, kind, p), kind, p)]
    return Outcome(summary(config, results), results, figures(config, results), rows)


def read(W: Array) -> dict[str, Array]:
    """The polytopes among the features, their dimensionalities, and how far each is from its dual."""
    lengths = jnp.linalg.norm(W, axis=0, keepdims=True)
    W = jnp.where(lengths > FAINT * lengths.max(), W, 0)
    found = polytopes(W)
    return {
        "W": W,
        "part": found.labels,
        "vertices": found.vertices,
        "dimensions": found.dimensions,
        "dimensionality": feature_dimensionality(W),
        "cosine_dual": jnp.diagonal(alignment(W, dual_frame(W))),
    }


def dataset(labels: dict[str, np.ndarray], found: dict[str, Array]) -> xr.Dataset:
    """Labelled arrays by member and feature."""
    axes = ("member", "dimension", "feature")
    arrays = {name: (axes if name == "W" else axes[::2], np.asarray(x)) for name, x in found.items()}
    results = xr.Dataset(arrays, {name: ("member", labels[name]) for name in ("kind", "probability")})
    shapes = zip(results.vertices.values.ravel(), results.dimensions.values.ravel(), strict=True)
    names = np.array([polytope_name(*shape) for shape in shapes]).reshape(results.vertices.shape)
    results["polytope"] = (("member", "feature"), names)
    results["level"] = results.dimensions / results.vertices.where(results.vertices > 0)
    results["named"] = (("member", "feature"), np.isin(names, list(NAMES.values())))
    return results


def chosen(results: xr.Dataset, kind: str, p: float) -> xr.Dataset:
    """The members of one kind at probability p."""
    return results.sel(member=(results.kind == kind) & (results.probability == p))


def table_rows(config: Config, some: xr.Dataset, kind: str, p: float) -> Iterator[dict[str, Any]]:
    """Geometry and dimensionalities of one setting."""
    named, D = some.named.values, some.dimensionality.values
    census = Counter(some.polytope.values.ravel()).most_common(3)
    shares = ", ".join(f"{name} {count / named.size:.0%}" for name, count in census)
    setting = f"{kind}, p = {p:g}: "
    yield row(f"{setting}share in named polytopes ({shares})", named.mean(axis=1))
    yield row(f"{setting}|D_i - r/n|, named", np.abs(D - some.level.values)[named], Rule("mean", "<", TOLERANCE))
    yield row(f"{setting}|cos| with the dual, named", some.cosine_dual.values[named], Rule("median", ">=", 0.999))
    if kind == "head":
        yield row(f"{setting}D_0, D_1", D[:, :2].ravel(), Rule("median", ">=", 0.99))
        yield row(f"{setting}sum of other D_i / (D - 2)", D[:, 2:].sum(axis=1) / (config.dim - 2), WHOLE)
    else:
        yield row(f"{setting}sum of D_i / D", D.sum(axis=1) / config.dim, WHOLE)


def summary(config: Config, results: xr.Dataset) -> dict[str, Any]:
    """Headline figures."""
    named = results.named.values
    headed = results.sel(member=results.kind == "head").dimensionality.values
    return {
        "members": results.sizes["member"],
        "share_in_named_polytopes": named.mean(),
        "mean_distance_from_level": np.abs(results.dimensionality - results.level).values[named].mean(),
        "cosine_with_dual_median": np.median(results.cosine_dual.values[named]),
        "matched_dimensionality_median": np.median(headed[:, :2]),
        "other_dimensionality_sum_over_dim_minus_2": headed[:, 2:].sum(axis=1).mean() / (config.dim - 2),
    }


def figures(config: Config, results: xr.Dataset) -> dict[str, Exhibit]:
    """Angles of the features of one seed, and all dimensionalities."""
    return {
        "geometry": Exhibit(
            draw_angles(config, results),
            "Cosines of all features of one seed, features of one polytope side by side, matched features first: "
            "without a head all are in superposition, with one the matched pair is orthogonal to everything.",
        ),
        "dimensionality": Exhibit(
            draw_dimensionalities(config, results),
            "Dimensionality of every feature (points), and what the polytopes allow (lines): the matched features "
            "leave superposition, the others share what is left.",
        ),
    }


def draw_angles(config: Config, results: xr.Dataset) -> Figure:
    """Gram matrices of unit features without and with a head, at the sparsest p."""
    figure, axes = panels(columns=2, height=4.4)
    for ax, kind in zip(axes[0], KINDS, strict=True):
        member = chosen(results, kind, min(config.probabilities)).isel(member=0)
        order = np.lexsort((member.part, np.arange(config.n_features) > 1))
        unit = unit_columns(jnp.asarray(member.W.values[:, order]))
        image = ax.imshow(unit.T @ unit, vmin=-1, vmax=1, cmap="RdBu_r")
        ax.set(title=f"{kind}, p = {min(config.probabilities):g}", xlabel="feature", ylabel="feature")
        ax.grid(visible=False)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axes[0], label="cosine", shrink=0.8)
    return figure


def draw_dimensionalities(config: Config, results: xr.Dataset) -> Figure:
    """D_i by probability, levels of the polytopes as lines."""
    figure, axes = panels(columns=2, width=5.6, height=4.4)
    levels = {name: r / n for (n, r), name in NAMES.items()}
    for ax, kind in zip(axes[0], KINDS, strict=True):
        for name, level in levels.items():
            ax.axhline(level, color=COLOURS[1], linewidth=1)
            ax.annotate(name, (1.01, level), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=GREY)
        for place, p in enumerate(config.probabilities):
            D = chosen(results, kind, p).dimensionality.values
            draw_cloud(ax, place, D[:, 2:], COLOURS[0], "other features")
            draw_cloud(ax, place, D[:, :2], COLOURS[2], "features 0 and 1")
        ax.set_xticks(range(len(config.probabilities)), [f"{p:g}" for p in config.probabilities])
        ax.set(xlabel="probability p of a feature", ylabel=r"dimensionality $D_i$", ylim=(-0.03, 1.05), title=kind)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[0, 0].legend(handles[:2], labels[:2], loc="lower left")
    left_over = (config.dim - 2) / (config.n_features - 2)
    axes[0, 1].axhline(left_over, color=GREY, linestyle="--", linewidth=1, label=f"(D - 2)/(N - 2) = {left_over:.2f}")
    axes[0, 1].legend(handles=axes[0, 1].lines[-1:], loc="lower left")
    return figure


def draw_cloud(ax: Axes, place: int, D: np.ndarray, colour: str, label: str) -> None:
    """All of D in a narrow band about `place`, in the order of its values."""
    y = np.sort(D.ravel())
    measured(ax, place + np.linspace(-0.3, 0.3, y.size), y, color=colour, markersize=3, alpha=0.6, label=label)


main = command(run, SCALES)

if __name__ == "__main__":
    main()
