"""Softmax heads: predicted directions (T6) and sizes (T18) against heads that minimise a sampled cross-entropy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from svtheory import BernoulliUniform, Scenario, predict, predict_finite, single_pair

D, N, M_KEYS, PROBABILITY = 10, 20, 8, 0.2
SIZED = jax.jit(predict_finite, static_argnames=("samples", "pairs"))


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@jax.jit
def cross_entropy(theta, r, s, wanted):
    """`E CE(softmax_j(l^T), softmax_j(r^T O s_j + w . s_j))` and its gradient."""

    def loss(theta):
        O, w = theta
        logits = jnp.einsum("nd,nmd->nm", r @ O, s) + s @ w
        return -(wanted * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1).mean()

    return jax.value_and_grad(loss)(theta)


@partial(jax.jit, static_argnames="samples")
def drawn(law, T, key, samples):
    """Activations of queries and of their keys, and the probabilities wanted."""
    query_key, key_key = jax.random.split(key)
    f, g = law.sample(query_key, (samples,)), law.sample(key_key, (samples, M_KEYS))
    return f, g, jax.nn.softmax(jnp.einsum("nmj,nj->nm", g, f @ T), axis=-1)


def inverse_root(A):
    values, Q = np.linalg.eigh(A)
    return Q / np.sqrt(values) @ Q.T


def optimised_omega(scenario, key, samples):
    """The free Omega (and, with a query bias, key-only term) that L-BFGS finds on one large sample."""
    X, law = np.asarray(scenario.query_features), scenario.query_law
    f, g, wanted = drawn(law, scenario.target, key, samples)
    # in whitened coordinates, and with queries centred where there is a key-only term, L-BFGS needs a handful of steps
    a = inverse_root(X @ np.asarray(law.covariance()) @ X.T)
    r = (np.asarray(f) - np.asarray(law.mean()) * scenario.query_bias) @ X.T @ a
    s = np.asarray(g) @ X.T @ a

    def value_and_gradient(x):
        O, w = x[: D * D].reshape(D, D), x[D * D :] * scenario.query_bias
        value, (dO, dw) = cross_entropy((O, w), r, s, wanted)
        return float(value), np.concatenate([np.ravel(dO), np.asarray(dw) * scenario.query_bias])

    options = {"maxiter": 500, "ftol": 1e-16, "gtol": 1e-8 * min(float(scenario.target.max()), 1)}
    found = scipy.optimize.minimize(
        value_and_gradient, np.zeros(D * D + D), jac=True, method="L-BFGS-B", options=options
    )
    return a @ found.x[: D * D].reshape(D, D) @ a


def measure(strength, query_bias, frame, samples):
    """Cosines of u and v with their prediction, and the measured over the predicted size."""
    X = np.random.default_rng(frame).normal(size=(D, N))
    X /= np.linalg.norm(X, axis=0, keepdims=True)
    law = BernoulliUniform(PROBABILITY, N)
    pair = single_pair(N, N, 0, 1, strength)
    scenario = Scenario(X, X, pair, law, law, "softmax", n_keys=M_KEYS, query_bias=query_bias)
    U, values, Vt = np.linalg.svd(optimised_omega(scenario, jax.random.key(1000 + frame), samples))
    prediction = predict(scenario)
    size = SIZED(scenario, jax.random.key(2000 + frame), 10_000, pairs=1).values[0]
    return (
        abs(U[:, 0] @ np.asarray(prediction.left[:, 0])),
        abs(Vt[0] @ np.asarray(prediction.right[:, 0])),
        values[0] / float(size),
    )


@pytest.mark.parametrize("query_bias", [False, True])
def test_vectors_and_size_of_a_cross_entropy_head(query_bias):
    """One frame; the slow test below takes eight and four strengths."""
    u, v, ratio = measure(5.0, query_bias, frame=0, samples=15_000)
    assert min(u, v) > 0.98
    assert abs(ratio - 1) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("query_bias", [False, True])
def test_vectors_and_sizes_over_frames_and_strengths(query_bias):
    """Eight frames, 60,000 samples each.

    Seen: median 0.9997, lowest 0.9977 without and 0.9980 with a query bias, both at t = 20; mean size over its
    prediction between 0.989 and 1.022.
    """
    found = np.array([[measure(t, query_bias, frame, 60_000) for frame in range(8)] for t in (0.1, 1.0, 5.0, 20.0)])
    cosines, ratios = found[..., :2], found[..., 2]
    print(f"query bias {query_bias}: median {np.median(cosines):.4f}, lowest {cosines.min():.4f}")
    print("lowest by strength", cosines.min(axis=(1, 2)).round(4), "size ratios", ratios.mean(axis=1).round(3))
    assert np.median(cosines) >= 0.997
    assert cosines.min() >= 0.99
    assert (np.abs(ratios - 1) < 0.08).all()
