"""States of a matched pair under a ReLU in the sparse limit: the least energy of each kind, and where they cross (T19).

An arrangement W is a line in the coupling, `E_R(W) + g (s_0 s_1 - 1)`: the lowest state is the lower envelope of lines,
a line found at one coupling holds at every other, and near where it was found its error is of second order.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from svtheory.checks import InputError, whole

STATES = ("superposed", "symmetric", "one-sided", "orthogonalised")
"""The kinds of state, in the order of falling `s_0`."""
CROWDED, ALONE = 1.9, 1.1
"""A feature shares its dimension from the first crowding `s` on, and is alone up to the second."""

ENOUGH = 25
"""Couplings at which `relu_thresholds` searches states, at most."""


class ReluStates(NamedTuple):
    """K arrangements of N unit features in D dimensions, float64 of numpy.

    features        W, shape (K, D, N), the matched pair first
    reconstruction  `E_R`, shape (K,)
    crowding        `s_0 <= s_1` of the pair, shape (K, 2)
    """

    features: np.ndarray
    reconstruction: np.ndarray
    crowding: np.ndarray

    def energy(self, coupling: np.ndarray | float) -> np.ndarray:
        """`E_R + g (s_0 s_1 - 1)`, shape (*coupling.shape, K)."""
        return self.reconstruction + np.asarray(coupling)[..., None] * (self.crowding.prod(axis=-1) - 1)


def relu_states(n_features: int, dim: int, coupling: float, starts: int = 24, seed: int = 0) -> ReluStates:
    """The least energy of each of `STATES` at a coupling g: closed, or found by descent from random starts (T19).

    - superposed: antipodal pairs on an orthonormal basis, `E_R = 0`, `s_0 = s_1 = 2`; for N from 4 to 2D
    - symmetric: the least `E_R + g (((s_0 + s_1)/2)^2 - 1)`, which is the energy where `s_0 = s_1`, and above elsewhere
    - one-sided: `w_0` orthogonal to all others, the least `E_R + g (s_1 - 1)` of N - 1 features in D - 1 dimensions
    - orthogonalised: both alone, the least `E_R` of N - 2 features in D - 2 dimensions; 0 for N <= 2D - 2

    Descent is over features and biases together: what it finds is stationary, and an upper bound of the least; the same
    seed finds the same. The second and the third may themselves be superposed or orthogonalised: `state` tells.
    Leaves (4, ...), or (3, ...) where there is no superposed state. In float64, whatever jax is set to. Raises
    InputError for dim < 3, n_features < 3, a negative coupling or no starts.

    >>> relu_states(6, 4, 0.5, starts=8).energy(0.5).round(6).tolist()
    [1.5, 0.0, 0.0, 0.0]
    """
    D, N = whole("dim", dim, 3), whole("n_features", n_features, 3)
    whole("starts", starts, 1)
    if not (np.isfinite(coupling) and coupling >= 0):
        raise InputError(f"coupling must be at least 0, got {coupling}")
    g, rng, basis = float(coupling), np.random.default_rng(seed), np.eye(D)
    found = []
    if 4 <= N <= 2 * D:
        pair, others = basis[:, :2], basis[:, 2:]
        found.append((np.concatenate([pair, -pair, others, -others], axis=1)[:, :N], 0.0))
    for alone in range(3):
        block, reconstruction = _least(N - alone, D - alone, 2 - alone, g, starts, rng)
        W = np.eye(D, N)
        W[alone:, alone:] = block
        found.append((W, reconstruction))
    features = np.stack([W for W, _ in found])
    return ReluStates(features, np.array([reconstruction for _, reconstruction in found]), crowding(features))


def crowding(features: np.ndarray) -> np.ndarray:
    """`s_0 <= s_1` of the first two of unit features (..., D, N), shape (..., 2)."""
    return np.sort(((features.swapaxes(-1, -2) @ features[..., :2]) ** 2).sum(axis=-2), axis=-1)


def state(crowding: np.ndarray) -> np.ndarray:
    """The index in `STATES` by `s_0 <= s_1` (..., 2): both shared, both alone, one alone, or neither of these.

    >>> [STATES[k] for k in state(np.array([[2.0, 2.0], [1.5, 1.5], [1.0, 2.0], [1.0, 1.05]]))]
    ['superposed', 'symmetric', 'one-sided', 'orthogonalised']
    """
    s_0, s_1 = crowding[..., 0], crowding[..., 1]
    return np.select([s_0 >= CROWDED, s_1 <= ALONE, s_0 <= ALONE], [0, 3, 2], 1)


def changes(couplings: np.ndarray, kinds: np.ndarray) -> tuple[float, float]:
    """Couplings at which the lowest state stops being superposed, and from which on it is orthogonalised.

    Each lies between two rising couplings (G,), whose lowest states are of `kinds` (G,); NaN where it is not seen.

    >>> [round(g, 3) for g in changes(np.array([1.0, 2.0, 4.0, 8.0]), np.array([0, 1, 3, 3]))]
    [1.414, 2.828]
    """
    between = np.sqrt(couplings[:-1] * couplings[1:])
    others, unfinished = np.flatnonzero(kinds != 0), np.flatnonzero(kinds != len(STATES) - 1)
    leaves = between[others[0] - 1] if others.size and others[0] else np.nan
    arrives = between[unfinished[-1]] if unfinished.size and unfinished[-1] < len(between) else np.nan
    return float(leaves), float(arrives)


def envelope(states: Sequence[ReluStates], couplings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least energy at each coupling (G,) of all arrangements found, and the crowding of its pair (G, 2)."""
    energy = np.concatenate([some.energy(couplings) for some in states], axis=-1)
    lowest = energy.argmin(axis=-1)
    return energy.min(axis=-1), np.concatenate([some.crowding for some in states])[lowest]


def relu_thresholds(
    n_features: int, dim: int, starts: int = 24, seed: int = 0
) -> tuple[float, float, list[ReluStates]]:
    """`changes` of the lowest state, to half a percent, and the states they were found from; N = 2D - 1 or 2D (T19).

    The states at both couplings are searched, added to what is known, and the couplings found again, until they stay.
    Superposed is left below `E_R/3` of the orthogonalised state, where that is as low. Raises as `relu_states`.

    >>> left, orthogonalised, _ = relu_thresholds(8, 4, starts=3)
    >>> round(left, 3), round(orthogonalised, 2)
    (0.158, 1.04)
    """
    N = whole("n_features", n_features, 2 * whole("dim", dim, 3) - 1)
    if 2 * dim < N:
        raise InputError(f"n_features must be at most 2 dim = {2 * dim}, got {N}: there is no superposed state")
    crossing = relu_states(N, dim, 0.0, starts, seed).reconstruction[-1] / 3
    fine = crossing * np.geomspace(0.01, 30, 4000)
    known = [relu_states(N, dim, ratio * crossing, starts, seed) for ratio in (0.5, 1, 3)]
    before, found = (np.nan, np.nan), changes(fine, state(envelope(known, fine)[1]))
    while not np.allclose(before, found, rtol=5e-3, equal_nan=True) and len(known) < ENOUGH:
        known += [relu_states(N, dim, g, starts, seed + len(known)) for g in found if np.isfinite(g)]
        before, found = found, changes(fine, state(envelope(known, fine)[1]))
    return *found, known


def _least(N: int, D: int, matched: int, g: float, starts: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Features (D, N) of least `E_R + g (s^matched - 1)`, s the mean crowding of the first `matched`, and their E_R."""
    bounds = [(None, None)] * (D * N) + [(0, 1)] * N
    # not L-BFGS-B: its matrices are small, and a threaded LAPACK takes fifty times as long over them
    options = {"maxfun": 20_000, "ftol": 1e-12, "gtol": 1e-9, "xtol": 1e-12}
    ends = []
    for _ in range(starts):
        start = np.append(rng.normal(size=D * N), np.full(N, 0.05))
        ends.append(minimize(_energy, start, (D, g, matched), "TNC", True, bounds=bounds, options=options))
    end = min(ends, key=lambda end: end.fun).x
    W = end[: D * N].reshape(D, N)
    return W / np.linalg.norm(W, axis=0), _energy(end, D, 0.0, 0)[0]


def _energy(x: np.ndarray, D: int, g: float, matched: int) -> tuple[float, np.ndarray]:
    """Energy and slope at features of any length (D, N) and biases (N,), flat one after the other."""
    N = x.size // (D + 1)
    V, b = x[: D * N].reshape(D, N), x[D * N :]
    length = np.linalg.norm(V, axis=0)
    W = V / length
    products = W.T @ W
    passed = np.maximum(products - b, 0)
    np.fill_diagonal(passed, 0)
    share = passed / np.where(passed > 0, products, 1)
    energy = (b**2 * (3 - 2 * b)).sum() + (share * passed**2).sum()
    by_bias = 6 * b * (1 - b) - 3 * (share * passed).sum(axis=0)
    by_product = share**2 * (2 * products + b)
    if matched:
        pair = products[:, :matched]
        s = (pair**2).sum() / matched
        energy += g * (s**matched - 1)
        by_product[:, :matched] += 2 * g * s ** (matched - 1) * pair
    slope = W @ (by_product + by_product.T)
    return float(energy), np.append((slope - W * (W * slope).sum(axis=0)) / length, by_bias)
