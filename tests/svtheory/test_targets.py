import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import InputError, matching, single_pair


def test_single_pair(dtype):
    T = np.zeros((3, 4))
    T[2, 1] = -5
    assert np.array_equal(single_pair(3, 4, 2, 1, -5.0), T)
    assert single_pair(3, 4, 2, 1).dtype == dtype


def test_matching():
    T = np.zeros((3, 4))
    T[[0, 1, 1], [3, 0, 2]] = [1, 2, 3]
    assert np.array_equal(matching(3, 4, [0, 1, 1], [3, 0, 2], [1, 2, 3]), T)
    assert np.array_equal(matching(3, 4, np.array([0, 1, 1]), np.array([3, 0, 2]), np.array([1, 2, 3])), T)


def test_strengths_may_be_traced():
    assert jax.jit(lambda t: single_pair(2, 2, 0, 1, t))(3.0).tolist() == [[0, 3], [0, 0]]
    gradient = jax.grad(lambda t: matching(2, 2, [0, 1], [1, 0], t).sum())(jnp.ones(2))
    assert gradient.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: single_pair(3, 4, 3, 0), "query must be a whole number from 0 to 2, got 3"),
        (lambda: single_pair(3, 4, 0, -1), "key must be a whole number from 0 to 3, got -1"),
        (lambda: single_pair(0, 4, 0, 0), "n_query must be a whole number of at least 1, got 0"),
        (lambda: single_pair(3, 4, 0, 0, np.inf), "strength must be finite, got 1 entries that are not"),
        (
            lambda: matching(3, 4, [0, 0], [1, 1], [1.0, 2.0]),
            r"must list distinct pairs, one each, got \[0, 0\], \[1, 1\]",
        ),
        (lambda: matching(3, 4, [0, 1], [1], [1.0]), "must list distinct pairs, one each, .* and 1 values"),
        (lambda: matching(3, 4, [0], [1], [1.0, 2.0]), "must list distinct pairs, one each, .* and 2 values"),
        (lambda: matching(3, 4, [], [], []), r"strengths must not be empty, got shape \(0,\)"),
    ],
)
def test_bad_input(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
