"""A head at finite logits (T18) against the exact problem of small finite laws, all of whose draws are listed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from svtheory import BernoulliUniform, OneHot, Scenario, matching, predict_finite, single_pair
from svtheory.prediction import finite_error
from svtheory.prediction.finite import probe_plane

D, N, KEYS = 3, 5, 3
SAMPLES = 4000
FINITE, ERROR = (jax.jit(f, static_argnames=("samples", "pairs")) for f in (predict_finite, finite_error))

pytestmark = pytest.mark.usefixtures("double_unless_told_otherwise")


def one_hot_scenario(target, query_bias=False):
    rng = np.random.default_rng(0)
    X, Y, p, q = rng.normal(size=(D, N)), rng.normal(size=(D, N)), rng.dirichlet(np.ones(N)), rng.dirichlet(np.ones(N))
    laws = OneHot(N, p), OneHot(N, q)
    return Scenario(X, Y, target, *laws, "softmax", n_keys=KEYS, query_bias=query_bias)


def exact_values(scenario, pairs):
    """Singular values of the best `Q C P^T` (and key-only term) with all queries and keys enumerated."""
    i, *keys = np.meshgrid(*[np.arange(N)] * (1 + KEYS), indexing="ij")
    keys = np.stack(keys, axis=-1)
    p, q = (np.asarray(law.probability) for law in (scenario.query_law, scenario.key_law))
    weight = p[i] * q[keys].prod(axis=-1)
    wanted = np.asarray(jax.nn.softmax(np.asarray(scenario.target)[i[..., None], keys], axis=-1))
    rows, _, columns = np.linalg.svd(scenario.target)
    Q, _ = probe_plane(scenario.query_features, scenario.query_law, rows[:, :pairs], mean=not scenario.query_bias)
    P, _ = probe_plane(scenario.key_features, scenario.key_law, columns[:pairs].T, mean=False)
    read = (np.asarray(scenario.query_features).T @ np.asarray(Q))[i]
    written = (np.asarray(scenario.key_features).T @ np.asarray(P))[keys]
    shape = Q.shape[1] + scenario.query_bias, pairs

    def cross_entropy(x):
        C = x.reshape(shape)
        asked = read @ C[: Q.shape[1]] + (C[-1] if scenario.query_bias else 0)
        logits = (asked[..., None, :] * written).sum(axis=-1)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return -(weight * (wanted * log_p).sum(axis=-1)).sum()

    found = scipy.optimize.minimize(cross_entropy, np.zeros(shape).ravel(), method="BFGS", options={"gtol": 1e-8}).x
    return np.linalg.svd(Q @ found.reshape(shape)[: Q.shape[1]] @ P.T)[1][:pairs]


@pytest.mark.parametrize(("pairs", "query_bias"), [(1, False), (1, True), (2, False)])
def test_values_are_exact_within_their_error(pairs, query_bias):
    target = matching(N, N, [0, 2][:pairs], [1, 3][:pairs], np.array([4.0, -3.0])[:pairs])
    scenario = one_hot_scenario(target, query_bias)
    given = scenario, jax.random.key(1), SAMPLES, pairs
    values, (_, errors, _) = FINITE(*given).values, ERROR(*given)
    expected = exact_values(scenario, pairs)
    assert (np.abs(values - expected) < 4 * errors).all()
    assert (np.asarray(errors) < 0.1 * expected.max()).all()


def test_a_target_that_the_head_can_meet_is_met_exactly():
    """Orthonormal features and no cone: the template is within reach, at any strength and on any sample."""
    law = BernoulliUniform(0.5, D)
    scenario = Scenario(np.eye(D), np.eye(D), single_pair(D, D, 0, 1, 30.0), law, law, "softmax")
    given = scenario, jax.random.key(4), SAMPLES, 1
    np.testing.assert_allclose(FINITE(*given).values, [30], rtol=1e-6)
    assert ERROR(*given)[1] < 1e-6


def test_size_rises_with_strength_and_falls_when_the_softmax_saturates():
    """sigma/t in superposition, where theory's frame has 0.706, 0.799, 0.920, 0.399 at t = 0.1, 1, 5, 20."""
    X = np.random.default_rng(5).normal(size=(10, 20))
    X /= np.linalg.norm(X, axis=0)
    law, strengths = BernoulliUniform(0.2, 20), jnp.array([0.1, 1.0, 5.0, 20.0])

    def ratio(t):
        scenario = Scenario(X, X, single_pair(20, 20, 0, 1, t), law, law, "softmax")
        return predict_finite(scenario, jax.random.key(6), SAMPLES, pairs=1).values[0] / t

    ratios = jax.jit(lambda t: jax.lax.map(ratio, t))(strengths)
    assert ratios[0] < ratios[1] < ratios[2]
    assert ratios[3] < ratios[0]
