"""Your dictionary against a head: which features do its singular vectors point along, and is that beyond chance?

SOURCE holds the heads (docs/bundles.md, or a model's folder); --features is a dictionary (docs/dictionaries.md): a file
or folder of SAELens, Gemma Scope, dictionary_learning, Llama Scope, sparsify or Qwen Scope, an array of one's own, or
hf:ORG/REPO/PATH@REVISION on the hub; or the name of an array of the bundle itself, N x D, such as its token embedding.
Features must live in what the heads read: a dictionary of the residual stream is compared with heads whose
normalisation is folded in, as those of model folders are; where its file does not say where it lives, --hook does.
Features have the indices that they have there; those that are zero, the dead latents of an autoencoder, stay in their
place, are never the best, and do not count as comparisons of chance.

Every singular vector that can be named (its gap above rounding, T14) is compared with every feature. Where the bundle
says what heads read, heads are read in two ways more: unwhitened (T15), as a trained head's vectors are whitened
features, K v with K the covariance of the tokens; and balanced (T22), the patterns of the modes of the head as its data
see it, which are the features of a trained head whatever their angles. Queries of a head without a bias, or with one of
zeros, keep the mean token, which these readings project out of vectors and features; the share removed is reported. Of
near-equal values only the span of the vectors is known: features are compared with the span of every block by the
length of their projection, whose p-value is that of an isotropic subspace, corrected for the features.

Chance has two levels. Isotropic: a random direction's best cosine of N (T12), its p-value corrected for all vectors and
features of the head. Random heads, of four kinds, the largest share of those that have a vector as well aligned being
the p-value: covariance-matched ones, random directions drawn with the token covariance K or, unwhitened, K times
isotropic ones, which alone turns them towards what is common in the tokens; isotropic ones; balanced ones, which keep
what data see of the head's spectrum (T22) and have vectors along whatever hardly varies; and Gaussian ones, whose modes
lie along whatever varies most. Over all heads, the p-values of a reading are adjusted by Benjamini and Hochberg's
procedure. Random heads are drawn until it is settled, at a level of 0.05, which sides are beyond chance (Besag and
Clifford): p is what it would be at most, were the draws to go on to as many as --draws allows, or as one side alone
would need.

>>> import numpy as np
>>> from svtheory import HeadBundle
>>> W = np.diag([3.0, 2.0, 1.0])[None, None]  # whose singular vectors are the axes
>>> found = survey(HeadBundle(W, W), np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]))
>>> found.best_feature.sel(side="key", reading="raw", pair=2).item(), found.largest_cosine.max().item()
(0, 1.0)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.read_together import SIDES
from svtheory.instruments.aligned import AXES, LEVEL, VARIABLES, compared, nulls
from svtheory.instruments.dictionaries import EMBEDDING, Place, dictionary, named
from svtheory.instruments.labels import labelled
from svtheory.instruments.sources import Source
from svtheory.instruments.survey import PLACE, by_head, called, places
from svtheory.reports.options import Options, at_least
from svtheory.reports.plotting import COLOURS, GREY, MANY, legend_below, name_heads, panels_or, plain
from svtheory.reports.tables import at_most

COLUMNS = {
    "reading": "Raw singular vectors; unwhitened by the tokens' covariance (T15); balanced, as the data see the head.",
    "named": "How many vectors have a gap above rounding, so that they are compared (T14).",
    "best |cos|": "The best cosine of any of the head's vectors with any feature.",
    "pair": "Which vector that is, 1 of the largest singular value.",
    "feature": "Which feature, by its index in the dictionary.",
    "mean |cos|": "The best cosine of each vector, averaged over vectors.",
    "p, isotropic": "How likely random directions do as well, for all vectors and features of the head.",
    "p, random": "Share of random heads, the largest of all kinds, with a vector as well aligned. With ≤, draws "
    "ended once verdicts were settled: it may be less.",
    "mean token removed": "Share of the vectors' square along the mean token, which is projected out.",
}


@dataclass(frozen=True)
class Settings(Options):
    """What p-values are made with."""

    draws: Annotated[int, at_least(19)] = 999
    """Random heads of a kind behind a p-value, at most, or as many as one side alone needs."""
    seed: int = 0
    """Seed of the random directions."""


@dataclass(frozen=True)
class Request(Place, Settings):
    """Settings, and where the dictionary is."""

    features: Annotated[str, tyro.conf.arg(metavar="FILE")] = EMBEDDING
    """Dictionary, a file, a folder or hf:ORG/REPO/PATH@REVISION, or the name of an array of the bundle."""

    @property
    def label(self) -> str:
        """What the dictionary is called; nothing for the bundle's embedding."""
        return "" if self.features == EMBEDDING else named(self.features)


DEFAULTS = Settings()


def requested(source: Source, settings: Request) -> xr.Dataset:
    """What the command asks for."""
    if settings.features == EMBEDDING and Path(source.source).is_dir():
        raise InputError("--features must be given beside a model's folder, a FILE of features that its heads read")
    bundle = source.bundle()
    bundle.check_bilinear()
    given = dictionary(settings.features, bundle, settings)
    results = survey(bundle, given.features, settings)
    return results.assign_attrs(bundle=source.label, features=named(settings.features), dictionary=repr(given))


def survey(bundle: HeadBundle, features: np.ndarray, settings: Settings = DEFAULTS) -> xr.Dataset:
    """Compare the singular vectors of every head with the features, columns of (D, N), in any precision."""
    bundle.check_bilinear()
    results = compared(bundle, features, jax.random.key(settings.seed), settings.draws)
    return labelled(results.assign_attrs(bundle.metadata), VARIABLES)


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row for each reading of each side of each head."""
    return [row(here) for here in places(results, *AXES)]


def brief(results: xr.Dataset) -> list[dict[str, Any]]:
    """The columns that answer, the smallest p-values first."""
    names = nulls(results)
    ordered = sorted(places(results, *AXES), key=lambda here: max(float(here[f"{name}_p"]) for name in names))
    shown = ("side", "reading", "best |cos|", "feature", f"p, {names[-1]}")
    return by_head([row(here) for here in ordered], *shown)


def answers(results: xr.Dataset) -> list[str]:
    """How many sides of heads have a vector along a feature beyond chance, by reading, and the best of them."""
    return [_answer(results.sel(reading=reading)) for reading in results.reading.values]


def _answer(here: xr.Dataset) -> str:
    beyond = beyond_chance(here)
    said = f"Read {here.reading.item()}, {int(beyond.sum())} of {beyond.size} sides of heads point along a feature "
    said += f"beyond chance (p at most {LEVEL}, adjusted)"
    if not beyond.any():
        return f"{said}."
    top = here.isel(here.largest_cosine.where(beyond).argmax((*PLACE, "side")))
    told = row(top)
    return (
        f"{said}; best head {called(top)}, {told['side']}, |cos| {told['best |cos|']:.2f} to feature {told['feature']}."
    )


def beyond_chance(here: xr.Dataset) -> xr.DataArray:
    """Which sides of heads are beyond every kind of chance, adjusted for the number of heads."""
    return xr.concat([here[f"{name}_adjusted_p"] for name in nulls(here)], "chance").max("chance") <= LEVEL


def row(here: xr.Dataset) -> dict[str, Any]:
    """One reading of one side of one head: its best aligned vector and its p-values."""
    cosines = here.best_cosine.fillna(0).values
    k, nothing = int(cosines.argmax()), not cosines.any()
    return {
        **{name: here[name].item() for name in AXES},
        "named": f"{int(here.named.sum())} of {here.named.size}",
        "best |cos|": float("nan") if nothing else float(cosines[k]),
        "pair": "-" if nothing else str(k + 1),
        "feature": "-" if nothing else str(int(here.best_feature[k])),
        "mean |cos|": float(here.best_cosine.mean()),
        **{f"p, {name}": _p(here, name) for name in nulls(here)},
        "mean token removed": float(here.mean_removed.mean()),
    }


def _p(here: xr.Dataset, name: str) -> float | str:
    """A p-value; that of random heads with how many were drawn."""
    p = float(here[f"{name}_p"])
    return at_most(p, float(here.random_p_least), int(here.random_draws)) if name == "random" else p


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures: chance levels, and how many sides of heads are beyond each, by reading."""
    found = {
        "sides_of_heads": results.largest_cosine.isel(reading=0).size,
        "features": results.attrs["n_features"],
        "features_dead": results.sizes["dead"],
        "isotropic_chance_cosine": float(results.isotropic_chance),
        "isotropic_chance_cosine_of_a_head": float(results.isotropic_chance_of_a_head),
    }
    for reading in results.reading.values:
        here = results.sel(reading=reading)
        found |= {
            f"{reading}_best_cosine_mean": float(here.best_cosine.mean()),
            f"{reading}_best_cosine_highest": float(here.largest_cosine.max()),
            **{
                f"{reading}_beyond_{name}_chance": int((here[f"{name}_adjusted_p"] <= LEVEL).sum())
                for name in nulls(here)
            },
        }
        if "matched_chance" in here:
            found[f"{reading}_matched_chance_cosine"] = float(here.matched_chance.mean())
            found[f"{reading}_matched_chance_cosine_of_a_head"] = float(here.matched_chance_of_a_head.mean())
            found[f"{reading}_random_heads_drawn"] = int(here.random_draws.max())
    return found


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """The best aligned vector of each head, by side, over what chance gives a head; a panel for each reading."""
    readings = results.reading.values
    heads = results.sizes["layer"] * results.sizes["head"]
    drawn, axes = panels_or(axes, columns=len(readings), width=max(5.0, min(0.2 * heads, 7)), height=4.6)
    for ax, reading in zip(axes, readings, strict=True):
        draw(ax, results.sel(reading=reading))
        names = [plain(results.attrs[name]) for name in ("bundle", "features") if name in results.attrs]
        ax.set(title=f"{' with '.join(names)}: {reading}" if names else reading)
    axes[0].set(ylabel="best |cos| with a feature")
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    return (
        "The best aligned singular vector of each head and side, filled where beyond every chance level, adjusted for "
        "the number of heads; and the best that chance gives a whole head (lines)."
    )


def draw(ax: Axes, here: xr.Dataset) -> None:
    """One reading: points by head; isotropic chance dotted, that of random heads, the largest of three, as steps."""
    layers, heads = here.sizes["layer"], here.sizes["head"]
    x, many = np.arange(layers * heads).reshape(layers, heads), layers * heads > MANY
    p = np.maximum.reduce([here[f"{name}_adjusted_p"] for name in nulls(here)])
    for i, (side, marker) in enumerate(zip(SIDES, "so", strict=True)):
        y = here.largest_cosine.sel(side=side).values
        beyond = p[..., i] <= LEVEL
        at = x + 0.2 * (i - 0.5)
        style = {"color": COLOURS[i], "markersize": 2.5 if many else 5}
        ax.plot(at[beyond], y[beyond], marker, **style)
        ax.plot(at[~beyond], y[~beyond], marker, markerfacecolor="none", **style)
        ax.plot([], [], marker, color=COLOURS[i], label={"query": "queries, u", "key": "keys, v"}[side])
        if "matched_chance_of_a_head" in here:
            kinds = ("matched", "balanced", "gaussian")
            levels = [here[f"{kind}_chance_of_a_head"].sel(side=side).values for kind in kinds]
            level = np.repeat(np.maximum.reduce(levels), 2)
            edges = (x.ravel()[:, None] + np.array([-0.5, 0.5])[None, :]).ravel()
            ax.plot(edges, level, "--", color=COLOURS[i], linewidth=0.8 if many else 1.8, label=f"random heads, {side}")
    ax.axhline(float(here.isotropic_chance_of_a_head), color=GREY, linestyle=":", label="isotropic chance")
    name_heads(ax, range(layers), range(heads))
    ax.set(ylim=(0, 1.05))
    legend_below(ax, 2, fontsize=8.5)
