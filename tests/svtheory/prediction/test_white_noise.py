"""Modes beside white noise: the law against matrices of it, and its limits."""

import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import InputError
from svtheory.prediction import cosines_in_noise, hiding_threshold, noise_deviation

SHAPE = (30, 240)
VALUE = 1.0


def in_noise(share, draws, shape=SHAPE):
    """Mean `cos^2` of the first vectors, and its standard error, of a mode of 1 whose threshold is 1/share."""
    D, D_k = shape
    noise = 1 / (share * (D * D_k) ** 0.25)
    matrices = noise * np.random.default_rng(0).normal(size=(draws, D, D_k))
    matrices[:, 0, 0] += VALUE
    U, _, Vt = np.linalg.svd(matrices, full_matrices=False)
    squares = np.stack([U[:, 0, 0], Vt[:, 0, 0]]) ** 2
    return noise, squares.mean(axis=1), squares.std(axis=1) / draws**0.5


@pytest.mark.parametrize("share", [1.5, 2.0, 4.0])
def test_above_the_threshold(share):
    """Within four standard errors and 1/D, by which the limit is missed; near the threshold the first order is not."""
    noise, seen, error = in_noise(share, 40)
    wanted = np.stack(cosines_in_noise(VALUE, noise, SHAPE))
    assert np.all(abs(seen - wanted) < 4 * error + 1 / min(SHAPE)), (seen, wanted, error)
    first = 1 - noise**2 * np.array(SHAPE)
    assert share > 1.5 or np.all(abs(seen - first) > 4 * error + 1 / min(SHAPE)), (seen, first)


def test_below_the_threshold():
    """Nothing is predicted and little is seen: 1/2 of the threshold, where random vectors have 1/D."""
    noise, seen, error = in_noise(0.5, 40)
    assert np.all(np.stack(cosines_in_noise(VALUE, noise, SHAPE)) == 0)
    assert np.all(seen < 3 / np.array(SHAPE) + 4 * error)


def test_threshold(dtype):
    shape = (3, 5)
    threshold = hiding_threshold(jnp.asarray(0.7, dtype), shape)
    assert threshold.dtype == dtype
    below, above = (np.stack(cosines_in_noise(threshold * by, 0.7, shape)) for by in (0.999, 1.001))
    assert np.all(below == 0)
    assert np.all((above > 0) & (above < 0.01))


def test_the_sides_change_places():
    u, v = cosines_in_noise(2.0, 0.3, (3, 7))
    right, left = cosines_in_noise(2.0, 0.3, (7, 3))
    assert np.allclose([u, v], [left, right], rtol=1e-6)


def test_without_noise_and_without_a_head():
    assert cosines_in_noise(2.0, 0.0, (3, 7)) == (1.0, 1.0)
    assert noise_deviation(1.0, jnp.array([11, 12]), (3, 4)).tolist() == [np.inf, np.inf]
    assert cosines_in_noise(2.0, np.inf, (3, 7)) == (0.0, 0.0)


def test_the_deviation_of_least_squares():
    """An entry of `(Z^T Z)^{-1} Z^T e`, of normal Z and e; the exact factor is n - D D' - 1."""
    rng, n, entries, draws = np.random.default_rng(0), 60, 12, 4000
    Z = rng.normal(size=(draws, n, entries))
    noise = np.linalg.solve(Z.transpose(0, 2, 1) @ Z, Z.transpose(0, 2, 1) @ rng.normal(size=(draws, n, 1)))
    of_draws = (noise**2).mean(axis=(1, 2))
    exact = float(noise_deviation(1.0, n, (3, 4))) ** 2 * (n - entries) / (n - entries - 1)
    assert abs(of_draws.mean() / exact - 1) < 4 * of_draws.std() / draws**0.5 / exact


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (noise_deviation, (-1.0, 20, (2, 2)), r"variance must be at least 0, got -1\.0"),
        (noise_deviation, (1.0, 20, (2, 0)), "shape must be a whole number of at least 1, got 0"),
        (hiding_threshold, (1.0, 4), r"shape must be \(D, D'\), got 4"),
        (cosines_in_noise, (1.0, 1.0, (1, 2, 3)), r"shape must be \(D, D'\), got \(1, 2, 3\)"),
    ],
)
def test_bad_input(function, arguments, message):
    with pytest.raises(InputError, match=message):
        function(*arguments)
