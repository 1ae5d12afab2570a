import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import svtheory
from svtheory import (
    InputError,
    condition_number,
    conditioned_frame,
    dual_frame,
    feature_dimensionality,
    frame_operator,
    tight_frame,
)
from svtheory.geometry import (
    antipodal,
    frame_bounds,
    frame_potential,
    leverage,
    polygon,
    simplex,
    spread,
    tegum,
)
from svtheory.geometry.columns import unit_columns

SHAPES = {"N < D": (5, 3, 3), "N = D": (4, 4, 4), "N > D": (4, 7, 4), "rank-deficient": (5, 7, 3)}


def random_features(D, N, rank, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(D, rank)) @ rng.normal(size=(rank, N)) if rank < min(D, N) else rng.normal(size=(D, N))


def naive_dimensionality(X):
    D = np.zeros(X.shape[1])
    for i, x in enumerate(X.T):
        if np.linalg.norm(x) > 0:
            D[i] = x @ x / sum((x / np.linalg.norm(x) @ y) ** 2 for y in X.T)
    return D


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_against_numpy(shape, dtype, eps):
    X = random_features(*shape)
    Xj = jnp.asarray(X, dtype)
    values = np.linalg.svd(X, compute_uv=False)[: shape[2]]
    kappa = (values[0] / values[-1]) ** 2
    close = {"rel": 100 * eps * kappa, "abs": 100 * eps * kappa}
    wanted = {
        frame_operator: X @ X.T,
        dual_frame: np.linalg.pinv(X.T),
        leverage: np.linalg.pinv(X) @ X,
        feature_dimensionality: naive_dimensionality(X),
        frame_bounds: [values[-1] ** 2, values[0] ** 2],
        condition_number: kappa,
        spread: (kappa - 1) / (kappa + 1),
        frame_potential: np.sum((X.T @ X) ** 2),
    }
    found = jax.jit(lambda X: [f(X) for f in wanted])(Xj)
    for x, value in zip(found, wanted.values(), strict=True):
        assert np.asarray(x) == pytest.approx(value, **close)
    assert {x.dtype for x in jax.tree.leaves(found)} == {dtype}


def test_float32_stays_float32_beside_float64():
    with jax.enable_x64(True):
        X = jnp.asarray(random_features(4, 7, 4), jnp.float32)
        for f in (frame_operator, dual_frame, leverage, feature_dimensionality, condition_number, spread):
            assert f(X).dtype == jnp.float32


POLYTOPES = {
    "alone": (lambda: jnp.eye(3), 1),
    "antipodal pairs": (lambda: antipodal(3), 1 / 2),
    "triangle": (lambda: simplex(2), 2 / 3),
    "tetrahedron": (lambda: simplex(3), 3 / 4),
    "pentagon": (lambda: polygon(5), 2 / 5),
    "heptagon": (lambda: polygon(7), 2 / 7),
}


@pytest.mark.parametrize(("make", "D_i"), POLYTOPES.values(), ids=POLYTOPES)
def test_superposition_polytopes(make, D_i, dtype, eps):
    X = make()
    assert X.dtype == dtype
    read = jax.jit(lambda X: (feature_dimensionality(X), condition_number(X), spread(X)))
    dimensionality, kappa, epsilon = map(np.asarray, read(X))
    assert dimensionality == pytest.approx(np.full(X.shape[1], D_i), rel=20 * eps)
    assert float(kappa) == pytest.approx(1, abs=20 * eps)
    assert float(epsilon) == pytest.approx(0, abs=20 * eps)


def test_tegum_product_keeps_each_blocks_dimensionality(dtype, eps):
    X = tegum(antipodal(1), simplex(2), polygon(5), jnp.eye(1))
    assert X.dtype == dtype
    expected = [1 / 2] * 2 + [2 / 3] * 3 + [2 / 5] * 5 + [1]
    assert np.asarray(feature_dimensionality(X)) == pytest.approx(expected, rel=20 * eps)


def test_zero_features():
    X = jnp.array([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    assert feature_dimensionality(X).tolist() == [0.5, 0.0, 0.5]
    assert np.asarray(dual_frame(X)) == pytest.approx(np.asarray(X) / 2)
    zero = jnp.zeros((2, 3))
    assert feature_dimensionality(zero).tolist() == [0, 0, 0]
    assert [float(x) for x in frame_bounds(zero)] == [0, 0]
    assert not dual_frame(zero).any()
    assert np.isnan(condition_number(zero))


@pytest.mark.parametrize("size", [1e-18, 1e-10, 1e10, 1e18])
def test_no_digits_are_lost_at_small_and_large_scale(size):
    X = jnp.asarray(random_features(4, 7, 4), jnp.float32)
    for f in (feature_dimensionality, condition_number, spread, leverage, unit_columns):
        assert np.asarray(f(size * X)) == pytest.approx(np.asarray(f(X)), rel=1e-4, abs=1e-6)


def test_one_feature_far_smaller_than_the_others():
    D = feature_dimensionality(jnp.array([[1.0, 1e-25, 1.0], [1.0, 0.0, 0.0]], jnp.float32))
    assert np.asarray(D) == pytest.approx([4 / 5, 0, 1 / 2])


@hypothesis.given(seed=st.integers(0, 2**32 - 1), size=st.floats(1e-3, 1e3))
def test_invariances(seed, size):
    """Rotations of the space, signs, and scale change no feature dimensionality; permutations permute them."""
    X = random_features(4, 7, 4, seed)
    rng = np.random.default_rng(seed)
    Q = scipy.stats.ortho_group.rvs(4, random_state=rng)
    signs, order = rng.choice([-1, 1], size=7), rng.permutation(7)
    moved = jnp.asarray(size * Q @ (X * signs)[:, order])
    D = np.asarray(feature_dimensionality(jnp.asarray(X)))
    assert np.asarray(feature_dimensionality(moved)) == pytest.approx(D[order], rel=1e-5)
    assert float(condition_number(moved)) == pytest.approx(float(condition_number(jnp.asarray(X))), rel=1e-3)
    assert np.asarray(leverage(moved)) == pytest.approx(
        (signs[:, None] * np.asarray(leverage(jnp.asarray(X))) * signs)[order][:, order], abs=1e-4
    )
    assert D.sum() <= 4 + 1e-5
    assert np.all((D > 0) & (D <= 1 + 1e-5))


@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_frame_potential_is_least_for_tight_frames(seed):
    X = random_features(4, 7, 4, seed)
    unit = jnp.asarray(X / np.linalg.norm(X, axis=0))
    assert float(frame_potential(unit)) >= 49 / 4 * (1 - 1e-6)
    assert float(frame_potential(tight_frame(jax.random.key(seed), 4, 7))) == pytest.approx(49 / 4, rel=1e-5)


def test_large_condition_numbers_are_resolved(dtype, eps):
    kappa = 1e6 if dtype == jnp.float32 else 1e12
    X = conditioned_frame(jax.random.key(0), 4, 7, kappa)
    assert float(condition_number(X)) == pytest.approx(kappa, rel=1000 * eps * kappa**0.5)


def test_gradients_are_finite():
    """Tight frames have equal singular values; a zero feature has no direction."""

    @jax.jit
    @jax.grad
    def gradient(X):
        return frame_potential(X) + condition_number(X) + feature_dimensionality(X)[0] + dual_frame(X).sum()

    for X in (tight_frame(jax.random.key(0), 4, 8), antipodal(4)):
        assert jnp.isfinite(gradient(X)).all()
    with_zero = jnp.eye(3).at[0, 0].set(0)
    assert jnp.isfinite(jax.jit(jax.grad(lambda X: feature_dimensionality(X).sum()))(with_zero)).all()


def test_vmap_equals_a_loop():
    stack = jnp.stack([jnp.asarray(random_features(4, 7, 4, seed)) for seed in range(3)])
    for f in (dual_frame, feature_dimensionality, condition_number):
        assert np.asarray(jax.vmap(f)(stack)) == pytest.approx(np.stack([f(X) for X in stack]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("f", [frame_operator, dual_frame, leverage, feature_dimensionality, condition_number, spread])
def test_bad_input(f):
    with pytest.raises(InputError, match=r"X must have 2 axes, got shape \(3,\)"):
        f(jnp.ones(3))
    with pytest.raises(InputError, match=r"X must not be empty, got shape \(3, 0\)"):
        f(jnp.ones((3, 0)))
    with pytest.raises(InputError, match="X must be finite, got 1 entries that are not"):
        f(jnp.array([[1.0, jnp.nan]]))
    assert f([[1, 0], [0, 2]]) is not None


SIZES = [1e-30, 1e-22, 1e-12, 1e12, 1e22, 1e30]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "degree"),
    [
        *[
            (name, 0)
            for name in ("leverage", "feature_dimensionality", "condition_number", "spread", "alignment_bound")
        ],
        *(("local_alignment_bound", 0), ("eigenvector_residual", 0), ("dual_frame", -1)),
        *(("frame_operator", 2), ("frame_bounds", 2), ("frame_potential", 4), ("phase_energy", 4)),
    ],
)
def test_frames_of_any_size_give_the_right_value_or_none(name, degree, size):
    """Each function is homogeneous; float32 holds 1e-37 to 3e38, and nothing else may come out as if it were right."""
    X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    extra = (1.0,) if name == "phase_energy" else ()
    function = getattr(svtheory.geometry, name)
    large = (X.astype(float) * size).astype(np.float32)
    wanted = [np.asarray(x, float) * size**degree for x in jax.tree.leaves(function(X, *extra))]
    largest = max(np.abs(x).max() for x in wanted)
    if 1e-36 < largest < 1e38 and name != "eigenvector_residual":
        for found, value in zip(jax.tree.leaves(function(large, *extra)), wanted, strict=True):
            assert np.allclose(found, value, rtol=1e-3, atol=1e-4 * largest)
    else:
        found, refusal = None, ""
        try:
            found = jax.tree.leaves(function(large, *extra))
        except InputError as error:
            refusal = str(error)
        if found is None:
            assert re.match(r"(X|features) must be of a size whose products float32 holds, got one too", refusal)
        else:  # free of scale, and no product was lost on the way
            assert np.allclose(found[0], wanted[0], atol=1e-3)


def test_factors_too_large_for_their_products_are_refused():
    W = np.full((2, 2), 1e30, np.float32)
    with pytest.raises(InputError, match=r"^W_Q and W_K must be of a size whose products float32 holds"):
        svtheory.prediction.imbalance(W, 2 * W)
    with pytest.raises(InputError, match=r"^W_Q and W_K must be of a size whose products float32 holds"):
        svtheory.rotary_head(W, W, np.ones(1), "adjacent").omega(1.0)
