"""Counting: how many singular vectors carry an attention decision, by the three published rules."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import one_of
from svtheory.heads.decomposition import Decomposition, attention_weights, capped, relative_attention
from svtheory.numerics import exact_products, positive
from svtheory.spectra.blocks import block_sums, starts

RULES = ("sad2024", "acc2025", "accpp2026")
"""Published rules of counting the singular vectors that a score needs."""

STEPS = 64  # of the trapezoid behind accpp2026
DIGITS = 5  # to which acc2025 rounds
EXCESS = 2.5  # times the uniform weight: where accpp2026 stops


def count_vectors(decomposition: Decomposition, rule: str, tau: float = 1.0, labels: Array | None = None) -> Array:
    """How many singular vectors carry the score of key `index`, shape () or (..., T); NaN where a rule is undefined.

    "sad2024": terms c_k of the score, sorted to fall (to rise where their sum A < 0); the first count whose partial
    sum over A is strictly above `tau`. Undefined where none is: at tau = 1 when no term opposes the sum, and at A = 0.
    "acc2025": relative terms, sorted to fall; the first count with `round(partial / total, 5) >= 1`. Undefined unless
    the total is positive.
    "accpp2026": singular vectors ranked by integrated gradients of the softmax weight (all logits scaled from 0, a
    trapezoid of 64 steps) and taken out of all logits in that order until the weight falls below
    `min(1, 2.5/n)`, n the number of visible keys; 0 where it is below from the start. Undefined where it never falls
    below, as with a single key.

    Each rule was published with its own convention, "augmented-last", "query-side" and "key-side", and "plain", and
    counts here what `decomposition` holds. A small count alone shows nothing: chance needs few terms too (T11).
    With the block of each singular value in `labels` (K,), as `block_labels` finds them, a block counts as one vector,
    and its terms as their sum.
    Raises InputError for an unknown rule.
    """
    labels = jnp.arange(decomposition.query.shape[-1]) if labels is None else labels
    return _count(decomposition, one_of("rule", rule, RULES), tau, labels)


@partial(jax.jit, static_argnames=("rule", "tau"))
def _count(decomposition: Decomposition, rule: str, tau: float, labels: Array) -> Array:
    if rule == "sad2024":
        return _partial_sums_above(block_sums(decomposition.explained, labels), tau)
    if rule == "acc2025":
        return _rounded_sums_reach(block_sums(relative_attention(decomposition), labels))
    return _ablated_until_below(decomposition, labels)


def _partial_sums_above(terms: Array, tau: float) -> Array:
    total = terms.sum(axis=-1, keepdims=True)
    # with the sign of the total, rising order becomes falling
    signed = terms * jnp.sign(total)
    partial = jnp.cumsum(_falling(signed), axis=-1)
    # sums that only round above the total do not exceed it
    possible = (signed < 0).any(axis=-1) | (tau < 1)
    return _first(partial > tau * jnp.abs(total), possible & (total[..., 0] != 0)).astype(terms.dtype)


def _rounded_sums_reach(terms: Array) -> Array:
    total = terms.sum(axis=-1, keepdims=True)
    partial = jnp.cumsum(_falling(terms), axis=-1)
    share = partial / positive(total)
    return _first(jnp.round(share, DIGITS) >= 1, total[..., 0] > 0).astype(terms.dtype)


def _falling(terms: Array) -> Array:
    """The terms along the last axis, the largest first."""
    # as whole numbers of the same order, which XLA sorts several times as fast; its own inverse
    kind = jnp.dtype(f"int{8 * terms.dtype.itemsize}")

    def turned(bits):
        return jnp.where(bits < 0, bits ^ jnp.iinfo(kind).max, bits)

    rising = lax.sort(turned(lax.bitcast_convert_type(terms, kind)), is_stable=False)
    return lax.bitcast_convert_type(turned(rising), terms.dtype)[..., ::-1]


def _first(reached: Array, defined: Array) -> Array:
    """The count of the first True along the last axis, NaN where there is none or the rule is not `defined`."""
    return jnp.where(defined & reached.any(axis=-1), (1 + reached.argmax(axis=-1)).astype(float), jnp.nan)


def _ablated_until_below(d: Decomposition, labels: Array) -> Array:
    m, K = d.keys.shape[-2:]
    shape = d.index.shape
    T = shape[-1] if d.query.ndim == d.keys.ndim else 1
    # a context at a time: what its queries need of its keys stays in the processor's cache
    contexts = d.query.reshape(-1, T, K), d.keys.reshape(-1, m, K), d.visible.reshape(-1, T, m), d.index.reshape(-1, T)
    count = partial(_ablations, labels=labels, divisor=d.divisor, cap=d.cap)
    return lax.map(lambda context: count(*context), contexts).reshape(shape)


@exact_products
def _ablations(
    a: Array, b: Array, visible: Array, index: Array, labels: Array, divisor: float, cap: float | None
) -> Array:
    """accpp2026 of queries a (T, K) with keys b (m, K), blocks by `labels` (K,)."""
    b = b / divisor
    gradients = jax.vmap(partial(integrated_gradients, cap=cap), in_axes=(0, None, 0, 0))
    given = block_sums(gradients(a, b, visible, index), labels)
    # a block is ablated in the place of its first; the others follow all that do something
    order = jnp.argsort(jnp.where(starts(labels)[None, :], -given, jnp.inf), axis=1)

    def weight(kept):
        weights = attention_weights(capped(jnp.where(kept, a, 0) @ b.T, cap), visible)
        return jnp.take_along_axis(weights, index[:, None], axis=1)[:, 0]

    def ablated(kept, block):
        kept = kept & (labels[None, :] != block[:, None])
        return kept, weight(kept)

    all_kept = jnp.ones(a.shape, bool)
    weights = jnp.concatenate([weight(all_kept)[None], lax.scan(ablated, all_kept, labels[order].T)[1]])
    below = weights < jnp.minimum(1, EXCESS / visible.sum(axis=1).astype(a.dtype))[None, :]
    return jnp.where(below.any(axis=0), below.argmax(axis=0).astype(a.dtype), jnp.nan)


@exact_products
def integrated_gradients(a: Array, b: Array, visible: Array, index: Array, cap: float | None = None) -> Array:
    """What each singular vector gives to the softmax weight w of key `index`, shape (K,); their sum is w - 1/n.

    `a_k int_0^1 w (b_index - sum_j w_j b_j)_k dx`, the weights w_j at logits `x b a`, by a trapezoid of 64 steps. One
    query a (K,), keys b (m, K), divided by the divisor, visible (m,); with a cap, its slope is in the integral.
    """
    logits = b @ a
    own = jax.nn.one_hot(index, len(b), dtype=b.dtype)

    def gradient(total, node):
        x, dx = node
        w = attention_weights(capped(x * logits, cap), visible)
        slope = 1 if cap is None else 1 - jnp.tanh(x * logits / cap) ** 2
        return total + dx * w[index] * (own - w) * slope, None

    nodes = jnp.linspace(0, 1, STEPS + 1, dtype=a.dtype)
    steps = jnp.full(STEPS + 1, 1 / STEPS, a.dtype).at[jnp.array([0, STEPS])].divide(2)
    return a * (lax.scan(gradient, jnp.zeros_like(logits), (nodes, steps))[0] @ b)
