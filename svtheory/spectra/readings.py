"""Readings: one head read in three ways, each with patterns that show features and probes that compute (T15, T22)."""

import jax
from jax import Array

from svtheory.numerics import exact_products, inverse
from svtheory.spectra.balanced import BalancedSpectrum, Moment, Root, balanced, seen_by_data
from svtheory.spectra.spectra import spectrum

READINGS = ("raw", "unwhitened", "balanced")
"""Ways to read the modes of a head."""


@exact_products
def readings(W_Q: Array, W_K: Array, query_moment: Moment, key_moment: Moment) -> dict[str, BalancedSpectrum]:
    """A head's modes by each of the `READINGS`, A and B the token moments.

    raw         singular vectors of Omega: patterns and probes are `u_k` and `v_k`
    unwhitened  the same modes: patterns `A u_k`, probes `A^+ u_k` (T15)
    balanced    modes of `A^{1/2} Omega B^{1/2}`: patterns `A^{1/2} u~_k`, probes `A^{+1/2} u~_k` (T22)

    Arguments, and what is raised, as of `balanced_spectrum`; follows the dtype of the factors.

    >>> import jax.numpy as jnp
    >>> found = readings(jnp.eye(2), jnp.eye(2), jnp.diag(jnp.array([4.0, 1.0])), jnp.eye(2))
    >>> {name: [round(x, 4) for x in reading.values.tolist()] for name, reading in found.items()}
    {'raw': [1.0, 1.0], 'unwhitened': [1.0, 1.0], 'balanced': [2.0, 1.0]}
    """
    W_Q, W_K, query, key = seen_by_data(W_Q, W_K, query_moment, key_moment)
    s = spectrum(W_Q, W_K)
    raw = BalancedSpectrum(s.values, s.left, s.left, s.right, s.right, s.gaps)
    modes = *unwhitened(query, s.left), *unwhitened(key, s.right)
    return {
        "raw": raw,
        "unwhitened": BalancedSpectrum(s.values, *modes, s.gaps),
        "balanced": balanced(W_Q, W_K, query, key),
    }


@jax.jit
@exact_products
def unwhitened(side: Root, vectors: Array) -> tuple[Array, Array]:
    """`A u` and `A^+ u` of vectors (D, K)."""
    along, squares = side.axes.T @ vectors, side.lengths[:, None] ** 2
    return side.axes @ (squares * along), side.axes @ (inverse(squares) * along)
