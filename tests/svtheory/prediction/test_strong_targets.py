"""Strong targets (T18): the plane of the probes against the best head of all, both from many contexts.

The whole convex problem of D x D numbers is solved on a sample of its own, in the coordinates in which that sample is
white, and the prediction on another.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from svtheory import BernoulliUniform, Gaussian, Scenario, matching, predict, predict_finite, sampling_error
from svtheory.prediction import predict_drift
from svtheory.prediction.finite import probe_plane

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("double_unless_told_otherwise")]
BATCH = 10_000


def unit(seed, shape):
    X = np.random.default_rng(seed).normal(size=shape)
    return X / np.linalg.norm(X, axis=0)


def gaussian(seed, N, mean):
    """Correlated activations, of the given mean."""
    A = np.random.default_rng(seed).normal(size=(N, N)) / N**0.5
    return Gaussian(np.full(N, mean), np.eye(N) / 2 + A @ A.T)


def built(shape, strengths, laws, seed, m, **options):
    N, K = shape[1], len(strengths)
    target = matching(N, N, range(K), range(K), np.asarray(strengths, float))
    return Scenario(unit(seed, shape), unit(seed + 1, shape), target, *laws, "softmax", n_keys=m, **options)


@partial(jax.jit, static_argnames="samples")
def drawn(scenario, key, samples):
    """Tokens and the probabilities asked for, in batches: (B, BATCH, D), (B, BATCH, m, D), (B, BATCH, m)."""

    def batch(key):
        query, keys = jax.random.split(key)
        f = scenario.query_law.sample(query, (BATCH,))
        g = scenario.key_law.sample(keys, (BATCH, scenario.n_keys))
        wanted = jax.nn.softmax(jnp.einsum("nm,nkm->nk", f @ scenario.target, g), axis=-1)
        return f @ scenario.query_features.T, g @ scenario.key_features.T, wanted

    return jax.lax.map(batch, jax.random.split(key, samples // BATCH))


@jax.jit
def loss_and_slope(W, read, written, wanted):
    def of_batch(W, batch):
        r, s, p = batch
        logits = jnp.einsum("nd,nmd->nm", r @ W, s)
        return -(p * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1).mean()

    value, slope = jax.lax.map(lambda batch: jax.value_and_grad(of_batch)(W, batch), (read, written, wanted))
    return value.mean(), slope.mean(axis=0)


def solved(scenario, key, samples):
    """Omega of least cross-entropy over `samples` contexts, with a row of its own for a query bias."""
    read, written, wanted = map(np.asarray, drawn(scenario, key, samples))
    written = written - written.mean(axis=(0, 1, 2))
    if scenario.query_bias:
        read = read - read.mean(axis=(0, 1))

    def inward(x):
        values, vectors = np.linalg.eigh(np.einsum("...d,...e->de", x, x, optimize=True) / np.prod(x.shape[:-1]))
        return vectors / np.sqrt(values)

    a, b = inward(read), inward(written)
    read, written = read @ a, written @ b
    if scenario.query_bias:
        read = np.concatenate([read, np.ones_like(read[..., :1])], axis=-1)
    given, shape = tuple(map(jnp.asarray, (read, written, wanted))), (read.shape[-1], written.shape[-1])

    def flat(x):
        value, slope = loss_and_slope(jnp.asarray(x.reshape(shape)), *given)
        return float(value), np.asarray(slope).ravel()

    options = {"maxiter": 200, "ftol": 1e-15, "gtol": 1e-7}
    found = scipy.optimize.minimize(flat, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=options)
    return a @ found.x.reshape(shape)[: scenario.dim] @ b.T


def span_cosine(A, B):
    """Cosine of the largest principal angle between the spans of columns."""
    return float(np.cos(scipy.linalg.subspace_angles(np.asarray(A), np.asarray(B)).max()))


def inside(plane, vectors):
    """The least length of a unit vector in a span within the span of a larger plane."""
    return float(np.linalg.svd(np.linalg.qr(np.asarray(plane))[0].T @ vectors)[1].min())


@pytest.mark.parametrize("t", [1.0, 5.0, 20.0, 80.0])
def test_gaussian_vectors_at_any_strength(t):
    """Centred and independent activations, D = 6, N = 12, m = 4, two million contexts, which leave 1e-5 to 1e-4."""
    law = Gaussian(np.zeros(12), np.eye(12))
    s = built((6, 12), [t], (law, law), 10, 4)
    U, _, Vt = np.linalg.svd(solved(s, jax.random.key(1), 2_000_000))
    found = predict_finite(s, jax.random.key(2), 100_000)  # without a mean the plane is a line, and has no error
    cosines = abs(float(found.left[:, 0] @ U[:, 0])), abs(float(found.right[:, 0] @ Vt[0]))
    left = sampling_error(s, jax.random.key(3), 20_000, 2_000_000, raw=True)
    print(f"t = {t}: {cosines[0]:.6f}, {cosines[1]:.6f}; by sampling", *(f"{1 - float(x[0]) / 2:.6f}" for x in left))
    assert min(cosines) >= 0.9999


@pytest.mark.parametrize("strengths", [(20.0, 14.0), (20.0, 14.0, 10.0)])
def test_several_pairs_with_a_mean(strengths):
    """Correlated Gaussian activations with a mean, D = 8, N = 16, m = 6, 400,000 contexts."""
    K = len(strengths)
    laws = gaussian(11, 16, 1.0), gaussian(12, 16, 1.0)
    s = built((8, 16), strengths, laws, 3, 6)
    U, _, Vt = np.linalg.svd(solved(s, jax.random.key(3), 400_000))
    found = predict_finite(s, jax.random.key(4), 400_000)
    matched = jnp.eye(16)[:, :K]
    keys = probe_plane(s.key_features, s.key_law, matched, mean=False)[0]
    probes, with_mean = (probe_plane(s.query_features, s.query_law, matched, mean=mean)[0] for mean in (False, True))
    left, right = U[:, :K], Vt[:K].T
    spans = [span_cosine(keys, right), inside(with_mean, left), span_cosine(found.left, left)]
    print(f"{K} pairs: keys {spans[0]:.5f}, plane {spans[1]:.5f}, predicted {spans[2]:.5f}", end=", ")
    print(f"without the mean {span_cosine(probes, left):.5f}, leading {span_cosine(predict(s).left[:, :K], left):.5f}")
    assert min(spans) >= 0.999
    assert span_cosine(probes, left) < 0.999
    assert span_cosine(probes, left) < inside(with_mean, left) - 0.002


def test_dense_activations_that_are_not_elliptical():
    """Bernoulli-uniform activations, D = 10, N = 20, m = 8, p = 0.9, t = 40, 200,000 contexts."""
    law = BernoulliUniform(0.9, 20)
    s = built((10, 20), [40.0], (law, law), 5, 8)
    U, _, Vt = np.linalg.svd(solved(s, jax.random.key(5), 200_000))
    found, leading = predict_finite(s, jax.random.key(6), 200_000), predict(s)
    closed = predict_drift(s, jax.random.key(7), 20_000)
    u, drifted, first = (abs(float(x.left[:, 0] @ U[:, 0])) for x in (found, closed, leading))
    v = abs(float(found.right[:, 0] @ Vt[0]))
    print(f"predicted {u:.5f}, {v:.5f}; closed form {drifted:.5f}; leading order {first:.5f}")
    assert min(u, v) >= 0.998
    assert first < 0.99
    assert drifted > first
