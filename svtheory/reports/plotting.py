"""One plot style: predictions are lines, measurements are points with error bars, colours survive colour blindness."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from svtheory.checks import InputError

# Okabe and Ito's palette, strongest contrasts first
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#666666"
MANY = 40  # heads, of which each is no longer named

STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "savefig.dpi": 160,
    "savefig.facecolor": "white",
}


def style() -> AbstractContextManager[None]:
    """Within it, everything is drawn in the style of this project."""
    return matplotlib.rc_context(STYLE)


def plain(name: object) -> str:
    """A name from outside as it is: dollars in it enclose no formula.

    >>> plain("$SAE and $PCA")
    '\\\\$SAE and \\\\$PCA'
    """
    return str(name).replace("$", r"\$")


def panels(columns: int = 1, rows: int = 1, width: float = 5.0, height: float = 3.8) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, shape (rows, columns), each `width` x `height` inches."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def panels_or(axes: Any, columns: int = 1, width: float = 5.0, height: float = 3.8) -> tuple[Figure, np.ndarray]:
    """The given axes, as many as `columns`, and their figure; where none are given, new ones, in twos."""
    if axes is None:
        across = min(columns, 2)  # a page shows them wide enough to be read
        figure, made = panels(across, -(-columns // across), width, height)
        for ax in made.ravel()[columns:]:
            ax.remove()
        return figure, made.ravel()[:columns]
    given = np.ravel(np.asarray(axes, dtype=object))
    if len(given) != columns:
        raise InputError(f"axes must be {columns} axes of matplotlib, got {len(given)}")
    return given[0].figure, given


def measured(ax: Axes, x: ArrayLike, y: ArrayLike, yerr: ArrayLike | None = None, **style: Any) -> None:
    """Measurements: points at (x, y), with error bars where `yerr` is given."""
    ax.errorbar(x, y, yerr=yerr, **{"fmt": "o", "color": COLOURS[0], "alpha": 0.85, "elinewidth": 1.2, **style})


def measured_at_each(ax: Axes, x: ArrayLike, y: ArrayLike, **style: Any) -> None:
    """Means of the measurements y at each value of x, with their standard deviations."""
    x, y = np.asarray(x), np.asarray(y)
    values = np.unique(x)
    at_each = [y[x == value] for value in values]
    measured(ax, values, [np.mean(some) for some in at_each], [np.std(some, ddof=1) for some in at_each], **style)


def curve(
    ax: Axes, x: ArrayLike, predicted: ArrayLike, values: ArrayLike, yerr: ArrayLike | None = None, **style: Any
) -> None:
    """A prediction over x as a line, and measured values as points with error bars in its colour."""
    ax.plot(x, predicted, color=style.get("color", COLOURS[0]))
    measured(ax, x, values, yerr, **style)


def chance_line(ax: Axes, level: float) -> None:
    """A dotted line at the level that random directions reach."""
    ax.axhline(level, color=GREY, linestyle=":", label=f"chance, {level:.2f}")


def legend_below(ax: Axes, columns: int = 3, **style: Any) -> None:
    """The legend beneath the axes and their labels, where it covers no point."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, columnspacing=1.2, **style)


def name_heads(ax: Axes, layers: Sequence[int] | np.ndarray, heads: Sequence[int] | np.ndarray) -> None:
    """The heads of layers along the x axis: by name, or where there are MANY, by layer, with lines between layers."""
    number = len(layers) * len(heads)
    if number > MANY:
        ax.set_xticks(len(heads) * (np.arange(len(layers)) + 0.5) - 0.5, [str(layer) for layer in layers])
        for i in range(1, len(layers)):
            ax.axvline(len(heads) * i - 0.5, color=GREY, linewidth=0.4, alpha=0.6)
        ax.grid(visible=False, axis="x")
        ax.set_xlabel("heads by layer")
    else:
        names = [f"{layer}.{head}" for layer in layers for head in heads]
        ax.set_xticks(range(len(names)), names, rotation=90 if len(names) > 8 else 0, fontsize=8.5)
        ax.set_xlabel("layer.head")
    ax.set_xlim(-0.8, number - 0.2)


def rank_ticks(ax: Axes, highest: int) -> None:
    """Ranks 1, 2, 5, 10, ... along a logarithmic x axis."""
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200) if k <= highest]
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.minorticks_off()


def thinned(number: int, most: int = 6) -> range:
    """Which of `number` things are labelled: at most as many as `most`, evenly spaced.

    >>> list(thinned(12)), list(thinned(3))
    ([0, 2, 4, 6, 8, 10], [0, 1, 2])
    """
    return range(0, number, -(-number // most))


def predicted_against_measured(
    ax: Axes, predicted: ArrayLike, values: ArrayLike, yerr: ArrayLike | None = None, **style: Any
) -> None:
    """Measured values over predicted ones, with the identity, the prediction, as a line through all points so far."""
    measured(ax, predicted, values, yerr, **style)
    for line in [line for line in ax.lines if line.get_gid() == "identity"]:
        line.remove()
    low, high = min(ax.dataLim.x0, ax.dataLim.y0), max(ax.dataLim.x1, ax.dataLim.y1)
    ax.plot([low, high], [low, high], color=COLOURS[1], zorder=1, label="predicted", gid="identity")
