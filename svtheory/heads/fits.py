"""Fits: how near the members of hypotheses come to a head, each trained for its own best time (T16)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.factorisations import safe_svd
from svtheory.heads.asked import Asked, Layout, Templates, as_seen, ask
from svtheory.heads.fitted_time import at_best_times, best_time, cosine, filtered, norm
from svtheory.numerics import inverse, positive, root
from svtheory.prediction.whitened import Side
from svtheory.spectra.spectra import Spectrum, spectrum_of

VISITED = 1e-4
"""The least eigenvalue of an input moment, of its mean, that counts as visited."""


class Fit(NamedTuple):
    """How near members come to a head, each at its own best time, all (Q,) but `bound`, (Q, 2): see Explanation.

    scale  of a member's weights, to the head's logits by least squares
    """

    members: Array
    weight_cosine: Array
    time: Array
    bound: Array
    scale: Array


def unit(W: Array) -> tuple[Array, Array]:
    """A factor over its largest entry, and that entry: products of tiny weights would underflow."""
    size = positive(jnp.abs(W).max())
    return W / size, size


def fitted(W_Q: Array, W_K: Array, asked: Asked) -> Fit:
    """How near each member of all hypotheses comes to a head."""
    (read, O), share, size = as_seen(W_Q, W_K, asked), asked.share, norm(W_Q.T @ W_K)

    def of_member(C):
        time, bound = best_time(C, asked.rates, O, share)
        F = filtered(C, asked.rates, time)
        weights = F * inverse(root(asked.rates))
        weight_cosine = (weights * read).sum() / positive(norm(weights) * size)
        return Fit(cosine(F, O), weight_cosine, time, bound, (F * O).sum() / positive((F**2).sum()))

    return lax.map(of_member, asked.cores)


def prediction(asked: Asked, member: Array, time: Array, scale: Array, K: int) -> Spectrum:
    """The spectrum of what training for a time makes of a member, times a scale; at most K triples."""
    weights = filtered(asked.cores[member], asked.rates, time) * inverse(root(asked.rates))
    U, values, Vt = safe_svd(scale * weights)
    return spectrum_of((asked.query.basis @ U)[:, :K], values[:K], (asked.key.basis @ Vt.T)[:, :K])


def reaching(cosine: Array) -> Array:
    """What a random head must reach to be explained as well: the head's own, less rounding."""
    return cosine - 100 * jnp.finfo(cosine.dtype).eps


def resampled(
    key: Array,
    resamples: int,
    inputs: tuple[Array, Array],
    given: Templates,
    factors: tuple[Array, Array],
    layout: Layout,
    centre_query: bool,
) -> Array:
    """Functional cosines of heads with all members for samples drawn again with replacement, (h, resamples, Q).

    Factors (h, H, D) and (h, H, D').
    """
    inputs, given, factors = lax.stop_gradient((inputs, given, factors))

    def again(key):
        of_query, of_key = jax.random.split(key)
        q, k = _rows(of_query, inputs[0]), _rows(of_key, inputs[1])
        drawn = Templates(given.query[q], given.key[k], given.templates)
        asked = ask(inputs[0][q], inputs[1][k], drawn, layout, centre_query)
        O = lax.map(lambda W: as_seen(W[0], W[1], asked)[1].ravel(), factors)
        return at_best_times(asked.flat, O, asked.share)

    if resamples == 0:
        return jnp.zeros((len(factors[0]), 0, len(given.templates)), factors[0].dtype)
    return lax.map(again, jax.random.split(key, resamples)).swapaxes(0, 1)


def _rows(key: Array, x: Array) -> Array:
    return jax.random.randint(key, (len(x),), 0, len(x))


def unvisited(W_Q: Array, W_K: Array, asked: Asked) -> Array:
    """The share of `|Omega|_F^2` outside the directions that the data visit: see Explanation."""
    read, _ = as_seen(W_Q, W_K, asked)
    inside = _visited(asked.query)[:, None] & _visited(asked.key)[None, :]
    share = norm(jnp.where(inside, read, 0)) / positive(norm(W_Q.T @ W_K))
    return jnp.maximum((1 - share) * (1 + share), 0)


def _visited(side: Side) -> Array:
    return side.scale**2 > VISITED
