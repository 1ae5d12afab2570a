"""TrainedHead trained transformers: where heads attend, what explains them (T16), and what removing directions does."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sims.models.tasks import Batch, Hypothesis
from sims.models.trained import Recipe, Trained, bundle, transformer
from sims.models.transformer import Trace, accuracy, cross_entropy
from svtheory import (
    Explanation,
    Head,
    RotationNull,
    SparsenessTest,
    alignment,
    decompose,
    explain,
    rotation_null,
    sparseness_test,
)
from svtheory.checkpoints import Added, finish, network, read_layers, run_edited
from svtheory.checks import InputError
from svtheory.instruments.removals import Along, change

ATTENDS = 0.9  # a head does a match if this is its mean weight on the right key
HOLDS, LEAD = 0.8, 0.2  # a hypothesis holds from this functional cosine on, this far ahead of all others
OVERLAPS = (1, 4)  # top-k subspaces that are compared


@dataclass(frozen=True)
class TrainedHead:
    """One head of one model at work.

    weights  its factors and what scores are made with
    biased   whether it has a query bias
    reads    what it reads, (D, n, B)
    pattern  its attention, (queries, n, B); queries are the last ones of the n positions
    sampled  the sequences with their truth
    """

    recipe: Recipe
    member: int
    layer: int
    index: int
    weights: Head
    biased: bool
    reads: np.ndarray
    pattern: np.ndarray
    sampled: Batch

    @property
    def name(self) -> str:
        """`layer.head`."""
        return f"{self.layer}.{self.index}"

    @property
    def label(self) -> str:
        """`task member:layer.head`."""
        return f"{self.recipe.task} {self.member}:{self.name}"

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


def none_attends() -> InputError:
    """What to raise where no head does a match."""
    return InputError(f"--steps must be enough for a head to attend to the right key by {ATTENDS}: none does")


@jax.jit
def attention_to_right(pattern: Array, right: Array) -> Array:
    """Mean over decided queries of the weight of pattern (queries, n, B) on the position `right` (n, B)."""
    right = right[-pattern.shape[0] :]
    weight = jnp.take_along_axis(pattern, jnp.maximum(right, 0)[:, None], axis=1)[:, 0]
    return jnp.sum(weight, where=right >= 0) / jnp.sum(right >= 0)


class Run(NamedTuple):
    """A model on sequences: share of right answers to each question, its heads, what they read, and its loss."""

    accuracy: np.ndarray
    heads: list[TrainedHead]
    reads: list[Array]
    loss: float


def unseen(models: Trained, seed: int, sequences: int) -> Iterator[tuple[int, Batch, Array]]:
    """Of each member its number, fresh sequences for it to read, and a key for what else is drawn."""
    sample = jax.jit(models.recipe.given.sample, static_argnums=1)
    for member in range(models.recipe.members):
        first, key = jax.random.split(jax.random.fold_in(jax.random.key(seed), member))
        yield member, sample(first, sequences), key


@partial(jax.jit, static_argnums=0)
def _trace(recipe: Recipe, parameters: dict[str, Array], tokens: Array) -> Trace:
    return transformer(recipe, parameters).trace(tokens)


def run_on(models: Trained, member: int, sampled: Batch, snapshot: int = -1) -> Run:
    """Run one model on the sequences and read every head."""
    recipe = models.recipe
    trace = _trace(recipe, models.model(member, snapshot), sampled.tokens)
    weights = bundle(models, member, trace.reads, snapshot)
    heads = [
        TrainedHead(
            *(recipe, member, layer, h, weights.head(layer, h), bool(weights.query_bias[layer, h])),
            *(np.asarray(read), np.asarray(pattern[h]), sampled),
        )
        for layer, (read, pattern) in enumerate(zip(trace.reads, trace.patterns, strict=True))
        for h in range(len(pattern))
    ]
    loss = float(cross_entropy(trace.logits, sampled.answers))
    return Run(np.asarray(accuracy(trace.logits, sampled.answers)), heads, trace.reads, loss)


def explanation(
    head: TrainedHead, hypothesis: Hypothesis, match: str, key: Array, draws: int, resamples: int = 0
) -> Explanation:
    """T16 for one head and hypothesis: queries where the match is decided, keys at all positions.

    Queries are centred iff the head has a query bias, and never where all are one constant token: nothing would be
    left.
    """
    queries = len(head.pattern)
    decided = head.decided(match)
    query_inputs, key_inputs = inputs(head, match)
    query_features = one_hot(head.sampled.features[hypothesis.query][-queries:], hypothesis.template.shape[-2])
    key_features = one_hot(head.sampled.features[hypothesis.key], hypothesis.template.shape[-1])
    return explain(
        head.weights.W_Q,
        mean_key_factor(head),
        jnp.asarray(query_inputs),
        jnp.asarray(query_features[decided]),
        jnp.asarray(key_inputs),
        jnp.asarray(key_features.reshape(-1, key_features.shape[-1])),
        jnp.asarray(hypothesis.template),
        key,
        centred(head, hypothesis),
        draws,
        resamples,
    )


def inputs(head: TrainedHead, match: str) -> tuple[np.ndarray, np.ndarray]:
    """What the head reads at queries where the match is decided, and at all keys, a token a row."""
    tokens = np.moveaxis(head.reads, 0, -1)
    return tokens[-len(head.pattern) :][head.decided(match)], tokens.reshape(-1, tokens.shape[-1])


def centred(head: TrainedHead, hypothesis: Hypothesis) -> bool:
    """Whether the query side is centred."""
    return head.biased and hypothesis.template.shape[-2] > 1


def explanations(head: TrainedHead, key: Array, draws: int) -> dict[str, Explanation]:
    """Every hypothesis of the task about this head, at the queries of the match that it does best.

    Only that match's own hypothesis is held against random heads and permuted templates, as many as `draws`.
    """
    return {
        name: explanation(head, hypothesis, head.match, key, draws if name == head.match else 1)
        for name, hypothesis in head.recipe.given.hypotheses.items()
    }


def lead(found: Mapping[str, Explanation], name: str) -> float:
    """How far the hypothesis leads every other one, in functional cosine."""
    rivals = [float(other.functional_cosine) for rival, other in found.items() if rival != name]
    return float(found[name].functional_cosine) - max(rivals)


def described(head: TrainedHead, key: Array, draws: int) -> dict[str, Any]:
    """One head against every hypothesis of its task, the true one that of the match that it does best."""
    found = explanations(head, key, draws)
    cosines = {name: float(e.functional_cosine) for name, e in found.items()}
    best, true = max(cosines, key=lambda name: cosines[name]), head.match
    truth = found[true]
    return {
        "head": head.name,
        "match": true,
        "attention": head.attention(true),
        "best": best,
        "query_side": "centred" if centred(head, head.recipe.given.hypotheses[true]) else "uncentred",
        "functional_cosine": cosines[true],
        "lead": lead(found, true),
        "lead_over_permuted": float(truth.margin()),
        "explained": cosines[best] >= HOLDS and lead(found, best) >= LEAD,
        "weight_cosine": float(truth.cosine),
        "tau": float(truth.time),
        "p_value": float(truth.p_value),
        "unvisited": float(truth.unvisited),
        **{f"overlap_{k}": float(np.mean(truth.overlap(k))) for k in OVERLAPS},
        **raw_directions(head, truth),
        "dim": head.reads.shape[0],
        "hypotheses": cosines,
    }


def raw_directions(head: TrainedHead, truth: Explanation) -> dict[str, float]:
    """Mean over the template's rank of the best |cos| of trained singular vectors with `E[r f_i]`, by side."""
    hypothesis = head.recipe.given.hypotheses[head.match]
    rank = min(np.linalg.matrix_rank(hypothesis.template), truth.measured.values.size)
    tokens = np.moveaxis(head.reads, 0, -1)
    sides = {"query": (truth.measured.left, hypothesis.query, -1), "key": (truth.measured.right, hypothesis.key, 0)}
    found = {}
    for side, (vectors, feature, first) in sides.items():
        values = one_hot(head.sampled.features[feature][first:], hypothesis.template.shape[side == "key"])
        x = tokens[first:] - (tokens[first:].mean(axis=(0, 1)) if values.shape[-1] > 1 else 0)
        directions = jnp.asarray(np.einsum("nbd,nbf->df", x, values))
        cosines = np.asarray(alignment(vectors, directions))[:rank]
        found[f"raw_{side}"] = cosines.max(axis=1).mean().item()
    return found


def sparseness(head: TrainedHead, match: str, key: Array, draws: int) -> tuple[SparsenessTest, RotationNull]:
    """S of relative attention to the right key, over sequences, at the last query that always decides; its nulls."""
    tokens = np.moveaxis(head.reads, 2, 0).swapaxes(1, 2)
    right = np.asarray(head.sampled.right[match])
    position = np.flatnonzero((right >= 0).all(axis=1))[-1]
    query, chosen = tokens[:, position, None], right[position][:, None]
    return _sparseness_tests(head.weights, query, tokens, chosen, np.array([position]), key, draws)


@partial(jax.jit, static_argnums=6)
def _sparseness_tests(
    head: Head, query: Array, keys: Array, right: Array, position: Array, key: Array, draws: int
) -> tuple[SparsenessTest, RotationNull]:
    test = sparseness_test(head, query, keys, key, draws, right, position)
    return test, rotation_null(decompose(head, query, keys, right, position=position), key, draws, "common")


def mean_key_factor(head: TrainedHead) -> Array:
    """W_K; for a rotary head `mean_d R_d^T W_K`, so that it gives the head averaged over the offsets d that occur."""
    weights, n = head.weights, head.pattern.shape[1]
    if weights.frequencies is None:
        return weights.W_K
    columns = weights.W_K.T
    turned = [weights.rotated(columns, jnp.full(columns.shape[:1], -d)) for d in range(n)]
    return jnp.mean(jnp.stack(turned), axis=0).T


def one_hot(values: Array, classes: int) -> np.ndarray:
    """One-hot features, all 0 where the value is -1."""
    return np.asarray(np.asarray(values)[..., None] == np.arange(classes), jnp.result_type(float))


def ablated(
    models: Trained, head: TrainedHead, left: Sequence[Array], right: Sequence[Array]
) -> tuple[np.ndarray, np.ndarray]:
    """Attention to the right key and accuracy when a head's query side no longer reads `left`, its key side `right`.

    Several removals, one after another: orthonormal directions (D, k), any k, on either side; results (removals,).
    """
    sampled, reads = head.sampled, _trace(models.recipe, models.model(head.member), head.sampled.tokens).reads
    made = bundle(models, head.member, reads, tokens=sampled.tokens)
    model = network(made)
    before = next(islice(read_layers(model, made.others["tokens"], attention=False), head.layer, None)).before
    factors, tokens = (head.weights.W_Q, head.weights.W_K), np.moveaxis(head.reads, 2, 0).swapaxes(1, 2)
    edits = []
    for directions in zip(left, right, strict=True):
        sides = [(np.asarray(W), np.asarray(U)) for W, U in zip(factors, directions, strict=True)]
        queries, keys = (change(W, Along(U, U), tokens @ U, 0.0)[:, None] for W, U in sides)
        edits.append(Added(np.array([head.index]), queries, keys))
    assert before is not None
    passed = run_edited(model, head.layer, before, edits)
    patterns = passed.attention[:, :, 0].transpose(0, 2, 3, 1)
    attention = [attention_to_right(pattern, sampled.right[head.match]) for pattern in patterns]
    logits = finish(model, jnp.asarray(passed.after[:, :, -1]))
    logits = logits.reshape(*logits.shape[:2], len(sampled.answers), -1)
    right_answers = logits.argmax(axis=-1) == sampled.answers.T[None]
    return np.array(attention), np.asarray(right_answers.mean(axis=(1, 2), dtype=logits.dtype))
