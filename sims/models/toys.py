"""Ensembles of toys: features, autoencoder and head trained together, then read as a scenario."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sims.engines.ensemble import Observe, train
from sims.models.toy import Task, Toy, training
from svtheory import BernoulliUniform, Scenario
from svtheory.checks import InputError, whole


@dataclass(frozen=True)
class ToyConfig:
    """Size and training of the toys of an experiment."""

    members: int = 16
    """Members (seeds) of each setting."""
    n_features: int = 20
    """Features N."""
    dim: int = 10
    """Dimension D of a token."""
    head_dim: int = 10
    """Head dimension H."""
    n_keys: int = 8
    """Keys m of each context."""
    probability: float = 0.1
    """Probability that a feature is present."""
    coupling: float = 1.0
    """Weight lambda of the attention loss."""
    batch: int = 256
    """Contexts in a batch."""
    rate: float = 1e-3
    """Learning rate of AdamW, falling to 0 as a cosine."""
    steps: int = 10_000
    """Training steps."""
    seed: int = 0
    """Seed of all random numbers."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point numbers of the run."""

    def __post_init__(self):
        for name, least in (("members", 2), ("n-features", 2), ("dim", 2), ("head-dim", 2), ("n-keys", 2)):
            whole(f"--{name}", getattr(self, name.replace("-", "_")), least)
        for name in ("batch", "steps"):
            whole(f"--{name}", getattr(self, name), 1)
        if not 0 < self.probability <= 1:
            raise InputError(f"--probability must lie in (0, 1], got {self.probability}")
        if not 0 < self.rate < np.inf:
            raise InputError(f"--rate must be a finite number above 0, got {self.rate}")
        if not 0 <= self.coupling < np.inf:
            raise InputError(f"--coupling must be a finite number of at least 0, got {self.coupling}")


def stacked_tasks(
    config: ToyConfig, targets: Array, probability: Array | None = None, coupling: Array | None = None
) -> Task:
    """One task a member: templates (M, N, N), and where they differ probabilities and couplings, shape (M,)."""
    members = len(targets)
    p = jnp.full(members, config.probability) if probability is None else probability
    weight = jnp.full(members, config.coupling) if coupling is None else coupling
    laws = jax.vmap(lambda p: BernoulliUniform(p, config.n_features))(p)
    return Task(laws, targets, weight)


def trainer(config: ToyConfig) -> tuple[Callable, Callable]:
    """`(start, update)` of the toys of an experiment."""
    return training(
        lambda rngs: Toy(config.n_features, config.dim, config.head_dim, rngs=rngs),
        objective="softmax",
        n_keys=config.n_keys,
        batch=config.batch,
        rate=config.rate,
        steps=config.steps,
    )


def train_toys(
    config: ToyConfig, tasks: Task, checkpoint: Path, records: int = 200, observe: Observe | None = None
) -> tuple[dict[str, Array], dict[str, np.ndarray]]:
    """Parameters of all members after training, and the history of their losses and of what `observe` notes.

    `tasks` has a leading axis of size M. Members of one seed that differ in their task only start from the same
    numbers: member i has seed `i % config.members`. The history has about `records` records. Continues after a kill.
    """
    members, keys = started(config, tasks)
    every = -(-config.steps // records)
    members, history = train(
        trainer(config)[1],
        members,
        keys,
        config.steps,
        tasks,
        every=every,
        observe=observe,
        checkpoint=checkpoint,
        label=f"{len(keys)} toys",
    )
    return members["parameters"], history


def started(config: ToyConfig, tasks: Task) -> tuple[dict[str, Any], Array]:
    """The members before training, leaves with a leading axis of size M, and the keys of their training."""
    start, _ = trainer(config)
    seeds = jnp.arange(len(tasks.target)) % config.members
    first, keys = (keys[seeds] for keys in jax.random.split(jax.random.key(config.seed), (2, config.members)))
    return jax.jit(jax.vmap(start))(first), keys


def features_and_head(member: dict[str, Any]) -> dict[str, Array]:
    """What to observe of a toy along its training: features and head."""
    return {name: member["parameters"][name] for name in ("W", "W_Q", "W_K")}


def scenario(config: ToyConfig, W: Array, task: Task) -> Scenario:
    """What the head of a toy with features W (D, N) was asked for."""
    return Scenario(
        *(W, W, task.target, task.law, task.law), objective="softmax", head_dim=config.head_dim, n_keys=config.n_keys
    )
