"""A toy whose head is tied to its features: `Omega = w_0 w_1^T` throughout, features of unit length, Adam."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from sims.engines.ensemble import train
from sims.models.toy import Toy, activations, losses
from svtheory import BernoulliUniform, single_pair
from svtheory.geometry.columns import unit_columns

N_KEYS, RATE = 4, 1e-2


def train_tied(
    n_features: int,
    dim: int,
    coupling: np.ndarray,
    probability: np.ndarray,
    key: Array,
    batch: int,
    steps: int,
    checkpoint: Path,
) -> Array:
    """Unit features (M, D, N) of toys with couplings `g = lambda E[f^2] / 2` and probabilities of a feature, (M,)."""
    moment = np.array([float(BernoulliUniform(p, 1).second_moment()[0, 0]) for p in probability])
    first, keys = jax.random.split(key, (2, len(moment)))
    start, update = start_and_update(n_features, dim, batch, steps)
    given = jnp.asarray(probability), jnp.asarray(2 * coupling / moment)
    label = f"{len(moment)} ReLU models"
    members = jax.jit(jax.vmap(start))(first)
    members, _ = train(update, members, keys, steps, *given, every=steps, checkpoint=checkpoint, label=label)
    return jax.jit(jax.vmap(unit_columns))(members[0]["W"])


@cache
def start_and_update(n_features: int, dim: int, batch: int, steps: int) -> tuple[Callable, Callable]:
    """`(start, update)` for `ensemble.train`: Adam on W and b, the rate falling to 0 as a cosine, squared objective.

    `start(key)` makes a member, its parameters and the state of its optimizer; `update(member, key, probability,
    weight)` is one step on a fresh batch, lambda being `weight` and the logit asked for 1.
    """
    graph = nnx.graphdef(jax.eval_shape(lambda: Toy(n_features, dim, 1, rngs=nnx.Rngs(0))))
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    def start(key):
        parameters = {"W": jax.random.normal(key, (dim, n_features)), "b": jnp.zeros(n_features)}
        return parameters, optimizer.init(parameters)

    def loss(parameters, f, weight):
        W = unit_columns(parameters["W"])
        toy = nnx.merge(graph, {"W": W, "b": parameters["b"], "W_Q": W[:, 0][None], "W_K": W[:, 1][None]})
        reconstruction, attention = losses(toy, f, single_pair(n_features, n_features, 0, 1), "square")
        return reconstruction + weight * attention

    def update(member, key, probability, weight):
        parameters, state = member
        f = activations(BernoulliUniform(probability, n_features), key, N_KEYS, batch)
        value, gradient = jax.value_and_grad(loss)(parameters, f, weight)
        change, state = optimizer.update(gradient, state)
        return (optax.apply_updates(parameters, change), state), {"loss": value}

    return start, update
