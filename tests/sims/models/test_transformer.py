"""The transformer against plain loops, and its training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sims.engines.ensemble import train
from sims.models.tasks import induction, largest
from sims.models.transformer import (
    ROTARY_BASE,
    Transformer,
    TransformerShape,
    accuracy,
    adamw,
    cross_entropy,
)
from svtheory import InputError


def naive(weights, shape, symbols):
    """Logits and patterns of one sequence, position by position."""
    x = [sum(weights["W_E"][:, s] for s in token if s >= 0) for token in symbols]
    if shape.positions == "learned":
        x = [r + weights["W_P"][:, p] for p, r in enumerate(x)]
    patterns = []
    for layer in range(shape.layers):
        read = [r / np.sqrt(np.mean(r**2) + 1e-6) if shape.normalise else r for r in x]
        added = [np.zeros_like(r) for r in x]
        for head in range(shape.heads):
            q, k, v = (
                [
                    weights[f"W_{name}"][layer, head] @ r
                    + (weights[f"b_{name}"][layer, head] if shape.biases else np.zeros(shape.head_dim))
                    for r in read
                ]
                for name in "QKV"
            )
            if shape.positions == "rotary":
                q, k = ([turned(y, p) for p, y in enumerate(ys)] for ys in (q, k))
            pattern = np.zeros((len(x), len(x)))
            for i in range(len(x)):
                scores = [q[i] @ k[j] / shape.head_dim**0.5 for j in range(i + 1)]
                pattern[i, : i + 1] = np.exp(scores) / np.exp(scores).sum()
                added[i] = added[i] + weights["W_O"][layer, head] @ sum(pattern[i, j] * v[j] for j in range(i + 1))
            patterns.append(pattern)
        x = [r + a for r, a in zip(x, added, strict=True)]
    return weights["W_U"] @ x[-1], patterns


def turned(y, position):
    planes = len(y) // 2
    z = (y[:planes] + 1j * y[planes:]) * np.exp(1j * position * ROTARY_BASE ** -(np.arange(planes) / planes))
    return np.concatenate([z.real, z.imag])


@pytest.mark.parametrize(
    "shape",
    [
        TransformerShape(1, 2, dim=6, head_dim=4),
        TransformerShape(3, 1, dim=6, head_dim=4, positions="rotary", normalise=True, biases=True),
    ],
)
def test_forward_by_definition(shape):
    given = induction(5, 4)
    with jax.enable_x64(True):
        model = Transformer(given, shape, rngs=nnx.Rngs(0))
        for number, name in enumerate(("b_Q", "b_K", "b_V") if shape.biases else ()):
            bias = jax.random.normal(jax.random.key(number), (shape.layers, shape.heads, shape.head_dim))
            setattr(model, name, nnx.Param(bias))
        weights = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
        tokens = np.array([[[0, 3], [1, 2], [4, 4], [2, 0]], [[-1, -1], [2, -1], [-1, 0], [1, -1]]])
        trace = jax.jit(lambda tokens: model.trace(tokens))(jnp.asarray(tokens))
        for b in range(2):
            logits, patterns = naive(weights, shape, tokens[:, :, b].T)
            np.testing.assert_allclose(trace.logits[..., b], logits, rtol=1e-9, atol=1e-9)
            for layer, pattern in enumerate(trace.patterns):
                for head in range(shape.heads):
                    seen, expected = pattern[head][..., b], patterns[layer * shape.heads + head]
                    np.testing.assert_allclose(seen, expected[-len(seen) :], rtol=1e-9, atol=1e-12)
        assert len(trace.patterns[-1][0]) == 1


def test_losses_by_definition():
    rng = np.random.default_rng(0)
    logits, answers = rng.normal(size=(2, 3, 5)), rng.integers(0, 3, (2, 5))
    logits[0, 1, 0] = 9
    answers[0, 0] = 1
    right = [np.mean([logits[q, :, b].argmax() == answers[q, b] for b in range(5)]) for q in range(2)]
    nats = [np.log(np.exp(logits[q, :, b]).sum()) - logits[q, answers[q, b], b] for q in range(2) for b in range(5)]
    np.testing.assert_allclose(accuracy(jnp.asarray(logits), jnp.asarray(answers)), right, rtol=1e-6)
    np.testing.assert_allclose(cross_entropy(jnp.asarray(logits), jnp.asarray(answers)), np.mean(nats), rtol=1e-5)


def test_the_ensemble_learns_and_hyperparameters_are_those_of_each_member():
    """Three members of one seed: two alike, one whose decay is so strong that nothing can be learned."""
    given = largest(4, 2)
    start, update = adamw(given, TransformerShape(dim=16, head_dim=4), batch=64, steps=150)
    keys = jnp.stack([jax.random.key(0)] * 3)
    members = jax.jit(jax.vmap(start))(keys, jnp.array([1e-2, 1e-2, 1e-2]), jnp.array([0.01, 0.01, 99.0]))
    members, history = train(update, members, keys, 150)
    assert history["loss"].shape == (150, 3)
    assert (history["accuracy"][-20:, :2].mean(axis=0) >= 0.99).all()
    np.testing.assert_array_equal(history["loss"][:, 0], history["loss"][:, 1])
    np.testing.assert_allclose(history["loss"][-1, 2], np.log(5), rtol=1e-3)
    np.testing.assert_allclose(jnp.abs(members["parameters"]["W_E"][2]).max(), 0, atol=1e-2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": 4}, "layers must be 1, 2 or 3, got 4"),
        ({"heads": 0}, "heads must be a whole number of at least 1"),
        ({"positions": "sinusoidal"}, "positions must be one of"),
        ({"positions": "rotary", "head_dim": 3}, "head_dim must be even"),
    ],
)
def test_bad_architectures_are_named(wrong, message):
    with pytest.raises(InputError, match=message):
        TransformerShape(**wrong)
