"""Sequence tasks whose features are known: what every position holds, and which key each decision should find.

A generator is a function of a key and a batch size that works under jit. Positions run along the second last axis and
the batch along the last, as everywhere in the trainers. A token is a set of symbols of one vocabulary, most often of
one; the model answers at the last position.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.checks import one_of
from svtheory.heads.hypotheses import decaying_orders


class Batch(NamedTuple):
    """Sequences of n positions with the truth about them.

    tokens    symbols that make up each token, (symbols, n, B)
    answers   the symbol that answers each question, (questions, B)
    features  by name, the value of a feature at every position, from 0, or -1 where it has none, (n, B)
    right     by match, the position that each query should attend to, or -1 where nothing is decided, (n, B)
    """

    tokens: Array
    answers: Array
    features: dict[str, Array]
    right: dict[str, Array]


class Hypothesis(NamedTuple):
    """What a head may be for: `T_ab` is the logit asked for query feature value a and key feature value b.

    template  T (N, M), or a family of P such templates (P, N, M), of which the head may choose the best
    """

    query: str
    key: str
    template: np.ndarray


@dataclass(frozen=True)
class Task:
    """A task, the hypotheses about its heads, and how large a model it needs.

    Hypotheses of the name of a match in `Batch.right` are true of the heads that do this match; all others are rivals.
    """

    sample: Callable[[Array, int], Batch]
    vocabulary: int
    length: int
    hypotheses: Mapping[str, Hypothesis]
    questions: int = 1
    layers: int = 1
    heads: int = 1


def _same(query: str, key: str, values: int) -> Hypothesis:
    return Hypothesis(query, key, np.eye(values))


def _permutations(key: Array, n: int, batch: int) -> Array:
    """Uniform permutations of n things, (n, batch)."""
    return jnp.argsort(jax.random.uniform(key, (n, batch)), axis=0)


def _take(rows: Array, positions: Array) -> Array:
    """The entry of each column of `rows` (n, B) at its position, (B,)."""
    return jnp.take_along_axis(rows, positions[None], axis=0)[0]


def _positions(length: int, batch: int) -> Array:
    return jnp.broadcast_to(jnp.arange(length)[:, None], (length, batch))


def _previous(rows: Array) -> Array:
    """Every position's predecessor in `rows` (n, B), -1 at the first."""
    return jnp.concatenate([jnp.full_like(rows[:1], -1), rows[:-1]])


def _at_the_end(right: Array, length: int) -> Array:
    """The position `right` (B,) for the last query, nothing decided before it, (length, B)."""
    return jnp.full((length, right.shape[0]), -1).at[-1].set(right)


def _previous_position(length: int) -> np.ndarray:
    """The position before, less the mean of the positions that a causal query sees: nothing is asked of the others."""
    seen = np.tri(length)
    return np.eye(length, k=-1) - seen / seen.sum(axis=1, keepdims=True)


def induction(symbols: int = 12, length: int = 8) -> Task:
    """Distinct symbols, of which the last token repeats one; the answer is the symbol that followed it.

    Two layers: previous positions are found first, then the position whose previous token is the current one.
    """

    def sample(key: Array, batch: int) -> Batch:
        first, second = jax.random.split(key)
        body = _permutations(first, symbols, batch)[: length - 1]
        where = jax.random.randint(second, (batch,), 0, length - 2)
        tokens = jnp.concatenate([body, _take(body, where)[None]])
        positions = _positions(length, batch)
        features = {"token": tokens, "previous": _previous(tokens), "position": positions}
        right = {
            "previous token = token": _at_the_end(where + 1, length),
            "previous position": jnp.where(positions < length - 1, positions - 1, -1),
        }
        return Batch(tokens[None], _take(body, where + 1)[None], features, right)

    return Task(
        sample,
        symbols,
        length,
        {
            "previous token = token": _same("token", "previous", symbols),
            "own token = token": _same("token", "token", symbols),
            "previous position": Hypothesis("position", "position", _previous_position(length)),
            "own position": _same("position", "position", length),
        },
        layers=2,
    )


def recall(symbols: int = 8, pairs: int = 3) -> Task:
    """Pairs of a cue and a value, then one of the cues again; the answer is its value. Two layers, as for induction."""
    length = 2 * pairs + 1

    def sample(key: Array, batch: int) -> Batch:
        first, second, third = jax.random.split(key, 3)
        cues = _permutations(first, symbols, batch)[:pairs]
        values = jax.random.randint(second, (pairs, batch), 0, symbols)
        where = jax.random.randint(third, (batch,), 0, pairs)
        none = jnp.full((1, batch), -1)
        cue = jnp.concatenate([jnp.stack([cues, -jnp.ones_like(cues)], 1).reshape(-1, batch), _take(cues, where)[None]])
        value = jnp.concatenate([jnp.stack([-jnp.ones_like(cues), values], 1).reshape(-1, batch), none])
        positions = _positions(length, batch)
        features = {"cue": cue, "value": value, "cue before": _previous(cue), "position": positions}
        right = {
            "cue before = cue": _at_the_end(2 * where + 1, length),
            "previous position": jnp.where(value >= 0, positions - 1, -1),
        }
        tokens = jnp.where(cue >= 0, cue, symbols + value)
        return Batch(tokens[None], symbols + _take(values, where)[None], features, right)

    return Task(
        sample,
        2 * symbols,
        length,
        {
            "cue before = cue": _same("cue", "cue before", symbols),
            "own cue = cue": _same("cue", "cue", symbols),
            "previous position": Hypothesis("position", "position", _previous_position(length)),
            "own position": _same("position", "position", length),
        },
        layers=2,
    )


def attributes(matched: tuple[str, ...] = ("colour", "shape"), values: int = 8, objects: int = 6) -> Task:
    """Objects of a colour, a shape and a size, then "of what size was the red one, of what size the square one?".

    One question for each attribute in `matched`, whose values are distinct among the objects; sizes are not. The query
    has symbols of its own, and asks about two objects. A head that attends to both cannot tell which was which, so
    that one head must match colour with colour and another shape with shape.
    """
    kinds, length = len(matched), objects + 1

    def sample(key: Array, batch: int) -> Batch:
        first, second, third = jax.random.split(key, 3)
        of_objects = jnp.stack([_permutations(k, values, batch)[:objects] for k in jax.random.split(first, kinds)])
        where = jax.random.randint(second, (kinds, batch), 0, objects)
        size = jax.random.randint(third, (1, objects, batch), 0, values)
        asked = jnp.take_along_axis(of_objects, where[:, None], axis=1)
        none = jnp.full((kinds, 1, batch), -1)
        attribute = jnp.concatenate([of_objects, none], axis=1)
        question = jnp.concatenate([jnp.full_like(of_objects, -1), asked], axis=1)
        sizes = jnp.concatenate([size, none[:1]], axis=1)
        features = dict(zip(matched, attribute, strict=True)) | {"size": sizes[0]}
        features |= {f"asked {name}": x for name, x in zip(matched, question, strict=True)}
        tokens = jnp.concatenate([attribute, question, sizes])
        offset = values * jnp.arange(2 * kinds + 1)[:, None, None]
        answers = values * 2 * kinds + jnp.stack([_take(size[0], w) for w in where])
        right = {f"{name} = asked {name}": _at_the_end(w, length) for name, w in zip(matched, where, strict=True)}
        return Batch(jnp.where(tokens < 0, -1, tokens + offset), answers, features, right)

    hypotheses = {f"{b} = asked {a}": _same(f"asked {a}", b, values) for a in matched for b in (*matched, "size")}
    return Task(sample, values * (2 * kinds + 1), length, hypotheses, questions=kinds, heads=kinds)


def largest(numbers: int = 16, items: int = 6) -> Task:
    """Distinct numbers, then an end token; the answer is the largest. The query is the same in every sequence."""
    length = items + 1

    def sample(key: Array, batch: int) -> Batch:
        listed = _permutations(key, numbers, batch)[:items]
        where = jnp.argmax(listed, axis=0)
        tokens = jnp.concatenate([listed, jnp.full((1, batch), numbers)])
        none = jnp.full((1, batch), -1)
        features = {
            "end": jnp.zeros_like(tokens),
            "number": jnp.concatenate([listed, none]),
            "position": _positions(length, batch),
        }
        return Batch(tokens[None], _take(listed, where)[None], features, {"larger": _at_the_end(where, length)})

    ranks = np.arange(numbers)[None] / (numbers - 1) - 0.5
    return Task(
        sample,
        numbers + 1,
        length,
        {
            "larger": Hypothesis("end", "number", ranks),
            "even": Hypothesis("end", "number", (ranks * 0) + np.arange(numbers) % 2 * 2 - 1),
            "extreme": Hypothesis("end", "number", ranks**2),
            "later": Hypothesis("end", "position", np.arange(length)[None] / length),
        },
    )


def next_larger(numbers: int = 16, items: int = 6) -> Task:
    """Distinct numbers, then one of them again, not the largest; the answer is the next larger one that is listed.

    How much nearer numbers are preferred is left open: the true hypothesis is a family, `[k > q] e^{-(k - q)/L}` of
    several reaches L, from one step to all numbers.
    """
    length = items + 1

    def sample(key: Array, batch: int) -> Batch:
        first, second = jax.random.split(key)
        listed = _permutations(first, numbers, batch)[:items]
        rank, places = jax.random.randint(second, (batch,), 0, items - 1), jnp.argsort(listed, axis=0)
        where = _take(places, rank + 1)
        tokens = jnp.concatenate([listed, _take(listed, _take(places, rank))[None]])
        features = {"number": tokens, "position": _positions(length, batch)}
        return Batch(tokens[None], _take(listed, where)[None], features, {"next larger": _at_the_end(where, length)})

    number = np.arange(numbers)
    further, size = number[None, :] - number[:, None], number / (numbers - 1) - 0.5
    return Task(
        sample,
        numbers,
        length,
        {
            "next larger": Hypothesis("number", "number", decaying_orders(further, reaches(numbers))),
            "same number": _same("number", "number", numbers),
            "both sizes": Hypothesis("number", "number", np.outer(size, size)),
            "size of the key": Hypothesis("number", "number", np.tile(size, (numbers, 1))),
        },
    )


def reaches(numbers: int) -> np.ndarray:
    """The members of the family of `next_larger`: from 1 to all numbers, evenly in their logarithm."""
    return np.geomspace(1, numbers, 9)


def indirect_object(names: int = 6, fillers: int = 4, mentions: int = 3, length: int = 7) -> Task:
    """Two names among filler words, one of them mentioned again and again, then once more; the answer is the other.

    With several mentions of the repeated name, attention to all names alike finds the other one too rarely. Two heads:
    a single one is caught in a local minimum in a quarter of the seeds.
    """

    def sample(key: Array, batch: int) -> Batch:
        first, second, third = jax.random.split(key, 3)
        pair = _permutations(first, names, batch)[:2]
        order = _permutations(second, length - 1, batch)
        words = names + jax.random.randint(third, (length - 1, batch), 0, fillers)
        # the other name stands where a random order has 0, the repeated one where it has 1, ..., mentions
        body = jnp.where(order == 0, pair[:1], jnp.where(order <= mentions, pair[1:], words))
        tokens = jnp.concatenate([body, pair[1:]])
        features = {
            "name": jnp.where(tokens < names, tokens, -1),
            "word": tokens,
            "position": _positions(length, batch),
        }
        right = {"other name": _at_the_end(jnp.argmin(order, axis=0), length)}
        return Batch(tokens[None], pair[:1], features, right)

    def over_words(of_names):
        return np.concatenate([of_names, np.zeros((names, fillers))], axis=1)

    return Task(
        sample,
        names + fillers,
        length,
        {
            "other name": Hypothesis("name", "word", over_words(1 - np.eye(names))),
            "same name": Hypothesis("name", "word", over_words(np.eye(names))),
            "any name": Hypothesis("name", "word", over_words(np.ones((names, names)))),
            "later": Hypothesis("name", "position", np.tile(np.arange(length) / length, (names, 1))),
        },
        heads=2,
    )


def many_attributes() -> Task:
    """Four attributes instead of two."""
    return attributes(("colour", "shape", "pattern", "material"))


TASKS: Mapping[str, Callable[[], Task]] = {
    "induction": induction,
    "recall": recall,
    "attributes": attributes,
    "largest": largest,
    "indirect_object": indirect_object,
}


@cache
def task(name: str) -> Task:
    """The task of this name at its usual size; raises InputError for another name."""
    every = {**TASKS, "many_attributes": many_attributes, "next_larger": next_larger}
    return every[one_of("task", name, tuple(every))]()
