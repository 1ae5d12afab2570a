"""Nearest: which rows of a table, embeddings, features or an unembedding, lie nearest to directions, beside chance.

A direction is the span of a block of vectors: one vector, whose cosines have signs and two ends, or several, of which
only the length of a row's projection is known.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

TOGETHER = 8192  # rows that are looked at together: a copy of a table of a vocabulary is large
AT_ONCE = 64  # directions that are held against all rows at once


class Table(NamedTuple):
    """Rows as the vectors that are held beside them see them: `g * (row - mean over dimensions)`.

    rows      shape (N, D)
    mean      of the rows, (D,), which a centred side does not see
    lengths   of what is seen of each row, as it is and less the mean row, (2, N)
    gain      g (D,), or None
    levelled  whether the mean over dimensions is taken off, as a LayerNorm does
    """

    rows: np.ndarray
    mean: np.ndarray
    lengths: np.ndarray
    gain: np.ndarray | None
    levelled: bool

    def products(self, vectors: np.ndarray, centred: np.ndarray) -> np.ndarray:
        """What is seen of each row along vectors (n, D), less the mean row where they are centred (n,), (n, N)."""
        moved = vectors if self.gain is None else vectors * self.gain
        moved = (moved - moved.mean(axis=1, keepdims=True) if self.levelled else moved).astype(self.rows.dtype)
        found = moved @ self.rows.T
        found -= np.where(centred, moved @ self.mean, 0).astype(found.dtype)[:, None]
        return found

    def cosines(self, vectors: np.ndarray, centred: np.ndarray) -> np.ndarray:
        """`products` with what is seen of each row at unit length, 0 where that is 0."""
        found = self.products(vectors, centred)
        for i, flag in enumerate(centred):
            found[i] /= self.lengths[int(flag)]
        return found


def table(rows: np.ndarray, gain: np.ndarray | None = None, levelled: bool = False) -> Table:
    """The Table of rows (N, D) in any precision."""
    rows = rows if rows.dtype.itemsize >= 4 else rows.astype(np.float32)
    mean, lengths = rows.mean(axis=0, dtype=np.float64).astype(rows.dtype), np.empty((2, len(rows)), rows.dtype)
    for start in range(0, len(rows), TOGETHER):
        part = slice(start, start + TOGETHER)
        for i, seen in enumerate((rows[part], rows[part] - mean)):
            seen = seen - seen.mean(axis=1, keepdims=True) if levelled else seen
            lengths[i, part] = np.linalg.norm(seen if gain is None else seen * gain, axis=1)
    # what is left of a row that is the mean row is rounding, and no direction
    least = np.sqrt(rows.shape[1]) * np.finfo(rows.dtype).eps * lengths[:1]
    return Table(rows, mean, np.where(lengths > least, lengths, np.inf), gain, levelled)


class Found(NamedTuple):
    """The rows at both ends of directions, (n, 2, near), -1 and NaN of none, and the chance levels, (n,)."""

    index: np.ndarray
    value: np.ndarray
    chance: np.ndarray


Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]


def nearest(
    measure: Measure, bases: Sequence[np.ndarray], centred: np.ndarray, random: Sequence[np.ndarray], near: int
) -> Found:
    """The `near` rows at the ends of each basis, orthonormal (D, b), by a table's `products` or `cosines`.

    `random` has for each basis directions (D, draws) of the kind that chance would give, the same array for bases of
    one kind: the level is the mean, over subspaces of b of them, of what the best of all rows has there. NaN where
    there are fewer.
    """
    starts = range(0, len(bases), AT_ONCE)
    found = [_at_ends(measure, bases[i : i + AT_ONCE], centred[i : i + AT_ONCE], near) for i in starts]
    index, value = (np.concatenate(parts) for parts in zip(*found, strict=True))
    levels: dict[tuple[int, bool, int], float] = {}
    for basis, flag, drawn in zip(bases, centred, random, strict=True):
        kind = id(drawn), bool(flag), basis.shape[1]
        if kind not in levels:
            levels[kind] = chance(measure, drawn, bool(flag), basis.shape[1])
    kinds = ((id(drawn), bool(flag), basis.shape[1]) for basis, flag, drawn in zip(bases, centred, random, strict=True))
    return Found(index, value, np.array([levels[kind] for kind in kinds]))


def _at_ends(
    measure: Measure, bases: Sequence[np.ndarray], centred: np.ndarray, near: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows at the ends of some bases, and what they have there."""
    columns, sizes = np.concatenate([basis.T for basis in bases]), np.array([basis.shape[1] for basis in bases])
    return ends(of_blocks(measure(columns, np.repeat(centred, sizes)), sizes), sizes == 1, near)


def chance(measure: Measure, drawn: np.ndarray, centred: bool, size: int) -> float:
    """What the best of all rows has, on average, along the spans of `size` of the directions drawn (D, draws)."""
    count = drawn.shape[1] // size if size else 0
    if not count:
        return float("nan")
    bases = [orthonormal(drawn[:, i * size : (i + 1) * size]) for i in range(count)]
    along = measure(np.concatenate([basis.T for basis in bases]), np.full(count * size, centred))
    return float(np.abs(of_blocks(along, np.full(count, size))).max(axis=1).mean())


def orthonormal(vectors: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the span of independent vectors (D, b), that of one vector its direction."""
    if vectors.shape[1] != 1:
        return np.linalg.qr(vectors)[0]
    return vectors / max(float(np.linalg.norm(vectors)), float(np.finfo(vectors.dtype).tiny))


def of_blocks(along: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Of what is found along every column of blocks, (columns, N), one row a block: lengths where it has several.

    >>> of_blocks(np.array([[-1.0], [3.0], [4.0]]), np.array([1, 2, 0])).tolist()
    [[-1.0], [5.0], [nan]]
    """
    found = np.full((len(sizes), along.shape[1]), np.nan, along.dtype)
    for row, size, end in zip(found, sizes, np.cumsum(sizes), strict=True):
        if size:
            row[:] = along[end - 1] if size == 1 else np.sqrt((along[end - size : end] ** 2).sum(axis=0))
    return found


def ends(values: np.ndarray, signed: np.ndarray, near: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the largest and the smallest of values (..., N) are, NaN left out, and what they are: (..., 2, near).

    The second end is there where values are `signed` (...). -1 and NaN where there are no more.

    >>> where, which = ends(np.array([[0.5, np.nan, -2.0]]), np.array([True]), 2)
    >>> where.tolist(), which.tolist()
    ([[[0, 2], [2, 0]]], [[[0.5, -2.0], [-2.0, 0.5]]])
    """
    N, index = values.shape[-1], np.full((*values.shape[:-1], 2, near), -1)
    n = min(near, N)
    for end, sign in enumerate((-1, 1)):
        key = np.where(np.isnan(values), np.inf, sign * values)
        some = np.argpartition(key, n - 1, axis=-1)[..., :n] if n < N else np.broadcast_to(np.arange(N), values.shape)
        some = np.sort(some, axis=-1)  # of equal ones the first
        order = np.argsort(np.take_along_axis(key, some, axis=-1), axis=-1, kind="stable")
        index[..., end, :n] = np.take_along_axis(some, order, axis=-1)
    which = np.take_along_axis(values[..., None, :], np.maximum(index, 0), axis=-1)
    which[..., 1, :][~signed] = np.nan
    which[index < 0] = np.nan
    return np.where(np.isnan(which), -1, index), which
