"""Explain's figure: which heads are explained by what, and the best of them beside all that it is held against."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svtheory.instruments.grades import EXPLAINED, PARTLY, UNEXPLAINED, best, foremost
from svtheory.instruments.survey import PLACE, places
from svtheory.reports.plotting import COLOURS, GREY, measured, panels_or, plain

SHOWN = 16  # singular values
NAMED = 24  # heads named below the figure, at most
FILLS = {EXPLAINED: "full", PARTLY: "left", UNEXPLAINED: "none"}


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """Every head's best hypothesis, where there are several heads; cosines, singular values and families of the best.

    On `axes`, as many as the panels, where they are given.
    """
    top = foremost(best(results))
    here = results.sel(layer=top.layer.item(), head=top["head"].item())
    families = [name.removeprefix("members_") for name in map(str, results) if name.startswith("members_")]
    several = results.sizes["layer"] * results.sizes["head"] > 1
    drawn, panels = panels_or(axes, several + 2 + len(families), width=5.6, height=4.4)
    if several:
        _draw_heads(panels[0], results)
    cosines, values, *others = panels[several:]
    _draw_cosines(cosines, here)
    _draw_values(values, here, top)
    for ax, name in zip(others, families, strict=True):
        _draw_members(ax, here, name)
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    several = results.sizes["layer"] * results.sizes["head"] > 1
    return (
        (
            "First, each head's best hypothesis (95 % intervals of samples drawn again; full: explained, half: partly, "
            "hollow: unexplained), bars up to the highest of its random heads. "
            if several
            else ""
        )
        + "The best head: functional cosine of each hypothesis (points) beside random heads that it would explain, the "
        "head's whitened form or the head itself turned (dots, a line at the highest), and its permuted templates "
        "(crosses). Singular values that its best hypothesis predicts, scaled to the head's logits, and the head's "
        "own. Where there are families, functional cosines of their members, shaded those that samples drawn again "
        "choose, a line at the best of the permuted families."
    )


def _draw_heads(ax: Axes, results: xr.Dataset) -> None:
    found = list(places(best(results), *PLACE))
    names = [str(name) for name in results.hypothesis.values]
    chance = [float(here.null.max()) for here in found]
    ax.bar(range(len(found)), chance, width=0.9, color=GREY, alpha=0.25, label="random heads, highest")
    for a, name in enumerate(names):
        colour = COLOURS[a % len(COLOURS)]
        for i, here in enumerate(found):
            if here.hypothesis.item() == name:
                style = {"color": colour, "fillstyle": FILLS[here.grade.item()], "fmt": "o"}
                measured(ax, i, float(here.functional_cosine), _error(here), **style)
        if any(here.hypothesis.item() == name for here in found):
            ax.plot([], [], "o", color=colour, label=plain(name))
    step = -(-len(found) // NAMED)
    labels = [f"{here.layer.item()}.{here['head'].item()}" for here in found]
    ax.set_xticks(range(0, len(found), step), labels[::step], rotation=90 if len(found) > 8 else 0)
    title = f"{plain(results.attrs.get('bundle', 'all heads'))}: best hypothesis"
    ax.set(xlabel="layer.head", ylabel="functional cosine", title=title)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)


def _error(here: xr.Dataset) -> np.ndarray:
    """Distances to the ends of the interval, as error bars have them, (2, 1)."""
    middle = float(here.functional_cosine)
    return np.maximum([[middle - float(here.lowest)], [float(here.highest) - middle]], 0)


def _draw_cosines(ax: Axes, here: xr.Dataset) -> None:
    x = np.arange(here.sizes["hypothesis"])
    rng = np.random.default_rng(0)
    kinds = (
        (-0.27, here.null.sel(random_head="whitened"), ".", GREY, "random heads, whitened"),
        (-0.09, here.null.sel(random_head="raw"), ".", COLOURS[2], "random heads, raw"),
        (0.12, here.permuted, "x", COLOURS[1], "permuted templates"),
    )
    for offset, cosines, marker, colour, label in kinds:
        spread = rng.uniform(-0.08, 0.08, cosines.shape[-1])
        for i, drawn in zip(x + offset, cosines.values, strict=True):
            ax.plot(i + spread, drawn, marker, color=colour, alpha=0.25, markersize=3)
            if np.isfinite(drawn).any():
                ax.hlines(np.nanmax(drawn), i - 0.09, i + 0.09, color=colour)
        ax.plot([], [], marker, color=colour, label=label)
    errors = np.concatenate([_error(one) for one in places(here, "hypothesis")], axis=1)
    measured(ax, x + 0.3, here.functional_cosine, errors, markersize=7, label="the head")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    ax.set_xticks(x, [plain(name) for name in here.hypothesis.values], rotation=30, ha="right")
    title = f"{plain(here.attrs.get('bundle', 'the head'))}, layer {here.layer.item()}, head {here['head'].item()}"
    ax.set(xlim=(-0.6, len(x) - 0.4), ylabel="functional cosine", title=title)


def _draw_values(ax: Axes, here: xr.Dataset, top: xr.Dataset) -> None:
    pairs = np.arange(1, 1 + here.sizes["pair"])[:SHOWN]
    told = f'predicted by "{plain(top.hypothesis.item())}"'
    ax.plot(pairs, here.predicted_value[:SHOWN], color=COLOURS[1], label=told)
    measured(ax, pairs, here.singular_value[:SHOWN], label="the head's own")
    ax.set(xlabel="pair k", ylabel=r"singular value $\sigma_k$", ylim=(0, None))
    ax.legend()


def _draw_members(ax: Axes, here: xr.Dataset, name: str) -> None:
    members, own = here[f"members_{name}"], here.sel(hypothesis=name)
    x = members[f"member_{name}"].values
    # as wide as a line where all samples choose the same member
    ax.axvspan(float(own.first_member), float(own.last_member), color=GREY, alpha=0.25, linewidth=4, label="best, 95 %")
    measured(ax, x, members, fmt="o-", label="the head")
    ax.axhline(float(own.permuted.max()), color=COLOURS[1], label="permuted families, highest")
    if (x > 0).all() and x.max() > 10 * x.min():
        ax.set_xscale("log")
    ax.set(xlabel=f'member of "{plain(name)}"', ylabel="functional cosine")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
