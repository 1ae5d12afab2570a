"""Turned heads: how well hypotheses explain heads that have nothing to do with their features (T16).

Once the whitened form `A^{1/2} Omega B^{1/2}` between independent Haar rotations of the ranges of A and B, which keep
what the data see of the head's spectrum; once Omega itself between rotations of all D and D' dimensions, which keep its
singular values. Heads that read the same samples share their rotations, and both nulls of a draw are made of the same
normal numbers: each has its own law, and the larger of two p-values holds however they depend.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.factorisations import after
from svtheory.geometry.arrangements import haar_frames_within
from svtheory.heads.asked import Asked, Layout
from svtheory.heads.batches import in_batches
from svtheory.heads.fitted_time import at_best_times
from svtheory.spectra.balanced import balanced
from svtheory.spectra.spectra import spectrum
from svtheory.threefry import normal

NULLS = ("whitened", "raw")


def turned_heads(key: Array, draws: int, factors: tuple[Array, Array], asked: Asked, layout: Layout) -> Array:
    """Functional cosines of hypotheses with turned heads, each at its own best time and member, (h, A, 2, draws).

    Factors (h, H, D) and (h, H, D') of heads whose own are not tiny.
    """
    factors, asked = lax.stop_gradient((factors, asked))
    q, k, share = asked.query, asked.key, asked.share
    q_root, k_root = q.scale, k.scale
    raw = lax.map(lambda W: spectrum(*W).values, factors)
    seen = lax.map(lambda W: balanced(W[0], W[1], q.moment, k.moment).values, (after(raw, factors[0]), factors[1]))
    D, K = len(q.basis), raw.shape[1]

    def some(keys):
        normals = jax.vmap(lambda key: normal(key, (D + len(k.basis), K), raw.dtype))(keys)
        U, P = haar_frames_within(normals[:, :D], q_root > 0)
        V, Q = haar_frames_within(after(P[:, 0], normals[:, D:]), k_root > 0)
        of_seen = of_heads(P[:, :, : seen.shape[1]], seen, Q[:, :, : seen.shape[1]])
        # any coordinates are as good as those in the eigenbasis
        U, V = q_root[None, :, None] * U[:, : len(q_root)], k_root[None, :, None] * V[:, : len(k_root)]
        return jnp.stack([of_seen, of_heads(U, raw, V)], axis=2)

    def of_heads(P, values, Q):
        """Cosines of heads `P diag(values) Q^T`, frames (n, r, K) and (n, r', K), values (h, K); (h, n, A)."""
        O = (P[None] * values[:, None, None, :]) @ Q.swapaxes(1, 2)[None]
        return layout.best(at_best_times(asked.flat, O.reshape(-1, share.shape[1]), share)).reshape(*O.shape[:2], -1)

    keys = in_batches(jax.random.split(key, draws), 1 + 2**21 // (len(raw) * asked.rates.size))
    found = lax.map(some, keys)  # (rounds, h, n, 2, A)
    return jnp.moveaxis(found, 0, 1).reshape(len(raw), -1, *found.shape[3:])[:, :draws].transpose(0, 3, 2, 1)
