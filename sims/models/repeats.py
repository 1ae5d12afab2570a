"""Repeats: a two-layer attention-only model that learns to continue repeated sequences, and snapshots of its heads.

A sequence of random tokens starts again after a random period; from there on each token can be told from what followed
its last occurrence, which takes two heads, one after the other (induction). Rotary positions, an RMSNorm without gain.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from sims.engines.ensemble import train
from svtheory import Head, HeadBundle

VOCABULARY, POSITIONS, SHORTEST = 32, 32, 6
D, HEADS, H, LAYERS = 64, 4, 16, 2
BATCH, RATE, EVERY = 32, 3e-3, 25
FREQUENCIES = 10_000.0 ** (-np.arange(0, H, 2) / H)

product = partial(jnp.einsum, precision="highest")
optimizer = optax.adam(RATE)


def snapshot_series(key: Array, steps: int, snapshots: int, sequences: int, folder: Path) -> dict[str, HeadBundle]:
    """The model's heads before training and at some `snapshots` steps up to `steps`, at growing distances, by step.

    Each says in `attn_in` what it reads of the same `sequences`, and in its metadata the loss on them, in nats.
    """
    first, training, held_out = jax.random.split(key, 3)
    parameters = start(first)
    member = jax.tree.map(lambda x: x[None], (parameters, optimizer.init(parameters)))
    times = np.unique(np.geomspace(EVERY, steps, snapshots).round() // EVERY * EVERY).astype(int)
    given = jax.vmap(sequence)(jax.random.split(held_out, sequences))
    series, done = {"0": bundle(parameters, given)}, 0
    for i, time in enumerate(times):
        keys = jax.random.fold_in(training, i)[None]
        place = folder / str(time)
        member, _ = train(update, member, keys, int(time - done), every=EVERY, chunk=EVERY, checkpoint=place)
        done, parameters = time, jax.tree.map(lambda x: x[0], member[0])
        series[str(time)] = bundle(parameters, given)
    return series


def start(key: Array) -> dict[str, Any]:
    """Random parameters: embedding (V, D), unembedding (V, D), and of each layer W_Q, W_K, W_V, W_O (heads, H, D)."""

    def normal(key, *shape):
        return jax.random.normal(key, shape, jnp.float32) / D**0.5

    keys = jax.random.split(key, 2 + LAYERS)
    names = ("W_Q", "W_K", "W_V", "W_O")
    layers = [
        {name: normal(k, HEADS, H, D) for name, k in zip(names, jax.random.split(key, 4), strict=True)}
        for key in keys[2:]
    ]
    return {"W_E": D**0.5 * normal(keys[0], VOCABULARY, D), "W_U": normal(keys[1], VOCABULARY, D), "layers": layers}


def sequence(key: Array) -> tuple[Array, Array]:
    """Tokens (POSITIONS,) that start again after a period, and that period."""
    first, second = jax.random.split(key)
    tokens = jax.random.randint(first, (POSITIONS,), 0, VOCABULARY)
    period = jax.random.randint(second, (), SHORTEST, POSITIONS // 2 + 1)
    return tokens[jnp.arange(POSITIONS) % period], period


def logits(parameters: dict[str, Any], tokens: Array) -> tuple[Array, Array]:
    """Of the next token, (POSITIONS, V), and what heads read, (LAYERS, POSITIONS, D)."""
    x, reads, at = parameters["W_E"][tokens], [], jnp.arange(POSITIONS)
    causal = (at[:, None] >= at[None, :])[None]
    for w in parameters["layers"]:
        r = normalised(x)
        heads = jax.vmap(lambda W_Q, W_K: Head(W_Q, W_K, frequencies=jnp.asarray(FREQUENCIES)))(w["W_Q"], w["W_K"])
        q, k = (jax.vmap(lambda head, f=f, r=r: f(head, r, at))(heads) for f in (Head.queries, Head.keys))
        scores = product("nqh,nkh->nqk", q, k) / H**0.5
        attention = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
        x += product("nqk,kd,nhd,nhe->qe", attention, r, w["W_V"], w["W_O"])
        reads.append(r)
    return product("td,vd->tv", normalised(x), parameters["W_U"]), jnp.stack(reads)


def normalised(x: Array) -> Array:
    """`x/rms(x)`."""
    return x * jax.lax.rsqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)


def loss(parameters: dict[str, Any], tokens: Array, periods: Array) -> Array:
    """Mean cross-entropy, in nats, over the tokens that the sequences so far determine."""
    found = jax.vmap(lambda one: logits(parameters, one)[0])(tokens)
    each = optax.softmax_cross_entropy_with_integer_labels(found[:, :-1], tokens[:, 1:])
    told = jnp.arange(1, POSITIONS)[None, :] > periods[:, None]
    return (each * told).sum() / told.sum()


def update(member: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], dict[str, Array]]:
    """One step of Adam on a fresh batch."""
    parameters, state = member
    tokens, periods = jax.vmap(sequence)(jax.random.split(key, BATCH))
    value, gradient = jax.value_and_grad(loss)(parameters, tokens, periods)
    change, state = optimizer.update(gradient, state)
    return (optax.apply_updates(parameters, change), state), {"loss": value}


def bundle(parameters: dict[str, Any], given: tuple[Array, Array]) -> HeadBundle:
    """The heads, and what they read of the given sequences."""
    tokens, _ = given
    reads = jax.vmap(lambda one: logits(parameters, one)[1], out_axes=1)(tokens)
    W_Q, W_K = (np.stack([np.asarray(w[name]) for w in parameters["layers"]]) for name in ("W_Q", "W_K"))
    metadata = {"positional": "rope", "rope_pairing": "half-split", "folded": "True"}
    metadata |= {"loss": f"{float(loss(parameters, *given)):.4g}"}
    others = {"rope_frequencies": FREQUENCIES.astype(np.float32)}
    return HeadBundle(W_Q, W_K, attn_in=np.asarray(reads), others=others, metadata=metadata)
