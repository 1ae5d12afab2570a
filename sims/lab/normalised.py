"""Normalised: a head with a query-key norm is bilinear in rescaled tokens, and its modes are read there (T23)."""

import jax
import jax.numpy as jnp
from jax import Array

from svtheory import Head, balanced_spectrum
from svtheory.heads import Norm, bilinear
from svtheory.prediction.whitened import Whitened
from svtheory.spectra import Tokens

EPSILON, SAMPLED = 1e-6, 100  # of the norm, and the tokens that it is tried on
NORMALISED = {
    "normalised_scores": "scores from the sums of balanced terms",
    "normalised_moments": "mean square of scores from values in rescaled tokens",
    "unscaled_moments": "the same in tokens as they are",
}


def normalised(tokens: Whitened, W_Q: Array, W_K: Array, key: Array) -> dict[str, Array]:
    """The head with query-key norms of random gains: how far its scores are from what is read in rescaled tokens (T23).

    Sums of balanced terms, over the largest score; and, over the mean square of the scores, the sum of squared balanced
    values, in the moments of the rescaled tokens and in those of the tokens as they are.
    """
    draw, query, keys = jax.random.split(key, 3)
    gains = [jax.random.uniform(k, (len(W_Q),), minval=0.5, maxval=2.0) for k in (query, keys)]
    norms = [Norm(gain, EPSILON) for gain in gains]
    head = Head(W_Q, W_K, query_norm=norms[0], key_norm=norms[1])
    drawn = jax.random.normal(draw, (2, SAMPLED, W_Q.shape[1]))
    r, s = (g @ (side.basis * side.scale[None, :]).T for g, side in zip(drawn, (tokens.query, tokens.key), strict=True))
    scores = head.queries(r, 0) @ head.keys(s, 0).T
    plain, x, y = bilinear(head, r, s)

    def values(r, s):
        return balanced_spectrum(plain.W_Q, plain.W_K, Tokens(r), Tokens(s))

    found = values(x, y)
    sums = ((x @ found.query_probes) * found.values[None, :]) @ (y @ found.key_probes).T
    off = [(other.values**2).sum() / (scores**2).mean() - 1 for other in (found, values(r, s))]
    worst = jnp.abs(sums - scores).max() / jnp.abs(scores).max()
    return dict(zip(NORMALISED, (worst, *map(jnp.abs, off)), strict=True))
