"""Survey: one reading of a head over all heads of a bundle, labelled by layer and head, and verdicts over all at once.

An instrument says what it reads of one head, as a function that JAX can trace, and what the axes of that are called.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import xarray as xr
from scipy.stats import false_discovery_control

from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.rescaled import without_norms
from svtheory.heads.weights import Head
from svtheory.progress import track
from svtheory.reports import memory
from svtheory.reports.tables import picked

PLACE = ("layer", "head")
EPSILON = float(np.finfo(np.float32).eps)
Axes = Mapping[str, tuple[str, ...]]


def rounding(bundle: HeadBundle) -> float:
    """The rounding of a head's matrix over its sigma_1, `D eps`: gaps below it name nothing (T14)."""
    return bundle.W_Q.shape[-1] * max(EPSILON, bundle.epsilon)


def read_inputs(bundle: HeadBundle) -> np.ndarray:
    """What the heads read, (layers, sequences, positions, D); raises InputError for a bundle without."""
    if bundle.attn_in is None:
        raise InputError("bundle must hold attn_in, what its heads read, got one without")
    return bundle.attn_in


def chosen_heads(option: str, names: Sequence[str], bundle: HeadBundle) -> list[tuple[int, int]]:
    """Layer and head of those that are named, LAYER.HEAD, in order, of none all; raises InputError for strange ones."""
    every = {f"{layer}.{head}": (layer, head) for layer, head in np.ndindex(*bundle.W_Q.shape[:2])}
    named = [name.strip() for given in names for name in given.split(",")]
    if strange := [name for name in named if name not in every]:
        first, last = next(iter(every)), next(reversed(every))
        raise InputError(f"{option} must be among {first} to {last}, as LAYER.HEAD, got {strange[0]!r}")
    return [place for name, place in every.items() if name in (named or every)]


def check_room(options: str, what: str, numbers: int) -> None:
    """Raise InputError where `options` ask for more of something than there is memory for, at 8 bytes a number."""
    size, room = 8e-9 * numbers, 1e-9 * memory.available()
    if size > room:
        raise InputError(f"{options} must ask for at most {room:.3g} GB of {what}, got up to {size:.3g} GB")


def stacked_heads(bundle: HeadBundle) -> list[Head]:
    """Of each layer its heads as one Head, every array with a first axis of heads.

    Heads with a query-key norm come as `without_norms` has them: over all heads of a layer, each would hold all of it.
    """
    bundle, _ = without_norms(bundle)
    return [heads_of(bundle, layer) for layer in range(len(bundle.W_Q))]


def heads_of(bundle: HeadBundle, layer: int) -> Head:
    """The heads of a layer as one Head, every array with a first axis of heads."""
    heads = [bundle.head(layer, head) for head in range(bundle.W_Q.shape[1])]
    return jax.tree.map(lambda *x: jnp.stack(x), *heads)


def over_heads(
    read: Callable[..., Mapping[str, Any]],
    bundle: HeadBundle,
    axes: Axes,
    of_layer: tuple[Any, ...] = (),
    of_head: tuple[Any, ...] = (),
    shared: tuple[Any, ...] = (),
    doing: str = "layers",
) -> xr.Dataset:
    """What `read(head, *of_layer, *of_head, *shared)` finds of every head, arrays by name, with axes layer and head.

    `axes` names the further axes of each array. Arrays in `of_layer` have a first axis of layers, those in `of_head`
    axes (layers, heads), of which `read` gets its own; it is compiled once a layer's shape and runs head after head.
    What it is `doing` stands beside the progress. Weights of one layer are with JAX at a time, and what is found is
    written where it stays: of large models two of either would be too many.
    """
    bundle, _ = without_norms(bundle)
    layers, data = len(bundle.W_Q), {}
    for i in track(range(layers), doing):
        given = jax.tree.map(lambda x, i=i: x[i], (of_layer, of_head))
        found = over_layer(read, heads_of(bundle, i), *given, shared)
        if i == 0:
            data = {name: np.empty((layers, *found[name].shape), found[name].dtype) for name in axes}
        for name, x in data.items():
            x[i] = found[name]
    places = dict(zip(PLACE, map(range, bundle.W_Q.shape[:2]), strict=True))
    return xr.Dataset({name: ((*PLACE, *axes[name]), x) for name, x in data.items()}, places)


@partial(jax.jit, static_argnums=0)
def over_layer(read: Callable[..., Any], heads: Head, of_layer: Any, of_head: Any, shared: Any) -> Any:
    """What `read(head, *of_layer, *of_head, *shared)` finds of each of a layer's heads, stacked; compiled once."""
    return jax.lax.map(lambda given: read(given[0], *of_layer, *given[1], *shared), (heads, of_head))


def side_by_side(records: Sequence[Mapping[str, Any]], axis: str, axes: Axes | None = None) -> xr.Dataset:
    """Records of like fields as arrays along a new first axis; `axes` names what further axes fields have."""
    axes = axes or {}
    columns = {name: np.array([record[name] for record in records]) for name in records[0]}
    return xr.Dataset({name: ((axis, *axes.get(name, ())), x) for name, x in columns.items()})


def places(results: xr.Dataset, *dims: str) -> Iterator[xr.Dataset]:
    """The part of each place along these dimensions, the last one running fastest."""
    for place in product(*(range(results.sizes[dim]) for dim in dims)):
        yield results.isel(dict(zip(dims, place, strict=True)))


def called(here: xr.Dataset) -> str:
    """What a head is called: layer.head."""
    return f"{int(here.layer)}.{int(here['head'])}"


def by_head(rows: Sequence[Mapping[str, Any]], *names: str) -> list[dict[str, Any]]:
    """What each row's head is called, and the columns of these names, of those that it has; without names, all others.

    Rows that are of no head, such as those of conditions, stay as they are.

    >>> by_head([{"layer": 4, "head": 0, "grade": "partly", "p": 0.1}], "p")
    [{'head': '4.0', 'p': 0.1}]
    """
    if not rows or "layer" not in rows[0]:
        return picked(rows, *(names or rows[0])) if rows else []
    some = picked(rows, *(names or (name for name in rows[0] if name not in PLACE)))
    return [{"head": f"{row['layer']}.{row['head']}", **cells} for row, cells in zip(rows, some, strict=True)]


def listed(those: xr.DataArray, most: int = 12) -> str:
    """Of the heads that `those` are, (layers, heads), the first names, after a colon; nothing of none.

    >>> listed(xr.DataArray([[True, False, True]], {"layer": [4], "head": [0, 1, 2]}, ("layer", "head")))
    ': 4.0, 4.2'
    """
    names = [f"{those.layer.values[i]}.{those['head'].values[j]}" for i, j in np.argwhere(those.values)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f": {', '.join(names[:most])}{more}" if names else ""


def counted(number: int, thing: str) -> str:
    """How many things there are, in words.

    >>> counted(1, "head"), counted(12, "head")
    ('1 head', '12 heads')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


def median_of(heads: int, what: str = "the median") -> str:
    """Of how many heads figures are the median, after a comma; nothing of a single one.

    >>> median_of(12), median_of(1)
    (', the median of 12 heads', '')
    """
    return f", {what} of {heads} heads" if heads > 1 else ""


def adjusted(p_values: Any, tests: int) -> np.ndarray:
    """Benjamini and Hochberg's p-values over the tests along the first axes, as many as `tests`; others are separate.

    A p-value that is undefined counts as 1.

    >>> adjusted(np.array([[0.01, 0.5], [0.04, np.nan]]), 1).tolist()
    [[0.02, 1.0], [0.04, 1.0]]
    """
    p = np.nan_to_num(p_values, nan=1.0)
    flat = p.reshape(-1, *p.shape[tests:])
    return np.asarray(false_discovery_control(flat, axis=0)).reshape(p.shape)


def layer_colours(results: xr.Dataset) -> np.ndarray:
    """A colour for each layer, from dark to bright."""
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.85, results.sizes["layer"]))
