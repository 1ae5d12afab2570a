"""Emergence: does sparsity emerge in training? S of every head over a series of checkpoints, against random heads.

MODELS are checkpoints of one model in the order of training: folders with --text, or bundles with attn_in, all of which
should have read the same tokens (the paper's Fig 7b).

As in sad, a decision is a query's attention to the key it attends most; S is the Treves-Rolls sparseness of the terms
of its relative attention, 1 for equal magnitudes and 1/K for a single term, and the mean over decisions is a head's. A
head is called sparser than chance when it is sparser than random heads on the same tokens, which keep its singular
values (those of Omega, and those that the data see; the larger p-value counts) and choose their key anew (T22);
p-values are adjusted for the number of heads of the checkpoint (Benjamini and Hochberg), and draws go on until the
verdicts at 0.05 cannot change, or for --draws. Beside it stand the diagnostics of T11: the common rotation keeps every
score, and any head of low rank is sparser than it; independent rotations of U and V, the paper's control, forget the
choice of the key. Standard errors are over heads in the mean, over sequences for a head.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import jax
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.random_heads import NULLS
from svtheory.instruments import sparser
from svtheory.instruments.labels import Labels, labelled
from svtheory.instruments.sources import SEQUENCES, Series, check_source, named, read_heads
from svtheory.instruments.survey import PLACE, layer_colours, places
from svtheory.progress import track
from svtheory.reports.options import Options, at_least
from svtheory.reports.plotting import COLOURS, GREY, measured, panels_or, plain
from svtheory.reports.tables import picked

COLUMNS = {
    "S": "Mean sparseness of decisions over heads, with its standard error.",
    "random heads": "Mean S of random heads of the same singular values, on the same tokens.",
    "random heads, balanced": "The same with the singular values that the data see.",
    "common rotation": "Mean S where both sides are turned alike, which keeps every score: a diagnostic.",
    "independent rotations": "Mean S where U and V are turned apart, the paper's control: a diagnostic.",
    "S / random heads": "Mean over heads of S over that of the sparser random heads.",
    "sparser than chance": "Heads sparser than random heads, p at most 0.05, adjusted for all heads.",
    "low rank only": "Heads sparser than Gaussian heads alone.",
    "smallest p": "Of all heads, not adjusted.",
}

VARIABLES: Labels = {
    **sparser.VARIABLES,
    "checkpoint": "checkpoint, in the order of training",
    "loss": ("loss that the checkpoint says", "nats"),
}


@dataclass(frozen=True)
class Settings(Options):
    """What p-values are made with."""

    draws: Annotated[int, at_least(19)] = 999
    """Random heads behind a p-value, at most."""
    seed: int = 0
    """Seed of the random heads."""


DEFAULTS = Settings()


def requested(source: Series, settings: Settings) -> xr.Dataset:
    """What the command asks for; checkpoints are read one after the other."""
    if len(source.models) < 2:
        got = f"only {source.models[0]!r}" if source.models else "none"
        raise InputError(f"MODELS must be a series of at least 2 checkpoints, got {got}")
    for name in source.models:
        check_source(name, "MODELS")
    texts = replace(source, sequences=source.sequences or SEQUENCES)
    series = ((f"{i}: {named(name)}", read_heads(name, texts)) for i, name in enumerate(source.models, 1))
    return survey(track(series, "checkpoints", len(source.models)), settings)


def survey(series: Iterable[tuple[str, HeadBundle]], settings: Settings = DEFAULTS) -> xr.Dataset:
    """Decompose every head of every checkpoint, by name in the order of training, and compare with random heads.

    A bundle whose metadata says so has a `loss`. Raises InputError for checkpoints of more than one shape.
    """
    found, shapes, key = {}, set(), jax.random.split(jax.random.key(settings.seed))[1]
    for name, heads in series:
        read = sparser.tokens_read(heads)
        shapes.add(shape := (*heads.W_Q.shape[:2], read.shape[2] - int(heads.scoring.causal)))
        if len(shapes) > 1:
            raise InputError(f"MODELS must be of one shape, got {name!r} with {shape} layers, heads and queries")
        loss = float(heads.metadata.get("loss", "nan"))
        tested = sparser.tested(heads, key, settings.draws, readings=1).isel(reading=0, drop=True)
        cut = {name: x for name, x in heads.metadata.items() if name == "sequences"}
        found[name] = tested.assign(loss=loss).assign_attrs(cut)
    return labelled(xr.concat(list(found.values()), "checkpoint").assign_coords(checkpoint=list(found)), VARIABLES)


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a checkpoint."""
    return [_row(checkpoint) for checkpoint in places(results, "checkpoint")]


def brief(results: xr.Dataset) -> list[dict[str, Any]]:
    """The columns that answer."""
    shown = ("checkpoint", "loss (nats)", "S", "random heads", "sparser than chance", "low rank only")
    return picked(rows(results), *shown)


def answers(results: xr.Dataset) -> list[str]:
    """The heads that are sparser than chance at the first and at the last checkpoint."""
    ends = [results.isel(checkpoint=i) for i in (0, -1)]
    return [f"{here.checkpoint.item()}: {sparser.answers(here)[0]}" for here in ends]


def _row(here: xr.Dataset) -> dict[str, Any]:
    """One checkpoint: S over its heads and the levels of chance."""
    S = here.sparseness.mean(("sequence", "query"))
    random = _of_random_heads(here)
    return {
        "checkpoint": str(here.checkpoint.values),
        "loss (nats)": float(here.loss),
        "S": f"{float(S.mean()):.3f} ± {_error(S.values.ravel()):.3f}",
        **{name: float(here.null_mean.sel(null=null).mean()) for null, name in sparser.SHOWN.items()},
        "S / random heads": f"{float((S / random).mean()):.3f} ± {_error((S / random).values.ravel()):.3f}",
        "lowest S": float(S.min()),
        "sparser than chance": f"{int(sparser.found(here).sum())} of {S.size}",
        "low rank only": int(sparser.low_rank(here).sum()),
        "smallest p": float(here.p_value.min()),
    }


def _of_random_heads(results: xr.Dataset) -> xr.DataArray:
    """Mean S of the sparser of the two kinds of random heads."""
    return results.null_mean.sel(null=list(NULLS)).min("null")


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures of the first and the last checkpoint."""
    S = results.sparseness.mean(("sequence", "query"))
    ratio = S / _of_random_heads(results)
    found: dict[str, Any] = {"checkpoints": results.sizes["checkpoint"], "heads": S.isel(checkpoint=0).size}
    for name, i in (("first", 0), ("last", -1)):
        here = results.isel(checkpoint=i)
        found |= {
            f"{name}_sparseness_mean": float(S.isel(checkpoint=i).mean()),
            **{
                f"{name}_sparseness_{null}_null_mean": float(here.null_mean.sel(null=null).mean())
                for null in sparser.SHOWN
            },
            f"{name}_sparseness_over_random_heads_mean": float(ratio.isel(checkpoint=i).mean()),
            **{f"{name}_{count}": number for count, number in sparser.counted(here).items() if count != "heads"},
            f"{name}_loss_nats": float(here.loss),
        }
    return found


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """The mean over heads, and each head over its random heads; on two `axes` where they are given."""
    drawn, axes = panels_or(axes, 2, width=5.6)
    _draw_mean(axes[0], results)
    _draw_heads(axes[1], results)
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    return (
        "Left, sparseness averaged over decisions and heads (points, with standard errors over heads) and that of "
        "random heads of the same singular values on the same tokens (lines), beside rotations, which are diagnostics "
        "(dotted). Right, each head over the sparser of its random heads (line: equal); filled points are sparser than "
        "chance, error bars over sequences."
    )


def _draw_mean(ax: Axes, results: xr.Dataset) -> None:
    flat = results.stack(unit=PLACE).transpose(..., "unit")
    S = flat.sparseness.mean(("sequence", "query"))
    x = np.arange(results.sizes["checkpoint"])
    for (null, name), style in zip(sparser.SHOWN.items(), ("-", "--", ":", "-."), strict=True):
        colour = COLOURS[1] if null in NULLS else GREY
        ax.plot(x, flat.null_mean.sel(null=null).mean("unit"), style, color=colour, label=name)
    measured(ax, x, S.mean("unit"), [_error(values) for values in S.values], label="heads")
    _name(ax, results)
    ax.set(ylabel="mean sparseness S", ylim=(0, None))
    ax.legend()


def _draw_heads(ax: Axes, results: xr.Dataset) -> None:
    over_chance = results.assign(sparseness=results.sparseness / _of_random_heads(results))
    heads, colours = list(places(over_chance, *PLACE)), layer_colours(results)
    ax.axhline(1, color=COLOURS[1])
    for i, here in enumerate(heads):
        x = np.arange(results.sizes["checkpoint"]) + 0.5 * (i + 0.5 - len(heads) / 2) / len(heads)
        (y, error), colour = sparser.mean_sparseness(here), colours[int(here.layer)]
        measured(ax, x, y, error, fmt="none", color=colour)
        found = sparser.found(here).values
        ax.plot(x[~found], y[~found], "o", color=colour, markersize=4.5, markerfacecolor="white")
        ax.plot(x[found], y[found], "o", color=colour, markersize=4.5)
    for layer, colour in zip(results.layer.values, colours, strict=True):
        ax.plot([], [], "o", color=colour, label=f"layer {layer}")
    _name(ax, results)
    ax.set(ylabel="S over that of random heads")
    ax.legend(loc="lower left")


def _name(ax: Axes, results: xr.Dataset) -> None:
    names = [plain(name) for name in results.checkpoint.values]
    ax.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 6 else 45)
    ax.set(xlabel="checkpoint" if any(":" in name for name in names) else "training steps")
