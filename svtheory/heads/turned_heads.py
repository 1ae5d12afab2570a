"""Turned heads: how well hypotheses explain heads that have nothing to do with their features (T16).

Once the whitened form `A^{1/2} Omega B^{1/2}` between independent Haar rotations of the ranges of A and B, which keep
what the data see of the head's spectrum; once Omega itself between rotations of all D and D' dimensions, which keep its
singular values. Heads that read the same samples share their rotations.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.heads.asked import Asked, Layout, after, in_batches
from svtheory.heads.fitted_time import at_best_times
from svtheory.spectra.balanced import balanced
from svtheory.spectra.spectra import spectrum

NULLS = ("whitened", "raw")


def turned_heads(key: Array, draws: int, factors: tuple[Array, Array], asked: Asked, layout: Layout) -> Array:
    """Functional cosines of hypotheses with turned heads, each at its own best time and member, (h, A, 2, draws).

    Factors (h, H, D) and (h, H, D') of heads whose own are not tiny.
    """
    factors, asked = lax.stop_gradient((factors, asked))
    q, k, share = asked.query, asked.key, asked.share
    q_root, k_root = q.scale[:, None], k.scale[:, None]
    raw = lax.map(lambda W: spectrum(*W).values, factors)
    seen = lax.map(lambda W: balanced(W[0], W[1], q.moment, k.moment).values, (after(raw, factors[0]), factors[1]))
    inside = after(seen, _inside(q_root, k_root, len(q.basis), len(k.basis)))

    def draw(key):
        P, Q, U, V = haar_frames(key, inside, raw.shape[1])
        of_seen = (P[None, : len(q_root), : seen.shape[1]] * seen[:, None, :]) @ Q[: len(k_root), : seen.shape[1]].T
        # any coordinates are as good as those in the eigenbasis
        turned = ((q_root * U[: len(q_root)])[None] * raw[:, None, :]) @ (k_root * V[: len(k_root)]).T
        return jnp.stack([of_seen, turned], axis=1)

    def some(keys):
        O = jax.vmap(draw)(keys)
        return layout.best(at_best_times(asked.flat, O.reshape(-1, share.shape[1]), share)).reshape(*O.shape[:3], -1)

    keys = in_batches(jax.random.split(key, draws), 1 + 2**21 // (len(raw) * asked.rates.size))
    found = lax.map(some, keys)
    return found.reshape(-1, *found.shape[2:])[:draws].transpose(1, 3, 2, 0)


def _inside(q_root: Array, k_root: Array, D: int, K: int) -> Array:
    """Which coordinates each of the four frames has: of both ranges, then of both whole spaces, (4, max(D, D'), 1)."""
    spaces = (jnp.sign(q_root), jnp.sign(k_root), jnp.ones((D, 1), q_root.dtype), jnp.ones((K, 1), q_root.dtype))
    return jnp.stack([jnp.pad(space, ((0, max(D, K) - len(space)), (0, 0))) for space in spaces])


def haar_frames(key: Array, inside: Array, pairs: int) -> Array:
    """Haar frames (n, D, pairs) of the coordinates where `inside` (n, D, 1) is 1; any columns beyond their number."""
    Q, R = jnp.linalg.qr(inside * jax.random.normal(key, (*inside.shape[:2], pairs), inside.dtype))
    return Q * jnp.sign(jnp.diagonal(R, axis1=1, axis2=2))[:, None, :]
