"""Exact alignment (T2): eigenvector residuals, tight groups, quantised values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from svtheory import InputError
from svtheory.geometry import (
    eigenvector_residual,
    pair_values,
    quantised_values,
    tight_groups,
)
from svtheory.geometry.tightness import connected

# one shape for all frames, and one compilation: smaller ones are padded with zeros, which must change nothing
D, N = 6, 9
residual, groups, exact, quantised = map(jax.jit, (eigenvector_residual, tight_groups, pair_values, quantised_values))
seeds = st.integers(0, 2**16)

ALONE, DIGON = np.eye(1), np.array([[1.0, -1.0]])
TRIANGLE, SQUARE, PENTAGON = (
    np.stack([np.cos(a), np.sin(a)]) for a in (2 * np.pi * np.arange(n) / n for n in (3, 4, 5))
)
TETRAHEDRON = np.array([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / np.sqrt(3)

SHARES = np.repeat([1 / 2, 2 / 3, 3 / 4], [2, 3, 4])


def padded(X):
    return np.pad(X, ((0, D - X.shape[0]), (0, N - X.shape[1])))


def frame(seed):
    return np.random.default_rng(seed).normal(size=(D, N))


def rotation(seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0]


def dual_cosines(X):
    """Naive T1: cosines of the columns of X with those of `pinv(X^T)`."""
    dual = np.linalg.pinv(X.T)
    return np.abs((dual * X).sum(axis=0)) / np.linalg.norm(dual, axis=0) / np.linalg.norm(X, axis=0)


@pytest.mark.parametrize(
    ("blocks", "labels", "eigenvalues", "dimensionality"),
    [
        ([np.eye(3)], [0, 0, 0], [1], [1, 1, 1]),
        ([DIGON, DIGON], [0, 0, 0, 0], [2], [1 / 2] * 4),
        ([DIGON, SQUARE], [0] * 6, [2], [1 / 2] * 6),
        ([PENTAGON], [0] * 5, [5 / 2], [2 / 5] * 5),
        ([ALONE, DIGON], [1, 0, 0], [2, 1], [1, 1 / 2, 1 / 2]),
        ([DIGON, TRIANGLE, TETRAHEDRON], [0] * 2 + [1] * 3 + [2] * 4, [2, 1.5, 4 / 3], SHARES),
        ([3 * DIGON, TRIANGLE], [0, 0, 1, 1, 1], [18, 3 / 2], [1 / 2] * 2 + [2 / 3] * 3),
    ],
)  # fmt: skip
def test_superposition_geometry_is_exactly_aligned_and_quantised(blocks, labels, eigenvalues, dimensionality):
    X = scipy.linalg.block_diag(*blocks)
    lengths = np.linalg.norm(X, axis=0)
    X = padded(X).astype(np.float32)
    found = groups(X)
    assert found.labels.tolist() == labels + [-1] * (N - len(labels))
    np.testing.assert_allclose(found.eigenvalues, np.pad(eigenvalues, (0, N - len(eigenvalues))), rtol=1e-5)
    assert residual(X).max() < 1e-5
    predicted = quantised(X, X, 20 * np.eye(N, dtype=np.float32)).diagonal()[: len(labels)]
    np.testing.assert_allclose(predicted, 20 * (np.array(dimensionality) / lengths) ** 2, rtol=1e-5)
    np.testing.assert_allclose(
        exact(X, X, 20 * np.eye(N, dtype=np.float32)).diagonal()[: len(labels)], predicted, rtol=1e-5
    )


def test_an_aligned_feature_that_others_overlap_is_in_no_group():
    """e_1 is an eigenvector, but the other two, which overlap it, are not; e_3 is a group of its own."""
    X = padded(np.array([[1.0, 0.6, 0.6, 0.0], [0.0, 0.8, -0.8, 0.0], [0.0, 0.0, 0.0, 1.0]])).astype(np.float32)
    assert (np.asarray(residual(X)[:4]) > 0.1).tolist() == [False, True, True, False]
    assert groups(X).labels[:4].tolist() == [-1, -1, -1, 0]


def test_the_zero_frame_has_no_groups():
    X = np.zeros((D, N), np.float32)
    assert groups(X).labels.tolist() == [-1] * N
    assert not groups(X).eigenvalues.any()
    assert not residual(X).any()


@pytest.mark.parametrize(("sides", "twist", "cosine"), [(4, np.pi / 4, 0.987), (3, 0.0, 0.982)])
def test_not_every_uniform_polytope_is_aligned(sides, twist, cosine):
    """The square antiprism and the triangular prism, all edges equal."""
    angles = 2 * np.pi * np.arange(sides) / sides
    top, bottom = (np.stack([np.cos(a), np.sin(a)]) for a in (angles, angles + twist))
    apart = np.min(np.sum((top[:, :1] - bottom) ** 2, axis=0))
    half = np.full((1, sides), np.sqrt((2 * np.sin(np.pi / sides)) ** 2 - apart) / 2)
    X = np.block([[top, bottom], [half, -half]])
    np.testing.assert_allclose(dual_cosines(X), cosine, atol=5e-4)
    assert (groups(padded(X).astype(np.float32)).labels == -1).all()


@given(seeds)
def test_residual_is_zero_iff_the_dual_is_parallel(seed):
    X = frame(seed)
    X[:, 0] = np.eye(D)[0]
    if seed % 2:
        X[0, 1:] = 0
    with jax.enable_x64(True):
        found = np.asarray(residual(X))
    assert ((found < 1e-12) == (dual_cosines(X) > 1 - 1e-13)).all()
    assert (found[0] < 1e-12) == seed % 2


@given(seeds, st.floats(1e-3, 1e3))
def test_residual_ignores_rotation_sign_order_and_scale(seed, scale):
    X, rng = frame(seed), np.random.default_rng(seed)
    order, signs = rng.permutation(N), rng.choice([-1, 1], N)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            residual(scale * rotation(seed) @ (X * signs)[:, order]), residual(X)[order], rtol=1e-8
        )


@given(seeds, st.integers(1, D))
def test_quantised_values_are_lower_bounds(seed, rank):
    X, Y, T = (
        rotation(seed)[:, :rank] @ frame(seed)[:rank],
        frame(seed + 1),
        np.random.default_rng(seed).normal(size=(N, N)),
    )
    with jax.enable_x64(True):
        lower, value = quantised(X, Y, T), exact(X, Y, T)
    sizes = [np.linalg.norm(np.linalg.pinv(F), axis=1) for F in (X, Y)]
    np.testing.assert_allclose(value, np.abs(T) * np.outer(*sizes), rtol=1e-9)
    crowded = [np.linalg.norm(F, axis=0) ** 3 / ((F.T @ F) ** 2).sum(axis=1) for F in (X, Y)]
    np.testing.assert_allclose(lower, np.abs(T) * np.outer(*crowded), rtol=1e-9)
    assert (np.asarray(lower) <= np.asarray(value) * (1 + 1e-9)).all()


def test_connected_follows_chains():
    links = np.zeros((5, 5), bool)
    links[[0, 1, 3], [1, 2, 4]] = True
    reach = np.asarray(connected(jnp.asarray(links | links.T)))
    assert (reach == scipy.linalg.block_diag(np.ones((3, 3)), np.ones((2, 2)))).all()


def test_precision_vmap_gradients_and_one_trace(dtype):
    X = jnp.asarray(np.stack([frame(0), frame(1), padded(PENTAGON)]), dtype)
    T = jnp.eye(N, dtype=dtype)
    traces = []

    def everything(X):
        traces.append(None)
        return eigenvector_residual(X), tight_groups(X), pair_values(X, X, T), quantised_values(X, X, T)

    mapped = jax.jit(jax.vmap(everything))
    stacked = mapped(X)
    assert {x.dtype for x in jax.tree.leaves(stacked) if jnp.issubdtype(x.dtype, jnp.floating)} == {dtype}
    np.testing.assert_allclose(stacked[0][1], residual(X[1]), rtol=1e-4)
    mapped(X + 1)
    assert len(traces) == 1
    gradients = jax.jit(jax.vmap(jax.grad(lambda X: sum(x.sum() for x in (everything(X)[0], *everything(X)[2:])))))(X)
    assert gradients.dtype == dtype
    assert jnp.isfinite(gradients).all()


def test_wrong_arguments_are_named():
    with pytest.raises(InputError, match="X must have 2 axes"):
        eigenvector_residual(jnp.ones(3))
    with pytest.raises(InputError, match=r"target must have shape \(2, 3\)"):
        quantised_values(jnp.eye(2), jnp.ones((2, 3)), jnp.eye(2))
    with pytest.raises(TypeError, match="X must be an array of real numbers"):
        tight_groups("frame")  # pyright: ignore


def test_the_residual_is_the_angle_of_the_dual():
    """X = [[1, e], [0, e]]: S x_0 is within e^2 of x_0, its dual is 45 degrees off; no tight group either."""
    with jax.enable_x64(True):
        X = jnp.array([[1, 1e-3], [0, 1e-3]])
        duals = np.linalg.inv(np.asarray(X).T)
        units, features = duals / np.linalg.norm(duals, axis=0), np.asarray(X) / np.linalg.norm(X, axis=0)
        cosines = np.abs((units * features).sum(axis=0))
        np.testing.assert_allclose(eigenvector_residual(X), np.sqrt(1 - cosines**2), rtol=1e-9)
        assert tight_groups(X).labels.tolist() == [-1, -1]


@pytest.mark.parametrize("power", [-60, 60])
def test_tiny_and_huge_features(power):
    X, T = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), np.eye(3, dtype=np.float32)
    scaled = np.ldexp(X, power)
    for function in (pair_values, quantised_values):
        np.testing.assert_allclose(function(scaled, scaled, T), np.ldexp(function(X, X, T), -2 * power), rtol=1e-5)
    np.testing.assert_allclose(eigenvector_residual(scaled), eigenvector_residual(X), rtol=1e-5)
    frame = np.hstack([TRIANGLE, -TRIANGLE]).astype(np.float32)
    found, unit = tight_groups(np.ldexp(frame, power)), tight_groups(frame)
    np.testing.assert_array_equal(found.labels, unit.labels)
    np.testing.assert_allclose(found.eigenvalues, np.ldexp(unit.eigenvalues, 2 * power), rtol=1e-5)


@pytest.mark.parametrize(("power", "size"), [(-80, "large"), (80, "small")])
@pytest.mark.parametrize("function", [pair_values, quantised_values])
def test_values_that_float32_does_not_hold_are_refused(function, power, size):
    X = 2.0**power * np.eye(2, dtype=np.float32)
    with pytest.raises(InputError, match=f"^target, over features, must .* got one too {size}$"):
        function(X, X, np.eye(2, dtype=np.float32))
