"""T11 for any head: terms against the matrix of each convention, and sums against the scores that a head computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import (
    Head,
    InputError,
    balanced_spectrum,
    decompose,
    load_heads,
    relative_attention,
)
from svtheory.heads import CONVENTIONS, attention, without_padding
from svtheory.heads.bundles import MODELS
from svtheory.heads.decomposition import read_balanced

H, D, T = 4, 6, 5
TOGETHER = [name for name in CONVENTIONS if name != "offset"]


def head(dtype, *, biased=True, rotary=True, seed=0):
    rng = np.random.default_rng(seed)
    W_Q, W_K = rng.normal(size=(2, H, D)).astype(dtype)
    b_Q, b_K = rng.normal(size=(2, H)).astype(dtype) if biased else (None, None)
    theta = np.array([0.9], dtype) if rotary else None
    return Head(W_Q, W_K, b_Q, b_K, theta, divisor=2.0)


def tokens(dtype, *shape, seed=1):
    return np.random.default_rng(seed).normal(size=(*shape, D)).astype(dtype)


@jax.jit
def queries_and_keys(h, x, at):
    return h.queries(x, at), h.keys(x, at)


def direct_scores(h, x):
    """Query by key, position by position."""
    q, k = (np.asarray(a) for a in queries_and_keys(h, x, np.arange(len(x))))
    return q @ k.T


@pytest.mark.parametrize(
    ("dtype", "biased", "rotary"),
    [
        *(("float32", biased, rotary) for biased in (True, False) for rotary in (True, False)),
        ("float64", True, True),
        *(
            pytest.param("float64", *kind, marks=pytest.mark.slow)
            for kind in ((True, False), (False, True), (False,) * 2)
        ),
    ],
    indirect=["dtype"],
)
def test_terms_sum_to_the_score_in_every_convention(dtype, biased, rotary):
    h, x = head(dtype, biased=biased, rotary=rotary), tokens(dtype, T)
    expected = direct_scores(h, x)
    tolerance = 1e-4 * np.abs(expected).max()
    for convention in TOGETHER:
        d = decompose(h, x, x, None, convention)
        assert d.terms.shape == (T, T, H)
        assert d.terms.dtype == dtype
        np.testing.assert_allclose(np.asarray(d.terms).sum(axis=-1), expected, atol=tolerance)
        np.testing.assert_allclose(d.scores, expected, atol=tolerance)
    for t in (2, 4):
        one = decompose(h, x[t], x, t - 1, "offset", position=t)
        np.testing.assert_allclose(one.scores, expected[t], atol=tolerance)


def test_terms_are_those_of_the_named_matrix(dtype):
    """Without rotation: u_k^T (r; 1) and so on, straight from the SVD of each convention's matrix."""
    h = head(dtype, rotary=False)
    x = tokens(dtype, T)
    W_Q, W_K, b_Q, b_K, r = (np.asarray(a, float) for a in (h.W_Q, h.W_K, h.b_Q, h.b_K, x))
    one = np.ones((T, 1))
    with_last = lambda W, b: np.column_stack([W, b])  # noqa: E731
    moved_q, moved_k = r + np.linalg.pinv(W_Q) @ b_Q, r + np.linalg.pinv(W_K) @ b_K
    sides = {
        "plain": (W_Q, moved_q, W_K, moved_k),
        "augmented-last": (with_last(W_Q, b_Q), np.hstack([r, one]), with_last(W_K, b_K), np.hstack([r, one])),
        "augmented-first": (
            with_last(b_Q, W_Q),
            np.hstack([one, r]),
            with_last(b_K, W_K),
            np.hstack([one, r]),
        ),
        "query-side": (with_last(W_Q, b_Q), np.hstack([r, one]), W_K, moved_k),
        "key-side": (W_Q, moved_q, with_last(W_K, b_K), np.hstack([r, one])),
    }
    for convention, (F_Q, q, F_K, k) in sides.items():
        U, values, Vt = np.linalg.svd(F_Q.T @ F_K)
        expected = values[None, None, :H] * (q @ U[:, :H])[:, None] * (k @ Vt[:H].T)[None]
        d = decompose(h, x, x, None, convention)
        np.testing.assert_allclose(d.terms, expected, atol=1e-4 * np.abs(expected).max())
        assert (d.spectrum.left.shape, d.spectrum.right.shape) == ((F_Q.shape[1], H), (F_K.shape[1], H))
        assert (d.convention, d.divisor, d.folded) == (convention, 2.0, False)


def test_at_an_offset_the_chosen_key_is_not_rotated(dtype):
    """Its terms are those of `Omega_d = W_Q^T R_{-d} W_K`, d = 3, by a rotation written out."""
    h, x = head(dtype, biased=False), tokens(dtype, T)
    d = decompose(h, x[4], x, 1, "offset")
    c, s = np.cos(0.9 * 3), np.sin(0.9 * 3)
    back = np.eye(H)
    back[:2, :2] = [[c, s], [-s, c]]
    omega = np.asarray(h.W_Q, float).T @ back @ np.asarray(h.W_K, float)
    U, values, Vt = np.linalg.svd(omega)
    expected = values[:H] * (np.asarray(x[4]) @ U[:, :H]) * (Vt[:H] @ np.asarray(x[1]))
    np.testing.assert_allclose(d.explained, expected, atol=1e-4 * np.abs(expected).max())


def test_attention_is_causal_and_normalised_and_the_most_attended_key_is_chosen(dtype):
    h, x = head(dtype), tokens(dtype, T)
    d = decompose(h, x, x, None)
    logits, attention, index = direct_scores(h, x) / 2, np.asarray(d.attention), np.asarray(d.index)
    for t in range(T):
        e = np.exp(logits[t, : t + 1] - logits[t, : t + 1].max())
        np.testing.assert_allclose(attention[t], np.append(e / e.sum(), np.zeros(T - t - 1)), atol=1e-5)
        assert index[t] == e.argmax()
    np.testing.assert_array_equal(attention[~np.tril(np.ones((T, T), bool))], 0)


def test_relative_attention_against_the_other_visible_keys(dtype):
    h, x = head(dtype), tokens(dtype, T)
    index = np.array([0, 0, 2, 1, 3])
    read = jax.jit(lambda d: (d.terms, relative_attention(d)))
    terms, found = (np.asarray(a) for a in read(decompose(h, x, x, index)))
    np.testing.assert_array_equal(found[0], 0)
    for t in range(1, T):
        others = [j for j in range(t + 1) if j != index[t]]
        expected = terms[t, index[t]] - terms[t, others].mean(axis=0)
        np.testing.assert_allclose(found[t], expected, atol=1e-4 * np.abs(terms).max())
        own, alone = read(decompose(h, x[t], x, int(index[t]), position=t))
        np.testing.assert_allclose(alone, expected, atol=1e-4 * np.abs(terms).max())
        np.testing.assert_allclose(own, terms[t], atol=1e-4 * np.abs(terms).max())


def test_sequences_and_stacked_heads_in_one_call(dtype):
    x = tokens(dtype, 3, T)
    heads = [head(dtype, seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *a: np.stack(a), *heads)
    terms = jax.jit(lambda heads: jax.lax.map(lambda h: decompose(h, x, x, None).terms, heads))(stacked)
    for h, found in zip(heads, np.asarray(terms), strict=True):
        for sequence, one in zip(x, found, strict=True):
            expected = np.asarray(decompose(h, sequence, sequence, None).terms)
            np.testing.assert_allclose(one, expected, atol=1e-4 * np.abs(expected).max())


def turned_far_by_its_biases(rows, width, seed):
    """A head of condition 100 with rotated biases of norm 300, its tokens, and its scores in float64."""
    rng = np.random.default_rng(seed)
    basis = lambda n: np.linalg.qr(rng.normal(size=(n, rows)))[0]  # noqa: E731
    W_Q, W_K = (basis(rows) @ np.diag(np.geomspace(1, 0.01, rows)) @ basis(width).T for _ in range(2))
    b_Q, b_K = (300 * b / np.linalg.norm(b) for b in rng.normal(size=(2, rows)))
    theta = 10_000.0 ** -(np.arange(0, rows, 2) / rows)
    x = rng.normal(size=(12, width))
    arrays = W_Q, W_K, b_Q, b_K, x = [a.astype(np.float32) for a in (W_Q, W_K, b_Q, b_K, x)]
    exact = [a.astype(float) for a in arrays]
    turn = np.exp(1j * np.arange(12)[:, None] * theta[None])
    q, k = (exact[4] @ W.T + b[None] for W, b in (exact[::2][:2], exact[1::2][:2]))
    q, k = (turn * (z[:, : rows // 2] + 1j * z[:, rows // 2 :]) for z in (q, k))
    return Head(W_Q, W_K, b_Q, b_K, theta, divisor=100.0), x, (q @ k.conj().T).real


@pytest.mark.parametrize(("rows", "width"), [(16, 64), (64, 768)])
@pytest.mark.parametrize("convention", TOGETHER)
def test_large_rotated_biases_lose_no_score(rows, width, convention):
    """In float32; where the bias is in the factor, attention was off by up to 1."""
    h, x, scores = turned_far_by_its_biases(rows, width, seed=0)
    d = decompose(h, x, x, None, convention)
    logits = np.where(np.tril(np.ones((12, 12), bool)), scores / 100, -np.inf)
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.abs(scores).max() > 5000
    np.testing.assert_allclose(d.attention, expected, atol=3e-3)
    np.testing.assert_allclose(d.scores, scores, atol=4e-5 * np.abs(scores).max())
    assert d.error.shape == (12,)
    assert (np.asarray(d.error) <= 4e-5 * np.abs(scores).max()).all()


def test_what_terms_do_not_hold_is_measured_for_every_decision(dtype):
    """A head of more rows than inputs, rotated: no input reaches its queries. `error` against sums in numpy."""
    rng = np.random.default_rng(3)
    h = Head(*rng.normal(size=(2, 6, 2)).astype(dtype), frequencies=np.array([1.0, 0.5, 0.1]))
    x = rng.normal(size=(5, 2)).astype(dtype)
    scores = direct_scores(h, x)
    for causal in (True, False):
        d = decompose(dataclasses.replace(h, causal=causal), x, x, None)
        off = np.abs(np.asarray(d.terms).sum(axis=-1) - scores)
        expected = np.where(np.tril(np.ones((5, 5), bool)) if causal else True, off, 0).max(axis=1)
        assert expected[-1] > 0.1
        np.testing.assert_allclose(d.error, expected, atol=1e-5)
    alone = decompose(h, x[3], x, None, position=3)
    np.testing.assert_allclose(alone.error, off[3, :4].max(), atol=1e-5)


def test_equal_values_are_flagged(dtype):
    W = np.diag(np.array([3, 2, 2, 1], dtype))
    d = decompose(Head(W, np.eye(4, dtype=dtype)), np.ones(4, dtype), np.ones((2, 4), dtype), 0)
    assert d.named.tolist() == [True, False, False, True]


def test_memory_grows_with_the_context_not_with_its_terms():
    """`2 T K + T^2` numbers a head and some T x T work, heads one after the other: far below T^2 K."""
    tokens, heads, rows, width = 128, 12, 64, 96
    shapes = Head(*(jnp.ones((rows, width), jnp.float32) for _ in range(2)))
    stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (heads, *a.shape)), shapes)

    def read(h, x):
        d = decompose(h, x, x, None)
        return relative_attention(d), d.query, d.keys

    compiled = jax.jit(lambda hs, x: jax.lax.map(lambda h: read(h, x), hs))
    memory = compiled.lower(stacked, jnp.ones((tokens, width), jnp.float32)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * (8 * tokens**2 + 20 * (tokens + width) * (rows + width))
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 4 * heads * tokens**2 * rows / 4


@pytest.mark.skipif(not MODELS.is_dir(), reason=f"no trained heads of others at {MODELS}: set SVTHEORY_REAL_MODELS")
@pytest.mark.parametrize("layer", [0, 3])
def test_a_public_language_model(layer):
    bundle = load_heads(MODELS / "tinystories_260k.safetensors")
    x = np.asarray(bundle.attn_in)[layer, 0]
    h = bundle.head(layer, 1)
    expected = direct_scores(h, x)
    d = decompose(h, x, x, None)
    np.testing.assert_allclose(d.scores, expected, atol=1e-4 * np.abs(expected).max())
    attention = np.asarray(d.attention)
    np.testing.assert_allclose(attention.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(np.triu(attention, 1), 0)
    # rotation on adjacent pairs, as complex numbers
    q, k = ((x @ np.asarray(W).T).astype(np.complex128) for W in (h.W_Q, h.W_K))
    turn = np.exp(1j * np.arange(48)[:, None] * 10000.0 ** -(np.arange(0, 16, 2) / 16))
    q, k = ((a[:, ::2] + 1j * a[:, 1::2]) * turn for a in (q.real, k.real))
    np.testing.assert_allclose(expected, (q @ k.conj().T).real, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": np.ones((T, D + 1))}, "query must have 6 columns"),
        ({"keys": np.ones(D)}, r"keys must have shape \('m', 6\), got \(6,\)"),
        ({"keys": np.full((T, D), np.inf)}, "keys must be finite"),
        ({"keys": np.ones((T + 1, D))}, "position must be given for 5 queries and 6 keys"),
        ({"index": np.full(T, T)}, "index must lie from 0 to 4"),
        ({"index": np.full(T, 2)}, "index must be a key that its query sees"),
        ({"index": 1}, r"index must be whole numbers of shape \(5,\)"),
        ({"convention": "last"}, "convention must be one of 'plain', "),
        ({"convention": "offset"}, 'convention "offset" takes one query and an index'),
        ({"position": np.arange(T) + 1}, "position must lie from 0 to 4"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {"query": np.ones((T, D)), "keys": np.ones((T, D)), "index": None} | change
    with pytest.raises(InputError, match=message):
        decompose(head(np.float32), **given)


@pytest.mark.parametrize("convention", [name for name in CONVENTIONS if name != "offset"])
def test_biases_of_zeros_are_none(convention):
    rng = np.random.default_rng(0)
    W, tokens = rng.normal(size=(2, 8, 4)), rng.normal(size=(6, 4))
    with_zeros, without = (
        decompose(Head(*W, b_Q=b, b_K=b), tokens, tokens, None, convention) for b in (np.zeros(8), None)
    )
    assert with_zeros.spectrum.left.shape == (4, 4)
    np.testing.assert_array_equal(with_zeros.terms, without.terms)


def test_attention_of_a_head_and_padding_that_decides_nothing():
    rng = np.random.default_rng(5)
    W_Q, W_K = rng.normal(size=(2, 3, 4))
    tokens = rng.normal(size=(2, 6, 4))
    head = Head(W_Q, W_K, divisor=2.0, window=3, cap=1.5)
    scores = 1.5 * np.tanh(tokens @ W_Q.T @ (tokens @ W_K.T).swapaxes(1, 2) / 2 / 1.5)
    behind = np.arange(6)[:, None] - np.arange(6)
    seen = (behind >= 0) & (behind < 3)
    weights = np.where(seen, np.exp(scores), 0)
    expected = weights / weights.sum(axis=-1, keepdims=True)
    assert attention(head, jnp.asarray(tokens)) == pytest.approx(expected, abs=1e-5)
    real = np.arange(6) < np.array([6, 4])[:, None]
    d = without_padding(decompose(head, tokens, tokens, None), real)
    assert np.asarray(d.attention)[real] == pytest.approx(expected[real], abs=1e-5)
    assert (np.asarray(d.attention)[~real] == np.eye(6)[4:]).all()
    assert not np.asarray(relative_attention(d))[~real].any()


@pytest.mark.parametrize("rotary", [False, True])
def test_terms_of_balanced_modes_by_hand(rotary):
    """`sigma~_k (p_k . r)(p'_k . s)` with matrices of D x D in float64, inputs moved by biases and rotary maps."""
    rng = np.random.default_rng(5)
    n, d, rows = 12, 6, 4
    W_Q, W_K = rng.normal(size=(2, rows, d))
    b_Q, b_K = rng.normal(size=(2, rows))
    tokens = rng.normal(size=(n, d)) * np.geomspace(1, 0.1, d)
    head = Head(W_Q, W_K, b_Q, b_K, np.array([0.7, 0.3]) if rotary else None)
    covariance = np.cov(tokens.T, bias=True)
    values, axes = np.linalg.eigh(covariance)
    half, back = (axes * np.sqrt(values)) @ axes.T, (axes / np.sqrt(values)) @ axes.T
    at = np.arange(n)

    @jax.jit
    def read(head):
        q, k = head.queries(tokens, at), head.keys(tokens, at)
        modes = balanced_spectrum(head.W_Q, head.W_K, covariance, covariance)
        found = read_balanced(decompose(head, tokens, tokens, None), head, q, k, modes)
        return found.terms, found.error, q, k

    terms, error, q, k = (np.asarray(x, float) for x in read(head))
    U, sigma, Vt = np.linalg.svd(half @ W_Q.T @ W_K @ half)
    r, s = q @ np.linalg.pinv(W_Q).T, k @ np.linalg.pinv(W_K).T  # any inputs that give these queries and keys
    a, b = r @ W_Q.T @ W_K @ half @ Vt[:rows].T / sigma[:rows], s @ W_K.T @ W_Q @ half @ U[:, :rows] / sigma[:rows]
    expected = sigma[:rows] * a[:, None] * b[None]
    np.testing.assert_allclose(terms, expected, atol=1e-4 * np.abs(expected).max())
    # of inputs that tokens can be, probes are A^{+1/2} u~
    probes = back @ U[:, :rows]
    np.testing.assert_allclose(tokens @ W_Q.T @ W_K @ half @ Vt[:rows].T / sigma[:rows], tokens @ probes, atol=1e-6)
    np.testing.assert_allclose(terms.sum(axis=-1), q @ k.T, atol=1e-4 * np.abs(expected).max())
    assert error.max() < 1e-4 * np.abs(expected).max()
