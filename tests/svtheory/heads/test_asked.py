"""Hypotheses side by side: whose member is whose, and batches of one size."""

import jax
import jax.numpy as jnp
import numpy as np

from svtheory.heads.asked import Layout, stacked
from svtheory.heads.batches import in_batches


def test_members_are_their_hypothesis_own():
    layout = Layout((1, 3, 2), (4, 4, 2))
    assert layout.owner.tolist() == [0, 1, 1, 1, 2, 2]
    rows, at = layout.rows
    assert rows.tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 4]]
    assert rows.ravel()[at].tolist() == list(range(6))
    assert layout.best(jnp.array([[5.0, 1, 3, 2, 8, 9]])).tolist() == [[5, 3, 9]]


def test_what_a_hypothesis_lacks_in_features_is_zero():
    f, g = [np.ones((2, 1)), np.ones((2, 3))], [np.ones((4, 2)), np.ones((4, 1))]
    given, layout = stacked(f, g, [np.ones((1, 1, 2)), np.ones((2, 3, 1))])
    assert layout == Layout((1, 2), (2, 1))
    assert given.query.sum(axis=2).tolist() == [[1, 3]] * 2
    assert given.key.shape == (4, 2, 2)
    assert given.templates.sum(axis=(1, 2)).tolist() == [2, 3, 3]


def test_batches_are_of_one_size_and_leave_nothing_out():
    for n, most in ((10, 4), (9, 3), (1, 5), (7, 100)):
        batches = np.asarray(jax.jit(in_batches, static_argnums=1)(np.arange(n), most))
        assert batches.shape[1] <= most
        assert batches.ravel()[:n].tolist() == list(range(n))
        assert (batches.ravel()[n:] == n - 1).all()
        assert batches.size - n < len(batches)
