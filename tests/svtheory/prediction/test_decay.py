from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from svtheory.prediction.decay import is_certified, lowered, nuclear_optimum


@jax.jit
def SOLVED(eigenvalues, asked, decay):
    return nuclear_optimum(*moments(eigenvalues), asked, decay)


def moments(eigenvalues):
    """Diagonal moments whose eigenvalues have these products."""
    eigenvalues = jnp.asarray(eigenvalues)
    return jnp.diag(eigenvalues[:, 0]), jnp.diag(eigenvalues[0] / eigenvalues[0, 0])


def problem(seed=0, rows=4, columns=5, condition=10.0):
    """Eigenvalues of two moments of the given condition number, and what is asked, sigma_1 = 3."""
    rng = np.random.default_rng(seed)
    lam, mu = (np.geomspace(condition, 1, n) for n in (rows, columns))
    M = rng.normal(size=(rows, columns))
    return np.outer(lam, mu), 3 * M / np.linalg.norm(M, 2)


def exactly(*given):
    with jax.enable_x64():
        W, error = SOLVED(*given)
        return np.asarray(W), float(error)


def factored(eigenvalues, M, g):
    """The same by its factors, `W = P^T Q` with their decay, from a random start."""
    H, rows, columns = min(M.shape), *M.shape

    def loss(x):
        P, Q = x[: H * rows].reshape(H, rows), x[H * rows :].reshape(H, columns)
        W = P.T @ Q
        slope = eigenvalues * W - M
        value = (eigenvalues * W**2).sum() / 2 - (M * W).sum() + g / 2 * (x**2).sum()
        return value, np.concatenate([(Q @ slope.T + g * P).ravel(), (P @ slope + g * Q).ravel()])

    start = 0.1 * np.random.default_rng(1).normal(size=H * (rows + columns))
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-11}
    x = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    return x[: H * rows].reshape(H, rows).T @ x[H * rows :].reshape(H, columns)


@pytest.mark.parametrize("condition", [1.0, 10.0, 100.0])
@pytest.mark.parametrize(
    "g", [pytest.param(0.01, marks=pytest.mark.slow), 0.5, pytest.param(2.0, marks=pytest.mark.slow)]
)
def test_factors_with_decay_arrive_there(condition, g):
    eigenvalues, M = problem(condition=condition)
    W, error = exactly(eigenvalues, M, g)
    assert error < 1e-10
    wanted = factored(eigenvalues, M, g)
    assert np.allclose(W, wanted, rtol=0, atol=1e-5 * np.linalg.norm(wanted, 2))


def test_without_decay_nothing_is_lowered(dtype):
    eigenvalues, M = (jnp.asarray(x, dtype) for x in problem())
    W, error = SOLVED(eigenvalues, M, jnp.zeros((), dtype))
    assert W.dtype == dtype
    assert np.allclose(W, M / eigenvalues, rtol=1e-5)
    assert is_certified(error)


def test_tight_moments_lower_every_value_by_one_threshold(dtype):
    """T8: `(sigma - g/(alpha beta))_+`."""
    M = jnp.asarray(problem()[1], dtype)
    W, error = SOLVED(jnp.full(M.shape, 2.0, dtype), M, jnp.asarray(0.6, dtype))
    assert is_certified(error)
    values = np.linalg.svd(np.asarray(M) / 2, compute_uv=False)
    found = np.linalg.svd(np.asarray(W), compute_uv=False)
    assert np.allclose(found, np.maximum(values - 0.3, 0), atol=100 * jnp.finfo(dtype).eps)


@pytest.mark.parametrize("share", [1.0, 1.5])
def test_nothing_is_left_from_the_largest_value_on(share):
    eigenvalues, M = problem()
    W, error = exactly(eigenvalues, M, 3 * share)
    assert np.abs(W).max() < 1e-12
    assert error < 1e-12


def test_near_that_value_it_is_the_leading_pair_of_what_is_asked():
    """From the optimum's dual back to the feature."""
    eigenvalues, M = problem(condition=100.0)
    U, _, Vt = np.linalg.svd(M)
    P, values, Qt = np.linalg.svd(exactly(eigenvalues, M, 0.999 * 3)[0])
    assert values[1] < 1e-9 * values[0]
    assert abs(P[:, 0] @ U[:, 0]) > 0.999
    assert abs(Qt[0] @ Vt[0]) > 0.999
    assert abs(np.linalg.svd(M / eigenvalues)[0][:, 0] @ U[:, 0]) < 0.9


def test_outside_the_ranges_nothing_is_found():
    eigenvalues, M = problem()
    eigenvalues[-1] = 0
    W, error = exactly(eigenvalues, M, 0.1)
    assert np.array_equal(W[-1], np.zeros(5))
    assert error < 1e-10


@hypothesis.given(st.integers(0, 2**31), st.floats(0.05, 2.9))
def test_scale_and_transpose(seed, g):
    eigenvalues, M = problem(seed)
    W, _ = exactly(eigenvalues, M, g)
    assert np.allclose(exactly(eigenvalues, 7 * M, 7 * g)[0], 7 * W, atol=1e-9)
    other = np.pad(eigenvalues.T, ((0, 0), (0, 1)))[:, :5]
    turned, _ = exactly(other[:, :4], M.T, g)
    assert np.allclose(turned.T, W, atol=1e-9)


@pytest.mark.parametrize("g", [0.2, 1.5])
def test_derivatives_are_those_of_the_optimum(g):
    eigenvalues, M = problem(3)
    weights = np.random.default_rng(2).normal(size=M.shape)
    with jax.enable_x64():
        given = (*moments(eigenvalues), jnp.asarray(M), jnp.asarray(g))
        slopes = jax.jit(jax.grad(lambda *x: (nuclear_optimum(*x)[0] * weights).sum(), argnums=(0, 1, 2, 3)))(*given)
        for index, slope in enumerate(slopes):
            direction = jnp.asarray(np.random.default_rng(index).normal(size=slope.shape))
            if index < 2:  # moments stay diagonal; off the diagonal, see the derivatives of `predict`
                direction = jnp.diag(jnp.diagonal(direction))

            def at(move, index=index, direction=direction):
                moved = [x + move * direction if i == index else x for i, x in enumerate(given)]
                return float((nuclear_optimum(*moved)[0] * weights).sum())

            seen = (at(1e-5) - at(-1e-5)) / 2e-5
            assert np.isclose(float((slope * direction).sum()), seen, rtol=1e-4, atol=1e-6)


def test_lowering_has_a_derivative_at_equal_values():
    with jax.enable_x64():
        A, dA = jnp.diag(jnp.array([3.0, 3.0, 0.5])), jax.random.normal(jax.random.key(0), (3, 3))
        _, slope = jax.jvp(lambda A: lowered(A, 1.0), (A,), (dA,))
        seen = (lowered(A + 1e-6 * dA, 1.0) - lowered(A - 1e-6 * dA, 1.0)) / 2e-6
    assert np.allclose(slope, seen, atol=1e-5)


def test_many_at_once():
    eigenvalues, M = (jnp.asarray(x, jnp.float32) for x in problem())
    decays = jnp.array([0.0, 0.3, 1.0, 4.0], jnp.float32)
    together, errors = jax.jit(jax.vmap(partial(SOLVED, eigenvalues, M)))(decays)
    for W, error, g in zip(together, errors, decays, strict=True):
        assert is_certified(error)
        assert np.allclose(W, SOLVED(eigenvalues, M, g)[0], atol=1e-3)
