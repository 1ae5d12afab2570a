"""Inference: a checkpoint's forward pass, with what every head reads and the attention that it pays, in float32."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checkpoints.architecture import Architecture
from svtheory.checkpoints.checkpoint import HEAD_WEIGHTS, Checkpoint, head_options
from svtheory.checks import InputError
from svtheory.frames import exact_products
from svtheory.heads.weights import Head, affine

Weights = dict[str, Any]

ACTIVATION = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), partial(jax.nn.gelu, approximate=True)),
    "relu": jax.nn.relu,
    **dict.fromkeys(("silu", "swish"), jax.nn.silu),
}


class Reading(NamedTuple):
    """What a model makes of sequences of tokens.

    logits     of the next token, shape (sequences, positions, vocabulary)
    attn_in    what W_Q and W_K read, the normalised residual stream, shape (layers, sequences, positions, d_model)
    attention  softmax weights, query by key, shape (layers, sequences, heads, positions, positions)
    """

    logits: np.ndarray
    attn_in: np.ndarray
    attention: np.ndarray


def forward(checkpoint: Checkpoint, tokens: np.ndarray, folded: bool = False) -> Reading:
    """Run a checkpoint on tokens (sequences, positions); one layer's weights are in memory at a time.

    `attn_in` is what heads read as they are stored, after gain and bias of the normalisation, or `folded`, before them.
    Keys after the query have a score of -inf, so a weight of exactly 0. All in float32.
    Raises InputError for tokens outside the vocabulary, more positions than the model has, weights that are not finite.
    """
    a = checkpoint.architecture
    tokens = checked_tokens(a, tokens)
    ends = checkpoint.ends()
    x = jnp.asarray(ends["embedding"][tokens])
    if "positions" in ends:
        x += ends["positions"][None, : tokens.shape[1]]
    inputs, attention = [], []
    for i in range(a.layers):
        x, read, paid = _layer(a, i if len(set(a.divisors)) > 1 else 0, checkpoint.layer(i), x, folded)
        inputs.append(np.asarray(read))
        attention.append(np.asarray(paid))
    logits = _logits(a, ends["norm"], ends["unembedding"], x)
    return Reading(np.asarray(logits), np.stack(inputs), np.stack(attention))


def checked_tokens(a: Architecture, tokens: np.ndarray) -> np.ndarray:
    """Tokens as whole numbers; raises InputError for any that the model cannot read."""
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
        raise InputError(f"tokens must be whole numbers (sequences, positions), got {tokens.dtype} {tokens.shape}")
    if tokens.min() < 0 or tokens.max() >= a.vocabulary:
        worst = tokens.min() if tokens.min() < 0 else tokens.max()
        raise InputError(f"tokens must lie from 0 to {a.vocabulary - 1}, the vocabulary, got {worst}")
    if a.context is not None and tokens.shape[1] > a.context:
        raise InputError(f"tokens must have at most {a.context} positions, the model's context, got {tokens.shape[1]}")
    return tokens


@partial(jax.jit, static_argnums=(0, 1, 4))
@exact_products
def _layer(a: Architecture, i: int, w: Weights, x: Array, folded: bool) -> tuple[Array, Array, Array]:
    """The residual stream after layer i, what its heads read, their attention; x (sequences, positions, d_model)."""
    normal = _standardised(a, x)
    read = _scaled(w["attention_norm"], normal)
    mixed, attention = jax.vmap(partial(_attend, a, i, w))(read)
    after = x + mixed
    after += _mlp(a, w, _scaled(w["mlp_norm"], _standardised(a, x if a.parallel else after)))
    return after, normal if folded else read, attention


def _attend(a: Architecture, i: int, w: Weights, read: Array) -> tuple[Array, Array]:
    """What the heads write, (positions, d_model), and their attention (heads, positions, positions)."""
    group = a.heads // a.key_heads
    positions = jnp.arange(read.shape[0])
    weights = {
        name: w[name] if name.endswith("Q") else jnp.repeat(w[name], group, axis=0)
        for name in HEAD_WEIGHTS
        if name in w
    }
    heads = jax.vmap(lambda weights: Head(**weights, **head_options(a, i)), out_axes=0)(weights)
    queries, keys = (jax.vmap(lambda head, f=f: f(head, read, positions))(heads) for f in (Head.queries, Head.keys))
    scores = queries @ keys.swapaxes(1, 2) / a.divisors[i]
    causal = positions[:, None] >= positions[None, :]
    attention = jax.nn.softmax(jnp.where(causal[None], scores, -jnp.inf), axis=-1)
    values = jax.vmap(affine, in_axes=(0, 0 if "b_V" in w else None, None))(w["W_V"], w.get("b_V"), read)
    mixed = attention @ jnp.repeat(values, group, axis=0)
    return affine(w["W_O"], w.get("b_O"), mixed.swapaxes(0, 1).reshape(read.shape[0], -1)), attention


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


def _scaled(norm: Weights, x: Array) -> Array:
    x = x * norm["gain"][None, None]
    return x + norm["bias"][None, None] if "bias" in norm else x


@partial(jax.jit, static_argnums=0)
@exact_products
def _logits(a: Architecture, norm: Weights, unembedding: Array, x: Array) -> Array:
    return _scaled(norm, _standardised(a, x)) @ unembedding.T
