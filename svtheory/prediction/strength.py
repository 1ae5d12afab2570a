"""Logits: the size of a softmax head at finite logits, where its singular vectors are known (T6)."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import InputError, concrete, whole
from svtheory.numerics import exact_products, root
from svtheory.prediction.decay import bears_decay
from svtheory.prediction.optimum import Optimum, optimum
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


def logit_scale(scenario: Scenario, key: Array, samples: int) -> tuple[Array, Array]:
    """Singular values at finite logits, and their standard errors, both of shape (K,) (T6).

    With the predicted u_k, v_k fixed, minimises over the sizes a the cross-entropy of `softmax_j(l^T)` with
    `softmax_j(sum_k (a_k u_k . r + b_k) v_k . s_j)`, averaged over `samples` draws of a query and its m keys; b, the
    free key-only term, only with a query bias. The problem is convex: one-dimensional for a single pair, of one
    dimension a mode otherwise; at small logits its solution is `predict(scenario).values`, in whose order the values
    are and whose zeros stay zero. The standard error is that of an M-estimator, `H^{-1} J H^{-1} / samples` with the
    Hessian H and the covariance J of a draw's gradient.

    Works under jit (`samples` static), vmap and grad. Raises InputError for an objective other than "softmax", a
    weight_decay, or fewer than 2 samples.

    >>> from svtheory import BernoulliUniform, single_pair
    >>> law = BernoulliUniform(0.5, 2)
    >>> scenario = Scenario(jnp.eye(2), jnp.eye(2), single_pair(2, 2, 0, 1, 5.0), law, law, "softmax")
    >>> values, errors = logit_scale(scenario, jax.random.key(0), 10000)
    >>> bool(abs(values[0] - 5.0) < 4 * errors[0] + 1e-4)
    True
    """
    if scenario.objective != "softmax":
        raise InputError(f"objective must be 'softmax' for a scale at finite logits (T6), got {scenario.objective!r}")
    if concrete(scenario.weight_decay) and bears_decay(scenario):
        raise InputError(f"weight_decay must be 0 at finite logits (T6), got {float(scenario.weight_decay):.3g}")
    whole("samples", samples, 2)
    found = optimum(scenario)
    found = found._replace(values=jnp.where(scenario.weight_decay == 0, found.values, jnp.nan))
    present = found.values > found.error
    modes = max(int(present.sum()), 1) if concrete(present) else present.size
    return _estimate(found, present, key, samples, modes)


@partial(jax.jit, static_argnames=("samples", "modes"))
@exact_products
def _estimate(found: Optimum, present: Array, key: Array, samples: int, modes: int) -> tuple[Array, Array]:
    used = jnp.tile(present[:modes], 2 if found.scenario.query_bias else 1)
    sample = _sample(found, used, key, samples)
    scale, errors = _m_estimate(sample, used)
    zeros = jnp.where(present, 0, 0 * found.values)
    return zeros.at[:modes].add(scale[:modes]), zeros.at[:modes].add(errors[:modes])


def draw_contexts(scenario: Scenario, key: Array, samples: int) -> tuple[Array, Array, Array]:
    """Activations of queries (samples, N) and their keys (samples, m, M), and the probabilities asked (samples, m)."""
    query_key, key_key = jax.random.split(key)
    f = scenario.query_law.sample(query_key, (samples,))
    g = scenario.key_law.sample(key_key, (samples, scenario.n_keys))
    return f, g, jax.nn.softmax(jnp.einsum("nmj,nj->nm", g, f @ scenario.target), axis=-1)


def _sample(found: Optimum, used: Array, key: Array, samples: int) -> Sample:
    scenario = found.scenario
    f, g, wanted = draw_contexts(scenario, key, samples)
    modes = used.size // 2 if scenario.query_bias else used.size
    read = f @ (scenario.query_features.T @ found.left[:, :modes])
    written = g @ (scenario.key_features.T @ found.right[:, :modes])
    features = read[:, None, :] * written
    if scenario.query_bias:
        features = jnp.concatenate([features, written], axis=-1)
    return Sample(features * used.astype(features.dtype)[None, None, :], wanted)


def _m_estimate(sample: Sample, used: Array) -> tuple[Array, Array]:
    """The minimiser of the cross-entropy and its standard errors, shapes (P,)."""
    scale = minimise(jax.tree.map(lax.stop_gradient, sample), used)
    gradients, H = derivatives(sample, scale, used)
    # one more step of Newton's, through which the derivative of the solution flows
    scale -= jnp.linalg.solve(lax.stop_gradient(H), gradients.mean(axis=0))
    J = jnp.atleast_2d(jnp.cov(gradients, rowvar=False))
    variance = jnp.diagonal(jnp.linalg.solve(H, jnp.linalg.solve(H, J).T)) / gradients.shape[0]
    return jnp.where(used, scale, 0), jnp.where(used, root(variance), 0)


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
