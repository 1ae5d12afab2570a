"""`predict` under vmap: scenarios a second at D = 10, N = 20, for dense targets and for single pairs."""

import statistics

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.timing import interleaved
from svtheory import BernoulliUniform, Scenario, predict, single_pair

SCENARIOS, D, N = 4000, 10, 20


def measure() -> dict[str, float]:
    """Rates of squared-objective scenarios with laws."""
    T = jax.random.normal(jax.random.key(1), (SCENARIOS, N, N))
    pair = jnp.broadcast_to(single_pair(N, N, 0, 1), T.shape)
    return {"predict_scenarios_per_s": rate(T), "predict_single_pairs_per_s": rate(pair)}


def rate(targets: Array) -> float:
    """Scenarios a second."""
    X = jax.random.normal(jax.random.key(0), (SCENARIOS, D, N))
    law = BernoulliUniform(0.1, N)
    scenarios = jax.vmap(lambda X, T: Scenario(X, X, T, law, law))(X, targets)
    run = jax.jit(jax.vmap(predict))
    return SCENARIOS / statistics.median(interleaved({"predict": lambda: run(scenarios)})["predict"])
