"""Courses: heads followed along gradient flow, read by how far training has come, beside the filter of finite time."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sims.engines.flow import flow, rates, steps_enough
from sims.engines.simulation import small_factors
from sims.lab.sweep import each
from svtheory import Scenario, alignment, filtered_optimum, optimal_omega

PROGRESS = np.linspace(0.05, 0.95, 19)  # |Omega(t)|_F / |Omega*|_F at which heads are compared
FOLLOWED = {"Omega": 4.0, "factors": 20.0}  # how long, in times of the slowest direction
START = 0.01  # of the factors, as in Training


def followed(
    scenarios: Scenario, keys: Array, checkpoint: Path, label: str, kinds: Iterable[str] = FOLLOWED
) -> dict[str, Array]:
    """Omega (M, R, D, D) of M heads from nothing, trained directly, and from a small start through its factors."""
    D = scenarios.query_features.shape[1]
    size = each(_size, scenarios)
    slowest, curvature = each(rates, scenarios)
    factors = jax.jit(jax.vmap(partial(small_factors, D, D, START)))(keys)
    starts = {"Omega": {"Omega": jnp.zeros((len(keys), D, D))}, "factors": factors}
    # factors are quicker the larger the head, and their curvature grows with it
    paces = {"Omega": (1, 1), "factors": (size, 2 * size)}
    found = {}
    for kind in kinds:
        unit, scale = paces[kind]
        last = FOLLOWED[kind] / slowest / unit
        steps = steps_enough(last * curvature * scale)
        _, omega = flow(scenarios, starts[kind], last, steps, 1000, checkpoint / kind, f"{label}, {kind}")
        found[kind] = jnp.asarray(omega).swapaxes(0, 1)
    return found


def read_course(scenario: Scenario, flows: dict[str, Array]) -> dict[str, Array]:
    """Alignment by progress, as predicted by the filter of finite training time (T17) and along flows (R, D, D)."""
    along = {"predicted": filtered(scenario), **flows}
    return {f"cosine_{kind}": by_progress(scenario, omega) for kind, omega in along.items()}


def by_progress(scenario: Scenario, omega: Array) -> Array:
    """Mean over sides of |cos| of leading vectors with features 0 along Omega (R, D, D), by progress; NaN beyond it."""
    # one after the other: batches of factorisations on two devices of a small CPU can wait for one another forever
    U, _, Vt = jax.lax.map(jnp.linalg.svd, omega)
    left = alignment(U[:, :, 0].T, scenario.query_features[:, :1])[:, 0]
    right = alignment(Vt[:, 0].T, scenario.key_features[:, :1])[:, 0]
    return at_progress(scenario, omega, (left + right) / 2)


def at_progress(scenario: Scenario, omega: Array, read: Array) -> Array:
    """What is `read` (R,) along Omega (R, D, D), by progress; NaN beyond it."""
    progress = jnp.linalg.norm(omega, axis=(1, 2)) / _size(scenario)
    return jnp.interp(jnp.asarray(PROGRESS), progress, read, right=jnp.nan)


def filtered(scenario: Scenario) -> Array:
    """Omega along the filter of finite training time (T17), from nothing to the optimum, (R, D, D)."""
    times = FOLLOWED["Omega"] / rates(scenario)[0] * jnp.geomspace(1e-6, 10.0, 400)
    return jax.lax.map(partial(filtered_optimum, scenario), times)


def _size(scenario: Scenario) -> Array:
    """`|Omega*|_F`."""
    return jnp.linalg.norm(optimal_omega(scenario))
