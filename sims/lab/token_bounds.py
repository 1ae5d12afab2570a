"""Token bounds: what the moments of a layer's tokens promise a single matched pair, with errors over sequences."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from sims.lab.sources import check_tokens_differ
from svtheory import HeadBundle, chance_alignment, kantorovich_bound
from svtheory.geometry import frame_bounds
from svtheory.instruments.survey import PLACE
from svtheory.prediction import training_condition_number

TIMES = np.geomspace(1e-2, 1e6, 97)  # in units of the fastest mode


def token_bounds(bundle: HeadBundle, key: Array, resamples: int) -> xr.Dataset:
    """Condition numbers of token moments by layer and side, the bounds they imply (T3, T17), and bootstrap errors."""
    assert bundle.attn_in is not None
    _, sequences, positions, d_model = bundle.attn_in.shape
    check_tokens_differ(bundle.attn_in)
    # of a layer where some heads have a query bias, the others' second moment: theirs is that of the keys
    centred = np.stack([bundle.query_bias.all(axis=1), np.ones(len(bundle.W_Q), bool)], axis=1)
    counts = jax.random.randint(key, (resamples, sequences), 0, sequences)
    times = jnp.asarray(TIMES, jnp.float32)

    def extremes(tokens, centred, chosen):
        """Extreme eigenvalues of the moments of the chosen sequences, shape (side, 2)."""
        rows = tokens[chosen].reshape(-1, d_model)
        moments = [rows - jnp.where(middle, rows.mean(axis=0, keepdims=True), 0) for middle in centred]
        return jnp.stack([jnp.stack(frame_bounds(moment.T / jnp.sqrt(len(rows)))) for moment in moments])

    def read(layer, chosen):
        tokens, centred = layer
        m, L = extremes(tokens, centred, chosen).T
        kappa = L / m
        # in units of the fastest mode only kappa is left of m and L
        shorter = training_condition_number(1 / kappa[:, None], 1.0, times[None, :])
        return kappa, kantorovich_bound(kappa), kantorovich_bound(shorter), jnp.prod(L)

    def with_errors(layer):
        resampled = jax.lax.map(lambda chosen: read(layer, chosen), counts)
        return read(layer, jnp.arange(sequences)), [x.std(axis=0, ddof=1) for x in resampled]

    layers = jnp.asarray(bundle.attn_in, jnp.float32), centred
    found, errors = jax.jit(partial(jax.lax.map, with_errors))(layers)
    side = ("layer", "side")
    axes = {"condition": side, "bound": side, "bound_at_time": (*side, "time"), "fastest_rate": ("layer",)}
    data: dict[str, Any] = {
        f"{name}{suffix}": (dims, np.asarray(x))
        for given, suffix in ((found, ""), (errors, "_standard_error"))
        for (name, dims), x in zip(axes.items(), given, strict=True)
    }
    data |= {"tokens": sequences * positions, "chance_cosine": chance_alignment(d_model)}
    data |= {"query_bias": (PLACE, bundle.query_bias), "centred": (side, centred)}
    return xr.Dataset(data, {"side": ["query", "key"], "time": TIMES})
