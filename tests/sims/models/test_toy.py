"""Loops over tokens in numpy are the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sims.engines.ensemble import train
from sims.models.toy import Problem, Toy, activations, between, losses, start_and_update
from svtheory import BernoulliUniform, single_pair

N, D, H, KEYS, B = 5, 3, 2, 4, 6


def build(dtype, query_bias=False):
    """A toy of numpy's random numbers, which need no compilation."""
    rng = np.random.default_rng(0)
    shapes = {"W": (D, N), "b": (N,), "W_Q": (H, D), "W_K": (H, D)} | ({"b_Q": (H,)} if query_bias else {})
    weights = {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}
    empty = jax.eval_shape(lambda: Toy(N, D, H, query_bias=query_bias, rngs=nnx.Rngs(0)))
    return nnx.merge(nnx.graphdef(empty), weights)


def drawn(dtype):
    rng = np.random.default_rng(1)
    f = rng.uniform(size=(N, 1 + KEYS, B)) * (rng.uniform(size=(N, 1 + KEYS, B)) < 0.5)
    return jnp.asarray(f, dtype), jnp.asarray(rng.normal(size=(N, N)), dtype)


def loop_losses(toy, f, T, objective):
    W, b, W_Q, W_K = (np.asarray(x[...], np.float64) for x in (toy.W, toy.b, toy.W_Q, toy.W_K))
    b_Q = 0 if toy.b_Q is None else np.asarray(toy.b_Q[...], np.float64)
    f, T = np.asarray(f, np.float64), np.asarray(T, np.float64)
    reconstruction, attention = [], []
    for n in range(B):
        for j in range(1 + KEYS):
            token = W @ f[:, j, n]
            reconstruction.append(sum((f[:, j, n] - np.maximum(W.T @ token + b, 0)) ** 2))
        query = W_Q @ W @ f[:, 0, n] + b_Q
        given = np.array([query @ (W_K @ W @ f[:, j, n]) for j in range(1, 1 + KEYS)])
        asked = np.array([f[:, 0, n] @ T @ f[:, j, n] for j in range(1, 1 + KEYS)])
        if objective == "square":
            attention.append(np.mean((given - asked) ** 2) / 2)
        else:
            p = np.exp(asked) / np.exp(asked).sum()
            attention.append(-np.sum(p * np.log(np.exp(given) / np.exp(given).sum())))
    return np.mean(reconstruction), np.mean(attention)


@pytest.mark.parametrize(("objective", "query_bias"), [("softmax", True), ("square", False)])
def test_losses_are_those_of_plain_loops(dtype, eps, objective, query_bias):
    toy, (f, T) = build(dtype, query_bias), drawn(dtype)
    found = jax.jit(losses, static_argnums=3)(toy, f, T, objective)
    assert all(x.dtype == dtype for x in found)
    assert np.allclose(found, loop_losses(toy, f, T, objective), rtol=50 * eps)


@pytest.mark.parametrize("dim", [2, 4])
def test_both_orders_of_a_product_are_one(dim, dtype, eps):
    rng = np.random.default_rng(2)
    left, right, f = (rng.normal(size=shape) for shape in ((dim, 6), (dim, 6), (6, 3, 2)))
    found = between(*(jnp.asarray(x, dtype) for x in (left, right, f)))
    assert np.allclose(found, np.einsum("dn,dm,mjb->njb", left, right, f), atol=100 * eps)


def test_extreme_logits_have_finite_losses_and_gradients(dtype):
    toy, (f, T) = build(dtype), drawn(dtype)
    gradient = jax.jit(jax.grad(lambda toy: sum(losses(toy, 1e3 * f, 1e3 * T, "softmax"))))(toy)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_activations_follow_the_law():
    law = BernoulliUniform(jnp.array([0.05, 0.3, 1.0]), 3)
    f = activations(law, jax.random.key(0), 7, 5000)
    assert f.shape == (3, 8, 5000)
    draws = np.asarray(f, np.float64).reshape(3, -1)
    error = draws.std(axis=1) / np.sqrt(draws.shape[1])
    assert (abs(draws.mean(axis=1) - law.mean()) < 4 * error).all()
    square_error = (draws**2).std(axis=1) / np.sqrt(draws.shape[1])
    assert (abs((draws**2).mean(axis=1) - jnp.diagonal(law.second_moment())) < 4 * square_error).all()
    assert (abs(np.corrcoef(draws) - np.eye(3)) < 4 / np.sqrt(draws.shape[1])).all()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_training_lowers_both_losses(precision):
    with jax.enable_x64(precision == "float64"):  # optax mixes integers and floats, so without strict dtypes
        parameters, history = trained_toys()
    assert {x.dtype.name for x in jax.tree.leaves(parameters)} == {precision}
    assert sorted(parameters) == ["W", "W_K", "W_Q", "b", "b_Q"]
    for name in ("reconstruction", "attention"):
        assert (history[name][-50:].mean(axis=0) < 0.8 * history[name][:10].mean(axis=0)).all()


def trained_toys():
    start, update = start_and_update(
        lambda rngs: Toy(N, D, H, query_bias=True, rngs=rngs),
        objective="square",
        n_keys=KEYS,
        batch=64,
        rate=1e-2,
        steps=500,
    )
    targets = jnp.stack([single_pair(N, N, 0, 1, t) for t in (2.0, 4.0)])
    laws = jax.vmap(lambda p: BernoulliUniform(p, N))(jnp.array([0.4, 0.5]))
    members = jax.vmap(start)(jax.random.split(jax.random.key(0), 2))
    problems = Problem(laws, targets, jnp.array([1.0, 2.0]))
    trained, history = train(update, members, jax.random.split(jax.random.key(1), 2), 500, problems)
    return trained["parameters"], history
