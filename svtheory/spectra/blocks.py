"""Blocks: near-equal singular values, whose vectors are only together something (T14).

A perturbation of the size of a gap turns singular vectors within the space of both values and leaves that space alone.
So a block of near-equal values is read as one: its terms by their sum, its vectors by the subspace that they span.
Neither knows which basis of the block a factorisation happened to return.
"""

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.checks import InputError, real_array
from svtheory.geometry.columns import unit_columns
from svtheory.numerics import exact_products, inverse
from svtheory.spectra.spectra import value_groups

TOLERANCE = 1e-3
"""Of sigma_1: neighbouring values closer than this are of one block."""


def block_labels(values: Array, error: Array | float = 0.0) -> Array:
    """The block of each singular value, numbered from 0, shape (K,).

    Falling neighbours belong together where they differ by no more than `TOLERANCE sigma_1` or `error`, the rounding
    of the matrix (T14). Raises InputError for values (K,) that are negative or not finite (NaN while JAX traces).

    >>> block_labels(jnp.array([5.0, 3.0, 3.0, 1.0])).tolist()
    [0, 1, 1, 2]
    """
    values = real_array("values", values, ndim=1)
    return value_groups(values, jnp.maximum(TOLERANCE, error * inverse(values[0])))


def block_sums(terms: Array, labels: Array) -> Array:
    """Terms (..., K) with those of a block, by its label (K,), summed in the place of its first and 0 in the others.

    >>> block_sums(jnp.array([1.0, 2.0, -3.0, 4.0]), jnp.array([0, 1, 1, 2])).tolist()
    [1.0, -1.0, 0.0, 4.0]
    """
    return _sums(*_labelled("terms", terms, labels))


@jax.jit
@exact_products
def _sums(terms: Array, labels: Array) -> Array:
    return terms @ jax.nn.one_hot(firsts(labels), len(labels), dtype=terms.dtype)


def block_cosines(vectors: Array, labels: Array, features: Array) -> Array:
    """The length of each unit feature's projection onto the span of every vector's block, shape (K, N).

    vectors (D, K), independent within each block of `labels` (K,), of any lengths; features (D, N). |cos| where a
    block is one vector; 0 for features that are 0.

    >>> turned = jnp.array([[0.6, -0.8], [0.8, 0.6]])
    >>> block_cosines(turned, jnp.array([0, 0]), jnp.eye(2)[:, :1]).round(4).tolist()
    [[1.0], [1.0]]
    """
    vectors = real_array("vectors", vectors, ndim=2)
    vectors, labels = _labelled("vectors", vectors, labels)
    return _cosines(vectors, labels, real_array("features", features, ndim=2))


@jax.jit
@exact_products
def _cosines(vectors: Array, labels: Array, features: Array) -> Array:
    vectors, features = unit_columns(vectors), unit_columns(features)
    basis = _orthonormal(vectors, labels)
    squares = (basis.T @ features) ** 2
    same = (labels[:, None] == labels[None, :]).astype(squares.dtype)
    return jnp.sqrt(jnp.minimum(same @ squares, 1))


def _orthonormal(vectors: Array, labels: Array) -> Array:
    """A basis of every block: vectors G^{-1/2}, G their products within blocks, which stays the identity alone."""
    G = jnp.where(labels[:, None] == labels[None, :], vectors.T @ vectors, 0)
    values, axes = jnp.linalg.eigh(G)
    root = inverse(jnp.sqrt(jnp.abs(values)), values > len(values) * jnp.finfo(G.dtype).eps * values[-1])
    return vectors @ ((axes * root[None, :]) @ axes.T)


def firsts(labels: Array) -> Array:
    """The index of the first of each one's block, shape (K,)."""
    return jnp.searchsorted(labels, labels)


def starts(labels: Array) -> Array:
    """Whether each is the first of its block, shape (K,)."""
    return jnp.concatenate([jnp.ones(1, bool), labels[1:] != labels[:-1]])


def _labelled(name: str, x: Array, labels: Array) -> tuple[Array, Array]:
    x, labels = real_array(name, x), jnp.asarray(labels)
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer) or x.ndim == 0 or x.shape[-1] != len(labels):
        raise InputError(
            f"labels must be whole numbers of shape {x.shape[-1:]}, one for each of {name}, got {labels.dtype} of "
            f"shape {labels.shape}"
        )
    return x, labels
