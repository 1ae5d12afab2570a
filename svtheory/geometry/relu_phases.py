"""Phases of a ReLU autoencoder in the sparse limit, where interference below zero costs nothing (T19)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.checks import InputError, concrete, held, real_array
from svtheory.numerics import exact_products, inverse, positive


def relu_energy(features: Array, coupling: Array | float, biases: Array | None = None) -> Array:
    """`E_R + g (s_0 s_1 - 1)`: what a ReLU autoencoder of rare features and a head of fixed strength cost (T19).

    `E_R = sum_j [b_j^3 + 3 b_j^2 (1 - b_j) + sum_{i != j, c_ij > 0} (c_ij - b_j)_+^3 / c_ij]`, `c_ij = w_i . w_j`, is
    the limit of `E |f - relu(W^T W f - b)|^2 / (p/3)` for Bernoulli-uniform activations of density p -> 0; the head
    matches features 0 and 1, `s_i = w_i^T W W^T w_i`. Where `phase_energy` counts all interference, this counts what
    the ReLU lets through: E_R is 0 iff b is 0 and no two features have a positive product, which up to 2D can have.

    Args:
        features: W, unit columns, shape (D, N), N at least 2.
        coupling: g, at least 0, of any shape, which is the result's.
        biases: b, from 0 to 1, subtracted before the ReLU, shape (N,); those of least energy where none are given.

    Follows the dtype of the features. Raises InputError for other shapes, and for biases or couplings out of range.

    >>> float(relu_energy(jnp.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]), 0.0))
    0.0
    """
    W = real_array("features", features, ndim=2)
    if W.shape[1] < 2:
        raise InputError(f"features must have at least 2 columns, got shape {W.shape}")
    g = real_array("coupling", coupling).astype(W.dtype)
    if concrete(g) and np.min(g) < 0:
        raise InputError(f"coupling must be at least 0, got {np.min(g):.3g}")
    b = None if biases is None else real_array("biases", biases, ndim=1).astype(W.dtype)
    if b is not None and b.shape != W.shape[1:]:
        raise InputError(f"biases must have shape {W.shape[1:]}, one a feature, got {b.shape}")
    if b is not None and concrete(b) and not 0 <= np.min(b) <= np.max(b) <= 1:
        raise InputError(f"biases must lie between 0 and 1, got {np.min(b):.3g} to {np.max(b):.3g}")
    return held("features", _energy(W, g, b))


@jax.jit
@exact_products
def _energy(W: Array, g: Array, b: Array | None) -> Array:
    products = _interference(W)
    s_0, s_1 = ((W.T @ W[:, :2]) ** 2).sum(axis=0)
    return _reconstruction(products, _best_biases(products) if b is None else b).sum() + g * (s_0 * s_1 - 1)


def best_biases(features: Array) -> Array:
    """The biases of least `relu_energy` for unit features (D, N), shape (N,): each a root of a quadratic (T19).

    Column j has its own problem, with derivative `3 [2b (1 - b) - sum_i (c_ij - b)_+^2 / c_ij]`, which between two
    neighbouring products is a quadratic in b: the least of its roots, of the products and of 1 is exact. They do not
    depend on the coupling.

    >>> best_biases(jnp.eye(3)).tolist()
    [0.0, 0.0, 0.0]
    """
    return _best_biases_of(real_array("features", features, ndim=2))


@jax.jit
@exact_products
def _best_biases_of(W: Array) -> Array:
    return _best_biases(_interference(W))


def _interference(W: Array) -> Array:
    """The positive products `c_ij`, i != j, others as 0, shape (N, N)."""
    products = jnp.where(jnp.eye(W.shape[1], dtype=bool), 0, W.T @ W)
    return jnp.maximum(products, 0)


def _reconstruction(products: Array, b: Array) -> Array:
    """What each feature's output costs, `3 b^2 - 2 b^3 + sum_i (c_ij - b_j)_+^3 / c_ij`, shape (N,)."""
    let_through = jnp.maximum(products - b[None, :], 0)
    cost = let_through**3 / positive(products)
    return 3 * b**2 - 2 * b**3 + cost.sum(axis=0)


def _best_biases(products: Array) -> Array:
    products = jax.lax.stop_gradient(products)  # at a minimum over biases the energy does not see them move

    def best(c):
        # row k: as if exactly the k + 1 largest products were let through
        c = jnp.sort(c)[::-1]
        count, total, inverses = (jnp.cumsum(x) for x in (c > 0, c, inverse(c)))
        square = jnp.maximum((1 + count) ** 2 - (2 + inverses) * total, 0)
        roots = jnp.concatenate([(1 + count + sign * jnp.sqrt(square)) / (2 + inverses) for sign in (-1, 1)])
        candidates = jnp.clip(jnp.concatenate([roots, c, jnp.ones(1, c.dtype), jnp.zeros(1, c.dtype)]), 0, 1)
        costs = _reconstruction(jnp.broadcast_to(c[:, None], (c.size, candidates.size)), candidates)
        return candidates[jnp.argmin(costs)]

    return jax.vmap(best, in_axes=1)(products)
