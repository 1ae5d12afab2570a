"""Attention-only transformers, small enough to train by the dozen.

Arrays run features first, batch last, as in `sims.models.toy`: a residual stream x has shape (D, n, B), n positions in
each of B sequences. The answer is read at the last position, so that the last layer has this one query only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from sims.models.tasks import Batch, Task
from sims.models.toy import product
from svtheory.checks import InputError, one_of, whole

ROTARY_BASE = 1000.0  # rotary angles a position fall from 1 towards 1/ROTARY_BASE
QUERY_KEY_START = 0.2  # of the usual size: theory is about training from a small start


@dataclass(frozen=True)
class TransformerShape:
    """What a transformer is built of.

    positions  "learned", a vector for each, or "rotary", turning queries and keys
    normalise  heads read `x / rms(x)`
    biases     of queries, keys and values
    """

    layers: int = 1
    heads: int = 1
    dim: int = 64
    head_dim: int = 16
    positions: str = "learned"
    normalise: bool = False
    biases: bool = False

    def __post_init__(self):
        for name in ("layers", "heads", "dim", "head_dim"):
            whole(name, getattr(self, name), 1)
        one_of("positions", self.positions, ("learned", "rotary"))
        if self.layers > 3:
            raise InputError(f"layers must be 1, 2 or 3, got {self.layers}")
        if self.positions == "rotary" and self.head_dim % 2:
            raise InputError(f"head_dim must be even for rotary positions, got {self.head_dim}")


class Trace(NamedTuple):
    """What a transformer did: logits (questions, V, B); by layer what heads read (D, n, B), and patterns.

    Patterns (heads, queries, n, B) sum to 1 over keys n; queries are all positions, in the last layer the last one.
    """

    logits: Array
    reads: list[Array]
    patterns: list[Array]


class Transformer(nnx.Module):
    """`x = W_E t + W_P`, then in each layer `x += sum_h W_O W_V x softmax((W_Q x)^T W_K x / sqrt(H))`, causal.

    W_E (D, V), W_P (D, n) or None, W_Q, W_K, W_V (layers, heads, H, D), W_O (layers, heads, D, H), b_Q, b_K, b_V
    (layers, heads, H) or None, W_U (questions, V, D).
    """

    def __init__(self, task: Task, shape: TransformerShape, *, rngs: nnx.Rngs):
        def normal(*axes, fan_in):
            return nnx.Param(jax.random.normal(rngs.params(), axes, float) / fan_in**0.5)

        D, H, stack = shape.dim, shape.head_dim, (shape.layers, shape.heads)
        self.shape = shape
        # embeddings of unit entries, as is usual
        self.W_E = normal(D, task.vocabulary, fan_in=1)
        self.W_P = normal(D, task.length, fan_in=1) if shape.positions == "learned" else None
        self.W_Q, self.W_K = (normal(*stack, H, D, fan_in=D / QUERY_KEY_START**2) for _ in range(2))
        self.W_V = normal(*stack, H, D, fan_in=D)
        self.W_O = normal(*stack, D, H, fan_in=H * shape.heads)
        self.b_Q, self.b_K, self.b_V = (
            nnx.Param(jnp.zeros((*stack, H), float)) if shape.biases else None for _ in range(3)
        )
        self.W_U = normal(task.questions, task.vocabulary, D, fan_in=D)

    def trace(self, tokens: Array) -> Trace:
        """Run on tokens (symbols, n, B)."""
        present = jax.nn.one_hot(tokens, self.W_E.shape[1], axis=0).sum(axis=1)
        x = product("dv,vnb->dnb", self.W_E[...], present)
        if self.W_P is not None:
            x += self.W_P[...][:, :, None]
        reads, patterns = [], []
        for layer in range(self.shape.layers):
            read = x * jax.lax.rsqrt(jnp.mean(x**2, axis=0, keepdims=True) + 1e-6) if self.shape.normalise else x
            first = x.shape[1] - 1 if layer == self.shape.layers - 1 else 0
            pattern = self.pattern(layer, read, first)
            values = self.projected("V", layer, read)
            mixed = jnp.sum(pattern[:, None] * values[:, :, None], axis=3)
            x = x[:, first:] + product("hde,heib->dib", self.W_O[layer], mixed)
            reads.append(read)
            patterns.append(pattern)
        return Trace(product("qvd,db->qvb", self.W_U[...], x[:, -1]), reads, patterns)

    def pattern(self, layer: int, read: Array, first: int) -> Array:
        """Attention of the queries from position `first` on to all keys, (heads, queries, n, B)."""
        q, k = self.projected("Q", layer, read[:, first:]), self.projected("K", layer, read)
        n = read.shape[1]
        if self.shape.positions == "rotary":
            q, k = rotated(q, jnp.arange(first, n)), rotated(k, jnp.arange(n))
        scores = jnp.sum(q[:, :, :, None] * k[:, :, None], axis=1) / self.shape.head_dim**0.5
        seen = jnp.arange(first, n)[:, None] >= jnp.arange(n)[None]
        return jax.nn.softmax(jnp.where(seen[None, :, :, None], scores, -jnp.inf), axis=2)

    def projected(self, name: str, layer: int, read: Array) -> Array:
        """Queries, keys or values `W x + b`, (heads, H, positions, B)."""
        result = product("hed,dnb->henb", getattr(self, f"W_{name}")[layer], read)
        bias = getattr(self, f"b_{name}")
        return result if bias is None else result + bias[layer][:, :, None, None]


def frequencies(head_dim: int) -> np.ndarray:
    """Rotary angles a position, geometric from 1 down, (H/2,)."""
    return ROTARY_BASE ** -(np.arange(head_dim // 2) / (head_dim // 2))


def rotated(x: Array, positions: Array) -> Array:
    """Coordinates h and h + H/2 of x (heads, H, n, B) turned by the angle `theta_h position`."""
    angle = jnp.asarray(frequencies(x.shape[1]), x.dtype)[:, None] * positions[None]
    cos, sin = jnp.cos(angle)[None, :, :, None], jnp.sin(angle)[None, :, :, None]
    a, b = jnp.split(x, 2, axis=1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=1)


@jax.jit
def accuracy(logits: Array, answers: Array) -> Array:
    """Share of right answers to each question, (questions,)."""
    return jnp.mean(jnp.argmax(logits, axis=1) == answers, axis=1, dtype=logits.dtype)


@jax.jit
def cross_entropy(logits: Array, answers: Array) -> Array:
    """Mean over questions and sequences of `-log softmax(logits)[answer]`."""
    right = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), answers[:, None], axis=1)
    return -jnp.mean(right)


def adamw(
    task: Task, shape: TransformerShape, *, batch: int, steps: int, warmup: float = 0.05
) -> tuple[Callable, Callable]:
    """`(start, update)` for `ensemble.train`: AdamW on the cross-entropy of the answers.

    The rate rises linearly over the first share `warmup` of the steps, then falls to 0 as a cosine. `start(key, rate,
    decay)` makes a member, the dict of its "parameters", optimizer "state", peak "rate" and weight "decay";
    `update(member, key)` is one step on a fresh batch, with metrics "loss" and "accuracy" (over all questions).
    """
    graph = nnx.graphdef(jax.eval_shape(lambda: Transformer(task, shape, rngs=nnx.Rngs(0))))
    adam = optax.scale_by_adam(b2=0.98)
    course = optax.warmup_cosine_decay_schedule(0.0, 1.0, max(1, int(warmup * steps)), steps)

    def start(key: Array, rate: Array, decay: Array) -> dict[str, Any]:
        parameters = nnx.to_pure_dict(nnx.state(Transformer(task, shape, rngs=nnx.Rngs(key))))
        return {"parameters": parameters, "state": adam.init(parameters), "rate": rate, "decay": decay}

    def loss(parameters, sampled: Batch):
        logits = nnx.merge(graph, parameters).trace(sampled.tokens).logits
        value = cross_entropy(logits, sampled.answers)
        return value, {"loss": value, "accuracy": accuracy(logits, sampled.answers).mean()}

    def update(member: dict[str, Any], key: Array) -> tuple[dict[str, Any], dict[str, Array]]:
        gradient, metrics = jax.grad(loss, has_aux=True)(member["parameters"], task.sample(key, batch))
        direction, state = adam.update(gradient, member["state"])
        rate = member["rate"] * course(optax.tree_utils.tree_get(state, "count") - 1)
        parameters = jax.tree.map(lambda p, d: p - rate * (d + member["decay"] * p), member["parameters"], direction)
        return member | {"parameters": parameters, "state": state}, metrics

    return start, update
