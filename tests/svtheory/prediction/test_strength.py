"""Logits (T6): the size of a softmax head against the exact population problem of small finite laws."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from svtheory import BernoulliUniform, InputError, OneHot, Scenario, logit_scale, matching, predict, single_pair

D, N, KEYS = 3, 5, 3
SAMPLES = 4000
estimate, predicted = jax.jit(logit_scale, static_argnames="samples"), jax.jit(predict)


pytestmark = pytest.mark.usefixtures("double_unless_told_otherwise")


def one_hot_scenario(target, query_bias=False):
    rng = np.random.default_rng(0)
    X, Y, p, q = rng.normal(size=(D, N)), rng.normal(size=(D, N)), rng.dirichlet(np.ones(N)), rng.dirichlet(np.ones(N))
    laws = OneHot(N, p), OneHot(N, q)
    return Scenario(X, Y, target, *laws, "softmax", n_keys=KEYS, query_bias=query_bias)


def exact_sizes(scenario, modes):
    """Minimise the cross-entropy over sizes (and the key-only term) with all queries and keys enumerated."""
    i, *keys = np.meshgrid(*[np.arange(N)] * (1 + KEYS), indexing="ij")
    keys = np.stack(keys, axis=-1)
    p, q = (np.asarray(law.probability) for law in (scenario.query_law, scenario.key_law))
    weight = p[i] * q[keys].prod(axis=-1)
    wanted = np.asarray(jax.nn.softmax(np.asarray(scenario.target)[i[..., None], keys], axis=-1))
    spectrum = predicted(scenario)
    read = (np.asarray(scenario.query_features).T @ np.asarray(spectrum.left))[i, :modes]
    written = (np.asarray(scenario.key_features).T @ np.asarray(spectrum.right))[keys, :modes]

    def cross_entropy(x):
        a, b = x[:modes], x[modes:] * scenario.query_bias
        logits = ((read * a + b)[..., None, :] * written).sum(axis=-1)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return -(weight * (wanted * log_p).sum(axis=-1)).sum()

    return scipy.optimize.minimize(cross_entropy, np.zeros(2 * modes), method="BFGS", options={"gtol": 1e-8}).x[:modes]


@pytest.mark.parametrize("query_bias", [False, True])
@pytest.mark.parametrize("modes", [1, 2])
def test_estimate_is_the_exact_minimiser_within_its_error(modes, query_bias):
    target = matching(N, N, [0, 2][:modes], [1, 3][:modes], np.array([4.0, -3.0])[:modes])
    scenario = one_hot_scenario(target, query_bias)
    values, errors = estimate(scenario, jax.random.key(1), SAMPLES)
    expected = exact_sizes(scenario, modes)
    assert (np.abs(values[:modes] - expected) < 4 * errors[:modes]).all()
    assert (np.asarray(errors[:modes]) < 0.1 * expected.max()).all()
    assert not values[modes:].any()
    assert not errors[modes:].any()


def test_standard_error_is_the_spread_over_repetitions():
    scenario = one_hot_scenario(single_pair(N, N, 0, 1, 4.0))
    many = jax.jit(jax.vmap(lambda scenario, key: logit_scale(scenario, key, 300), in_axes=(None, 0)))
    values, errors = (np.asarray(x)[:, 0] for x in many(scenario, jax.random.split(jax.random.key(2), 150)))
    # the spread of 150 repetitions is known to 6 %
    assert abs(values.std(ddof=1) / errors.mean() - 1) < 0.2
    assert abs(values.mean() - exact_sizes(scenario, 1)[0]) < 4 * values.std() / np.sqrt(150) + 0.05 * errors.mean()


def test_small_logits_give_the_predicted_value():
    scenario = one_hot_scenario(single_pair(N, N, 0, 1, 1e-3))
    values, errors = estimate(scenario, jax.random.key(3), SAMPLES)
    assert abs(values[0] - predicted(scenario).values[0]) < 4 * errors[0]


def test_a_target_that_the_head_can_meet_is_met_exactly():
    """Orthonormal features and no cone: the template is within reach, at any strength and on any sample."""
    law = BernoulliUniform(0.5, D)
    scenario = Scenario(np.eye(D), np.eye(D), single_pair(D, D, 0, 1, 30.0), law, law, "softmax")
    values, errors = logit_scale(scenario, jax.random.key(4), SAMPLES)
    np.testing.assert_allclose(values, [30, 0, 0], rtol=1e-6)
    assert errors.max() < 1e-6


def test_size_rises_with_strength_and_falls_when_the_softmax_saturates():
    """sigma/t in superposition, where theory's frame has 0.706, 0.799, 0.920, 0.399 at t = 0.1, 1, 5, 20."""
    X = np.random.default_rng(5).normal(size=(10, 20))
    X /= np.linalg.norm(X, axis=0)
    law = BernoulliUniform(0.2, 20)
    scenario = Scenario(X, X, single_pair(20, 20, 0, 1, 1.0), law, law, "softmax")
    stronger = (replace(scenario, target=t * scenario.target) for t in (0.1, 1.0, 5.0, 20.0))
    ratios = [float(estimate(s, jax.random.key(6), SAMPLES)[0][0] / s.target.max()) for s in stronger]
    assert ratios[0] < ratios[1] < ratios[2]
    assert ratios[3] < ratios[0]


def test_precision_vmap_gradients_and_one_trace(dtype):
    law = BernoulliUniform(jnp.asarray(0.4, dtype), N)
    X = jnp.asarray(np.random.default_rng(7).normal(size=(D, N)), dtype)
    T = jnp.asarray(single_pair(N, N, 0, 1, 2.0), dtype)
    traces = []

    @jax.jit
    @jax.vmap
    def mapped(t):
        traces.append(None)

        def size(t):
            values, errors = logit_scale(Scenario(X, X, t * T, law, law, "softmax"), jax.random.key(8), 300)
            return values[0], errors

        return jax.value_and_grad(size, has_aux=True)(t)

    t, h = 2.0, 1e-2
    (values, errors), gradient = mapped(jnp.array([t - h, t, t + h], dtype))
    mapped(jnp.ones(3, dtype))
    assert len(traces) == 1
    assert {values.dtype, errors.dtype, gradient.dtype} == {dtype}
    np.testing.assert_allclose(gradient[1], (values[2] - values[0]) / (2 * h), rtol=2e-3)


def test_wrong_arguments_are_named():
    scenario = one_hot_scenario(single_pair(N, N, 0, 1, 1.0))
    with pytest.raises(InputError, match="objective must be 'softmax' for a scale at finite logits"):
        logit_scale(replace(scenario, objective="square"), jax.random.key(0), 10)
    with pytest.raises(InputError, match="samples must be a whole number of at least 2, got 1"):
        logit_scale(scenario, jax.random.key(0), 1)
    with pytest.raises(InputError, match=r"weight_decay must be 0 at finite logits \(T6\), got 0\.1"):
        logit_scale(replace(scenario, weight_decay=0.1), jax.random.key(0), 10)
