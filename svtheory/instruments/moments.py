"""Moments: what each layer's tokens are to the heads that read them, by principal axes (T5, T6, T22).

Taken in float64, so that the ratio of two axes is right as long as the tokens, of float32, tell it: axes shorter than
min(D, tokens) eps of the longest are none.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.factorisations import safe_svd
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.weights import Head
from svtheory.instruments.sources import check_tokens_differ
from svtheory.instruments.threads import in_threads
from svtheory.numerics import exact_products, numerical_rank_tolerance
from svtheory.spectra.balanced import Root

EXTREMES = 16
"""Longest and shortest axes each that a resampled moment is looked at in."""


class Moments(NamedTuple):
    """The moments of a layer's tokens, or of all layers' on a first axis.

    mean       (D,)
    uncentred  principal axes of the second moment, axes (D, D), lengths (D,) falling
    centred    the same of the covariance
    """

    mean: Any
    uncentred: Root
    centred: Root


def layer_moments(bundle: HeadBundle, where: np.ndarray | None = None) -> Moments | None:
    """The moments of each layer's tokens, float32; None where the bundle does not say what its heads read.

    Of some tokens, `where` (sequences, positions), in place of all.
    Raises InputError where a layer's tokens are all equal.
    """
    if bundle.attn_in is None:
        return None
    found = in_threads(partial(moments_of, bundle, where=where), range(len(bundle.attn_in)), doing="token moments")
    return jax.tree.map(lambda *x: np.stack(x), *found)


def moments_of(bundle: HeadBundle, layer: int, where: np.ndarray | None = None) -> Moments:
    """The moments of one layer's tokens, float32, all of them or those `where`; raises InputError if all are equal."""
    assert bundle.attn_in is not None
    # where every side is centred, second moments are not asked for
    asked = not bundle.query_bias[layer].all() or bundle.scoring.frequencies is not None
    found = token_moments(bundle.attn_in[layer][bundle.real if where is None else where], asked)
    if not found.centred.lengths.any():
        check_tokens_differ(bundle)
    return jax.tree.map(lambda x: x.astype(np.float32), found)


def token_moments(rows: np.ndarray, uncentred: bool = True) -> Moments:
    """The moments of tokens (n, D) in float64, seen from the first of them, so that a large mean costs no digits.

    The covariance in place of the second moment, too, where `uncentred` is not asked for.
    """
    n, D = rows.shape
    first, total, products = rows[0].astype(np.float64), np.zeros(D), np.zeros((D, D))
    for some in np.array_split(rows, max(1, n // 1024)):  # of which a copy in float64 is small
        away = some - first
        total += np.ones(len(some)) @ away
        products += away.T @ away
    mean, covariance = first + total / n, products / n - np.outer(total / n, total / n)
    least = min(rows.shape) * np.finfo(np.float32).eps
    centred = _root(covariance, least)
    return Moments(mean, _root(covariance + np.outer(mean, mean), least) if uncentred else centred, centred)


def _root(moment: np.ndarray, least: float) -> Root:
    values, axes = np.linalg.eigh(moment)
    lengths = np.sqrt(np.maximum(values[::-1], 0))
    found: tuple[Any, Any] = axes[:, ::-1], np.where(lengths > least * lengths[0], lengths, 0)
    return Root(*found)


def largest_norm(tokens: np.ndarray, real: np.ndarray) -> float:
    """The largest norm of a layer's tokens (sequences, positions, D), of those that are real (sequences, positions)."""
    size = float(np.abs(tokens).max(where=real[..., None], initial=0)) or 1.0  # so that no square is lost
    scaled = tokens / tokens.dtype.type(size)
    squares = np.einsum("spd,spd->sp", scaled, scaled)
    return size * float(squares.max(where=real, initial=0)) ** 0.5


def centred_sides(head: Head) -> tuple[Array, Array]:
    """Whether queries and keys of a head are read less their mean (T6).

    Where a constant is free, on a side with a bias that is not 0, and where it makes no difference, on the key side
    without rotary positions.
    """
    query, key = (jnp.asarray(False) if b is None else (b != 0).any() for b in (head.b_Q, head.b_K))
    return query, key | (head.frequencies is None)


def seen_by(head: Head, moments: Moments) -> tuple[Root, Root]:
    """The moments that queries and keys of a head are read in (T6): covariances on the sides that are centred."""
    query, key = (
        jax.tree.map(lambda x, y, centred=centred: jnp.where(centred, x, y), moments.centred, moments.uncentred)
        for centred in centred_sides(head)
    )
    return query, key


@exact_products
def seen_rescaled(head: Head, queries: Array, keys: Array, real: Array | None) -> tuple[Root, Root]:
    """`seen_by` of a head that reads tokens of its own, queries and keys (sequences, positions, D) (T23).

    `real` says which positions hold tokens, (sequences, positions); None is all.
    """
    count = jnp.asarray(queries.shape[0] * queries.shape[1] if real is None else real.sum(), queries.dtype)

    def side(x: Array, centred: bool) -> Root:
        rows = x.reshape(-1, x.shape[-1])
        inside = jnp.ones((len(rows), 1), bool) if real is None else real.reshape(-1, 1)
        mean = jnp.where(inside, rows, 0).sum(axis=0) / count if centred else jnp.zeros(rows.shape[1:], rows.dtype)
        # of the tokens, not of their products, which would lose the small axes in float32
        _, lengths, axes = safe_svd(jnp.linalg.qr(jnp.where(inside, rows - mean[None, :], 0), mode="r"))
        kept = lengths > numerical_rank_tolerance(lengths, min(rows.shape))
        short = max(0, min(head.W_Q.shape) - len(lengths))  # few tokens have fewer axes than a head has modes
        lengths = jnp.pad(jnp.where(kept, lengths / jnp.sqrt(count), 0), (0, short))
        return Root(jnp.pad(axes.T, ((0, 0), (0, short))), lengths)

    return side(queries, False), side(keys, head.frequencies is None)


def extremes(root: Root) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest eigenvalue of moments, (..., D) axes, on their range."""
    squares = np.asarray(root.lengths, np.float64) ** 2
    return np.where(squares > 0, squares, np.inf).min(axis=-1), squares.max(axis=-1)


def resampled_extremes(
    tokens: np.ndarray, real: np.ndarray, chosen: np.ndarray, root: Root, mean: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """`extremes` of the moments of chosen sequences of tokens (sequences, positions, D), chosen (resamples, sequences).

    `real` says which positions hold tokens, `root` is that of all, `mean` theirs where moments are to be centred.
    Within the EXTREMES longest and shortest axes of all tokens (Rayleigh and Ritz): exact for D of at most twice as
    many; else the axes between may only lend to the extremes what they have in common with them in a resample.
    """
    inside = np.flatnonzero(root.lengths > 0)
    axes = root.axes[:, np.unique(np.concatenate([inside[:EXTREMES], inside[-EXTREMES:]]))]
    along = ((tokens if mean is None else tokens - mean.astype(tokens.dtype)) @ axes).astype(np.float64)
    along[~real] = 0
    number, _, r = along.shape
    counts = np.stack([np.bincount(some, minlength=number) for some in chosen])
    counts = counts / (counts @ real.sum(axis=1))[:, None]
    moments = (counts @ (along.swapaxes(1, 2) @ along).reshape(number, -1)).reshape(-1, r, r)
    if mean is not None:
        means = counts @ along.sum(axis=1)
        moments = moments - means[:, :, None] * means[:, None, :]
    values = np.linalg.eigvalsh(moments)
    least = values[:, -1:] * (min(root.axes.shape[0], real.sum()) * np.finfo(np.float32).eps) ** 2
    return np.where(values > least, values, np.inf).min(axis=1), values[:, -1]
