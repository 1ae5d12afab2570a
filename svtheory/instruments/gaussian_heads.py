"""Gaussian heads: spectra of factors with independent Gaussian entries, of a head's shape, raw and as tokens see them.

The values of `S W_Q^T W_K T`, S and T diagonal, are the roots of the eigenvalues of `G_Q G_K`, H x H, with
`G_Q = W_Q S^2 W_Q^T` and `G_K = W_K T^2 W_K^T`: that of whitened tokens whose principal axes have lengths S and T.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import entropy


def gaussian_values(
    shape: tuple[int, int], sides: Sequence[tuple[np.ndarray, np.ndarray]], seed: int, draws: int
) -> np.ndarray:
    """Singular values over the largest of heads of the `shape` (H, D), for each pair of lengths (D,) in `sides`.

    All see the same draws; shape (sides, draws, K).
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        W_Q, W_K = rng.normal(size=(2, *shape))
        found.append([_values(W_Q * query, W_K * key) for query, key in sides])
    values = np.array(found).swapaxes(0, 1)
    return values / values[..., :1]


def gaussian_effective_ranks(values: np.ndarray) -> np.ndarray:
    """`exp(-sum p ln p)` of values over their sum along the last axis."""
    return np.exp(entropy(values, axis=-1))


def _values(W_Q: np.ndarray, W_K: np.ndarray) -> np.ndarray:
    squares, axes = np.linalg.eigh(W_Q @ W_Q.T)
    root = axes * np.sqrt(np.maximum(squares, 0))
    products = np.linalg.eigvalsh(root.T @ (W_K @ W_K.T) @ root)
    return np.sqrt(np.maximum(products[::-1], 0))[: min(W_Q.shape)]
