"""Architectures: the sizes and options of a decoder that its forward pass depends on, and where its weights lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer of GPT-2, GPT-NeoX or Llama type; hashable, so that compiled code can depend on it.

    model_type   "gpt2", "gpt_neox" or "llama"
    layers, heads, key_heads, d_head, d_model, d_mlp, vocabulary
                 sizes; `heads / key_heads` query heads share a key and a value head
    context      number of learned positions, or None where positions are rotary
    norm         "layer" or "rms", with `epsilon` added to the variance
    activation   of the MLP, by its name in ACTIVATIONS
    parallel     whether the MLP reads the residual stream before attention has written to it
    divisors     what scores are divided by before the softmax, one a layer
    frequencies  of the rotated planes, in radians a position, first rows of a head, half-split; empty if not rotary
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
    frequencies: tuple[float, ...] = ()


class Place(NamedTuple):
    """Where a weight lies: in tensor `name` of the given shape, its rows `start` to `stop` (all of them if None).

    `transposed` tensors are (in, out) where this package has (out, in): then columns are meant, and turned to rows.
    """

    name: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int | None = None
    transposed: bool = False


# nested dicts of Places by role; a list holds one Place a head
Places = dict[str, Any]


def all_places(places: Any) -> Iterator[Place]:
    """Every Place among them."""
    if isinstance(places, Place):
        yield places
    else:
        for part in places.values() if isinstance(places, dict) else places:
            yield from all_places(part)


def norm_places(name: str, a: Architecture) -> Places:
    """Gain and, for a LayerNorm, bias."""
    gain = {"gain": Place(f"{name}.weight", (a.d_model,))}
    return gain if a.norm == "rms" else gain | {"bias": Place(f"{name}.bias", (a.d_model,))}


def linear_places(role: str, name: str, out: int, into: int, *, bias: bool, transposed: bool = False) -> Places:
    """`W_role` (out, into) and, if there is one, `b_role` (out,) of a linear map."""
    shape = (into, out) if transposed else (out, into)
    weight = {f"W_{role}": Place(f"{name}.weight", shape, transposed=transposed)}
    return weight | {f"b_{role}": Place(f"{name}.bias", (out,))} if bias else weight


def head_places(
    role: str, name: str, out: int, into: int, starts: list[int], d_head: int, *, bias: bool, transposed: bool = False
) -> Places:
    """`W_role` and `b_role` of each head: `d_head` rows from each of `starts` of a linear map (out, into)."""
    whole = linear_places(role, name, out, into, bias=bias, transposed=transposed)
    return {key: [place._replace(start=i, stop=i + d_head) for i in starts] for key, place in whole.items()}
