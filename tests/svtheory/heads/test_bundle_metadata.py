"""What the metadata of a bundle says, and where it is obeyed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from svtheory import HeadBundle, InputError, decompose, load_heads, save_heads

RNG = np.random.default_rng(0)
W_Q, W_K = RNG.normal(size=(2, 2, 3, 4, 5)).astype(np.float32)
B = RNG.normal(size=(2, 3, 4)).astype(np.float32)
TOKENS = RNG.normal(size=(2, 6, 7, 5)).astype(np.float32)


def of(**metadata):
    return HeadBundle(W_Q, W_K, metadata=metadata)


@pytest.mark.parametrize("positional", ["rope", "RoPE", "ROPE", "rotary", "Rotary"])
@pytest.mark.parametrize("pairing", ["half-split", "Half_Split", "half split"])
def test_words_count_in_any_case_of_letters(positional, pairing):
    head = of(positional=positional, rope_pairing=pairing, folded="TRUE", causal="false").head(0, 0)
    np.testing.assert_allclose(head.frequencies, [1, 0.01])
    assert (head.pairing, head.folded, head.causal) == ("half-split", True, False)


@pytest.mark.parametrize("positional", ["learned absolute", "Learned", "absolute", "sinusoidal", "none"])
def test_positions_that_are_read_turn_no_head(positional):
    assert of(positional=positional).head(0, 0).frequencies is None


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"positional": "alibi"}, "positional must be one of 'rope', 'rotary', .*, got 'alibi'"),
        ({"positional": ""}, "positional must be one of"),
        ({"rope_base": "10000"}, 'positional must be "rope" beside rope_base, got None'),
        ({"positional": "learned", "rope_dims": "4"}, "positional must be \"rope\" beside rope_dims, got 'learned'"),
        ({"positional": "rope", "rope_dims": "3"}, "rope_dims must be even and at most 4, got 3"),
        ({"positional": "rope", "rope_dims": "6"}, "rope_dims must be even and at most 4, got 6"),
        ({"positional": "rope", "rope_dims": "4.0"}, "rope_dims must be a positive whole number, got '4.0'"),
        ({"positional": "rope", "rope_base": "inf"}, "rope_base must be a positive number, got 'inf'"),
        ({"positional": "rope", "rope_pairing": "interleaved"}, "rope_pairing must be one of 'adjacent', 'half-split'"),
        ({"Positional": "rope"}, "metadata must spell 'positional' so, got 'Positional'"),
        ({"score-divisor": "8"}, "metadata must spell 'score_divisor' so, got 'score-divisor'"),
        ({"folded": "yes"}, "folded must be one of 'True', 'False', got 'yes'"),
        ({"causal": "1"}, "causal must be one of 'True', 'False', got '1'"),
        ({"score_divisor": "nan"}, "score_divisor must be a positive number, got 'nan'"),
        ({"score_divisor": "8, 0"}, "score_divisor must be a positive number, got ' 0'"),
        ({"score_divisor": "8, 8, 8"}, "score_divisor must be one value or 2, one a layer, got 3"),
        ({"score_cap": "-50"}, "score_cap must be a positive number, got '-50'"),
        ({"window": "0"}, "window must be a positive whole number, got '0'"),
        ({"window": "3", "causal": "False"}, "window must be none for heads that are not causal, got '3'"),
        ({"query_key_norm": "layer"}, "query_key_norm must be one of 'none', 'per head', 'all heads', got 'layer'"),
        ({"query_key_norm": "per head"}, "query_key_epsilon must be given for query_key_norm 'per head', got none"),
        ({"query_key_epsilon": "1e-6"}, "query_key_norm must be 'per head' or 'all heads' beside query_key_epsilon"),
        ({"weights_dtype": "int8"}, "weights_dtype must be one of 'bfloat16', 'float16', 'float32', 'float64'"),
        ({"bundle_version": "4"}, "bundle_version must be at most 3, the newest known here, got '4'"),
        ({"bundle_version": "new"}, "bundle_version must be a positive whole number, got 'new'"),
    ],
)
def test_metadata_is_checked(metadata, sentence):
    with pytest.raises(InputError, match=f"^{sentence}"):
        of(**metadata)


@pytest.mark.parametrize(
    ("theta", "metadata", "sentence"),
    [
        (np.ones(2), {}, 'positional must be "rope" beside rope_frequencies, got None'),
        (np.ones(3), {"positional": "rope"}, r"rope_frequencies must have shape \(n,\) or \(2, n\), n from 1 to 2"),
        (np.ones((3, 2)), {"positional": "rope"}, r"rope_frequencies must have shape \(n,\) or \(2, n\)"),
        (np.ones(2, np.float16), {"positional": "rope"}, "rope_frequencies must be finite, in float32 or float64"),
        (np.array([1, np.inf]), {"positional": "rope"}, "rope_frequencies must be finite"),
        (np.ones(1), {"positional": "rope", "rope_dims": "4"}, "rope_dims must be 2, as rope_frequencies say, got 4"),
    ],
)
def test_frequencies_are_checked(theta, metadata, sentence):
    with pytest.raises(InputError, match=f"^{sentence}"):
        HeadBundle(W_Q, W_K, others={"rope_frequencies": theta}, metadata=metadata)


def test_a_file_says_its_version_and_newer_ones_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_heads(path, of(source="here"))
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"source": "here", "bundle_version": "3"}
    assert load_heads(path).metadata == {"source": "here"}
    save_file({"W_Q": W_Q, "W_K": W_K}, path, {"format": "pt", "score_divisor": "8", "folded": "True"})
    first = load_heads(path).head(0, 0)  # of version 1, as PyTorch's safetensors mark their files
    assert (first.divisor, first.folded, first.causal) == (8, True, True)
    save_file({"W_Q": W_Q, "W_K": W_K}, path, {"bundle_version": "4"})
    with pytest.raises(InputError, match="bundle_version must be at most 3, the newest known here, got '4'"):
        load_heads(path)


def test_layers_differ_in_divisor_window_and_frequencies(tmp_path):
    theta = np.array([[0.5, 0.25], [0.0, 0.0]])
    metadata = {"positional": "rope", "score_divisor": "2, 4", "window": "none, 3", "score_cap": "5"}
    bundle = HeadBundle(W_Q, W_K, others={"rope_frequencies": theta}, metadata=metadata)
    save_heads(tmp_path / "a.safetensors", bundle)
    first, second = (load_heads(tmp_path / "a.safetensors").head(layer, 0) for layer in range(2))
    np.testing.assert_array_equal([first.frequencies, second.frequencies], theta)
    assert [(h.divisor, h.window, h.cap) for h in (first, second)] == [(2, None, 5), (4, 3, 5)]
    with pytest.raises(InputError, match=r"score_divisor must be one number for all layers .*, got \(2.0, 4.0\)"):
        _ = bundle.score_divisor


def test_attention_with_masks_windows_caps_and_divisors_by_layer():
    """Against an attention written out in float64."""
    scores = np.einsum("lhed,lstd->lhste", W_Q.astype(float), TOKENS) @ np.einsum(
        "lhed,lstd->lhset", W_K.astype(float), TOKENS
    )
    behind = np.arange(7)[:, None] - np.arange(7)[None]
    for causal, window, cap, seen in (
        ("True", "none", "none", behind >= 0),
        ("False", "none", "1.5", behind > -7),
        ("True", "3", "0.5", (behind >= 0) & (behind < 3)),
    ):
        metadata = {"causal": causal, "window": window, "score_cap": cap, "score_divisor": "1, 3"}
        bundle = HeadBundle(W_Q, W_K, attn_in=TOKENS, metadata=metadata)
        for layer, head in ((0, 1), (1, 2)):
            logits = scores[layer, head] / (1, 3)[layer]
            logits = logits if cap == "none" else float(cap) * np.tanh(logits / float(cap))
            weights = np.where(seen, np.exp(logits), 0)
            found = decompose(bundle.head(layer, head), TOKENS[layer], TOKENS[layer], None)
            np.testing.assert_allclose(found.attention, weights / weights.sum(-1, keepdims=True), atol=2e-5)
            assert np.array_equal(found.visible, np.broadcast_to(seen, found.visible.shape))
            np.testing.assert_allclose(found.scores, scores[layer, head], atol=1e-4)


def test_a_query_key_norm_is_obeyed_and_not_passed_over(tmp_path):
    metadata = {"query_key_norm": "Per_Head", "query_key_epsilon": "1e-6"}
    save_heads(tmp_path / "a.safetensors", HeadBundle(W_Q, W_K, others={"q_gain": B}, metadata=metadata))
    bundle = load_heads(tmp_path / "a.safetensors")
    assert (bundle.scoring.query_key_norm, bundle.scoring.query_key_epsilon) == ("per head", 1e-6)
    with pytest.raises(InputError, match="query_key_norm must be 'none' where it is asked what training makes"):
        bundle.check_bilinear()
    head = bundle.head(1, 2)
    assert np.array_equal(head.query_norm.gain, B[1, 2])
    assert np.array_equal(head.key_norm.gain, np.ones(len(B[1, 2])))
    assert head.query_norm.over is None
    together = HeadBundle(W_Q, W_K, metadata={**metadata, "query_key_norm": "all heads"}).head(1, 2).key_norm.over
    assert np.array_equal(together, np.concatenate(W_K[1]))
    with pytest.raises(InputError, match=r"q_gain must be finite, of shape \(2, 3, 4\), got shape \(4,\)"):
        HeadBundle(W_Q, W_K, others={"q_gain": B[0, 0]}, metadata=metadata)


@pytest.mark.parametrize("kind", [np.float16, jnp.bfloat16])
def test_half_precision_becomes_single_and_is_remembered(tmp_path, kind):
    given = {"W_Q": W_Q.astype(kind), "W_K": W_K.astype(kind), "b_Q": B.astype(kind), "attn_in": TOKENS.astype(kind)}
    save_file({**given, "W_E": W_Q.astype(kind)}, tmp_path / "a.safetensors")
    bundle = load_heads(tmp_path / "a.safetensors")
    for name, x in given.items():
        assert getattr(bundle, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(bundle, name), x.astype(np.float32))
    assert bundle.metadata == {"weights_dtype": np.dtype(kind).name}
    save_heads(tmp_path / "again.safetensors", bundle)
    again = load_heads(tmp_path / "again.safetensors")
    assert again.epsilon == bundle.epsilon == float(jnp.finfo(kind).eps)
    assert again.others["W_E"].dtype == kind
    x = bundle.attn_in[0, 0]
    q, k = (x.astype(float) @ W[0, 0].astype(float).T for W in (bundle.W_Q, bundle.W_K))
    found = decompose(bundle.head(0, 0), x, x, None)
    np.testing.assert_allclose(found.scores, (q + bundle.b_Q[0, 0]) @ k.T, rtol=1e-4, atol=1e-4)
    with jax.enable_x64(True):
        assert load_heads(tmp_path / "a.safetensors").W_Q.dtype == np.float64
