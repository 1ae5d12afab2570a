"""Ensembles of toys: features, autoencoder and head trained together, then read as a scenario."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sims.engines.ensemble import Observe, train
from sims.models.toy import Problem, Toy, start_and_update
from svtheory import Agreement, BernoulliUniform, Scenario, Spectrum, compare, predict, predict_finite, spectrum
from svtheory.prediction import finite_error
from svtheory.reports.options import PROBABILITY, Options, above, at_least

CONTEXTS = 20_000  # sampled contexts behind a size that is predicted at finite logits


@dataclass(frozen=True)
class ToyConfig(Options):
    """Size and training of the toys of an experiment."""

    ARRAYS = (
        "members n_features n_features",
        "members dim n_features",
        "members head_dim dim",
        "batch n_keys n_features",
        "batch n_keys dim",
    )

    members: Annotated[int, at_least(2)] = 16
    """Members (seeds) of each setting."""
    n_features: Annotated[int, at_least(2)] = 20
    """Features N."""
    dim: Annotated[int, at_least(2)] = 10
    """Dimension D of a token."""
    head_dim: Annotated[int, at_least(2)] = 10
    """Head dimension H."""
    n_keys: Annotated[int, at_least(2)] = 8
    """Keys m of each context."""
    probability: Annotated[float, PROBABILITY] = 0.1
    """Probability that a feature is present."""
    coupling: Annotated[float, at_least(0)] = 1.0
    """Weight lambda of the attention loss."""
    batch: Annotated[int, at_least(1)] = 256
    """Contexts in a batch."""
    rate: Annotated[float, above(0)] = 1e-3
    """Learning rate of AdamW, falling to 0 as a cosine."""
    steps: Annotated[int, at_least(1)] = 10_000
    """Training steps."""
    seed: int = 0
    """Seed of all random numbers."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point numbers of the run."""


def problems(
    config: ToyConfig, target: Array, probability: Array | None = None, coupling: Array | None = None
) -> Problem:
    """One problem a member, of one template (N, N) or one each, (M, N, N).

    Probabilities and couplings, shape (M,), are given where they differ from those of the `config`, which else has
    M members.
    """
    p = jnp.full(config.members, config.probability) if probability is None else probability
    weight = jnp.full(len(p), config.coupling) if coupling is None else coupling
    laws = jax.vmap(lambda p: BernoulliUniform(p, config.n_features))(p)
    return Problem(laws, jnp.broadcast_to(target, (len(p), *target.shape[-2:])), weight)


def trainer(config: ToyConfig) -> tuple[Callable, Callable]:
    """`(start, update)` of the toys of an experiment."""
    return start_and_update(
        lambda rngs: Toy(config.n_features, config.dim, config.head_dim, rngs=rngs),
        objective="softmax",
        n_keys=config.n_keys,
        batch=config.batch,
        rate=config.rate,
        steps=config.steps,
    )


def train_toys(
    config: ToyConfig, problems: Problem, checkpoint: Path, records: int = 200, observe: Observe | None = None
) -> tuple[dict[str, Array], dict[str, np.ndarray]]:
    """Parameters of all members after training, and the history of their losses and of what `observe` notes.

    `problems` has a leading axis of size M. Members of one seed that differ in their problem only start from the same
    numbers: member i has seed `i % config.members`. The history has about `records` records. Continues after a kill.
    """
    members, keys = started(config, len(problems.target))
    members, history = train(
        trainer(config)[1],
        members,
        keys,
        config.steps,
        problems,
        every=-(-config.steps // records),
        observe=observe,
        checkpoint=checkpoint,
        label=f"{len(keys)} toys",
    )
    return members["parameters"], history


def started(config: ToyConfig, members: int) -> tuple[dict[str, Any], Array]:
    """Members before training, leaves with a leading axis, and the keys of their training."""
    start, _ = trainer(config)
    seeds = jnp.arange(members) % config.members
    first, keys = (keys[seeds] for keys in jax.random.split(jax.random.key(config.seed), (2, config.members)))
    return jax.jit(jax.vmap(start))(first), keys


def reading_keys(config: ToyConfig, members: int) -> Array:
    """Keys of what is sampled when trained members are read."""
    return jax.random.split(jax.random.fold_in(jax.random.key(config.seed), config.steps), members)


def features_and_head(member: dict[str, Any]) -> dict[str, Array]:
    """What to observe of a toy along its training: features and head."""
    return {name: member["parameters"][name] for name in ("W", "W_Q", "W_K")}


class Comparison(NamedTuple):
    """A trained head beside the best one on its features: what it was asked for, its prediction, itself."""

    scenario: Scenario
    predicted: Spectrum
    trained: Spectrum
    agreement: Agreement

    def cosines(self, vectors: int | slice, query: int | slice, key: int | slice) -> dict[str, Array]:
        """|cos| of some singular vectors with some features, of the trained head and, expected, of the best one."""
        a, left, right = self.agreement, (vectors, query), (vectors, key)
        return {
            "cosine_query": a.measured_left[left],
            "cosine_key": a.measured_right[right],
            "expected_cosine_query": a.predicted_left[left],
            "expected_cosine_key": a.predicted_right[right],
        }

    def finite_sizes(self, pairs: int, key: Array) -> tuple[Array, Array]:
        """Singular values at the logits asked for, of a template of so many pairs, and their standard errors."""
        given = self.scenario, key, CONTEXTS, pairs
        return predict_finite(*given).values, finite_error(*given)[1]


def compared(config: ToyConfig, parameters: dict[str, Array], problem: Problem) -> Comparison:
    """The head of a trained toy, compared with the best one on the toy's features."""
    W = parameters["W"]
    scenario = Scenario(
        *(W, W, problem.target, problem.law, problem.law),
        objective="softmax",
        head_dim=config.head_dim,
        n_keys=config.n_keys,
    )
    predicted, trained = predict(scenario), spectrum(parameters["W_Q"], parameters["W_K"])
    return Comparison(scenario, predicted, trained, compare(predicted, trained, (W, W)))
