"""Descent: members of an ensemble, each taken to a minimum of a smooth deterministic loss by L-BFGS, and left there.

At a minimum the last differences of weights and gradients are rounding noise, and so is the curvature `s . y` that
L-BFGS reads off them (1e-47 was seen); the direction it then proposes has any length, no step along it lowers the loss,
and a search that has failed steps all the same. So a step is taken only if it does no harm, a member whose memory led
it astray begins a new one, and a member that has arrived stays where it is.
"""

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from sims.engines.ensemble import train

Weights = TypeVar("Weights")
Loss = Callable[..., Array]

RISE = 1e-6
"""By which share of itself a step may raise the loss; the search for its length allows as much."""
STILL = 8
"""Machine epsilons of the loss that a relative change of the weights must be able to gain, for the descent to go on."""


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
    and the norm of its "gradient" (steps, M), before each step. No step raises the loss f by more than 1e-6 of it or
    leaves the finite numbers: instead the weights are kept and the memory of L-BFGS begins anew. A member that has
    lowered its loss and whose gradient g promises no more than rounding, `|g| |W| <= 8 eps |f|`, is at rest.

    Continues from `checkpoint` after a kill; raises FloatingPointError where the loss or its gradient is not finite at
    the start (see `ensemble.train`), and warns of members whose last loss is above their least. The program is kept for
    calls with the same `loss`.
    """
    highest = jnp.full(keys.shape, -jnp.inf, jax.tree.leaves(weights)[0].dtype)
    members = weights, jax.jit(jax.vmap(_optimizer().init))(weights), highest
    members, history = train(_step(loss), members, keys, steps, *given, chunk=50, checkpoint=checkpoint, label=label)
    _report_risen(history["loss"], label)
    return members[0], history


@cache
def _optimizer() -> optax.GradientTransformationExtraArgs:
    return optax.lbfgs(memory_size=20)


@cache
def _step(loss: Loss) -> Callable:
    """The update of `ensemble.train`; the loss is deterministic, so the step's key is not used."""

    def update(member, key, *given):
        weights, state, highest = member

        def here(weights):
            return loss(weights, *given)

        value, gradient = optax.value_and_grad_from_state(here)(weights, state=state)
        value, slope = jnp.asarray(value), jnp.asarray(optax.tree.norm(gradient))
        highest = jnp.maximum(highest, value)
        # a small gradient alone may be the saddle at W = 0, from which every head starts
        lowered = value < highest - RISE * jnp.abs(highest)
        rounding = STILL * jnp.finfo(value.dtype).eps * jnp.abs(value)
        still = jnp.asarray(lowered & (slope * optax.tree.norm(weights) <= rounding))
        # at rest there is no slope, and the search for a length ends at once
        followed = jax.tree.map(lambda g: jnp.where(still, 0, g), gradient)
        change, moved = _optimizer().update(followed, state, weights, value=value, grad=followed, value_fn=here)
        after: Any = optax.tree.get(moved, "value")
        there = jnp.asarray(optax.tree.norm(optax.tree.get(moved, "grad")))
        taken = (after <= value + RISE * jnp.abs(value)) & jnp.isfinite(there) & ~still
        stepped = jax.tree.map(jnp.add, weights, change)
        kept = _choose(still, state, _optimizer().init(weights))
        member = *_choose(taken, (stepped, moved), (weights, kept)), highest
        return member, {"loss": value, "gradient": slope}

    return update


def _choose(condition: Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _report_risen(losses: np.ndarray, label: str) -> None:
    """Warn of members that ended above a lower loss, from losses (steps, M)."""
    least, last = losses.min(axis=0), losses[-1]
    risen = np.flatnonzero(last > least + RISE * np.abs(least))
    if risen.size:
        worst = risen[np.argmax((last - least)[risen])]
        warnings.warn(
            f"{label}: the last loss of {risen.size} of {losses.shape[1]} members is above their least, most of all "
            f"that of member {worst} ({last[worst]:.6g}, after {least[worst]:.6g})",
            stacklevel=3,
        )
