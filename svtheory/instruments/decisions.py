"""Decisions: queries of heads with a key that each attends to, as they are asked for, or the strongest of each head."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from svtheory.checkpoints.components import Recorded
from svtheory.checks import InputError, index
from svtheory.heads.bundles import HeadBundle
from svtheory.reports.options import Options

PLACE = ("layer", "head", "sequence", "query", "key")


class Decision(NamedTuple):
    """A head's query in a sequence, and a key that it attends to, as positions.

    >>> Decision(layer=1, head=0, sequence=0, query=7, key=3).at("key")
    3
    """

    layer: int
    head: int
    sequence: int
    query: int
    key: int

    def at(self, side: str) -> int:
        """The position of a side."""
        return self.query if side == "query" else self.key


@dataclass(frozen=True)
class Asked(Options):
    """Which decisions."""

    layer: int | None = None
    """Layer of the heads; none is all."""
    head: int | None = None
    """Head of each layer; none is all."""
    sequence: int | None = None
    """Sequence, from 0; none: the strongest."""
    query: int | None = None
    """Position of the query, from 0; none: the strongest."""
    key: int | None = None
    """Position of the key; none: the most attended, the first position left out."""


def visible(bundle: HeadBundle, layer: int) -> np.ndarray:
    """Which keys the queries of a layer's heads see, (sequences, positions, positions); of padding, none."""
    T = bundle.real.shape[1]
    behind = np.arange(T)[:, None] - np.arange(T)
    seen = (behind >= 0) & (behind < (bundle.scoring.windows[layer] or T))
    return seen[None] & bundle.real[:, :, None] & bundle.real[:, None, :]


def asked_for(bundle: HeadBundle, settings: Asked) -> dict[str, np.ndarray]:
    """The layers, heads, sequences, queries and keys that settings leave to choose from, by name."""
    S, T = bundle.real.shape
    sizes: dict[str, int] = dict(zip(PLACE, (*bundle.W_Q.shape[:2], S, T, T), strict=True))
    given: dict[str, int | None] = {name: getattr(settings, name) for name in PLACE}
    left: dict[str, np.ndarray] = {name: np.arange(int(name == "key"), size) for name, size in sizes.items()}
    return left | {name: np.array([index(f"--{name}", x, sizes[name])]) for name, x in given.items() if x is not None}


def strongest(bundle: HeadBundle, found: Recorded, asked: dict[str, np.ndarray], count: int) -> list[Decision]:
    """Of each head the strongest decisions of those asked for, one a sequence, as many as `count`."""
    chosen = []
    for layer in asked["layer"]:
        seen = visible(bundle, layer)
        left = np.zeros_like(seen)
        left[np.ix_(*(asked[name] for name in PLACE[2:]))] = True
        share = 1 / np.maximum(seen.sum(axis=2, keepdims=True), 1)
        for head in asked["head"]:
            strength = np.where(seen & left, found.layers[layer].attention[:, head] - share, -np.inf)
            chosen += [Decision(int(layer), int(head), *at) for at in _best(strength, count)]
    if not chosen and len(asked["key"]) > 1:
        raise InputError(
            f"--query must see a key behind position 0, which --key 0 asks for, got {asked['query'].tolist()}"
        )
    if not chosen:
        raise InputError(f"--key must be a position that --query sees, got {asked['key'].tolist()}")
    return chosen


def _best(strength: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The strongest (query, key) of each sequence, of the strongest sequences."""
    flat = strength.reshape(len(strength), -1)
    order = np.argsort(-flat.max(axis=1), kind="stable")[:count]
    order = order[np.isfinite(flat.max(axis=1)[order])]
    places = [np.unravel_index(flat[s].argmax(), strength.shape[1:]) for s in order]
    return [(int(s), int(query), int(key)) for s, (query, key) in zip(order, places, strict=True)]


def given_decisions(bundle: HeadBundle, decisions: Any) -> list[Decision]:
    """Decisions that are given, checked."""
    given = np.asarray(decisions)
    if given.ndim != 2 or given.shape[1:] != (5,) or not len(given) or not np.issubdtype(given.dtype, np.integer):
        raise InputError(f"decisions must be whole numbers (n, 5), {', '.join(PLACE)}, got {given.dtype} {given.shape}")
    sizes = np.array([*bundle.W_Q.shape[:2], *bundle.real.shape, bundle.real.shape[1]])
    if ((given < 0) | (given >= sizes)).any():
        raise InputError(
            f"decisions must lie from 0 to below {sizes.tolist()}, got {_first(given, (given >= sizes) | (given < 0))}"
        )
    seen = np.stack([visible(bundle, layer) for layer in range(len(bundle.W_Q))])
    lost = ~seen[given[:, 0], given[:, 2], given[:, 3], given[:, 4]]
    if lost.any():
        raise InputError(f"decisions must be of keys that their queries see, got {_first(given, lost[:, None])}")
    return [Decision(*map(int, row)) for row in given]


def _first(given: np.ndarray, wrong: np.ndarray) -> list[int]:
    return given[int(wrong.any(axis=1).argmax())].tolist()
