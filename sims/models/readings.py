"""Reading trained transformers: where heads attend, what explains them (T16), and what removing directions does."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sims.models.tasks import Batch, Hypothesis
from sims.models.trained import (
    Recipe,
    Trained,
    bundle,
    transformer,
)
from sims.models.transformer import Trace, accuracy
from svtheory import Explanation, Head, explain

ATTENDS = 0.9  # a head does a match if this is its mean weight on the right key
HOLDS, LEAD = 0.8, 0.2  # a hypothesis holds from this functional cosine on, this far ahead of all others


@dataclass(frozen=True)
class Reading:
    """One head of one model at work.

    biased   whether it has a query bias
    reads    what it reads, (D, n, B)
    pattern  its attention, (queries, n, B); queries are the last ones of the n positions
    sampled  the sequences with their truth
    """

    recipe: Recipe
    member: int
    layer: int
    index: int
    head: Head
    biased: bool
    reads: np.ndarray
    pattern: np.ndarray
    sampled: Batch

    @property
    def name(self) -> str:
        """`layer.head`."""
        return f"{self.layer}.{self.index}"

    def decided(self, match: str) -> np.ndarray:
        """Which queries decide this match, (queries, B)."""
        return np.asarray(self.sampled.right[match][-len(self.pattern) :]) >= 0

    def attention(self, match: str) -> float:
        """Mean weight on the right key, over the queries that decide the match; NaN where none does."""
        return float(attention_to_right(jnp.asarray(self.pattern), self.sampled.right[match]))

    @property
    def match(self) -> str:
        """The match to whose right key the head attends most."""
        attention = {match: self.attention(match) for match in self.sampled.right}
        return max(attention, key=lambda match: np.nan_to_num(attention[match], nan=-1.0))


def attention_to_right(pattern: Array, right: Array) -> Array:
    """Mean over decided queries of the weight of pattern (queries, n, B) on the position `right` (n, B)."""
    right = right[-pattern.shape[0] :]
    weight = jnp.take_along_axis(pattern, jnp.maximum(right, 0)[:, None], axis=1)[:, 0]
    return jnp.sum(weight, where=right >= 0) / jnp.sum(right >= 0)


class Run(NamedTuple):
    """A model run on fresh sequences: share of right answers to each question, its heads, and what they read."""

    accuracy: np.ndarray
    heads: list[Reading]
    reads: list[Array]


@partial(jax.jit, static_argnums=0)
def _trace(recipe: Recipe, parameters: dict[str, Array], tokens: Array) -> Trace:
    return transformer(recipe, parameters).trace(tokens)


def run(models: Trained, member: int, sampled: Batch, snapshot: int = -1) -> Run:
    """Run one model on the sequences and read every head."""
    recipe = models.recipe
    trace = _trace(recipe, models.model(member, snapshot), sampled.tokens)
    weights = bundle(models, member, trace.reads, snapshot)
    heads = [
        Reading(
            recipe,
            member,
            layer,
            h,
            weights.head(layer, h),
            bool(weights.query_bias[layer, h]),
            np.asarray(read),
            np.asarray(pattern[h]),
            sampled,
        )
        for layer, (read, pattern) in enumerate(zip(trace.reads, trace.patterns, strict=True))
        for h in range(len(pattern))
    ]
    return Run(np.asarray(accuracy(trace.logits, sampled.answers)), heads, trace.reads)


def explanation(reading: Reading, hypothesis: Hypothesis, match: str, key: Array, draws: int) -> Explanation:
    """T16 for one head and hypothesis: queries where the match is decided, keys at all positions.

    Queries are centred iff the head has a query bias, and never where all are one constant token: nothing would be
    left.
    """
    queries = len(reading.pattern)
    decided = reading.decided(match)
    tokens = np.moveaxis(reading.reads, 0, -1)
    query_features = one_hot(reading.sampled.features[hypothesis.query][-queries:], hypothesis.template.shape[0])
    key_features = one_hot(reading.sampled.features[hypothesis.key], hypothesis.template.shape[1])
    return explain(
        reading.head.W_Q,
        mean_key_factor(reading),
        jnp.asarray(tokens[-queries:][decided]),
        jnp.asarray(query_features[decided]),
        jnp.asarray(tokens.reshape(-1, tokens.shape[-1])),
        jnp.asarray(key_features.reshape(-1, key_features.shape[-1])),
        jnp.asarray(hypothesis.template),
        key,
        centred(reading, hypothesis),
        draws,
    )


def centred(reading: Reading, hypothesis: Hypothesis) -> bool:
    """Whether the query side is centred."""
    return reading.biased and hypothesis.template.shape[0] > 1


def explanations(reading: Reading, key: Array, draws: int) -> dict[str, Explanation]:
    """Every hypothesis of the task about this head, at the queries of the match that it does best.

    Only that match's own hypothesis is held against random heads and permuted templates, as many as `draws`.
    """
    return {
        name: explanation(reading, hypothesis, reading.match, key, draws if name == reading.match else 1)
        for name, hypothesis in reading.recipe.given.hypotheses.items()
    }


def lead(found: Mapping[str, Explanation], name: str) -> float:
    """How far the hypothesis leads every other one, in functional cosine."""
    rivals = [float(other.functional_cosine) for rival, other in found.items() if rival != name]
    return float(found[name].functional_cosine) - max(rivals)


def mean_key_factor(reading: Reading) -> Array:
    """W_K; for a rotary head `mean_d R_d^T W_K`, so that it gives the head averaged over the offsets d that occur."""
    head = reading.head
    if head.frequencies is None:
        return head.W_K
    n, columns = reading.pattern.shape[1], head.W_K.T
    turned = [head.rotated(columns, jnp.full(columns.shape[:1], -d)) for d in range(n)]
    return jnp.mean(jnp.stack(turned), axis=0).T


def one_hot(values: Array, classes: int) -> np.ndarray:
    """One-hot features, all 0 where the value is -1."""
    return np.asarray(jax.nn.one_hot(values, classes))


def removed(W: Array, directions: Array) -> Array:
    """W (H, D) that no longer reads the orthonormal directions (D, k): `W (I - U U^T)`."""
    return W - jnp.matmul(jnp.matmul(W, directions, precision="highest"), directions.T, precision="highest")


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _with_reads_removed(recipe, layer, index, match, parameters, sampled, left, right):
    def one(directions):
        U, V = directions
        W_Q, W_K = (
            parameters[name].at[layer, index].set(removed(parameters[name][layer, index], A))
            for name, A in (("W_Q", U), ("W_K", V))
        )
        trace = transformer(recipe, parameters | {"W_Q": W_Q, "W_K": W_K}).trace(sampled.tokens)
        attention = attention_to_right(trace.patterns[layer][index], sampled.right[match])
        return attention, accuracy(trace.logits, sampled.answers).mean()

    return jax.lax.map(one, (left, right))


def ablated(models: Trained, reading: Reading, left: Array, right: Array) -> tuple[np.ndarray, np.ndarray]:
    """Attention to the right key and accuracy when a head's query side no longer reads `left`, its key side `right`.

    Several removals at once: orthonormal directions (removals, D, k) on either side, results (removals,).
    """
    given = models.recipe, reading.layer, reading.index, reading.match, models.model(reading.member)
    attention, right_answers = _with_reads_removed(*given, reading.sampled, left, right)
    return np.asarray(attention), np.asarray(right_answers)
