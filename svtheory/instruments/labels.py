"""Labels: what every array of an instrument's dataset says, and in which unit: none goes without.

An instrument has a table VARIABLES of its arrays, `{name: long name}`, or `{name: (long name, unit)}` where there is a
unit; what all of them have in common, SHARED, stands here. xarray and netCDF write both beside the numbers, and a plot
of xarray's names its axes by them.
"""

from collections.abc import Mapping

import xarray as xr

Label = str | tuple[str, str]
Labels = Mapping[str, Label]
NONE = "1"
"""The unit of what has none."""
SCORE = "score before the divisor, of unit tokens"
"""The unit of singular values."""
SHARED: Labels = {
    "layer": "layer of the model",
    "head": "head of the layer",
    "reading": "how vectors are read: as they are, unwhitened (T15), or balanced, as the data see the head (T22)",
    "side": "queries or keys",
    "pair": "singular pair, 1 of the largest value",
    "singular_value": ("singular value; balanced, the standard deviation of a mode's part of a score", SCORE),
    "named": "whether the gap is above rounding, so that vectors are something by themselves (T14)",
    "block": "first pair of the block of near-equal values that a pair is of",
}

OWN = ("left_out", "taken_for")
"""Attributes in which instruments say something of a run."""


def of_file(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a bundle's metadata say, but for what only an instrument says.

    >>> of_file({"model": "small", "taken_for": "features of mine"})
    {'model': 'small'}
    """
    return {name: text for name, text in metadata.items() if name not in OWN}


def labelled(results: xr.Dataset, variables: Labels) -> xr.Dataset:
    """The dataset, its arrays and coordinates with `long_name` and `units` from `variables` or SHARED.

    What an array that is named in neither says itself it keeps; raises KeyError for one that says nothing.

    >>> found = labelled(xr.Dataset({"S": ("layer", [0.5])}, {"layer": [4]}), {"S": "sparseness"})
    >>> found.S.attrs, found.layer.attrs
    ({'long_name': 'sparseness', 'units': '1'}, {'long_name': 'layer of the model', 'units': '1'})
    """
    table = {**SHARED, **variables}
    results = results.copy()
    for name in map(str, results.variables):
        if name in table or unlabelled(results[name]):
            results[name].attrs.update(label(table[name]))
    return results


def label(given: Label) -> dict[str, str]:
    """A long name, and its unit, as attributes of an array."""
    return dict(zip(("long_name", "units"), (given, NONE) if isinstance(given, str) else given, strict=True))


def unlabelled(array: xr.DataArray) -> bool:
    """Whether an array lacks what it is called or its unit."""
    return not (array.attrs.get("long_name") and array.attrs.get("units"))
