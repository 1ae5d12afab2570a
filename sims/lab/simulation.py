"""Simulation: train a head on a scenario's fixed features and read off its spectrum."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from jax import Array

from sims.lab.descent import descend
from svtheory import Scenario, Spectrum, spectrum
from svtheory.checks import InputError, whole

Weights = dict[str, Array]


@dataclass(frozen=True)
class Training:
    """How a head is trained: L-BFGS on its factors W_Q, W_K from a small random start."""

    steps: int = 800
    """Steps of L-BFGS."""
    contexts: int = 16384
    """Sampled contexts, a query and its keys each, over which the softmax objective is averaged; the squared objective
    is a polynomial in the laws' moments and needs none."""
    start: float = 0.1
    """Standard deviation of the entries of W_Q and W_K at the start, times sqrt(D)."""

    def __post_init__(self):
        whole("steps", self.steps, 1)
        whole("contexts", self.contexts, 1)
        if not self.start > 0:
            raise InputError(f"start must be positive, got {self.start}")


def simulate(scenario: Scenario, key: Array, training: Training = Training()) -> Spectrum:
    """Train one head on `scenario` and return its spectrum, K = min(head_dim or D, D) pairs."""
    stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], scenario)
    return jax.tree.map(lambda leaf: leaf[0], simulate_ensemble(stacked, key[None], training))


def simulate_ensemble(
    scenarios: Scenario,
    keys: Array,
    training: Training = Training(),
    checkpoint: Path | None = None,
    label: str = "training heads",
) -> Spectrum:
    """Train one head on each of M stacked scenarios, one key each, shape (M,); returns M stacked spectra.

    Continues from `checkpoint` after a kill. Raises FloatingPointError where training leaves the finite numbers.
    """
    # one after the other: the compiler takes four times as long over batched random numbers
    contexts, weights = jax.jit(partial(jax.lax.map, lambda given: _prepare(training, *given)))((scenarios, keys))
    weights, _ = descend(
        head_loss, weights, keys, training.steps, scenarios, contexts, checkpoint=checkpoint, label=label
    )
    return jax.jit(partial(jax.lax.map, lambda W: spectrum(W["W_Q"], W["W_K"])))(weights)


def _prepare(training: Training, scenario: Scenario, key: Array) -> tuple[tuple[Array, Array, Array] | None, Weights]:
    """The contexts that a head is trained on, and its weights at the start."""
    return sample_contexts(training.contexts, scenario, key), _start(training, scenario, key)


def sample_contexts(n_contexts: int, scenario: Scenario, key: Array) -> tuple[Array, Array, Array] | None:
    """Queries r (n, D), keys s (n, m, D) and the logits asked for (n, m); None where the objective needs no samples."""
    if scenario.objective == "square":
        return None
    query_key, key_key = jax.random.split(jax.random.fold_in(key, 1))
    f = scenario.query_law.sample(query_key, (n_contexts,))
    g = scenario.key_law.sample(key_key, (n_contexts, scenario.n_keys))
    product = partial(jnp.einsum, precision="highest")
    asked = product("ni,ij,nmj->nm", f, scenario.target, g)
    return product("ni,di->nd", f, scenario.query_features), product("nmj,dj->nmd", g, scenario.key_features), asked


def head_loss(weights: Weights, scenario: Scenario, contexts: tuple[Array, Array, Array] | None) -> Array:
    """The scenario's objective at W_Q, W_K (H, D) and, with a query bias, b_Q (H,), a scalar; weight decay included.

    Under the squared objective a head may also be its product, Omega (D, D), which then bears the decay.
    """
    with jax.default_matmul_precision("highest"):
        loss = _square_loss(weights, scenario) if contexts is None else _softmax_loss(weights, contexts)
    size = sum((weights[name] ** 2).sum() for name in weights if name != "b_Q")
    return loss + scenario.weight_decay / 2 * size


def _square_loss(weights: Weights, scenario: Scenario) -> Array:
    """`(1/2) E (r^T Omega s - f^T T g)^2 = (1/2) tr(C_r E C_s E^T)` with `E = X^T Omega Y - T`."""
    X, Y = scenario.query_features, scenario.key_features
    given = X.T @ weights["Omega"] @ Y if "Omega" in weights else (weights["W_Q"] @ X).T @ (weights["W_K"] @ Y)
    weighted = E = given - scenario.target
    if scenario.query_law is not None:
        weighted = scenario.query_law.second_moment() @ weighted
    if scenario.key_law is not None:
        weighted = weighted @ scenario.key_law.second_moment()
    return (E * weighted).sum() / 2


def _softmax_loss(weights: Weights, contexts: tuple[Array, Array, Array]) -> Array:
    """Mean cross-entropy between the softmax over keys of the logits asked for and of the head's."""
    r, s, asked = contexts
    query = r @ weights["W_Q"].T
    if "b_Q" in weights:
        query = query + weights["b_Q"][None, :]
    logits = jnp.einsum("nd,nmd->nm", query @ weights["W_K"], s)
    return optax.softmax_cross_entropy(logits, jax.nn.softmax(asked)).mean()


def _start(training: Training, scenario: Scenario, key: Array) -> Weights:
    """A random head."""
    D, H, dtype = scenario.dim, scenario.head_dim or scenario.dim, scenario.query_features.dtype
    weights = small_factors(D, H, training.start, jax.random.fold_in(key, 0), dtype)
    if scenario.query_bias:
        weights["b_Q"] = jnp.zeros(H, dtype)
    return weights


def small_factors(dim: int, head_dim: int, start: float, key: Array, dtype: type | jnp.dtype = float) -> Weights:
    """Gaussian W_Q, W_K (H, D) whose entries have standard deviation `start / sqrt(D)`."""
    scale, shape = start / dim**0.5, (head_dim, dim)
    return {
        name: scale * jax.random.normal(key, shape, dtype)
        for name, key in zip(("W_Q", "W_K"), jax.random.split(key), strict=True)
    }
