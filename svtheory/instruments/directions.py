"""Directions: a head's singular vectors beside features, raw and unwhitened (T15), and what chance gives them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.factorisations import symmetric_root
from svtheory.geometry.arrangements import haar_frame
from svtheory.heads.weights import Head
from svtheory.numerics import exact_products, inverse
from svtheory.spectra.alignments import alignment
from svtheory.spectra.balanced import Root, balanced, moment_root
from svtheory.spectra.perturbation import nameable
from svtheory.spectra.spectra import Spectrum, spectrum
from svtheory.spectra.unwhitening import remove_direction, unwhiten

SIDES = ("query", "key")
READINGS = ("raw", "unwhitened")
ROUND = 50  # random heads drawn at once


@jax.jit
def moments_of_layers(tokens: Array) -> tuple[Array, Array]:
    """`token_moments` of each layer's tokens (layers, n, D)."""
    return jax.lax.map(token_moments, tokens)


def token_moments(tokens: Array) -> tuple[Array, Array]:
    """Covariance (D, D) and mean (D,) of tokens (n, D)."""
    mean = tokens.mean(axis=0)
    centred = tokens - mean[None, :]
    return jnp.matmul(centred.T, centred, precision="highest") / len(tokens), mean


def of_head(head: Head, moments: Any, features: Array, epsilon: float) -> dict[str, Array]:
    """Of one head: its values, which vectors can be named, and the best feature of each by side and reading.

    `epsilon` is that of the precision in which the weights were stored.
    """
    s = spectrum(head.W_Q, head.W_K)
    error = len(features) * epsilon * s.values[0]
    biased = jnp.asarray(False) if head.b_Q is None else (head.b_Q != 0).any()
    return {"singular_value": s.values, "named": nameable(s, error), **of_vectors(s, biased, features, moments)}


def of_vectors(s: Spectrum, biased: Array, features: Array, moments: Any) -> dict[str, Array]:
    """The best feature of each singular vector by side and reading, (side, reading, K)."""
    vectors = {"query": s.left, "key": s.right}

    def read(side, reading):
        table, removed = aligned(reading, vectors[side], features, moments, biased | (side == "key"))
        return {"best_cosine": table.max(axis=1), "best_feature": table.argmax(axis=1), "mean_removed": removed}

    return by(read, SIDES, moments)


def readings(moments: Any) -> tuple[str, ...]:
    """Vectors are unwhitened where the tokens are known."""
    return READINGS[:1] if moments is None else READINGS


def by(read: Callable[[Any, str], Any], kinds: tuple[Any, ...], moments: Any) -> Any:
    """What `read(kind, reading)` gives, stacked to (kind, reading, ...)."""
    stack = partial(jax.tree.map, lambda *x: jnp.stack(x))
    return stack(*(stack(*(read(kind, reading) for reading in readings(moments))) for kind in kinds))


def aligned(reading: str, vectors: Array, features: Array, moments: Any, centred: Any) -> tuple[Array, Array]:
    """|cos| of vectors (D, K) with features, (K, N), -1 for dead ones; the share of each that was the mean token, (K,).

    Unwhitened vectors that are not centred, and the features beside them, lose the mean token.
    """
    removed = jnp.zeros(vectors.shape[1], vectors.dtype)
    alive = (features != 0).any(axis=0)
    if reading == "unwhitened":
        covariance, mean = moments
        mean = jnp.where(centred, 0, mean)
        vectors, removed = unwhiten(vectors, covariance, mean)
        features = remove_direction(features, mean)
    return jnp.where(alive[None, :], alignment(vectors, features), -1), removed


@partial(jax.jit, static_argnums=1)
def matched_directions(key: Array, pairs: int, features: Array, moments: Any) -> Array:
    """What `pairs` random directions give, ROUND times, shape (ROUND, centred or not, reading, 3).

    Largest and mean best |cos| of ones drawn with the token covariance K, or unwhitened, K times isotropic ones; and
    the largest of isotropic ones, in either reading.
    """
    root = symmetric_root(moments[0])

    def draw(key):
        g = jax.random.normal(key, (len(features), pairs), features.dtype)
        vectors = {"raw": jnp.matmul(root, g, precision="highest"), "unwhitened": g}

        def read(centred, reading):
            best, isotropic = (
                aligned(reading, directions, features, moments, centred)[0].max(axis=1)
                for directions in (vectors[reading], g)
            )
            return jnp.stack([best.max(), best.mean(), isotropic.max()])

        return by(read, (False, True), moments)

    return jax.lax.map(draw, jax.random.split(key, ROUND))


@jax.jit
@exact_products
def balanced_heads(key: Array, heads: Any, wanted: Array, features: Array, moments: Any) -> Array:
    """Largest best |cos| of random heads that keep a head's balanced spectrum (T22), (ROUND, head, side, reading).

    `A^{+1/2} P Sigma~ P'^T B^{+1/2}`, Sigma~ the singular values of the head as its data see it and P, P' Haar frames:
    where some directions of tokens hardly vary, singular vectors of such heads lie along those, whatever they match.
    heads holds W_Q and W_K (heads, H, D) and whether each has a query bias; those not wanted cost nothing, and give 0.
    """
    covariance, mean = moments
    second_moment = covariance + mean[:, None] * mean[None, :]
    uncentred, centred = (moment_root("moments", A, heads[0][0]) for A in (second_moment, covariance))

    def of_head(given):
        (W_Q, W_K, biased), wanted, key = given
        sides = jax.tree.map(lambda a, b: jnp.where(biased, a, b), centred, uncentred), centred
        values = balanced(W_Q, W_K, *sides).values

        def draw(key):
            factors = [random_factor(k, values, side) for k, side in zip(jax.random.split(key), sides, strict=True)]
            best = of_vectors(spectrum(*factors), biased, features, moments)
            return best["best_cosine"].max(axis=-1)

        none = jnp.zeros((ROUND, len(SIDES), len(READINGS)), features.dtype)
        return jax.lax.cond(wanted, lambda: jax.lax.map(draw, jax.random.split(key, ROUND)), lambda: none)

    drawn = jax.lax.map(of_head, (heads, wanted, jax.random.split(key, len(wanted))))
    return jnp.moveaxis(drawn, 0, 1)


@exact_products
def random_factor(key: Array, values: Array, side: Root) -> Array:
    """A factor (H, D) of a random head of H balanced values: `(A^{+1/2} P Sigma~^{1/2})^T`, P a Haar frame (T22)."""
    P = haar_frame(key, side.lengths > 0, len(values), side.lengths.dtype)
    return (side.axes @ (inverse(side.lengths)[:, None] * P * jnp.sqrt(values)[None, :])).T
