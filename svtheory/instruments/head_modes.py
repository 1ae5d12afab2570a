"""Head modes: the first blocks of values of one head, what moves them, which decisions they make.

Read twice: raw, in singular vectors, and balanced, in the modes of the head as its data see it (T22). What a head
writes is read in the principal axes of what the tokens that it attends to would write, `W_O W_V` balanced by these.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.factorisations import factored_svd
from svtheory.heads.decomposition import Decomposition, read_balanced
from svtheory.heads.rescaled import TokenScales, rescaled
from svtheory.heads.weights import Head
from svtheory.instruments import sparser
from svtheory.instruments.moments import Moments, centred_sides, seen_by, seen_rescaled
from svtheory.numerics import exact_products, inverse
from svtheory.spectra.balanced import BalancedSpectrum, balanced
from svtheory.spectra.blocks import block_labels


@cache
def reader(blocks: int) -> Any:
    """`read_head` of so many blocks, the same function for the same number, so that it is compiled once."""
    return partial(read_head, blocks=blocks)


@exact_products
def read_head(
    head: Head,
    tokens: Array,
    moments: tuple[Moments, Moments] | None,
    scales: TokenScales | None,
    output: tuple[Array, Array] | None,
    real: Array | None,
    asked: Array,
    normal: Array,
    rounding: Array,
    *,
    blocks: int,
) -> dict[str, Any]:
    """The first `blocks` blocks of values of one head on tokens (sequences, positions, D).

    `moments` of queries and of keys, None of a head that rescales its tokens; `output` is W_V (H, D) and W_O (D, H),
    None where they are not known; `asked` (2, sequences, positions) says which tokens are read as queries and as keys,
    and `normal` (at least D and all positions, draws) holds standard normal numbers, of which random patterns are made.
    Arrays have axes (reading, block), (reading, side, D, pair) or (reading, side, block, sequence, position); those of
    what is written stand under "output", without reading and side.
    """
    (r, s), at = rescaled(tokens, scales), jnp.arange(tokens.shape[1])
    d = sparser.decisions(head, r, s, real)
    if moments is None:
        sides = [seen_rescaled(head, r, s, some)[i] for i, some in enumerate(asked)]
    else:
        sides = [seen_by(head, of)[i] for i, of in enumerate(moments)]
    modes = balanced(head.W_Q, head.W_K, *sides)
    seen = read_balanced(d, head, head.queries(r, at), head.keys(s, at), modes)
    raw = d.spectrum
    raw = BalancedSpectrum(raw.values, raw.left, raw.left, raw.right, raw.right, raw.gaps)
    centred = jnp.stack(centred_sides(head))
    away = [x - jnp.where(free, _mean(x, some), 0) for x, some, free in zip((r, s), asked, centred, strict=True)]
    decided = asked[0] & (d.visible.sum(axis=-1) > 1)
    found = [_read(x, of, away, asked, decided, rounding, blocks) for x, of in ((raw, d), (modes, seen))]
    result = jax.tree.map(lambda *x: jnp.stack(x), *found)
    random = [side.axes @ (side.lengths[:, None] * normal[: len(side.lengths)]) for side in sides]
    result |= {"centred": centred, "decisions": decided.sum(), "random_pattern": jnp.stack(random)}
    if output is not None:
        result["output"] = _read_output(output, tokens, d, decided, normal, rounding, blocks)
    return result


def _mean(x: Array, inside: Array) -> Array:
    """The mean of x (sequences, positions, D) over what is `inside`, (1, 1, D)."""
    return jnp.where(inside[..., None], x, 0).sum(axis=(0, 1), keepdims=True) / inside.sum()


def _read(
    modes: BalancedSpectrum,
    terms: Decomposition,
    tokens: list[Array],
    asked: Array,
    decided: Array,
    rounding: Array,
    blocks: int,
) -> dict[str, Array]:
    """One reading: values and vectors of its modes, coordinates of the tokens of both sides, decisions that change."""
    member = _members(modes.values, rounding, blocks)
    probes = jnp.stack([modes.query_probes, modes.key_probes])
    along = [x @ probe for x, probe in zip(tokens, probes, strict=True)]
    sign = _signs(along[1], asked[1])[None, None, :]
    coordinates = [_coordinates(x * sign, member, some) for x, some in zip(along, asked, strict=True)]
    changed = jax.lax.map(lambda m: _changed(terms, m, decided), member)
    return {
        **_values(modes.values, member),
        "pattern": jnp.stack([modes.query_patterns, modes.key_patterns]) * sign,
        "probe": probes * sign,
        "coordinate": jnp.stack(coordinates),
        "decision_share": changed,
    }


def _members(values: Array, rounding: Array, blocks: int) -> Array:
    """Which pairs each of the first blocks holds, (blocks, K), 0 or 1: those above rounding."""
    error = rounding * values[0]
    labels = block_labels(values, error)
    member = (labels[None, :] == jnp.arange(blocks)[:, None]) & (values > error)[None, :]
    return member.astype(values.dtype)


def _values(values: Array, member: Array) -> dict[str, Array]:
    """Of each block its pairs, from 0, `size` 0 for none, the root of its sum of squares, and its share of that."""
    squares, size = member @ values**2, member.sum(axis=1)
    return {
        "size": size.astype(int),
        "first": member.argmax(axis=1),
        "value": jnp.sqrt(squares),
        "variance_share": squares * inverse((values**2).sum()),
    }


def _signs(along: Array, inside: Array) -> Array:
    """Signs that make the coordinate of largest magnitude positive, of coordinates (sequences, positions, K)."""
    flat = jnp.where(inside[..., None], along, 0).reshape(-1, along.shape[-1])
    largest = jnp.take_along_axis(flat, jnp.abs(flat).argmax(axis=0)[None, :], axis=0)[0]
    return jnp.where(largest < 0, -1, 1).astype(along.dtype)


def _coordinates(along: Array, member: Array, inside: Array) -> Array:
    """Coordinates of blocks, (blocks, sequences, positions): signed of one pair, the length of several, else NaN."""
    size = member.sum(axis=1)
    lengths, signed = jnp.sqrt(along**2 @ member.T), along @ member.T
    found = jnp.where(size[None, None, :] == 1, signed, lengths)
    known = inside[..., None] & (size > 0)[None, None, :]
    return jnp.moveaxis(jnp.where(known, found, jnp.nan), -1, 0)


def _changed(d: Decomposition, member: Array, decided: Array) -> Array:
    """The share of decisions that attend most to another key without the terms of some pairs, `member` (K,)."""
    kept = d.scores - (d.query * member[None, None, :]) @ d.keys.swapaxes(-1, -2)
    most, without = (jnp.where(d.visible, scores, -jnp.inf).argmax(axis=-1) for scores in (d.scores, kept))
    return (decided & (most != without)).sum() / jnp.maximum(decided.sum(), 1)


def _read_output(
    output: tuple[Array, Array],
    tokens: Array,
    d: Decomposition,
    decided: Array,
    normal: Array,
    rounding: Array,
    blocks: int,
) -> dict[str, Array]:
    """What a head writes: principal axes of `W_O W_V s` over attended tokens s, less their mean.

    Tokens count as much as the queries that decide attend to them. With y the writes less their mean,
    `E[y y^T] = sum_k sigma_k^2 w_k w_k^T`: sigma_k is the standard deviation of what is written along w_k, a token's
    coordinate is `w_k^T y / sigma_k`, and the pattern `E[s w_k^T y] / sigma_k` is what in a token moves it.
    """
    (W_V, W_O), K = output, output[0].shape[0]
    weight = jnp.where(decided[..., None], d.attention, 0).sum(axis=-2)
    share = weight * inverse(weight.sum())
    away = tokens - (share[..., None] * tokens).sum(axis=(0, 1), keepdims=True)
    rows, root = away.reshape(-1, tokens.shape[-1]), jnp.sqrt(share).reshape(-1, 1)
    values = rows @ W_V.T
    R = jnp.linalg.qr(jnp.pad(root * values, ((0, K), (0, 0))), mode="r")  # never fewer rows than columns
    writes, sigma, _ = factored_svd(W_O.T, R.T)
    along = (values @ (W_O.T @ writes)) * inverse(sigma, sigma > rounding * sigma[0])[None, :]
    by_token = along.reshape(*tokens.shape[:2], K)
    index = jax.nn.one_hot(d.index, tokens.shape[1], dtype=bool)
    attended = (index & decided[..., None]).any(axis=-2)
    sign, member = _signs(by_token, attended), _members(sigma, rounding, blocks)
    return {
        **_values(sigma, member),
        "write": writes * sign[None, :],
        "pattern": (rows.T @ (root**2 * along)) * sign[None, :],
        "coordinate": _coordinates(by_token * sign[None, None, :], member, attended),
        "random_pattern": rows.T @ (root * normal[: len(rows)]),
    }
