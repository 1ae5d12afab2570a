"""A toy whose head is tied to its features: `Omega = w_0 w_1^T` throughout, features of unit length, Adam.

Tokens without a feature are left out of the batches, and the loss of the head is exact, not sampled: at small
probabilities of a feature most tokens are empty, and most pairs of tokens say nothing of the head.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from sims.engines.ensemble import train
from sims.models.toy import between
from svtheory import BernoulliUniform
from svtheory.geometry.columns import unit_columns
from svtheory.threefry import uniform

RATE = 1e-2


class Losses(NamedTuple):
    """What features W (D, N) and biases b (N,) cost: `E |f - relu(W^T W f + b)|^2` and `(1/2) E (l - f_0 f'_1)^2`."""

    reconstruction: Array
    attention: Array


def train_tied(
    start: Array, coupling: Array, probability: Array, key: Array, batch: int, steps: int, checkpoint: Path
) -> tuple[Array, Array]:
    """Unit features (M, D, N) and biases (M, N) of toys trained from `start` (M, D, N) without biases.

    The weight of the head's loss is `2 g / E[f^2]`, couplings g and probabilities of a feature of shape (M,).
    """
    M, _, N = start.shape
    optimizer, update = optimizer_and_update(batch, steps)
    parameters = {"W": start, "b": jnp.zeros((M, N), start.dtype)}
    members = parameters, jax.jit(jax.vmap(optimizer.init))(parameters)
    keys, given = jax.random.split(key, M), (probability, coupling)
    label = f"{M} ReLU models"
    members, _ = train(update, members, keys, steps, *given, every=steps, checkpoint=checkpoint, label=label)
    return jax.jit(jax.vmap(unit_columns))(members[0]["W"]), members[0]["b"]


@cache
def optimizer_and_update(batch: int, steps: int) -> tuple[optax.GradientTransformation, Callable]:
    """Adam, its rate falling to 0 as a cosine, and `update(member, key, probability, coupling)` for `ensemble.train`.

    A member is its parameters and the state of the optimizer; a step draws a fresh batch.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    def loss(parameters, key, probability, coupling):
        found = losses(parameters["W"], parameters["b"], key, probability, batch)
        law = BernoulliUniform(probability, 1)
        return found.reconstruction + 2 * coupling / law.second_moment()[0, 0] * found.attention

    def update(member, key, probability, coupling):
        parameters, state = member
        value, gradient = jax.value_and_grad(loss)(parameters, key, probability, coupling)
        change, state = optimizer.update(gradient, state)
        return (optax.apply_updates(parameters, change), state), {"loss": value}

    return optimizer, update


def losses(W: Array, b: Array, key: Array, probability: Array | float, batch: int) -> Losses:
    """Losses of features W (D, N), brought to unit length, over `batch` tokens that have a feature, and those without.

    The head's is exact: with `C = E f f^T` the query's and the key's share of the logit have the moments
    `w_i^T W C W^T w_i`, and `(W C)_i . w_i` with their features.
    """
    W = unit_columns(W)
    N = W.shape[1]
    law = BernoulliUniform(probability, N)
    f, empty = present(key, probability, N, batch)
    missed = f - jax.nn.relu(between(W, W, f) + b[:, None])
    reconstruction = (1 - empty) * (missed**2).sum(axis=0).mean() + empty * (jax.nn.relu(b) ** 2).sum()
    C, pair = law.second_moment(), W.T @ W[:, :2]
    moments, along = (pair * (C @ pair)).sum(axis=0), (C[:, :2] * pair).sum(axis=0)
    return Losses(reconstruction, (moments.prod() - 2 * along.prod() + C[0, 0] ** 2) / 2)


def lines(keys: Array, batch: int, W: Array, b: Array, probability: Array) -> tuple[Array, Array]:
    """What a toy costs over `E[f^2]` at any coupling g, `R + g L`: R on the tokens of each key, shape (keys,), and L.

    As p falls to 0 they tend to `E_R` and `s_0 s_1 - 1` (T19).
    """
    found = jax.lax.map(lambda key: losses(W, b, key, probability, batch), keys)
    moment = BernoulliUniform(probability, 1).second_moment()[0, 0]
    return found.reconstruction / moment, 2 * found.attention[0] / moment**2


def present(key: Array, probability: Array | float, size: int, batch: int) -> tuple[Array, Array | float]:
    """Activations (size, batch) of tokens that have at least one feature, and the share of tokens that have none.

    Which is the first feature follows a truncated geometric law; those after it are as always, those before it absent.
    """
    u = uniform(key, (size + 1, batch), jnp.result_type(probability))
    empty = (1 - probability) ** size
    first = jnp.floor(jnp.log1p(-u[0] * (1 - empty)) / jnp.log1p(-probability)).astype(int)
    index = jnp.arange(size)[:, None]
    later = jnp.where(u[1:] < probability, u[1:] / probability, 0)
    return jnp.where(
        index < first[None], 0, jnp.where(index == jnp.minimum(first, size - 1)[None], u[1:], later)
    ), empty
