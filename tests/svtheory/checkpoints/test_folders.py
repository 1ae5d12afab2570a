"""Folders as others leave them: which file counts, what is tied, models without an unembedding, what is not read."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from small_models import CONFIGS, GPT2, LLAMA, NEOX, D, V, naive, weights, write

from svtheory.checkpoints import Checkpoint, bundle_heads, forward, read_layers
from svtheory.checks import InputError

TOKENS = np.random.default_rng(4).integers(0, V, size=(2, 7))
HEADS = {"gpt2": "lm_head.weight", "gpt_neox": "embed_out.weight", "llama": "lm_head.weight"}
EMBEDDINGS = {
    "gpt2": "transformer.wte.weight",
    "gpt_neox": "gpt_neox.embed_in.weight",
    "llama": "model.embed_tokens.weight",
}
RANDOM = np.random.default_rng(5).normal(size=(V, D)).astype(np.float32)


def logits(config, tensors, unembedding):
    """Logits (sequences, positions, V) in float64, with the unembedding that is meant."""
    name = EMBEDDINGS["gpt2"] if config["model_type"] == "gpt2" else HEADS[config["model_type"]]
    if config["model_type"] == "gpt2":  # the naive one is tied: what it reads must stay, what it writes be replaced
        final = [naive(config, tensors, s)[0] @ np.linalg.pinv(tensors[name].astype(float).T) for s in TOKENS]
        return np.array(final) @ unembedding.T.astype(float)
    return np.array([naive(config, tensors | {name: unembedding}, s)[0] for s in TOKENS])


# which file


def stale(folder):
    """An index left behind, of shards with other weights."""
    others = weights(LLAMA, seed=1)
    save_file(others, folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(others, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def of_nothing(folder):
    """An index left behind, its shards gone."""
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def unreadable(folder):
    (folder / "model.safetensors.index.json").write_text("{")


@pytest.mark.parametrize("index", [stale, of_nothing, unreadable], ids=lambda index: index.__name__)
def test_one_file_wins_over_an_index(tmp_path, index):
    tensors = weights(LLAMA)
    index(write(tmp_path, LLAMA, tensors))
    found = Checkpoint(tmp_path).head(1, 3).W_Q
    assert np.array_equal(found, tensors["model.layers.1.self_attn.q_proj.weight"][24:])


@pytest.mark.parametrize("name", ["best.safetensors", "best.safetensors.index.json"])
def test_the_file_that_the_config_names_wins_over_both(tmp_path, name):
    meant = weights(LLAMA, seed=1)
    write(tmp_path, {**LLAMA, "transformers_weights": name}, weights(LLAMA))
    save_file(meant, tmp_path / "best.safetensors")
    (tmp_path / "best.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(meant, "best.safetensors")})
    )
    assert np.array_equal(Checkpoint(tmp_path).outputs()["unembedding"], meant["lm_head.weight"])


@pytest.mark.parametrize("named", ["../best.safetensors", "", 3, ["best.safetensors"]])
def test_a_file_elsewhere_is_not_read(tmp_path, named):
    write(tmp_path, {**LLAMA, "transformers_weights": named}, weights(LLAMA))
    with pytest.raises(InputError, match=r"^transformers_weights of config.json must be a file of the folder, got"):
        Checkpoint(tmp_path)


def test_an_adapter_beside_the_model_is_not_ignored(tmp_path):
    write(tmp_path, LLAMA, weights(LLAMA))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"^the checkpoint must be a merged model, got '.*' with adapter_config.json"):
        Checkpoint(tmp_path)


def test_a_tensor_twice_is_refused(tmp_path):
    tensors = weights(GPT2)
    write(tmp_path, GPT2, tensors | {"wte.weight": RANDOM})
    sentence = (
        "^the checkpoint must hold wte.weight once, got transformer.wte.weight in model.safetensors and wte.weight"
    )
    with pytest.raises(InputError, match=sentence):
        Checkpoint(tmp_path)


# ties


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_tied_flag_with_another_head_is_said(tmp_path, kind):
    """The head of the file makes the logits, as in transformers 5; heads do not depend on it."""
    config, tensors = {**CONFIGS[kind], "tie_word_embeddings": True}, weights(CONFIGS[kind])
    checkpoint = Checkpoint(write(tmp_path, config, tensors | {HEADS[kind]: RANDOM}))
    with pytest.warns(
        UserWarning, match="tie_word_embeddings is set in config.json, but '.*' holds an unembedding of its"
    ):
        reading = forward(checkpoint, TOKENS)
    expected = logits(config, tensors, RANDOM)
    assert np.abs(reading.logits - expected).max() <= 1e-4 * np.abs(expected).max()
    bundle_heads(checkpoint, TOKENS)  # without a warning, which would be an error here


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_tied_head_that_is_stored_twice_is_no_other(tmp_path, kind):
    config, tensors = {**CONFIGS[kind], "tie_word_embeddings": True}, weights(CONFIGS[kind])
    both = tensors | {HEADS[kind]: tensors[EMBEDDINGS[kind]]}
    reading = forward(Checkpoint(write(tmp_path, config, both)), TOKENS)
    expected = logits(config, tensors, tensors[EMBEDDINGS[kind]])
    assert np.abs(reading.logits - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("kind", CONFIGS)
def test_of_tied_weights_either_may_be_stored(tmp_path, kind):
    config = {**CONFIGS[kind], "tie_word_embeddings": True}
    tensors = weights(CONFIGS[kind])
    shared = tensors[EMBEDDINGS[kind]]
    stored = {name: x for name, x in tensors.items() if name != EMBEDDINGS[kind]} | {HEADS[kind]: shared}
    ends = Checkpoint(write(tmp_path, config, stored)).ends()
    assert np.array_equal(ends["embedding"], shared)
    assert np.array_equal(ends["unembedding"], shared)


def test_an_untied_gpt2_has_its_own_head(tmp_path):
    config, tensors = {**GPT2, "tie_word_embeddings": False}, weights(GPT2)
    reading = forward(Checkpoint(write(tmp_path, config, tensors | {"lm_head.weight": RANDOM})), TOKENS)
    expected = logits(config, tensors, RANDOM)
    assert np.abs(reading.logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_newer_name_of_neoxs_head(tmp_path):
    tensors = weights(NEOX)
    renamed = {name.replace("embed_out", "lm_head"): x for name, x in tensors.items()}
    assert np.array_equal(
        Checkpoint(write(tmp_path, NEOX, renamed)).outputs()["unembedding"], tensors["embed_out.weight"]
    )


# models without an unembedding


def without_head(kind):
    return {name: x for name, x in weights(CONFIGS[kind]).items() if name != HEADS[kind]}


def bare(tensors):
    prefixes = ("transformer.", "gpt_neox.", "model.")
    return {name.removeprefix(next(filter(name.startswith, prefixes), "")): x for name, x in tensors.items()}


BASES = {
    "base model": bare,
    "base model with its prefix": dict,
    "classifier": lambda tensors: tensors | {"score.weight": np.ones((2, D), np.float32)},
    "tagger": lambda tensors: bare(tensors) | {"classifier.weight": np.ones((2, D), np.float32)},
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_heads_without_an_unembedding(tmp_path, kind, base):
    """What heads read and pay is that of the whole model; only logits are refused."""
    config = {**CONFIGS[kind], "tie_word_embeddings": False}
    checkpoint = Checkpoint(write(tmp_path, config, BASES[base](without_head(kind))))
    whole = [naive(CONFIGS[kind], weights(CONFIGS[kind]), sequence) for sequence in TOKENS]
    exact = np.stack([read for _, read, _ in whole], axis=1)
    assert bundle_heads(checkpoint, TOKENS).attn_in == pytest.approx(exact, abs=1e-5 * np.abs(exact).max())
    for i, layer in enumerate(read_layers(checkpoint, TOKENS)):
        assert np.abs(layer.attention - np.stack([paid[i] for *_, paid in whole])).max() <= 1e-4
    sentence = "^the checkpoint must hold lm_head.weight, its unembedding, to have logits, got '[^\\n]*$"
    for asks in (lambda: forward(checkpoint, TOKENS), checkpoint.outputs):
        with pytest.raises(InputError, match=sentence):
            asks()


def test_heads_alone_keep_no_attention(tmp_path):
    checkpoint = Checkpoint(write(tmp_path, LLAMA, weights(LLAMA)))
    kept, dropped = (list(read_layers(checkpoint, TOKENS, attention=a)) for a in (True, False))
    for with_it, without in zip(kept, dropped, strict=True):
        assert without.attention is None
        assert np.array_equal(without.after, with_it.after)


# what is not read


UNREAD = {
    "query-key norms": (LLAMA, "model.layers.0.self_attn.q_norm.weight", "layers.0.self_attn.q_norm.weight"),
    "biases that the config denies": (LLAMA, "model.layers.1.self_attn.q_proj.bias", "layers.1.self_attn.q_proj.bias"),
    "biases of an MLP": (LLAMA, "model.layers.1.mlp.up_proj.bias", "layers.1.mlp.up_proj.bias"),
    "a layer more": (GPT2, "transformer.h.2.ln_1.weight", "h.2.ln_1.weight"),
    "crossed attention": (GPT2, "transformer.h.0.crossattention.c_attn.weight", "h.0.crossattention.c_attn.weight"),
    "scales of quantised weights": (
        NEOX,
        "gpt_neox.layers.0.attention.dense.scales",
        "layers.0.attention.dense.scales",
    ),
    "a bias of the unembedding": (NEOX, "embed_out.bias", "lm_head.bias"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_tensors_that_would_be_ignored_are_refused(tmp_path, kind):
    config, name, said = UNREAD[kind]
    write(tmp_path, config, weights(config) | {name: np.ones(D, np.float32)})
    with pytest.raises(
        InputError, match=f"^the checkpoint must hold no tensor that config.json gives no place, got {said}$"
    ):
        Checkpoint(tmp_path)


BUFFERS = {
    "gpt2": {"h.0.attn.bias": np.ones((1, 1, 32, 32), bool), "h.0.attn.masked_bias": np.array(-1e4, np.float32)},
    "gpt_neox": {
        "gpt_neox.layers.0.attention.bias": np.ones((1, 1, 32, 32), bool),
        "gpt_neox.layers.0.attention.masked_bias": np.array(-1e4, np.float32),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": np.ones(2, np.float32),
    },
    "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_buffers_of_older_files_are_no_weights(tmp_path, kind):
    plain = forward(Checkpoint(write(tmp_path / "plain", CONFIGS[kind], weights(CONFIGS[kind]))), TOKENS)
    older = write(tmp_path / "older", CONFIGS[kind], weights(CONFIGS[kind]) | BUFFERS[kind])
    assert np.array_equal(forward(Checkpoint(older), TOKENS).logits, plain.logits)


OTHERS = {
    "is_causal": (False, [True]),
    "sliding_window": (4, [None]),
    "attention_chunk_size": (8, [None]),
    "layer_types": (["full_attention", "sliding_attention"], [None, ["full_attention"] * 2]),
    "attn_logit_softcapping": (50.0, [None]),
    "final_logit_softcapping": (30.0, [None]),
    "attention_multiplier": (0.1, [None, 1.0]),
    "logit_scale": (0.0625, [1]),
    "qk_layernorm": (True, [False, None]),
    "alibi": (True, [False]),
    "add_cross_attention": (True, [False]),
    "quantization_config": ({"quant_method": "gptq"}, [None, {}]),
    "per_layer_config": ({"0": {"head_dim": 4}}, [None, {}]),
    "pruned_heads": ({"0": [1]}, [{}]),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_settings_that_would_be_ignored_are_refused_by_name(tmp_path, kind, name):
    refused, harmless = OTHERS[name]
    tensors = weights(CONFIGS[kind])
    for value in harmless:
        Checkpoint(write(tmp_path, {**CONFIGS[kind], name: value}, tensors))
    write(tmp_path, {**CONFIGS[kind], name: refused}, tensors)
    with pytest.raises(InputError, match=rf"^{name} of config.json must (be|all be) [^\n]*$"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("given", ["full_attention", 3, {"0": "full_attention"}])
def test_layer_types_that_are_no_list(tmp_path, given):
    write(tmp_path, {**LLAMA, "layer_types": given}, weights(LLAMA))
    with pytest.raises(InputError, match=r"^layer_types of config.json must all be 'full_attention', got [^\n]*$"):
        Checkpoint(tmp_path)


def test_a_window_that_is_switched_off(tmp_path):
    Checkpoint(write(tmp_path, {**LLAMA, "sliding_window": 4, "use_sliding_window": False}, weights(LLAMA)))


def test_sizes_of_gpt2_by_their_other_names(tmp_path):
    """As in transformers, which lets num_attention_heads win over n_head."""
    renamed = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_positions": "max_position_embeddings"}
    config = {renamed.get(name, name): value for name, value in GPT2.items()} | {"num_attention_heads": 4}
    tensors = weights(GPT2)
    reading = forward(Checkpoint(write(tmp_path, config, tensors)), TOKENS)
    _, read, paid = naive({**GPT2, "n_head": 4}, tensors, TOKENS[0])
    assert np.abs(reading.attention[:, 0] - paid).max() <= 1e-4
    assert np.abs(reading.attn_in[:, 0] - read).max() <= 1e-5 * np.abs(read).max()


# precision


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_weights_follow_the_precision_that_jax_is_set_to(tmp_path, kind):
    tensors = {name: x.astype(kind) for name, x in weights(LLAMA).items()}
    checkpoint = Checkpoint(write(tmp_path, LLAMA, tensors))
    stored = tensors["model.layers.1.self_attn.q_proj.weight"][8:16]
    for x64, dtype in ((False, np.float32), (True, np.float64)):
        with jax.enable_x64(x64):
            found = checkpoint.head(1, 1).W_Q
            assert found.dtype == dtype
            assert np.array_equal(found, stored.astype(dtype))
            assert bundle_heads(checkpoint, TOKENS).attn_in.dtype == dtype


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_forward_pass_in_float64(tmp_path, kind):
    """To 1e-9 beside a computation in float64 at the frequencies that models round to float32."""
    config, tensors = CONFIGS[kind], {name: x.astype(float) for name, x in weights(CONFIGS[kind]).items()}
    checkpoint = Checkpoint(write(tmp_path, config, tensors))
    theta = {} if kind == "gpt2" else {"theta": np.array(checkpoint.architecture.frequencies[0])}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        reading = forward(checkpoint, TOKENS)
        assert {x.dtype for x in reading} == {np.dtype(float)}
    for s, sequence in enumerate(TOKENS):
        for found, exact in zip(reading, naive(config, tensors, sequence, **theta), strict=True):
            part = found[s] if found is reading.logits else found[:, s]
            assert np.abs(part - exact).max() <= 1e-9 * np.abs(exact).max()


def test_what_overflows_float32_is_named_and_float64_holds_it(tmp_path):
    tensors = {name: x.astype(float) for name, x in weights(LLAMA).items()}
    tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] = 1e300
    checkpoint = Checkpoint(write(tmp_path, LLAMA, tensors))
    with pytest.raises(InputError, match=r"^layers.0.self_attn.q_proj.weight must be finite"):
        checkpoint.head(0, 0)
    with jax.enable_x64(True):
        assert checkpoint.layer(0)["W_Q"][0, 0, 0] == 1e300
        assert jnp.asarray(checkpoint.layer(0)["W_Q"]).dtype == float
