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
from svtheory.prediction.whitened import whiten
from svtheory.pytrees import pytree
from svtheory.spectra import Root


@pytree("counts")
@dataclass(frozen=True)
class Stream:
    """Contexts of a scenario, how many of them a head has read each time it is trained, and what is foreseen then.

    moments    of the tokens, as the objective sees them, query and key side
    noise      standard deviation of the noise in the answers, squared objective; a scalar
    limit      Omega after endlessly many contexts, shape (D, D)
    predicted  mean sin^2 of its first vectors with the head's, query and key side, shape (counts, 2)
    rival      another prediction of the same, to be held beside it, shape (counts, 2)
    counts     growing
    """

    scenario: Scenario
    moments: tuple[Root, Root]
    noise: Array
    limit: Array
    predicted: Array
    rival: Array
    counts: tuple[int, ...]


def distances(streams: Stream, keys: Array, steps: int, checkpoint: Path, label: str) -> Array:
    """`sin^2` of M heads' first whitened vectors with the limit's, after each number of contexts: (M, counts, 2)."""
    return sines((streams.moments, streams.limit), trained(streams, keys, steps, checkpoint, label))


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


def moments(scenario: Scenario) -> tuple[Root, Root]:
    """The token moments A and B that the objective sees (T5, T6)."""
    tokens = whiten(scenario)
    return tokens.query.moment, tokens.key.moment


@jax.jit
def sines(streams: tuple[tuple[Root, Root], Array], heads: Array) -> Array:
    """`sin^2` between the first whitened vectors of M limits and of heads (M, counts, D, D), shape (M, counts, 2).

    streams: their moments and their limits
    """

    def reading(A, B, omega) -> BalancedSpectrum:
        return balanced_spectrum(jnp.eye(len(omega), dtype=omega.dtype), omega, A, B)

    def of_stream(given):
        ((A, B), limit), heads = given
        end = reading(A, B, limit)

        def sine(omega):
            # a probe is A^{+1/2} u~ and a pattern A^{1/2} u~
            seen = reading(A, B, omega)
            u, v = (x[:, 0] @ y[:, 0] for x, y in ((end.query_probes, seen.query_patterns),
                                                 (end.key_probes, seen.key_patterns)))  # fmt: skip
            return 1 - jnp.stack([u, v]) ** 2

        return jax.lax.map(sine, heads)

    return jax.lax.map(of_stream, (streams, heads))
