"""Contrast: the contrastive covariance of a head, the published baseline for a hypothesis (arXiv 2602.04752).

Of queries `q = W_Q r` and keys `k = W_K s`, the pairs that match less those that do not: the singular vectors of
`E[q k^T | match] - E[q k^T | none]` span what the feature has of the head's H dimensions. With weights
`m = f_q^T T f_k` of all pairs, 1 where a pair matches and 0 where it does not, and their mean w, the difference is

    (E[m q k^T] - w E[q] E[k]^T) / (w (1 - w)),

of which the numerator is read here: it has the same singular vectors, and is there for any template. Nothing is fitted,
so that it says where in the head a feature is, not what the head makes of it; it depends on how Omega is split into its
factors, and on biases, as scores do not.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import InputError, real_array
from svtheory.factorisations import safe_svd
from svtheory.geometry.arrangements import haar_frames
from svtheory.heads.asked import Asked
from svtheory.heads.batches import in_batches
from svtheory.numerics import exact_products, positive, root
from svtheory.threefry import normal

SHARE = 0.99
"""The share of the square of the difference that its leading directions hold, as many as are read."""


class Recovered(NamedTuple):
    """What the leading directions of a contrast recover of a head.

    size    how many directions a side, ()
    cosine  functional cosine of the head with itself, queries and keys projected on them, ()
    chance  the same of as many random directions a side, (draws,)
    """

    size: Array
    cosine: Array
    chance: Array


@exact_products
def contrastive_covariance(
    queries: Array, query_features: Array, keys: Array, key_features: Array, template: Array
) -> Array:
    """`E[m q k^T] - E[m] E[q] E[k]^T` over all pairs of queries and keys, `m = f_q^T T f_k`, (H, H).

    With a template of zeros and ones, and one feature a sample, it is `w (1 - w)` times the mean of `q k^T` over pairs
    that match less that over pairs that do not, w the share of pairs that match. Queries (n, H), keys (n', H), features
    (n, N) and (n', M), template (N, M). Follows the dtype of queries. Raises InputError for shapes that disagree.

    >>> q, f = jnp.array([[1.0], [3.0]]), jnp.eye(2)
    >>> contrastive_covariance(q, f, q, f, jnp.eye(2)).tolist()  # w = 1/2; 5 where they match, 3 where not
    [[0.5]]
    """
    q, f = real_array("queries", queries, ndim=2), real_array("query_features", query_features, ndim=2)
    k, g = real_array("keys", keys, ndim=2), real_array("key_features", key_features, ndim=2)
    T = real_array("template", template, ndim=2)
    for side, x, features in (("query", q, f), ("key", k, g)):
        if len(features) != len(x):
            raise InputError(f"{side}_features must have {len(x)} rows, one a sample, got shape {features.shape}")
    if T.shape != (f.shape[1], g.shape[1]):
        raise InputError(f"template must have shape {(f.shape[1], g.shape[1])}, got {T.shape}")
    f, k, g, T = (x.astype(q.dtype) for x in (f, k, g, T))
    asked = f @ T
    matched = (q.T @ asked / len(q)) @ (g.T @ k / len(k))
    weight = (asked.mean(axis=0) * g.mean(axis=0)).sum()
    return matched - weight * q.mean(axis=0)[:, None] * k.mean(axis=0)[None, :]


def recovered(key: Array, draws: int, contrast: Array, factors: tuple[Array, Array], asked: Asked) -> Recovered:
    """What the leading directions of a contrast (H, H) recover of a head of factors (H, D) and (H, D')."""
    U, values, Vt = safe_svd(contrast)
    before = jnp.cumsum(values**2) - values**2
    leading = (before < SHARE * (values**2).sum()) & (values > 0)
    q, k = ((W @ side.basis) * side.scale[None, :] for W, side in zip(factors, (asked.query, asked.key), strict=True))
    grams = q @ q.T, k @ k.T

    def cosine(U, V):
        U, V = (x * leading[None, :] for x in (U, V))
        kept = U @ (U.T @ V) @ V.T
        whole = root((grams[0] * grams[1]).sum())
        size = root((kept * (grams[0] @ kept @ grams[1])).sum())
        return (kept * (grams[0] @ grams[1])).sum() / positive(size * whole)

    def random(keys):
        normals = jax.vmap(lambda key: normal(key, (2, *U.shape), U.dtype))(keys).reshape(-1, *U.shape)
        frames = haar_frames(normals).reshape(-1, 2, *U.shape)
        return jax.vmap(cosine)(frames[:, 0], frames[:, 1])

    drawn = lax.map(random, in_batches(jax.random.split(key, draws), 64)).ravel()[:draws]
    return Recovered(leading.sum(), cosine(U, Vt.T), drawn)
