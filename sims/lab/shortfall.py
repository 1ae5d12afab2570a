"""Shortfalls: how far a head trained on samples is from its prediction, in units of what sampling predicts (T21).

To first order `1 - |cos| = sin^2 / 2`, and what n contexts leave of sin^2 is a quadratic form of Gaussian noise: its
mean is `sampling_error`, its standard deviation at most sqrt(2) of that, as where one direction has all the noise.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory import Scenario, Spectrum, predict_finite, sampling_error
from svtheory.prediction import finite_error

ALLOWED = 3.0  # standard errors
SANDWICH = 8192  # contexts, at most, from which the noise that is expected is computed


def foreseen(scenario: Scenario, key: Array, contexts: int, samples: int, pairs: int) -> tuple[Spectrum, Array]:
    """The spectrum at the logits asked for, and `E sin^2` of heads trained on so many contexts with it, (2, pairs).

    By side; of raw vectors, the noise of the prediction's own `samples` contexts included.
    """
    own, others = jax.random.split(key)
    found = predict_finite(scenario, own, samples, pairs)
    trained = sampling_error(scenario, others, min(contexts, SANDWICH), contexts, raw=True, pairs=pairs)
    left, _, right = finite_error(scenario, own, samples, pairs)
    return found, jnp.stack([x[:pairs] + y[:pairs] for x, y in zip(trained, (left, right), strict=True)])


def z_values(cosine: np.ndarray, sin2: np.ndarray) -> np.ndarray:
    """`(1 - |cos|) / (E sin^2 / 2)`: 1 on average where sampling alone keeps heads from their prediction.

    >>> z_values(np.array([0.99, 1.0]), np.array([0.02, 0.02])).round(6).tolist()
    [1.0, 0.0]
    """
    return (1 - cosine) / (sin2 / 2)


def mean_z(z: np.ndarray) -> tuple[float, float]:
    """Mean z-value of independent heads and its standard error, at most what sampling allows, sqrt(2 / heads).

    A spread of z-values beyond that is no sampling, and excuses nothing.
    """
    return float(np.mean(z)), float(min(np.std(z, ddof=1), math.sqrt(2)) / math.sqrt(np.size(z)))


def z_cell(cosine: np.ndarray, sin2: np.ndarray) -> str | None:
    """Mean z-value and its standard error, for a table cell; nothing of heads that were trained without samples."""
    if np.isnan(sin2).any():
        return None
    return "{:.2f} ± {:.2f}".format(*mean_z(z_values(cosine, sin2)))


def is_sampling(z: np.ndarray) -> bool:
    """Whether z-values, heads first and sides after, fall short by no more than sampling predicts, on every side.

    >>> is_sampling(np.array([0.5, 1.5, 1.0, 1.2])), is_sampling(np.array([3.0, 4.0, 3.5, 2.9]))
    (True, False)
    >>> is_sampling(np.array([1.0, 1.0, 1.0, 500.0]))  # one head that is wrong
    False
    """
    sides = np.reshape(z, (len(z), -1)).T
    return all(mean <= 1 + ALLOWED * error for mean, error in map(mean_z, sides))
