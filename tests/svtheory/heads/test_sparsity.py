"""T11: terms by leverage against the optimum, sparseness, and both nulls' leading terms against Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svtheory import (
    InputError,
    Scenario,
    matching,
    optimal_omega,
    orthonormal,
    predict,
    treves_rolls,
)
from svtheory.geometry import antipodal, simplex, tegum
from svtheory.heads import common_rotation_sparseness, independent_rotation_sparseness, leverage_terms

six_terms = st.lists(st.floats(-1e6, 1e6, width=32), min_size=6, max_size=6)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def naive_sparseness(c):
    return np.mean(np.abs(c)) ** 2 / np.mean(np.square(c))


def unit_rows(rng, shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_sparseness_of_equal_single_and_no_terms(dtype):
    terms = jnp.asarray([[3, -3, 3, 3], [0, -7, 0, 0], [0, 0, 0, 0]], dtype)
    found = treves_rolls(terms)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, [1, 1 / 4, np.nan], rtol=1e-6)
    # tiny and huge terms alike
    for size in (1e-30, 1e30):
        np.testing.assert_allclose(treves_rolls(jnp.asarray(size, dtype) * terms), found, rtol=1e-6)


@given(six_terms.filter(lambda terms: np.abs(terms).max() > 1e-3), st.floats(0.1, 10))
def test_sparseness_ignores_order_sign_and_scale(terms, factor):
    terms = np.array(terms)
    found = treves_rolls(terms)
    np.testing.assert_allclose(found, naive_sparseness(terms), rtol=1e-9)
    assert 1 / terms.size - 1e-12 <= found <= 1 + 1e-12
    for same in (terms[::-1], -factor * terms, np.abs(terms)):
        np.testing.assert_allclose(treves_rolls(same.copy()), found, rtol=1e-12)
    twice = treves_rolls(np.concatenate([terms, 0 * terms]))
    np.testing.assert_allclose(twice, found / 2, rtol=1e-12)


def test_sparseness_under_jit_vmap_and_grad(dtype):
    terms = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7)), dtype)
    compiled = jax.jit(jax.vmap(treves_rolls))
    np.testing.assert_allclose(compiled(terms), [naive_sparseness(c) for c in np.asarray(terms)], rtol=1e-5)
    again = jnp.asarray(np.asarray(terms)[::-1])
    with jax.no_tracing():
        compiled(again)
    slopes = jax.jit(jax.grad(lambda c: treves_rolls(c).sum()))
    slope = slopes(terms)
    # blind to scale, so the slope is orthogonal to the terms; at equal magnitudes S is at its maximum
    np.testing.assert_allclose((slope * terms).sum(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(slopes(2 * jnp.sign(terms)), 0, atol=1e-6)
    assert np.isfinite(slopes(0 * terms)).all()


def test_terms_of_features_outside_the_span_of_others_need_both_present(dtype):
    W = orthonormal(jax.random.key(0), 6, 5).astype(dtype)
    f_r, f_s = jnp.asarray([1, 0, 2, 0, 3], dtype), jnp.asarray([0, 5, 1, 1, 0], dtype)
    terms = leverage_terms(W, W, [0, 2, 4], [1, 3, 4], [2.0, -1.0, 3.0], f_r, f_s)
    assert terms.dtype == dtype
    np.testing.assert_allclose(terms, [2 * 1 * 5, -1 * 2 * 1, 0], atol=1e-5)


def test_absent_features_speak_in_superposition():
    """Antipodal pairs, t = 4: a term is a quarter of `t f_i f_j`, and the absent feature's has its sign turned."""
    W = antipodal(2)
    present, absent = np.eye(4)[0], np.eye(4)[1]
    at = lambda f_r, f_s: leverage_terms(W, W, [0], [0], [4.0], f_r, f_s)  # noqa: E731
    np.testing.assert_allclose(
        [at(present, present), at(absent, present), at(absent, absent)], [[1], [-1], [1]], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["tight", "generic"])
def test_terms_sum_to_the_logit_and_are_the_singular_pairs(name):
    """The sum holds for any frame; under T4, orthogonal duals, each term is that of a singular pair."""
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(5, 9)), rng.normal(size=(5, 8))
    if name == "tight":
        tight = jax.jit(lambda: (tegum(simplex(2), antipodal(1), antipodal(2)), tegum(antipodal(3), simplex(2))))
        X, Y = map(np.asarray, tight())
    pairs = [0, 3, 5], [0, 2, 6], [5.0, -3.0, 2.0]
    f_r, f_s = rng.random((4, X.shape[1])), rng.random((4, Y.shape[1]))
    terms = np.asarray(jax.jit(lambda *given: leverage_terms(*given[:2], *pairs, *given[2:]))(X, Y, f_r, f_s))
    scenario = Scenario(X, Y, matching(X.shape[1], Y.shape[1], *pairs))
    r, s = f_r @ X.T, f_s @ Y.T
    logits = np.einsum("nd,de,ne->n", r, np.asarray(optimal_omega(scenario)), s)
    np.testing.assert_allclose(terms.sum(axis=1), logits, rtol=1e-9, atol=1e-12)
    if name == "tight":
        spectrum = jax.tree.map(np.asarray, predict(scenario))
        values = 5 * (2 / 3) * (1 / 2), 3 * (1 / 2) ** 2, 2 * (1 / 2) * (2 / 3)
        order = np.argsort(values)[::-1]
        by_svd = spectrum.values * (r @ spectrum.left) * (s @ spectrum.right)
        np.testing.assert_allclose(by_svd[:, :3], terms[:, order], atol=1e-12)


@pytest.mark.parametrize("n", [64, 256])
@pytest.mark.parametrize("rho", [-1.0, -0.6, 0.0, 0.3, 1.0])
def test_common_rotation_against_monte_carlo(n, rho):
    rng = np.random.default_rng(n)
    # a Haar rotation takes a and b to a random orthonormal frame's combinations
    x, y = unit_rows(rng, (2, 8000, n))
    y = y - (x * y).sum(axis=-1, keepdims=True) * x
    b = rho * x + np.sqrt(1 - rho**2) * y / np.linalg.norm(y, axis=-1, keepdims=True)
    sparseness = np.mean(np.abs(x * b), axis=-1) ** 2 / np.mean((x * b) ** 2, axis=-1)
    mean, error = sparseness.mean(), sparseness.std() / np.sqrt(8000)
    leading = float(common_rotation_sparseness(rho))
    assert 3 / n - 4 * error / leading < mean / leading - 1 < 5 / n + 4 * error / leading


def test_common_rotation_is_smooth_to_its_ends(dtype):
    rho = np.linspace(-1, 1, 21, dtype=dtype)
    found = np.asarray(jax.jit(common_rotation_sparseness)(rho))
    assert found.dtype == dtype
    np.testing.assert_allclose(found[[0, 10, 20]], [1 / 3, 4 / np.pi**2, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(found, found[::-1], rtol=1e-6)
    slopes = np.asarray(jax.jit(jax.vmap(jax.grad(common_rotation_sparseness)))(rho))
    # at 1: m = pi/2, dm = arcsin 1, S = (2 m/pi)^2/(1 + 2 rho^2)
    np.testing.assert_allclose(slopes[-1], 2 * (2 / np.pi) * 1 * (np.pi / 2) / 3 - 4 / 9, rtol=1e-5)
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize(
    ("values", "effective_number", "excess"),
    [
        (np.ones(64), 64, 0.05),
        (np.ones(256), 256, 0.0127),
        (np.exp(-np.arange(64) / 16), 16.0, 0.196),
        (np.arange(64, 0, -1.0), 35.8, 0.091),
        (1 / np.arange(1, 65), 2.45, 0.985),
    ],
)
def test_independent_rotations_against_monte_carlo(values, effective_number, excess):
    """The mean exceeds the leading term by about 3 parts in the effective number."""
    n, draws = len(values), 8000
    x, y = unit_rows(np.random.default_rng(n), (2, draws, n))
    c = values * x * y
    sparseness = np.mean(np.abs(c), axis=-1) ** 2 / np.mean(c**2, axis=-1)
    null = independent_rotation_sparseness(values)
    np.testing.assert_allclose(null.effective_number, effective_number, rtol=3e-3)
    measured, error = np.array([sparseness.mean(), sparseness.std() / np.sqrt(draws)]) / float(null.sparseness)
    assert abs(measured - 1 - excess) < 4 * error + 0.002
    assert abs((measured - 1) * effective_number - 3) < 0.7


def test_independent_rotations_by_its_formula_and_batched(dtype):
    values = np.random.default_rng(3).random((4, 6)).astype(dtype)
    null = jax.jit(independent_rotation_sparseness)(values)
    assert {leaf.dtype for leaf in null} == {dtype}
    np.testing.assert_allclose(
        null.sparseness, 4 / np.pi**2 * values.sum(axis=1) ** 2 / (6 * (values**2).sum(axis=1)), rtol=1e-5
    )
    np.testing.assert_allclose(null.effective_number, (values**2).sum(axis=1) ** 2 / (values**4).sum(axis=1), rtol=1e-5)
    assert np.isnan(jax.jit(independent_rotation_sparseness)(np.zeros(3, dtype)).sparseness)


@pytest.mark.parametrize(("n", "expected"), [(8, 2.06), (16, 2.27), (64, 3.0), (256, 4.35)])
def test_chance_needs_few_terms_too(n, expected):
    """Random products with a positive total pass it with 2 to 4 of their largest: a small count proves nothing."""
    x, y = np.random.default_rng(n).normal(size=(2, 20000, n))
    c = -np.sort(-(x * y), axis=1)
    c = c[c.sum(axis=1) > 0]
    passed = np.cumsum(c, axis=1) > c.sum(axis=1, keepdims=True)
    counts = np.where(passed.any(axis=1), 1 + passed.argmax(axis=1), n)
    assert abs(counts.mean() - expected) < 4 * counts.std() / np.sqrt(len(counts)) + 0.01
    # fewer terms than sparseness suggests: S stays near its null
    assert np.mean(jax.jit(treves_rolls)(c)) > 0.4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: treves_rolls([]), "terms must not be empty"),
        (lambda: treves_rolls([np.nan, 1.0]), "terms must be finite"),
        (lambda: leverage_terms(np.eye(2), np.eye(2), [2], [0], [1.0], [1.0, 0], [1.0, 0]), "query must be a whole"),
        (lambda: leverage_terms(np.eye(2), np.eye(2), [0], [0], [1.0, 2], [1.0, 0], [1.0, 0]), "of one length, got 1"),
        (
            lambda: leverage_terms(np.eye(2), np.eye(2), [0], [0], [1.0], [1.0, 0, 0], [1.0, 0]),
            r"query_activations must have shape \(\.\.\., 2\)",
        ),
        (lambda: common_rotation_sparseness(1.5), r"cosine must lie in \[-1, 1\], got 1.5"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_what_independent_rotations_leave_does_not_depend_on_the_size_of_values(size):
    values = np.array([[5.0, 2.0, 1.0], [1.0, 1.0, 1.0]]) * np.array([[size], [1]])
    null = independent_rotation_sparseness(values.astype(np.float32))
    np.testing.assert_allclose(null.effective_number, [30**2 / (625 + 16 + 1), 3], rtol=1e-5)
    np.testing.assert_allclose(null.sparseness, [(2 / np.pi) ** 2 * 64 / 90, (2 / np.pi) ** 2], rtol=1e-5)
