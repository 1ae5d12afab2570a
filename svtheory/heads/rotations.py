"""Rotations: diagnostics of what makes a head's decisions sparse, beside the test that decides (T11, T22).

None of these nulls holds its level for heads that match nothing: a low rank, or the choice of the key, is enough for
rejection. Whether a head is sparser than chance says `sparseness_test`.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import one_of, random_key, whole
from svtheory.factorisations import tall_svd
from svtheory.heads.decomposition import Decomposition, relative_attention, without_padding
from svtheory.heads.sparsity import decision_sparseness
from svtheory.numerics import exact_products, positive

KINDS = ("common", "independent", "gaussian")


class RotationNull(NamedTuple):
    """Treves-Rolls sparseness S of relative attention, beside that of a null.

    sparseness       S of every decision, shape () or (..., T); NaN where undefined
    null_sparseness  mean over the draws, of the same shape
    p_value          share of draws and decision in which S is as small as the decision's, of the same shape, or NaN
    head_sparseness  mean of S over the decisions of the head that are defined, shape ()
    head_null        the same mean in every draw, shape (draws,)
    head_p_value     share of draws and head in which that mean is as small as the head's, shape ()
    """

    sparseness: Array
    null_sparseness: Array
    p_value: Array
    head_sparseness: Array
    head_null: Array
    head_p_value: Array


def rotation_null(
    decomposition: Decomposition,
    key: Array,
    draws: int,
    kind: Literal["common", "independent", "gaussian"] = "common",
    real: Array | None = None,
) -> RotationNull:
    """Compare a head's decisions with one of three nulls, by Monte Carlo (T11): a diagnostic, not a test of alignment.

    Relative attention is `c_k = a_k z_k`, z the attended key less the mean of the others.
    "common": one Haar rotation Q of both, `(Qa)_k (Qz)_k`. Keeps every total, the decisions and their keys, and tells
    this basis from a random one of the same K dimensions. It does not keep singular values: terms of unequal size, as
    in any head of low rank, are sparser than their rotations whatever the singular vectors are.
    "independent": `sigma_k (Q x)_k (Q' y)_k`, the paper's control. Keeps the singular values. It does not keep totals,
    nor that the key was chosen for its score: a key that is attended to most is sparser, whatever the vectors are.
    "gaussian": Gaussian inputs of the same mean and covariance on either side, drawn independently of each other, the
    key attended to most chosen again. Keeps the head, and of its inputs what second moments say (over all positions
    together). It tells tokens of features from Gaussian ones; it says nothing about singular vectors, for tokens that
    are not Gaussian are so in every basis, and it does not keep the same token's being query and key.

    Of causal contexts `real` (..., T) is False where there is padding, which decides nothing and has no moments.
    One draw serves all decisions, so that the p-value of the head allows for their dependence; those of decisions are
    not corrected for their number. Queries that see no other key, or whose terms are all 0, are left out. Memory is
    that of one draw.
    Raises InputError for fewer than one draw or an unknown kind.
    """
    random_key("key", key)
    whole("draws", draws, 1)
    return _rotation_null(decomposition, key, draws, one_of("kind", kind, KINDS), real)


@partial(jax.jit, static_argnames=("draws", "kind"))
@exact_products
def _rotation_null(decomposition: Decomposition, key: Array, draws: int, kind: str, real: Array | None) -> RotationNull:
    if real is not None:
        decomposition = without_padding(decomposition, real)
    terms = relative_attention(decomposition)
    drawn = _gaussian(decomposition, real) if kind == "gaussian" else _rotated(decomposition, kind == "common")
    found = decision_sparseness(terms, decomposition.size)

    def draw(sums, key):
        S = decision_sparseness(drawn(key).reshape(terms.shape), decomposition.size)
        return (sums[0] + (~(found < S)).astype(sums[0].dtype), sums[1] + S), jnp.nanmean(S)

    start = jnp.zeros(found.shape, int), jnp.zeros_like(found)
    (reached, total), head_null = lax.scan(draw, start, jax.random.split(key, draws))
    head = jnp.nanmean(found)

    def p_value(S, reached):
        return jnp.where(jnp.isnan(S), jnp.nan, (1 + reached).astype(found.dtype) / (1 + draws))

    return RotationNull(
        sparseness=found,
        null_sparseness=total / draws,
        p_value=p_value(found, reached),
        head_sparseness=head,
        head_null=head_null,
        head_p_value=p_value(head, (~(head < head_null)).sum()),
    )


def _rotated(decomposition: Decomposition, common: bool) -> Callable[[Array], Array]:
    """Draws of relative terms under rotations of the K dimensions, one for both sides or one a side."""
    values = decomposition.spectrum.values
    a, z = (x.reshape(-1, len(values)) for x in (decomposition.query, decomposition.relative_key()))
    if not common:
        root = jnp.sqrt(values)
        a, z = (x / positive(root)[None, :] for x in (a, z))

    def draw(key):
        Q, other = (jax.random.orthogonal(k, len(values), dtype=values.dtype) for k in jax.random.split(key))
        return (a @ Q) * (z @ Q) if common else values[None, :] * (a @ Q) * (z @ other)

    return draw


def _gaussian(decomposition: Decomposition, real: Array | None) -> Callable[[Array], Array]:
    """Draws of relative terms of Gaussian inputs, `a` and `b` being linear in them."""
    sides = [(x.shape, *_moments(x, real)) for x in (decomposition.query, decomposition.keys)]

    def draw(key):
        a, b = (
            (mean[None, :] + jax.random.normal(k, (math.prod(shape[:-1]), len(root)), root.dtype) @ root).reshape(shape)
            for k, (shape, mean, root) in zip(jax.random.split(key), sides, strict=True)
        )
        made = dataclasses.replace(decomposition, query=a, keys=b)
        return relative_attention(dataclasses.replace(made, index=made.most_attended))

    return draw


def _moments(x: Array, real: Array | None) -> tuple[Array, Array]:
    """Mean (K,) of those rows of x (..., K) that are `real`, and a root R of their covariance, `R^T R`."""
    rows = x.reshape(-1, x.shape[-1])
    counted = jnp.ones((len(rows), 1), bool) if real is None else real.reshape(-1, 1)
    mean = rows.mean(axis=0, where=counted)
    _, s, Vt = tall_svd(jnp.where(counted, rows - mean[None, :], 0))
    return mean, s[:, None] * Vt / jnp.sqrt(counted.sum().astype(rows.dtype))
