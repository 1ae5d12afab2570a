import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import BernoulliUniform, Gaussian, InputError, Scenario, predict, single_pair, unwhiten
from svtheory.spectra.unwhitening import remove_direction

D, N, M = 5, 8, 7
P_QUERY, P_KEY = np.linspace(0.1, 0.9, N), np.linspace(0.2, 1, M)


def scenario(seed=0, key_law=None, **options):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(D, N)), rng.normal(size=(D, M))
    laws = BernoulliUniform(P_QUERY, N), key_law or BernoulliUniform(P_KEY, M)
    return Scenario(X, Y, single_pair(N, M, 2, 3, 4.0), *laws, objective="softmax", **options)


def naive_moments(features, p):
    X = np.asarray(features, float)
    return X @ np.diag(p / 3 - p**2 / 4) @ X.T, X @ (p / 2)


def cosine(a, b):
    a, b = np.asarray(a, float), np.asarray(b, float)
    return abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b)


@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_the_key_side_gives_the_feature_back(seed):
    with jax.enable_x64(True):
        made = scenario(seed)
        covariance, _ = naive_moments(made.key_features, P_KEY)
        direction, share = unwhiten(predict(made).right[:, :1], covariance)
        assert cosine(direction[:, 0], made.key_features[:, 3]) == pytest.approx(1, abs=1e-10)
        assert share.tolist() == [0]


@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_the_query_side_of_a_head_with_a_bias_gives_the_feature_back(seed):
    with jax.enable_x64(True):
        made = scenario(seed, query_bias=True)
        covariance, _ = naive_moments(made.query_features, P_QUERY)
        direction, _ = unwhiten(predict(made).left[:, :1], covariance)
        assert cosine(direction[:, 0], made.query_features[:, 2]) == pytest.approx(1, abs=1e-10)


@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_the_query_side_without_a_bias_is_the_feature_and_the_mean_token(seed):
    """`K_r u = V_i x_i + (mu_i - r_mean^T u) r_mean` for `u = S_r^+ E[r f_i]`."""
    with jax.enable_x64(True):
        made = scenario(seed)
        covariance, mean = naive_moments(made.query_features, P_QUERY)
        X, p = np.asarray(made.query_features), P_QUERY[2]
        second = covariance + np.outer(mean, mean)
        probe = np.linalg.solve(second, (p / 3 - p**2 / 4) * X[:, 2] + p / 2 * mean)
        pattern = (p / 3 - p**2 / 4) * X[:, 2] + (p / 2 - mean @ probe) * mean
        left = predict(made).left[:, :1]
        assert cosine(left[:, 0], probe) == pytest.approx(1, abs=1e-10)
        assert cosine(unwhiten(left, covariance)[0][:, 0], pattern) == pytest.approx(1, abs=1e-10)
        direction, share = unwhiten(left, covariance, mean)
        feature = remove_direction(jnp.asarray(X[:, 2:3]), jnp.asarray(mean))
        assert cosine(direction[:, 0], feature[:, 0]) == pytest.approx(1, abs=1e-8)
        assert float(share[0]) == pytest.approx(cosine(pattern, mean) ** 2, abs=1e-10)


def test_correlated_activations_give_a_mixture():
    """`K_s v || Y V_s e_j`, which is not y_j."""
    with jax.enable_x64(True):
        root = np.random.default_rng(1).normal(size=(M, M))
        V = root @ root.T
        made = scenario(key_law=Gaussian(np.zeros(M), V))
        Y = np.asarray(made.key_features)
        direction = unwhiten(predict(made).right[:, :1], Y @ V @ Y.T)[0][:, 0]
        assert cosine(direction, Y @ V[:, 3]) == pytest.approx(1, abs=1e-10)
        assert cosine(direction, Y[:, 3]) < 0.9


def test_limits(dtype, eps):
    vectors = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(4, 3)))[0], dtype)
    for size in (1.0, 1e-25, 1e25):
        directions, share = unwhiten(vectors, size * jnp.eye(4))
        assert directions.dtype == share.dtype == dtype
        assert np.asarray(directions) == pytest.approx(np.asarray(vectors), abs=4 * eps)
    assert not unwhiten(vectors, jnp.zeros((4, 4)))[0].any()
    kept, share = unwhiten(vectors, jnp.eye(4), jnp.zeros(4))
    assert np.asarray(kept) == pytest.approx(np.asarray(vectors), abs=4 * eps)
    assert not share.any()
    removed, share = unwhiten(vectors, jnp.eye(4), 3 * vectors[:, 0] + 4 * vectors[:, 1])
    assert np.asarray(share) == pytest.approx([0.36, 0.64, 0], abs=20 * eps)
    assert np.asarray(jnp.linalg.norm(removed, axis=0)) == pytest.approx([1, 1, 1], abs=4 * eps)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((np.ones(4), np.eye(4)), r"vectors must have 2 axes, got shape \(4,\)"),
        ((np.ones((4, 1)), np.eye(3)), r"covariance must have shape \(4, 4\), got \(3, 3\)"),
        ((np.ones((4, 1)), np.eye(4), np.ones(3)), r"mean must have shape \(4,\), got \(3,\)"),
        ((np.ones((4, 1)), np.full((4, 4), np.nan)), "covariance must be finite, got 16 entries that are not"),
    ],
)
def test_bad_input(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        unwhiten(*arguments)
