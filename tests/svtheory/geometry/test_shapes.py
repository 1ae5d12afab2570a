import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svtheory import feature_dimensionality, polytopes
from svtheory.geometry import (
    antipodal,
    polygon,
    polytope_name,
    simplex,
    tegum,
)


@pytest.mark.parametrize(
    ("X", "name"),
    [
        (lambda: np.eye(3), "alone"),
        (lambda: antipodal(3), "digon"),
        (lambda: polygon(3), "triangle"),
        (lambda: polygon(4), "digon"),  # a square is two of them
        (lambda: polygon(5), "pentagon"),
        (lambda: simplex(3), "tetrahedron"),
        (lambda: simplex(4), "4-simplex"),
    ],
)
def test_arrangements_are_recognised_and_have_their_dimensionality(X, name):
    X = np.asarray(jax.jit(X)())
    found = polytopes(X)
    assert {polytope_name(*shape) for shape in zip(found.vertices, found.dimensions, strict=True)} == {name}
    np.testing.assert_allclose(found.dimensions / found.vertices, feature_dimensionality(X), rtol=1e-6)


def test_parts_are_told_apart_and_zero_features_are_absent():
    X = jnp.column_stack([tegum(polygon(5), antipodal(1), jnp.eye(1)), jnp.zeros(4)])
    found = polytopes(X)
    assert found.labels.tolist() == [0] * 5 + [5] * 2 + [7, -1]
    assert found.vertices.tolist() == [5] * 5 + [2] * 2 + [1, 0]
    assert found.dimensions.tolist() == [2] * 5 + [1] * 3 + [0]
    assert polytope_name(0, 0) == "absent"


@given(st.integers(0, 2**16))
def test_rotation_order_and_length_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    X = np.asarray(tegum(polygon(3), antipodal(2)))
    order = rng.permutation(X.shape[1])
    turned = np.linalg.qr(rng.normal(size=(4, 4)))[0] @ X[:, order] * rng.uniform(0.5, 2, size=X.shape[1])
    before, after = (jax.jit(polytopes)(x) for x in (X, turned))
    assert after.vertices.tolist() == before.vertices[order].tolist()
    assert after.dimensions.tolist() == before.dimensions[order].tolist()


def test_small_angles_between_parts_do_not_join_them():
    rng = np.random.default_rng(0)
    X = antipodal(4) + 0.02 * rng.normal(size=(4, 8))
    assert (polytopes(X).vertices == 2).all()
    assert (polytopes(X, tolerance=1e-4).vertices == 8).all()
