"""Token bounds: what the moments of a layer's tokens promise a single matched pair, with errors over sequences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from svtheory.geometry.bounds import kantorovich_bound
from svtheory.heads.bundles import HeadBundle
from svtheory.instruments.labels import Labels
from svtheory.instruments.moments import Moments, extremes, resampled_extremes
from svtheory.instruments.survey import PLACE
from svtheory.instruments.threads import in_threads
from svtheory.prediction.training_time import training_condition_number
from svtheory.spectra.alignments import chance_alignment

TIMES = np.geomspace(1e-2, 1e6, 97)  # in units of the fastest mode
SIDE = ("layer", "side")
AXES = {"condition": SIDE, "bound": SIDE, "bound_at_time": (*SIDE, "time"), "fastest_rate": ("layer",)}

VARIABLES: Labels = {
    "condition": "condition number kappa of a layer's token moment, on its range",
    "condition_standard_error": "standard error of kappa, over sequences",
    "bound": "least |cos| with a feature that kappa leaves to a single matched pair, fully trained (T3)",
    "bound_standard_error": "standard error of the bound, over sequences",
    "bound_at_time": "the same bound after training for a time (T17)",
    "bound_at_time_standard_error": "standard error of the bound after a time, over sequences",
    "fastest_rate": ("rate of the fastest mode, L_r L_s", "square of the tokens' second moment"),
    "fastest_rate_standard_error": ("standard error of that rate", "square of the tokens' second moment"),
    "tokens": ("tokens read", "tokens"),
    "chance_cosine": "mean |cos| of random directions",
    "query_bias": "whether the head has a query bias that is not zero",
    "centred": "whether the moment is a covariance, rather than a second moment (T6)",
    "time": ("training time", "1 / (L_r L_s), the time constant of the fastest mode"),
}


def token_bounds(bundle: HeadBundle, moments: Moments, seed: int, resamples: int) -> xr.Dataset:
    """Condition numbers of token moments by layer and side, the bounds they imply (T3, T17), and bootstrap errors."""
    assert bundle.attn_in is not None
    _, sequences, _, d_model = bundle.attn_in.shape
    # of a layer where some heads have a query bias, the others' second moment: theirs is that of the keys
    centred = np.stack([bundle.query_bias.all(axis=1), np.ones(len(bundle.W_Q), bool)], axis=1)
    chosen = np.random.default_rng(seed).integers(0, sequences, (resamples, sequences))

    def of_layer(tokens: np.ndarray, centred: np.ndarray, here: Moments) -> np.ndarray:
        """Of all sequences, and of every resample, (1 + resamples, side, 2)."""
        sides = [(here.centred, here.mean) if of_side else (here.uncentred, None) for of_side in centred]
        found = [np.stack(extremes(root)) for root, _ in sides]
        resampled = [np.stack(resampled_extremes(tokens, bundle.real, chosen, *side), axis=-1) for side in sides]
        return np.concatenate([np.stack(found)[None], np.stack(resampled, axis=1)])

    by_layer = [jax.tree.map(lambda x, layer=layer: x[layer], moments) for layer in range(len(centred))]
    everything = np.stack(in_threads(of_layer, bundle.attn_in, centred, by_layer, doing="token bounds"), axis=1)
    data: dict[str, Any] = {}
    for (name, dims), x in zip(AXES.items(), _promised(jnp.asarray(everything, jnp.float32)), strict=True):
        data[name] = dims, np.asarray(x[0])
        data[f"{name}_standard_error"] = dims, np.asarray(x[1:]).std(axis=0, ddof=1)
    data |= {"tokens": int(bundle.real.sum()), "chance_cosine": chance_alignment(d_model)}
    data |= {"query_bias": (PLACE, bundle.query_bias), "centred": (SIDE, centred)}
    return xr.Dataset(data, {"side": ["query", "key"], "time": TIMES})


@jax.jit
def _promised(extremes: Array) -> tuple[Array, ...]:
    """What AXES names, of the smallest and largest eigenvalue of each layer and side, (..., layer, side, 2)."""
    kappa, largest = extremes[..., 1] / extremes[..., 0], extremes[..., 1]
    # in units of the fastest mode only kappa is left of the eigenvalues
    times = jnp.asarray(TIMES, jnp.float32).reshape((1,) * kappa.ndim + (-1,))
    shorter = training_condition_number(1 / kappa[..., None], 1.0, times)
    return kappa, kantorovich_bound(kappa), kantorovich_bound(shorter), largest.prod(axis=-1)
