"""Arrangements of features in exact coordinates, and the quantities of a frame read off them."""

from __future__ import annotations

from typing import Any

from sympy import ImmutableMatrix, Rational, cos, pi, sin, sqrt

from proofs.engine.notation import Inner, SquaredNorm


def polygon(corners: int) -> Any:
    """Unit vectors to the corners of a regular polygon, as columns."""
    angles = [2 * pi * k / corners for k in range(corners)]
    return ImmutableMatrix([[cos(a) for a in angles], [sin(a) for a in angles]])


def stacked(corners: int, half_height: Any, twist: Any = 0) -> Any:
    """A polygon at ``+half_height`` above one, turned by `twist`, at ``-half_height``: prisms and antiprisms."""
    upper = [2 * pi * k / corners for k in range(corners)]
    angles = upper + [angle + twist for angle in upper]
    heights = [half_height] * corners + [-half_height] * corners
    return ImmutableMatrix([[cos(a) for a in angles], [sin(a) for a in angles], heights])


TETRAHEDRON = ImmutableMatrix([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / sqrt(3)
POLYTOPES = {
    "alone": (ImmutableMatrix([[1]]), Rational(1)),
    "antipodal pair": (ImmutableMatrix([[1, -1]]), Rational(1, 2)),
    "triangle": (polygon(3), Rational(2, 3)),
    "tetrahedron": (TETRAHEDRON, Rational(3, 4)),
    "pentagon": (polygon(5), Rational(2, 5)),
}
"""Tight frames, each with the dimensionality of its features."""
SQUARE_ANTIPRISM = stacked(4, sqrt(sqrt(2) / 4), pi / 4)
TRIANGULAR_PRISM = stacked(3, sqrt(3) / 2)


def dimensionality(frame: Any, column: Any) -> Any:
    """``D_i = |x|^2 / (x^^T S x^) = |x|^4 / |X^T x|^2``, the feature dimensionality of a column of the frame."""
    return SquaredNorm(column) ** 2 / SquaredNorm(frame.T * column)


def squared_cosine(left: Any, right: Any) -> Any:
    """``cos^2`` between two columns."""
    return Inner(left, right) ** 2 / (SquaredNorm(left) * SquaredNorm(right))


def dual(frame: Any, column: Any) -> Any:
    """``S^-1 x``, for an explicit frame of full rank."""
    return (frame * frame.T).inv() * column
