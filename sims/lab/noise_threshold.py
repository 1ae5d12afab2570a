"""Noise threshold: matrices of one mode in white noise, and the threshold that heads beside such noise show (T21)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sims.lab.sweep import each
from svtheory.prediction import cosines_in_noise, hiding_threshold

MATRICES, RESAMPLED = 1000, 200


def matrices_in_noise(size: float, deviations: Array, shape: tuple[int, int], key: Array) -> Array:
    """Mean `sin^2` of matrices of one mode of this size and white noise, query and key side, (deviations, 2)."""

    def drawn(key):
        noise = jax.random.normal(key, shape, deviations.dtype)

        def beside(deviation):
            U, _, Vt = jnp.linalg.svd((deviation * noise).at[0, 0].add(size), full_matrices=False)
            return 1 - jnp.stack([U[0, 0], Vt[0, 0]]) ** 2

        return jax.lax.map(beside, deviations)

    return each(drawn, jax.random.split(key, MATRICES)).mean(axis=0)


def fitted_threshold(seen: np.ndarray, at: np.ndarray, shape: tuple[int, int]) -> tuple[float, float]:
    """The threshold's contexts with which the law fits best, over those predicted, and its standard error.

    seen   `sin^2` of heads with their mode, query and key side, (heads, counts, 2)
    at     contexts that they have read, in units of the predicted threshold's, (counts,)
    shape  of the heads
    """
    # at its threshold a mode of 1 has noise of this deviation, which falls with the root of the contexts
    critical = 1 / float(hiding_threshold(1.0, shape))
    candidates = np.geomspace(0.5, 2, 1401)
    deviations = critical * np.sqrt(candidates[:, None] / at[None, :])
    law = 1 - np.stack(cosines_in_noise(1.0, deviations, shape), axis=-1)

    def best(mean):
        return float(candidates[((law - mean) ** 2).sum(axis=(1, 2)).argmin()])

    rng = np.random.default_rng(0)
    drawn = [best(seen[rng.integers(len(seen), size=len(seen))].mean(axis=0)) for _ in range(RESAMPLED)]
    return best(seen.mean(axis=0)), float(np.std(drawn))
