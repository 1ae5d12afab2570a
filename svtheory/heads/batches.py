"""Batches: what is done many times, so many at once as fit, and never two batches of factorisations side by side."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def after(done: object, x: Array) -> Array:
    """`x`, computed after `done`: two batches of factorisations at once can deadlock on few cores."""
    last = jax.tree.leaves(jax.lax.stop_gradient(done))[-1]
    return jnp.where(jnp.isnan(last).any(), jnp.nan, x)


def in_batches(x: Array, most: int) -> Array:
    """Rows (n, ...) in batches of one size, at most `most`, (rounds, each, ...): the last one once more at the end.

    Batches of one size, since what is left over would be computed beside the others: factorisations can deadlock so.
    """
    rounds = -(-len(x) // most)
    each = -(-len(x) // rounds)
    return x[np.minimum(np.arange(rounds * each), len(x) - 1)].reshape(rounds, each, *x.shape[1:])
