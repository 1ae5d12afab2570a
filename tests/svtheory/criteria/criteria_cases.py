"""Frames and matchings that the tests of criteria share."""

import numpy as np
from hypothesis import strategies as st

D, N, M = 4, 7, 6
PAIRS = ([0, 1, 2], [2, 0, 5], [3.0, -2.0, 1.0])
seeds = st.integers(0, 2**16)


def frame(seed, columns=N):
    return np.random.default_rng(seed).normal(size=(D, columns))


def tight(columns=N):
    return np.linalg.qr(frame(5, columns).T)[0].T


def single():
    T = np.zeros((N, M))
    T[0, 1] = 2
    return T


def of(rows, theorem, side, part=""):
    """The one condition of that theorem and side whose statement contains `part`."""
    (row,) = [r for r in rows if (r.theorem, r.side) == (theorem, side) and part in r.statement]
    return row


def cosine(a, b):
    return abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b)
