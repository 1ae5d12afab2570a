"""Polytopes: the shapes in which features share dimensions, recognised from their angles (T2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.checks import non_negative, real_array
from svtheory.geometry.columns import unit_columns
from svtheory.geometry.tightness import connected
from svtheory.numerics import exact_products

NAMES = {
    (1, 1): "alone",
    (2, 1): "digon",
    (3, 2): "triangle",
    (5, 2): "pentagon",
    (4, 3): "tetrahedron",
    (8, 3): "square antiprism",
    (5, 4): "4-simplex",
}
"""Polytopes by number of vertices and dimension; vertices of orthogonal parts, as of a square, count by part."""


class Polytopes(NamedTuple):
    """The orthogonal parts into which features fall.

    labels      the part of each feature, shape (N,): the lowest index in it; -1 for a zero feature
    vertices    how many features the part has, shape (N,); 0 for a zero feature
    dimensions  of its span, shape (N,); 0 for a zero feature
    """

    labels: Array
    vertices: Array
    dimensions: Array


def polytopes(X: Array, tolerance: Array | float = 0.2) -> Polytopes:
    """Split the features of X (D, N) into parts that are orthogonal up to cosines of `tolerance` (T2b).

    In a part that is a regular polytope every feature has the dimensionality `dimensions/vertices` and is aligned. A
    direction counts as spanned where its share of the part is above `tolerance^2`.

    >>> found = polytopes(jnp.array([[1.0, -1.0, 0.0], [0.0, 0.0, 3.0]]))
    >>> found.vertices.tolist(), found.dimensions.tolist()
    ([2, 2, 1], [1, 1, 1])
    """
    X = real_array("X", X, ndim=2)
    return _polytopes(X, non_negative("tolerance", tolerance).astype(X.dtype))


@jax.jit
@exact_products
def _polytopes(X: Array, tolerance: Array) -> Polytopes:
    unit = unit_columns(X)
    present = X.any(axis=0)
    together = connected(jnp.abs(unit.T @ unit) > tolerance) & present[:, None] & present[None, :]

    def dimensions(members):
        values = jnp.linalg.eigvalsh((unit * members[None, :]) @ unit.T)
        return (values > tolerance**2 * jnp.maximum(values[-1], 1)).sum()

    labels = jnp.where(present, together.argmax(axis=1), -1)
    return Polytopes(labels, together.sum(axis=1), jax.lax.map(dimensions, together.astype(X.dtype)))


def polytope_name(vertices: int, dimensions: int) -> str:
    """The name of the polytope, or its numbers where it has none here.

    >>> polytope_name(2, 1), polytope_name(9, 4)
    ('digon', '9 in 4 dimensions')
    """
    if not vertices:
        return "absent"
    return NAMES.get((int(vertices), int(dimensions)), f"{vertices} in {dimensions} dimensions")
