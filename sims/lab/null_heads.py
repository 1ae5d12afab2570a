"""Null heads: heads that match nothing, or were planted to match, and the p-values that one of each is given."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sims.lab.worlds import HEADS, World, random_head, tokens
from svtheory import Head, alignment, alignment_p_value, decompose, explain, rotation_null, sparseness_test
from svtheory.geometry.columns import unit_columns
from svtheory.heads.random_heads import compare_with_random_heads
from svtheory.heads.read_together import read_together
from svtheory.instruments.directions import (
    READINGS,
    SIDES,
    Features,
    balanced_heads,
    gaussian_heads,
    matched_directions,
    of_head,
    token_moments,
)
from svtheory.instruments.directions import ROUND as SHARED

PLANTED = {"planted": 0.0, "planted, 10 % noise": 0.1, "planted, 50 % noise": 0.5}
CHOICES = ("attended key", "first key")
D, H, CONTEXT, FAMILY = 12, 8, 12, 8
VALUES = 1 / np.arange(1, H + 1)  # singular values of random heads: falling, as in trained ones


class Size(NamedTuple):
    """How much is drawn: contexts that queries and keys are read from, random members behind a p-value."""

    contexts: int
    draws: int


class Case(NamedTuple):
    """A kind of head on a kind of token: the world, the head's number among HEADS, and a template of the features."""

    world: World
    head: Array
    template: Array


def unrelated_head(
    case: Case, queries: tuple[Array, Array], keys: tuple[Array, Array], key: Array
) -> tuple[Array, Array]:
    """Factors of a random head, whatever the features."""
    return random_head(case.head, queries[0], keys[0], jnp.asarray(VALUES), key)


def planted_head(
    case: Case, queries: tuple[Array, Array], keys: tuple[Array, Array], key: Array
) -> tuple[Array, Array]:
    """Factors of a head early in its training for the template (T17), part of the square of each being noise."""
    (x, f), (y, g) = queries, keys
    early = f.T @ (x - x.mean(axis=0)[None, :]), case.template @ (g.T @ (y - y.mean(axis=0)[None, :]))
    share = jnp.array(list(PLANTED.values()))[case.head - len(HEADS)]
    noise = jax.random.normal(key, (2, H, D)) * jnp.sqrt(share / (1 - share) / (H * D))
    return tuple(W / jnp.linalg.norm(W) + other for W, other in zip(early, noise, strict=True))


def contexts_of(size: Size, case: Case, key: Array) -> tuple[tuple[Array, Array], Array]:
    """Tokens and their activations, and the tokens as contexts (contexts, CONTEXT, D)."""
    read = tokens(case.world, key, size.contexts * CONTEXT)
    return read, read[0].reshape(-1, CONTEXT, D)


def explained(size: Size, case: Case, key: Array, planted: bool = False) -> dict[str, Array]:
    """A head, explained by the template."""
    drawn = planted_head if planted else unrelated_head
    first, second, third, fourth = jax.random.split(key, 4)
    queries, keys = (tokens(case.world, k, size.contexts * CONTEXT) for k in (first, second))
    W_Q, W_K = drawn(case, queries, keys, third)
    found = explain(W_Q, W_K, *queries, *keys, case.template, fourth, draws=size.draws)
    return {"explain": found.p_value}


def sparse(size: Size, choice: str, case: Case, key: Array, planted: bool = False) -> dict[str, Array]:
    """The decisions of a head on contexts of 12 tokens: of the whole head, and the last of one context."""
    first, second, third = jax.random.split(key, 3)
    read, contexts = contexts_of(size, case, first)
    drawn = planted_head if planted else unrelated_head
    chosen = "attended" if choice == CHOICES[0] else jnp.zeros(contexts.shape[:2], int)
    found = sparseness_test(Head(*drawn(case, read, read, second)), contexts, contexts, third, size.draws, chosen)
    return {"sparseness_test, head": found.head_p_value, "sparseness_test, decision": found.p_value[0, -1]}


def family(size: Size, case: Case, key: Array) -> dict[str, Array]:
    """The least p-value of 8 heads that share their draws, adjusted by Benjamini and Hochberg: what a verdict needs."""
    first, second, third = jax.random.split(key, 3)
    read, contexts = contexts_of(size, case, first)
    heads = jax.lax.map(lambda key: Head(*unrelated_head(case, read, read, key)), jax.random.split(second, FAMILY))
    # the least p-value must be able to be found among 8
    p = compare_with_random_heads(read_together(heads, contexts, contexts), third, 2 * size.draws + 1).head_p_value[0]
    adjusted = FAMILY * jnp.sort(p) / jnp.arange(1, FAMILY + 1)
    return {"sparseness_test, least of 8 adjusted": adjusted.min()}


def aligned(size: Size, case: Case, key: Array) -> dict[str, Array]:
    """The best cosine of a head's vectors with the features, by side and reading: the larger p of all nulls."""
    first, second, third = jax.random.split(key, 3)
    read, _ = contexts_of(size, case, first)
    weights = unrelated_head(case, read, read, second)
    moments, unbiased = token_moments(read[0]), jnp.zeros(1, bool)
    units = unit_columns(case.world.features)[None]
    X = Features(units, jnp.ones_like(units[:, 0]), jnp.ones_like(units[:, 0]))
    found = of_head(Head(*weights), moments, X, float(jnp.finfo(X.units.dtype).eps))
    best = jnp.where(found["named"][None], found["best_cosine"], 0).max(axis=-1)

    def drawn(key):
        left, right = jax.random.split(key)
        directions = matched_directions(left, H, X, moments)  # sides without a bias and with one: query, key
        heads = (*(W[None] for W in weights), unbiased)
        balanced = balanced_heads(right, heads, ~unbiased, X, moments)[:, 0]
        gaussian = gaussian_heads(jax.random.fold_in(key, 2), H, X, moments)[:, 0]
        return jnp.stack([directions[..., 0], directions[..., 2], balanced, gaussian])

    null = jnp.concatenate(list(jax.lax.map(drawn, jax.random.split(third, -(-size.draws // SHARED)))), axis=1)
    random = (1 + (null >= best[None, None]).sum(axis=1).max(axis=0)) / (1 + null.shape[1])
    p = jnp.maximum(random, alignment_p_value(best, D, H * units.shape[2]))
    return {f"align, {side} {how}": p[i, j] for i, side in enumerate(SIDES) for j, how in enumerate(READINGS)}


def rotated(size: Size, case: Case, key: Array) -> dict[str, Array]:
    """Terms that are drawn as each diagnostic null says."""
    first, second, third, fourth = jax.random.split(key, 4)
    read, contexts = contexts_of(size, case, first)
    head = Head(*unrelated_head(case, read, read, second))
    d = decompose(head, contexts, contexts, None)
    Q, other = (jax.random.orthogonal(k, H) for k in jax.random.split(third))
    root = jnp.sqrt(d.spectrum.values)[None, None, :]
    a, b = d.query / root, d.keys / root
    queries, keys = jax.random.normal(third, (2, *contexts.shape))
    found = {
        "common": rotation_null(replace(d, query=d.query @ Q, keys=d.keys @ Q), fourth, size.draws, "common"),
        "independent": rotation_null(
            replace(d, query=(a @ Q) * root, keys=(b @ other) * root), fourth, size.draws, "independent"
        ),
        "gaussian": rotation_null(decompose(head, queries, keys, None), fourth, size.draws, "gaussian"),
    }
    heads = {f"rotation_null, {kind}, head": null.head_p_value for kind, null in found.items()}
    return heads | {f"rotation_null, {kind}, decision": null.p_value[0, -1] for kind, null in found.items()}


def cosine(size: Size, case: Case, key: Array) -> dict[str, Array]:
    """A random direction with one feature, and the best of H orthonormal ones with all features."""
    vectors = jax.random.orthogonal(key, D)[:, :H]
    table = alignment(vectors, case.world.features)
    return {
        "alignment_p_value, one cosine": alignment_p_value(table[0, 0], D),
        "alignment_p_value, best of all": alignment_p_value(table.max(), D, table.size),
    }
