"""Which features of your dictionary attend to which? Scores of heads as sums over pairs of features that are active.

SOURCE is a model's folder with --text, or a bundle that holds the residual stream; --features is a dictionary with an
encoder (docs/dictionaries.md), of the residual stream before or after a layer, or of what a layer's heads read. The
heads are those that read what it reconstructs: of a dictionary of blocks.3.hook_resid_post, those of layer 4.

A decision is a query's attention to the key that it attends most. Its score, over the divisor, is the sum of what every
pair of a feature active at the query and one active at the key adds, and of what the dictionary leaves: features of
either side with biases of the other (the decoder's and the head's own; the query's side is named first), biases with
biases, and errors, whatever the reconstruction error of either token is a factor of. The scale of the normalisation
before the head is held for every token, and so are norms of queries and keys (T23); rotary heads turn each pair by its
own distance.

All are means over decisions, with standard errors over sequences. The pairs named are those that add most. What raises
the scores of all keys alike changes no attention: beside what a pair adds at the attended key stands what it adds, on
average, at the other keys that the same queries see ("elsewhere"). "explained" is the share of the scores' variance
over decisions that the pairs alone account for; it may be negative. "unexplained" is the share of the tokens' variance
that the dictionary leaves as error: near 1, or above, it is not one of this model, layer and space.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svtheory.checks import InputError, index
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.dictionaries import Dictionary
from svtheory.heads.pairs import PARTS
from svtheory.instruments.dictionaries import Place, check_fits, named, read_features
from svtheory.instruments.labels import labelled
from svtheory.instruments.paired import VARIABLES, paired, written
from svtheory.instruments.sources import SEQUENCES, Source
from svtheory.instruments.survey import PLACE, by_head, median_of, places, read_inputs
from svtheory.reports.options import Options, at_least
from svtheory.reports.plotting import COLOURS, GREY, legend_below, measured, name_heads, panels_or, plain

SHOWN = 3
"""Pairs of a head that its row names."""
NAMED = 5
"""Pairs of all heads that the figure names, at most: those within a quarter of the largest."""

COLUMNS = {
    "score": "Mean score of decisions, over the divisor: the sum of the parts beside it.",
    "explained": "Share of the scores' variance over decisions that pairs of features alone account for.",
    "pairs that add most": "Feature at the query x feature at the key: what it adds at the attended key, and on "
    "average at the others.",
}


@dataclass(frozen=True)
class Settings(Options):
    """What is kept of each head."""

    top: Annotated[int, at_least(1)] = 20
    """Pairs of each head that are kept."""


@dataclass(frozen=True)
class Request(Place, Settings):
    """Settings, and where the dictionary is."""

    features: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """Dictionary, a file, a folder or hf:ORG/REPO/PATH@REVISION."""

    @property
    def label(self) -> str:
        """What the dictionary is called."""
        return named(self.features)


DEFAULTS = Settings()


def requested(source: Source, settings: Request) -> xr.Dataset:
    """What the command asks for."""
    if not settings.features:
        raise InputError("--features must be a dictionary with an encoder, got none")
    dictionary = read_features(settings.features, settings, encoder=True)
    layer = reader_of(dictionary)
    residual, folded = (layer, True) if dictionary.space != "attn_in" else (None, dictionary.folded is not False)
    bundle = source.bundle(reads=True, sequences=SEQUENCES, residual=residual, folded=folded)
    results = survey(bundle, dictionary, settings)
    return results.assign_attrs(bundle=source.label, features=settings.label)


def reader_of(dictionary: Dictionary) -> int:
    """The layer whose heads read what the dictionary reconstructs.

    Raises InputError for one without an encoder, whose layer is not known, or that reconstructs something else.
    """
    if dictionary.encoder is None:
        raise InputError(f"--features must have an encoder, got {dictionary.without or 'none'}")
    if (layer := dictionary.reader) is None:
        wanted = (
            "resid_pre, resid_post or attn_in" if dictionary.layer is not None else "a layer that is known (--hook)"
        )
        got = dictionary.space if dictionary.layer is not None else "none"
        raise InputError(f"--features must be of {wanted}, what the heads of a layer read, got {got}")
    return layer


def survey(bundle: HeadBundle, dictionary: Dictionary, settings: Settings = DEFAULTS) -> xr.Dataset:
    """Expand the decisions of the heads that read what a dictionary reconstructs in pairs of its features.

    For a dictionary of the residual stream the bundle holds, among others, `residual`, that before these heads' layer.
    Raises InputError for bundles without what heads read, or without that, and dictionaries that do not fit them.
    """
    layer, read = reader_of(dictionary), read_inputs(bundle)
    check_fits(dictionary, bundle)
    layer = index("the layer that reads the dictionary", layer, len(bundle.W_Q))
    if read.shape[2] < 2:
        raise InputError("attn_in must hold at least 2 positions, or no query has keys to choose from, got 1")
    if dictionary.space != "attn_in":
        _check_stream(bundle, layer)
    found = written(bundle, dictionary, layer)
    active = np.concatenate([np.diff(of.active.indptr) for of in found.sequences])
    results = paired(bundle, found, layer, settings.top)
    results = results.assign(unexplained=found.unexplained, active_features=active.mean())
    about = {"dictionary": repr(dictionary), "features_in_use": len(found.used)}
    return labelled(results.assign_attrs({**bundle.metadata, **about}), VARIABLES)


def _check_stream(bundle: HeadBundle, layer: int) -> None:
    stream, of = bundle.others.get("residual"), bundle.metadata.get("residual_layer")
    if stream is None or of != str(layer):
        got = "none" if stream is None else f"that before layer {of}"
        kept = f"as read_model(..., residual={layer}) keeps it"
        raise InputError(f"bundle must hold the residual stream before layer {layer}, {kept}, got {got}")
    if stream.shape != read_inputs(bundle).shape[1:]:
        raise InputError(f"residual must have shape {read_inputs(bundle).shape[1:]}, as attn_in, got {stream.shape}")


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a head: the parts of its scores, and the pairs that add most."""
    return [_row(here) for here in places(results, *PLACE)]


def brief(results: xr.Dataset) -> list[dict[str, Any]]:
    """The columns that answer."""
    return by_head(rows(results), "score", "explained", "pairs that add most")


def answers(results: xr.Dataset) -> list[str]:
    """How much of scores the pairs account for, and the pair that adds most of all."""
    found = summary(results)
    said = [
        f"Pairs of features account for {found['explained_score_variance_median']:.0%} of the variance of "
        f"scores{median_of(found['heads'])}, {found['explained_score_variance_highest']:.0%} at most; "
        f"{found['unexplained_variance_share']:.0%} of the tokens' variance is left as error."
    ]
    if "top_head" in found:
        said.append(
            f"Most adds, in head {found['layer']}.{found['top_head']}, feature {found['top_query_feature']} at the "
            f"query with {found['top_key_feature']} at the key: {found['top_contribution']:.3g} to the score at the "
            f"attended key, {found['top_contribution_elsewhere']:.2g} elsewhere."
        )
    return said


def _row(here: xr.Dataset) -> dict[str, Any]:
    first = here.isel(pair=slice(SHOWN)).dropna("pair", subset=["contribution"])
    parts = zip(here.part.values, here.part_mean.values, here.part_standard_error.values, strict=True)
    return {
        **{name: here[name].item() for name in PLACE},
        "score": float(here.score),
        **{str(name): f"{mean:.3g} ± {error:.2g}" for name, mean, error in parts},
        "explained": float(here.explained),
        "pairs that add most": "; ".join(map(_named, places(first, "pair"))) or "-",
    }


def _named(pair: xr.Dataset) -> str:
    name = f"{int(pair.query_feature)} x {int(pair.key_feature)}"
    return f"{name}: {float(pair.contribution):.3g} ({float(pair.elsewhere):.2g} elsewhere)"


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures, and the pair that adds most of all."""
    flat, means = (
        results.stack(place=(*PLACE, "pair")).dropna("place", subset=["contribution"]),
        results.part_mean.mean(PLACE),
    )
    found: dict[str, Any] = {
        "layer": int(results.layer[0]),
        "heads": results.sizes["head"],
        "decisions": int(results.all_decisions.sum()),
        "features_in_use": int(results.attrs["features_in_use"]),
        "active_features_mean": float(results.active_features),
        "unexplained_variance_share": float(results.unexplained),
        "explained_score_variance_median": float(results.explained.median()),
        "explained_score_variance_highest": float(results.explained.max()),
        **{f"{name.replace(' x ', '_with_')}_mean": float(means.sel(part=name)) for name in PARTS},
        "largest_gap": float(results.gap.max()),
    }
    if flat.sizes["place"]:
        top = flat.isel(place=int(flat.contribution.values.argmax()))
        found |= {
            "top_head": int(top["head"]),
            "top_query_feature": int(top.query_feature),
            "top_key_feature": int(top.key_feature),
            "top_contribution": float(top.contribution),
            "top_contribution_standard_error": float(top.contribution_standard_error),
            "top_contribution_elsewhere": float(top.elsewhere),
        }
    return found


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """The parts of every head's scores, and the pairs that add most; on two `axes` where they are given."""
    drawn, axes = panels_or(axes, 2, width=6.4, height=4.6)
    _draw_parts(axes[0], results)
    _draw_pairs(axes[1], results)
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    return (
        "Left, what pairs of features, biases and errors add to the scores of each head's decisions, means with "
        "standard errors over sequences. Right, the pairs of each head that add most at the attended key, over what "
        "they add at the other keys that the same queries see (line: equal, which changes no attention)."
    )


def _draw_parts(ax: Axes, results: xr.Dataset) -> None:
    x = np.arange(results.sizes["head"])
    for i, part in enumerate(results.part.values):
        here = results.isel(layer=0, part=i)
        at = x + 0.14 * (i - (len(PARTS) - 1) / 2)
        measured(ax, at, here.part_mean, here.part_standard_error, color=COLOURS[i], label=str(part), markersize=4)
    ax.axhline(0, color=GREY, linewidth=0.8)
    name_heads(ax, [0], range(len(x)))
    names = [plain(results.attrs[name]) for name in ("bundle", "features") if name in results.attrs]
    ax.set_xticks(x, [f"{int(results.layer[0])}.{head}" for head in x], rotation=90 if len(x) > 8 else 0)
    ax.set(ylabel="mean part of the score", title=" with ".join(names) or "decisions")
    legend_below(ax, 2, fontsize=8.5)


def _draw_pairs(ax: Axes, results: xr.Dataset) -> None:
    flat = results.stack(place=(*PLACE, "pair")).dropna("place", subset=["contribution"])
    x, y = flat.elsewhere.values, flat.contribution.values
    measured(ax, x, y, flat.contribution_standard_error.values, alpha=0.6, markersize=4)
    if len(y):
        ends = [min(x.min(), y.min(), 0), max(x.max(), y.max())]
        ax.plot(ends, ends, color=GREY, linewidth=1)
    for k in [k for k in np.argsort(-y)[:NAMED] if y[k] > y.max() / 4]:
        here = flat.isel(place=int(k))
        name = f"{int(here.layer)}.{int(here['head'])}: {int(here.query_feature)} x {int(here.key_feature)}"
        ax.annotate(name, (x[k], y[k]), (4, 4), textcoords="offset points", fontsize=7.5)
    ax.set(xlabel="adds elsewhere", ylabel="adds at the attended key", title="pairs of features that add most")
