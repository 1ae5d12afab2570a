"""Unit features that share the linear model's energy with a head that follows the first two (T10)."""

import jax.numpy as jnp
from jax import Array

from svtheory import alignment, feature_dimensionality
from svtheory.geometry import frame_potential, phase_energy
from svtheory.geometry.columns import unit_columns


def energy(weights: Array, present: Array, coupling: Array, adaptive: Array) -> Array:
    """`FP + g s_0 s_1`, or `FP + g (1 - 1/(s_0 s_1))` of an adaptive head, of the unit features that are present."""
    W = unit_columns(weights) * present[None, :]
    D = feature_dimensionality(W)  # 1/s of a unit feature
    return jnp.where(adaptive, frame_potential(W) + coupling * (1 - D[0] * D[1]), phase_energy(W, coupling))


def order(W: Array) -> dict[str, Array]:
    """`s_0 <= s_1` and `|w_0 . w_1|` of unit features (D, N)."""
    s = jnp.sort(1 / feature_dimensionality(W)[:2])
    return {"s_0": s[0], "s_1": s[1], "cosine": alignment(W[:, :1], W[:, 1:2])[0, 0]}
