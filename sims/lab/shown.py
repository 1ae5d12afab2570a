"""Shown: which features a head's modes show in each reading, and random heads of the same spectra on its tokens."""

import jax
import jax.numpy as jnp
from jax import Array

from svtheory import Scenario, Spectrum, alignment
from svtheory.geometry.columns import lengths
from svtheory.instruments.directions import random_factor
from svtheory.prediction.whitened import Whitened
from svtheory.spectra import Root, readings


def factors_of(s: Spectrum, rows: int) -> tuple[Array, Array]:
    """W_Q and W_K of a head of this spectrum, with rows of zeros below."""
    W_Q, W_K = (s.left * s.values[None, :]).T, s.right.T
    below = jnp.zeros((rows - len(W_Q), W_Q.shape[1]))
    return jnp.concatenate([W_Q, below]), jnp.concatenate([W_K, below])


def shown(scenario: Scenario, tokens: Whitened, pairs: int, W_Q: Array, W_K: Array) -> tuple[Array, Array]:
    """|cos| of the first features, matched, with the patterns of their modes, (reading, side, pair), NaN if dropped.

    And of the whitened features with the balanced modes `u~`, which no change of basis changes, shape ().
    """
    room = min(pairs, scenario.rank)
    found = readings(W_Q, W_K, tokens.query.moment, tokens.key.moment)
    X, Y = scenario.query_features[:, :pairs], scenario.key_features[:, :pairs]
    table = []
    for reading in found.values():
        cosines = alignment(reading.query_patterns[:, :room], X), alignment(reading.key_patterns[:, :room], Y)
        at = (cosines[0] * cosines[1]).argmax(axis=0), jnp.arange(pairs)
        table.append(jnp.stack([c[at] for c in cosines]))
    # of the balanced reading, the last: u~ . A^{+1/2} x = probe . x
    sides = (reading.query_probes, X, tokens.query), (reading.key_probes, Y, tokens.key)
    whitened = [
        jnp.abs((probes[:, at[0]] * features).sum(axis=0)) / lengths(side.inverse.T @ features)
        for probes, features, side in sides
    ]
    kept = (jnp.arange(pairs) < scenario.rank)[None, None, :]
    return jnp.where(kept, jnp.stack(table), jnp.nan), jnp.stack(whitened)[:, :room].mean()


def random_heads(tokens: Whitened, W_Q: Array, W_K: Array, key: Array, draws: int) -> tuple[Array, Array]:
    """Factors (2 draws, H, D) of random heads: first of the same raw, then of the same balanced spectrum."""
    sides = tokens.query.moment, tokens.key.moment
    found = readings(W_Q, W_K, *sides)
    values = jnp.stack([found["raw"].values, found["balanced"].values])

    def draw(given):
        kind, key = given
        raw = [Root(side.axes, jnp.where(kind == 0, jnp.sign(side.lengths), side.lengths)) for side in sides]
        keys = jax.random.split(key)
        return tuple(random_factor(k, values[kind], side) for k, side in zip(keys, raw, strict=True))

    return jax.lax.map(draw, (jnp.repeat(jnp.arange(2), draws), jax.random.split(key, 2 * draws)))
