"""Carried: which vectors carry a head's scores, and how much of these lies where a hypothesis predicts it (T16, T22).

Over independent draws of query and key the terms of balanced modes are uncorrelated, of variance sigma~_k^2: their
shares add up to the variance of the score. Those of raw singular pairs, of variance `sigma_k^2 (u_k^T A u_k)
(v_k^T B v_k)`, may be correlated; a share is that of the sum of variances. The fewest vectors whose shares add up to
CARRYING carry the head; those that do so in what the hypothesis predicts of it, read alike, are the predicted span. A
unit vector's overlap with that is the share of its square inside, of a random one m/n on average, m dimensions of n.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from svtheory.heads.read_together import READINGS, SIDES
from svtheory.instruments.labels import Labels
from svtheory.numerics import exact_products, inverse
from svtheory.spectra.balanced import BalancedSpectrum, Root, balanced
from svtheory.spectra.spectra import Spectrum

CARRYING = 0.9
"""Share of the scores' variance."""
Both = tuple[Spectrum, BalancedSpectrum]
VARIABLES: Labels = {
    "variance_share": "share of the variance of the head's scores that a raw pair's, or a balanced mode's, term has",
    "span_cosine": "length of a unit vector's projection on the span that the best hypothesis predicts",
    "span_overlap": "share of the vectors that carry the head inside the predicted span, weighted by variance shares",
    "span_chance": "the same of random vectors, mean: the span's dimension over that of what is read",
    "span_size": ("dimension of the predicted span", "vectors"),
}


class Vectors(NamedTuple):
    """Unit vectors of both sides, (n, K) and (n', K), the share of variance of each, (K,), and the dimensions n, n'."""

    query: Array
    key: Array
    share: Array
    dimensions: Array


def carried(own: Both, told: Both, moments: tuple[Root, Root]) -> xr.Dataset:
    """How the vectors of a head lie to what is told of it, both raw and balanced, on tokens of these moments."""
    found = _carried(own, told, moments)
    axes = {
        "variance_share": ("reading", "pair"),
        "span_size": ("reading",),
        "span_cosine": ("reading", "side", "pair"),
    }
    return xr.Dataset(
        {name: (axes.get(name, ("reading", "side")), np.asarray(x)) for name, x in found.items()},
        {"reading": list(READINGS), "side": list(SIDES)},
    )


@jax.jit
@exact_products
def _carried(own: Both, told: Both, moments: tuple[Root, Root]) -> dict[str, Array]:
    # of fewer samples than pairs, data see no more modes
    K, found = len(own[0].values), []
    for read in (_raw, _balanced):
        head, predicted = read(own, moments), read(told, moments)
        inside, weight = carries(predicted.share), jnp.where(carries(head.share), head.share, 0)
        lengths = jnp.stack(
            [
                jnp.linalg.norm(jnp.where(inside[:, None], there.T @ here, 0), axis=0)
                for here, there in ((head.query, predicted.query), (head.key, predicted.key))
            ]
        )
        overlap = (lengths**2) @ weight * inverse(weight.sum())
        size = inside.sum().astype(overlap.dtype)
        found.append(
            {
                "variance_share": jnp.pad(head.share, (0, K - len(head.share))),
                "span_cosine": jnp.pad(lengths, ((0, 0), (0, K - len(head.share)))),
                "span_overlap": overlap,
                "span_chance": jnp.minimum(1, size * inverse(head.dimensions)),
                "span_size": size,
            }
        )
    return jax.tree.map(lambda *x: jnp.stack(x), *found)


def carries(share: Array) -> Array:
    """Which are the fewest whose shares (K,) add up to CARRYING of all.

    >>> carries(jnp.array([0.3, 0.6, 0.02, 0.08])).tolist()
    [True, True, False, False]
    """
    order = jnp.argsort(-share)
    before = jnp.cumsum(share[order]) - share[order]
    rounding = len(share) * jnp.finfo(share.dtype).eps
    return jnp.zeros(len(share), bool).at[order].set((before < CARRYING - rounding) & (share[order] > 0))


def _raw(read: Both, moments: tuple[Root, Root]) -> Vectors:
    s, _ = read
    squares = [
        ((side.lengths[:, None] * (side.axes.T @ vectors)) ** 2).sum(axis=0)
        for side, vectors in zip(moments, (s.left, s.right), strict=True)
    ]
    size = jnp.stack([jnp.asarray(len(vectors), s.values.dtype) for vectors in (s.left, s.right)])
    return Vectors(s.left, s.right, _shares(s.values**2 * squares[0] * squares[1]), size)


def _balanced(read: Both, moments: tuple[Root, Root]) -> Vectors:
    """As the data see them: patterns `A^{1/2} u~` back to u~, in the moments' axes."""
    _, s = read
    query, key = (
        inverse(side.lengths)[:, None] * (side.axes.T @ patterns)
        for side, patterns in zip(moments, (s.query_patterns, s.key_patterns), strict=True)
    )
    size = jnp.stack([(side.lengths > 0).sum().astype(s.values.dtype) for side in moments])
    return Vectors(query, key, _shares(s.values**2), size)


def _shares(variances: Array) -> Array:
    return variances * inverse(variances.sum())


def both_readings(s: Spectrum, moments: tuple[Root, Root]) -> Both:
    """A spectrum as it is, and balanced on tokens of these moments."""
    root = jnp.sqrt(s.values)[None, :]
    return s, balanced((s.left * root).T, (s.right * root).T, *moments)


def compared(here: xr.Dataset) -> bool:
    """Whether the head was held against a predicted span."""
    return bool(here.variance_share.notnull().all())


def short(here: xr.Dataset, reading: str) -> str:
    """Which vectors of a head carry it, and what of them lies in the predicted span, for a table."""
    if not compared(here):
        return "-"
    which, share, (query, key) = _read(here, reading)
    return f"{which}: {share}; in the span {query}, {key}"


def sentence(here: xr.Dataset) -> str:
    """The same of modes and of raw pairs, in a sentence."""
    said = []
    for reading, what in (("balanced", "modes"), ("raw", "raw singular pairs")):
        which, share, (query, key) = _read(here, reading)
        said.append(f"{what} {which} ({share} of the variance), of which {query} of queries and {key} of keys lies")
    return f"carried by {said[0]} in the span that the hypothesis predicts; by {said[1]} in that of its raw ones"


def _read(here: xr.Dataset, reading: str) -> tuple[str, str, tuple[str, ...]]:
    """Numbers of the vectors, their share, and the overlap of either side beside chance."""
    there = here.sel(reading=reading)
    share = there.variance_share.values
    which = np.asarray(carries(jnp.asarray(share)))
    sides = [there.sel(side=side) for side in SIDES]
    overlaps = tuple(f"{float(x.span_overlap):.2f} (chance {float(x.span_chance):.2f})" for x in sides)
    return ranges(1 + np.flatnonzero(which)), f"{share[which].sum():.0%}", overlaps


def ranges(numbers: np.ndarray) -> str:
    """Rising whole numbers as text.

    >>> ranges(np.array([1, 2, 3, 5, 7, 8]))
    '1-3, 5, 7-8'
    """
    runs = np.split(numbers, 1 + np.flatnonzero(np.diff(numbers) > 1))
    named = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs if len(run)]
    return ", ".join(named) or "none"
