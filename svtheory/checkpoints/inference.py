"""Inference: a network's forward pass, with what every head reads and the attention that it pays.

`forward` and `read_layers` run it whole; `start`, `run_layer` and `finish` are its steps, for what goes in between.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checkpoints.architecture import Architecture
from svtheory.checkpoints.checkpoint import rotation
from svtheory.checkpoints.networks import Network
from svtheory.checks import InputError, index
from svtheory.heads.decomposition import attention_weights, capped
from svtheory.heads.weights import Head, affine
from svtheory.numerics import exact_products

Weights = dict[str, Any]

TOGETHER = 2**20
"""Numbers that a layer holds of the sequences that it reads at once, at most, if they are several."""
ACTIVATION = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), partial(jax.nn.gelu, approximate=True)),
    "relu": jax.nn.relu,
    **dict.fromkeys(("silu", "swish"), jax.nn.silu),
}


class ForwardPass(NamedTuple):
    """What a model makes of sequences of tokens.

    logits     of the next token, shape (sequences, positions, vocabulary)
    attn_in    what W_Q and W_K read, the normalised residual stream, shape (layers, sequences, positions, d_model)
    attention  softmax weights, query by key, shape (layers, sequences, heads, positions, positions)
    """

    logits: np.ndarray
    attn_in: np.ndarray
    attention: np.ndarray


class LayerPass(NamedTuple):
    """What one layer does: its heads' inputs, their attention if asked for, as in ForwardPass, and what comes after.

    after      the residual stream after the layer, shape (sequences, positions, d_model)
    before     the residual stream before it
    parts      where they are asked for, what it writes: `values` of its key heads, (sequences, key_heads, positions,
               d_head), and what attention and, if it has one, the MLP make, `mixed` and `hidden`, shaped as `after`,
               before a norm behind them
    """

    attn_in: Array
    attention: Array | None
    after: Array
    before: Array | None = None
    parts: dict[str, Array] | None = None


class Added(NamedTuple):
    """What is added to the queries and keys of some heads of a layer, before they turn.

    heads    which heads, shape (edited,)
    queries  shape (sequences, edited, positions, d_head)
    keys     the same of keys; those of the heads alone, where heads share their keys with others
    """

    heads: Array | np.ndarray
    queries: Array | np.ndarray
    keys: Array | np.ndarray


def forward(network: Network, tokens: np.ndarray, folded: bool = False) -> ForwardPass:
    """Run a network on tokens (sequences, positions); one layer's weights are in memory at a time.

    `attn_in` is what heads read as they are stored, after gain and bias of the normalisation, or `folded`, before them.
    Keys after the query have a score of -inf, so a weight of exactly 0. In float32, or float64 where JAX has x64 on.
    `read_layers` gives the same a layer at a time, without logits.
    Raises InputError for tokens outside the vocabulary, more positions than the model has, weights that are not finite,
    and a network without an unembedding, which has no logits.
    """
    network.require_unembedding()
    inputs, attention, after = [], [], jnp.zeros(())
    for layer in read_layers(network, tokens, folded):
        inputs.append(np.asarray(layer.attn_in))
        attention.append(np.asarray(layer.attention))
        after = layer.after
    return ForwardPass(np.asarray(finish(network, after)), np.stack(inputs), np.stack(attention))


def read_layers(
    network: Network, tokens: np.ndarray, folded: bool = False, attention: bool = True
) -> Iterator[LayerPass]:
    """Run a network on tokens as `forward` does, giving each layer when it is done; needs no unembedding.

    Beside a layer's weights and its tokens, what one sequence needs is in memory, and `attention` if it is asked for.
    Raises InputError as `forward` does.
    """
    return _layers(network, start(network, tokens), folded, attention)


def _layers(network: Network, x: Array, folded: bool, attention: bool) -> Iterator[LayerPass]:
    for i in range(network.architecture.layers):
        made = run_layer(network.architecture, i, network.layer(i), x, folded, attention)
        yield made
        x = made.after


def start(network: Network, tokens: np.ndarray) -> Array:
    """The residual stream before the first layer, (sequences, positions, d_model).

    Tokens (sequences, positions); of several symbols each, (sequences, positions, symbols), those below 0 being none.
    Raises InputError for tokens outside the vocabulary and more positions than the model has.
    """
    a = network.architecture
    tokens, weights = checked_tokens(a, tokens), network.inputs()
    x = weights["embedding"][np.maximum(tokens, 0)]
    if a.symbols > 1:
        x = np.where(tokens[..., None] >= 0, x, 0).sum(axis=2)
    x = jnp.asarray(x) * a.embedding_scale
    return x + weights["positions"][None, : x.shape[1]] if "positions" in weights else x


def run_layer(
    a: Architecture,
    layer: int,
    weights: Weights,
    x: Array,
    folded: bool = False,
    attention: bool = True,
    parts: bool = False,
    added: Added | None = None,
) -> LayerPass:
    """What one layer does with the residual stream x (sequences, positions, d_model) before it.

    `weights` are those of `network.layer(layer)`, or changed ones of their shapes; works under jit, vmap and lax.map.
    What is `added` to some heads' queries and keys moves their attention, and theirs alone is then given.
    Raises InputError for a layer out of range.
    """
    layer = index("layer", layer, a.layers)
    window = min(a.windows[layer] or x.shape[1], x.shape[1])
    turned = a.frequencies.index(a.frequencies[layer])  # compiled once for all layers that turn alike
    kept = folded, attention, parts
    return _layer(a, turned, kept, weights, a.divisors[layer], window, x, added)._replace(before=x)


def finish(network: Network, x: Array) -> Array:
    """Logits of the residual stream after the last layer, (..., d_model): shape (..., vocabulary).

    Raises InputError for a network without an unembedding.
    """
    return logits_of(network.architecture, network.outputs(), x)


def checked_tokens(a: Architecture, tokens: np.ndarray) -> np.ndarray:
    """Tokens as whole numbers; raises InputError for any that the model cannot read."""
    tokens = np.asarray(tokens)
    axes, least = ("(sequences, positions)", 0) if a.symbols == 1 else ("(sequences, positions, symbols)", -1)
    if tokens.ndim != axes.count(",") + 1 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
        raise InputError(f"tokens must be whole numbers {axes}, got {tokens.dtype} {tokens.shape}")
    if tokens.min() < least or tokens.max() >= a.vocabulary:
        worst = tokens.min() if tokens.min() < least else tokens.max()
        raise InputError(f"tokens must lie from {least} to {a.vocabulary - 1}, the vocabulary, got {worst}")
    if a.context is not None and tokens.shape[1] > a.context:
        raise InputError(f"tokens must have at most {a.context} positions, the model's context, got {tokens.shape[1]}")
    return tokens


@partial(jax.jit, static_argnums=(0, 1, 2))
@exact_products
def _layer(
    a: Architecture,
    turned: int,
    kept: tuple[bool, ...],
    w: Weights,
    divisor: Array,
    window: Array,
    x: Array,
    added: Added | None = None,
) -> LayerPass:
    """One layer, with its MLP if it has one, heads turned as in layer `turned`, of x (sequences, positions, d_model).

    A few sequences after others: hidden ones of all would be large.
    """
    folded, attention, parts = kept

    def read_one(given: tuple[Array, Any]) -> LayerPass:
        x, here = given[0], None if added is None else Added(added.heads, *given[1])
        normal = _standardised(a, x) if "attention_norm" in w else x
        read = _scaled(w["attention_norm"], normal) if "attention_norm" in w else x
        mixed, paid, values = _attend(a, turned, w, divisor, window, read, here)
        made = {"values": values, "mixed": mixed}
        after = x + _normalised(a, w.get("attention_post_norm"), mixed)
        if "W_in" in w:
            made["hidden"] = _mlp(a, w, _normalised(a, w.get("mlp_norm"), x if a.parallel else after))
            after += _normalised(a, w.get("mlp_post_norm"), made["hidden"])
        paid, made = paid if attention else None, made if parts else None
        return LayerPass(normal if folded else read, paid, after, parts=made)

    given = x, None if added is None else (added.queries, added.keys)
    return lax.map(read_one, given, batch_size=_together(a, *x.shape[:2]))


def _together(a: Architecture, sequences: int, positions: int) -> int:
    """How many sequences go through a layer at once: as many as divide their number and what is in memory allows."""
    held = positions * (a.d_mlp + 4 * a.d_model + a.heads * (positions + 4 * a.d_head))
    return next(n for n in range(sequences, 0, -1) if sequences % n == 0 and (n == 1 or n * held <= TOGETHER))


def _attend(
    a: Architecture, turned: int, w: Weights, divisor: Array, window: Array, read: Array, added: Added | None
) -> tuple[Array, Array, Array]:
    """What the heads write, (positions, d_model), their attention, (heads, positions, positions), and their values.

    Of heads that something is `added` to, their attention alone.
    """
    group, positions = a.heads // a.key_heads, jnp.arange(read.shape[0])
    turns = Head(w["W_Q"][0], w["W_K"][0], **rotation(a, turned))
    queries, keys = (turns.rotated(_compared(a, side, w, read), positions) for side in "QK")
    keys, heads = jnp.repeat(keys, group, axis=0), slice(None) if added is None else added.heads
    if added is not None:
        queries = queries.at[heads].add(turns.rotated(added.queries, positions))
        keys = keys.at[heads].add(turns.rotated(added.keys, positions))
    scores = queries @ keys.swapaxes(1, 2) / divisor
    behind = positions[:, None] - positions[None, :]
    visible = (behind >= 0) & (behind < window)
    attention = attention_weights(capped(scores, a.score_cap), visible[None])
    values = _projected("V", w, read)
    mixed = attention @ jnp.repeat(values, group, axis=0)
    written = affine(w["W_O"], w.get("b_O"), mixed.swapaxes(0, 1).reshape(read.shape[0], -1))
    return written, attention[heads], values


def _compared(a: Architecture, side: str, w: Weights, read: Array) -> Array:
    """Queries or keys of every head before they turn, (heads, positions, d_head)."""
    x = _projected(side, w, read)
    if a.query_key_norm == "none":
        return x
    over = (0, 2) if a.query_key_norm == "all heads" else (2,)
    scale = lax.rsqrt((x**2).mean(axis=over, keepdims=True) + a.epsilon)
    return x * scale * w[f"{side.lower()}_gain"][:, None, :]


def _projected(role: str, w: Weights, read: Array) -> Array:
    """`W x + b` of every head that has W, (heads, positions, d_head)."""
    bias = w.get(f"b_{role}")
    return jax.vmap(affine, in_axes=(0, None if bias is None else 0, None))(w[f"W_{role}"], bias, read)


def _mlp(a: Architecture, w: Weights, x: Array) -> Array:
    hidden = affine(w["W_in"], w.get("b_in"), x)
    activate = ACTIVATION[a.activation]
    hidden = activate(affine(w["W_gate"], w.get("b_gate"), x)) * hidden if "W_gate" in w else activate(hidden)
    return affine(w["W_out"], w.get("b_out"), hidden)


def _standardised(a: Architecture, x: Array) -> Array:
    """`(x - mean)/deviation` before a LayerNorm's gain, `x/rms` before an RMSNorm's."""
    if a.norm == "layer":
        x -= x.mean(axis=-1, keepdims=True)
    return x * lax.rsqrt((x**2).mean(axis=-1, keepdims=True) + a.epsilon)


def _normalised(a: Architecture, norm: Weights | None, x: Array) -> Array:
    """What a norm makes of x; x itself where there is none."""
    return x if norm is None else _scaled(norm, _standardised(a, x))


def _scaled(norm: Weights, x: Array) -> Array:
    parts = {name: part.reshape((1,) * (x.ndim - 1) + part.shape) for name, part in norm.items()}
    return x * parts["gain"] + parts.get("bias", 0)


@partial(jax.jit, static_argnums=0)
@exact_products
def logits_of(a: Architecture, w: Weights, x: Array) -> Array:
    """Logits of the residual stream after the last layer, by the weights of `network.outputs()`."""
    return capped(affine(w["unembedding"], w.get("b_U"), _normalised(a, w.get("norm"), x)), a.logit_cap)
