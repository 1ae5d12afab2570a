"""Token bounds: what the moments of a layer's tokens promise a single matched pair, with errors over sequences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from svtheory.geometry.bounds import kantorovich_bound
from svtheory.geometry.frames import frame_bounds
from svtheory.heads.bundles import HeadBundle
from svtheory.instruments.sources import check_tokens_differ
from svtheory.instruments.survey import PLACE
from svtheory.prediction.training_time import training_condition_number
from svtheory.spectra.alignments import chance_alignment

TIMES = np.geomspace(1e-2, 1e6, 97)  # in units of the fastest mode
SIDE = ("layer", "side")
AXES = {"condition": SIDE, "bound": SIDE, "bound_at_time": (*SIDE, "time"), "fastest_rate": ("layer",)}


def token_bounds(bundle: HeadBundle, key: Array, resamples: int) -> xr.Dataset:
    """Condition numbers of token moments by layer and side, the bounds they imply (T3, T17), and bootstrap errors."""
    assert bundle.attn_in is not None
    _, sequences, _, d_model = bundle.attn_in.shape
    check_tokens_differ(bundle)
    # of a layer where some heads have a query bias, the others' second moment: theirs is that of the keys
    centred = np.stack([bundle.query_bias.all(axis=1), np.ones(len(bundle.W_Q), bool)], axis=1)
    chosen = jax.random.randint(key, (resamples, sequences), 0, sequences)
    tokens, real = (jnp.asarray(x, jnp.float32) for x in (bundle.attn_in, bundle.real))
    found, resampled = _of_layers(tokens, real, jnp.asarray(centred), chosen)
    data: dict[str, Any] = {
        f"{name}{suffix}": (dims, np.asarray(x))
        for given, suffix in ((found, ""), (resampled, "_standard_error"))
        for (name, dims), x in zip(AXES.items(), given, strict=True)
    }
    data |= {"tokens": int(bundle.real.sum()), "chance_cosine": chance_alignment(d_model)}
    data |= {"query_bias": (PLACE, bundle.query_bias), "centred": (SIDE, centred)}
    return xr.Dataset(data, {"side": ["query", "key"], "time": TIMES})


@jax.jit
def _of_layers(tokens: Array, real: Array, centred: Array, chosen: Array) -> tuple[tuple[Array, ...], list[Array]]:
    """What AXES names of each layer, and standard deviations over the chosen sequences."""
    everything = jnp.arange(tokens.shape[1])

    def of_layer(layer):
        read, middle = layer
        resampled = jax.lax.map(lambda some: _bounds(read, real, middle, some), chosen)
        return _bounds(read, real, middle, everything), [x.std(axis=0, ddof=1) for x in resampled]

    return jax.lax.map(of_layer, (tokens, centred))


def _bounds(tokens: Array, real: Array, centred: Array, chosen: Array) -> tuple[Array, ...]:
    """Of the chosen sequences of tokens (sequences, positions, D), 1 where they are `real`: condition numbers and
    bounds by side.
    """
    rows, counted = tokens[chosen].reshape(-1, tokens.shape[-1]), real[chosen].reshape(-1, 1)
    mean = (counted * rows).sum(axis=0, keepdims=True) / counted.sum()
    moments = [counted * (rows - jnp.where(middle, mean, 0)) for middle in centred]
    extremes = [jnp.stack(frame_bounds(moment.T / jnp.sqrt(counted.sum()))) for moment in moments]
    m, L = jnp.stack(extremes).T
    kappa = L / m
    # in units of the fastest mode only kappa is left of m and L
    shorter = training_condition_number(1 / kappa[:, None], 1.0, jnp.asarray(TIMES, jnp.float32)[None, :])
    return kappa, kantorovich_bound(kappa), kantorovich_bound(shorter), jnp.prod(L)
