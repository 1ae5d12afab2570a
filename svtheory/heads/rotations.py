"""Rotations: would random singular vectors carry a head's decisions as sparsely (T11)?"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import one_of, whole
from svtheory.frames import exact_products
from svtheory.heads.decomposition import Decomposition, relative_attention
from svtheory.heads.sparsity import treves_rolls

KINDS = ("common", "independent")


class RotationNull(NamedTuple):
    """Treves-Rolls sparseness S of relative attention, beside that of randomly rotated singular vectors.

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


@exact_products
def rotation_null(
    decomposition: Decomposition, key: Array, draws: int, kind: Literal["common", "independent"]
) -> RotationNull:
    """Test whether a head's decisions are sparser than chance: p-values by Monte Carlo (T11).

    Relative attention is `c_k = a_k z_k`, z the attended key less the mean of the others. kind "common": one Haar
    rotation Q of both, `(Qa)_k (Qz)_k`, which keeps every total and tests the choice of basis. kind "independent":
    `sigma_k (Q x)_k (Q' y)_k`, the paper's control, which keeps the singular values and not the total. One rotation
    serves all decisions of a draw, so that the p-value of the head allows for their dependence; those of decisions are
    not corrected for their number. Queries that see no other key, or whose terms are all 0, are left out. Memory is
    that of one draw.

    Raises InputError for fewer than one draw or an unknown kind.
    """
    whole("draws", draws, 1)
    one_of("kind", kind, KINDS)
    values = decomposition.spectrum.values
    root = jnp.sqrt(values) if kind == "independent" else jnp.ones_like(values)
    terms = relative_attention(decomposition)
    a, z = (x.reshape(-1, len(root)) for x in (decomposition.query, decomposition.relative_key()))
    found = treves_rolls(terms).ravel()
    a, z = (x / jnp.where(root > 0, root, 1)[None, :] for x in (a, z))

    def draw(sums, key):
        Q, other = (jax.random.orthogonal(k, len(root), dtype=root.dtype) for k in jax.random.split(key))
        rotated = (a @ Q) * (z @ (other if kind == "independent" else Q))
        S = treves_rolls(values[None, :] * rotated if kind == "independent" else rotated)
        return (sums[0] + (found >= S), sums[1] + S), jnp.nanmean(S)

    start = jnp.zeros(found.shape, int), jnp.zeros_like(found)
    (reached, total), head_null = lax.scan(draw, start, jax.random.split(key, draws))
    head = jnp.nanmean(found)
    shape = terms.shape[:-1]

    def p_value(S, reached):
        return jnp.where(jnp.isnan(S), jnp.nan, (1 + reached) / (1 + draws)).astype(found.dtype)

    return RotationNull(
        sparseness=found.reshape(shape),
        null_sparseness=(total / draws).reshape(shape),
        p_value=p_value(found, reached).reshape(shape),
        head_sparseness=head,
        head_null=head_null,
        head_p_value=p_value(head, (head_null <= head).sum()),
    )
