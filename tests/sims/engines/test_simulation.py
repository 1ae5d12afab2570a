import jax
import numpy as np
import pytest

from sims import Training, simulate
from sims.engines import simulation
from sims.engines.simulation import (
    head_loss,
    population,
    sample_contexts,
    simulate_ensemble,
)
from svtheory import BernoulliUniform, Gaussian, Scenario, compare, matching, predict, tight_frame

D, N, M = 4, 6, 7


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def frames():
    rng = np.random.default_rng(0)
    return rng.normal(size=(D, N)), rng.normal(size=(D, M))


def target(rows, columns, i, j, strength):
    T = np.zeros((rows, columns))
    T[i, j] = strength
    return T


def laws():
    A = np.random.default_rng(5).normal(size=(N, N))
    return Gaussian(np.linspace(0, 1, N), A @ A.T), BernoulliUniform(0.3, M)


def test_square_loss_is_the_mean_over_samples():
    X, Y = frames()
    rng = np.random.default_rng(1)
    scenario = Scenario(X, Y, rng.normal(size=(N, M)), *laws())
    W_Q, W_K = rng.normal(size=(2, 3, D))

    @jax.jit
    def read(scenario):
        laws = scenario.query_law, scenario.key_law
        drawn = [
            law.sample(key, (200_000,)) for law, key in zip(laws, jax.random.split(jax.random.key(3)), strict=True)
        ]
        data = population(scenario)
        factored = head_loss({"W_Q": W_Q, "W_K": W_K}, data)
        moments = [law.second_moment() for law in laws]
        return drawn, moments, data.core, factored, head_loss({"Omega": W_Q.T @ W_K}, data)

    (f, g), (C_r, C_s), core, loss, of_product = jax.tree.map(np.asarray, read(scenario))
    asked = np.einsum("ni,ij,nj->n", f, scenario.target, g)
    given = np.einsum("ni,ij,nj->n", f @ X.T, W_Q.T @ W_K, g @ Y.T)
    squares = (given - asked) ** 2 / 2
    error = squares.std() / np.sqrt(len(squares))
    T = np.asarray(scenario.target)
    unchanged = (np.trace(C_r @ T @ C_s @ T.T) - (core**2).sum()) / 2
    assert abs(loss + unchanged - squares.mean()) < 5 * error
    assert np.isclose(loss, of_product, rtol=1e-12)


def test_softmax_loss_by_loops():
    X, Y = frames()
    law = BernoulliUniform(0.5, N), BernoulliUniform(0.3, M)
    T = target(N, M, 0, 1, 3.0)
    scenario = Scenario(X, Y, T, *law, "softmax", n_keys=3, query_bias=True, weight_decay=0.1)
    contexts = jax.jit(sample_contexts, static_argnums=0)(5, scenario, jax.random.key(1))
    W_Q, W_K = np.random.default_rng(2).normal(size=(2, 3, D))
    b_Q = np.arange(3.0)
    total = 0
    for r, s, asked in zip(*map(np.asarray, contexts), strict=True):
        logits = np.array([(W_Q @ r + b_Q) @ (W_K @ key) for key in s])
        p = np.exp(asked) / np.exp(asked).sum()
        total -= p @ (logits - np.log(np.exp(logits).sum())) / 5
    total += 0.1 / 2 * ((W_Q**2).sum() + (W_K**2).sum())
    loss = jax.jit(head_loss)({"W_Q": W_Q, "W_K": W_K, "b_Q": b_Q}, contexts, 0.1)
    assert np.isclose(loss, total, rtol=1e-12)


@pytest.mark.parametrize("with_laws", [False, True])
def test_the_squared_objective_ends_at_the_prediction(with_laws):
    X, Y = frames()
    scenario = Scenario(X, Y, target(N, M, 0, 1, 3.0), *(laws() if with_laws else ()))
    agreement = jax.tree.map(np.asarray, compare(predict(scenario), simulate(scenario, jax.random.key(1))))
    assert agreement.left[0] > 1 - 1e-6
    assert agreement.right[0] > 1 - 1e-6
    assert abs(agreement.value_error[0]) < 1e-4


def test_softmax_ends_near_the_prediction():
    X = jax.jit(tight_frame, static_argnums=(1, 2))(jax.random.key(0), D, 2 * D)
    law = BernoulliUniform(0.3, 2 * D)
    scenario = Scenario(X, X, target(2 * D, 2 * D, 0, 1, 1.0), law, law, "softmax", n_keys=4)
    trained = simulate(scenario, jax.random.key(1), Training(steps=40, contexts=4096, start=0.1))
    agreement = compare(predict(scenario), trained)
    assert min(agreement.left[0], agreement.right[0]) > 0.99


def test_whitened_training_reaches_the_same_optimum_in_fewer_steps():
    """Dense tokens, which share a mean: a tenth of the steps, beside a head trained as it is, 50 steps a chunk."""
    X, _ = frames()
    law, T = BernoulliUniform(0.9, N), target(N, N, 0, 1, 5.0)
    scenario = Scenario(X, X, T, law, law, "softmax", n_keys=3, query_bias=True)
    few, many = Training(steps=50, contexts=500, whitened=True), Training(steps=500, contexts=500)
    found, wanted = (simulate(scenario, jax.random.key(1), training) for training in (few, many))
    agreement = compare(wanted, found)
    assert abs(agreement.value_error[0]) < 0.01
    assert min(agreement.left[0], agreement.right[0]) > 0.999


def test_one_trace_for_an_ensemble_of_narrow_heads(monkeypatch):
    X, Y = frames()
    alone = [Scenario(X, Y, target(N, M, 0, 1, t), head_dim=2) for t in (1.0, 2.0, 3.0, 4.0)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    keys = jax.random.split(jax.random.key(1), 4)
    traces, original = [], simulation.head_loss
    monkeypatch.setattr(simulation, "head_loss", lambda *a, **k: traces.append(1) or original(*a, **k))
    spectra = simulate_ensemble(stacked, keys, Training(steps=120))
    first = len(traces)
    simulate_ensemble(stacked, jax.random.split(jax.random.key(2), 4), Training(steps=120))
    assert spectra.values.shape == (4, 2)  # as many as the head has dimensions
    assert len(traces) - first <= first / 2  # the shapes of the metrics are asked for again
    for scenario, values in zip(alone, np.asarray(spectra.values), strict=True):
        assert np.isclose(values[0], np.asarray(predict(scenario).values)[0], rtol=1e-4)


@pytest.mark.slow
def test_samples_that_do_not_fit_into_memory_together_are_trained_in_parts(monkeypatch, tmp_path):
    X, Y = frames()
    law = BernoulliUniform(0.3, N), BernoulliUniform(0.3, M)
    alone = [Scenario(X, Y, target(N, M, 0, 1, t), *law, "softmax", n_keys=2) for t in (1.0, 2.0, 3.0, 4.0, 5.0)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    given = stacked, jax.random.split(jax.random.key(1), 5), Training(steps=3, contexts=64, whitened=True)
    together = simulate_ensemble(*given)
    monkeypatch.setattr(simulation, "room", lambda: 2.5 * simulation.COPIES * 64 * (D + 2 * (D + 1)) * 8)
    in_parts = simulate_ensemble(*given, checkpoint=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heads-0", "heads-2", "heads-4"]
    np.testing.assert_allclose(in_parts.values, together.values, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"contexts": -1}, "contexts must be a whole number of at least 1, got -1"),
        ({"start": 0.0}, "start must be positive, got 0.0"),
    ],
)
def test_bad_training(options, message):
    with pytest.raises(ValueError, match=message):
        Training(**options)


def test_weight_decay_is_not_whitened():
    X, _ = frames()
    decaying = Scenario(X, X, target(N, N, 0, 1, 1.0), weight_decay=0.1)
    with pytest.raises(ValueError, match="whitened training must be without weight_decay"):
        simulate(decaying, jax.random.key(1), Training(whitened=True))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_narrow_head_with_a_query_bias_is_the_one_predicted(seed):
    """T7 on (r; 1), as the bias is trained: cosines of 0.9998 and 0.9983 are seen on the left, 1.0000 on the right."""
    X, law = np.random.default_rng(seed).normal(size=(6, 12)), BernoulliUniform(0.8, 12)
    T = matching(12, 12, [0, 2], [1, 3], np.array([0.5, 0.4]))
    scenario = Scenario(X, X, T, law, law, "softmax", n_keys=4, query_bias=True, head_dim=1)
    found = simulate(scenario, jax.random.key(seed), Training(steps=150, contexts=8192))
    agreement = compare(predict(scenario), found)
    assert min(agreement.left[0], agreement.right[0]) > 0.99
