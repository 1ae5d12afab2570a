"""Worlds: tokens of several kinds, and random heads that match nothing in them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from svtheory import orthonormal, tight_frame
from svtheory.numerics import exact_products

TOKENS = ("isotropic", "anisotropic", "one-hot", "zipf")
HEADS = ("gaussian", "raw", "balanced")
CONDITION = 1e4


class World(NamedTuple):
    """What tokens are drawn from: `r = mean + root (X f + rest g)`, g standard normal.

    features     X, shape (D, N), a tight frame, orthonormal for N <= D
    rest         projection on what no feature spans, shape (D, D); 0 for one-hot activations, which it would drown
    root         root of the covariance that X f + rest g gets, shape (D, D)
    mean         shape (D,)
    frequencies  of the features, shape (N,), where one is present at a time
    one_hot      whether one is; otherwise f is standard normal
    """

    features: Array
    rest: Array
    root: Array
    mean: Array
    frequencies: Array
    one_hot: Array


def world(kind: str, dim: int, n_features: int, key: Array) -> World:
    """One of TOKENS.

    "isotropic": Gaussian tokens of covariance I. "anisotropic": their covariance has condition number 1e4, its
    eigenvectors unrelated to the features, and the mean is as long as its largest axis. "one-hot", "zipf": one feature
    at a time, equally often or as 1/rank.
    """
    frame, turn, towards = jax.random.split(key, 3)
    X = (tight_frame if n_features >= dim else orthonormal)(frame, dim, n_features)
    one_hot = kind in ("one-hot", "zipf")
    rest = jnp.zeros((dim, dim)) if one_hot or n_features >= dim else jnp.eye(dim) - X @ X.T
    root, mean = jnp.eye(dim), jnp.zeros(dim)
    if kind == "anisotropic":
        Q = jax.random.orthogonal(turn, dim)
        root = (Q * jnp.geomspace(1, CONDITION**-0.5, dim)[None, :]) @ Q.T
        mean = jax.random.orthogonal(towards, dim)[:, 0]
    rank = jnp.arange(1, n_features + 1)
    frequencies = 1 / rank if kind == "zipf" else jnp.ones(n_features)
    return World(X, rest, root, mean, frequencies / frequencies.sum(), jnp.asarray(one_hot))


@exact_products
def tokens(world: World, key: Array, n: int) -> tuple[Array, Array]:
    """Tokens (n, D) and their activations (n, N)."""
    which, size, other = jax.random.split(key, 3)
    N = world.frequencies.size
    present = jax.nn.one_hot(jax.random.categorical(which, jnp.log(world.frequencies), shape=(n,)), N)
    f = jnp.where(world.one_hot, present, jax.random.normal(size, (n, N)))
    inside = f @ world.features.T + jax.random.normal(other, (n, len(world.rest))) @ world.rest
    return world.mean[None, :] + inside @ world.root.T, f


@exact_products
def random_head(kind: Array, queries: Array, keys: Array, values: Array, key: Array) -> tuple[Array, Array]:
    """Factors (H, D) of a head that matches nothing, by its number among HEADS.

    "gaussian": independent entries. "raw": singular values `values` (H,) between Haar frames. "balanced": these are the
    values of the head as its data see it, `A^{1/2} Omega B^{1/2}`, between Haar frames; A and B are the covariances of
    queries and keys (n, D).
    """

    def side(key, tokens):
        D, H = tokens.shape[1], values.size
        frame = jax.random.orthogonal(key, D)[:, :H] * jnp.sqrt(values)[None, :]
        _, s, Vt = jnp.linalg.svd(tokens - tokens.mean(axis=0, keepdims=True), full_matrices=False)
        inverse = jnp.where(s > 1e-5 * s[0], 1 / jnp.maximum(s, 1e-30), 0) * s[0]
        balanced = (Vt.T * inverse[None, :]) @ (Vt @ frame)
        gaussian = jax.random.normal(key, (D, H)) / D**0.5
        return jnp.select([kind == i for i in range(3)], [gaussian, frame, balanced]).T

    left, right = jax.random.split(key)
    return side(left, queries), side(right, keys)
