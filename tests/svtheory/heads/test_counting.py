"""The three rules on cases counted by hand, undefined ones included."""

import jax
import numpy as np
import pytest

from svtheory import Decomposition, Head, InputError, Spectrum, count_vectors, decompose
from svtheory.heads import counting

nan = np.nan
integrated_gradients = jax.jit(counting.integrated_gradients, static_argnums=4)


def of_terms(terms, index, dtype=np.float32, visible=None):
    """A decomposition of one query whose terms are the given ones, shape (m, K)."""
    b = np.asarray(terms, dtype)
    seen = np.ones(len(b), bool) if visible is None else np.asarray(visible)
    K = b.shape[1]
    one, a = np.eye(K, dtype=dtype), np.ones(K, dtype)
    given = a, b, seen, np.asarray(index), Spectrum(one, a, one, 0 * a), np.ones(K, bool)
    return Decomposition(*jax.device_put(given), "plain", 1.0, False)


@pytest.mark.parametrize(
    ("terms", "count"),
    [
        ([4.0, 3.0, -2.0], 2),  # A = 5: 4, 7 > 5
        ([6.0, 3.0, -4.0], 1),  # A = 5: 6 > 5
        ([5.0, 1.0, -1.0], 2),  # A = 5: 5 is not above 5, 6 is
        ([-4.0, 3.0, -2.0], 1),  # A = -3, rising: -4/-3 is above 1 already
        ([1.0, 2.0, 3.0], nan),  # all positive: never above
        ([-1.0, -2.0, -3.0], nan),  # all negative: never above either
        ([0.1, 0.2, 0.7], nan),  # nor by rounding
        ([2.0, -2.0, 0.0], nan),  # A = 0
        ([1.0, 0.0, 0.0], nan),
    ],
)
def test_sad2024(dtype, terms, count):
    found = count_vectors(of_terms([terms, [9.0, 9.0, 9.0]], 0, dtype), "sad2024")
    np.testing.assert_array_equal(found, count)
    assert found.dtype == dtype


def test_sad2024_at_another_level(dtype):
    d = of_terms([[5.0, 3.0, 2.0]], 0, dtype)
    counts = [count_vectors(d, "sad2024", tau) for tau in (0.4, 0.5, 0.79, 0.85, 1.0)]
    np.testing.assert_array_equal(counts, [1, 2, 2, 3, nan])  # 0.5 is not above 0.5


@pytest.mark.parametrize(
    ("terms", "index", "count"),
    [
        # others' mean is (1, 1, 1): relative terms (3, 1, -1), total 3
        ([[4.0, 2.0, 0.0], [2.0, 0.0, 1.0], [0.0, 2.0, 1.0]], 0, 1),
        # relative (2, 2, 1), total 5: all three
        ([[3.0, 2.0, 1.0], [1.0, 0.0, 0.0]], 0, 3),
        # relative (4, 1, 0.00002), total 5.00002: 5/5.00002 = 0.999996 rounds to 1
        ([[4.0, 1.0, 0.00002], [0.0, 0.0, 0.0]], 0, 2),
        # relative (4, 1, 0.00004): 5/5.00004 = 0.999992 rounds to 0.99999
        ([[4.0, 1.0, 0.00004], [0.0, 0.0, 0.0]], 0, 3),
        # a negative total
        ([[1.0, 0.0, 0.0], [3.0, 0.0, 0.0]], 0, nan),
        # total 0, and a key without others
        ([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]], 0, nan),
        ([[1.0, 2.0, 3.0]], 0, nan),
    ],
)
def test_acc2025(dtype, terms, index, count):
    np.testing.assert_array_equal(count_vectors(of_terms(terms, index, dtype), "acc2025"), count)


def test_acc2025_leaves_out_keys_after_the_query(dtype):
    terms = [[3.0, 2.0, 1.0], [1.0, 0.0, 0.0], [100.0, 100.0, 100.0]]
    np.testing.assert_array_equal(count_vectors(of_terms(terms, 0, dtype, [True, True, False]), "acc2025"), 3)


def naive_accpp(terms, index):
    """64 trapezoids of the gradient by central differences, then ablation."""
    terms = np.asarray(terms, float)
    m, K = terms.shape

    def weight(gate):
        e = np.exp(terms @ gate - (terms @ gate).max())
        return e[index] / e.sum()

    def slope(x, k):
        step = 1e-6 * np.eye(K)[k]
        return (weight(x * np.ones(K) + step) - weight(x * np.ones(K) - step)) / 2e-6

    gradients = [np.trapezoid([slope(x, k) for x in np.linspace(0, 1, 65)], dx=1 / 64) for k in range(K)]
    gate = np.ones(K)
    for n, k in enumerate([None, *np.argsort(-np.array(gradients), kind="stable")]):
        if k is not None:
            gate[k] = 0
        if weight(gate) < min(1, 2.5 / m):
            return gradients, n
    return gradients, nan


def test_accpp2026_by_hand(dtype):
    """Four keys, three silent: w = e^A/(e^A + 3), the threshold 2.5/4, passed at A = ln 5."""
    silent = [[0.0, 0.0, 0.0]] * 3
    for own, count in (([3.0, 2.0, 0.5], 2), ([3.0, 1.0, 0.5], 1), ([1.0, 0.3, 0.2], 0), ([2.0, 2.0, 1.7], 3)):
        # A: 5.5, 2.5, 0.5; 4.5, 1.5; 1.5 from the start; 5.7, 3.7, 1.7, 0; and ln 5 = 1.609
        np.testing.assert_array_equal(count_vectors(of_terms([own, *silent], 0, dtype), "accpp2026"), count)


def test_accpp2026_against_its_definition(dtype):
    for seed in range(4):
        terms = np.random.default_rng(seed).normal(size=(6, 5)) * 2
        index = int(terms.sum(axis=1).argmax())
        gradients, count = naive_accpp(terms, index)
        d = of_terms(terms, index, dtype)
        np.testing.assert_array_equal(count_vectors(d, "accpp2026"), count)
        np.testing.assert_allclose(integrated_gradients(d.query, d.keys, d.visible, d.index), gradients, atol=1e-5)
    # they sum to the weight less the uniform one
    np.testing.assert_allclose(sum(gradients), np.asarray(d.attention)[index] - 1 / 6, atol=1e-3)


def test_accpp2026_where_the_weight_cannot_fall(dtype):
    """A single key has weight 1 whatever is taken out; of two, any weight below 1 is below the threshold."""
    np.testing.assert_array_equal(count_vectors(of_terms([[3.0, 1.0]], 0, dtype), "accpp2026"), nan)
    np.testing.assert_array_equal(count_vectors(of_terms([[3.0, 1.0], [0.0, 0.0]], 0, dtype), "accpp2026"), 0)


def test_a_context_is_counted_query_by_query(dtype):
    rng = np.random.default_rng(3)
    head = Head(*rng.normal(size=(2, 4, 6)).astype(dtype))
    x = rng.normal(size=(2, 5, 6)).astype(dtype)
    d = decompose(head, x, x, None)
    index = np.asarray(d.index)
    each = [decompose(head, x[0, t], x[0], int(index[0, t]), position=t) for t in range(5)]
    for rule in ("sad2024", "acc2025", "accpp2026"):
        found = count_vectors(d, rule)
        assert found.shape == (2, 5)
        np.testing.assert_array_equal(np.asarray(found)[0], [count_vectors(alone, rule) for alone in each])


def test_an_unknown_rule_is_named():
    with pytest.raises(InputError, match="rule must be one of 'sad2024', 'acc2025', 'accpp2026', got 'sad'"):
        count_vectors(of_terms([[1.0]], 0), "sad")


def test_a_cap_is_in_the_weights_that_ablation_lowers():
    """accpp2026 with `2 tanh(logit / 2)`, written out in float64."""
    rng = np.random.default_rng(4)
    W_Q, W_K = rng.normal(size=(2, 4, 6))
    x = rng.normal(size=(7, 6))
    d = decompose(Head(W_Q, W_K, divisor=1.5, cap=2.0), x[-1], x, None)
    terms, j = np.asarray(d.terms, float) / 1.5, int(d.index)

    def attended(logits):
        e = np.exp(2 * np.tanh(logits / 2))
        return e / e.sum()

    slopes = []
    for t in np.linspace(0, 1, 2001):
        w, logits = attended(t * terms.sum(axis=1)), t * terms.sum(axis=1)
        slopes.append(terms.T @ (w[j] * (np.eye(7)[j] - w) * (1 - np.tanh(logits / 2) ** 2)))
    gradients = np.trapezoid(slopes, dx=1 / 2000, axis=0)
    found = integrated_gradients(d.query, d.keys / 1.5, d.visible, d.index, 2.0)
    np.testing.assert_allclose(found, gradients, atol=2e-3 * np.abs(gradients).max())
    logits, weights = terms.sum(axis=1), []
    for k in (None, *np.argsort(-gradients)):
        logits = logits if k is None else logits - terms[:, k]
        weights.append(attended(logits)[j])
    below = np.flatnonzero(np.array(weights) < 2.5 / 7)
    assert weights[0] > 2.5 / 7
    assert count_vectors(d, "accpp2026") == (below[0] if below.size else nan)
