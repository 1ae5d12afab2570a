"""How closely the filter of T17 describes a factored head under anisotropy: the table of docs/factored_head.md."""

from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.integrate

from svtheory import Scenario, conditioned_frame, filtered_optimum, optimal_omega, single_pair

D, N = 6, 12
TABLE = Path(__file__).parents[3] / "docs/factored_head.md"
CONDITIONS, STARTS, FRAMES = (1, 4, 16, 64), (1e-4, 1e-2, 1e-1, 1.0), 20
filters = jax.jit(jax.vmap(filtered_optimum, in_axes=(None, 0, None)))


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def trained(A, B, M, W, times):
    """Omega of the gradient flow on factors `W` (2, D, D), at each of `times`."""

    def velocity(_, flat):
        W_Q, W_K = flat.reshape(W.shape)
        descent = M - A @ W_Q.T @ W_K @ B
        return np.stack([W_K @ descent.T, W_Q @ descent]).ravel()

    flow = scipy.integrate.solve_ivp(velocity, (0, times[-1]), W.ravel(), "LSODA", times, rtol=1e-8, atol=1e-10)
    W_Q, W_K = flow.y.T.reshape(len(times), *W.shape).swapaxes(0, 1)
    return W_Q.swapaxes(1, 2) @ W_K


def departure(condition, start, seed):
    """Distance and angle between one factored head and the filter, and the head's and the filter's |cos(u, x)|.

    The filter starts where the head starts; at each time of the head it is taken at the time at which it is nearest.
    """
    X, Y = (np.asarray(conditioned_frame(key, D, N, condition)) for key in jax.random.split(jax.random.key(seed)))
    scenario = Scenario(X, Y, single_pair(N, N, 0, 0, 1.0))
    size = np.linalg.norm(optimal_omega(scenario))
    A, B, M = X @ X.T, Y @ Y.T, np.outer(X[:, 0], Y[:, 0])
    W = np.random.default_rng(seed).normal(size=(2, D, D))
    W *= np.sqrt(start * size / np.linalg.norm(W[0].T @ W[1], 2))
    slowest = np.linalg.eigvalsh(A)[0] * np.linalg.eigvalsh(B)[0]
    head = trained(A, B, M, W, np.append(0, np.geomspace(1e-2, 300 / (slowest * size), 300)))
    filtered = np.asarray(filters(scenario, np.append(0, np.geomspace(1e-4, 100 / (slowest * size), 400)), head[0]))
    distance = np.linalg.norm(head[:, None] - filtered[None], axis=(2, 3)) / size
    nearest = distance.argmin(axis=1)
    u, values, _ = np.linalg.svd(head)
    u, v = u[:, :, 0], np.linalg.svd(filtered)[0][nearest, :, 0]
    angle = np.degrees(np.arccos(np.minimum(np.abs((u * v).sum(axis=1)), 1)))
    half = np.argmin(np.abs(np.linalg.norm(head, axis=(1, 2)) / size - 0.5))
    return [
        distance.min(axis=1).max(),
        angle[values[:, 0] > 0.1 * size].max(),
        *(abs(vectors[half] @ X[:, 0]) for vectors in (u, v)),
    ]


def row(condition, start):
    """The four means over frames, and their standard errors."""
    found = np.array([departure(condition, start, seed) for seed in range(FRAMES)])
    return found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(FRAMES)


def documented():
    """The rows of the table in the document: condition number, start, then the four means."""
    lines = [line.strip("| \n").split("|") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    rows = [[float(cell.split("±")[0]) for cell in line] for line in lines if line[0].strip().isdigit()]
    return {(int(line[0]), line[1]): line[2:] for line in rows}


def check(condition, start):
    expected = documented()[condition, start]
    means, errors = row(condition, start)
    np.testing.assert_array_less(np.abs(means - expected), 0.5 * errors + [0.01, 0.5, 0.01, 0.01])


def test_one_row_of_the_document():
    check(16, 1e-2)


@pytest.mark.slow
def test_every_row_of_the_document():
    assert set(documented()) == {(condition, start) for condition in CONDITIONS for start in STARTS}
    for condition, start in documented():
        check(condition, start)
