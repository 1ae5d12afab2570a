"""Knobs: random scenarios in which one condition of the theory is turned from satisfied to far violated.

Each is a function of the knob's value and a key, and matches query feature 0 with key feature 0.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from svtheory import (
    BernoulliUniform,
    Gaussian,
    Scenario,
    conditioned_frame,
    matching,
    predict,
    single_pair,
    tight_frame,
)

D, N = 10, 20
DISTURBANCE = 0.1  # spectral norm of what is added to the target
KAPPA = 100.0  # condition number of the frames in which a feature is turned away from an eigenvector


def unit_frame(key: Array) -> Array:
    """Random unit features."""
    X = jax.random.normal(key, (D, N))
    return X / jnp.linalg.norm(X, axis=0, keepdims=True)


def matched(frame: Callable[[Array], Array], key: Array, strength: float | Array = 1.0, **options: Any) -> Scenario:
    """The scenario of two independent frames whose first features are matched."""
    X, Y = independent(frame, key)
    return Scenario(X, Y, single_pair(X.shape[1], Y.shape[1], 0, 0, strength), **options)


def independent(frame: Callable[[Array], Array], key: Array, number: int = 2) -> Array:
    """Independent frames, (number, D, N)."""
    return jax.lax.map(frame, jax.random.split(key, number))  # compiled once for all


def fading(n_features: int, correlation: Array | float) -> Gaussian:
    """Centred activations of unit variance whose correlation falls as `correlation^|i - j|`."""
    distance = jnp.abs(jnp.arange(n_features)[:, None] - jnp.arange(n_features)[None, :])
    return Gaussian(jnp.zeros(n_features), correlation**distance)


def rank_deficient(missing: Array, key: Array) -> Scenario:
    """Features in a random subspace of D - missing dimensions; a strong target outgrows the start outside it."""

    def frame(key):
        left, right = jax.random.split(key)
        X = jnp.where(jnp.arange(D)[:, None] < D - missing, jax.random.normal(right, (D, N)), 0)
        return jax.random.orthogonal(left, D) @ (X / jnp.linalg.norm(X, axis=0, keepdims=True))

    return matched(frame, key, strength=20.0)


def crowded(ratio: Array, key: Array) -> Scenario:
    """N = ratio D features of condition number 10; the columns up to 4 D are zero, so that all ratios share a shape."""
    return matched(lambda key: padded_frame(key, D, 4 * D, jnp.round(ratio * D), 10.0), key)


def padded_frame(key: Array, dim: int, columns: int, present: Array | float, condition: Array | float) -> Array:
    """Features of a condition number on the space that they span, the first `present` columns; the others are zero."""
    X = jnp.where(jnp.arange(columns)[None, :] < present, jax.random.normal(key, (dim, columns)), 0)
    U, _, Vt = jnp.linalg.svd(X, full_matrices=False)
    rank = jnp.minimum(present, dim)
    eigenvalues = condition ** (-jnp.arange(dim) / (rank - 1))
    scale = jnp.sqrt(jnp.where(jnp.arange(dim) < rank, eigenvalues, 0))
    return U @ (scale[:, None] * Vt)


def off_eigenvector(share: Array, key: Array) -> Scenario:
    """The matched feature turned from the eigenvector of the smallest eigenvalue to the angle that aligns worst."""
    eigenvalues = jnp.geomspace(1.0, KAPPA, D)
    angle = share * jnp.arctan(jnp.sqrt(KAPPA))

    def frame(key):
        left, right = jax.random.split(key)
        x = jnp.zeros(D).at[0].set(jnp.cos(angle)).at[-1].set(jnp.sin(angle))
        # unit x and eigenvalues of at least 1 leave a positive semi-definite remainder for the other features
        values, vectors = jnp.linalg.eigh(jnp.diag(eigenvalues) - jnp.outer(x, x))
        others = vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :] @ jax.random.orthogonal(left, N - 1)[:D]
        return jax.random.orthogonal(right, D) @ jnp.column_stack([x, others])

    return matched(frame, key)


def conditioned(frame: Callable, condition: Array, key: Array) -> Scenario:
    """Frames of the given condition number."""
    return matched(lambda key: frame(key, D, N, condition), key)


def correlated(frame: Callable, correlation: Array, key: Array) -> Scenario:
    """Activations of fading correlation."""
    law = fading(N, correlation)
    return matched(lambda key: frame(key, D, N), key, query_law=law, key_law=law)


def with_mean(mean: Array, key: Array) -> Scenario:
    """Tight frames; uncorrelated activations of unit variance and the given mean."""
    law = Gaussian(jnp.full(N, mean), jnp.eye(N))
    return matched(lambda key: tight_frame(key, D, N), key, query_law=law, key_law=law)


def overlapping(cosine: Array, key: Array) -> Scenario:
    """Two pairs whose query features have the given cosine, in dimensions of their own; so have the keys'."""

    def frame(key):
        X = jnp.eye(D, N).at[:, 1].set(0).at[0, 1].set(cosine).at[1, 1].set(jnp.sqrt(1 - cosine**2))
        return jax.random.orthogonal(key, D) @ X

    X, Y = independent(frame, key)
    return Scenario(X, Y, matching(N, N, (0, 1), (0, 1), jnp.array([1.0, 0.6])))


def near_gap(ratio: Array, key: Array) -> Scenario:
    """Two pairs of orthogonal features whose strengths differ by `ratio` times a fixed disturbance of the target."""
    X, Y, E = independent(lambda key: jax.random.orthogonal(key, D), key, 3)
    empty = jnp.zeros((D, N - D))
    target = jnp.zeros((N, N)).at[0, 0].set(1 + ratio * DISTURBANCE).at[1, 1].set(1.0).at[:D, :D].add(DISTURBANCE * E)
    return Scenario(jnp.column_stack([X, empty]), jnp.column_stack([Y, empty]), target)


def narrow(strength: Array, key: Array) -> Scenario:
    """A head of dimension 1 and two pairs in tight frames: the first of strength 1, the second of the given one."""
    X, Y = independent(lambda key: tight_frame(key, D, N), key)
    target = matching(N, N, (0, 1), (0, 1), jnp.stack([jnp.ones(()), strength]))
    return Scenario(X, Y, target, head_dim=1)


def decaying(share: Array, key: Array) -> Scenario:
    """Tight frames and two pairs; weight decay takes the given share of what would remove the first."""
    X, Y = independent(lambda key: tight_frame(key, D, N), key)
    bare = Scenario(X, Y, matching(N, N, (0, 1), (0, 1), jnp.array([1.0, 0.6])))
    return replace(bare, weight_decay=share * predict(bare).values[0] * (N / D) ** 2)


def aged(time: Array, key: Array) -> Scenario:
    """Frames of condition number 16; the time is not the scenario's, but the training's."""
    return matched(lambda key: conditioned_frame(key, D, N, 16.0), key)


def softmax(frame: Callable, probability: Array | float, strength: Array | float, bias: bool, key: Array) -> Scenario:
    """The paper's activations under softmax, one frame for queries and keys; features 0 and 1 are matched."""
    X = frame(key)
    law = BernoulliUniform(probability, N)
    target = single_pair(N, N, 0, 0, strength)
    return Scenario(X, jnp.roll(X, -1, axis=1), target, law, law, "softmax", query_bias=bias)
