"""Streams: heads trained anew on more and more contexts of one stream each, and how far their vectors are from the end.

The squared objective is solved, as least squares of the whole head, which factors with H >= D can reach; the softmax
objective is trained, by L-BFGS on the factors.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array

from sims.engines.descent import descend
from sims.engines.simulation import Contexts, Training, head_loss, sample_contexts, small_factors
from sims.lab.sweep import each
from svtheory import BalancedSpectrum, Scenario, balanced_spectrum
from svtheory.prediction.whitened import moment_roots, whiten
from svtheory.pytrees import pytree


@pytree("counts")
@dataclass(frozen=True)
class Stream:
    """Contexts of a scenario, how many of them a head has read each time it is trained, and what is foreseen then.

    noise      standard deviation of the noise in the answers, squared objective; a scalar
    limit      Omega after endlessly many contexts, shape (D, D)
    predicted  mean sin^2 of its first vectors with the head's, query and key side, shape (counts, 2)
    rival      another prediction of the same, to be held beside it, shape (counts, 2)
    counts     growing
    """

    scenario: Scenario
    noise: Array
    limit: Array
    predicted: Array
    rival: Array
    counts: tuple[int, ...]


def trained(streams: Stream, keys: Array, steps: int, checkpoint: Path, label: str) -> Array:
    """Omega of M heads after each number of contexts, shape (M, counts, D, D)."""
    counts = streams.counts
    if streams.scenario.objective == "square":
        return each(partial(_least_squares, counts), streams.scenario, streams.noise, keys)
    contexts = each(partial(sample_contexts, max(counts)), streams.scenario, keys)
    D, dtype = streams.scenario.dim, streams.limit.dtype
    start = each(lambda key: small_factors(D, D, Training().start, key, dtype), keys)
    heads = []
    for n in counts:
        place = {"checkpoint": checkpoint / str(n), "label": f"{label}, {n} contexts"}
        weights, _ = descend(head_loss, start, keys, steps, _first(contexts, n), **place)
        heads.append(jnp.einsum("mhd,mhe->mde", weights["W_Q"], weights["W_K"], precision="highest"))
    return jnp.stack(heads, axis=1)


@jax.jit
def _first(contexts: Contexts, n: Array) -> Contexts:
    """The first n contexts of (M, most, ...); the others are of zeros, whose loss is constant."""

    def kept(x):
        read = jnp.arange(x.shape[1]) < n
        return jnp.where(read.reshape(1, -1, *(1,) * (x.ndim - 2)), x, 0)

    return jax.tree.map(kept, contexts)


def _least_squares(counts: tuple[int, ...], scenario: Scenario, noise: Array, key: Array) -> Array:
    """The head of least squares after each number of contexts, shape (counts, D, D); of least norm among several."""
    tokens = whiten(scenario)

    def read(key, n):
        query_key, key_key, noise_key = jax.random.split(key, 3)
        f, g = scenario.query_law.sample(query_key, (n,)), scenario.key_law.sample(key_key, (n,))
        answers = ((f @ scenario.target) * g).sum(axis=1)
        r, s = (
            f @ (scenario.query_features.T @ tokens.query.inverse),
            g @ (scenario.key_features.T @ tokens.key.inverse),
        )
        Z = (r[:, :, None] * s[:, None, :]).reshape(n, -1)
        return Z, answers + noise * jax.random.normal(noise_key, (n,), f.dtype)

    # what no token has decides nothing
    empty = ((tokens.query.scale[:, None] * tokens.key.scale[None, :]) == 0).ravel()
    gram, pull = jnp.diag(empty.astype(noise.dtype)), jnp.zeros(empty.size, noise.dtype)
    heads = []
    for number, (before, n) in enumerate(pairwise((0, *counts))):
        Z, answers = read(jax.random.fold_in(key, number), n - before)
        gram, pull = gram + Z.T @ Z, pull + answers @ Z
        core = jnp.linalg.solve(gram, pull) if n > pull.size else jnp.linalg.lstsq(gram, pull)[0]
        heads.append(tokens.unwhitened(core.reshape(tokens.core.shape)))
    return jnp.stack(heads)


def distances(stream: Stream, heads: Array) -> dict[str, Array]:
    """`sin^2` between the first whitened vectors of the heads (counts, D, D) and the limit's, as seen and foreseen."""
    F, G = (features @ root for features, root in zip(_features(stream.scenario), _roots(stream.scenario), strict=True))
    A, B = F @ F.T, G @ G.T

    def reading(omega) -> BalancedSpectrum:
        return balanced_spectrum(jnp.eye(len(omega)), omega, A, B)

    end = reading(stream.limit)

    def sines(omega):
        # a probe is A^{+1/2} u~ and a pattern A^{1/2} u~
        seen = reading(omega)
        cosines = end.query_probes[:, 0] @ seen.query_patterns[:, 0], end.key_probes[:, 0] @ seen.key_patterns[:, 0]
        return 1 - jnp.stack(cosines) ** 2

    return {"measured": jax.lax.map(sines, heads), "predicted": stream.predicted, "rival": stream.rival}


def _features(scenario: Scenario) -> tuple[Array, Array]:
    return scenario.query_features, scenario.key_features


def _roots(scenario: Scenario) -> tuple[Array, Array]:
    """Of the activation moments; a stream has laws."""
    return tuple(root for root in moment_roots(scenario) if root is not None)
