"""Checking: a bundle is made of a model only if it attends as the model does, in every layer, head and sequence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.checkpoints.texts import padded
from svtheory.checks import InputError
from svtheory.export.layers import Layer, assembled
from svtheory.heads.bundles import HeadBundle, host_array
from svtheory.heads.decomposition import attention
from svtheory.heads.weights import Head
from svtheory.prediction.rotary import PAIRINGS
from svtheory.progress import track

TOLERANCE = 1e-3  # of a weight of attention
HELD = (
    "a bundle holds W_Q, W_K, biases, rotation, a divisor, a cap, a window and a root-mean-square norm of queries and "
    "keys, and nothing else that scores are made of"
)


class Pass(NamedTuple):
    """What one sequence of n tokens makes of a model, by layer.

    read  what W_Q and W_K multiply, (n, d_model) each
    paid  attention, (heads, n, n) each
    """

    read: Sequence[np.ndarray]
    paid: Sequence[np.ndarray]


def checked(
    tokens: Any,
    run: Callable[[np.ndarray], Pass],
    layers: Callable[[], Sequence[Layer]],
    metadata: Mapping[str, str],
) -> HeadBundle:
    """The bundle of a model that `run` takes through a sequence (n,), of which `layers` then says how it scores.

    tokens (sequences, positions), or rows of any lengths, which are run alone and padded in the bundle.
    Raises InputError, with layer and distance, where attention is not the model's to TOLERANCE.
    """
    rows, mask = padded(host_array("tokens", tokens) if hasattr(tokens, "detach") else tokens)
    if not np.issubdtype(rows.dtype, np.integer) or rows.shape[1] < 2:
        raise InputError(f"tokens must be whole numbers, of at least 2 positions, got {rows.dtype} {rows.shape}")
    lengths = np.full(len(rows), rows.shape[1]) if mask is None else mask.sum(axis=1)
    longest = int(lengths.argmax())
    first = run(rows[longest])
    bundle = _fitting(layers(), first, metadata)
    heads = _stacked(bundle)
    read = np.zeros((len(heads), *rows.shape, bundle.W_Q.shape[-1]), first.read[0].dtype)
    for s, length in track(enumerate(lengths.tolist()), "sequences", len(rows)):
        found = first if s == longest else run(rows[s, :length])
        _refuse(_distances(heads, found))
        for layer, x in enumerate(found.read):
            read[layer, s, :length] = x
    return replace(bundle, attn_in=read, mask=mask, others={**bundle.others, "tokens": rows})


def _fitting(layers: Sequence[Layer], found: Pass, metadata: Mapping[str, str]) -> HeadBundle:
    """The layers as a bundle, rotated rows paired in the way that comes nearer to the attention of a sequence."""
    seen_ahead = any(np.triu(paid, 1).any() for paid in found.paid)
    standard = all(np.allclose((x.astype(float) ** 2).mean(axis=-1), 1, atol=1e-2) for x in found.read)
    said = {"causal": str(not seen_ahead), "folded": str(standard), **metadata}
    made = [assembled(layers, pairing, said) for pairing in reversed(PAIRINGS)]
    if all(layer.turned is None for layer in layers):
        return made[0]
    return min(made, key=lambda bundle: _distances(_stacked(bundle), found).max())


def _stacked(bundle: HeadBundle) -> list[Head]:
    """The heads of each layer as one Head, every array with a first axis of heads."""
    layers, heads = bundle.W_Q.shape[:2]
    return [jax.tree.map(lambda *x: jnp.stack(x), *(bundle.head(i, j) for j in range(heads))) for i in range(layers)]


def _distances(heads: Sequence[Head], found: Pass) -> np.ndarray:
    """The largest distance of a weight from the model's, by layer."""
    return np.array([_distance(*layer) for layer in zip(heads, *found, strict=True)])


@jax.jit
def _distance(heads: Head, read: Array, paid: Array) -> Array:
    return jax.lax.map(lambda given: jnp.abs(attention(given[0], read) - given[1]).max(), (heads, paid)).max()


def _refuse(distances: np.ndarray) -> None:
    """Raise InputError for the first layer whose attention is not the model's."""
    if not (distances <= TOLERANCE).all():
        layer = int((~(distances <= TOLERANCE)).argmax())
        raise InputError(
            f"model must attend as its bundle does to {TOLERANCE:g}, got weights of attention {distances[layer]:.2g} "
            f"away in layer {layer}: {HELD}"
        )
