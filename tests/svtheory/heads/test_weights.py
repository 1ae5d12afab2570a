"""Heads: biases, rotary positions against the complex form of T13, and normalisation folded in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import Head, InputError, fold_layer_norm, fold_rms_norm
from svtheory.rotary import rotary_head

H, D = 8, 5


def weights(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in ((H, D), (H, D), (H,), (H,))]


@pytest.mark.parametrize("pairing", ["adjacent", "half-split"])
@pytest.mark.parametrize("planes", [4, 2])
def test_rotary_scores_are_those_of_the_complex_form(dtype, pairing, planes):
    W_Q, W_K, *_ = weights(dtype)
    theta = jnp.asarray(np.geomspace(1, 1e-3, planes), dtype)
    head = Head(W_Q, W_K, frequencies=theta, pairing=pairing)
    r, s = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, D)), dtype)
    p, there = jnp.arange(6) + 3, jnp.asarray([0, 1, 5, 2, 8, 3])
    scores = (head.queries(r, p) * head.keys(s, there)).sum(axis=-1)
    complex_form = rotary_head(W_Q, W_K, theta, pairing)
    expected = [r[i] @ complex_form.omega(float(p[i] - there[i])).astype(dtype) @ s[i] for i in range(6)]
    np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=2e-5)
    assert scores.dtype == dtype


def test_positions_broadcast_over_sequences_and_heads_without_rotation_ignore_them(dtype):
    W_Q, W_K, b_Q, b_K = weights(dtype)
    tokens = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4, D)), dtype)
    head = Head(W_Q, W_K, b_Q, b_K)
    np.testing.assert_allclose(head.queries(tokens, jnp.arange(4)), tokens @ W_Q.T + b_Q.reshape(1, 1, H), rtol=1e-5)
    turning = Head(W_Q, W_K, b_Q, b_K, jnp.ones(2, dtype))
    np.testing.assert_allclose(turning.keys(tokens, jnp.arange(4))[1], turning.keys(tokens[1], jnp.arange(4)))
    np.testing.assert_allclose(turning.keys(tokens[:, 0], jnp.zeros(3, int)), head.keys(tokens[:, 0], 0), rtol=1e-5)
    assert head.divisor == pytest.approx(H**0.5)


@pytest.mark.parametrize("biased", [True, False])
def test_folded_layer_norm_reads_the_normalised_token(dtype, biased):
    W_Q, W_K, b_Q, b_K = weights(dtype)
    gain, bias = jnp.asarray(np.random.default_rng(3).normal(size=(2, D)), dtype)
    head = Head(W_Q, W_K, b_Q if biased else None, b_K if biased else None, divisor=3.0)
    x = jnp.asarray(np.random.default_rng(4).normal(size=(6, D)), dtype)
    bare = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    for beta in (bias, None):
        folded = fold_layer_norm(head, gain, beta)
        normal = bare * gain[None, :] + (0 if beta is None else beta[None, :])
        np.testing.assert_allclose(folded.queries(bare, 0), head.queries(normal, 0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(folded.keys(bare, 0), head.keys(normal, 0), rtol=1e-4, atol=1e-5)
        assert folded.folded
        assert folded.divisor == 3.0
        np.testing.assert_allclose(folded.W_Q.sum(axis=1), 0, atol=1e-5)


def test_folded_rms_norm_keeps_biases(dtype):
    W_Q, W_K, b_Q, b_K = weights(dtype)
    gain = jnp.asarray(np.random.default_rng(5).normal(size=D), dtype)
    head = Head(W_Q, W_K, b_Q, b_K)
    folded = fold_rms_norm(head, gain)
    bare = jnp.asarray(np.random.default_rng(6).normal(size=(4, D)), dtype)
    np.testing.assert_allclose(folded.keys(bare, 0), head.keys(bare * gain[None, :], 0), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="head must not be folded already"):
        fold_rms_norm(folded, gain)


def test_heads_stack_under_vmap(dtype):
    heads = [Head(*weights(dtype, seed), jnp.ones(2, dtype)) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *heads)
    x = jnp.ones((4, D), dtype)
    together = jax.vmap(lambda head: head.queries(x, jnp.arange(4)))(stacked)
    for one, head in zip(together, heads, strict=True):
        np.testing.assert_allclose(one, head.queries(x, jnp.arange(4)), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W_K": np.ones((H - 1, D))}, "W_K must have 8 rows"),
        ({"b_Q": np.ones(H + 1)}, "b_Q must have 8 rows"),
        ({"b_K": np.full(H, np.nan)}, "b_K must be finite"),
        ({"frequencies": np.ones(5)}, "frequencies must be at most 4, one for two of the 8 rows, got 5"),
        ({"pairing": "odd"}, "pairing must be one of 'adjacent', 'half-split', got 'odd'"),
        ({"divisor": 0.0}, "divisor must be a positive number, got 0.0"),
    ],
)
def test_bad_heads_are_named(change, message):
    with pytest.raises(InputError, match=message):
        Head(**({"W_Q": np.ones((H, D)), "W_K": np.ones((H, D))} | change))
    with pytest.raises(InputError, match=r"gain must have shape \(5,\)"):
        fold_layer_norm(Head(np.ones((H, D)), np.ones((H, D))), np.ones(D + 1))
