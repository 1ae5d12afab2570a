"""Gradient flow of a head under the squared objective: small steps of gradient descent on Omega or on its factors."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sims.engines.devices import each
from sims.engines.ensemble import train
from sims.engines.simulation import (
    Population,
    Weights,
    head_loss,
    population,
)
from svtheory import Scenario
from svtheory.geometry import frame_bounds

STEP = 0.5  # of an Euler step, in units of the largest curvature


def flow(
    scenarios: Scenario,
    weights: Weights,
    times: Array,
    steps: int,
    records: int = 200,
    checkpoint: Path | None = None,
    label: str = "gradient flow",
) -> tuple[np.ndarray, np.ndarray]:
    """Omega along the flow `d(weights)/dt = -gradient` of M heads; returns times (R, M) and Omega (R, M, D, D).

    `weights` are stacked heads: {"Omega": (M, D, D)}, trained directly, or {"W_Q": (M, H, D), "W_K": (M, H, D)}.
    Member i takes `steps` Euler steps to `times[i]`, of which about `records` are kept. Raises FloatingPointError
    where a step was too long for the largest curvature.
    """
    members = len(times)
    keys = jax.random.split(jax.random.key(0), members)  # descent draws nothing
    every = -(-steps // records)
    given = each(population, scenarios), times / steps
    _, history = train(
        _update, weights, keys, steps, *given, every=every, observe=_omega, checkpoint=checkpoint, label=label
    )
    return history["step"][:, None] / steps * np.asarray(times), history["Omega"]


def steps_enough(turns: Array) -> int:
    """Euler steps for times in units of the largest curvature, shape (M,), each step at most half of one."""
    return int(turns.max() / STEP) + 1


def rates(scenario: Scenario) -> tuple[Array, Array]:
    """The smallest and largest rate of the flow of Omega without laws, products of frame bounds (T17)."""
    (m, L), (m_, L_) = frame_bounds(scenario.query_features), frame_bounds(scenario.key_features)
    return m * m_, L * L_


def _update(weights: Weights, key: Array, data: Population, rate: Array) -> tuple[Weights, dict[str, Array]]:
    """One Euler step."""
    loss, gradient = jax.value_and_grad(head_loss)(weights, data)
    return jax.tree.map(lambda x, slope: x - rate * slope, weights, gradient), {"loss": loss}


def _omega(weights: Weights) -> dict[str, Array]:
    if "Omega" in weights:
        return weights
    return {"Omega": jnp.matmul(weights["W_Q"].T, weights["W_K"], precision="highest")}
