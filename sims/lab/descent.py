"""Descent: members of an ensemble, each taken to a minimum of a smooth deterministic loss by L-BFGS."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import Array

from sims.lab.ensemble import train

Weights = TypeVar("Weights")
Loss = Callable[..., Array]


def descend(
    loss: Loss,
    weights: Weights,
    keys: Array,
    steps: int,
    *given: Any,
    checkpoint: Path | None = None,
    label: str = "descending",
) -> tuple[Weights, dict[str, Any]]:
    """`steps` steps of L-BFGS on `loss(weights, *given)`, a scalar, of all members; weights after, and the history.

    Weights and what is given are pytrees with a leading axis of size M, `keys` has shape (M,). The history holds "loss"
    and the norm of its "gradient" (steps, M). Continues from `checkpoint` after a kill; raises FloatingPointError where
    the descent leaves the finite numbers (see `ensemble.train`). The program is kept for calls with the same `loss`.
    """
    members = weights, jax.jit(jax.vmap(_optimizer().init))(weights)
    members, history = train(_step(loss), members, keys, steps, *given, chunk=50, checkpoint=checkpoint, label=label)
    return members[0], history


@cache
def _optimizer() -> optax.GradientTransformationExtraArgs:
    return optax.lbfgs(memory_size=20)


@cache
def _step(loss: Loss) -> Callable:
    """The update of `ensemble.train`; the loss is deterministic, so the step's key is not used."""

    def update(member, key, *given):
        weights, state = member

        def here(weights):
            return loss(weights, *given)

        value, gradient = optax.value_and_grad_from_state(here)(weights, state=state)
        updates, state = _optimizer().update(gradient, state, weights, value=value, grad=gradient, value_fn=here)
        metrics = {"loss": value, "gradient": jnp.asarray(optax.tree.norm(gradient))}
        return (jax.tree.map(jnp.add, weights, updates), state), metrics

    return update
