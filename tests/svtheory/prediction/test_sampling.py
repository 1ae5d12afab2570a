"""Heads solved exactly on n contexts, many times over, beside the error that theory expects."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import BernoulliUniform, Gaussian, InputError, Scenario, matching, optimal_omega
from svtheory.prediction import sampling_error
from svtheory.prediction.finite import optimal_plane
from svtheory.prediction.whitened import Side, whiten

D, N, M, HEADS = 4, 8, 4, 150
LAWS = {"gaussian": lambda: Gaussian(jnp.zeros(N), jnp.eye(N)), "sparse": lambda: BernoulliUniform(0.3, N)}
KEY = jax.random.key(0)


def frame(key):
    X = jax.random.normal(key, (D, N))
    return X / jnp.linalg.norm(X, axis=0, keepdims=True)


def scenario(law="gaussian", pairs=1, **options):
    X, Y = map(frame, jax.random.split(jax.random.key(1)))
    target = matching(N, N, range(pairs), range(pairs), jnp.array([2.0, 1.0])[:pairs])
    law = LAWS[law]()
    return Scenario(X, Y, target, law, law, **options)


def sines(A, B, pairs):
    """`sin^2` between singular vectors of two matrices, (2, pairs)."""
    (U, _, Vt), (P, _, Rt) = jnp.linalg.svd(A), jnp.linalg.svd(B)
    left, right = (U * P).sum(axis=0), (Vt * Rt).sum(axis=1)
    return 1 - jnp.stack([left, right])[:, :pairs] ** 2


def outward(side: Side):
    """What takes Omega to whitened coordinates."""
    return side.basis * side.scale[None, :]


def seen(solve, s, omega, n, pairs=1, heads=HEADS):
    """Mean sin^2 over heads and its standard error, whitened and raw, each (2, pairs)."""
    tokens = whiten(s)
    query, keys = outward(tokens.query), outward(tokens.key)

    def one(key):
        found = solve(key, n)
        return sines(query.T @ found @ keys, query.T @ omega @ keys, pairs), sines(found, omega, pairs)

    drawn = jax.jit(partial(jax.lax.map, one))(jax.random.split(KEY, heads))
    return [(np.asarray(x.mean(axis=0)), np.asarray(x.std(axis=0)) / heads**0.5) for x in drawn]


def least_squares(s, key, n):
    query, keys = jax.random.split(key)
    f, g = s.query_law.sample(query, (n,)), s.key_law.sample(keys, (n,))
    pairs = ((f @ s.query_features.T)[:, :, None] * (g @ s.key_features.T)[:, None, :]).reshape(n, -1)
    return jnp.linalg.lstsq(pairs, ((f @ s.target) * g).sum(axis=1))[0].reshape(D, D)


def newton(s, plane, key, n):
    """The whole softmax problem on n contexts, from the optimum of endlessly many on."""
    query, keys = jax.random.split(key)
    f, g = s.query_law.sample(query, (n,)), s.key_law.sample(keys, (n, M))
    r, t = f @ s.query_features.T, g @ s.key_features.T
    start = plane.query @ plane.core @ plane.keys.T
    if s.query_bias:
        r = jnp.concatenate([r, jnp.ones((n, 1))], axis=1)
        start = jnp.concatenate([start, (plane.keys @ plane.free)[None, :]])
    features = (r[:, None, :, None] * t[:, :, None, :]).reshape(n, M, -1)
    wanted = jax.nn.softmax(jnp.einsum("ni,ij,nmj->nm", f, s.target, g), axis=-1)

    def step(w, _):
        p = jax.nn.softmax(features @ w, axis=-1)
        slope = jnp.einsum("nm,nmp->p", p - wanted, features)
        spread = (features - jnp.einsum("nm,nmp->np", p, features)[:, None, :]) * jnp.sqrt(p)[..., None]
        return w - jnp.linalg.solve(jnp.einsum("nmp,nmq->pq", spread, spread), slope), None

    return jax.lax.scan(step, start.ravel(), None, length=8)[0].reshape(-1, D)[:D]


def agree(measured, predicted, tolerance):
    (mean, error), predicted = measured, np.stack(predicted)[:, : measured[0].shape[1]]
    assert np.all(abs(mean / predicted - 1) < tolerance + 4 * error / predicted), (mean, predicted, error)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_squared_objective(law):
    """Within a tenth beside the standard error, once sin^2 is small everywhere; two pairs turn towards each other."""
    with jax.enable_x64():
        s, n = scenario(law, pairs=2), 1024 * D * D
        whitened, raw = seen(partial(least_squares, s), s, optimal_omega(s), n, pairs=2)
        agree(whitened, sampling_error(s, KEY, 100_000, n), 0.1)
        agree(raw, sampling_error(s, KEY, 100_000, n, raw=True), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
def test_softmax(bias):
    with jax.enable_x64():
        s, n = scenario("sparse", objective="softmax", n_keys=M, query_bias=bias), 3000
        plane = optimal_plane(s, KEY, 100_000, None)
        omega = plane.query @ plane.core @ plane.keys.T
        whitened, raw = seen(partial(newton, s, plane), s, omega, n)
        agree(whitened, sampling_error(s, KEY, 20_000, n), 0.15)
        agree(raw, sampling_error(s, KEY, 20_000, n, raw=True), 0.15)


@pytest.mark.parametrize("objective", ["square", pytest.param("softmax", marks=pytest.mark.slow)])
def test_heads_on_fewer_draws(objective):
    """The same as the slow tests, of 40 heads and to a third beside the standard error."""
    with jax.enable_x64():
        if objective == "square":
            s, n = scenario("sparse"), 2000
            whitened, _ = seen(partial(least_squares, s), s, optimal_omega(s), n, heads=40)
        else:
            s, n = scenario("sparse", objective="softmax", n_keys=M), 3000
            plane = optimal_plane(s, KEY, 10_000, None)
            omega = plane.query @ plane.core @ plane.keys.T
            whitened, _ = seen(partial(newton, s, plane), s, omega, n, heads=40)
        agree(whitened, sampling_error(s, KEY, 5_000, n), 0.33)


def test_one_pair_is_the_formula():
    """`E[e^2 (v~ . s~)^2 |P_perp r~|^2]/((n - D D') sigma~^2)`, on the same draws."""
    with jax.enable_x64():
        s, n, samples = scenario("sparse"), 500, 1000
        query, keys = jax.random.split(KEY)
        f, g = s.query_law.sample(query, (samples,)), s.key_law.sample(keys, (samples,))
        A, B, _ = whiten(s)
        omega = optimal_omega(s)
        U, sigma, Vt = jnp.linalg.svd(outward(A).T @ omega @ outward(B))
        r, t = f @ s.query_features.T, g @ s.key_features.T
        e = ((f @ s.target) * g).sum(axis=1) - ((r @ omega) * t).sum(axis=1)
        r, t = r @ A.inverse, t @ B.inverse
        across = (r**2).sum(axis=1) - (r @ U[:, 0]) ** 2
        wanted = (e**2 * (t @ Vt[0]) ** 2 * across).mean() / ((n - D * D) * sigma[0] ** 2)
        assert np.isclose(sampling_error(s, KEY, samples, n)[0][0], wanted, rtol=1e-10)


def test_more_contexts_and_rotations(dtype):
    s = scenario()
    together = sampling_error(s, KEY, 500, [116, 1016])
    few, many = (sampling_error(s, KEY, 500, n) for n in (116, 1016))
    assert few[0].dtype == dtype
    assert np.allclose(few[0][0], 10 * many[0][0], rtol=1e-4)
    for side, alone in zip(together, zip(few, many, strict=True), strict=True):
        assert np.allclose(side, np.stack(alone), rtol=1e-5)
    rotation = jax.random.orthogonal(jax.random.key(3), D)
    turned = Scenario(rotation @ s.query_features, s.key_features, s.target, s.query_law, s.key_law)
    for raw in (False, True):
        a, b = (sampling_error(x, KEY, 500, 200, raw=raw) for x in (s, turned))
        assert np.allclose(a[0][0], b[0][0], rtol=1e-2 if dtype == "float32" else 1e-8)


def test_what_has_no_vector_has_no_error():
    left, right = sampling_error(scenario(), KEY, 200, 100)
    assert left.shape == right.shape == (D,)
    assert np.isfinite(left[0])
    assert np.isinf(left[2:]).all() or (left[2:] > 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: {"n": 16}, "n must be a whole number of at least 17, got 16"),
        (lambda: {"samples": 1}, "samples must be a whole number of at least 2, got 1"),
        (lambda: {"scenario": scenario(weight_decay=0.5)}, r"weight_decay must be 0 for a sampling error, got 0\.5"),
        (lambda: {"scenario": scenario(head_dim=2)}, "head_dim must be at least 4"),
        (lambda: {"raw": 1}, "raw must be True or False, got 1"),
        (lambda: {"scenario": Scenario(np.eye(2), np.eye(2), np.eye(2))}, "query_law and key_law must be given"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(InputError, match=message):
        sampling_error(**{"scenario": scenario(), "key": KEY, "samples": 100, "n": 100, **change()})
