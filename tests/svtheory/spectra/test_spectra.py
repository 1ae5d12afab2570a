import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from svtheory import (
    Agreement,
    InputError,
    Spectrum,
    chance_alignment,
    compare,
    effective_rank,
    nameable,
    spectrum,
)
from svtheory.factorisations import safe_svd
from svtheory.heads import Head, decompose
from svtheory.spectra.spectra import spectrum_of, value_gaps, value_groups

SHAPES = {"H < D": (3, 5, 5), "H = D": (5, 5, 5), "H > D": (7, 5, 5), "D > D'": (4, 6, 3), "H = 1": (1, 5, 5)}


def factors(H, D, D_, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(H, D)), rng.normal(size=(H, D_))


def rebuilt(s):
    return np.asarray(s.left, float) * np.asarray(s.values, float) @ np.asarray(s.right, float).T


def naive_gaps(values):
    distances = [[values[k], *(abs(values[k] - v) for j, v in enumerate(values) if j != k)] for k in range(len(values))]
    return np.array([min(d) for d in distances])


# spectrum(W_Q, W_K)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_spectrum_is_the_full_svd(shape, dtype, eps):
    W_Q, W_K = factors(*shape)
    s = spectrum(jnp.asarray(W_Q, dtype), jnp.asarray(W_K, dtype))
    K = min(shape)
    values = np.linalg.svd(W_Q.T @ W_K, compute_uv=False)
    assert {x.dtype for x in jax.tree.leaves(s)} == {dtype}
    assert (s.left.shape, s.values.shape, s.right.shape, s.gaps.shape) == ((shape[1], K), (K,), (shape[2], K), (K,))
    assert np.asarray(s.values) == pytest.approx(values[:K], abs=20 * eps * values[0])
    assert rebuilt(s) == pytest.approx(W_Q.T @ W_K, abs=20 * eps * values[0])
    for vectors in (s.left, s.right):
        vectors = np.asarray(vectors)
        assert vectors.T @ vectors == pytest.approx(np.eye(K), abs=40 * eps)  # a GPU's SVD leaves 27
    assert np.asarray(s.gaps) == pytest.approx(naive_gaps(values[:K]), abs=40 * eps * values[0])


def test_a_real_shape_in_float32_agrees_with_a_full_svd_in_float64():
    W_Q, W_K = factors(64, 768, 768)
    exact = np.linalg.svd(W_Q.T @ W_K, compute_uv=False)
    s = spectrum(jnp.asarray(W_Q, jnp.float32), jnp.asarray(W_K, jnp.float32))
    assert np.abs(np.asarray(s.values) - exact[:64]).max() <= 1e-5 * exact[0]
    assert np.abs(rebuilt(s) - W_Q.T @ W_K).max() <= 1e-5 * exact[0]


def inner_jaxprs(jaxpr):
    yield jaxpr
    for equation in jaxpr.eqns:
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from inner_jaxprs(inner)


def test_no_array_of_the_size_of_omega():
    D = 768
    shapes = jax.ShapeDtypeStruct((64, D), jnp.float32)
    jaxpr = jax.make_jaxpr(spectrum)(shapes, shapes).jaxpr
    made = [v.aval.shape for inner in inner_jaxprs(jaxpr) for equation in inner.eqns for v in equation.outvars]
    assert (D, 64) in made
    assert max(int(np.prod(shape)) for shape in made) == 64 * D


MANY_HEADS = """
import sys, time
import jax, jax.numpy as jnp, numpy as np
from svtheory import spectrum
rng = np.random.default_rng(0)
heads = [jnp.asarray(rng.normal(size=(144, 64, 768)), jnp.float32) for _ in range(2)]
exact = np.linalg.svd(np.asarray(heads[0][-1], float).T @ np.asarray(heads[1][-1], float), compute_uv=False)
for along in (lambda q, k: jax.lax.map(lambda head: spectrum(*head), (q, k)), jax.vmap(spectrum)):
    s = jax.block_until_ready(jax.jit(along)(*heads))
    assert np.abs(np.asarray(s.values[-1]) - exact[:64]).max() <= 1e-5 * exact[0]
"""


def test_all_heads_of_a_model_without_a_hang():
    """One after the other and batched: two batches of factorisations were seen to wait for each other for ever."""
    subprocess.run([sys.executable, "-c", MANY_HEADS], check=True, timeout=240)


@pytest.mark.parametrize("size", [1e-18, 1e-10, 1e10, 1e18])
def test_tiny_and_huge_weights(size):
    W_Q, W_K = factors(3, 5, 5)
    s = spectrum(jnp.asarray(size * W_Q, jnp.float32), jnp.asarray(size * W_K, jnp.float32))
    expected = spectrum(jnp.asarray(W_Q, jnp.float32), jnp.asarray(W_K, jnp.float32))
    assert np.asarray(s.values) == pytest.approx(size**2 * np.asarray(expected.values, float), rel=1e-4)
    assert np.abs(np.sum(np.asarray(s.left) * np.asarray(expected.left), axis=0)) == pytest.approx([1, 1, 1], abs=1e-5)


def test_rank_deficient_and_zero_heads(dtype, eps):
    W_Q, W_K = factors(1, 5, 5)
    three = np.ones((3, 1), dtype)
    s = spectrum(three * W_Q.astype(dtype), three * W_K.astype(dtype))
    sigma = 3 * np.linalg.norm(W_Q) * np.linalg.norm(W_K)
    assert np.asarray(s.values) == pytest.approx([sigma, 0, 0], abs=20 * eps * sigma)
    assert np.asarray(s.left.T @ s.left) == pytest.approx(np.eye(3), abs=20 * eps)
    zero = spectrum(np.zeros((3, 5), dtype), W_K[[0, 0, 0]].astype(dtype))
    assert not zero.values.any()
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(zero))


def test_spectrum_under_vmap_equals_a_loop():
    stacks = [jnp.stack(x) for x in zip(*(factors(3, 5, 5, seed) for seed in range(4)), strict=True)]
    batched = jax.vmap(spectrum)(*stacks)
    for m in range(4):
        one = spectrum(stacks[0][m], stacks[1][m])
        assert np.asarray(batched.values[m]) == pytest.approx(np.asarray(one.values), rel=1e-5)
        assert rebuilt(jax.tree.map(lambda x, m=m: x[m], batched)) == pytest.approx(rebuilt(one), abs=1e-5)


def test_one_trace_per_shape():
    traces = []

    @jax.jit
    def traced(W_Q, W_K):
        traces.append(W_Q.shape)
        return spectrum(W_Q, W_K)

    for H in (3, 3, 4, 3):
        traced(*factors(H, 5, 5))
    assert traces == [(3, 5), (4, 5)]


def test_spectrum_derivative_against_differences():
    with jax.enable_x64(True):
        W_Q, W_K = (jnp.asarray(W) for W in factors(3, 5, 5))
        weights = jnp.arange(1.0, 4.0)

        def f(W_Q):
            s = spectrum(W_Q, W_K)
            return weights @ s.values + (weights * s.left[0] ** 2).sum() + (weights * s.right[0] ** 2).sum()

        assert_derivative(f, W_Q)


def assert_derivative(f, x, rel=1e-6):
    """The directional derivative of f at x against central differences, in float64."""
    f = jax.jit(f)
    v = jnp.asarray(np.random.default_rng(5).normal(size=x.shape))
    h = 1e-5
    numeric = (f(x + h * v) - f(x - h * v)) / (2 * h)
    assert float(jnp.vdot(jax.grad(f)(x), v)) == pytest.approx(float(numeric), rel=rel, abs=rel)


@pytest.mark.parametrize(
    ("W_Q", "W_K", "kind", "sentence"),
    [
        (np.ones((3, 5)), np.ones((2, 5)), InputError, r"W_K must have 3 rows, the head dimension of W_Q, .* \(2, 5\)"),
        (np.ones(5), np.ones((2, 5)), InputError, r"W_Q must have 2 axes, got shape \(5,\)"),
        (np.ones((3, 0)), np.ones((3, 5)), InputError, r"W_Q must not be empty, got shape \(3, 0\)"),
        (np.ones((3, 5)), np.full((3, 5), np.nan), InputError, "W_K must be finite, got 15 entries that are not"),
        ("head", np.ones((3, 5)), TypeError, "W_Q must be an array of real numbers, got 'head'"),
    ],
)
def test_bad_factors(W_Q, W_K, kind, sentence):
    with pytest.raises(kind, match=sentence):
        spectrum(W_Q, W_K)


# values: gaps, groups, effective rank


@hypothesis.given(st.lists(st.floats(0, 10, width=32, allow_subnormal=False), min_size=4, max_size=4))
def test_gaps_against_a_loop(values):
    values = np.sort(np.float32(values))[::-1]
    assert np.array_equal(value_gaps(jnp.asarray(values)), naive_gaps(values))


def test_gap_of_a_single_value():
    assert value_gaps(jnp.array([2.0])).tolist() == [2]


def test_groups():
    assert value_groups(jnp.array([5.0, 4.999, 3.0, 0.0, 0.0])).tolist() == [0, 0, 1, 2, 2]
    assert value_groups(jnp.array([5.0, 4.999, 3.0, 0.0, 0.0]), 1e-5).tolist() == [0, 1, 2, 3, 3]
    assert value_groups(jnp.zeros(2)).tolist() == [0, 0]


def test_effective_rank(dtype, eps):
    for r in (1, 2, 5):
        values = jnp.concatenate([jnp.full(r, 3, dtype), jnp.zeros(5, dtype)])
        assert effective_rank(values).dtype == dtype
        assert float(effective_rank(values)) == pytest.approx(r, rel=10 * eps)
        assert float(effective_rank(1e-30 * values)) == pytest.approx(r, rel=10 * eps)
    assert float(effective_rank(jnp.zeros(3))) == 0
    p = np.array([0.5, 0.3, 0.2])
    assert float(effective_rank(7 * jnp.asarray(p))) == pytest.approx(np.exp(scipy.stats.entropy(p)), rel=1e-6)
    assert jnp.isfinite(jax.grad(effective_rank)(jnp.array([1.0, 0.0]))).all()


# safe_svd


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_safe_svd_is_the_svd(shape):
    A = np.random.default_rng(0).normal(size=shape)
    for ours, numpys in zip(safe_svd(jnp.asarray(A)), np.linalg.svd(A, full_matrices=False), strict=True):
        assert np.abs(ours) == pytest.approx(np.abs(numpys), abs=1e-5)
    with jax.enable_x64(True):
        weights = jnp.arange(1.0, 1.0 + min(shape))
        assert_derivative(lambda A: weights @ safe_svd(A)[1], jnp.asarray(A))
        assert_derivative(lambda A: (weights[:, None] * safe_svd(A)[2] ** 3)[:, 0].sum() ** 2, jnp.asarray(A))
        assert_derivative(lambda A: (weights[None, :] * safe_svd(A)[0] ** 2)[0].sum(), jnp.asarray(A))


@pytest.mark.parametrize("A", [np.eye(3), np.diag([2.0, 2.0, 1.0]), np.zeros((3, 3)), np.ones((3, 4))])
def test_safe_svd_derivative_is_finite_and_true_for_whole_groups(A):
    with jax.enable_x64(True):
        A = jnp.asarray(A)

        def everything(A):
            return sum((x**3).sum() for x in safe_svd(A))

        assert jnp.isfinite(jax.grad(everything)(A)).all()

    def on_top_pair(A):
        U, values, _ = safe_svd(A)
        return values[0] + values[1] + (U[:, :2] @ U[:, :2].T)[0, 2]

    with jax.enable_x64(True):
        assert_derivative(on_top_pair, jnp.diag(jnp.array([2.0, 2.0, 1.0])))


# compare


def make_spectrum(values, D=6, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    U, V = (scipy.stats.ortho_group.rvs(D, random_state=rng)[:, : len(values)] for _ in range(2))
    return spectrum_of(*(jnp.asarray(x, dtype) for x in (U, values, V)))


def mixed(s, mixing):
    return Spectrum(s.left @ mixing, s.values, s.right @ mixing, s.gaps)


def test_a_spectrum_agrees_with_itself_whatever_its_signs(dtype, eps):
    s = make_spectrum([3.0, 2.0, 1.0], dtype=dtype)
    agreement = compare(s, mixed(s, jnp.diag(jnp.array([1.0, -1.0, 1.0]))))
    assert {x.dtype for x in jax.tree.leaves(agreement)} == {dtype, jnp.dtype(bool)}
    assert np.asarray([agreement.left, agreement.right]) == pytest.approx(np.ones((2, 3)), abs=10 * eps)
    assert agreement.value_error.tolist() == [0, 0, 0]
    assert agreement.identified.all()
    assert float(agreement.chance) == pytest.approx(chance_alignment(6), rel=eps)
    assert agreement.predicted_left is None


def test_float32_spectra_beside_float64():
    with jax.enable_x64(True):
        s = make_spectrum([3.0, 2.0, 1.0])
        assert {x.dtype for x in jax.tree.leaves(compare(s, s))} == {jnp.dtype("float32"), jnp.dtype(bool)}


def test_equal_values_are_compared_as_subspaces():
    s = make_spectrum([3.0, 2.0, 2.0, 1.0])
    turn = scipy.stats.ortho_group.rvs(2, random_state=1)
    within = mixed(s, jnp.asarray(scipy.linalg.block_diag(1, turn, 1)))
    agreement = compare(s, within)
    assert np.asarray(agreement.left) == pytest.approx(np.ones(4), abs=1e-5)
    assert agreement.identified.tolist() == [True, False, False, True]
    swapped = jax.tree.map(lambda x: x[..., jnp.array([0, 2, 1, 3])], s)
    assert np.asarray(compare(s, swapped).right) == pytest.approx(np.ones(4), abs=1e-5)
    across = jnp.asarray(scipy.linalg.block_diag(turn, np.eye(2)))
    assert np.asarray(compare(s, mixed(s, across)).left) == pytest.approx(
        np.abs([*turn.diagonal()[[0, 1, 1]], 1]), abs=1e-5
    )


@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_subspace_cosine_is_that_of_the_largest_principal_angle(seed):
    s, other = (
        make_spectrum([3.0, 2.0, 2.0, 2.0, 0.5], seed=seed),
        make_spectrum([3.0, 2.0, 2.0, 2.0, 0.5], seed=seed + 1),
    )
    agreement = compare(s, other)
    for side, found in (("left", agreement.left), ("right", agreement.right)):
        a, b = (np.asarray(getattr(x, side), float) for x in (s, other))
        expected = [
            np.cos(scipy.linalg.subspace_angles(a[:, g], b[:, g]).max())
            for g in (slice(0, 1), *[slice(1, 4)] * 3, slice(4, 5))
        ]
        assert np.asarray(found) == pytest.approx(expected, abs=1e-5)


def test_nothing_is_said_where_nothing_is_predicted():
    prediction, measurement = make_spectrum([2.0, 0.0, 0.0]), make_spectrum([2.5, 0.1, 0.0])
    agreement = compare(prediction, measurement)
    assert np.asarray(agreement.value_error) == pytest.approx([0.25, np.nan, np.nan], nan_ok=True)
    assert np.isnan(agreement.left).tolist() == [False, True, True]
    assert agreement.identified.tolist() == [True, False, False]
    nothing = compare(make_spectrum([0.0, 0.0]), make_spectrum([1.0, 0.5]))
    assert np.isnan(nothing.left).all()
    assert np.isnan(nothing.value_error).all()
    assert not nothing.identified.any()


def test_a_longer_measurement_is_cut_to_the_prediction():
    s = make_spectrum([3.0, 2.0, 1.0])
    cut = jax.tree.map(lambda x: x[..., :2], s)
    assert np.asarray(compare(cut, s).left) == pytest.approx([1, 1], abs=1e-5)


def test_value_errors_are_relative_to_the_largest_prediction():
    error = compare(make_spectrum([4.0, 2.0]), make_spectrum([5.0, 2.0])).value_error
    assert error.tolist() == [0.25, 0.0]


def test_tables_with_features():
    s, other = make_spectrum([3.0, 2.0]), make_spectrum([3.0, 2.0], seed=1)
    X, Y = np.random.default_rng(2).normal(size=(2, 6, 4))
    agreement = compare(s, other, features=(X, Y[:, :3]))
    for name, vectors, F in (
        ("predicted_left", s.left, X),
        ("measured_left", other.left, X),
        ("predicted_right", s.right, Y[:, :3]),
        ("measured_right", other.right, Y[:, :3]),
    ):
        naive = np.abs(np.asarray(vectors).T @ (F / np.linalg.norm(F, axis=0)))
        assert np.asarray(getattr(agreement, name)) == pytest.approx(naive, abs=1e-5)


def test_compare_under_vmap_and_jit_equals_a_loop():
    stacks = [
        jax.tree.map(lambda *x: jnp.stack(x), *(make_spectrum([3.0, 2.0, 2.0], seed=s) for s in seeds))
        for seeds in ((0, 1), (2, 3))
    ]
    batched = jax.jit(jax.vmap(compare))(*stacks)
    assert isinstance(batched, Agreement)
    for m in range(2):
        one = compare(*(jax.tree.map(lambda x, m=m: x[m], stack) for stack in stacks))
        for a, b in zip(jax.tree.leaves(batched), jax.tree.leaves(one), strict=True):
            assert np.asarray(a[m]) == pytest.approx(np.asarray(b), abs=1e-5)


def test_spectra_that_cannot_be_compared():
    s = make_spectrum([3.0, 2.0, 1.0])
    with pytest.raises(InputError, match="measurement must be a spectrum in dimension 6, got 5"):
        compare(s, make_spectrum([3.0, 2.0, 1.0], D=5))
    for features in (np.ones((6, 2)), (np.ones((6, 2)),)):
        with pytest.raises(InputError, match=r"features must be a pair \(X, Y\), those of queries and those of "):
            compare(s, s, features)
    with pytest.raises(InputError, match=r"tolerance must be at least 0, got -1\.0"):
        compare(s, s, tolerance=-1)


def test_a_measurement_of_fewer_pairs_has_none_of_the_others():
    """As in `compare(predict(scenario), predict_finite(scenario, key, samples))`: the target's rank and no more."""
    X, s = jnp.eye(6)[:, :2], make_spectrum([3.0, 2.0, 1.0, 0.0])
    first = jax.tree.map(lambda x: x[..., :2], s)
    found = compare(s, first, (X, X))
    for cosine in (found.left, found.right):
        np.testing.assert_allclose(cosine, [1, 1, 0, np.nan], atol=1e-6)
    np.testing.assert_allclose(found.value_error, [0, 0, -1 / 3, np.nan], atol=1e-6)
    assert found.predicted_left.shape == (4, 2)
    assert found.measured_left.shape == (2, 2)
    np.testing.assert_allclose(compare(first, s).left, [1, 1], atol=1e-6)


def numpy_values(W_Q, W_K):
    return np.linalg.svd(np.asarray(W_Q, np.float64).T @ np.asarray(W_K, np.float64), compute_uv=False)


@pytest.mark.parametrize("zero", ["row of W_Q", "column of W_Q", "row of W_K", "both", "W_Q", "equal values"])
def test_the_gradient_of_a_spectrum_where_factors_are_deficient(dtype, eps, zero):
    """`sum_k sigma_k^2 = |W_Q^T W_K|_F^2` has the gradients `2 W_K W_K^T W_Q` and `2 W_Q W_Q^T W_K` everywhere."""
    rng = np.random.default_rng(0)
    W_Q, W_K = rng.normal(size=(3, 5)), rng.normal(size=(3, 4))
    if zero in ("row of W_Q", "both"):
        W_Q[1] = 0
    if zero in ("row of W_K", "both"):
        W_K[2] = 0
    if zero == "column of W_Q":
        W_Q[:, 3] = 0
    if zero == "W_Q":
        W_Q[:] = 0
    if zero == "equal values":
        W_Q, W_K = np.eye(3, 5), np.eye(3, 4)
    given = jnp.asarray(W_Q, dtype), jnp.asarray(W_K, dtype)
    found = jax.grad(lambda *W: (spectrum(*W).values ** 2).sum(), argnums=(0, 1))(*given)
    scale = np.abs(W_Q).max() + np.abs(W_K).max()
    for gradient, wanted in zip(found, (2 * W_K @ W_K.T @ W_Q, 2 * W_Q @ W_Q.T @ W_K), strict=True):
        assert np.allclose(gradient, wanted, atol=200 * eps * scale**3)


def test_the_gradient_of_vectors_where_a_row_is_zero(dtype, eps):
    """Of the projections on the first left and right vector, against central differences in float64."""
    rng = np.random.default_rng(1)
    W_Q, W_K = rng.normal(size=(3, 5)), rng.normal(size=(3, 4))
    W_Q[1] = 0
    a, b, d = rng.normal(size=5), rng.normal(size=4), rng.normal(size=W_Q.shape)

    def reference(W):
        U, _, Vt = np.linalg.svd(W.T @ W_K)
        return (a @ U[:, 0]) ** 2 + (b @ Vt[0]) ** 2

    def read(W):
        s = spectrum(W, jnp.asarray(W_K, dtype))
        return (jnp.asarray(a, dtype) @ s.left[:, 0]) ** 2 + (jnp.asarray(b, dtype) @ s.right[:, 0]) ** 2

    wanted = (reference(W_Q + 1e-5 * d) - reference(W_Q - 1e-5 * d)) / 2e-5
    gradient = jax.grad(read)(jnp.asarray(W_Q, dtype))
    assert np.sum(np.asarray(gradient) * d) == pytest.approx(wanted, rel=1e-7 + 500 * eps)


@pytest.mark.parametrize(
    "sizes", [(1e30, 1e-30), (1e37, 1.0), (1e18, 1e18), (1e-30, 1e25), (1e-18, 1e-18), (3e38, 1e-36)]
)
def test_no_product_of_weights_leaves_float32_on_the_way(sizes):
    rng = np.random.default_rng(0)
    given = [(np.clip(rng.normal(size=(2, 3)), -1, 1) * size).astype(np.float32) for size in sizes]
    found, wanted = spectrum(*given), numpy_values(*given)[:2]
    assert np.allclose(found.values, wanted, rtol=1e-5)
    assert np.allclose(found.gaps, [wanted[0] - wanted[1], min(wanted[1], wanted[0] - wanted[1])], rtol=1e-4)


@pytest.mark.parametrize(("size", "power"), [(1e30, 60), (1e-30, -60)])
def test_values_that_float32_does_not_hold_are_refused(size, power):
    W = np.full((1, 1), size, np.float32)
    with pytest.raises(InputError, match=f"^W_Q and W_K must have a sigma_1 that float32 holds, got about 1e{power}$"):
        spectrum(W, W)
    with jax.enable_x64(True):
        assert spectrum(W.astype(float), W.astype(float)).values[0] == pytest.approx(size**2, rel=1e-6)


@pytest.mark.parametrize("given", [[[3_000_000_000]], np.array([[3_000_000_000]]), np.array([[2**63]], np.uint64)])
def test_whole_numbers_of_any_size(dtype, eps, given):
    assert float(spectrum(given, [[1]]).values[0]) == pytest.approx(float(np.asarray(given)[0, 0]), rel=4 * eps)


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
def test_weights_of_half_precision(kind):
    rng = np.random.default_rng(0)
    W_Q, W_K = (np.asarray(rng.normal(size=(3, 5)), kind) for _ in range(2))
    for given in ((W_Q, W_K), (jnp.asarray(W_Q), jnp.asarray(W_K))):
        found = spectrum(*given)
        assert found.values.dtype == jnp.float32
        assert np.allclose(found.values, numpy_values(W_Q, W_K)[:3], rtol=1e-5)
    assert jax.jit(spectrum)(jnp.asarray(W_Q), jnp.asarray(W_K)).left.dtype == jnp.float32


def test_weights_stored_as_in_by_out_are_told_so():
    with pytest.raises(
        InputError, match=r"W_K must have 8 rows.*got shape \(6, 2\).*transpose weights stored as \(in, out\)$"
    ):
        spectrum(np.ones((8, 2)), np.ones((6, 2)))


@pytest.mark.parametrize("values", [[np.nan, 1.0], [np.inf, 1.0], [2.0, -1.0]])
@pytest.mark.parametrize("function", [effective_rank, value_gaps, value_groups])
def test_what_no_singular_values_can_be_is_refused(function, values):
    with pytest.raises(InputError, match=r"^values must be"):
        function(np.array(values))


def test_effective_rank_under_jit_and_at_the_end_of_the_numbers():
    assert jnp.isnan(jax.jit(effective_rank)(jnp.array([jnp.nan, 1.0])))
    assert effective_rank(np.float32([3e38, 3e38, 0])) == pytest.approx(2)
    assert effective_rank(np.float32([0, 0])) == 0
    assert jnp.isfinite(jax.grad(effective_rank)(jnp.array([2.0, 1.0, 0.0]))).all()


@pytest.mark.parametrize("function", ["spectrum", "decompose"])
@pytest.mark.parametrize("size", [1.0, 1e-15, 1e15])
def test_what_rounding_of_cancelling_factors_may_have_made_has_no_gap(function, size):
    rng = np.random.default_rng(0)
    a, b, near, by = rng.normal(size=(4, 6, 12))
    # products of size amplitude^2 cancel in Omega, their rounding does not
    factors = [
        [size * np.concatenate(x).astype(np.float32) for x in ((m * a, m * a + near), (m * b, by - m * b))]
        for m in (1.0, 3e6)
    ]
    for (W_Q, W_K), resolved in zip(factors, (True, False), strict=True):
        W_Q, W_K = W_Q.astype(np.float32), W_K.astype(np.float32)
        if function == "spectrum":
            s = spectrum(W_Q, W_K)
        else:
            s = decompose(Head(W_Q, W_K), np.ones(12, np.float32), np.ones((3, 12), np.float32), None).spectrum
        U = np.linalg.svd(W_Q.astype(np.longdouble).T.dot(W_K.astype(np.longdouble)).astype(float))[0]
        cosines = np.abs((np.asarray(s.left, float) * U[:, : s.values.size]).sum(axis=0))
        assert (cosines > 0.99).all() == resolved
        assert np.asarray(nameable(s)).any() == resolved
