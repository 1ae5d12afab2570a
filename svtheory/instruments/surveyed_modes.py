"""Surveyed modes: the first modes of the heads of a bundle, with contexts, embeddings, features and what they write.

A layer at a time, so that of a large model only the names of what is found are kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from svtheory.checkpoints.networks import Network
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.read_together import READINGS, SIDES
from svtheory.heads.rescaled import without_norms
from svtheory.instruments import sparser
from svtheory.instruments.head_modes import reader
from svtheory.instruments.moments import Moments, moments_of
from svtheory.instruments.nearest import Found, Table, ends, nearest, orthonormal, table
from svtheory.instruments.survey import PLACE, heads_of, over_layer, rounding
from svtheory.instruments.threads import in_threads
from svtheory.instruments.weights_out import embedding_table, output_weights, unembedding_tables
from svtheory.progress import track

ENDS = ("top", "bottom")
DRAWS = 32
"""Random directions behind a chance level."""

MODE = (*PLACE, "reading", "mode")
SIDE = (*MODE, "side")
WRITTEN = (*PLACE, "mode")
Arrays = dict[str, tuple[tuple[str, ...], np.ndarray]]


class Wanted(NamedTuple):
    """What is read, and how much of it is kept.

    heads     layer and head of those that are read, in order
    asked     which tokens are read as queries and as keys, (2, sequences, positions)
    modes     blocks of values of each head
    contexts  tokens in context at each end of one
    near      embeddings, features or tokens written at each end
    seed      of the random directions
    """

    heads: Sequence[tuple[int, int]]
    asked: np.ndarray
    modes: int
    contexts: int
    near: int
    seed: int


class Beside(NamedTuple):
    """What the directions of a layer's heads are held against.

    tables     by kind, "embedding" and "feature", those that there are
    written    what the stream adds to the logits, a table a question
    isotropic  random directions (D, DRAWS)
    """

    tables: Mapping[str, Table]
    written: Sequence[Table]
    isotropic: np.ndarray


def surveyed(bundle: HeadBundle, model: Network | None, features: np.ndarray | None, wanted: Wanted) -> xr.Dataset:
    """The first modes of those heads of a bundle that are wanted; features (D, N), if any.

    Of layers and heads there are those that are read at all; what is not read is NaN, -1 or, of pairs, 0.
    """
    places = dict(zip(PLACE, (sorted(set(x)) for x in zip(*wanted.heads, strict=True)), strict=True))
    layers = list(_layers(bundle, model, features, wanted))
    data = {name: (dims, np.stack([layer[name][1] for layer in layers])) for name, (dims, _) in layers[0].items()}
    found = xr.Dataset(data, places)
    modes = range(1, found.sizes["mode"] + 1)
    return found.assign_coords({"reading": list(READINGS), "mode": modes, "side": list(SIDES), "end": list(ENDS)})


def _layers(bundle: HeadBundle, model: Network | None, features: np.ndarray | None, wanted: Wanted) -> Iterator[Arrays]:
    """What is found of each layer that is read, arrays without its axis."""
    read = sparser.tokens_read(bundle)
    bundle, scales = without_norms(bundle)
    layers, columns = (sorted(set(x)) for x in zip(*wanted.heads, strict=True))
    moments = [None] * len(layers) if scales is not None else _moments(bundle, wanted.asked, layers)
    H, D = bundle.W_Q.shape[2:]
    positions = int(np.prod(read.shape[1:3]))
    normal = np.random.default_rng(wanted.seed).normal(size=(max(D, positions), DRAWS)).astype(np.float32)
    shared = sparser.real_tokens(bundle), jnp.asarray(wanted.asked), jnp.asarray(normal), rounding(bundle)
    given: dict[str, Table] = {} if features is None else {"feature": table(features.T)}
    beside = Beside(given, () if model is None else unembedding_tables(model), normal[:D])
    read_one = reader(min(wanted.modes, H, D))
    for i, of_tokens in track(list(zip(layers, moments, strict=True)), "readout: layers"):
        heads = [head for layer, head in wanted.heads if layer == i]
        output = None
        if model is not None:
            output, beside = _of_model(model, i, bundle.scoring.folded, beside)
        own = jax.tree.map(lambda x, i=i: x[i], scales), output
        some, own = _those(heads, (heads_of(bundle, i), own))
        found = jax.device_get(over_layer(read_one, some, (read[i], of_tokens), own, shared))
        made = _compared(found, wanted) | _near(found, beside, wanted.near, alike=scales is None)
        made |= _written(found["output"], beside, wanted) if "output" in found else {}
        yield {name: (dims, _placed(name, x, heads, columns)) for name, (dims, x) in made.items()}


def _those(heads: list[int], of_layer: Any) -> Any:
    """Of arrays with a first axis of a layer's heads those of some; all of them as they are."""
    return jax.tree.map(lambda x: x if len(x) == len(heads) else x[np.array(heads)], of_layer)


def _placed(name: str, x: np.ndarray, heads: list[int], columns: list[int]) -> np.ndarray:
    """What is found of some heads of a layer, at their places among those that are read of any."""
    if heads == columns:
        return x
    nothing = np.nan if x.dtype.kind == "f" else 0 if name.endswith("pair") else -1
    found = np.full((len(columns), *x.shape[1:]), nothing, x.dtype)
    found[[columns.index(head) for head in heads]] = x
    return found


def _moments(bundle: HeadBundle, asked: np.ndarray, layers: list[int]) -> list[tuple[Moments, Moments]]:
    """Of each layer the moments of queries and of keys, taken once where they are the same tokens."""
    keys = in_threads(partial(moments_of, bundle, where=asked[1]), layers, doing="token moments")
    alike = (asked[0] == asked[1]).all()
    queries = keys if alike else in_threads(partial(moments_of, bundle, where=asked[0]), layers, doing="token moments")
    return list(zip(queries, keys, strict=True))


def _of_model(model: Network, layer: int, folded: bool, beside: Beside) -> tuple[tuple[np.ndarray, np.ndarray], Beside]:
    """What a layer's heads write with, and embeddings as they read them: the same for all layers that are folded."""
    weights = model.layer(layer)
    if "embedding" not in beside.tables or not folded:
        words = {"embedding": embedding_table(model, weights, folded)}
        beside = beside._replace(tables=words | {k: x for k, x in beside.tables.items() if k != "embedding"})
    return output_weights(model.architecture, weights, folded), beside


def _compared(found: Mapping[str, Any], wanted: Wanted) -> Arrays:
    """What a layer's heads compare: values and shares of their modes, their probes, and contexts on both sides."""
    size, probe = found["size"], found["probe"]
    made: Arrays = {name: (MODE, x) for name, x in _shares(found).items()}
    made["decision_share"] = MODE, np.where(size > 0, found["decision_share"], np.nan)
    made["decisions"] = PLACE, found["decisions"]
    first = np.broadcast_to(found["first"][:, :, None, None], (*probe.shape[:-1], size.shape[-1]))
    own = np.where((size == 1)[:, :, None, None], np.take_along_axis(probe, first, axis=-1), np.nan)
    made["probe"] = (*PLACE, "reading", "side", "dimension", "mode"), own
    coordinates = np.moveaxis(found["coordinate"], 2, 3)  # of a mode on both sides
    signed = np.broadcast_to(size[..., None] == 1, coordinates.shape[:4])
    return made | _contexts("", (*SIDE, "end", "context"), coordinates, signed, wanted.contexts)


def _near(found: Mapping[str, Any], beside: Beside, near: int, alike: bool) -> Arrays:
    """What is near the patterns of a layer's heads; `alike` if heads that are centred alike see the same moments."""
    patterns, centred, drawn = found["pattern"], found["centred"], found["random_pattern"]
    shape, bases, less, random, seen = (*found["size"].shape, len(SIDES)), [], [], [], {}
    for h, reading, k, side in np.ndindex(shape):
        bases.append(_basis(found, (h, reading, k), patterns[h, reading, side]))
        less.append(bool(centred[h, side]))
        same = side, less[-1] if alike else h
        random.append(seen.setdefault(same, drawn[h, side]) if READINGS[reading] == "balanced" else beside.isotropic)
    made: Arrays = {}
    for name, rows in beside.tables.items():
        # of embeddings a centred side does not see the mean; features are directions
        off = np.array(less) & (name == "embedding")
        made |= _named(name, SIDE, nearest(rows.cosines, bases, off, random, near), shape)
    return made


def _written(found: Mapping[str, Any], beside: Beside, wanted: Wanted) -> Arrays:
    """What a layer's heads write: attended tokens that move each axis, embeddings near what it reads, and logits."""
    size = found["size"]
    made: Arrays = {f"ov_{name}": (WRITTEN, x) for name, x in _shares(found).items()}
    made |= _contexts("ov_", (*WRITTEN, "end", "context"), found["coordinate"], size == 1, wanted.contexts)
    where, own = list(np.ndindex(size.shape)), list(found["random_pattern"])
    reads, writes = ([_basis(found, at, found[name][at[0]]) for at in where] for name in ("pattern", "write"))
    less, random = np.ones(len(where), bool), [own[h] for h, _ in where]
    near_it = nearest(beside.tables["embedding"].cosines, reads, less, random, wanted.near)
    made |= _named("ov_embedding", WRITTEN, near_it, size.shape)
    random = [beside.isotropic] * len(where)
    raised = [nearest(rows.products, writes, less, random, wanted.near) for rows in beside.written]
    return made | (_raised(raised, found) if raised else {})


def _raised(raised: Sequence[Found], found: Mapping[str, Any]) -> Arrays:
    """The tokens that each axis of what is written raises and lowers, by a standard deviation along it."""
    shape = found["size"].shape
    index, value, level = (
        np.stack(of, axis=1).reshape(*shape, len(raised), *of[0].shape[1:]) for of in zip(*raised, strict=True)
    )
    length = (found["value"] / np.sqrt(np.maximum(found["size"], 1)))[..., None]
    dims = (*WRITTEN, "question")
    return {
        "ov_written_token": ((*dims, "end", "near"), index),
        "ov_logit": ((*dims, "end", "near"), value * length[..., None, None]),
        "ov_logit_chance": (dims, level * length),
    }


def _shares(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Values, shares and pairs of blocks; NaN and 0 where there is none."""
    there = found["size"] > 0
    first = np.where(there, found["first"] + 1, 0)
    values = {name: np.where(there, found[name], np.nan) for name in ("value", "variance_share")}
    return values | {"first_pair": first, "last_pair": np.where(there, found["first"] + found["size"], 0)}


def _contexts(of: str, dims: tuple[str, ...], coordinates: np.ndarray, signed: np.ndarray, contexts: int) -> Arrays:
    """Where coordinates (..., sequences, positions) are largest and smallest, as sequence and position."""
    at, which = ends(coordinates.reshape(*signed.shape, -1), signed, contexts)
    sequence, position = np.where(at >= 0, np.divmod(at, coordinates.shape[-1]), -1)
    return {
        f"{of}context_sequence": (dims, sequence),
        f"{of}context_position": (dims, position),
        f"{of}coordinate": (dims, which),
    }


def _basis(found: Mapping[str, Any], block: tuple[int, ...], vectors: np.ndarray) -> np.ndarray:
    """An orthonormal basis of a block's vectors among those of a head (D, K), (D, 0) of no block."""
    first, size = found["first"][block], found["size"][block]
    return orthonormal(vectors[:, first : first + size]) if size else vectors[:, :0]


def _named(name: str, dims: tuple[str, ...], found: Found, shape: tuple[int, ...]) -> Arrays:
    """Names, cosines and chance levels of one kind, (..., 2, near) and (...)."""
    index, value, level = (x.reshape(*shape, *x.shape[1:]) for x in found)
    called = "feature_index" if name == "feature" else f"{name}_token"
    ended = (*dims, "end", "near")
    return {called: (ended, index), f"{name}_cosine": (ended, value), f"{name}_chance": (dims, level)}
