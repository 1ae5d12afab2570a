"""Read together: heads that read the same tokens, these factorised once, ready for random heads (T11, T22)."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checks import InputError, concrete, one_of, real_array
from svtheory.factorisations import safe_svd
from svtheory.heads.decomposition import (
    Decomposition,
    decompose,
    query_positions,
    relative_attention,
    shared_keys,
    whole_below,
    without_padding,
)
from svtheory.heads.random_frames import Factor, Tokens, factored, inputs_on_frame, on_frame, whitened
from svtheory.heads.sparsity import decision_sparseness
from svtheory.heads.weights import Head
from svtheory.numerics import exact_products

READINGS = ("raw", "balanced")
SIDES = ("query", "key")


class FramedHead(NamedTuple):
    """A head, its query and key factor for either null, and its basis of either reading on the frames of its null.

    raw_bases       `E^T U Sigma^{1/2}` and `E^T V Sigma^{1/2}`, (K, K)
    balanced_bases  the same of the head as its data see it
    """

    head: Head
    raw: tuple[Factor, Factor]
    balanced: tuple[Factor, Factor]
    raw_bases: tuple[Array, Array]
    balanced_bases: tuple[Array, Array]


class ReadTogether(NamedTuple):
    """Heads that read the same tokens, ready to be compared with random ones.

    heads       stacked on a first axis
    sparseness  S of their decisions, (readings, heads) or (readings, heads, ..., T)
    like        a decomposition of these tokens: which keys are visible
    given       indices of the keys that all heads explain, or None where each chooses its own
    positions   of the queries
    raw         tokens of the query and of the key side
    balanced    the same, whitened
    """

    heads: FramedHead
    sparseness: Array
    like: Decomposition
    given: Array | None
    positions: Array
    raw: tuple[Tokens, Tokens]
    balanced: tuple[Tokens, Tokens]


def read_together(
    heads: Head,
    queries: Array,
    keys: Array,
    choose: Literal["attended"] | Array = "attended",
    position: Array | int | None = None,
    readings: int = 1,
    real: Array | None = None,
) -> ReadTogether:
    """What `compare_with_random_heads` needs of heads that read the same tokens, arguments as for `sparseness_test`.

    Of the READINGS the first `readings`. `heads` is a Head whose arrays are stacked on a first axis. The tokens are
    factorised once, each head once a side. Of causal contexts, whose keys are their queries, `real` (..., T) is False
    where there is padding behind the last token: it has no part in moments, and decides nothing. Raises InputError as
    `sparseness_test` does.
    """
    if not (heads.query_norm is heads.key_norm is None):
        raise InputError("heads must have no query-key norm to be read together: each rescales the tokens for itself")
    first = jax.tree.map(lambda x: x[0], heads)
    r, s = (real_array(name, x).astype(heads.W_Q.dtype) for name, x in (("queries", queries), ("keys", keys)))
    m = shared_keys(first, r, s)
    positions = query_positions(position, r, m)
    if isinstance(choose, str):
        one_of("choose", choose, ("attended",))
        given = None
    else:
        given = whole_below("choose", choose, r.shape[:-1], m)
    together = _read_together(heads, r, s, positions, given, readings, real)
    if given is not None:
        seen = jnp.take_along_axis(together.like.visible, given[..., None], axis=-1)
        if concrete(seen) and not np.asarray(seen).all():
            raise InputError("choose must hold keys that their queries see, got one that is not visible")
    return together


@partial(jax.jit, static_argnames=("readings",))
@exact_products
def _read_together(
    heads: Head, r: Array, s: Array, positions: Array, given: Array | None, readings: int, real: Array | None
) -> ReadTogether:
    found = lax.map(lambda head: decompose(head, r, s, given, position=positions), heads)
    if real is not None:
        found = jax.vmap(without_padding, in_axes=(0, None))(found, real)
    root = jnp.sqrt(found.spectrum.values)[:, None, :]
    x, y = r.reshape(-1, r.shape[-1]), s.reshape(-1, s.shape[-1])
    rotary = heads.frequencies is not None
    b_K = heads.b_K if rotary else None  # without positions it gives all keys alike
    query_frame, raw_query = factored(heads.W_Q, heads.b_Q)
    key_frame, raw_key = factored(heads.W_K, b_K)
    raw_q, balanced_q, own_query, balanced_query = whitened(heads.W_Q, heads.b_Q, x, real, True)
    raw_k, balanced_k, own_key, balanced_key = whitened(heads.W_K, b_K, y, real, rotary)
    to_query, to_key = (
        E.swapaxes(-1, -2) @ (vectors * root)
        for E, vectors in ((query_frame, found.spectrum.left), (key_frame, found.spectrum.right))
    )
    modes = lax.map(lambda L: safe_svd(L[0].T @ L[1]), (balanced_query.matrix, balanced_key.matrix))
    root = jnp.sqrt(modes[1])[:, None, :]
    together = ReadTogether(
        heads=FramedHead(
            heads,
            (raw_query, raw_key),
            (balanced_query, balanced_key),
            (to_query, to_key),
            (modes[0] * root, modes[2].swapaxes(-1, -2) * root),
        ),
        sparseness=jax.vmap(lambda d: decision_sparseness(relative_attention(d), d.size))(found)[None],
        like=jax.tree.map(lambda a: a[0], found),
        given=given,
        positions=positions,
        raw=(raw_q, raw_k),
        balanced=(balanced_q, balanced_k),
    )
    if readings == 1:
        return together

    def read_balanced(given):
        head, E, F = given
        tokens = on_frame(balanced_q, E, r.shape), on_frame(balanced_k, F, s.shape)
        return sparseness_on_frames(together, head.head, tokens, head.balanced, [head.balanced_bases])[0]

    balanced = lax.map(read_balanced, (together.heads, own_query, own_key))
    return together._replace(sparseness=jnp.concatenate([together.sparseness, balanced[None]]))


def sparseness_on_frames(
    together: ReadTogether,
    head: Head,
    tokens: tuple[Array, Array],
    factors: tuple[Factor, Factor],
    bases: Sequence[tuple[Array, Array]],
) -> Array:
    """S of the decisions of a random head, (readings, ..., T), from tokens on its frames, by its vectors there.

    `bases` are those of each reading, as in FramedHead. Scores, and which key is attended most, are the same in all.
    """
    positions = together.positions, jnp.arange(tokens[1].shape[-2])
    x, y = (inputs_on_frame(head, *side) for side in zip(factors, tokens, positions, strict=True))
    read = [dataclasses.replace(together.like, query=x @ query, keys=y @ keys) for query, keys in bases]
    index = read[0].most_attended if together.given is None else together.given
    return jnp.stack([_sparseness(dataclasses.replace(d, index=index), together) for d in read])


def _sparseness(d: Decomposition, together: ReadTogether) -> Array:
    terms = relative_attention(d)
    # singular values that a lower dimension of the tokens makes 0 are terms too
    return decision_sparseness(terms, d.size) * (terms.shape[-1] / together.like.query.shape[-1])
