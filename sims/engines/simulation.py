"""Simulation: train a head on a scenario's fixed features and read off its spectrum."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from sims.engines.descent import descend
from sims.engines.devices import each, room, samples_at_once
from svtheory import Scenario, Spectrum, spectrum
from svtheory.checks import InputError, whole
from svtheory.numerics import inverse, numerical_rank_tolerance

Weights = dict[str, Array]
COPIES = 6  # of its sample that a head in training takes: raw, whitened, on the device, and what the loss makes of it


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
    whitened: bool = False
    """Whether a softmax head is trained in the whitened coordinates of its own sample. The optimum is the same without
    weight decay, which is refused; 40 steps bring it nearer for dense tokens and strong targets than 120 otherwise."""

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
    if training.whitened and bool(jnp.any(scenarios.weight_decay > 0)):
        raise InputError("whitened training must be without weight_decay, which is another in other coordinates")
    whitened = training.whitened and scenarios.objective == "softmax"
    parts = []
    for part, place in _parts(training, scenarios, checkpoint):
        some, their_keys = jax.tree.map(lambda x, part=part: x[part], (scenarios, keys))
        parts.append(_trained(training, some, their_keys, whitened, place, label))
    return each(_spectrum, *jax.tree.map(lambda *heads: jnp.concatenate(heads), *parts))


def _parts(training: Training, scenarios: Scenario, checkpoint: Path | None) -> list[tuple[slice, Path | None]]:
    """Heads whose samples fit into a device's memory together, and where each part is kept."""
    M, D = len(scenarios.query_features), scenarios.dim
    sample = training.contexts * (D + (D + 1) * scenarios.n_keys) * scenarios.query_features.dtype.itemsize
    fitting = M if scenarios.objective == "square" else max(1, int(min(M, room() / (COPIES * sample))))
    if fitting >= M:
        return [(slice(None), checkpoint)]
    size = -(-M // -(-M // fitting))  # parts of about one size, which are one program
    starts = range(0, M, size)
    return [(slice(first, first + size), checkpoint and checkpoint / f"heads-{first}") for first in starts]


def _trained(
    training: Training, scenarios: Scenario, keys: Array, whitened: bool, checkpoint: Path | None, label: str
) -> tuple[Weights, tuple[Array, Array] | None]:
    """Trained heads and, where they were trained in whitened coordinates, what took their tokens there."""
    if scenarios.objective == "square":
        data, weights = each(partial(_prepare, training), scenarios, keys)
    else:
        # one after the other: the compiler takes four times as long over batched random numbers
        prepared = partial(jax.lax.map, lambda given: _prepare(training, *given), batch_size=samples_at_once())
        data, weights = jax.jit(prepared)((scenarios, keys))
    whiteners = None
    if whitened:
        seen = partial(jax.lax.map, partial(_whitened, scenarios.query_bias), batch_size=samples_at_once())
        data, whiteners = jax.jit(seen)(data)
    given = data, scenarios.weight_decay
    return descend(head_loss, weights, keys, training.steps, *given, checkpoint=checkpoint, label=label)[0], whiteners


class Contexts(NamedTuple):
    """A softmax head's sample: queries r (n, D), keys s (n, m, D), and the logits asked for (n, m)."""

    queries: Array
    keys: Array
    asked: Array


class Population(NamedTuple):
    """A squared objective, `(1/2) E (r^T Omega s - f^T T g)^2 = (1/2) |A Omega B^T - C|_F^2` and what no head changes.

    A and B (at most D, D) are roots of the token moments, `A^T A = E r r^T`, and C is the target seen through them.
    """

    query: Array
    core: Array
    key: Array


def _prepare(training: Training, scenario: Scenario, key: Array) -> tuple[Contexts | Population, Weights]:
    """What a head is trained on, and its weights at the start."""
    square = scenario.objective == "square"
    data = population(scenario) if square else sample_contexts(training.contexts, scenario, key)
    return data, _start(training, scenario, key)


def sample_contexts(n_contexts: int, scenario: Scenario, key: Array) -> Contexts:
    """Independent contexts of a scenario with laws."""
    query_key, key_key = jax.random.split(jax.random.fold_in(key, 1))
    f = scenario.query_law.sample(query_key, (n_contexts,))
    g = scenario.key_law.sample(key_key, (n_contexts, scenario.n_keys))
    product = partial(jnp.einsum, precision="highest")
    asked = product("ni,ij,nmj->nm", f, scenario.target, g)
    return Contexts(
        product("ni,di->nd", f, scenario.query_features), product("nmj,dj->nmd", g, scenario.key_features), asked
    )


def _whitened(query_bias: bool, contexts: Contexts) -> tuple[Contexts, tuple[Array, Array]]:
    """A sample in which tokens have unit moment, and what took them there, (D, D) a side.

    Keys are centred, since no answer of softmax depends on what all keys share; queries where a bias makes up for it.
    """

    def side(tokens: Array, centred: bool) -> tuple[Array, Array]:
        flat = tokens.reshape(-1, tokens.shape[-1])
        flat = flat - centred * flat.mean(axis=0, keepdims=True)
        values, vectors = jnp.linalg.eigh(jnp.matmul(flat.T, flat, precision="highest") / len(flat))
        inside = values > numerical_rank_tolerance(values[::-1], len(values))
        inward = vectors * jnp.sqrt(inverse(values, inside))[None, :]
        return jnp.matmul(flat, inward, precision="highest").reshape(tokens.shape), inward

    (queries, query), (keys, key) = side(contexts.queries, query_bias), side(contexts.keys, True)
    return contexts._replace(queries=queries, keys=keys), (query, key)


def _spectrum(weights: Weights, whiteners: tuple[Array, Array] | None) -> Spectrum:
    """The spectrum of trained weights, taken back from whitened coordinates."""
    W = weights["W_Q"], weights["W_K"]
    if whiteners is not None:
        W = (jnp.matmul(x, inward.T, precision="highest") for x, inward in zip(W, whiteners, strict=True))
    return spectrum(*W)


def population(scenario: Scenario) -> Population:
    """The squared objective of a scenario, by the QR of features times a root of their second moment."""
    with jax.default_matmul_precision("highest"):
        X, Y, target = scenario.query_features.T, scenario.key_features.T, scenario.target
        if scenario.query_law is not None:
            root = scenario.query_law.second_moment_root().T
            X, target = root @ X, root @ target
        if scenario.key_law is not None:
            root = scenario.key_law.second_moment_root().T
            Y, target = root @ Y, target @ root.T
        Q, A = jnp.linalg.qr(X)
        P, B = jnp.linalg.qr(Y)
        return Population(A, Q.T @ target @ P, B)


def head_loss(weights: Weights, data: Contexts | Population, weight_decay: Array | float = 0.0) -> Array:
    """The objective at W_Q, W_K (H, D) and, with a query bias, b_Q (H,), a scalar; weight decay included.

    Under the squared objective a head may also be its product, Omega (D, D), which then bears the decay.
    """
    with jax.default_matmul_precision("highest"):
        loss = _square_loss(weights, data) if isinstance(data, Population) else _softmax_loss(weights, data)
    size = sum((weights[name] ** 2).sum() for name in weights if name != "b_Q")
    return loss + weight_decay / 2 * size


def _square_loss(weights: Weights, data: Population) -> Array:
    A, core, B = data
    seen = A @ weights["Omega"] @ B.T if "Omega" in weights else (weights["W_Q"] @ A.T).T @ (weights["W_K"] @ B.T)
    return ((seen - core) ** 2).sum() / 2


def _softmax_loss(weights: Weights, contexts: Contexts) -> Array:
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
