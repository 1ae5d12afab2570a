"""Claims of the proofs as numerical functions, and random inputs of every kind of shape and rank to try them on."""

from collections.abc import Iterator

import numpy as np
import sympy

SHAPES = ((4, 2, 3), (3, 3, 3), (3, 6, 5), (4, 7, 2))  # D, N, M: below, at and above D
DRAWS = 25  # for each shape, every other one rank-deficient


def function(expression: sympy.Basic, *symbols: sympy.Basic):
    """The expression as a numpy function of the given symbols."""
    return sympy.lambdify(symbols, expression, modules="numpy")


def frames(seed: int = 0) -> Iterator[tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]]:
    """At least 100 times a generator, X (D, N), Y (D, M) and T (N, M); half of the frames do not span their space."""
    rng = np.random.default_rng(seed)
    for D, N, M in SHAPES:
        for draw in range(DRAWS):
            X, Y = rng.normal(size=(D, N)), rng.normal(size=(D, M))
            if draw % 2:
                normal = rng.normal(size=(D, 1))
                flatten = np.eye(D) - normal @ normal.T / (normal**2).sum()
                X, Y = flatten @ X, flatten @ Y
            yield rng, X, Y, rng.normal(size=(N, M))


def close(found, wanted) -> bool:
    """Equal to 1e-10, relative to the largest entry."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    return bool(np.abs(found - wanted).max() <= 1e-10 * np.abs(wanted).max())
