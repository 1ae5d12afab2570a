"""Spectra's figure: every head's singular values by reading, and the bounds that its layer's tokens leave."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from svtheory.instruments.survey import EPSILON, counted, layer_colours
from svtheory.instruments.token_bounds import TIMES
from svtheory.reports.plotting import GREY, chance_line, legend_below, measured, panels_or, plain, rank_ticks, thinned

MANY = 24  # heads, of which each is drawn
SPECTRA = (
    "Singular values of each head over its largest, raw and as its tokens see it, beside the mean of Gaussian factors "
    "of the same shape in each layer (lines); hollow points cannot be named. Of many heads, the median of each layer "
    "and its middle half."
)
BOUNDS = (
    " Last, the alignment of a single matched pair that each layer's token moments guarantee after training "
    "for a time (lines), and at its end (points, with standard errors)."
)


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """The spectrum of every head by reading, and the bounds of every layer; on as many `axes` where they are given."""
    readings = results.reading.values
    drawn, axes = panels_or(axes, columns=len(readings) + ("side" in results.dims), height=4.6)
    colours = layer_colours(results)
    for ax, reading in zip(axes, readings, strict=False):
        _draw_spectra(ax, results.sel(reading=reading), colours)
    if "side" in results.dims:
        _draw_bounds(axes[-1], results, colours)
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    return SPECTRA + (BOUNDS if "side" in results.dims else "")


def _draw_spectra(ax: Axes, results: xr.Dataset, colours: np.ndarray) -> None:
    """`sigma_k / sigma_1` of every head that is not numerically zero; of many heads, their middle half by layer."""
    zero = results.numerically_zero
    shown = results.singular_value.where(~zero)
    relative = shown / shown.isel(pair=0)
    draw = _draw_each if zero.size <= MANY else _draw_quartiles
    draw(ax, relative, results.named.values, colours)
    if results.gaussian_value.notnull().any():
        ax.plot(results.pair, results.gaussian_value.transpose("pair", "layer"), color=GREY, linewidth=1, zorder=1)
        ax.plot([], [], color=GREY, label="Gaussian factors")
    ax.plot([], [], "o", color=GREY, markerfacecolor="none", label="cannot be named")
    if zero.all():
        ax.text(0.5, 0.5, "every head is numerically zero", ha="center", transform=ax.transAxes)
    name = plain(results.attrs.get("bundle", "all heads"))
    zeros = f", {int(zero.sum())} zero" if zero.any() else ""
    title = f"{name}: {counted(zero.size, 'head')}, {results.reading.item()}{zeros}"
    balanced = results.reading.item() == "balanced"
    ax.set(
        xlabel="pair k",
        ylabel=r"$\tilde\sigma_k / \tilde\sigma_1$" if balanced else r"$\sigma_k / \sigma_1$",
        title=title,
    )
    # below its rounding no value says anything
    least = max(EPSILON / 10, float(relative.where(results.named).min()) / 10) if results.named.any() else EPSILON / 10
    ax.set(yscale="log", ylim=(least, 2)) if relative.min() < 0.01 else ax.set(ylim=(0, None))
    legend_below(ax)


def _draw_each(ax: Axes, relative: xr.DataArray, named: np.ndarray, colours: np.ndarray) -> None:
    """A point a pair of every head, hollow where it cannot be named."""
    heads = relative.sizes["head"]
    for layer, head in np.ndindex(named.shape[:2]):
        x = relative.pair.values + 0.5 * (head - (heads - 1) / 2) / heads
        y, known, colour = relative[layer, head].values, named[layer, head], colours[layer]
        style = {"color": colour, "markersize": 3.5, "alpha": 0.8}
        ax.plot(x, y, "o", markerfacecolor="none", **style)
        ax.plot(x[known], y[known], "o", label=None if head else f"layer {layer}", **style)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_quartiles(ax: Axes, relative: xr.DataArray, named: np.ndarray, colours: np.ndarray) -> None:
    """Some pairs of every layer: median and middle half of its heads, hollow where most of them cannot name it."""
    layers, (_, _, K) = len(colours), named.shape
    some = np.unique(np.geomspace(1, K, 12).round().astype(int)) - 1
    shift = np.linspace(0.94, 1.06, layers)
    for layer, colour in enumerate(colours):
        low, middle, high = np.nanquantile(relative[layer].values[:, some], [0.25, 0.5, 0.75], axis=0)
        known, x = named[layer][:, some].mean(axis=0) >= 0.5, relative.pair.values[some] * shift[layer]
        style = {"color": colour, "markersize": 3.5, "elinewidth": 0.8, "capsize": 0}
        measured(ax, x, middle, [middle - low, high - middle], markerfacecolor="none", **style)
        label = f"layer {layer}" if layer in thinned(layers) else None
        ax.plot(x[known], middle[known], "o", color=colour, markersize=3.5, label=label)
    ax.set(xscale="log")
    rank_ticks(ax, K)


def _draw_bounds(ax: Axes, results: xr.Dataset, colours: np.ndarray) -> None:
    """The bound of each layer and side against training time, and at its end."""
    ends = np.geomspace(2, 100, 2 * len(colours)).reshape(-1, 2) * TIMES[-1]
    for layer, colour in enumerate(colours):
        for side, line, marker, end in (("key", "-", "o", ends[layer, 0]), ("query", "--", "s", ends[layer, 1])):
            here = results.sel(layer=layer, side=side)
            ax.plot(here.time, here.bound_at_time, line, color=colour)
            measured(ax, end, here.bound, here.bound_standard_error, color=colour, fmt=marker)
    for side, line, marker in (("keys", "-", "o"), ("queries", "--", "s")):
        ax.plot([], [], line, marker=marker, color="black", label=f"{side}, colours as above")
    chance_line(ax, float(results.chance_cosine))
    lowest = float(results.bound.min())
    levels = [level for level in (1e-4, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.5, 1) if level > min(0.04, lowest)]
    ax.set(
        xscale="log",
        yscale="log",
        title="least alignment, single pair",
        yticks=levels,
        yticklabels=[f"{level:g}" for level in levels],
    )
    ticks = {0.01: "0.01", 1: "1", 100: "100", 1e4: "10⁴", 1e6: "10⁶", np.sqrt(ends[0, 0] * ends[-1, 1]): "end"}
    ax.set(xticks=list(ticks), xticklabels=list(ticks.values()))
    ax.minorticks_off()
    ax.set(xlabel=r"training time $\times\ L_r L_s$", ylabel=r"$|\cos(u, E[r f_i])|$")
    legend_below(ax)
