"""No head of `sims` is trained here: the whole convex problem in D x D numbers is solved beside the plane's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from svtheory import BernoulliUniform, Gaussian, InputError, Scenario, matching, predict, single_pair
from svtheory.prediction import finite_error, predict_finite
from svtheory.prediction.finite import probe_plane

D, N, M = 4, 8, 4
CONTEXTS = 40_000


@partial(jax.jit, static_argnums=1)
def unit(key, shape=(D, N)):
    X = jax.random.normal(key, shape)
    return X / jnp.linalg.norm(X, axis=0, keepdims=True)


def correlated(key, mean):
    A = jax.random.normal(key, (N, N)) / N**0.5
    return Gaussian(jnp.full(N, mean), jnp.eye(N) / 2 + A @ A.T)


def scenario(strength, pairs=1, mean=1.5, seed=0, **options):
    kx, ky, kr, ks = jax.random.split(jax.random.key(seed), 4)
    strengths = strength * jnp.array([1.0, 0.7])[:pairs]
    target = matching(N, N, range(pairs), range(pairs), strengths)
    laws = correlated(kr, mean), correlated(ks, mean)
    return Scenario(unit(kx), unit(ky), target, *laws, "softmax", n_keys=M, **options)


@jax.jit
def loss_and_slope(weights, read, written, wanted):
    def loss(weights):
        logits = jnp.einsum("nd,de,nme->nm", read, weights, written)
        return -(wanted * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1).mean()

    return jax.value_and_grad(loss)(weights)


@jax.jit
def contexts(scenario, key):
    query, keys = jax.random.split(key)
    f, g = scenario.query_law.sample(query, (CONTEXTS,)), scenario.key_law.sample(keys, (CONTEXTS, M))
    read, written = f @ scenario.query_features.T, g @ scenario.key_features.T
    if scenario.query_bias:
        read = jnp.concatenate([read, jnp.ones((CONTEXTS, 1))], axis=1)
    return read, written, jax.nn.softmax(jnp.einsum("ni,ij,nmj->nm", f, scenario.target, g), axis=-1)


def solved(scenario, key):
    """Omega of least cross-entropy among all D x D matrices, with a row of its own for a query bias."""
    read, written, wanted = contexts(scenario, key)
    shape = (read.shape[1], D)

    def flat(x):
        value, slope = loss_and_slope(jnp.asarray(x.reshape(shape)), read, written, wanted)
        return float(value), np.asarray(slope).ravel()

    found = scipy.optimize.minimize(
        flat, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 400}
    )
    return found.x.reshape(shape)[:D]


def angle(A, B):
    """Cosine of the largest principal angle between the spans of columns."""
    return np.cos(scipy.linalg.subspace_angles(np.asarray(A), np.asarray(B)).max())


@pytest.mark.parametrize("strength", [pytest.param(1.0, marks=pytest.mark.slow), 20.0])
@pytest.mark.parametrize("bias", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_pair_at_any_strength(strength, bias):
    """Both vectors and the size, of a Gaussian law with a mean, where theory is exact and sampling alone differs."""
    with jax.enable_x64():
        s = scenario(strength, query_bias=bias)
        found = jax.tree.map(np.asarray, predict_finite(s, jax.random.key(1), CONTEXTS))
        same = predict_finite(s, jax.random.key(2), CONTEXTS)  # on the contexts of the whole problem
        U, values, Vt = np.linalg.svd(solved(s, jax.random.key(2)))
        leading = np.asarray(predict(s).left[:, 0])
    assert found.left.shape == (D, 1)
    # what is left is the sampling of 40,000 contexts (T21), which saturated answers tell less than others
    least = {1.0: 0.999, 20.0: 0.997}[strength]
    assert abs(found.left[:, 0] @ U[:, 0]) > least
    assert abs(found.right[:, 0] @ Vt[0]) > least
    assert abs(float(same.values[0]) / values[0] - 1) < 0.02
    if strength == 20 and not bias:  # the mean token takes over what leading order gives the probe
        assert abs(leading @ U[:, 0]) < 0.99


def test_two_pairs_need_the_direction_of_the_mean():
    with jax.enable_x64():
        s = scenario(20.0, pairs=2)
        omega = solved(s, jax.random.key(3))
        U, _, Vt = np.linalg.svd(omega)
        found = predict_finite(s, jax.random.key(4), CONTEXTS)
        plane = partial(probe_plane, s.query_features, s.query_law, jnp.eye(N)[:, :2])
        with_mean, probes = np.asarray(plane(mean=True)[0]), np.asarray(plane(mean=False)[0])
        key_probes = np.asarray(probe_plane(s.key_features, s.key_law, jnp.eye(N)[:, :2], mean=False)[0])
    assert angle(key_probes, Vt[:2].T) > 0.999
    inside = np.linalg.qr(with_mean)[0].T @ U[:, :2]
    assert np.linalg.svd(inside)[1].min() > 0.999
    assert angle(probes, U[:, :2]) < 0.99
    assert angle(found.left, U[:, :2]) > 0.999
    assert angle(found.right, Vt[:2].T) > 0.999


def test_its_own_contexts_leave_the_error_that_it_says():
    """Forty predictions spread as `finite_error` says of one; the spread of forty is known to 11 %."""
    with jax.enable_x64():
        s = scenario(20.0)
        many = jax.jit(partial(jax.lax.map, lambda key: predict_finite(s, key, 2000, pairs=1)))
        found = jax.tree.map(np.asarray, many(jax.random.split(jax.random.key(11), 40)))
        left, value, right = map(np.asarray, finite_error(s, jax.random.key(12), 8000))
        u = np.linalg.svd(found.left[..., 0])[2][0]
        turned = 1 - (found.left[..., 0] @ u) ** 2
    assert 0.5 < turned.mean() * 40 / 39 / (4 * left[0]) < 1.7
    assert 0.65 < found.values[:, 0].std(ddof=1) / (2 * value[0]) < 1.45
    assert right[0] < 1e-20  # one pair's key plane is a line


def test_small_logits_are_leading_order():
    with jax.enable_x64():
        s = scenario(0.05, mean=0.3)
        found, leading = predict_finite(s, jax.random.key(5), CONTEXTS), predict(s)
        assert abs(found.left[:, 0] @ leading.left[:, 0]) > 0.999
        assert abs(found.right[:, 0] @ leading.right[:, 0]) > 1 - 1e-10
        assert abs(found.values[0] / leading.values[0] - 1) < 0.05


def test_the_squared_objective_is_exact_as_it_is():
    s = Scenario(unit(jax.random.key(0)), unit(jax.random.key(1)), single_pair(N, N, 0, 0, 9.0))
    found, wanted = predict_finite(s, jax.random.key(2), 10), predict(s)
    assert np.array_equal(found.left, wanted.left)
    assert np.array_equal(found.values, wanted.values)
    assert not np.any(finite_error(s, jax.random.key(2), 10))


def test_a_narrow_head_keeps_its_rank():
    with jax.enable_x64():
        found = predict_finite(scenario(3.0, pairs=2, head_dim=1), jax.random.key(0), 2000)
        assert found.values[0] > 0
        assert found.values[1] < 1e-12 * found.values[0]


def test_rank_deficient_features_are_read_within_their_span(dtype):
    X = jnp.zeros((D, N), dtype).at[:2].set(unit(jax.random.key(0), (2, N)).astype(dtype))
    law = BernoulliUniform(0.4, N)
    found = predict_finite(Scenario(X, X, single_pair(N, N, 0, 1), law, law, "softmax"), jax.random.key(1), 2000)
    assert found.left.dtype == dtype
    assert np.abs(found.left[2:]).max() < 1e-5
    assert np.isfinite(found.values).all()


def test_one_program_serves_many_strengths():
    """Traced, with the number of pairs given, the result is that of each scenario by itself, and has derivatives."""
    with jax.enable_x64():
        law = BernoulliUniform(0.3, N)
        X = unit(jax.random.key(0))

        def at(strength):
            s = Scenario(X, X, single_pair(N, N, 0, 1, strength), law, law, "softmax")
            found = predict_finite(s, jax.random.key(1), 500, pairs=1)
            return found.values[0], found.left[:, 0]

        strengths, h = jnp.array([1.0, 4.999, 5.0, 5.001]), 1e-3
        mapped = jax.jit(partial(jax.lax.map, jax.value_and_grad(at, has_aux=True)))
        (sizes, vectors), slopes = mapped(strengths)
        size, vector = at(5.0)
        assert np.isclose(sizes[2], size, rtol=1e-9)
        assert np.isclose(abs(vectors[2] @ vector), 1, atol=1e-12)
        assert np.isclose(slopes[2], (sizes[3] - sizes[1]) / (2 * h), rtol=1e-4)


def test_another_strength_changes_the_size_less_than_the_target():
    """A saturated head stops growing: the size at t = 40 is below 40 times that at t = 1."""
    law = BernoulliUniform(0.5, N)
    X = unit(jax.random.key(0))
    sizes = [
        float(predict_finite(Scenario(X, X, single_pair(N, N, 0, 1, t), law, law, "softmax"), KEY, 2000).values[0])
        for t in (1.0, 40.0)
    ]
    assert sizes[0] < sizes[1] < 20 * sizes[0]


KEY = jax.random.key(9)


def test_bad_input():
    s = scenario(1.0)
    with pytest.raises(InputError, match=r"weight_decay must be 0 at finite logits, got 0\.1"):
        predict_finite(scenario(1.0, weight_decay=0.1), KEY, 10)
    with pytest.raises(InputError, match="samples must be a whole number of at least 2, got 1"):
        predict_finite(s, KEY, 1)
    with pytest.raises(InputError, match="pairs must be at least 2, the rank of target, got 1"):
        predict_finite(scenario(1.0, pairs=2), KEY, 10, pairs=1)
    with pytest.raises(InputError, match="pairs must be given while the target is traced"):
        jax.jit(lambda s: predict_finite(s, KEY, 10))(s)
    with pytest.raises(InputError, match="samples must bound the logits, got 2 contexts"):
        predict_finite(scenario(400.0, pairs=2), KEY, 2)
