"""Modes of heads along gradient flow: their sizes and vectors as they grow, and when each is half-way (T9)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from sims.engines.flow import flow, rates
from sims.engines.simulation import Weights
from sims.lab.sweep import each, labelled
from svtheory import Scenario, Spectrum, alignment, growth, half_times, predict
from svtheory.prediction import mode_start

STEP = 0.02  # length of an Euler step, in units of the fastest mode's time
HALF_TIMES = 1.6  # how long the flow is followed, in half-times of the slowest mode


def modes_along_flow(scenarios: Scenario, weights: Weights, modes: int, checkpoint: Path) -> xr.Dataset:
    """The first modes of M heads that start from `weights`, as predicted from there and as measured."""
    predictions, starts, half, fastest = each(foreseen, scenarios, weights)
    last = HALF_TIMES * half[:, modes - 1]
    steps = int(np.ceil((fastest * last).max() / STEP))
    times, omega = flow(scenarios, weights, last, steps, checkpoint=checkpoint, label="fixed")
    curves = jax.jit(jax.vmap(growth, (0, 1, 0)))(scenarios, jnp.asarray(times), starts)
    sizes, left, right = jax.jit(jax.vmap(jax.vmap(read_modes, (0, None)), (1, 0)))(jnp.asarray(omega), predictions)
    along = {"predicted_size": curves, "size": sizes, "cosine_left": left, "cosine_right": right}
    ends = {"final_size": predictions.values, "predicted_half_time": half}
    labels = {"member": range(len(last))}
    results = labelled({name: x[..., :modes] for name, x in along.items()}, labels, "member", "record", "mode")
    results = results.assign({name: (("member", "mode"), np.asarray(x[:, :modes])) for name, x in ends.items()})
    return results.assign(time=(("member", "record"), times.T)).assign_coords(mode=range(1, modes + 1))


def foreseen(scenario: Scenario, weights: Weights) -> tuple[Spectrum, Array, Array, Array]:
    """The spectrum, the size a_0 from which each mode grows, when each is half-way, and the fastest one's rate."""
    prediction = predict(scenario)
    start = mode_start(scenario, weights["W_Q"], weights["W_K"])
    # at which the strongest mode settles
    fastest = 2 * rates(scenario)[1] * prediction.values[0]
    return prediction, start, half_times(scenario, start), fastest


def read_modes(omega: Array, prediction: Spectrum) -> tuple[Array, Array, Array]:
    """`u_k^T Omega v_k` along the predicted vectors, and the |cos| of the measured ones with these, each (K,)."""
    U, _, Vt = jnp.linalg.svd(omega)
    sizes = jnp.einsum("dk,de,ek->k", prediction.left, omega, prediction.right, precision="highest")
    left, right = alignment(prediction.left, U), alignment(prediction.right, Vt.T)
    # singular pairs are in the order of their present size, modes in that of their final one
    pair = jnp.argmax(left * right, axis=1)
    chosen = jnp.arange(len(pair)), pair
    return sizes, left[chosen], right[chosen]


def crossing(time: xr.DataArray, excess: xr.DataArray, passed: xr.DataArray) -> xr.DataArray:
    """When `excess` first passes 0, between records linearly; NaN where it never does."""
    after = passed.argmax("record")
    before = np.maximum(after - 1, 0)
    (t0, t1), (e0, e1) = ((x.isel(record=before), x.isel(record=after)) for x in (time, excess))
    return (t0 + (t1 - t0) * np.clip(-e0 / (e1 - e0), 0, 1)).where(passed.any("record"))
