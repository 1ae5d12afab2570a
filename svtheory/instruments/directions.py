"""Directions: a head's vectors beside features, raw, unwhitened (T15) and balanced (T22), and chance of each."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.factorisations import symmetric_root
from svtheory.geometry.arrangements import haar_frame
from svtheory.geometry.columns import unit_columns
from svtheory.heads.read_together import SIDES
from svtheory.heads.weights import Head
from svtheory.numerics import exact_products, inverse
from svtheory.spectra.balanced import Root, balanced, moment_root
from svtheory.spectra.blocks import block_cosines, block_labels, firsts
from svtheory.spectra.readings import READINGS
from svtheory.spectra.spectra import Spectrum, spectrum
from svtheory.spectra.unwhitening import remove_direction, unwhiten

ROUND = 50  # random heads drawn at once
TOGETHER = 2048  # features compared at once: tables of tens of thousands, and copies of them, would be large


class Features(NamedTuple):
    """Features in parts, in the order of the dictionary.

    units    unit columns (parts, D, n), 0 where they are dead or none are left
    lengths  (parts, n), 1, or 0 of those that are 0
    across   lengths without the mean token, which patterns without a free constant have lost; see `without_mean`
    """

    units: Array
    lengths: Array
    across: Array

    def without_mean(self, moments: Any) -> "Features":
        """The same with the lengths that are left without the mean token: taken once, for many vectors."""
        if moments is None:
            return self

        def length(part):
            return jnp.linalg.norm(remove_direction(part, moments.mean), axis=0)

        return self._replace(across=jax.lax.map(length, self.units))


def in_parts(features: np.ndarray) -> Features:
    """Features (D, N) in parts, in float32."""
    D, N = features.shape
    n = min(N, TOGETHER)
    parts = np.zeros((-(-N // n), D, n), np.float32)
    for part, start in zip(parts, range(0, N, n), strict=True):
        some = features[:, start : start + n]
        some = unit(some if some.dtype.itemsize >= 4 else some.astype(np.float32), 0)  # whose squares are held
        part[:, : some.shape[1]] = some / np.maximum(np.linalg.norm(some, axis=0), np.finfo(np.float32).tiny)
    lengths = jnp.asarray(parts.any(axis=1), jnp.float32)
    return Features(jnp.asarray(parts), lengths, lengths)


def unit(X: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """X over the power of 2 nearest its largest entry along these axes: no direction depends on it, float32 does."""
    return np.ldexp(X, -np.frexp(np.abs(X).max(axis=axis, keepdims=True))[1])


class TokenMoments(NamedTuple):
    """Covariance (D, D) and mean (D,) of tokens, and the principal axes of second moment and covariance."""

    covariance: Array
    mean: Array
    uncentred: Root
    centred: Root

    def seen_by(self, biased: Array) -> tuple[Root, Root]:
        """The moments in which queries and keys of a head are read, with a query bias or without (T6)."""
        return jax.tree.map(lambda a, b: jnp.where(biased, a, b), self.centred, self.uncentred), self.centred


@jax.jit
def moments_of_layers(tokens: Array) -> TokenMoments:
    """`token_moments` of each layer's tokens (layers, n, D)."""
    return jax.lax.map(token_moments, tokens)


def token_moments(tokens: Array) -> TokenMoments:
    """Moments of tokens (n, D)."""
    mean = tokens.mean(axis=0)
    centred = tokens - mean[None, :]
    covariance = jnp.matmul(centred.T, centred, precision="highest") / len(tokens)
    second = covariance + mean[:, None] * mean[None, :]
    return TokenMoments(covariance, mean, *(moment_root("moments", A, tokens) for A in (second, covariance)))


def of_head(head: Head, moments: Any, features: Features, epsilon: float) -> dict[str, Array]:
    """Of one head by reading: values, which vectors can be named; and the best feature of each, by side and reading.

    `epsilon` is that of the precision in which the weights were stored.
    """
    features = features.without_mean(moments)
    s = spectrum(head.W_Q, head.W_K)
    biased = jnp.asarray(False) if head.b_Q is None else (head.b_Q != 0).any()
    found, patterns = [s, s][: len(readings(moments))], None
    if moments is not None:
        modes = balanced(head.W_Q, head.W_K, *moments.seen_by(biased))
        found, patterns = [*found, modes], (modes.query_patterns, modes.key_patterns)
    values, gaps = (jnp.stack([getattr(x, name) for x in found]) for name in ("values", "gaps"))
    rounding = len(head.W_Q.T) * epsilon * values[:, 0]
    named = gaps > rounding[:, None]
    labels = jax.vmap(block_labels)(values, rounding)
    found = {"singular_value": values, "named": named, "block": 1 + jax.vmap(firsts)(labels)}
    return (
        found
        | of_vectors(s, patterns, biased, features, moments)
        | of_blocks(s, patterns, biased, features, moments, labels)
    )


def of_vectors(s: Spectrum, patterns: Any, biased: Array, features: Features, moments: Any) -> dict[str, Array]:
    """The best feature of each singular vector and balanced pattern, by side and reading, (side, reading, K)."""

    def read(side, reading):
        vectors = vectors_of(s, patterns, side, reading)
        cosine, feature, removed = aligned(reading, vectors, features, moments, biased | (side == "key"))
        return {"best_cosine": cosine, "best_feature": feature, "mean_removed": removed}

    return by(read, SIDES, moments)


def of_blocks(
    s: Spectrum, patterns: Any, biased: Array, features: Features, moments: Any, labels: Array
) -> dict[str, Array]:
    """The best feature of each vector's block, by labels (reading, K), as `of_vectors`."""

    def read(side, reading):
        vectors = vectors_of(s, patterns, side, reading)
        centred, of = biased | (side == "key"), labels[readings(moments).index(reading)]
        vectors, _ = shown(reading, vectors, moments, centred)
        beside = partial(features_beside, reading, moments, centred)
        cosine, feature = best_of(lambda part: block_cosines(vectors, of, beside(part)), features.units)
        return {"block_cosine": cosine, "block_feature": feature}

    return by(read, SIDES, moments)


def vectors_of(s: Spectrum, patterns: Any, side: str, reading: str) -> Array:
    """The vectors of a side, (D, K), of which a reading is made."""
    return (patterns if reading == "balanced" else (s.left, s.right))[SIDES.index(side)]


def readings(moments: Any) -> tuple[str, ...]:
    """Vectors are unwhitened, and heads balanced, where the tokens are known."""
    return READINGS[:1] if moments is None else READINGS


def by(read: Callable[[Any, str], Any], kinds: tuple[Any, ...], moments: Any) -> Any:
    """What `read(kind, reading)` gives, stacked to (kind, reading, ...)."""
    stack = partial(jax.tree.map, lambda *x: jnp.stack(x))
    return stack(*(stack(*(read(kind, reading) for reading in readings(moments))) for kind in kinds))


def aligned(reading: str, vectors: Array, features: Features, moments: Any, centred: Any) -> tuple[Array, Array, Array]:
    """Of vectors (D, K) the best |cos| with features, -1 for dead ones, its place, and the mean token's share.

    Vectors without the mean token have with features as they are the products that they have with those without it.
    """
    vectors, removed = shown(reading, vectors, moments, centred)
    units = unit_columns(vectors)
    lengths = features.lengths if reading == "raw" else jnp.where(centred, features.lengths, features.across)

    @exact_products
    def table(given):
        part, length = given
        return jnp.where(length[None, :] > 0, jnp.abs(units.T @ part) * inverse(length)[None, :], -1)

    return *best_of(table, (features.units, lengths)), removed


def best_of(table: Callable[[Any], Array], parts: Any) -> tuple[Array, Array]:
    """The largest entry of each row of `table(part)`, (K, n), over all parts of features, and its place among them."""
    n = jax.tree.leaves(parts)[0].shape[-1]

    def best(part):
        found = table(part)
        return found.max(axis=1), found.argmax(axis=1)

    values, places = jax.lax.map(best, parts)
    part = values.argmax(axis=0)
    return values.max(axis=0), part * n + jnp.take_along_axis(places, part[None], axis=0)[0]


def shown(reading: str, vectors: Array, moments: Any, centred: Any) -> tuple[Array, Array]:
    """Vectors (D, K) of a side as they are read, and the share that was the mean token, (K,).

    Vectors that show what moves a mode, of any reading but the raw, lose the mean token where they are not centred, and
    so do the features beside them: without a constant that is free, a pattern is its feature and some of the mean.
    """
    if reading == "raw":
        return vectors, jnp.zeros(vectors.shape[1], vectors.dtype)
    mean = jnp.where(centred, 0, moments.mean)
    if reading == "unwhitened":
        return unwhiten(vectors, moments.covariance, mean)
    vectors = unit_columns(vectors)
    removed = (unit_columns(mean[:, None])[:, 0] @ vectors) ** 2
    return remove_direction(vectors, mean), removed


def features_beside(reading: str, moments: Any, centred: Any, features: Array) -> Array:
    """Features (D, n) beside what is shown of vectors."""
    return features if reading == "raw" else remove_direction(features, jnp.where(centred, 0, moments.mean))


@partial(jax.jit, static_argnums=1)
def matched_directions(key: Array, pairs: int, features: Features, moments: Any) -> Array:
    """What `pairs` random directions give, ROUND times, shape (ROUND, centred or not, reading, 3).

    Largest and mean best |cos| of ones drawn with the token covariance K, or unwhitened, K times isotropic ones; and
    the largest of isotropic ones, in any reading. Drawn with K are the patterns of a random head of balanced values.
    """
    root, features = symmetric_root(moments.covariance), features.without_mean(moments)

    def draw(key):
        g = jax.random.normal(key, (len(root), pairs), root.dtype)
        matched = jnp.matmul(root, g, precision="highest")
        vectors = {"raw": matched, "unwhitened": g, "balanced": matched}

        def read(centred, reading):
            best, isotropic = (
                aligned(reading, directions, features, moments, centred)[0] for directions in (vectors[reading], g)
            )
            return jnp.stack([best.max(), best.mean(), isotropic.max()])

        return by(read, (False, True), moments)

    return jax.lax.map(draw, jax.random.split(key, ROUND))


@partial(jax.jit, static_argnums=1)
@exact_products
def gaussian_heads(key: Array, pairs: int, features: Features, moments: Any) -> Array:
    """Largest best |cos| of heads with independent Gaussian entries, (ROUND, biased or not, side, reading).

    Seen by tokens of which few directions carry the variance, their balanced patterns lie along those more than Haar
    modes do: variance weighs a direction once in which modes a head has, and again in their patterns.
    """
    features = features.without_mean(moments)

    def draw(key):
        W_Q, W_K = jax.random.normal(key, (2, pairs, moments.mean.shape[-1]), moments.mean.dtype)
        s = spectrum(W_Q, W_K)

        def seen(biased):
            modes = balanced(W_Q, W_K, *moments.seen_by(biased))
            patterns = modes.query_patterns, modes.key_patterns
            return of_vectors(s, patterns, biased, features, moments)["best_cosine"].max(axis=-1)

        return jnp.stack([seen(jnp.asarray(biased)) for biased in (False, True)])

    return jax.lax.map(draw, jax.random.split(key, ROUND))


@jax.jit
@exact_products
def balanced_heads(key: Array, heads: Any, wanted: Array, features: Features, moments: Any) -> Array:
    """Largest best |cos| of random heads that keep a head's balanced spectrum (T22), (ROUND, head, side, reading).

    `A^{+1/2} P Sigma~ P'^T B^{+1/2}`, Sigma~ the singular values of the head as its data see it and P, P' Haar frames:
    where some directions of tokens hardly vary, singular vectors of such heads lie along those, whatever they match.
    heads holds W_Q and W_K (heads, H, D) and whether each has a query bias; those not wanted cost nothing, and give 0.
    """
    features = features.without_mean(moments)

    def of_head(given):
        (W_Q, W_K, biased), wanted, key = given
        sides = moments.seen_by(biased)
        values = balanced(W_Q, W_K, *sides).values

        def draw(key):
            frames = [random_frame(k, side, len(values)) for k, side in zip(jax.random.split(key), sides, strict=True)]
            factors = [factor(P, values, side) for P, side in zip(frames, sides, strict=True)]
            patterns = [side.axes @ (side.lengths[:, None] * P) for P, side in zip(frames, sides, strict=True)]
            best = of_vectors(spectrum(*factors), patterns, biased, features, moments)
            return best["best_cosine"].max(axis=-1)

        none = jnp.zeros((ROUND, len(SIDES), len(READINGS)), features.units.dtype)
        return jax.lax.cond(wanted, lambda: jax.lax.map(draw, jax.random.split(key, ROUND)), lambda: none)

    drawn = jax.lax.map(of_head, (heads, wanted, jax.random.split(key, len(wanted))))
    return jnp.moveaxis(drawn, 0, 1)


@exact_products
def random_factor(key: Array, values: Array, side: Root) -> Array:
    """A factor (H, D) of a random head of H balanced values: `(A^{+1/2} P Sigma~^{1/2})^T`, P a Haar frame (T22)."""
    return factor(random_frame(key, side, len(values)), values, side)


def random_frame(key: Array, side: Root, pairs: int) -> Array:
    """A Haar frame (R, pairs) of the tokens' principal axes."""
    return haar_frame(key, side.lengths > 0, pairs, side.lengths.dtype)


def factor(P: Array, values: Array, side: Root) -> Array:
    """The factor of a frame P in whitened tokens, `(A^{+1/2} P Sigma~^{1/2})^T`, (H, D)."""
    return (side.axes @ (inverse(side.lengths)[:, None] * P * jnp.sqrt(values)[None, :])).T
