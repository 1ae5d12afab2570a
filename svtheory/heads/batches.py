"""Batches: what is done many times, so many at once as fit."""

import numpy as np
from jax import Array


def in_batches(x: Array, most: int) -> Array:
    """Rows (n, ...) in batches of one size, at most `most`, (rounds, each, ...): the last one once more at the end.

    Batches of one size, since what is left over would be computed beside the others: factorisations can deadlock so.
    """
    rounds = -(-len(x) // most)
    each = -(-len(x) // rounds)
    return x[np.minimum(np.arange(rounds * each), len(x) - 1)].reshape(rounds, each, *x.shape[1:])
