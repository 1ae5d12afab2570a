import json
import os
import subprocess
import sys

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from small_models import CONFIGS, GPT2, LLAMA, NEOX, D, V, naive, weights, write

from svtheory import decompose
from svtheory.checkpoints import Checkpoint, bundle_heads, forward
from svtheory.checks import InputError
from svtheory.heads import load_heads, save_heads

TOKENS = np.random.default_rng(2).integers(0, V, size=(2, 9))


@pytest.fixture(params=CONFIGS)
def small(request, tmp_path):
    config = CONFIGS[request.param]
    tensors = weights(config)
    return config, tensors, Checkpoint(write(tmp_path / "small", config, tensors))


def by_hand(config, tensors, layer, head):
    """W_Q, W_K and biases of a head, cut from the tensors as each type lays them out."""
    if config is GPT2:
        W, b = (tensors[f"transformer.h.{layer}.attn.c_attn.{part}"] for part in ("weight", "bias"))
        q, k = slice(8 * head, 8 * head + 8), slice(D + 8 * head, D + 8 * head + 8)
        return W[:, q].T, W[:, k].T, b[q], b[k]
    if config is NEOX:
        W, b = (tensors[f"gpt_neox.layers.{layer}.attention.query_key_value.{part}"] for part in ("weight", "bias"))
        W, b = W.reshape(3, 3, 8, D), b.reshape(3, 3, 8)
        return W[head, 0], W[head, 1], b[head, 0], b[head, 1]
    Q, K = (tensors[f"model.layers.{layer}.self_attn.{x}_proj.weight"] for x in "qk")
    return Q.reshape(4, 8, D)[head], K.reshape(2, 8, D)[head // 2], None, None


def test_heads_are_those_of_the_file(small):
    config, tensors, checkpoint = small
    for layer in range(2):
        for head in range(checkpoint.architecture.heads):
            found = checkpoint.head(layer, head)
            assert (found.divisor, found.folded, found.pairing) == (8**0.5, False, "half-split")
            for x, expected in zip(
                (found.W_Q, found.W_K, found.b_Q, found.b_K), by_hand(config, tensors, layer, head), strict=True
            ):
                assert (x is None) == (expected is None)
                assert x is None or np.array_equal(x, expected)


def test_a_head_pays_the_attention_of_the_forward_pass(small):
    """Scores from what the head reads, stored and folded, give the attention of the whole model's pass."""
    *_, checkpoint = small
    positions = jnp.arange(9)
    for folded in (False, True):
        reading = forward(checkpoint, TOKENS, folded)
        head = checkpoint.head(1, 2, folded)
        assert head.folded == folded
        read = jnp.asarray(reading.attn_in[1, 0])
        queries, keys = (np.asarray(side(read, positions)) for side in (head.queries, head.keys))
        scores = queries @ keys.T / head.divisor
        scores[np.triu_indices(9, 1)] = -np.inf
        paid = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        assert paid == pytest.approx(reading.attention[1, 0, 2], abs=1e-5)


def test_a_bundle_of_the_heads(small, tmp_path):
    config, _, checkpoint = small
    save_heads(tmp_path / "heads.safetensors", bundle_heads(checkpoint, TOKENS))
    bundle = load_heads(tmp_path / "heads.safetensors")
    assert bundle.score_divisor == pytest.approx(8**0.5)
    assert np.array_equal(bundle.attn_in, forward(checkpoint, TOKENS).attn_in)
    assert np.array_equal(bundle.others["tokens"], TOKENS)
    assert np.array_equal(bundle.W_K[1, 2], checkpoint.head(1, 2).W_K)
    assert (bundle.b_K is None) == (config is LLAMA)
    assert bundle.b_K is None or np.array_equal(bundle.b_K[0, 1], checkpoint.head(0, 1).b_K)
    if config is GPT2:
        assert bundle.metadata["positional"] == "learned absolute"
    else:
        assert bundle.metadata["rope_pairing"] == "half-split"
        assert np.array_equal(bundle.others["rope_frequencies"], checkpoint.head(0, 0).frequencies)
    folded = bundle_heads(checkpoint, TOKENS, folded=True)
    assert np.array_equal(folded.W_Q[0, 1], checkpoint.head(0, 1, folded=True).W_Q)


def test_shards_are_one_model(small, tmp_path):
    config, tensors, whole = small
    sharded = Checkpoint(write(tmp_path / "sharded", config, tensors, shards=3))
    assert np.array_equal(sharded.ends()["unembedding"], whole.ends()["unembedding"])
    assert np.array_equal(sharded.layer(1)["W_Q"], whole.layer(1)["W_Q"])


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_are_read_to_float32(tmp_path, kind):
    tensors = {name: x.astype(kind) for name, x in weights(NEOX).items()}
    found = Checkpoint(write(tmp_path, NEOX, tensors)).head(1, 1).W_K
    assert found.dtype == np.float32
    assert np.array_equal(found, by_hand(NEOX, tensors, 1, 1)[1].astype(np.float32))


def test_files_without_the_models_prefix_and_with_buffers(tmp_path):
    """As gpt2 itself is stored: no prefix, the causal mask among the tensors."""
    tensors = {name.removeprefix("transformer."): x for name, x in weights(GPT2).items()}
    masks = {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 32, 32), bool)) for i in range(2)}
    assert Checkpoint(write(tmp_path, GPT2, tensors | masks)).layer(0)["W_Q"].shape == (3, 8, D)


def test_only_a_heads_rows_are_read(tmp_path):
    """A NaN in another head's rows is not seen; in the head's own it is refused."""
    tensors = weights(LLAMA)
    tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] = np.nan
    checkpoint = Checkpoint(write(tmp_path, LLAMA, tensors))
    assert np.isfinite(checkpoint.head(0, 1).W_Q).all()
    sentence = r"layers.0.self_attn.q_proj.weight must be finite, got 1 entries that are not"
    for reads in (lambda: checkpoint.head(0, 0), lambda: checkpoint.layer(0), lambda: forward(checkpoint, TOKENS)):
        with pytest.raises(InputError, match=sentence):
            reads()


# folders that are no checkpoint


def changed(tensors, **changes):
    return {name: x for name, x in (tensors | changes).items() if x is not None}


Q, WTE = "model.layers.1.self_attn.q_proj.weight", "transformer.wte.weight"
BAD = {
    "unknown": (
        {**LLAMA, "model_type": "mamba"},
        {},
        "model_type of config.json must be one of 'gpt2', 'gpt_neox', 'llama', 'mistral', .*, got 'mamba'",
    ),
    "no type": ({}, {}, "model_type of config.json must be one of .*, got None"),
    "heads do not divide": (
        {**GPT2, "n_head": 5},
        {},
        "n_embd of config.json must be a multiple of n_head, got 24 and 5",
    ),
    "no heads": (
        {**NEOX, "num_attention_heads": 0},
        {},
        "num_attention_heads of config.json must be a whole number of at",
    ),
    "wrong head count": (
        {**LLAMA, "num_attention_heads": 6},
        {},
        r"layers.0.self_attn.q_proj.weight must have shape \(48, 24\), as config.json says, got \(32, 24\)",
    ),
    "groups do not divide": (
        {**LLAMA, "num_key_value_heads": 3},
        {},
        "num_attention_heads of config.json must be a multiple of num_key_value_heads, got 4 and 3",
    ),
    "text for a number": (
        {**GPT2, "n_layer": "two"},
        {},
        "n_layer of config.json must be a whole number of at least 1",
    ),
    "no size": ({**NEOX, "hidden_size": None}, {}, "hidden_size of config.json must be a whole number .*, got None"),
    "epsilon": ({**LLAMA, "rms_norm_eps": -1.0}, {}, "rms_norm_eps of config.json must be a positive number, got -1.0"),
    "flag": (
        {**NEOX, "use_parallel_residual": 1},
        {},
        "use_parallel_residual of config.json must be true or false, got 1",
    ),
    "activation": ({**NEOX, "hidden_act": "mish"}, {}, "hidden_act of config.json must be one of .*, got 'mish'"),
    "rope": (
        {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 2.0}},
        {},
        "rope_type of config.json must be one of 'default', 'linear', 'llama3', 'dynamic', got 'yarn'",
    ),
    "rope of text": (
        {**LLAMA, "rope_scaling": "yarn"},
        {},
        "rope_scaling or rope_parameters of config.json must be an object, got 'yarn'",
    ),
    "odd rows": ({**NEOX, "rotary_pct": 0.4}, {}, "config.json must rotate an even number of rows of a head, got 3"),
    "rule without numbers": (
        {**LLAMA, "rope_scaling": {"rope_type": "linear"}},
        {},
        "factor of config.json must be a positive number, got None",
    ),
    "missing tensor": (
        LLAMA,
        {Q: None},
        "the checkpoint must hold layers.1.self_attn.q_proj.weight, got '.*' without it",
    ),
    "misshapen": (
        LLAMA,
        {Q: np.ones((8, 4), np.float32)},
        r"q_proj.weight must have shape \(32, 24\), .*, got \(8, 4\)",
    ),
    "whole numbers": (GPT2, {WTE: np.ones((V, D), np.int8)}, "wte.weight must hold floating-point numbers, got I8"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_checkpoint_is_one_sentence(tmp_path, kind):
    config, changes, sentence = BAD[kind]
    base = CONFIGS[config["model_type"]] if config.get("model_type") in CONFIGS else GPT2
    write(tmp_path, config, changed(weights(base), **changes))
    with pytest.raises(InputError, match=f"^.*{sentence}[^\\n]*$"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("base", "name", "value", "sentence"),
    [
        (LLAMA, "num_hidden_layers", 10**30, "config.json must be of a model of at most 10000 layers"),
        (LLAMA, "num_attention_heads", 10**9, "must be of a model of at most 10000 heads"),
        (LLAMA, "head_dim", 2 * 10**8, "must be of a model of at most 65536 rows a head"),
        (GPT2, "n_head", 10**8, "must be of a model of at most 10000 heads|must be a multiple of n_head"),
        (LLAMA, "rms_norm_eps", 10**400, "rms_norm_eps of config.json must be a positive number"),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_made_of_them(tmp_path, base, name, value, sentence):
    write(tmp_path, base | {name: value}, weights(base))
    with pytest.raises(InputError, match=sentence):
        Checkpoint(tmp_path)


def test_a_window_beyond_32_bits_is_none(tmp_path):
    config = LLAMA | {"model_type": "mistral", "sliding_window": 2**33}
    plain = Checkpoint(write(tmp_path / "a", config | {"sliding_window": None}, weights(LLAMA)))
    wide = Checkpoint(write(tmp_path / "b", config, weights(LLAMA)))
    assert np.array_equal(forward(plain, TOKENS).logits, forward(wide, TOKENS).logits)


def without_config(folder):
    (folder / "config.json").unlink()


def text_for_config(folder):
    (folder / "config.json").write_text("{")


def bytes_for_config(folder):
    (folder / "config.json").write_bytes(b'{"model_type": "gpt\xff"}')


def bytes_for_an_index(folder):
    (folder / "model.safetensors.index.json").write_bytes(b'{"\xe9": 1}')


def a_list_for_config(folder):
    (folder / "config.json").write_text("[]")


def a_missing_shard(folder):
    (folder / "model-00002-of-00003.safetensors").unlink()


def a_truncated_shard(folder):
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def a_shard_of_no_name(folder):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"wte.weight": "\ud800.safetensors"}}))


def a_shard_elsewhere(folder):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"wte.weight": "../secret.safetensors"}}))


def an_empty_index(folder):
    (folder / "model.safetensors.index.json").write_text("{}")


def no_tensors(folder):
    (folder / "model.safetensors.index.json").unlink()


BROKEN = {
    without_config: "config.json must be a JSON file in the checkpoint's folder",
    text_for_config: "config.json must be a JSON file in the checkpoint's folder",
    bytes_for_config: "config.json must be UTF-8 text, got byte 0xff at 19",
    bytes_for_an_index: "model.safetensors.index.json must be UTF-8 text, got byte 0xe9 at 2",
    a_list_for_config: "config.json must hold a JSON object, got list",
    a_missing_shard: "model-00002-of-00003.safetensors must be a whole safetensors file",
    a_truncated_shard: "model-00002-of-00003.safetensors must be a whole safetensors file",
    a_shard_of_no_name: "weight_map of model.safetensors.index.json must map tensors to files of the folder",
    a_shard_elsewhere: "weight_map of model.safetensors.index.json must map tensors to files of the folder",
    an_empty_index: "weight_map of model.safetensors.index.json must map tensors to files of the folder",
    no_tensors: "the checkpoint must be a folder with model.safetensors or model.safetensors.index.json",
}


def test_a_config_is_utf_8_whatever_the_machine_writes(tmp_path):
    folder = write(tmp_path, {**GPT2, "_name_or_path": "größe"}, weights(GPT2))
    (folder / "config.json").write_text(
        json.dumps({**GPT2, "name": "größe, 大きさ"}, ensure_ascii=False), encoding="utf-8"
    )
    code = (
        "import sys; from svtheory.checkpoints import Checkpoint; print(ascii(Checkpoint(sys.argv[1]).config['name']))"
    )
    machine = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=machine)
    assert done.stdout.strip() == ascii("größe, 大きさ"), done.stderr


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_broken_folders(tmp_path, broken):
    write(tmp_path, GPT2, weights(GPT2), shards=3)
    broken(tmp_path)
    with pytest.raises(InputError, match=f"^{BROKEN[broken]}[^\\n]*$"):
        Checkpoint(tmp_path)


def test_layers_and_heads_out_of_range(tmp_path):
    checkpoint = Checkpoint(write(tmp_path, GPT2, weights(GPT2)))
    with pytest.raises(InputError, match="layer must be a whole number from 0 to 1, got 2"):
        checkpoint.layer(2)
    with pytest.raises(InputError, match="head must be a whole number from 0 to 2, got -1"):
        checkpoint.head(0, -1)


def test_a_bundle_keeps_the_divisor_of_every_layer(tmp_path):
    folder = write(tmp_path, {**GPT2, "scale_attn_by_inverse_layer_idx": True}, weights(GPT2))
    save_heads(tmp_path / "heads.safetensors", bundle_heads(Checkpoint(folder)))
    bundle = load_heads(tmp_path / "heads.safetensors")
    assert [bundle.head(layer, 0).divisor for layer in range(2)] == pytest.approx([8**0.5, 2 * 8**0.5])


def test_a_saved_bundle_attends_as_the_model(small, tmp_path):
    """Its heads, decomposed, pay the attention of a forward pass in float64, in every layer, divided by layer too."""
    config, tensors, checkpoint = small
    exact = naive(config, tensors, TOKENS[0])[-1]
    if config is GPT2:
        by_layer = {**GPT2, "scale_attn_by_inverse_layer_idx": True}
        checkpoint = Checkpoint(write(tmp_path / "by_layer", by_layer, tensors))
        same = {name: x.copy() for name, x in tensors.items()}
        for part in ("weight", "bias"):  # the queries of the second layer, halved
            same[f"transformer.h.1.attn.c_attn.{part}"][..., :D] /= 2
        exact = naive(config, same, TOKENS[0])[-1]
    for folded in (False, True):
        save_heads(tmp_path / "heads.safetensors", bundle_heads(checkpoint, TOKENS, folded=folded))
        bundle = load_heads(tmp_path / "heads.safetensors")
        for layer, head in np.ndindex(bundle.W_Q.shape[:2]):
            read = jnp.asarray(bundle.attn_in[layer, 0])
            found = decompose(bundle.head(layer, head), read, read, None).attention
            assert np.abs(found - exact[layer, head]).max() <= 1e-4


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
def test_a_bundle_says_how_its_weights_were_stored(tmp_path, kind):
    tensors = weights(LLAMA)
    name = "model.layers.1.self_attn.k_proj.weight"
    write(tmp_path, LLAMA, tensors | {name: tensors[name].astype(jnp.dtype(kind))})
    stored = "float32" if kind == "float64" else kind  # the coarsest counts
    bundle = bundle_heads(Checkpoint(tmp_path))
    assert bundle.metadata["weights_dtype"] == stored
    assert bundle.epsilon == float(jnp.finfo(stored).eps)
