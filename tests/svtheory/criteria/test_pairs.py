"""Pairs (T4): singular pairs, mixtures, equal values, stars."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svtheory import (
    BernoulliUniform,
    Gaussian,
    InputError,
    Scenario,
    matching,
)
from svtheory.criteria import pair_structure, star_alignment
from svtheory.criteria.pairs import pair_alignments
from svtheory.prediction.optimum import optimum, predict
from svtheory.prediction.whitened import correlations, probes

D, N, M = 4, 7, 6
seeds = st.integers(0, 2**16)
structure = jax.jit(pair_structure)


def frame(seed, columns=N):
    return np.random.default_rng(seed).normal(size=(D, columns))


def orthonormal(columns=N):
    """The first D features are a rotated basis, the others absent."""
    Q = np.linalg.qr(np.random.default_rng(99).normal(size=(D, D)))[0]
    return np.pad(Q, ((0, 0), (0, columns - D)))


def pairs(queries, keys, strengths):
    return np.asarray(matching(N, M, queries, keys, np.asarray(strengths, float)), np.float64)


def read(found, queries, keys):
    """Labels, alone, values and identified of the listed pairs."""
    return [np.asarray(x)[queries, keys].tolist() for x in found]


pytestmark = pytest.mark.usefixtures("double_unless_told_otherwise")


def test_orthonormal_pairs_of_distinct_strength_are_the_singular_pairs():
    i, j = [0, 1, 2], [3, 0, 1]
    found = structure(Scenario(orthonormal(), orthonormal(M), pairs(i, j, [3.0, -2.0, 1.0])))
    labels, alone, values, identified = read(found, i, j)
    assert labels == [0, 1, 2]
    assert all(alone)
    assert all(identified)
    np.testing.assert_allclose(values, [3, 2, 1])
    assert (np.asarray(found.labels) >= 0).sum() == 3


def test_equal_strengths_are_singular_pairs_that_are_not_identified():
    i, j = [0, 1, 2], [3, 0, 1]
    _, alone, _, identified = read(
        structure(Scenario(orthonormal(), orthonormal(M), pairs(i, j, [2.0, -2.0, 1.0]))), i, j
    )
    assert all(alone)
    assert identified == [False, False, True]


def test_a_star_is_one_block_and_one_singular_pair():
    i, j, t = [0, 0, 2], [3, 0, 1], [3.0, 4.0, 1.0]
    scenario = Scenario(orthonormal(), orthonormal(M), pairs(i, j, t))
    labels, alone, values, _ = read(structure(scenario), i, j)
    assert labels == [0, 0, 1]
    assert alone == [False, False, True]
    np.testing.assert_allclose(values, [0, 0, 1])
    spectrum = predict(scenario)
    cosines = np.abs(np.asarray(spectrum.right[:, 0]) @ orthonormal(M))
    np.testing.assert_allclose(cosines[[3, 0]], [0.6, 0.8], rtol=1e-9)
    strengths = np.zeros(M)
    strengths[[3, 0]] = t[:2]
    np.testing.assert_allclose(star_alignment(orthonormal(M), strengths), cosines, atol=1e-12)


@given(seeds)
def test_a_star_in_superposition(seed):
    strengths = np.random.default_rng(seed).normal(size=M)
    X, Y = frame(seed), frame(seed + 1, M)
    T = np.zeros((N, M))
    T[2] = strengths
    v = np.asarray(predict(Scenario(X, Y, T)).right[:, 0])
    cosines = np.abs(v @ Y) / np.linalg.norm(Y, axis=0)
    np.testing.assert_allclose(star_alignment(Y, strengths), cosines, rtol=1e-6, atol=1e-9)


def test_mixing_chains_through_either_side():
    """Queries 0 and 1 overlap; key 1 of the second pair is that of the third; the fourth stands alone."""
    X = np.zeros((D, N))
    X[:, :4] = [[1, 0.6, 0, 0], [0, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    i, j = [0, 1, 2, 3], [0, 1, 1, 2]
    labels, alone, values, _ = read(structure(Scenario(X, np.eye(D, M), pairs(i, j, [1.0, 2.0, 3.0, 4.0]))), i, j)
    assert labels == [0, 0, 0, 1]
    assert alone == [False, False, False, True]
    np.testing.assert_allclose(values, [0, 0, 0, 4])


@given(seeds)
def test_pairs_alone_are_exactly_the_singular_pairs(seed):
    """Independent duals, some orthogonal: pair k is a singular pair iff no other overlaps it, on both sides."""
    rng = np.random.default_rng(seed)
    angles = rng.choice([0.0, 0.5], size=4)
    P, Q = (np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in range(2))
    X, Y = (R @ blocks(a, b) for R, (a, b) in ((P, angles[:2]), (Q, angles[2:])))
    order = rng.permutation(4)
    T = pairs(range(4), order, [1.0, 2.0, 3.5, 5.0])
    found = structure(Scenario(np.pad(X, ((0, 0), (0, N - D))), np.pad(Y, ((0, 0), (0, M - D))), T))
    omega = np.linalg.pinv(X.T) @ T[:D, :D] @ np.linalg.pinv(Y)
    duals = np.linalg.pinv(X.T), np.linalg.pinv(Y.T)
    for i, j in enumerate(order):
        u, v = duals[0][:, i], duals[1][:, j]
        image, back = omega @ v, omega.T @ u
        singular = max(sine(image, u), sine(back, v)) < 1e-9
        assert bool(found.alone[i, j]) == singular
        if singular:
            np.testing.assert_allclose(found.values[i, j], np.linalg.norm(image) / np.linalg.norm(v), rtol=1e-9)


def blocks(a, b):
    """Four unit vectors, orthogonal but for the first two by the angle a, and the last two by b."""
    X = np.eye(4)
    X[:2, 1] = [np.sin(a), np.cos(a)]
    X[2:, 3] = [np.sin(b), np.cos(b)]
    return X


def sine(a, b):
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return np.linalg.norm(a - (a @ b) * b)


def test_a_small_head_keeps_the_pairs_that_weigh_most_in_whitened_coordinates():
    """Aligned orthogonal groups: the value of a dropped pair may be above that of a kept one (T7)."""
    X = np.zeros((D, N))
    X[0, :2], X[1, 2] = [1, -1], 1
    i, j = [0, 2], [0, 1]
    # |t| sqrt(D_i D_j): 3 sqrt(1/2) = 2.12 against 2; sigma 1.5 against 2
    found = structure(Scenario(X, np.eye(D, M), pairs(i, j, [3.0, 2.0]), head_dim=1))
    assert read(found, i, j)[2:] == [[pytest.approx(1.5), 0], [True, False]]
    assert np.asarray(predict(Scenario(X, np.eye(D, M), pairs(i, j, [3.0, 2.0]), head_dim=1)).values) == pytest.approx(
        1.5
    )


def test_a_small_head_that_cannot_choose_names_neither():
    i, j = [0, 1], [0, 1]
    found = structure(Scenario(orthonormal(), orthonormal(M), pairs(i, j, [2.0, 2.0]), head_dim=1))
    assert read(found, i, j)[1:] == [[True, True], [0, 0], [False, False]]


def naive_moments(scenario):
    """`E[r f_i]` and `A^+ E[r f_i]` of both sides from T5 and T6 as written."""
    softmax = scenario.objective == "softmax"
    centred = scenario.query_bias and softmax, softmax
    for features, law, centre in zip(
        (scenario.query_features, scenario.key_features), (scenario.query_law, scenario.key_law), centred, strict=True
    ):
        X = np.asarray(features)
        C = np.eye(X.shape[1]) if law is None else np.asarray(law.covariance() if centre else law.second_moment())
        yield X @ C, np.linalg.pinv(X @ C @ X.T) @ X @ C


@pytest.mark.parametrize("query_bias", [False, True])
@pytest.mark.parametrize("objective", ["square", "softmax"])
def test_correlations_and_probes(objective, query_bias):
    laws = BernoulliUniform(0.4, N), Gaussian(np.arange(M) / M, np.diag(1.0 + np.arange(M)))
    scenario = Scenario(frame(0), frame(1, M), pairs([0], [1], [2.0]), *laws, objective, query_bias=query_bias)
    for side, (pull, probe) in enumerate(naive_moments(scenario)):
        np.testing.assert_allclose(correlations(scenario)[side], pull, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(probes(scenario)[side], probe, rtol=1e-7, atol=1e-10)


def test_pair_alignments_use_the_whole_space_of_equal_values():
    """Two pairs of equal strength: any basis of the space is a valid SVD, and the features lie in it."""
    scenario = Scenario(orthonormal(), orthonormal(M), pairs([0, 1, 2], [3, 0, 1], [2.0, 2.0, 1.0]))
    found = pair_alignments(optimum(scenario), *probes(scenario))
    for column in (found.query, found.key):
        np.testing.assert_allclose(np.asarray(column)[[0, 1, 2], [3, 0, 1]], 1, rtol=1e-9)
        assert np.isfinite(column).sum() == 3
    np.testing.assert_allclose(np.asarray(found.value)[[0, 1, 2], [3, 0, 1]], [2, 2, 1], rtol=1e-9)
    np.testing.assert_allclose(np.asarray(found.gap)[[0, 1, 2], [3, 0, 1]], [0, 0, 1], atol=1e-9)


def test_precision_vmap_and_one_trace(dtype):
    X = jnp.asarray(np.stack([frame(0), frame(2)]), dtype)
    Y, T = jnp.asarray(frame(1, M), dtype), jnp.asarray(pairs([0, 1], [1, 2], [2.0, 1.0]), dtype)
    traces = []

    @jax.jit
    @jax.vmap
    def mapped(X):
        traces.append(None)
        value, gradient = jax.value_and_grad(lambda X: sum(p.sum() for p in probes(Scenario(X, Y, T))))(X)
        return pair_structure(Scenario(X, Y, T)), star_alignment(Y, T[0]), value, gradient

    found, star, value, gradient = mapped(X)
    mapped(2 * X)
    assert len(traces) == 1
    assert {found.values.dtype, star.dtype, value.dtype, gradient.dtype} == {dtype}
    assert jnp.isfinite(gradient).all()
    assert (found.labels >= 0).sum(axis=(1, 2)).tolist() == [2, 2]


def test_star_alignment_names_a_wrong_argument():
    with pytest.raises(InputError, match=r"strengths must have shape \(4,\), one a feature, got \(3,\)"):
        star_alignment(np.eye(4), np.ones(3))
