"""Random frames: the tokens and the factors of a head in the H dimensions that enter, for random heads (T11, T22).

A factor `W = L E^T` reads tokens through a frame E. A random head has L, and a Haar frame for E: a draw costs one
product of the tokens with a frame, which heads that read the same tokens share; the rest is in H dimensions.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from svtheory.factorisations import tall_svd
from svtheory.heads.weights import Head, affine
from svtheory.numerics import inverse, numerical_rank_tolerance


class Tokens(NamedTuple):
    """The tokens of a side as a null rotates them.

    coordinates  (n, d), in a space whose rotations are the null's
    other        what takes a frame (d, K) there to the space of the other null: raw `A^{1/2}` (R, d); balanced the
                 diagonal of `A^{+1/2}` (d,), 0 outside the range of the tokens
    """

    coordinates: Array
    other: Array


class Factor(NamedTuple):
    """A side of a head on such coordinates: queries are `L E^T x + shift`, E (d, K) orthonormal, Haar in random heads.

    matrix   L (H, K), K = min(H, d)
    inverse  L^+ (K, H)
    shift    (H,), or None for 0
    """

    matrix: Array
    inverse: Array
    shift: Array | None


def factored(W: Array, shift: Array | None) -> tuple[Array, Factor]:
    """`W = L E^T` of every head (heads, H, d): E (heads, d, K) and the factor on it."""
    E, s, Lt = lax.map(tall_svd, W.swapaxes(-1, -2))
    kept = s > max(W.shape[1:]) * jnp.finfo(s.dtype).eps * s[:, :1]
    return E, Factor(Lt.swapaxes(-1, -2) * s[:, None, :], inverse(s, kept)[:, :, None] * Lt, shift)


def whitened(
    W: Array, b: Array | None, x: Array, real: Array | None, positioned: bool
) -> tuple[Tokens, Tokens, Array, Factor]:
    """Tokens as they are, tokens whitened by their moment A, and of every head E and L of `W A^{1/2} = L E^T`.

    Centred where a constant is free or drops out. Whitened, tokens that are not `real` become 0.

    `positioned`: whether a constant that all tokens of the side have in common changes anything.
    """
    real = jnp.ones((len(x), 1), bool) if real is None else real.reshape(-1, 1)
    n = real.sum().astype(x.dtype)
    # of tokens all alike centring would leave nothing; seen from one of them, here the first, their mean is exact
    away = jnp.where(real, x - x[:1], 0)
    centre = jnp.abs(away).max() > 16 * jnp.finfo(x.dtype).eps * jnp.where(real, jnp.abs(x), 0).max()
    if positioned:
        centre = centre & (False if b is None else (b != 0).any())
    mean = away.sum(axis=0) / n
    P, s, Et = tall_svd(jnp.where(real, jnp.where(centre, away - mean[None, :], x), 0))
    # more samples do not make the rounding of each larger, so the smaller size counts
    present = s > numerical_rank_tolerance(s, min(x.shape))
    root = jnp.where(present, s, 0) / jnp.sqrt(n)
    shift = None if b is None else b + W @ jnp.where(centre, x[0] + mean, 0)
    E, factor = factored((W @ Et.T) * root[None, None, :], shift)
    whitened = jnp.where(present[None, :], P, 0) * jnp.sqrt(n)
    return Tokens(x, root[:, None] * Et), Tokens(whitened, inverse(root)), E, factor


def on_frame(tokens: Tokens, E: Array, shape: tuple[int, ...]) -> Array:
    """Tokens of a side on frames (..., d, K), (..., K), each as many as `shape` (..., D) has."""
    return (tokens.coordinates @ E).reshape(*E.shape[:-2], *shape[:-1], E.shape[-1])


def triangles(Y: Array) -> Array:
    """R (n, K, K) of `Y = Q R`, for matrices (n, d, K), one after the other."""
    return lax.map(lambda Y: jnp.linalg.qr(Y, mode="r"), Y)


def scaled_triangles(E: Array, scale: Array) -> Array:
    """R (n, K, K) of `scale E = Q R`, frames E (n, d, K), the identity beyond the dimension of the tokens' range."""
    R = triangles(scale[None, :, None] * E)
    inside = jnp.arange(R.shape[1]) < (scale > 0).sum()
    return jnp.where((inside[:, None] & inside[None, :])[None], R, jnp.eye(R.shape[1], dtype=R.dtype)[None])


def inputs_on_frame(head: Head, factor: Factor, x: Array, positions: Array) -> Array:
    """On the frame, the inputs that give the queries of tokens x (..., K): moved by biases and rotary maps."""
    if head.frequencies is not None:
        queries = head.rotated(affine(factor.matrix, factor.shift, x), positions)
        return queries @ factor.inverse.T
    if factor.shift is None:
        return x
    return x + (factor.inverse @ factor.shift).reshape((1,) * (x.ndim - 1) + (-1,))
