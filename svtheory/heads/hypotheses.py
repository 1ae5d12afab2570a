"""Hypotheses: what a head may be for, as features of the positions that it reads and templates between them (T16).

All are about a query at position p and a key at position p' of one sequence. What is written about a key or query by
an earlier layer, the token before it for one, counts as read at its own position: that is where W_Q and W_K meet it.
Features of a position that has none, such as the token before the first, are 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from svtheory.checks import InputError, real_array, whole

LARGEST = 256
"""The most features of a hypothesis, by default: the commonest tokens, the first positions."""
REACHES = 13
"""Members of a family of orders."""
ASKED = {
    "same token": "the key whose token is the query's",
    "previous token": "the key whose previous token is the query's: induction",
    "token after an earlier occurrence": "the key whose token followed the query's when it last occurred",
    "first position": "the first key",
    "previous position": "the key right before the query",
    "larger number": "keys of larger numbers",
    "next larger number": "keys of larger numbers, nearer ones more",
    "product of numbers": "large numbers for large ones, small for small",
    "same feature": "keys with the query's features",
    "previous feature": "keys right behind features that the query has: induction",
}
"""What each hypothesis here asks a query to attend to, in a few words."""


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """What a head may be for: it asks for the logit `f_q^T T f_k` of a query and a key.

    name            what it is called
    query_features  f_q of all queries, one a row, (n, N)
    key_features    f_k of all keys, (n', M)
    template        T (N, M), or a family of which the head may choose the best, (P, N, M)
    members         what the members of a family are called, (P,); 0, 1, ... where they are not given

    Raises InputError for shapes that disagree.
    """

    name: str
    query_features: np.ndarray
    key_features: np.ndarray
    template: np.ndarray
    members: np.ndarray | None = None

    def __post_init__(self):
        T = np.asarray(self.template)
        asked = self.query_features.shape[-1], self.key_features.shape[-1]
        if self.query_features.ndim != 2 or self.key_features.ndim != 2:
            raise InputError(f"features of {self.name!r} must have a row a sample, got other axes")
        if T.ndim not in (2, 3) or T.shape[-2:] != asked:
            raise InputError(f"template of {self.name!r} must have shape {asked}, query by key features, got {T.shape}")
        members = np.arange(len(self.family)) if self.members is None else np.asarray(self.members)
        if members.shape != (len(self.family),):
            raise InputError(
                f"members of {self.name!r} must have shape ({len(self.family)},), a number for each, got "
                f"{members.shape}"
            )
        object.__setattr__(self, "members", members)

    @property
    def family(self) -> np.ndarray:
        """The templates, (P, N, M)."""
        T = np.asarray(self.template, np.float32)
        return T if T.ndim == 3 else T[None]


def read_at(x: np.ndarray, positions: slice, real: np.ndarray | None = None) -> np.ndarray:
    """The rows of x (sequences, positions, ...) at some positions, sequence after sequence, (n, ...).

    Positions are those of each sequence's own tokens, up to the last that is `real` (sequences, positions).

    >>> read_at(np.array([[1, 2, 3], [4, 5, 6]]), slice(1, None)).tolist()
    [2, 3, 5, 6]
    >>> read_at(np.array([[1, 2, 3], [4, 5, 0]]), slice(-1, None), np.array([[1, 1, 1], [1, 1, 0]])).tolist()
    [3, 5]
    """
    x = np.asarray(x)
    lengths = np.full(len(x), x.shape[1]) if real is None else np.asarray(real).sum(axis=1)
    chosen = np.zeros(x.shape[:2], bool)
    for row, length in zip(chosen, lengths, strict=True):
        row[np.arange(length)[positions]] = True
    return x[chosen]


def token_hypotheses(
    tokens: np.ndarray,
    queries: slice = slice(1, None),
    keys: slice = slice(None),
    numbers: np.ndarray | None = None,
    largest: int = LARGEST,
    real: np.ndarray | None = None,
) -> list[Hypothesis]:
    """What a head may be for, said in tokens and positions of the sequences that it reads.

    same token                         the key's token is the query's
    previous token                     the token before the key is the query's: what induction looks for
    token after an earlier occurrence  the key's token is the one that followed the query's when it last occurred
    first position                     the key is the first of its sequence, whatever the query
    previous position                  the key is right before the query
    larger number                      the key's number is larger than the query's (T20)
    next larger number                 the same, nearer ones more: the family `[k > q] e^{-(k - q)/L}`, members called L
    product of numbers                 large numbers look for large ones, and small for small

    tokens (sequences, positions), whole numbers; `queries` and `keys` are the positions taken as samples, in the rows
    of features sequence after sequence, as `read_at` has what is read there. Take as queries those where the head's
    decision matters. `numbers` (V,): the number that each token stands for, NaN where it is none; without it there are
    no hypotheses about numbers. A hypothesis has at most `largest` features: the commonest tokens or numbers, the first
    positions. One of which nothing can be asked at these positions is left out. Of sequences with padding behind them
    only tokens that are `real` (sequences, positions) count.
    Raises InputError for tokens that are no whole numbers of two axes, fewer than 2 samples of either side, and numbers
    that do not reach to all tokens.

    >>> tokens = np.array([[3, 5, 3, 5], [4, 4, 5, 5]])
    >>> [hypothesis.name for hypothesis in token_hypotheses(tokens)][:3]
    ['same token', 'previous token', 'token after an earlier occurrence']
    """
    read = _Read(_checked(tokens), queries, keys, whole("largest", largest, 1), real)
    if min(len(read_at(read.tokens, at, real)) for at in (queries, keys)) < 2:
        got = " and ".join(":".join("" if x is None else str(x) for x in (at.start, at.stop)) for at in (queries, keys))
        raise InputError(f"queries and keys must leave at least 2 samples each, got positions {got}")
    found = [*read.about_tokens(), *read.about_positions()]
    if numbers is not None:
        value = np.asarray(numbers, float)
        if value.ndim != 1 or len(value) <= read.tokens.max():
            raise InputError(f"numbers must have one for each token up to {read.tokens.max()}, got {value.shape}")
        found += read.about_numbers(value)
    return [hypothesis for hypothesis in found if _asks(hypothesis)]


def feature_hypotheses(
    values: np.ndarray,
    queries: slice = slice(1, None),
    keys: slice = slice(None),
    largest: int = LARGEST,
    real: np.ndarray | None = None,
) -> list[Hypothesis]:
    """What a head may be for, said in the features of a dictionary: "same feature" and "previous feature".

    values (sequences, positions, N): how strongly each feature is present at each position, a sparse autoencoder's
    activations for one. "previous feature" matches what the query has with what the position before the key had. Of
    more than `largest` features those of most variance are taken. Else as `token_hypotheses`.

    >>> [hypothesis.name for hypothesis in feature_hypotheses(np.ones((2, 3, 4)))]
    ['same feature', 'previous feature']
    """
    x = np.asarray(real_array("values", values, ndim=3))
    spread = read_at(x, slice(None), real).var(axis=0)
    kept = np.sort(np.argsort(-spread, kind="stable")[: whole("largest", largest, 1)])
    x = x[:, :, kept]
    before = np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
    equal = np.eye(x.shape[2], dtype=np.float32)
    return [
        Hypothesis(name, read_at(x, queries, real), read_at(of_key, keys, real), equal)
        for name, of_key in (("same feature", x), ("previous feature", before))
    ]


def _asks(hypothesis: Hypothesis) -> bool:
    """Whether anything is asked between features that these queries and keys have."""
    query, key = hypothesis.query_features.any(axis=0), hypothesis.key_features.any(axis=0)
    return bool(hypothesis.family[:, query][:, :, key].any())


def _checked(tokens: np.ndarray) -> np.ndarray:
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer) or tokens.min() < 0:
        raise InputError(
            f"tokens must be whole numbers of at least 0, (sequences, positions), got {tokens.dtype} {tokens.shape}"
        )
    return tokens


@dataclass(frozen=True)
class _Read:
    """Sequences as a head reads them; a label of a position is a whole number, -1 for none."""

    tokens: np.ndarray
    queries: slice
    keys: slice
    largest: int
    real: np.ndarray | None

    def about_tokens(self) -> Iterator[Hypothesis]:
        own, previous = self.tokens, _previous(self.tokens)
        yield self._matching("same token", own, own)
        yield self._matching("previous token", own, previous)
        yield self._matching("token after an earlier occurrence", _followed(self.tokens), own)

    def about_positions(self) -> Iterator[Hypothesis]:
        place = np.broadcast_to(np.arange(self.tokens.shape[1]), self.tokens.shape)
        labels, query, key = self._one_hot(place, place)
        any_query = np.ones((len(query), 1), np.float32)
        yield Hypothesis("first position", any_query, key, (labels == 0)[None].astype(np.float32))
        before = (labels[None, :] == labels[:, None] - 1).astype(np.float32)
        yield Hypothesis("previous position", query, key, before)

    def about_numbers(self, value: np.ndarray) -> Iterator[Hypothesis]:
        is_number = np.isfinite(value)[self.tokens]
        labels, query, key = self._one_hot(*[np.where(is_number, self.tokens, -1)] * 2)
        if len(labels) < 2:
            return
        x = value[labels]
        further = x[None, :] - x[:, None]
        reaches = np.geomspace(1, 1 + np.ptp(x), REACHES)
        size = (x - x.min()) / np.ptp(x) - 0.5
        yield Hypothesis("larger number", query, key, (further > 0).astype(np.float32))
        yield Hypothesis("next larger number", query, key, decaying_orders(further, reaches), reaches)
        yield Hypothesis("product of numbers", query, key, np.outer(size, size).astype(np.float32))

    def _matching(self, name: str, of_query: np.ndarray, of_key: np.ndarray) -> Hypothesis:
        labels, query, key = self._one_hot(of_query, of_key)
        return Hypothesis(name, query, key, np.eye(len(labels), dtype=np.float32))

    def _one_hot(self, of_query: np.ndarray, of_key: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The commonest labels of queries and keys together (N,), and which of them each query and key has."""
        query, key = read_at(of_query, self.queries, self.real), read_at(of_key, self.keys, self.real)
        labels, counts = np.unique(np.concatenate([query, key]), return_counts=True)
        commonest = np.argsort(-counts * (labels >= 0), kind="stable")[: self.largest]
        labels = np.sort(labels[commonest])
        labels = labels[labels >= 0]
        return labels, *((x[:, None] == labels[None]).astype(np.float32) for x in (query, key))


def _previous(tokens: np.ndarray) -> np.ndarray:
    """The token before each position."""
    return np.concatenate([np.full_like(tokens[:, :1], -1), tokens[:, :-1]], axis=1)


def _followed(tokens: np.ndarray) -> np.ndarray:
    """The token that followed the latest earlier occurrence of each position's token."""
    followed = np.full_like(tokens, -1)
    for p in range(1, tokens.shape[1]):
        earlier = tokens[:, :p] == tokens[:, p : p + 1]
        latest = p - 1 - earlier[:, ::-1].argmax(axis=1)
        after = np.take_along_axis(tokens, latest[:, None] + 1, axis=1)[:, 0]
        followed[:, p] = np.where(earlier.any(axis=1), after, -1)
    return followed


def decaying_orders(further: np.ndarray, reaches: np.ndarray) -> np.ndarray:
    """`[d > 0] e^{-d/L}` of distances d (N, M), for each reach L (P,); shape (P, N, M) (T20)."""
    decayed = np.exp(-np.maximum(further, 0)[None] / np.asarray(reaches)[:, None, None])
    return np.where(further > 0, decayed, 0).astype(np.float32)
