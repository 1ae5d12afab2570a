"""Dictionaries as each library writes them, encoded as each library encodes, naively."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from svtheory.checkpoints import read_dictionary
from svtheory.checks import InputError
from svtheory.heads import Dictionary, Encoder, dictionaries

D, N, n = 6, 11, 7
RNG = np.random.default_rng(0)
W_ENC, W_DEC = RNG.normal(size=(D, N)).astype(np.float32), RNG.normal(size=(N, D)).astype(np.float32)
W_DEC[4] = 0  # a dead latent
B_ENC, B_DEC = RNG.normal(size=N).astype(np.float32), RNG.normal(size=D).astype(np.float32)
THRESHOLD = np.abs(RNG.normal(size=N)).astype(np.float32)
TOKENS = RNG.normal(size=(n, D)).astype(np.float32)
TL = {"W_enc": W_ENC, "W_dec": W_DEC, "b_enc": B_ENC, "b_dec": B_DEC}
TORCH = {"encoder.weight": W_ENC.T, "decoder.weight": W_DEC.T, "encoder.bias": B_ENC}


def relu(y):
    return np.maximum(y, 0)


def jump(y, threshold=THRESHOLD):
    return relu(y) * (y > threshold)


def topk(y, k=3, by=1.0):
    kept = np.argsort(-y * by, axis=1)[:, :k]
    z = np.zeros_like(y)
    np.put_along_axis(z, kept, np.take_along_axis(relu(y), kept, axis=1), axis=1)
    return z


def plain(act, subtracts, x=TOKENS):
    return act((x - B_DEC * subtracts) @ W_ENC + B_ENC)


def reconstruction(z):
    return z @ W_DEC + B_DEC


NORM = 5.0  # of Llama Scope: tokens are scaled to a norm of sqrt(D) from this
HYPER = {
    "hook_point_in": "blocks.15.hook_resid_post",
    "hook_point_out": "blocks.15.hook_resid_post",
    "d_model": D,
    "d_sae": N,
    "act_fn": "jumprelu",
    "top_k": 50,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": NORM, "out": NORM},
    "apply_decoder_bias_to_pre_encoder": False,
    "jump_relu_threshold": 0.2,
}
S = D**0.5 / NORM
LENGTHS = np.linalg.norm(W_DEC, axis=1)
OLD = {"hook_point": "blocks.8.hook_resid_pre", "hook_point_layer": 8, "d_in": D, "d_sae": N}
METADATA = {"hook_name": "blocks.20.hook_resid_post", "hook_head_index": None}
NEW = {"d_in": D, "d_sae": N, "apply_b_dec_to_input": False, "normalize_activations": "none", "metadata": METADATA}
GEMMA2 = {
    "hf_hook_point_in": "model.layers.17.output",
    "hf_hook_point_out": "model.layers.17.output",
    "architecture": "jump_relu",
    "affine_connection": False,
    "type": "sae",
}
LEARNING = {"trainer": {"dict_class": "BatchTopKSAE", "k": 3, "layer": 3, "submodule_name": "resid_post_layer_3"}}
SPARSIFY = {"expansion_factor": 32, "normalize_decoder": True, "num_latents": N, "k": 3, "signed": False, "d_in": D}
QWEN = {"model_type": "topk_sae", "d_model": D, "d_sae": N, "k": 3, "num_layers": 28, "hook_point": "resid_post"}
JUMP = {"threshold": THRESHOLD}
LOWER = {name.replace("W_", "w_"): x for name, x in TL.items()} | JUMP
TURNED = TL | {"W_enc": W_ENC.T, "W_dec": W_DEC.T}

# folder, weights' file, config's file and content, arrays; space, layer, activations, reconstruction's scale
FORMATS = {
    "SAELens, the first": ("x", "sae_weights.safetensors", "cfg.json", OLD, TL, "resid_pre", 8, plain(relu, True)),
    "SAELens 5, topk": (
        *("x", "sae_weights.safetensors", "cfg.json"),
        {
            "hook_name": "blocks.8.hook_attn_out",
            "d_sae": N,
            "activation_fn_str": "topk",
            "activation_fn_kwargs": {"k": 3},
        },
        *(TL, "attn_out", 8, plain(topk, True)),
    ),
    "SAELens 6, jumprelu": (
        *("x", "sae_weights.safetensors", "cfg.json", NEW | {"architecture": "jumprelu"}, TL | JUMP),
        *("resid_post", 20, plain(jump, False)),
    ),
    "SAELens 6, topk by length": (
        *("x", "sae_weights.safetensors", "cfg.json"),
        NEW | {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True},
        *(TL, "resid_post", 20, plain(lambda y: topk(y, by=LENGTHS), False)),
    ),
    "Gemma Scope": ("average_l0_71", "params.npz", None, None, TL | JUMP, "resid_post", 5, plain(jump, False)),
    "Gemma Scope 2": ("x", "params.safetensors", "config.json", GEMMA2, LOWER, "resid_post", 17, plain(jump, False)),
    "dictionary_learning": (
        *("trainer_1", "ae.safetensors", "config.json", LEARNING),
        TORCH | {"b_dec": B_DEC, "threshold": np.float32(0.3)},
        *("resid_post", 3, plain(lambda y: jump(y, 0.3), True)),
    ),
    "dictionary_learning, first class": (
        *("trainer_1", "ae.safetensors", "config.json"),
        {"trainer": {"dict_class": "AutoEncoder", "submodule_name": "attn_out_layer_2"}},
        *(TORCH | {"bias": B_DEC}, "attn_out", 2, plain(relu, True)),
    ),
    "Llama Scope": (
        *("L15R/checkpoints", "final.safetensors", "../hyperparams.json", HYPER, TORCH | {"decoder.bias": B_DEC}),
        # as published: tokens are scaled, features and reconstruction scaled back, the threshold is that of these
        *("resid_post", 15, jump((S * TOKENS @ W_ENC + B_ENC) / S, 0.2)),
    ),
    "sparsify": (
        *("layers.3", "sae.safetensors", "cfg.json", SPARSIFY),
        {"W_dec": W_DEC, "b_dec": B_DEC, "encoder.weight": W_ENC.T, "encoder.bias": B_ENC},
        *("resid_post", 3, plain(topk, True)),
    ),
    "Qwen Scope": ("w", "layer5.safetensors", "config.json", QWEN, TURNED, "resid_post", 5, plain(topk, False)),
}


def written(root, folder, file, config_file, config, arrays):
    """A dictionary as it lies on disk; the path that a user gives."""
    path = root / folder
    path.mkdir(parents=True)
    if config_file:
        (path / config_file).write_text(json.dumps(config))
    made = {name: np.array(x, order="C") for name, x in arrays.items()}
    np.savez(path / file, **made) if file.endswith(".npz") else save_file(made, path / file)
    return path / file if file.startswith("layer") else path if folder != "L15R/checkpoints" else path.parent


@pytest.mark.parametrize("name", FORMATS)
def test_each_library_is_read_as_it_reads_itself(tmp_path, name):
    *layout, space, layer, z = FORMATS[name]
    hook = "blocks.5.hook_resid_post" if name == "Gemma Scope" else None  # which its file does not say
    found = read_dictionary(written(tmp_path, *layout), hook)
    assert (found.space, found.layer) == (space, layer)
    np.testing.assert_array_equal(found.features, W_DEC.T)
    assert found.dead.tolist() == [4]
    np.testing.assert_allclose(found.encode(TOKENS).toarray(), z, atol=2e-6)
    assert (z > 0).any()
    bias = B_DEC / (S if name == "Llama Scope" else 1)
    np.testing.assert_allclose(z @ found.features.T + found.decoder_bias, z @ W_DEC + bias, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_stays_as_it_is_stored_and_activations_are_of_the_tokens_type(tmp_path, dtype):
    halved = {name: x.astype(dtype) for name, x in TL.items()}
    path = written(tmp_path, "x", "sae_weights.safetensors", "cfg.json", OLD, halved)
    found = read_dictionary(path)
    assert found.features.dtype == dtype
    wide = {name: x.astype(np.float64) for name, x in halved.items()}
    z = relu((TOKENS - wide["b_dec"]) @ wide["W_enc"] + wide["b_enc"])
    for tokens in (TOKENS, TOKENS.astype(np.float64)):
        made = found.encode(tokens)
        assert made.dtype == tokens.dtype
        np.testing.assert_allclose(made.toarray(), z, atol=1e-5)
    assert read_dictionary(path, encoder=False).encoder is None


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_features_are_read_in_parts(monkeypatch, activation):
    found = Dictionary(W_DEC.T, "resid_pre", 0, encoder=Encoder(W_ENC.T, B_ENC, activation, THRESHOLD, 3))
    found = (
        found
        if activation == "jumprelu"
        else Dictionary(W_DEC.T, "resid_pre", 0, encoder=Encoder(W_ENC.T, B_ENC, "topk", k=3))
    )
    whole = found.encode(TOKENS).toarray()
    monkeypatch.setattr(dictionaries, "CHUNK", 2)
    np.testing.assert_allclose(found.encode(TOKENS).toarray(), whole, rtol=1e-5, atol=1e-6)
    assert found.dead.tolist() == [4]


def test_arrays_of_ones_own(tmp_path):
    """Columns of `features` or of a .npy, in what heads read; rows of W_dec, wherever the caller says they live."""
    np.save(tmp_path / "a.npy", W_DEC.T)
    np.savez(tmp_path / "b.npz", features=W_DEC.T)
    np.savez(tmp_path / "c.npz", W_dec=W_DEC)
    for name, hook, space in (
        ("a.npy", None, "attn_in"),
        ("b.npz", "resid_pre", "resid_pre"),
        ("c.npz", "h.3", "resid_post"),
    ):
        found = read_dictionary(tmp_path / name, hook)
        assert (found.space, found.source) == (space, name[0])
        np.testing.assert_array_equal(found.features, W_DEC.T)
        with pytest.raises(InputError, match=f"^{name[0]} must have an encoder to be read with, got none$"):
            found.encode(TOKENS)


def test_the_norm_of_what_heads_read_is_asked_for_or_told(tmp_path):
    hooked = dict(OLD, hook_point="blocks.8.ln1.hook_normalized")
    path = written(tmp_path, "x", "sae_weights.safetensors", "cfg.json", hooked, TL)
    with pytest.raises(
        InputError, match=r"^folded must say whether the dictionary lies before gain and bias .* got none$"
    ):
        read_dictionary(path)
    found = read_dictionary(path, folded=True)
    assert (found.space, found.layer, found.folded, found.reader) == ("attn_in", 8, True, 8)
    gemma = dict(GEMMA2, hf_hook_point_in="model.layers.2.input_layernorm.output")
    gemma["hf_hook_point_out"] = gemma["hf_hook_point_in"]
    path = written(tmp_path, "y", "params.safetensors", "config.json", gemma, LOWER)
    assert read_dictionary(path).folded is False
    with pytest.raises(InputError, match=r"^folded must be False, as y says, got True$"):
        read_dictionary(path, folded=True)


@pytest.mark.parametrize(
    ("config", "arrays", "reason"),
    [
        (NEW | {"architecture": "gated"}, TL | {"b_gate": B_ENC}, "an activation 'gated'"),
        (OLD | {"activation_fn_str": "tanh-relu"}, TL, "an activation 'tanh-relu'"),
        (OLD | {"normalize_activations": "layer_norm"}, TL, "one with normalize_activations 'layer_norm'"),
        (OLD | {"architecture": "topk"}, TL, "a topk whose k is None"),
        (HYPER | {"norm_activation": "token-wise"}, TL, "one with norm_activation 'token-wise'"),
        (LEARNING, TL | {"threshold": np.float32(-1)}, "a jumprelu without a threshold"),
        ({"d_sae": N, "hook_name": "blocks.1.hook_resid_pre"}, {"W_dec": W_DEC}, "none"),
    ],
)
def test_an_encoder_that_is_not_read_leaves_the_features(tmp_path, config, arrays, reason):
    found = read_dictionary(written(tmp_path, "x", "sae_weights.safetensors", "config.json", config, arrays))
    np.testing.assert_array_equal(found.features, W_DEC.T)
    with pytest.raises(InputError, match=f"^x must have an encoder to be read with, got {reason}"):
        found.encode(TOKENS)


@pytest.mark.parametrize(
    ("file", "config", "arrays", "message"),
    [
        (
            "sae_weights.safetensors",
            OLD | {"hook_point": "blocks.3.attn.hook_z"},
            TL,
            "hook must be one of resid_pre, ",
        ),
        (
            "sae_weights.safetensors",
            OLD | {"architecture": "transcoder"},
            TL,
            "reads and writes one space, got architecture",
        ),
        ("sae_weights.safetensors", HYPER | {"hook_point_out": "blocks.15.hook_mlp_out"}, TL, "got hook_point_in"),
        ("params.safetensors", GEMMA2 | {"type": "crosscoder"}, LOWER, "got type 'crosscoder'"),
        ("sae.safetensors", SPARSIFY | {"transcode": True}, TL, "got transcode"),
        ("params.npz", {"vocabulary": 3}, TL, "must be one of SAELens, Gemma Scope, .* got a config with vocabulary"),
        ("params.npz", None, TL, "hook must say where the dictionary lives, .*, which x does not, got none"),
        ("params.npz", OLD, {"W_up": W_DEC}, "FILE must hold one of W_dec, w_dec, .*, got W_up"),
        ("params.npz", OLD, TL | {"W_enc": W_ENC[:, 1:]}, "W_enc must fit a decoder of 11 features in 6 dimensions"),
        ("params.npz", OLD, TL | {"b_enc": B_ENC[1:]}, r"b_enc must have shape \(11,\), got \(10,\)"),
        ("params.npz", OLD, TL | {"b_dec": np.zeros((D, 1), np.float32)}, r"b_dec must have shape \(6,\)"),
        ("params.npz", OLD, TL | {"W_dec": W_DEC * np.nan}, "features must be finite, got 66 entries that are not"),
        ("params.npz", NEW, TL | {"b_dec": B_DEC * np.nan}, "decoder_bias must be finite"),
        ("params.npz", OLD | {"metadata": 3}, TL, "config must be as its library writes it"),
        ("params.npz", OLD | {"hook_point": 3}, TL, "hook must be a text, got 3"),
        ("final.safetensors", HYPER | {"dataset_average_activation_norm": {"out": 1}}, TL, "as its library"),
        (
            "params.npz",
            NEW | {"architecture": "jumprelu"},
            TL | {"threshold": np.zeros(0, np.float32)},
            "an empty array",
        ),
        (
            "final.safetensors",
            HYPER | {"act_fn": "jumprelu", "jump_relu_threshold": "a"},
            TORCH,
            "threshold must be a number",
        ),
        ("params.npz", OLD, TL | {"W_dec": W_DEC.astype(int)}, "W_dec must hold floating-point numbers, got int64"),
        ("params.npz", OLD, TL | {"W_dec": W_DEC.astype(object)}, "FILE must hold whole arrays of numbers"),
    ],
)
def test_what_is_no_dictionary_is_one_sentence(tmp_path, file, config, arrays, message):
    with pytest.raises(InputError, match=message) as raised:
        read_dictionary(written(tmp_path, "x", file, "cfg.json" if config else None, config, arrays))
    assert "\n" not in str(raised.value)


def test_a_square_decoder_has_its_features_where_the_config_says(tmp_path):
    square = {"W_dec": W_DEC[:D], "W_enc": W_ENC[:, :D], "b_enc": B_ENC[:D], "b_dec": B_DEC}
    turned = square | {name: square[name].T for name in ("W_dec", "W_enc")}
    one = read_dictionary(written(tmp_path, "a", "params.npz", "cfg.json", OLD, square), "resid_pre")
    other = read_dictionary(written(tmp_path, "b", "layer5.safetensors", "config.json", QWEN | {"k": D}, turned))
    np.testing.assert_array_equal(other.features, one.features)
    np.testing.assert_array_equal(other.encoder.weight, one.encoder.weight)


def test_a_config_that_cannot_be_opened_is_not_one_that_is_missing(tmp_path):
    path = written(tmp_path, "x", "sae_weights.safetensors", None, None, TL)
    (path / "cfg.json").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"^cfg\.json must be a JSON file"):
        read_dictionary(path, "resid_pre")


@pytest.mark.parametrize("given", ["ae.pt", ""])
def test_a_pickle_is_not_opened(tmp_path, given):
    (tmp_path / "ae.pt").write_bytes(b"cos\nsystem\n(S'touch run'\ntR.")
    with pytest.raises(InputError, match=r"must be a .safetensors, .npz, .npy file, got '.*ae.pt', a pickle"):
        read_dictionary(tmp_path / given)


def test_a_hook_that_is_not_the_files_is_refused(tmp_path):
    path = written(tmp_path, "x", "sae_weights.safetensors", "cfg.json", OLD, TL)
    assert read_dictionary(path, "resid_pre").layer == 8
    for hook in ("resid_post", "blocks.7.hook_resid_pre"):
        with pytest.raises(InputError, match=rf"^hook must be 'blocks.8.hook_resid_pre', as x says, got '{hook}'$"):
            read_dictionary(path, hook)
    with pytest.raises(InputError, match=r"must hold features of 24 dimensions, as the model has, got 6 x 11"):
        read_dictionary(path).check_width(24)


def test_a_broken_file_is_one_sentence(tmp_path):
    for name in ("a.npz", "a.npy", "a.safetensors"):
        (tmp_path / name).write_bytes(b"no arrays")
        with pytest.raises(InputError, match=r"^FILE must hold whole arrays of numbers"):
            read_dictionary(tmp_path / name)
    np.savez_compressed(tmp_path / "b.npz", W_dec=np.ones((50, 40), np.float32))
    content = bytearray((tmp_path / "b.npz").read_bytes())
    content[-200:-150] = bytes(50)
    (tmp_path / "b.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"^FILE must hold whole arrays of numbers"):
        read_dictionary(tmp_path / "b.npz", "resid_pre")
    with pytest.raises(InputError, match=r"^the dictionary's folder must hold one of sae_weights.safetensors"):
        read_dictionary(tmp_path)
