"""Removals: directions along which a head reads, and what its queries and keys become without them (T22).

A head's query side reads a token r through the H rows of W_Q. Along patterns P and probes Q, columns (D, k) with
`Q^T P = I`, it reads the coordinates `Q^T r`; with other ones, m, it reads `r - P (Q^T r - m)`. Its query then changes
by `-W_Q P (Q^T r - m)`, and nothing else in the model reads anything new.

Balanced modes are oblique (pattern `A^{1/2} u~`, probe `A^{+1/2} u~`); singular vectors, features and isotropic
directions are both at once. **Random directions of the same variance** are `A^{1/2} g` and `A^{+1/2} g`, g uniform on
the unit sphere of the whitened tokens `A^{+1/2} r`. These have variance 1 along every unit vector, so that a mode, `g =
u~_k`, and each of the random ones take out exactly as much of what the tokens are; the null asks whether the head
reads *this* unit of variance more than any other. On average over g a removal on one side takes `1/rank A` of the
score's variance, a mode `sigma~_k^2 / sum sigma~^2`. An isotropic direction has whatever variance the tokens happen to
have along it, often almost none, and is the weaker null.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from svtheory.heads.weights import Head
from svtheory.spectra.balanced import BalancedSpectrum, Root
from svtheory.spectra.spectra import Spectrum

KINDS = ("mode", "raw vector", "leading modes", "feature", "same variance", "as many", "isotropic")
SHARE = 0.9
"""Of the score's variance, what the leading modes carry together."""


class Along(NamedTuple):
    """Directions on one side of a head: patterns and probes as columns (D, k), `probes^T patterns = I`."""

    patterns: np.ndarray
    probes: np.ndarray


class Removal(NamedTuple):
    """What is removed on either side of a head at once, under a name, of one of KINDS."""

    name: str
    kind: str
    query: Along
    key: Along


def of_modes(modes: BalancedSpectrum, raw: Spectrum, number: int) -> Iterator[Removal]:
    """The first balanced modes and singular vectors one by one, and the modes that carry SHARE together."""
    for k in range(number):
        yield Removal(f"mode {k + 1}", "mode", *_modes(modes, slice(k, k + 1)))
    for k in range(number):
        u, v = (np.asarray(x)[:, k : k + 1] for x in (raw.left, raw.right))
        yield Removal(f"raw vector {k + 1}", "raw vector", Along(u, u), Along(v, v))
    yield Removal("leading modes", "leading modes", *_modes(modes, slice(leading(modes.values))))


def _modes(modes: BalancedSpectrum, which: slice) -> list[Along]:
    sides = (modes.query_patterns, modes.query_probes), (modes.key_patterns, modes.key_probes)
    return [Along(*(np.asarray(x)[:, which] for x in side)) for side in sides]


def leading(values: np.ndarray) -> int:
    """How many of the first modes carry SHARE of the score's variance, `sum_k sigma~_k^2`.

    >>> leading(np.array([4.0, 1.0, 0.1]))
    1
    """
    squares = np.cumsum(np.asarray(values, np.float64) ** 2)
    return 1 + int(np.searchsorted(squares, SHARE * squares[-1]))


def of_features(features: Mapping[int, np.ndarray]) -> Iterator[Removal]:
    """Features (D,) by their numbers, one by one on both sides: the unit direction of each is projected out."""
    for number, x in features.items():
        unit = (x / np.linalg.norm(x))[:, None]
        yield Removal(f"feature {number}", "feature", Along(unit, unit), Along(unit, unit))


def at_random(query: Root, key: Root, many: int, draws: int, rng: np.random.Generator) -> Iterator[Removal]:
    """Random directions: of the same variance as a mode's, as `many` of these at once, and isotropic ones."""
    sides = query, key
    for i in range(draws):
        yield Removal(f"same variance {i + 1}", "same variance", *(same_variance(side, 1, rng) for side in sides))
    for i in range(draws):
        yield Removal(f"as many {i + 1}", "as many", *(same_variance(side, many, rng) for side in sides))
    for i in range(draws):
        yield Removal(f"isotropic {i + 1}", "isotropic", *(isotropic(len(side.axes), rng) for side in sides))


def same_variance(moment: Root, many: int, rng: np.random.Generator) -> Along:
    """Random directions, as many as the moment has at most, orthonormal where tokens are white."""
    axes, lengths = (np.asarray(x, np.float64) for x in moment)
    inside = lengths > 0
    axes, lengths = axes[:, inside], lengths[inside, None]
    g, _ = np.linalg.qr(rng.normal(size=(len(lengths), min(many, len(lengths)))))
    return Along(axes @ (lengths * g), axes @ (g / lengths))


def isotropic(D: int, rng: np.random.Generator) -> Along:
    """One random unit vector of all D dimensions."""
    g = rng.normal(size=(D, 1))
    g /= np.linalg.norm(g)
    return Along(g, g)


def one_sided(removal: Removal, side: str) -> Removal:
    """The removal on one side, "query" or "key", alone; on "both", as it is."""
    if side == "both":
        return removal
    other = "key" if side == "query" else "query"
    none = Along(*(x[:, :0] for x in getattr(removal, other)))
    return removal._replace(**{other: none})


def change(W: np.ndarray, along: Along, coordinates: np.ndarray, put: np.ndarray | float) -> np.ndarray:
    """What is added to `W r` where coordinates `Q^T r`, (..., k), become `put`: `-W P (Q^T r - put)`, (..., H).

    >>> e = np.array([[1.0], [0.0]])
    >>> change(np.eye(2), Along(e, e), np.array([[3.0]]), 1.0).tolist()
    [[-2.0, 0.0]]
    """
    return (put - coordinates) @ (W @ along.patterns).T


def removed_variance(head: Head, query: Root, key: Root, removal: Removal) -> float:
    """The share of the score's second moment, `|A^{1/2} Omega B^{1/2}|^2`, that is gone when what is removed reads 0.

    Of independent queries and keys, a rotary head at offset 0. Negative for a removal that makes scores larger.
    """
    W_Q, W_K = np.asarray(head.W_Q, np.float64), np.asarray(head.W_K, np.float64)
    if not (before := np.vdot(_gram(W_Q, query), _gram(W_K, key))):
        return 0.0
    after = np.vdot(_gram(_without(W_Q, removal.query), query), _gram(_without(W_K, removal.key), key))
    return float(1 - after / before)


def _without(W: np.ndarray, along: Along) -> np.ndarray:
    """The factor that reads 0 along some directions, `W (I - P Q^T)`."""
    return W - (W @ along.patterns) @ along.probes.T


def _gram(W: np.ndarray, root: Root) -> np.ndarray:
    """`W A W^T`, (H, H)."""
    seen = (W @ np.asarray(root.axes, np.float64)) * np.asarray(root.lengths, np.float64)
    return seen @ seen.T
