"""Paired: the decisions of a layer's heads over pairs of a dictionary's features, added up."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.decomposition import attention, visible_keys
from svtheory.heads.dictionaries import Dictionary
from svtheory.heads.pairs import PARTS, Reading, Side, parts_of, read_tokens, scores_of, side_of, table_of
from svtheory.heads.read_together import SIDES
from svtheory.heads.weights import Head
from svtheory.instruments.labels import Labels
from svtheory.instruments.survey import PLACE
from svtheory.progress import track

TOGETHER = 4_000_000
"""Terms that are added up at once."""

VARIABLES: Labels = {
    "score": ("score at the attended key, over the divisor, mean over decisions", "score"),
    "explained": "share of the scores' variance over decisions that pairs of features account for",
    "gap": ("by how much a score misses the sum of its parts, at most", "score"),
    "all_decisions": ("decisions of the head", "decisions"),
    "part": "part of a score: features, biases or errors of the query's side x those of the key's",
    "part_mean": ("what a part adds to the score at the attended key, mean over decisions", "score"),
    "part_standard_error": ("its standard error, over sequences", "score"),
    "pair": "pair of features, 1 of the one that adds most",
    "query_feature": "feature at the query, by its index in the dictionary; -1 where there is no pair left",
    "key_feature": "feature at the key, by its index in the dictionary; -1 where there is no pair left",
    "decisions": ("decisions where both features are active", "decisions"),
    "contribution": ("what the pair adds to the score at the attended key, mean over all decisions", "score"),
    "contribution_standard_error": ("its standard error, over sequences", "score"),
    "elsewhere": ("what the pair adds at the other keys that the same queries see, mean over them", "score"),
    "unexplained": "share of the tokens' variance that the dictionary leaves as error",
    "active_features": ("features active at a token, mean", "features"),
}


class Decision(NamedTuple):
    """A query, the key that it attends most, and the others that it sees, as positions."""

    query: int
    key: int
    others: np.ndarray


@dataclass(frozen=True)
class Written:
    """What the heads of a layer read, as a dictionary writes it: of each sequence, over the features in use.

    used         indices of features that are active somewhere, (U,)
    features     their directions, (D, U)
    sequences    of each sequence its tokens, with activations of the features in use
    unexplained  the share of the tokens' variance that is left as error
    """

    used: np.ndarray
    features: np.ndarray
    sequences: list[Reading]
    unexplained: float


def written(bundle: HeadBundle, dictionary: Dictionary, layer: int) -> Written:
    """What a layer's heads read, as the dictionary writes it; raises InputError as `read_tokens` does."""
    assert bundle.attn_in is not None
    kept, stream = bundle.real, bundle.others.get("residual")
    given = None if dictionary.space == "attn_in" else stream
    read = read_tokens(dictionary, bundle.attn_in[layer][kept], None if given is None else given[kept])
    used = np.unique(read.active.indices)
    if not len(used):
        raise InputError("features must be active on these tokens, some of them, got a dictionary of which none is")
    # of what the dictionary reads: a LayerNorm takes the mean over dimensions from tokens, not from reconstructions
    before = read.tokens / read.scale[:, None]
    stream = before if given is None else given[kept]
    error = read.error + (stream - before)
    unexplained = float((error**2).sum() / ((stream - stream.mean(axis=0)) ** 2).sum())
    ends = np.cumsum(kept.sum(axis=1))
    parts = [slice(end - n, end) for end, n in zip(ends, kept.sum(axis=1), strict=True)]
    active = read.active[:, used]
    sequences = [Reading(read.tokens[s], active[s], read.scale[s], read.bias, read.error[s]) for s in parts]
    return Written(used, dictionary.columns(used), sequences, unexplained)


def paired(bundle: HeadBundle, found: Written, layer: int, top: int) -> xr.Dataset:
    """Every head of a layer, over its decisions: means of the parts of their scores, and the pairs that add most."""
    heads = range(bundle.W_Q.shape[1])
    read = [_of_head(bundle.head(layer, h), found, top) for h in track(heads, "heads")]
    axes = dict.fromkeys(("query_feature", "key_feature", "decisions", *PAIR), (*PLACE, "pair"))
    axes |= {"part_mean": (*PLACE, "part"), "part_standard_error": (*PLACE, "part")}
    data = {name: (axes.get(name, PLACE), np.stack([of[name] for of in read])[None]) for name in read[0]}
    return xr.Dataset(data, {"layer": [layer], "head": list(heads), "part": list(PARTS), "pair": range(1, top + 1)})


PAIR = ("contribution", "contribution_standard_error", "elsewhere")


def _of_head(head: Head, found: Written, top: int) -> dict[str, Any]:
    """One head; scores are over the divisor: what is softmaxed, before a cap."""
    tables = [table_of(head, side, found.features) for side in SIDES]
    contexts = []
    for read in found.sequences:
        sides = [side_of(head, side, read, table) for side, table in zip(SIDES, tables, strict=True)]
        contexts.append((sides[0], sides[1], decisions(head, read.tokens), scores_of(head, read.tokens)))
    parts = [[parts_of(q, k, d.query, d.key) for d in made] for q, k, made, _ in contexts]
    scores = np.concatenate([[score[d.query, d.key] for d in made] for *_, made, score in contexts])
    if not any(parts):
        raise InputError("heads must see another key from some query to decide anything, got none that does")
    each = np.concatenate([of for of in parts if of])
    sums = np.stack([np.sum(of, axis=0) if of else np.zeros(len(PARTS)) for of in parts])
    U, n = len(found.used), len(scores)
    keys, counts = largest_sums(_terms(contexts, U), top)
    pairs = np.stack(np.divmod(keys, U), axis=1)
    here, elsewhere = _at(contexts, pairs)
    divisor = np.array(head.divisor)
    filled = np.full((top - len(pairs), 2), -1)
    names = np.concatenate([found.used[pairs], filled])
    with np.errstate(divide="ignore", invalid="ignore"):  # scores that are all alike have no variance to explain
        explained = 1 - np.var(scores - each[:, 0]) / np.var(scores)

    def over(x):
        """Of pairs, sums over each sequence's decisions (sequences, pairs): mean and its standard error."""
        return [np.pad(y, (0, top - len(pairs)), constant_values=np.nan) for y in _mean(x / divisor, n)]

    contribution, error = over(here)
    return {
        "score": scores.mean() / divisor,
        "explained": explained,
        "gap": np.abs(each.sum(axis=1) - scores).max() / divisor,
        "all_decisions": np.array(n),
        "part_mean": _mean(sums / divisor, n)[0],
        "part_standard_error": _mean(sums / divisor, n)[1],
        "query_feature": names[:, 0],
        "key_feature": names[:, 1],
        "decisions": np.pad(counts, (0, top - len(pairs))),
        "contribution": contribution,
        "contribution_standard_error": error,
        "elsewhere": over(elsewhere)[0],
    }


def _mean(sums: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean over n decisions, and its standard error, from their sums over each of several sequences."""
    spread = np.std(sums, axis=0, ddof=1) if len(sums) > 1 else np.full(sums.shape[1], np.nan)
    return sums.sum(axis=0) / n, spread * len(sums) ** 0.5 / n


def decisions(head: Head, tokens: np.ndarray) -> list[Decision]:
    """Of each query of a context (T, D) that sees another key: the one it attends most, and the others it sees."""
    at = np.arange(len(tokens))
    seen = np.asarray(visible_keys(head, jnp.asarray(at), len(at)))
    most = np.asarray(_attention(head, jnp.asarray(tokens))).argmax(axis=1)
    others = seen & (at[None, :] != most[:, None])
    return [Decision(i, int(most[i]), np.flatnonzero(others[i])) for i in np.flatnonzero(others.any(axis=1)).tolist()]


_attention = jax.jit(attention)


def _terms(contexts: Iterable, U: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The terms of every decision, by the number of their pair among U x U."""
    for query, key, made, _ in contexts:
        for d in made:
            (i, q), (j, k) = query.at(d.query), key.at(d.key)
            yield (i.astype(np.int64)[:, None] * U + j[None, :]).ravel(), (q @ k.T).ravel()


def largest_sums(terms: Iterable[tuple[np.ndarray, np.ndarray]], top: int) -> tuple[np.ndarray, np.ndarray]:
    """The keys whose values add up to most, at most as many as `top`, the largest first, and how often each occurs.

    >>> keys, counts = largest_sums([(np.array([5, 7]), np.array([1.0, 3.0])), (np.array([5]), np.array([4.0]))], top=1)
    >>> keys.tolist(), counts.tolist()
    ([5], [2])
    """
    held = np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
    waiting, size = [], 0
    for keys, values in terms:
        waiting.append((keys, values, np.ones(len(keys), np.int64)))
        size += len(keys)
        if size > TOGETHER + len(held[0]):
            held, waiting, size = _added([held, *waiting]), [], 0
    keys, sums, counts = _added([held, *waiting])
    order = np.argsort(-sums, kind="stable")[:top]
    return keys[order], counts[order]


def _added(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    keys, values, counts = (np.concatenate(x) for x in zip(*parts, strict=True))
    keys, at = np.unique(keys, return_inverse=True)
    return keys, np.bincount(at, values, len(keys)), np.bincount(at, counts, len(keys)).astype(np.int64)


def _at(contexts: list, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What some pairs (n, 2) add to each sequence's decisions, and to the mean of the other keys that these saw.

    Shapes (sequences, n).
    """
    here, elsewhere = np.zeros((2, len(contexts), len(pairs)))
    for s, (query, key, made, _) in enumerate(contexts):
        for p, (i, j) in enumerate(pairs):
            terms = _of_feature(query, i) @ _of_feature(key, j).T
            here[s, p] = sum(terms[d.query, d.key] for d in made)
            elsewhere[s, p] = sum(terms[d.query, d.others].mean() for d in made)
    return here, elsewhere


def _of_feature(side: Side, feature: int) -> np.ndarray:
    """What a side makes of one feature at every position, (T, H)."""
    at = np.flatnonzero(side.active.indices == feature)
    made = np.zeros_like(side.bias)
    made[np.searchsorted(side.active.indptr, at, side="right") - 1] = side.vectors[at]
    return made
