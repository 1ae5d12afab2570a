"""Sad's figure: sparseness beside chance, raw and balanced, where contributions come from, and counts."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svtheory.heads.read_together import READINGS
from svtheory.instruments import sparser
from svtheory.instruments.sad_page import quartiles, undefined
from svtheory.instruments.sad_terms import PUBLISHED
from svtheory.instruments.survey import PLACE, layer_colours
from svtheory.reports.plotting import (
    COLOURS,
    GREY,
    MANY,
    legend_below,
    measured,
    name_heads,
    panels_or,
    rank_ticks,
    thinned,
)

NAMED = 3  # heads named in a panel of all, those of the largest numbers


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """Sparseness beside chance, raw and balanced, where contributions come from, counts; on four `axes` if given."""
    heads = results.zero.size
    drawn, axes = panels_or(axes, 4, width=max(4.6, min(0.2 * heads, 8.0)) if heads <= MANY else 5.2, height=4.8)
    for ax, reading in zip(axes, READINGS, strict=False):
        _draw_sparseness(ax, results.sel(reading=reading))
    _draw_ranks(axes[2], results)
    _draw_counts(axes[3], results.sel(reading="raw"))
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    return (
        "First two, mean sparseness of each head's decisions, read raw and balanced (points, with standard errors over "
        "sequences), and that of random heads on the same tokens, their keys chosen anew (lines, with 95 % of them): "
        "of the head's singular values, and of those that the data see; filled points are sparser than either. "
        "Dotted: Gaussian heads; below these alone a head is of low rank only. Crosses: the common rotation, a "
        "diagnostic. Third, where in the order "
        "of singular values contributions come from: mean of each layer, raw filled and balanced hollow, and the even "
        "share as a line; thin, each head, raw. Right, how many singular vectors a decision needs by each rule: median "
        "and middle half of each head. Heads of the largest shares and counts are named."
    )


def _draw_sparseness(ax: Axes, results: xr.Dataset) -> None:
    flat = results.stack(unit=PLACE)
    (S, error), x = sparser.mean_sparseness(flat), np.arange(flat.sizes["unit"])
    many = len(x) > MANY
    for null, colour, shift, label in (
        ("raw", COLOURS[1], -0.15, "random heads"),
        ("balanced", COLOURS[2], 0.15, "random heads, as data see them"),
    ):
        here = flat.sel(null=null)
        ax.hlines(here.null_mean, x + shift - 0.3, x + shift + 0.3, color=colour, label=label, linewidth=1.2)
        ax.vlines(x + shift, here.null_low, here.null_high, color=colour, alpha=0.4, linewidth=1.2 if many else 4)
    common = flat.null_mean.sel(null="common")
    if common.notnull().any():
        ax.plot(x, common, "x", color=GREY, markersize=3 if many else 4, label="common rotation")
        gaussian = flat.gaussian_sparseness.mean("gaussian_head")
        ax.hlines(gaussian, x - 0.45, x + 0.45, color=GREY, linestyles=":", label="Gaussian heads")
    known, size = sparser.found(flat).values, 2.5 if many else 5
    measured(ax, x, S, error, markerfacecolor="white", markersize=size, elinewidth=0.8, label="head")
    measured(ax, x[known], S[known], markersize=size)
    name_heads(ax, results.layer.values, results["head"].values)
    ax.set(ylabel="mean sparseness S")
    ax.set_title(f"{results.reading.item()}: {int(known.sum())} of {len(x)} sparser than random heads")
    legend_below(ax, 2, fontsize=8.5)


def _draw_ranks(ax: Axes, results: xr.Dataset) -> None:
    layers, K = results.sizes["layer"], results.sizes["pair"]
    some = np.unique(np.geomspace(1, K, min(K, 24)).round().astype(int)) - 1
    ax.axhline(1 / K, color="black", label="even share")
    for layer, colour in enumerate(layer_colours(results)):
        each = results.contribution.isel(layer=layer, pair=some)
        here, style = each.mean("head"), {"color": colour, "markersize": 4}
        ax.plot(here.pair, each.sel(reading="raw").transpose("pair", "head"), color=colour, linewidth=0.5, alpha=0.4)
        ax.plot(here.pair, here.sel(reading="balanced"), "o", markerfacecolor="none", **style)
        label = f"layer {layer}" if layer in thinned(layers) else None
        ax.plot(here.pair, here.sel(reading="raw"), "o", label=label, **style)
    shares = results.contribution.sel(reading="raw").stack(unit=PLACE).transpose("unit", "pair")
    _name_most(ax, shares, 1 + shares.values.argmax(axis=1), shares.values.max(axis=1))
    ax.plot([], [], color=GREY, linewidth=0.5, label="each head, raw")
    ax.plot([], [], "o", color=GREY, markerfacecolor="none", label="balanced")
    ax.set(xlabel="rank k of the singular value", ylabel=r"share of $\Sigma_k |c_k|$", xscale="log", ylim=(0, None))
    rank_ticks(ax, K)
    legend_below(ax, 4, fontsize=8.5)


def _name_most(ax: Axes, flat: xr.DataArray, x: np.ndarray, y: np.ndarray) -> None:
    """Names beside the highest points, those of the units of `flat`, unless they are as high as many others."""
    for k in range(len(y)):
        if np.isfinite(y[k]) and (y >= y[k]).sum() <= NAMED:
            name = f"{int(flat.layer[k])}.{int(flat['head'][k])}"
            ax.annotate(name, (x[k], y[k]), (4, 3), textcoords="offset points", fontsize=7.5)


def _draw_counts(ax: Axes, results: xr.Dataset) -> None:
    flat = results["count"].stack(unit=PLACE)
    many = flat.sizes["unit"] > MANY
    for i, rule in enumerate(PUBLISHED):
        low, middle, high = np.array([quartiles(head) for head in flat.sel(rule=rule).transpose("unit", ...)]).T
        x = i + np.linspace(-0.3, 0.3, middle.size)
        style = {"markersize": 2, "elinewidth": 0.5, "capsize": 0} if many else {"markersize": 4}
        measured(ax, x, middle, [middle - low, high - middle], color=COLOURS[i], alpha=0.6, **style)
        _name_most(ax, flat, x, middle)
    labels = [
        f"{rule}\n{float(undefined(results.sel(rule=rule)).mean()):.0%} undefined".replace(", ", ",\n")
        for rule in PUBLISHED
    ]
    ax.set_xticks(range(len(labels)), labels, fontsize=8)
    ax.set(ylabel="singular vectors a decision needs", ylim=(0, None))
