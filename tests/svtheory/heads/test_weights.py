"""Heads: biases, rotary positions against the complex form of T13, and normalisation folded in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import Head, InputError, fold_layer_norm, fold_rms_norm
from svtheory.heads import Norm, bilinear
from svtheory.prediction.rotary import RotaryHead, rotary_head

H, D = 8, 5
# what each operation alone would be, compiled together
queries, keys = jax.jit(Head.queries), jax.jit(Head.keys)
omega = jax.jit(RotaryHead.omega)


def weights(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in ((H, D), (H, D), (H,), (H,))]


@pytest.mark.parametrize("pairing", ["adjacent", "half-split"])
@pytest.mark.parametrize("planes", [4, 2])
def test_rotary_scores_are_those_of_the_complex_form(dtype, pairing, planes):
    W_Q, W_K, *_ = weights(dtype)
    theta = np.geomspace(1, 1e-3, planes).astype(dtype)
    head = Head(W_Q, W_K, frequencies=theta, pairing=pairing)
    r, s = np.random.default_rng(1).normal(size=(2, 6, D)).astype(dtype)
    p, there = np.arange(6) + 3, np.array([0, 1, 5, 2, 8, 3])
    turned = queries(head, r, p), keys(head, s, there)
    complex_form = jax.jit(rotary_head, static_argnums=3)(W_Q, W_K, theta, pairing)
    matrices = [np.asarray(omega(complex_form, float(p[i] - there[i])), dtype) for i in range(6)]
    expected = [r[i] @ matrices[i] @ s[i] for i in range(6)]
    np.testing.assert_allclose((np.asarray(turned[0]) * turned[1]).sum(axis=-1), expected, rtol=2e-5, atol=2e-5)
    assert {x.dtype for x in turned} == {dtype}


def test_positions_broadcast_over_sequences_and_heads_without_rotation_ignore_them(dtype):
    W_Q, W_K, b_Q, b_K = weights(dtype)
    tokens = np.random.default_rng(2).normal(size=(3, 4, D)).astype(dtype)
    head, at = Head(W_Q, W_K, b_Q, b_K), np.arange(4)
    np.testing.assert_allclose(queries(head, tokens, at), tokens @ W_Q.T + b_Q, rtol=1e-5, atol=1e-6)
    turning = Head(W_Q, W_K, b_Q, b_K, np.ones(2, dtype))
    np.testing.assert_allclose(keys(turning, tokens, at)[1], keys(turning, tokens[1], at), rtol=1e-6)
    np.testing.assert_allclose(
        keys(turning, tokens[:, 0], np.zeros(3, int)), keys(head, tokens[:, 0], 0), rtol=1e-5, atol=1e-6
    )
    assert head.divisor == pytest.approx(H**0.5)


@pytest.mark.parametrize("biased", [True, False])
def test_folded_layer_norm_reads_the_normalised_token(dtype, biased):
    W_Q, W_K, b_Q, b_K = weights(dtype)
    gain, bias = np.random.default_rng(3).normal(size=(2, D)).astype(dtype)
    head = Head(W_Q, W_K, b_Q if biased else None, b_K if biased else None, divisor=3.0)
    x = np.random.default_rng(4).normal(size=(6, D)).astype(dtype)
    bare = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    for beta in (bias, None):
        folded = fold_layer_norm(head, gain, beta)
        normal = bare * gain + (0 if beta is None else beta)
        np.testing.assert_allclose(queries(folded, bare, 0), queries(head, normal, 0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(keys(folded, bare, 0), keys(head, normal, 0), rtol=1e-4, atol=1e-5)
        assert folded.folded
        assert folded.divisor == 3.0
        np.testing.assert_allclose(np.asarray(folded.W_Q).sum(axis=1), 0, atol=1e-5)


def test_folded_rms_norm_keeps_biases(dtype):
    W_Q, W_K, b_Q, b_K = weights(dtype)
    gain = np.random.default_rng(5).normal(size=D).astype(dtype)
    head = Head(W_Q, W_K, b_Q, b_K)
    folded = fold_rms_norm(head, gain)
    bare = np.random.default_rng(6).normal(size=(4, D)).astype(dtype)
    np.testing.assert_allclose(keys(folded, bare, 0), keys(head, bare * gain, 0), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="head must not be folded already"):
        fold_rms_norm(folded, gain)


def test_heads_stack_under_vmap(dtype):
    heads = [Head(*weights(dtype, seed), np.ones(2, dtype)) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *heads)
    x, at = np.ones((4, D), dtype), np.arange(4)
    together = jax.vmap(lambda head: head.queries(x, at))(stacked)
    for one, head in zip(np.asarray(together), heads, strict=True):
        np.testing.assert_allclose(one, head.queries(x, at), rtol=1e-5)


FAR = 131_072


@pytest.mark.parametrize("pairing", ["adjacent", "half-split"])
def test_angles_are_right_at_131072_positions(dtype, eps, pairing):
    """Against float64, in compiled code too; in float32, position times frequency is off by 4e-3."""
    rows, theta = 64, 10_000.0 ** -(np.arange(0, 64, 2) / 64)
    head = Head(np.ones((rows, 1), dtype), np.ones((rows, 1), dtype), frequencies=theta, pairing=pairing)
    p = np.append(np.random.default_rng(0).integers(-FAR, FAR + 1, 999), FAR)
    z = np.random.default_rng(1).normal(size=(rows // 2, 2))
    rows_of = (lambda z: z.ravel()) if pairing == "adjacent" else (lambda z: z.T.ravel())
    turned = z @ [1, 1j] * np.exp(1j * p[:, None] * theta[None])
    expected = np.stack([rows_of(np.stack([t.real, t.imag], axis=1)) for t in turned])
    x = np.broadcast_to(rows_of(z).astype(dtype), (len(p), rows))
    tolerance = 3e-6 * np.linalg.norm(z, axis=1).max() if dtype == np.float32 else 1e-9
    built_inside = lambda _, *given: dataclasses.replace(head, frequencies=theta).rotated(*given)  # noqa: E731
    for read in (Head.rotated, jax.jit(Head.rotated), jax.jit(built_inside)):
        np.testing.assert_allclose(read(head, x, p), expected, atol=tolerance)


def test_attention_is_right_at_131072_positions():
    """A query at the end and keys all along, in float32, to 1e-4 of a softmax in float64."""
    rng = np.random.default_rng(2)
    theta = 10_000.0 ** -(np.arange(0, 64, 2) / 64)
    W_Q, W_K = (0.6 * rng.normal(size=(2, 64, 8))).astype(np.float32)
    tokens, at = rng.normal(size=(512, 8)).astype(np.float32), np.sort(rng.integers(0, FAR, 512))
    query = rng.normal(size=8).astype(np.float32)
    head = Head(W_Q, W_K, frequencies=theta)
    logits = np.asarray(keys(head, tokens, at), float) @ np.asarray(queries(head, query, FAR), float) / 8
    q, k = (x.astype(float) @ W.T.astype(float) for x, W in ((query, W_Q), (tokens, W_K)))
    q, k = (x[..., :32] + 1j * x[..., 32:] for x in (q, k))
    exact = (k * np.exp(1j * (at - FAR)[:, None] * theta[None]) @ q.conj()).real / 8
    found, expected = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (logits, exact))
    assert expected.max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
def test_half_precision_rounds_no_position(kind):
    """2,049 is 2,048 in float16: positions and angles are float32, and so are the weights of a head."""
    W_Q, W_K, b_Q, b_K = (x.astype(kind) for x in weights(np.float32))
    head = Head(W_Q, W_K, b_Q, b_K, np.array([1.0]))
    assert {x.dtype for x in (head.W_Q, head.W_K, head.b_Q, head.b_K)} == {np.dtype(np.float32)}
    turned = jax.jit(Head.rotated)(head, np.eye(1, H).astype(kind), np.array([2049]))
    assert turned.dtype == kind
    np.testing.assert_allclose(
        np.asarray(turned, float)[0, :2], [np.cos(2049), np.sin(2049)], atol=float(jnp.finfo(kind).eps)
    )
    tokens = np.random.default_rng(1).normal(size=(3, D)).astype(kind)
    exact = np.asarray(tokens, float) @ np.asarray(W_Q, float).T + np.asarray(b_Q, float)
    np.testing.assert_allclose(queries(Head(W_Q, W_K, b_Q), tokens, 0), exact, rtol=1e-5, atol=1e-5)


def test_lists_make_a_head():
    head = Head([[1, 2], [3, 4]], [[1.0, 0.0], [0.0, 1.0]], [0, 1], frequencies=[0.5])
    np.testing.assert_allclose(queries(head, np.ones(2), 0), [3, 8])
    assert Head([[2.0]], [[3.0]]).divisor == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W_K": np.ones((H - 1, D))}, "W_K must have 8 rows"),
        ({"b_Q": np.ones(H + 1)}, "b_Q must have 8 rows"),
        ({"b_K": np.full(H, np.nan)}, "b_K must be finite"),
        ({"frequencies": np.ones(5)}, "frequencies must be at most 4, one for two of the 8 rows, got 5"),
        ({"pairing": "odd"}, "pairing must be one of 'adjacent', 'half-split', got 'odd'"),
        ({"divisor": 0.0}, "divisor must be a positive number, got 0.0"),
        ({"divisor": True}, "divisor must be a positive number, got True"),
        ({"folded": "False"}, "folded must be True or False, got 'False'"),
        ({"causal": 0}, "causal must be True or False, got 0"),
        ({"cap": -1.0}, "cap must be a positive number, got -1.0"),
        ({"window": 0}, "window must be a whole number of at least 1, got 0"),
        ({"window": 3, "causal": False}, "window must be None for a head that is not causal, got 3"),
        ({"frequencies": np.ones(2, np.float16)}, "frequencies must be float32 or float64, got float16"),
    ],
)
def test_bad_heads_are_named(change, message):
    with pytest.raises(InputError, match=message):
        Head(**({"W_Q": np.ones((H, D)), "W_K": np.ones((H, D))} | change))
    with pytest.raises(InputError, match=r"gain must have shape \(5,\)"):
        fold_layer_norm(Head(np.ones((H, D)), np.ones((H, D))), np.ones(D + 1))


def test_masked_frequencies_are_refused():
    with pytest.raises(InputError, match="frequencies must have no masked entries"):
        Head(jnp.eye(2), jnp.eye(2), frequencies=np.ma.array([1.0], mask=[True]))
    assert Head(jnp.eye(2), jnp.eye(2), frequencies=np.ma.array([1.0])).frequencies.tolist() == [1.0]


@pytest.mark.parametrize("together", [False, True])
def test_a_query_key_norm_is_before_the_rotation(together):
    """Against numpy; the head without its norms makes the same queries and keys of rescaled tokens."""
    W_Q, W_K, gain, other = weights(np.float32)
    over = np.concatenate([W_Q, 2 * W_Q]) if together else None
    bare = Head(W_Q, W_K, frequencies=np.ones(2))
    head = dataclasses.replace(bare, query_norm=Norm(gain, 1e-3, over), key_norm=Norm(other, 1e-3))
    x = np.random.default_rng(5).normal(size=(2, 6, D)).astype(np.float32)
    rms = np.sqrt(((x @ np.asarray(W_Q if over is None else over).T) ** 2).mean(axis=-1, keepdims=True) + 1e-3)
    at = np.arange(6)
    found = queries(head, x, at)
    np.testing.assert_allclose(found, bare.rotated(x @ W_Q.T * gain / rms, at), atol=1e-5)
    plain, r, s = bilinear(head, x, x)
    assert plain.query_norm is plain.key_norm is None
    assert plain.turns is head.turns
    np.testing.assert_allclose(r, x / rms, atol=1e-6)
    np.testing.assert_allclose(queries(plain, r, at), found, atol=1e-5)
    np.testing.assert_allclose(keys(plain, s, at), keys(head, x, at), atol=1e-5)
    g = gain[:D]
    np.testing.assert_allclose(queries(fold_rms_norm(head, g), x, at), queries(head, x * g, at), atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"query_norm": Norm(np.ones(H, np.float32), 1e-6), "b_Q": np.ones(H, np.float32)}, "b_Q must be None beside"),
        ({"key_norm": Norm(np.ones(D, np.float32), 1e-6)}, r"key_norm.gain must have shape \(8,\)"),
        ({"key_norm": Norm(np.ones(H, np.float32), 0.0)}, "key_norm.epsilon must be positive"),
        (
            {"key_norm": Norm(np.ones(H, np.float32), 1e-6, np.eye(H, dtype=np.float32))},
            "key_norm.over must have 5 col",
        ),
    ],
)
def test_norms_that_do_not_fit(given, message):
    W_Q, W_K, *_ = weights(np.float32)
    with pytest.raises(InputError, match=message):
        Head(W_Q, W_K, **given)
