"""Architectures: the sizes and options of a decoder that its forward pass depends on, and places of weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer of a type that is read here; hashable, so that compiled code can depend on it.

    model_type       as config.json has it
    layers, heads, key_heads, d_head, d_model, d_mlp, vocabulary
                     sizes; `heads / key_heads` query heads share a key and a value head
    context          the most positions that it reads, or None: of learned ones their number, of rotary ones those
                     within which "dynamic" frequencies do not depend on the length
    norm             "layer" or "rms", with `epsilon` added to the variance
    activation       of the MLP, by its name in ACTIVATIONS
    parallel         whether the MLP reads the residual stream before attention has written to it
    divisors         what scores are divided by before the softmax, one a layer
    windows          how many keys a query sees, its own among them, one a layer; None is all
    frequencies      of the rotated planes, in radians a position, first rows of a head, half-split; one tuple a layer,
                     empty if not rotary
    score_cap        c where `c tanh(score / divisor / c)` is softmaxed, or None
    logit_cap        the same of the logits
    query_key_norm   over what queries and keys are normalised before they turn: "per head", "all heads" or "none"
    embedding_scale  what embeddings are multiplied by
    symbols          how many symbols, at most, a token is the sum of
    """

    model_type: str
    layers: int
    heads: int
    key_heads: int
    d_head: int
    d_model: int
    d_mlp: int
    vocabulary: int
    context: int | None
    norm: str
    epsilon: float
    activation: str
    parallel: bool
    divisors: tuple[float, ...]
    windows: tuple[int | None, ...]
    frequencies: tuple[tuple[float, ...], ...]
    score_cap: float | None
    logit_cap: float | None
    query_key_norm: str
    embedding_scale: float
    symbols: int = 1


class Place(NamedTuple):
    """Where a weight lies: in tensor `name` of the given shape, its rows `start` to `stop` (all of them if None).

    `transposed` tensors are (in, out) where this package has (out, in): then columns are meant, and turned to rows.
    Of those `above_one`, 1 has been taken before they were stored.
    """

    name: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int | None = None
    transposed: bool = False
    above_one: bool = False


# nested dicts of Places by role; a list holds one Place a head
Places = dict[str, Any]


def all_places(places: Any) -> Iterator[Place]:
    """Every Place among them."""
    if isinstance(places, Place):
        yield places
    else:
        for part in places.values() if isinstance(places, dict) else places:
            yield from all_places(part)
