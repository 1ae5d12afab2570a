"""Sweep: cells of a grid become scenarios, heads of one shape are trained together, what is read of them is labelled.

An experiment says what is its own: the cells, how a cell becomes a scenario, how heads are trained, what is read.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from sims.engines.devices import each
from svtheory import Scenario


class Batch(NamedTuple):
    """M heads of one shape.

    given   what they are trained on, as stacked scenarios: leaves (M, ...)
    key     shape (), split among all heads that are trained together, or one for each head, (M,)
    labels  coordinates, (M,), or one value for all
    """

    given: Any
    key: Array
    labels: Mapping[str, Any]


def without_decay(scenario: Scenario) -> Scenario:
    """The same scenario, its weight decay known to be 0 while JAX traces: `predict` compiles nothing for others."""
    return replace(scenario, weight_decay=0.0)


def grid(**axes: Iterable[Any]) -> dict[str, np.ndarray]:
    """Every combination of the values, the last axis running fastest, a column each.

    >>> {name: column.tolist() for name, column in grid(mean=(0.0, 2.0), frame=range(2)).items()}
    {'mean': [0.0, 0.0, 2.0, 2.0], 'frame': [0, 1, 0, 1]}
    """
    columns = zip(*product(*axes.values()), strict=True)
    return {name: np.array(column) for name, column in zip(axes, columns, strict=True)}


def sweep(
    batches: Iterable[Batch],
    train: Callable[..., Any],
    read: Callable[[Any, Any], dict[str, Array]],
    checkpoint: Path,
    axes: Sequence[str] = (),
    head: str = "head",
) -> xr.Dataset:
    """Train all batches, those of one structure and shape together, and label what is read of each head.

    `train(given, keys, checkpoint=, label=)` returns what was trained, leaves (M, ...), and continues after a kill from
    a folder in `checkpoint`; `read(given, trained)` of one head a dict of arrays, whose axes are the first of `axes`.
    Heads lie along `head`, in the order of the batches.
    """
    batches = list(batches)
    tables: list[xr.Dataset] = []
    order: list[int] = []
    for number, group in enumerate(alike(batches)):
        batch = together([batches[index] for index in group])
        size = members(batch)
        keys = batch.key if batch.key.ndim else jax.random.split(batch.key, size)
        trained = train(batch.given, keys, checkpoint=checkpoint / str(number), label=f"{size} heads")
        tables.append(labelled(each(read, batch.given, trained), batch.labels, head, *axes))
        order += [index for index in group for _ in range(members(batches[index]))]
    return xr.concat(tables, head).isel({head: np.argsort(order, kind="stable")})


def labelled(found: Mapping[str, Any], labels: Mapping[str, Any], *axes: str) -> xr.Dataset:
    """What was found, arrays whose axes are the first of `axes`, with labels along the first of these."""
    arrays = {name: np.asarray(x) for name, x in found.items()}
    data = {name: (axes[: x.ndim], x) for name, x in arrays.items()}
    return xr.Dataset(data, {name: (axes[0], np.asarray(x)) for name, x in labels.items()})


def alike(batches: Sequence[Batch]) -> list[list[int]]:
    """Indices of the batches whose given has one structure and shape, group by group."""
    groups = defaultdict(list)
    for index, batch in enumerate(batches):
        leaves, structure = jax.tree.flatten(batch.given)
        groups[structure, tuple(leaf.shape[1:] for leaf in leaves)].append(index)
    return list(groups.values())


def together(batches: Sequence[Batch]) -> Batch:
    """One batch of several; one key that is to be split among all is the first's."""
    given = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(batch.given for batch in batches))
    keys = [batch.key for batch in batches]
    labels = {
        name: np.concatenate([np.broadcast_to(np.asarray(b.labels[name]), members(b)) for b in batches])
        for name in batches[0].labels
    }
    return Batch(given, jnp.concatenate(keys) if keys[0].ndim else keys[0], labels)


def members(batch: Batch) -> int:
    """How many heads M a batch has."""
    return len(jax.tree.leaves(batch.given)[0])
