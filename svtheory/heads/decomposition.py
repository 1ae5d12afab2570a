"""Decomposition: an attention score as a sum of terms, one a singular pair (T11).

With `F_Q, F_K` the factors of a convention, `F_Q^T F_K = sum_k sigma_k u_k v_k^T`, and inputs x, y with
`F_Q x = q`, `F_K y = k`, the query and the key that the head compares, the score is `q^T k = sum_k c_k`,
`c_k = sigma_k (u_k^T x)(v_k^T y)`. Biases and rotary positions that the factors do not hold move the inputs by the
shortest way, `x = r + F_Q^+ (q - F_Q r)`: a bias by the offset `W_Q^+ b_Q`.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checks import InputError, concrete, one_of, real_array
from svtheory.heads.weights import Head, bilinear
from svtheory.numerics import exact_products, inverse, numerical_rank_tolerance, root, scaled, shifted
from svtheory.pytrees import pytree
from svtheory.spectra.balanced import BalancedSpectrum
from svtheory.spectra.perturbation import nameable
from svtheory.spectra.spectra import Spectrum, product_rounding, spectrum_of

CONVENTIONS = {
    "plain": (),
    "augmented-last": ("query", "key"),
    "augmented-first": ("query", "key"),
    "query-side": ("query",),
    "key-side": ("key",),
    "offset": (),
}
"""Conventions, and the sides on which each holds the bias in the factor."""


@pytree("convention", "divisor", "folded", "cap")
@dataclass(frozen=True)
class Decomposition:
    """The terms of attention scores: of one query with m keys, or of many queries with the same m keys.

    A term is a product, `c_k = a_k b_k`, `a = Sigma^{1/2} U^T x` and `b = Sigma^{1/2} V^T y`, and is kept as its two
    factors: a context of T tokens takes `2 T K + T^2` numbers, where its terms would take `T^2 K`.

    query       a, shape (K,), or (..., T, K) for T queries
    keys        b, shape (..., m, K)
    visible     which keys a query sees, shape (m,) or (..., T, m)
    index       the key whose score is explained, shape () or (..., T)
    spectrum    of `F_Q^T F_K`: left (D, K) and right (D', K) may differ in dimension
    named       whether a singular pair has a gap above the rounding of its matrix (T14), shape (K,): the others fix
                only a subspace, and a single term of theirs means nothing
    convention  one of CONVENTIONS
    divisor     what scores are divided by before the softmax; terms are not
    folded      whether normalisation had been folded into the head
    error       how far the sums of a query's terms are from the scores that its head computes, the largest distance
                over the keys it sees, shape () or (..., T); over the divisor, what terms say wrongly of what is
                softmaxed. NaN for terms that came without a head
    cap         of what is softmaxed, or None; neither scores nor terms know it
    """

    query: Array
    keys: Array
    visible: Array
    index: Array
    spectrum: Spectrum
    named: Array
    convention: str
    divisor: float
    folded: bool
    error: Array | float = float("nan")
    cap: float | None = None

    @property
    def terms(self) -> Array:
        """`c_k` of every key, shape (m, K) or (..., T, m, K); their sums over k are `scores`."""
        keys = self.keys if self.query.ndim < self.keys.ndim else self.keys[..., None, :, :]
        return self.query[..., None, :] * keys

    @property
    def explained(self) -> Array:
        """`c_k` of the key `index`, shape (K,) or (..., T, K)."""
        return self.query * self._chosen()

    @property
    @exact_products
    def scores(self) -> Array:
        """`q^T k = sum_k c_k`, before the divisor, shape (m,) or (..., T, m)."""
        return _products(self.query, self.keys)

    @property
    def attention(self) -> Array:
        """Softmax of `scores / divisor`, capped where there is a cap, over the visible keys, (m,) or (..., T, m)."""
        return attention_weights(capped(self.scores / self.divisor, self.cap), self.visible)

    @exact_products
    def over_keys(self, weights: Array) -> Array:
        """`sum_j weights_j b_j` for weights (m,) or (..., T, m), shape (K,) or (..., T, K)."""
        if self.query.ndim < self.keys.ndim:
            return (weights[..., None, :] @ self.keys)[..., 0, :]
        return weights @ self.keys

    def relative_key(self) -> Array:
        """`b_index - mean of the other visible b`, shape (K,) or (..., T, K); 0 for a query that sees no other key."""
        visible, chosen = self.visible.astype(self.keys.dtype), self._chosen()
        seen = jnp.take_along_axis(visible, self.index[..., None], axis=-1)
        others = visible.sum(axis=-1, keepdims=True) - seen
        mean = (self.over_keys(visible) - seen * chosen) * inverse(others)
        return jnp.where(others > 0, chosen - mean, 0)

    @property
    def size(self) -> Array:
        """The largest term of each query with any key, shape () or (..., T)."""
        largest = jnp.abs(self.keys).max(axis=-2, keepdims=self.query.ndim == self.keys.ndim)
        return (jnp.abs(self.query) * largest).max(axis=-1)

    @property
    @exact_products
    def most_attended(self) -> Array:
        """The visible key of the largest score, shape () or (..., T)."""
        if self.query.ndim < self.keys.ndim:
            return jnp.where(self.visible, self.scores, -jnp.inf).argmax(axis=-1)
        # keys before queries: a CPU takes a maximum over the last axis number by number
        scores = jnp.where(self.visible.swapaxes(-1, -2), self.keys @ self.query.swapaxes(-1, -2), -jnp.inf)
        m = scores.shape[-2]
        places = jnp.arange(m).reshape((1,) * (scores.ndim - 2) + (m, 1))
        return jnp.where(scores == scores.max(axis=-2, keepdims=True), places, m).min(axis=-2, initial=m - 1)

    def _chosen(self) -> Array:
        """The b of the key `index`, shape (K,) or (..., T, K)."""
        if self.query.ndim < self.keys.ndim:
            return jnp.take_along_axis(self.keys, self.index[..., None, None], axis=-2)[..., 0, :]
        return jnp.take_along_axis(self.keys, self.index[..., None], axis=-2)


def without_padding(decomposition: Decomposition, real: Array) -> Decomposition:
    """The decomposition of causal contexts (..., T, D) in which padding decides nothing: it sees its own key alone.

    real (..., T) is False where a context has ended; no token before that sees what stands there.
    """
    T = real.shape[-1]
    own = jnp.broadcast_to(jnp.eye(T, dtype=bool), decomposition.visible.shape)
    visible = jnp.where(real[..., None], decomposition.visible, own)
    index = jnp.where(real, decomposition.index, jnp.arange(T).reshape((1,) * (real.ndim - 1) + (-1,)))
    return dataclasses.replace(decomposition, visible=visible, index=index)


@exact_products
def read_balanced(
    decomposition: Decomposition, head: Head, q: Array, k: Array, modes: BalancedSpectrum
) -> Decomposition:
    """The same scores as the sum of terms of balanced modes, `c_k = sigma~_k (p_k^T r)(p'_k^T s)` (T22).

    `p_k = W_Q^T W_K f'_k / sigma~_k` is mode k's query probe on all inputs, f' its key pattern, and so its part is a
    function of the query alone, `q^T W_K f'_k / sqrt(sigma~_k)`; as of the key. Modes that the data do not see
    have none. q and k are the queries (..., T, H) and keys (..., m, H) that the head compares, `modes` its balanced
    spectrum. `error` is what modes that are not seen leave out of scores.
    """
    visible, (A, B) = decomposition.visible, mode_factors(head, modes)
    a, b = q @ A, k @ B
    spectrum = Spectrum(modes.query_patterns, modes.values, modes.key_patterns, modes.gaps)
    made = dataclasses.replace(decomposition, query=a, keys=b, spectrum=spectrum, named=nameable(spectrum))
    error = jnp.where(visible, jnp.abs(made.scores - _products(q, k)), 0).max(axis=-1)
    return dataclasses.replace(made, error=error)


@exact_products
def mode_factors(head: Head, modes: BalancedSpectrum) -> tuple[Array, Array]:
    """What makes terms of a query q and a key k, (H, K) each: `q^T k = sum_k (q^T A)_k (k^T B)_k` (T22).

    `A = W_K F' / sqrt(sigma~)`, `B = W_Q F / sqrt(sigma~)`, of the patterns F and F'; 0 for modes that are not seen.
    """
    seen = modes.values > numerical_rank_tolerance(modes.values, len(modes.values))
    scale = root(inverse(modes.values, seen))[None, :]
    return (head.W_K @ modes.key_patterns) * scale, (head.W_Q @ modes.query_patterns) * scale


def capped(logits: Array, cap: float | None) -> Array:
    """`cap tanh(logits / cap)`, or the logits themselves."""
    return logits if cap is None else cap * jnp.tanh(logits / cap)


def attention_weights(logits: Array, visible: Array) -> Array:
    """Softmax over the last axis, exactly 0 where a key is not visible."""
    return jax.nn.softmax(jnp.where(visible, logits, -jnp.inf), axis=-1)


@exact_products
def attention(head: Head, tokens: Array) -> Array:
    """The attention that tokens (..., T, D), at positions 0 to T-1, pay each other by one head, shape (..., T, T)."""
    at = jnp.arange(tokens.shape[-2])
    logits = capped(_products(head.queries(tokens, at), head.keys(tokens, at)) / head.divisor, head.cap)
    return attention_weights(logits, jnp.broadcast_to(visible_keys(head, at, len(at)), logits.shape))


def relative_attention(decomposition: Decomposition) -> Array:
    """The terms of relative attention, `c_k(index) - mean over the other visible keys of c_k`, (K,) or (..., T, K).

    They sum to `l_j - (1/(m-1)) sum_{i != j} l_i`, so that what raises all keys alike drops out (T11). 0 for a query
    that sees no other key: nothing is compared, and its sparseness is undefined.
    """
    return decomposition.query * decomposition.relative_key()


def decompose(
    head: Head,
    query: Array,
    keys: Array,
    index: Array | int | None,
    convention: str = "plain",
    position: Array | int | None = None,
) -> Decomposition:
    """Decompose the scores of a query, or of all queries of a context, with keys at positions 0 to m-1 (T11).

    A query of a causal head sees the keys up to its own position, of a windowed one the last of them, of any other all;
    a cap acts on whole scores, after their terms are summed. The convention fixes the factors:
    "plain": `F = W`, a bias moves the input (accpp2026); "augmented-last", "augmented-first": `F = (W, b)` on tokens
    (x; 1), the coordinate of the bias last (sad2024) or first; "query-side", "key-side": augmented, last, on that side,
    while the other side's bias moves its input (acc2025, which leaves that bias out). A bias that is missing, or seen
    to be 0 (not while JAX traces it), adds no coordinate. In these, rotary positions move the inputs too: there is one
    decomposition for all positions, and terms depend on both positions, not on their distance alone. "offset": plain,
    but at the distance d of query and key `index`: `F_K = R_d^T W_K`, so that this key's own terms need no rotation.

    A query-key norm rescales tokens: terms carry its two scalars, `x = r/rms(W_Q r)` and `y = s/rms(W_K s)`, and the
    factors its gains; rotary maps act after (T23).

    query (D,) with keys (m, D'), at `position`, by default m-1; or queries (..., T, D) with keys (..., m, D') at
    positions (T,), by default 0 to T-1 where T = m: a causal context is `decompose(head, tokens, tokens, None)`.
    index is a key that the query sees, a number or (..., T); None takes the key most attended. All follow the dtype of
    the head. Works under jit and vmap, and under lax.map for stacked heads. Where a factor is rank-deficient, or H > D,
    no input may reach q: the terms then sum to the score of the nearest that one can, and `error` says how far that is.
    Raises InputError for shapes that disagree, an index or position out of range, an unknown convention, or "offset"
    for several queries or without an index.

    >>> head = Head(jnp.eye(2), jnp.eye(2), b_Q=jnp.array([1.0, 0.0]))
    >>> d = decompose(head, jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0], [1.0, 1.0]]), index=1)
    >>> d.scores.tolist(), d.named.tolist()  # equal singular values: their vectors are not named
    ([2.0, 4.0], [False, False])
    """
    one_of("convention", convention, tuple(CONVENTIONS))
    r, s = (real_array(name, x).astype(head.W_Q.dtype) for name, x in (("query", query), ("keys", keys)))
    m = shared_keys(head, r, s)
    p = query_positions(position, r, m)
    visible = jnp.broadcast_to(visible_keys(head, p, m), (*r.shape[:-1], m))
    chosen = None if index is None else _indices(index, visible)
    if convention == "offset" and (r.ndim > 1 or chosen is None):
        raise InputError(f'convention "offset" takes one query and an index, got query of shape {r.shape}')
    return _decompose(_without_zero_biases(head), r, s, p, visible, chosen, convention)


@partial(jax.jit, static_argnames=("convention",))
@exact_products
def _decompose(
    head: Head, r: Array, s: Array, p: Array, visible: Array, chosen: Array | None, convention: str
) -> Decomposition:
    at, rotary, given = jnp.arange(s.shape[-2]), head.frequencies is not None, (head, r, s)
    head, r, s = bilinear(*given)
    origin, W_K = 0, head.W_K
    if convention == "offset":
        assert chosen is not None
        origin, W_K = p, head.rotated(W_K.T, chosen - p).T
    q, k = given[0].queries(given[1], p - origin), given[0].keys(given[2], at - origin)
    F_Q, x = _inputs(head.W_Q, head.b_Q, r, q, "query" in CONVENTIONS[convention], rotary)
    F_K, y = _inputs(W_K, head.b_K, s, k, "key" in CONVENTIONS[convention], rotary)
    left, values, right = _svd_of_product(F_Q, F_K)
    root = jnp.diag(jnp.sqrt(values))
    a, b = x @ (left @ root), y @ (right @ root)
    if convention != "augmented-first":
        left, right = (jnp.roll(u, W.shape[1] - len(u), axis=0) for u, W in ((left, head.W_Q), (right, head.W_K)))
    found = spectrum_of(left, values, right, product_rounding(F_Q, F_K))
    made = Decomposition(a, b, visible, at[0], found, nameable(found), convention, head.divisor, head.folded)
    off = jnp.abs(made.scores - _products(q, k))
    error = jnp.where(visible, off, 0).max(axis=-1)
    if chosen is None:
        chosen = made.most_attended
    return dataclasses.replace(made, index=chosen, error=error, cap=head.cap)


def _without_zero_biases(head: Head) -> Head:
    zero = [b for b in ("b_Q", "b_K") if concrete(x := getattr(head, b)) and x is not None and not np.asarray(x).any()]
    return dataclasses.replace(head, **dict.fromkeys(zero)) if zero else head


def visible_keys(head: Head, p: Array, m: int) -> Array:
    """Which of m keys queries at p, () or (T,), see; shape (m,) or (T, m)."""
    behind = p[..., None] - jnp.arange(m).reshape((1,) * p.ndim + (m,))
    seen = behind >= 0 if head.causal else jnp.ones_like(behind, bool)
    return seen if head.window is None else seen & (behind < min(head.window, m))


def _products(q: Array, k: Array) -> Array:
    """`q^T k` of one query (H,) or queries (..., T, H) with keys (..., m, H)."""
    return (k @ q[..., None])[..., 0] if q.ndim < k.ndim else q @ k.swapaxes(-1, -2)


def _inputs(W: Array, b: Array | None, tokens: Array, goal: Array, held: bool, rotary: bool) -> tuple[Array, Array]:
    """The factor F of a side, and the inputs x nearest to its tokens with `F x = goal`.

    A bias that the factor holds is its first column here: factorisations keep what is small beside a large bias only
    behind it.
    """
    F, x = W, tokens
    if held and b is not None:
        F = jnp.concatenate([b[:, None], W], axis=1)
        x = jnp.concatenate([jnp.ones((*tokens.shape[:-1], 1), tokens.dtype), tokens], axis=-1)
    if rotary or (b is not None and not held):
        pseudoinverse = _pseudoinverse(F)
        for _ in range(2):  # the second step takes back the rounding of the first
            x = x + (goal - x @ F.T) @ pseudoinverse.T
    return F, x


def _svd(A: Array) -> tuple[Array, Array, Array]:
    """Thin SVD by QR iterations, which keep small values beside large ones where divide and conquer loses them."""
    U, values, Vt = lax.linalg.svd(A, full_matrices=False, algorithm=lax.linalg.SvdAlgorithm.QR)
    return U, values, Vt


def _pseudoinverse(F: Array) -> Array:
    """`F^+`; values are cut that the rounding of the longest row may have made."""
    U, values, Vt = _svd(F)
    cut = F.shape[0] * jnp.finfo(F.dtype).eps * jnp.linalg.norm(F, axis=1).max()
    return (Vt.T * inverse(values, values > cut)[None, :]) @ U.T


def _svd_of_product(F_Q: Array, F_K: Array) -> tuple[Array, Array, Array]:
    """Left vectors, values and right vectors of `F_Q^T F_K`, by triangular factors, each taken as it is found.

    What `spectrum` does, but for small values beside that of a large first column: products that stand in for a factor
    would bury those in rounding. At unit size, so that tiny weights do not underflow on the way.
    """
    (F_Q, q), (F_K, k) = scaled(F_Q), scaled(F_K)
    Q, R = jnp.linalg.qr(F_Q.T)
    P, L = jnp.linalg.qr(F_K.T @ R.T)
    U, values, Vt = _svd(L)
    return Q @ Vt.T, shifted(values, q + k), P @ U


def shared_keys(head: Head, r: Array, s: Array) -> int:
    """The number of keys, after a check that queries and keys fit the head and each other."""
    D, D_key = head.W_Q.shape[1], head.W_K.shape[1]
    if r.ndim == 0 or r.shape[-1] != D:
        raise InputError(f"query must have {D} columns, as W_Q, got shape {r.shape}")
    if s.ndim != max(r.ndim, 2) or s.shape[-1] != D_key or s.shape[:-2] != r.shape[:-2]:
        raise InputError(f"keys must have shape {(*r.shape[:-2], 'm', D_key)}, got {s.shape}")
    return s.shape[-2]


def query_positions(position: Array | int | None, r: Array, m: int) -> Array:
    """The positions of queries (D,) or (..., T, D), shape () or (T,)."""
    if position is None and r.ndim > 1 and r.shape[-2] != m:
        raise InputError(f"position must be given for {r.shape[-2]} queries and {m} keys")
    if position is None:
        return jnp.arange(m) if r.ndim > 1 else jnp.asarray(m - 1)
    return whole_below("position", position, r.shape[-2:-1], m)


def _indices(index: Array | int, visible: Array) -> Array:
    chosen = whole_below("index", index, visible.shape[:-1], visible.shape[-1])
    seen = jnp.take_along_axis(visible, chosen[..., None], axis=-1)
    if concrete(seen) and not np.asarray(seen).all():
        raise InputError("index must be a key that its query sees, got one that it does not")
    return chosen


def whole_below(name: str, given: Array | int, shape: tuple[int, ...], size: int) -> Array:
    """Whole numbers of this shape from 0 to below `size`; raises InputError for others."""
    x = jnp.asarray(given)
    if x.shape != shape or not jnp.issubdtype(x.dtype, jnp.integer):
        raise InputError(f"{name} must be whole numbers of shape {shape}, got {x.dtype} of shape {x.shape}")
    if concrete(x) and not ((np.asarray(x) >= 0) & (np.asarray(x) < size)).all():
        raise InputError(f"{name} must lie from 0 to {size - 1}, got {np.asarray(x).tolist()}")
    return x
