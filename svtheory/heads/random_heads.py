"""Random heads on the same tokens: the null that says whether a head's decisions are sparser than chance (T11, T22).

A random head reads the tokens that the head reads, through independent random rotations on either side, and chooses its
key by the same rule. What sparseness comes from the sizes of singular values and from the choice of the key it has too:
only what singular vectors have to do with tokens is gone. With R and R' Haar, tokens of moments A and B,

    raw        Omega' = R^T Omega R'                                      keeps the singular values of Omega
    balanced   Omega' = A^{+1/2} R^T [A^{1/2} Omega B^{1/2}] R' B^{+1/2}  keeps those of the bracket (T22)

in the factors `W_Q' = W_Q R`, or `W_Q A^{1/2} R A^{+1/2}` with R within the range of A. The random head is decomposed
as the head itself is, of which it has its own S: read raw into the singular pairs of Omega', or balanced into those of
`A^{1/2} Omega' B^{1/2}`, whose terms sum to the same scores.

Only H dimensions of a token enter, so that a draw costs one product of the tokens with a Haar frame (D, H) a side and
null, which heads that read the same tokens share; the rest is in H dimensions. Both nulls' frames of a draw are made of
the same normal numbers: each null has its own law, and the larger of two p-values holds however they depend.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from svtheory.checks import random_key, whole
from svtheory.factorisations import after, safe_svd
from svtheory.geometry.arrangements import haar_frames_within
from svtheory.heads.batches import in_batches
from svtheory.heads.random_frames import on_frame, scaled_triangles, triangles
from svtheory.heads.read_together import FramedHead, ReadTogether, read_together, sparseness_on_frames
from svtheory.heads.weights import Head, bilinear
from svtheory.numerics import exact_products, inverse, numerical_rank_tolerance
from svtheory.threefry import normal

NULLS = ("raw", "balanced")
AT_ONCE = 2**19
"""How many numbers of tokens on a frame draws make together: more leave a core's cache."""


class SparsenessTest(NamedTuple):
    """Treves-Rolls sparseness S of relative attention, beside that of random heads on the same tokens.

    sparseness       S of every decision, shape () or (..., T); NaN where undefined
    p_value          share of draws and decision in which S is as small as the decision's, the larger of the two nulls',
                     of the same shape; NaN where S is undefined
    head_sparseness  mean of S over the decisions of the head that are defined, shape ()
    head_null        the same mean of every random head, of its raw and of its balanced spectrum, shape (2, draws)
    head_p_value     share of draws and head in which that mean is as small as the head's, the larger of the two nulls',
                     shape ()
    """

    sparseness: Array
    p_value: Array
    head_sparseness: Array
    head_null: Array
    head_p_value: Array


def sparseness_test(
    head: Head,
    queries: Array,
    keys: Array,
    key: Array,
    draws: int,
    choose: Literal["attended"] | Array = "attended",
    position: Array | int | None = None,
) -> SparsenessTest:
    """Test whether a head's decisions are sparser than those of random heads of its spectrum (T11, T22).

    Null hypothesis: what the head reads has no more to do with its singular vectors than a random rotation has; either
    of the weights, or of the weights seen in whitened tokens. Kept are the tokens, their positions and which keys are
    visible; the singular values (raw, or balanced); both biases and rotary maps, which act on queries and keys in the
    head and not on tokens; and the rule by which the key is chosen: with `choose="attended"` each random head explains
    the key that it attends to most itself, with indices, as `decompose` takes them, these keys. p is the larger of the
    two nulls' p-values: a valid one if either null is true. A random head whose decisions are undefined counts as
    sparse. p-values of decisions are not corrected for their number, that of the head allows for their dependence.

    A and B are the moments that the objective sees (T6): second moments of tokens, but covariances where a constant is
    free, on a side with a bias that is not 0, and where it makes no difference, on the key side without rotary
    positions. A centred side keeps its mean query or key and rotates what varies. Where the tokens of a side are one
    constant, they are not centred.

    Of a head with a query-key norm the tokens are those that it rescales (T23), whose scalars random heads keep.

    queries (..., T, D) and keys (..., m, D') or a query (D,), `position` as for `decompose`, in its convention "plain",
    the only one: a bias moves the input. All follow the dtype of the head. Works under jit and vmap, `draws` static.
    Raises InputError for fewer than one draw, an unknown rule, and what `decompose` refuses.
    """
    random_key("key", key)
    whole("draws", draws, 1)
    if not (head.query_norm is head.key_norm is None):
        head, queries, keys = bilinear(head, queries, keys)
    together = read_together(jax.tree.map(lambda x: x[None], head), queries, keys, choose, position)
    return jax.tree.map(lambda x: x[0, 0], compare_with_random_heads(together, key, draws))


@partial(jax.jit, static_argnames=("draws",))
@exact_products
def compare_with_random_heads(
    together: ReadTogether, key: Array, draws: int, wanted: Array | None = None
) -> SparsenessTest:
    """The sparseness test of heads that read the same tokens, all fields with first axes of readings and heads.

    One draw's frames serve all heads and readings: each p-value is what it is alone, but those of heads read together
    are not independent: their Monte-Carlo errors, which fall with the number of draws, go together.
    `wanted` (heads,), all without it: others cost nothing, and their null is NaN and their p-value 1.
    """
    found = together.sparseness
    readings, heads, *decisions = found.shape
    wanted = jnp.ones(heads, bool) if wanted is None else wanted

    def some(reached, given):
        keys, counted = given
        on_frames = _on_frames(together, keys)
        undefined = jnp.full((readings, len(NULLS), len(keys), *decisions), jnp.nan, found.dtype)

        def of_head(given):
            head, wanted = given
            of_draw = jax.vmap(lambda drawn, bases: _random_sparseness(together, drawn, head, bases), out_axes=2)
            return lax.cond(wanted, lambda: of_draw(on_frames, _bases(on_frames, head)), lambda: undefined)

        S = jnp.swapaxes(lax.map(of_head, (together.heads, wanted)), 0, 1)
        as_sparse = ~(found[:, :, None, None] < S) & counted.reshape(1, 1, 1, -1, *[1] * len(decisions))
        return reached + as_sparse.sum(axis=3), jnp.nanmean(S.reshape(*S.shape[:4], -1), axis=-1)

    start = jnp.zeros((readings, heads, len(NULLS), *decisions), int)
    keys = in_batches(jax.random.split(key, draws), 1 + AT_ONCE // _numbers(together))
    counted = (jnp.arange(keys.size) < draws).reshape(keys.shape)
    reached, head_null = lax.scan(some, start, (keys, counted))
    head_null = jnp.moveaxis(head_null, 0, 3).reshape(readings, heads, len(NULLS), -1)[..., :draws]
    head = jnp.nanmean(found.reshape(readings, heads, -1), axis=-1)

    def p_value(S, reached):
        share = ((1 + reached).astype(S.dtype) / (1 + draws)).max(axis=2)
        return jnp.where(jnp.isnan(S), jnp.nan, share)

    head_reached = (~(head[:, :, None, None] < head_null)).sum(axis=-1)
    return SparsenessTest(found, p_value(found, reached), head, head_null, p_value(head, head_reached))


def _numbers(together: ReadTogether) -> int:
    """How many numbers a draw brings of all tokens on a frame, or a head of all scores."""
    like = together.like
    return max(like.query.size, like.keys.size, like.visible.size)


class _OnFrames(NamedTuple):
    """What heads share of draws: query and key tokens on the Haar frames E of either null, (n, ..., K), and triangles.

    triangles  R of `A^{1/2} E = Q R`, query and key side: raw frames as the data see them; None where they are not read
    back       R (n, K, K) of `A^{+1/2} E = Q R`: balanced frames among the model's tokens
    """

    raw: tuple[Array, Array]
    balanced: tuple[Array, Array]
    triangles: tuple[Array, Array] | None
    back: tuple[Array, Array]


def _on_frames(together: ReadTogether, keys: Array) -> _OnFrames:
    """What heads share of the draws of some keys (n,)."""
    H, dtype, like = together.heads.head.W_Q.shape[-2], together.sparseness.dtype, together.like
    D, K = (tokens.coordinates.shape[1] for tokens in together.raw)
    normals = jax.vmap(lambda key: normal(key, (D + K, H), dtype))(keys)
    raw_E, E = haar_frames_within(normals[:, :D], together.balanced[0].other > 0)
    raw_F, F = haar_frames_within(after(E[:, 0], normals[:, D:]), together.balanced[1].other > 0)

    def on_frames(sides, E, F):
        return on_frame(sides[0], E, like.query.shape), on_frame(sides[1], F, like.keys.shape)

    raw, balanced = on_frames(together.raw, raw_E, raw_F), on_frames(together.balanced, E, F)
    query, key = together.balanced
    back = scaled_triangles(E, query.other), scaled_triangles(F, key.other)
    if len(together.sparseness) == 1:
        return _OnFrames(raw, balanced, None, back)
    query, key = together.raw
    return _OnFrames(raw, balanced, (triangles(query.other @ raw_E), triangles(key.other @ raw_F)), back)


Bases = tuple[Array, Array]


def _bases(on_frames: _OnFrames, given: FramedHead) -> tuple[Bases, Bases | None]:
    """Of random heads of balanced frames the raw bases (n, K, K), and of raw frames the balanced ones, where read.

    One draw after the other: a batch of LAPACK's waits for threads of XLA's pool while it holds one, and two batches at
    once, as of two devices of a CPU, for one another forever (seen with jaxlib 0.10.2 on two cores).
    """

    def of_draw(drawn):
        back, triangles = drawn
        raw = _raw_bases(back, given)
        if triangles is None:
            return raw, None
        R_query, R_key = triangles
        return raw, _balanced_bases((R_query, after(raw, R_key)), given)

    return lax.map(of_draw, (on_frames.back, on_frames.triangles))


def _random_sparseness(
    together: ReadTogether, on_frames: _OnFrames, given: FramedHead, bases: tuple[Bases, Bases | None]
) -> Array:
    """S of the decisions of one head with random frames, (readings, nulls, ..., T)."""
    (of_balanced, of_raw), raw = bases, [given.raw_bases]
    balanced = [of_balanced]
    if of_raw is not None:
        raw.append(of_raw)
        balanced.append(given.balanced_bases)
    nulls = (on_frames.raw, given.raw, raw), (on_frames.balanced, given.balanced, balanced)
    return jnp.stack([sparseness_on_frames(together, given.head, *null) for null in nulls], axis=1)


def _raw_bases(back: tuple[Array, Array], given: FramedHead) -> tuple[Array, Array]:
    """`E^T U Sigma^{1/2}` and `E^T V Sigma^{1/2}` of a random head of balanced frames, (K, K)."""
    (query, key), (R_query, R_key) = given.balanced, back
    U, values, Vt = safe_svd(R_query @ (query.matrix.T @ key.matrix) @ R_key.T)
    root = jnp.sqrt(values)[None, :]
    return solve_triangular(R_query, U * root), solve_triangular(R_key, Vt.T * root)


def _balanced_bases(triangles: tuple[Array, Array], given: FramedHead) -> tuple[Array, Array]:
    """The same of the balanced modes of a random head of raw frames: inputs by its probes and `Sigma~^{1/2}`.

    A probe on the frame is `M R'^T v~ / sigma~`, M the product of the head's factors there: tokens need not fill it.
    """
    (query, key), (R_query, R_key) = given.raw, triangles
    M = query.matrix.T @ key.matrix
    U, values, Vt = safe_svd(R_query @ M @ R_key.T)
    root = jnp.sqrt(inverse(values, values > numerical_rank_tolerance(values, len(M))))[None, :]
    return (M @ R_key.T @ Vt.T) * root, (M.T @ R_query.T @ U) * root
