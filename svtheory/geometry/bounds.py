"""Bounds: how far singular vectors can be from features, from the frame alone (T3)."""

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.checks import real_array
from svtheory.factorisations import safe_svd
from svtheory.geometry.columns import unit_columns
from svtheory.geometry.frames import condition_number
from svtheory.numerics import numerical_rank_tolerance, positive, scaled


def kantorovich_bound(condition: Array | float) -> Array:
    """`2 sqrt(kappa) / (1 + kappa)`: the least cosine between `S^+ x` and x for any S of condition number kappa.

    Kantorovich's inequality; Gustafson's first antieigenvalue (T3). Any shape; 0 for an infinite kappa.

    >>> float(kantorovich_bound(4.0)).__round__(4)
    0.8
    """
    return _kantorovich(real_array("condition", condition, endless=True))


@jax.jit
def _kantorovich(condition: Array) -> Array:
    root = jnp.sqrt(condition)
    return 2 / (root + 1 / root)


def alignment_bound(X: Array) -> Array:
    """The sharp bound `cos(u, x_i) >= 2 sqrt(kappa)/(1 + kappa) = sqrt(1 - eps^2)` for every feature of X (D, N) (T3).

    kappa is the condition number of the frame operator on its range. Some frames attain it (`extremal_pair`).
    """
    return _kantorovich(condition_number(X))


def local_alignment_bound(X: Array) -> Array:
    """For each feature the bound `tan(angle) <= |S^+ q|`, as a least cosine, shape (N,) (T3).

    `q = S x^ - rho x^` with `rho = x^^T S x^` is the residual of x_i as an eigenvector: 0 gives cosine 1. Zero features
    give 1.
    """
    return _local_bound(real_array("X", X, ndim=2))


@jax.jit
def _local_bound(X: Array) -> Array:
    X, _ = scaled(X)
    _, s, Pt = safe_svd(X)
    inside = (s > numerical_rank_tolerance(s, max(X.shape)))[:, None]
    s = positive(s[:, None], inside)
    # S^+ q in the eigenbasis of S, from the right singular vectors: forming S would lose half the digits
    weights = unit_columns(jnp.where(inside, s * Pt, 0))
    rho = ((s * weights) ** 2).sum(axis=0, keepdims=True)
    squared_tangent = ((weights * (1 - rho / s**2)) ** 2).sum(axis=0)
    return 1 / jnp.sqrt(1 + squared_tangent)
