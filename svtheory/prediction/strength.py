"""Strength: a cross-entropy over sampled contexts, convex in what the logits are linear in, and its minimum (T18)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.scenarios import Scenario

NEWTON_STEPS = 100
LEAST_STEP = 2.0**-30


class Sample(NamedTuple):
    """Draws of a query and its m keys, as the cross-entropy sees them.

    features  what the logits are linear in, shape (samples, m, P)
    wanted    the target's probabilities, shape (samples, m)
    """

    features: Array
    wanted: Array


def draw_contexts(scenario: Scenario, key: Array, samples: int) -> tuple[Array, Array, Array]:
    """Activations of queries (samples, N) and their keys (samples, m, M), and the probabilities asked (samples, m)."""
    query_key, key_key = jax.random.split(key)
    f = scenario.query_law.sample(query_key, (samples,))
    g = scenario.key_law.sample(key_key, (samples, scenario.n_keys))
    return f, g, jax.nn.softmax(jnp.einsum("nmj,nj->nm", g, f @ scenario.target), axis=-1)


def _cross_entropy(sample: Sample, scale: Array) -> Array:
    """The divergence of the head's probabilities from those wanted, per draw."""
    logits = sample.features @ scale
    p = sample.wanted
    return (jax.scipy.special.xlogy(p, p) - p * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1).mean()


def derivatives(sample: Sample, scale: Array, used: Array) -> tuple[Array, Array]:
    """The gradient of each draw (samples, P), and the Hessian of their mean (P, P); 1 where a size is unused."""
    features = sample.features
    p = jax.nn.softmax(features @ scale, axis=-1)
    mean = jnp.einsum("nm,nmp->np", p, features)
    gradients = jnp.einsum("nm,nmp->np", p - sample.wanted, features)
    centred = (features - mean[:, None, :]) * jnp.sqrt(p)[:, :, None]
    H = jnp.einsum("nmp,nmq->pq", centred, centred) / p.shape[0]
    return gradients, H + jnp.diag(jnp.where(used, 0, 1).astype(H.dtype))


def minimise(sample: Sample, used: Array) -> Array:
    """Newton's method with halved steps from 0, until what a step can gain is lost in rounding."""
    rounding = jnp.finfo(sample.wanted.dtype).eps * math.log(sample.wanted.shape[-1])

    def unfinished(state):
        _, gain, steps = state
        return (gain > rounding) & (steps < NEWTON_STEPS)

    def step(state):
        scale, _, steps = state
        gradients, H = derivatives(sample, scale, used)
        g = gradients.mean(axis=0)
        direction = jnp.linalg.solve(H, g)
        loss, gain = _cross_entropy(sample, scale), g @ direction

        def refused(length):
            lower = _cross_entropy(sample, scale - length * direction) <= loss - 1e-4 * length * gain
            return ~lower & (gain > rounding) & (length > LEAST_STEP)

        length = lax.while_loop(refused, lambda length: length / 2, jnp.ones_like(gain))
        return scale - length * direction, gain, steps + 1

    start = jnp.zeros_like(sample.features[0, 0])
    return lax.while_loop(unfinished, step, (start, jnp.full_like(start[0], jnp.inf), 0))[0]
