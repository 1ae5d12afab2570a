"""Curves: heads of one label averaged, the prediction drawn as a line and the trained heads as points on it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from sims.lab.rules import standard_error
from svtheory.reports.plotting import COLOURS, curve


def by_label(results: xr.Dataset, label: str) -> tuple[xr.Dataset, xr.Dataset]:
    """Mean of all heads that share a label, and its standard error."""
    groups = results.groupby(label)
    return groups.mean(), groups.std(ddof=1) / np.sqrt(groups.count())


def curves(ax: Axes, heads: xr.Dataset, label: str, chosen: Mapping[str, Mapping[str, Any]]) -> None:
    """`predicted` and `measured` of the heads against a label, a curve for each of the `chosen` selections."""
    mean, error = by_label(heads[["predicted", "measured"]], label)
    for (name, selection), colour, shape in zip(chosen.items(), COLOURS, "os^D", strict=False):
        line, spread = mean.sel(selection), error.sel(selection).measured
        curve(ax, line[label], line.predicted, line.measured, spread, color=colour, fmt=shape, label=name)


def with_error(x: xr.DataArray) -> str:
    """Mean and standard error of independent measurements, for a table cell."""
    return f"{x.mean().item():.3f} ± {standard_error(x.values):.3f}"
