"""Bounds: how far singular vectors can be from features, from the frame alone (T3)."""

import jax.numpy as jnp
from jax import Array

from svtheory.frames import condition_number, exact_products, frame_operator


def kantorovich_bound(condition: Array | float) -> Array:
    """`2 sqrt(kappa) / (1 + kappa)`: the least cosine between `S^+ x` and x for any S of condition number kappa.

    Kantorovich's inequality; Gustafson's first antieigenvalue (T3).

    >>> float(kantorovich_bound(4.0)).__round__(4)
    0.8
    """
    condition = jnp.asarray(condition)
    return 2 * jnp.sqrt(condition) / (1 + condition)


def alignment_bound(X: Array) -> Array:
    """The sharp bound `cos(u, x_i) >= 2 sqrt(kappa)/(1 + kappa) = sqrt(1 - eps^2)` for every feature of X (D, N) (T3).

    kappa is the condition number of the frame operator on its range. Some frames attain it (`extremal_pair`).
    """
    return kantorovich_bound(condition_number(X))


@exact_products
def local_alignment_bound(X: Array) -> Array:
    """For each feature the bound `tan(angle) <= |S^+ q|`, as a least cosine, shape (N,) (T3).

    `q = S x^ - rho x^` with `rho = x^^T S x^` is the residual of x_i as an eigenvector: 0 gives cosine 1. Zero features
    give 1.
    """
    X = jnp.asarray(X)
    S = frame_operator(X)
    lengths = jnp.linalg.norm(X, axis=0)
    unit = X / jnp.where(lengths > 0, lengths, 1)
    image = S @ unit
    residual = image - (unit * image).sum(axis=0) * unit
    tangent = jnp.linalg.norm(jnp.linalg.pinv(S, hermitian=True) @ residual, axis=0)
    return 1 / jnp.sqrt(1 + tangent**2)
