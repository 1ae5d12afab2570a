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
null, which heads that read the same tokens share; the rest is in H dimensions.
"""

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from svtheory.checks import InputError, concrete, one_of, random_key, real_array, whole
from svtheory.factorisations import safe_svd, tall_svd
from svtheory.geometry.arrangements import haar_frame
from svtheory.heads.decomposition import (
    Decomposition,
    _positions,
    _shared_keys,
    _whole_below,
    decompose,
    relative_attention,
    without_padding,
)
from svtheory.heads.sparsity import decision_sparseness
from svtheory.heads.weights import Head, affine, bilinear
from svtheory.numerics import exact_products, inverse, numerical_rank_tolerance

NULLS = ("raw", "balanced")
READINGS = ("raw", "balanced")


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


class _Tokens(NamedTuple):
    """The tokens of a side as a null rotates them.

    coordinates  (n, d), in a space whose rotations are the null's
    other        what takes a frame (d, K) there to the space of the other null: raw `A^{1/2}` (R, d); balanced the
                 diagonal of `A^{+1/2}` (d,), 0 outside the range of the tokens
    """

    coordinates: Array
    other: Array


class _Factor(NamedTuple):
    """A side of a head on such coordinates: queries are `L E^T x + shift`, E (d, K) orthonormal, Haar in random heads.

    matrix   L (H, K), K = min(H, d)
    inverse  L^+ (K, H)
    shift    (H,), or None for 0
    """

    matrix: Array
    inverse: Array
    shift: Array | None


class _Head(NamedTuple):
    """A head, its query and key factor for either null, and its basis of either reading on the frames of its null.

    raw_bases       `E^T U Sigma^{1/2}` and `E^T V Sigma^{1/2}`, (K, K)
    balanced_bases  the same of the head as its data see it
    """

    head: Head
    raw: tuple[_Factor, _Factor]
    balanced: tuple[_Factor, _Factor]
    raw_bases: tuple[Array, Array]
    balanced_bases: tuple[Array, Array]


class ReadTogether(NamedTuple):
    """Heads that read the same tokens, ready to be compared with random ones.

    heads       stacked on a first axis
    sparseness  S of their decisions, (readings, heads) or (readings, heads, ..., T)
    like        a decomposition of these tokens: which keys are visible
    given       indices of the keys that all heads explain, or None where each chooses its own
    positions   of the queries
    raw         tokens of the query and of the key side
    balanced    the same, whitened
    """

    heads: _Head
    sparseness: Array
    like: Decomposition
    given: Array | None
    positions: Array
    raw: tuple[_Tokens, _Tokens]
    balanced: tuple[_Tokens, _Tokens]


def read_together(
    heads: Head,
    queries: Array,
    keys: Array,
    choose: Literal["attended"] | Array = "attended",
    position: Array | int | None = None,
    readings: int = 1,
    real: Array | None = None,
) -> ReadTogether:
    """What `compare_with_random_heads` needs of heads that read the same tokens, arguments as for `sparseness_test`.

    Of the READINGS the first `readings`. `heads` is a Head whose arrays are stacked on a first axis. The tokens are
    factorised once, each head once a side. Of causal contexts, whose keys are their queries, `real` (..., T) is False
    where there is padding behind the last token: it has no part in moments, and decides nothing. Raises InputError as
    `sparseness_test` does.
    """
    if not (heads.query_norm is heads.key_norm is None):
        raise InputError("heads must have no query-key norm to be read together: each rescales the tokens for itself")
    first = jax.tree.map(lambda x: x[0], heads)
    r, s = (real_array(name, x).astype(heads.W_Q.dtype) for name, x in (("queries", queries), ("keys", keys)))
    m = _shared_keys(first, r, s)
    positions = _positions(position, r, m)
    if isinstance(choose, str):
        one_of("choose", choose, ("attended",))
        given = None
    else:
        given = _whole_below("choose", choose, r.shape[:-1], m)
    together = _read_together(heads, r, s, positions, given, readings, real)
    if given is not None:
        seen = jnp.take_along_axis(together.like.visible, given[..., None], axis=-1)
        if concrete(seen) and not np.asarray(seen).all():
            raise InputError("choose must hold keys that their queries see, got one that is not visible")
    return together


@partial(jax.jit, static_argnames=("readings",))
@exact_products
def _read_together(
    heads: Head, r: Array, s: Array, positions: Array, given: Array | None, readings: int, real: Array | None
) -> ReadTogether:
    found = lax.map(lambda head: decompose(head, r, s, given, position=positions), heads)
    if real is not None:
        found = jax.vmap(without_padding, in_axes=(0, None))(found, real)
    root = jnp.sqrt(found.spectrum.values)[:, None, :]
    x, y = r.reshape(-1, r.shape[-1]), s.reshape(-1, s.shape[-1])
    rotary = heads.frequencies is not None
    b_K = heads.b_K if rotary else None  # without positions it gives all keys alike
    query_frame, raw_query = _factored(heads.W_Q, heads.b_Q)
    key_frame, raw_key = _factored(heads.W_K, b_K)
    raw_q, balanced_q, own_query, balanced_query = _whitened(heads.W_Q, heads.b_Q, x, real, True)
    raw_k, balanced_k, own_key, balanced_key = _whitened(heads.W_K, b_K, y, real, rotary)
    to_query, to_key = (
        E.swapaxes(-1, -2) @ (vectors * root)
        for E, vectors in ((query_frame, found.spectrum.left), (key_frame, found.spectrum.right))
    )
    modes = lax.map(lambda L: safe_svd(L[0].T @ L[1]), (balanced_query.matrix, balanced_key.matrix))
    root = jnp.sqrt(modes[1])[:, None, :]
    together = ReadTogether(
        heads=_Head(
            heads,
            (raw_query, raw_key),
            (balanced_query, balanced_key),
            (to_query, to_key),
            (modes[0] * root, modes[2].swapaxes(-1, -2) * root),
        ),
        sparseness=jax.vmap(lambda d: decision_sparseness(relative_attention(d), d.size))(found)[None],
        like=jax.tree.map(lambda a: a[0], found),
        given=given,
        positions=positions,
        raw=(raw_q, raw_k),
        balanced=(balanced_q, balanced_k),
    )
    if readings == 1:
        return together

    def read_balanced(given):
        head, E, F = given
        tokens = _on_frame(balanced_q, E, r.shape), _on_frame(balanced_k, F, s.shape)
        return _sparseness(together, head.head, tokens, head.balanced, head.balanced_bases)

    balanced = lax.map(read_balanced, (together.heads, own_query, own_key))
    return together._replace(sparseness=jnp.concatenate([together.sparseness, balanced[None]]))


def _factored(W: Array, shift: Array | None) -> tuple[Array, _Factor]:
    """`W = L E^T` of every head (heads, H, d): E (heads, d, K) and the factor on it."""
    E, s, Lt = lax.map(tall_svd, W.swapaxes(-1, -2))
    kept = s > max(W.shape[1:]) * jnp.finfo(s.dtype).eps * s[:, :1]
    return E, _Factor(Lt.swapaxes(-1, -2) * s[:, None, :], inverse(s, kept)[:, :, None] * Lt, shift)


def _whitened(
    W: Array, b: Array | None, x: Array, real: Array | None, positioned: bool
) -> tuple[_Tokens, _Tokens, Array, _Factor]:
    """Tokens as they are, tokens whitened by their moment A, and of every head E and L of `W A^{1/2} = L E^T`.

    Centred where a constant is free or drops out. Whitened, tokens that are not `real` become 0.

    `positioned`: whether a constant that all tokens of the side have in common changes anything.
    """
    real = jnp.ones((len(x), 1), bool) if real is None else real.reshape(-1, 1)
    n = real.sum().astype(x.dtype)
    # of tokens all alike centring would leave nothing; seen from one of them, here the first, their mean is exact
    away = jnp.where(real, x - x[:1], 0)
    centre = jnp.abs(away).max() > 16 * jnp.finfo(x.dtype).eps * jnp.where(real, jnp.abs(x), 0).max()
    if positioned:
        centre = centre & (False if b is None else (b != 0).any())
    mean = away.sum(axis=0) / n
    P, s, Et = tall_svd(jnp.where(real, jnp.where(centre, away - mean[None, :], x), 0))
    # more samples do not make the rounding of each larger, so the smaller size counts
    present = s > numerical_rank_tolerance(s, min(x.shape))
    root = jnp.where(present, s, 0) / jnp.sqrt(n)
    shift = None if b is None else b + W @ jnp.where(centre, x[0] + mean, 0)
    E, factor = _factored((W @ Et.T) * root[None, None, :], shift)
    whitened = jnp.where(present[None, :], P, 0) * jnp.sqrt(n)
    return _Tokens(x, root[:, None] * Et), _Tokens(whitened, inverse(root)), E, factor


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
    undefined = jnp.full((readings, len(NULLS), *decisions), jnp.nan, found.dtype)

    def draw(reached, key):
        on_frames = _on_frames(together, key)

        def of_head(given):
            head, wanted = given
            return lax.cond(wanted, lambda: _random_sparseness(together, on_frames, head), lambda: undefined)

        S = jnp.swapaxes(lax.map(of_head, (together.heads, wanted)), 0, 1)
        as_sparse = (~(found[:, :, None] < S)).astype(reached.dtype)
        return reached + as_sparse, jnp.nanmean(S.reshape(*S.shape[:3], -1), axis=-1)

    start = jnp.zeros((readings, heads, len(NULLS), *decisions), int)
    reached, head_null = lax.scan(draw, start, jax.random.split(key, draws))
    head = jnp.nanmean(found.reshape(readings, heads, -1), axis=-1)
    head_null = jnp.moveaxis(head_null, 0, -1)

    def p_value(S, reached):
        share = ((1 + reached).astype(S.dtype) / (1 + draws)).max(axis=2)
        return jnp.where(jnp.isnan(S), jnp.nan, share)

    head_reached = (~(head[:, :, None, None] < head_null)).sum(axis=-1)
    return SparsenessTest(found, p_value(found, reached), head, head_null, p_value(head, head_reached))


class _OnFrames(NamedTuple):
    """What heads share of a draw: query and key tokens on the Haar frames E of either null, (..., K), and triangles.

    triangles  R of `A^{1/2} E = Q R`, query and key side: raw frames as the data see them; None where they are not read
    back       R (K, K) of `A^{+1/2} E = Q R`: balanced frames among the model's tokens
    """

    raw: tuple[Array, Array]
    balanced: tuple[Array, Array]
    triangles: tuple[Array, Array] | None
    back: tuple[Array, Array]


def _on_frames(together: ReadTogether, key: Array) -> _OnFrames:
    H, (first, second) = together.heads.head.W_Q.shape[-2], jax.random.split(key)
    query, keys = ((*x.shape[:-1], 0) for x in (together.like.query, together.like.keys))

    def on_frames(sides):
        E, F = _frame(first, sides[0], H), _frame(second, sides[1], H)
        return (E, F), (_on_frame(sides[0], E, query), _on_frame(sides[1], F, keys))

    raw_frames, raw = on_frames(together.raw)
    (E, F), balanced = on_frames(together.balanced)
    back = _triangle(E, together.balanced[0].other), _triangle(F, together.balanced[1].other)
    if len(together.sparseness) == 1:
        return _OnFrames(raw, balanced, None, back)
    seen = [jnp.linalg.qr(side.other @ E, mode="r") for side, E in zip(together.raw, raw_frames, strict=True)]
    return _OnFrames(raw, balanced, (seen[0], seen[1]), back)


def _on_frame(tokens: _Tokens, E: Array, shape: tuple[int, ...]) -> Array:
    """Tokens of a side on a frame, (..., K), as many as `shape` (..., D) has."""
    return (tokens.coordinates @ E).reshape(*shape[:-1], -1)


def _frame(key: Array, tokens: _Tokens, H: int) -> Array:
    """A Haar frame (d, K) in the range of the tokens, K = min(H, d)."""
    d, dtype = tokens.coordinates.shape[1], tokens.coordinates.dtype
    inside = tokens.other > 0 if tokens.other.ndim == 1 else jnp.ones(d, bool)
    return haar_frame(key, inside, min(H, d), dtype)


def _triangle(E: Array, scale: Array) -> Array:
    """R of `scale E = Q R`, the identity beyond the dimension of the tokens' range."""
    R = jnp.linalg.qr(scale[:, None] * E, mode="r")
    inside = jnp.arange(len(R)) < (scale > 0).sum()
    return jnp.where(inside[:, None] & inside[None, :], R, jnp.eye(len(R), dtype=R.dtype))


def _random_sparseness(together: ReadTogether, on_frames: _OnFrames, given: _Head) -> Array:
    """S of the decisions of one head with random frames, (readings, nulls, ..., T)."""
    raw, balanced = (on_frames.raw, given.raw), (on_frames.balanced, given.balanced)
    S = [[(*raw, given.raw_bases), (*balanced, _raw_bases(on_frames.back, given))]]
    if on_frames.triangles is not None:
        S.append([(*raw, _balanced_bases(on_frames.triangles, given)), (*balanced, given.balanced_bases)])
    return jnp.stack([jnp.stack([_sparseness(together, given.head, *null) for null in reading]) for reading in S])


def _raw_bases(back: tuple[Array, Array], given: _Head) -> tuple[Array, Array]:
    """`E^T U Sigma^{1/2}` and `E^T V Sigma^{1/2}` of a random head of balanced frames, (K, K)."""
    (query, key), (R_query, R_key) = given.balanced, back
    U, values, Vt = safe_svd(R_query @ (query.matrix.T @ key.matrix) @ R_key.T)
    root = jnp.sqrt(values)[None, :]
    return solve_triangular(R_query, U * root), solve_triangular(R_key, Vt.T * root)


def _balanced_bases(triangles: tuple[Array, Array], given: _Head) -> tuple[Array, Array]:
    """The same of the balanced modes of a random head of raw frames: inputs by its probes and `Sigma~^{1/2}`.

    A probe on the frame is `M R'^T v~ / sigma~`, M the product of the head's factors there: tokens need not fill it.
    """
    (query, key), (R_query, R_key) = given.raw, triangles
    M = query.matrix.T @ key.matrix
    U, values, Vt = safe_svd(R_query @ M @ R_key.T)
    root = jnp.sqrt(inverse(values, values > numerical_rank_tolerance(values, len(M))))[None, :]
    return (M @ R_key.T @ Vt.T) * root, (M.T @ R_query.T @ U) * root


def _sparseness(
    together: ReadTogether,
    head: Head,
    tokens: tuple[Array, Array],
    factors: tuple[_Factor, _Factor],
    bases: tuple[Array, Array],
) -> Array:
    """S of the decisions of a random head, from tokens on its frames and its singular vectors there."""
    positions = together.positions, jnp.arange(tokens[1].shape[-2])
    a, b = (
        _inputs(head, factor, x, at) @ basis
        for x, factor, basis, at in zip(tokens, factors, bases, positions, strict=True)
    )
    d = dataclasses.replace(together.like, query=a, keys=b)
    index = d.most_attended if together.given is None else together.given
    terms = relative_attention(dataclasses.replace(d, index=index))
    # singular values that a lower dimension of the tokens makes 0 are terms too
    return decision_sparseness(terms, d.size) * (terms.shape[-1] / together.like.query.shape[-1])


def _inputs(head: Head, factor: _Factor, x: Array, positions: Array) -> Array:
    """On the frame, the inputs that give the queries of tokens x (..., K): moved by biases and rotary maps."""
    if head.frequencies is not None:
        queries = head.rotated(affine(factor.matrix, factor.shift, x), positions)
        return queries @ factor.inverse.T
    if factor.shift is None:
        return x
    return x + (factor.inverse @ factor.shift).reshape((1,) * (x.ndim - 1) + (-1,))
