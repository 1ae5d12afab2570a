"""Pairs: an attention score as a sum over pairs of features, one that is active at the query and one at the key.

A dictionary writes what a head reads as `t = c (sum_i z_i x_i + b + e)`: active features, the decoder's bias, an error,
and the scale c of the normalisation before the head, which is held (1 where the dictionary reads what the head reads).
With factors that map these and rotate them to positions p and p', `q_i = R_p W_Q c z_i x_i` and `k_j` likewise,

    q^T k = sum_ij q_i^T k_j + sum_i q_i^T k_b + q_b^T sum_j k_j + q_b^T k_b + errors,

`q_b = R_p (W_Q c b + b_Q)`, and errors all that `q_e = R_p W_Q c e` or k_e is a factor of. Norms of queries and keys
are one more scalar of each token, held likewise (T23), and gains are in the factors.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax import Array

from svtheory.checks import InputError, index
from svtheory.heads.dictionaries import Dictionary, chunks
from svtheory.heads.read_together import SIDES
from svtheory.heads.weights import Head, Norm
from svtheory.numerics import exact_products

FACTORS, BIASES = ({"query": f"{name}_Q", "key": f"{name}_K"} for name in "Wb")
SAME = 1e-3
"""Of its largest entry: how far a stream may be from what was normalised."""
PARTS = ("pairs", "features x biases", "biases x features", "biases", "errors")
"""What a score is the sum of, the query's side first."""


class FeaturePairs(NamedTuple):
    """One score, before its divisor, over pairs of features.

    query_features, key_features  indices of those active at the query and at the key, (n,) and (m,)
    terms                         what each pair adds, (n, m)
    parts                         the sums of PARTS, (5,): the terms' own, and what is left
    score                         q^T k, as the head makes it of its tokens
    """

    query_features: np.ndarray
    key_features: np.ndarray
    terms: np.ndarray
    parts: np.ndarray
    score: float

    def top(self, count: int) -> list[tuple[int, int, float]]:
        """The pairs that add most, (query feature, key feature, term), the largest first."""
        order = np.argsort(-self.terms, axis=None, kind="stable")[:count]
        rows, columns = np.unravel_index(order, self.terms.shape)
        found = zip(self.query_features[rows], self.key_features[columns], self.terms[rows, columns], strict=True)
        return [(int(i), int(j), float(term)) for i, j, term in found]


class Reading(NamedTuple):
    """Tokens of a context as a dictionary writes them.

    tokens  what heads read, (T, D)
    active  z, activations of features, sparse, (T, N)
    scale   c, (T,)
    bias    b, (D,)
    error   e, (T, D)
    """

    tokens: np.ndarray
    active: scipy.sparse.csr_array
    scale: np.ndarray
    bias: np.ndarray
    error: np.ndarray


class Side(NamedTuple):
    """One side of a head at every position of a context, in parts, all rotated.

    active   activations of features, sparse, (T, N)
    vectors  what the head makes of each entry of these, in their order, (entries, H)
    bias     q_b or k_b, (T, H)
    error    q_e or k_e, (T, H)
    """

    active: scipy.sparse.csr_array
    vectors: np.ndarray
    bias: np.ndarray
    error: np.ndarray

    def at(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """The features active at a position, (n,), and what the head makes of each, (n, H)."""
        some = slice(*self.active.indptr[position : position + 2])
        return self.active.indices[some], self.vectors[some]


def feature_pairs(
    head: Head, dictionary: Dictionary, tokens: np.ndarray, query: int, key: int, stream: np.ndarray | None = None
) -> FeaturePairs:
    """The score of two positions of a context, over pairs of the dictionary's features.

    tokens (T, D) are what the head reads, at positions 0 to T-1, and `stream` (T, D) what the dictionary reads: of one
    of the residual stream, that before the normalisation; without it, the tokens. In the dtype of the head.
    Raises InputError for a dictionary without an encoder, shapes that disagree, positions out of range, and a stream
    of which the tokens are no rescaled (and centred) copy.

    >>> head = Head(jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 3.0]]))
    >>> from svtheory.heads import Encoder
    >>> axes = Dictionary(np.eye(2, dtype=np.float32), "attn_in", encoder=Encoder(np.eye(2), np.zeros(2), "relu"))
    >>> found = feature_pairs(head, axes, np.array([[1.0, 0.0], [0.0, 5.0]]), query=0, key=1)
    >>> found.top(1), found.score
    ([(0, 1, 30.0)], 30.0)
    """
    read = read_tokens(dictionary, np.asarray(tokens, head.W_Q.dtype), stream)
    at = [index(name, x, len(read.tokens)) for name, x in zip(SIDES, (query, key), strict=True)]
    sides = [side_of(head, side, read, table_of(head, side, dictionary.features)) for side in SIDES]
    (i, q), (j, k) = (side.at(position) for side, position in zip(sides, at, strict=True))
    score = scores_of(head, read.tokens)[tuple(at)]
    return FeaturePairs(i, j, q @ k.T, parts_of(sides[0], sides[1], at[0], at[1]), float(score))


def read_tokens(dictionary: Dictionary, tokens: np.ndarray, stream: np.ndarray | None = None) -> Reading:
    """Tokens (T, D) as a dictionary writes what it reads, the stream (T, D) or the tokens themselves.

    Raises InputError as `feature_pairs` does.
    """
    dictionary.check_width(tokens.shape[-1])
    scale, given, dtype = np.ones(len(tokens), tokens.dtype), tokens, tokens.dtype
    if stream is not None:
        given = np.asarray(stream, dtype)
        scale = _scale(tokens, given)
    active, bias = dictionary.encode(given), np.zeros(tokens.shape[1], dtype)
    if dictionary.decoder_bias is not None:
        bias = dictionary.decoder_bias.astype(dtype)
    used = np.unique(active.indices)
    made = active[:, used] @ dictionary.columns(used).T.astype(dtype) + bias[None, :]
    return Reading(tokens, active, scale, bias, tokens / scale[:, None] - made)


def _scale(tokens: np.ndarray, stream: np.ndarray) -> np.ndarray:
    """The scale c of every token: `t = c x` or, of a norm that centres, `c (x - mean(x))`."""
    if stream.shape != tokens.shape:
        raise InputError(f"stream must have the shape of tokens, {tokens.shape}, got {stream.shape}")
    squares, products = (tokens**2).sum(axis=1), (tokens * stream).sum(axis=1)
    scale = np.divide(squares, products, out=np.ones_like(squares), where=products > 0)
    off = tokens / scale[:, None] - stream
    off = np.abs(off - off.mean(axis=1, keepdims=True)).max(axis=1)
    worst = float((off / np.maximum(np.abs(stream).max(axis=1), np.finfo(stream.dtype).tiny)).max())
    if worst > SAME:
        raise InputError(
            "stream must be what the tokens were before their normalisation, up to a scale, got one that is "
            f"{worst:.2g} of its largest entry away"
        )
    return scale


def table_of(head: Head, side: str, features: np.ndarray) -> np.ndarray:
    """What a side of a head makes of features (D, N), before rotation, (N, H)."""
    W, _ = _factor(head, side)
    return np.concatenate([part.astype(W.dtype) @ W.T for part in chunks(features.T)])


def side_of(head: Head, side: str, read: Reading, table: np.ndarray) -> Side:
    """A side of a head at every position of a context; `table` (N, H) is what it makes of the features."""
    (W, b), norm, c = _factor(head, side), getattr(head, f"{side}_norm"), read.scale
    if norm is not None:  # the norm's gain is in the factor, not in what it measures
        c = c * np.asarray(_norm_scale(norm, getattr(head, FACTORS[side]), jnp.asarray(read.tokens)))
    positions = np.arange(len(c))
    where = np.repeat(positions, np.diff(read.active.indptr))
    vectors = (c[where] * read.active.data)[:, None] * table[read.active.indices]
    bias, error = c[:, None] * (read.bias @ W.T)[None, :] + b[None, :], (c[:, None] * read.error) @ W.T
    turned = (_rotated(head, *given) for given in ((vectors, where), (bias, positions), (error, positions)))
    return Side(read.active, *turned)


def parts_of(query: Side, key: Side, i: int, j: int) -> np.ndarray:
    """The sums of PARTS, (5,), of the query at position i and the key at position j."""
    q, k = (side.at(at)[1].sum(axis=0) for side, at in ((query, i), (key, j)))
    q_b, k_b, q_e, k_e = query.bias[i], key.bias[j], query.error[i], key.error[j]
    return np.array([q @ k, q @ k_b, q_b @ k, q_b @ k_b, q_e @ (k + k_b + k_e) + (q + q_b) @ k_e])


def scores_of(head: Head, tokens: np.ndarray) -> np.ndarray:
    """q^T k of all queries and keys of a context (T, D), as the head makes them, (T, T)."""
    return np.asarray(_scores(head, jnp.asarray(tokens)))


@jax.jit
@exact_products
def _scores(head: Head, tokens: Array) -> Array:
    at = jnp.arange(len(tokens))
    return head.queries(tokens, at) @ head.keys(tokens, at).T


_turned = jax.jit(Head.rotated)
_norm_scale = jax.jit(Norm.scale)


def _factor(head: Head, side: str) -> tuple[np.ndarray, np.ndarray]:
    """W and b of a side, (H, D) and (H,), a norm's gain in the first."""
    W, b, norm = (getattr(head, name) for name in (FACTORS[side], BIASES[side], f"{side}_norm"))
    W = np.asarray(W if norm is None else norm.gain[:, None] * W)
    return W, np.zeros(len(W), W.dtype) if b is None else np.asarray(b)


def _rotated(head: Head, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """`R_p x` of rows (n, H), as many at once as a power of 2: for each number JAX compiles anew."""
    if head.turns is None:
        return x
    n = 1 << max(len(x) - 1, 1).bit_length()
    x, p = np.pad(x, ((0, n - len(x)), (0, 0))), np.pad(positions, (0, n - len(positions)))
    return np.asarray(_turned(head, jnp.asarray(x), jnp.asarray(p)))[: len(positions)]
