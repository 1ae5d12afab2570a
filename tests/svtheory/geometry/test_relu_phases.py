import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import InputError
from svtheory.geometry import antipodal, best_biases, polygon, relu_energy

ENERGY, BEST = jax.jit(relu_energy), jax.jit(best_biases)


def unit(seed, D=3, N=7):
    W = np.random.default_rng(seed).normal(size=(D, N))
    return W / np.linalg.norm(W, axis=0)


def naive(W, b):
    """`3 E |f_i e_i - relu(W^T w_i f_i - b)|^2`, one feature present, by quadrature over its size."""
    N = W.shape[1]
    f = (np.arange(20000) + 0.5) / 20000
    total = 0.0
    for i in range(N):
        output = np.maximum(W.T @ W[:, [i]] * f - b[:, None], 0)
        output[i] -= f
        total += 3 * (output**2).sum(axis=0).mean()
    return total


@pytest.mark.parametrize("seed", range(3))
def test_against_quadrature(dtype, seed):
    W, b = unit(seed), np.random.default_rng(seed).uniform(0, 0.6, 7)
    found = relu_energy(jnp.asarray(W, dtype), 0.0, jnp.asarray(b, dtype))
    assert found.dtype == dtype
    assert np.isclose(found, naive(W, b), rtol=1e-5)
    crowding = (W * (W @ W.T @ W)).sum(axis=0)
    led = relu_energy(jnp.asarray(W, dtype), jnp.array([0.0, 2.0], dtype), jnp.asarray(b, dtype))
    assert np.allclose(led - found, [0, 2 * (crowding[0] * crowding[1] - 1)], rtol=1e-4)


@hypothesis.given(st.integers(0, 2**31))
def test_no_bias_of_a_fine_grid_is_better(seed):
    W = unit(seed)
    with jax.enable_x64():
        best = np.asarray(BEST(W))
        least = float(ENERGY(W, 0.0))
    assert np.isclose(least, naive(W, best), rtol=1e-5)
    c = np.maximum(W.T @ W, 0)
    np.fill_diagonal(c, 0)
    grid = np.linspace(0, 1, 2001)
    cost = (
        3 * grid**2
        - 2 * grid**3
        + sum(np.maximum(row[:, None] - grid, 0) ** 3 / np.where(row > 0, row, 1)[:, None] for row in c)
    )
    # the cost changes by at most 3/4 (2.5e-4)^2 x curvature between neighbours of the grid
    assert least <= cost.min(axis=1).sum() + 1e-12
    assert least >= cost.min(axis=1).sum() - 7 * 1e-4


def test_a_pentagon_pays_and_a_bias_helps():
    """The plane of one odd feature and two pairs: 0.955 without biases, 0.4165 at 0.125, `b - b^2 = (c - b)^2/c`."""
    with jax.enable_x64():
        W = polygon(5)
        best = np.asarray(best_biases(W))
        energies = [float(relu_energy(W, 0.0, b)) for b in (np.zeros(5), best)]
        assert np.isclose(relu_energy(W, 0.0), energies[1], rtol=1e-12)
    c = np.cos(2 * np.pi / 5)
    assert np.allclose(best - best**2, (c - best) ** 2 / c, atol=1e-12)
    assert np.allclose([*energies, best[0]], [0.955, 0.4165, 0.125], atol=2e-4)


@pytest.mark.parametrize("D", [2, 6])
def test_features_without_positive_products_cost_nothing(D):
    """Up to 2D of them: antipodal pairs; a pair that is orthogonalised for N = 2D - 2 (T19)."""
    assert float(ENERGY(antipodal(D), 0.0)) == 0
    assert BEST(antipodal(D)).tolist() == [0] * (2 * D)
    W = jnp.eye(D, 2)
    rest = jnp.zeros((D, 2 * (D - 2))).at[2:].set(antipodal(D - 2)) if D > 2 else jnp.zeros((D, 0))
    assert float(ENERGY(jnp.concatenate([W, rest], axis=1), 5.0)) == 0


def test_invariance_and_derivative():
    W = unit(5)
    rotation = np.linalg.qr(np.random.default_rng(6).normal(size=(3, 3)))[0]
    order = [1, 0, *range(6, 1, -1)]
    with jax.enable_x64():
        energy = float(ENERGY(W, 1.5))
        assert np.isclose(ENERGY(rotation @ W, 1.5), energy, rtol=1e-12)
        assert np.isclose(ENERGY(W[:, order], 1.5), energy, rtol=1e-12)
        direction = np.random.default_rng(7).normal(size=W.shape)
        slope = float((jax.grad(ENERGY)(jnp.asarray(W), 1.5) * direction).sum())
        step = 1e-5
        seen = float(ENERGY(W + step * direction, 1.5) - ENERGY(W - step * direction, 1.5)) / (2 * step)
    assert np.isclose(slope, seen, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 1), np.float32), 1.0), "features must have at least 2 columns"),
        ((np.eye(2, dtype=np.float32), -1.0), "coupling must be at least 0, got -1"),
        ((np.eye(2, dtype=np.float32), 1.0, np.zeros(3, np.float32)), r"biases must have shape \(2,\)"),
        ((np.eye(2, dtype=np.float32), 1.0, np.full(2, 2, np.float32)), "biases must lie between 0 and 1"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(InputError, match=message):
        relu_energy(*arguments)
