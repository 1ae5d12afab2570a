"""What `readout` shows of its dataset: what first modes carry, and how near they come to embeddings or features."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svtheory.reports.plotting import COLOURS, GREY, legend_below, name_heads, panels_or, plain


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """What the first modes of each head carry, and how near they come to embeddings or features; on two `axes`."""
    heads = results.decisions.size
    kinds = [kind for kind in ("embedding", "feature") if f"{kind}_cosine" in results]
    drawn, axes = panels_or(axes, 1 + len(kinds), width=max(5.0, min(0.25 * heads, 9)), height=4.6)
    _draw_shares(axes[0], results)
    for ax, kind in zip(axes[1:], kinds, strict=False):
        _draw_nearest(ax, results, kind)
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    said = (
        "What the first mode of each head carries, balanced filled and raw hollow: its share of the variance of "
        "scores, and of decisions, which are another key without it."
    )
    near = " Beside it, the largest |cos| of its patterns with an embedding or a feature; dashes: of random patterns."
    return said + (near if "embedding_cosine" in results or "feature_cosine" in results else "")


def _draw_shares(ax: Axes, results: xr.Dataset) -> None:
    """Shares of variance and of decisions by head."""
    x = np.arange(results.decisions.size)
    for i, (name, label) in enumerate((("variance_share", "of variance"), ("decision_share", "of decisions"))):
        for reading in ("raw", "balanced"):
            y = results[name].sel(reading=reading, mode=1).values.ravel()
            face, said = ("none", None) if reading == "raw" else (COLOURS[i], label)
            style = {"color": COLOURS[i], "markersize": 4, "markerfacecolor": face}
            ax.plot(x + 0.2 * (i - 0.5), y, "so"[i], label=said, **style)
    ax.plot([], [], "o", color=GREY, markerfacecolor="none", markersize=4, label="raw")
    name_heads(ax, results.layer.values, results["head"].values)
    ax.set(
        ylim=(-0.03, 1.03), ylabel="share of the first mode", title=plain(results.attrs.get("bundle", "first modes"))
    )
    legend_below(ax, 3)


def _draw_nearest(ax: Axes, results: xr.Dataset, kind: str) -> None:
    """The largest |cos| of the first balanced pattern of each side."""
    here, x = results.sel(reading="balanced", mode=1), np.arange(results.decisions.size)
    for i, side in enumerate(here.side.values):
        there = here.sel(side=side)
        y = abs(there[f"{kind}_cosine"]).isel(near=0).max("end").values.ravel()
        at, level = x + 0.2 * (i - 0.5), there[f"{kind}_chance"].values.ravel()
        ax.plot(at, level, "_", color=GREY, label=None if i else "chance")
        ax.plot(at, y, "so"[i], color=COLOURS[i], markersize=4, label=f"{side} pattern")
    name_heads(ax, results.layer.values, results["head"].values)
    ax.set(ylim=(0, 1.05), ylabel=f"largest |cos| with {kind}s", title=f"nearest {kind}s")
    legend_below(ax, 3)
