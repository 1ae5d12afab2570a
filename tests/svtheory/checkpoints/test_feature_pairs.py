"""Scores of random models over pairs of features of random dictionaries, and remainders computed without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import CONFIGS, D, V, naive, rotated, weights, write

from svtheory import Head, read_model
from svtheory.checkpoints import Checkpoint
from svtheory.checks import InputError
from svtheory.heads import Dictionary, Encoder, Norm, feature_pairs
from svtheory.heads.pairs import PARTS

N, T = 50, 9
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, V, size=(1, T))
W_ENC, W_DEC = RNG.normal(size=(N, D)) / D**0.5, RNG.normal(size=(N, D)) / D  # scores of some tens
B_ENC, B_DEC = RNG.normal(size=N) / 2, RNG.normal(size=D) / 4
AT = (8, 3)


def dictionary(space="resid_pre", dtype=np.float32, layer=None):
    made = [x.astype(dtype) for x in (W_ENC, B_ENC, W_DEC, B_DEC)]
    return Dictionary(made[2].T, space, layer, encoder=Encoder(made[0], made[1], "relu"), decoder_bias=made[3])


def expanded(queries, keys):
    """Sum over pairs, and the remainder: of what either side makes of its features, and of all else."""
    (q, q_rest), (k, k_rest) = queries, keys
    return q @ k, q @ k_rest + q_rest @ k + q_rest @ k_rest


def naive_sides(config, w, layer, head, stream):
    """For either side of AT: what features come to, and biases and error, by the model's own arithmetic."""
    z = np.maximum(stream @ W_ENC.T + B_ENC, 0)
    features, rest = z @ W_DEC, stream - z @ W_DEC
    if config["model_type"] == "gpt2":
        h, H = f"h.{layer}", D // config["n_head"]
        gain, shift = w[f"{h}.ln_1.weight"], w[f"{h}.ln_1.bias"]
        deviation = np.sqrt(stream.var(axis=1, keepdims=True) + 1e-5)
        parts = [(x - x.mean(axis=1, keepdims=True)) / deviation * gain for x in (features, rest)]
        rows = [slice(side * D + head * H, side * D + (head + 1) * H) for side in (0, 1)]
        maps = [(w[f"{h}.attn.c_attn.weight"][:, some].T, w[f"{h}.attn.c_attn.bias"][some]) for some in rows]
        theta = np.zeros(0)
    else:
        h, H = f"layers.{layer}", config["head_dim"]
        rms, shift = np.sqrt((stream**2).mean(axis=1, keepdims=True) + 1e-5), np.zeros(D)
        parts = [x / rms * w[f"{h}.input_layernorm.weight"] for x in (features, rest)]
        own = {"q": head, "k": head * config["num_key_value_heads"] // config["num_attention_heads"]}
        maps = [(w[f"{h}.self_attn.{s}_proj.weight"][i * H : (i + 1) * H], np.zeros(H)) for s, i in own.items()]
        theta = config["rope_theta"] ** (-np.arange(0, H, 2) / H)
    sides = []
    for (W, b), position in zip(maps, AT, strict=True):
        made = [parts[0] @ W.T, (parts[1] + shift) @ W.T + b]
        sides.append([rotated(x, theta)[position] for x in made])
    return sides


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_pairs_and_a_remainder_of_its_own_sum_to_the_score(tmp_path, kind):
    config, tensors = CONFIGS[kind], weights(CONFIGS[kind])
    folder, prefix = write(tmp_path, config, tensors), {"llama": "model.", "gpt2": "transformer."}[kind]
    w = {name.removeprefix(prefix): x.astype(float) for name, x in tensors.items()}
    _, read, _ = naive(config, tensors, TOKENS[0])
    for layer in (0, 1):
        bundle = read_model(folder, tokens=TOKENS, residual=layer)
        assert bundle.metadata["residual_layer"] == str(layer)
        stream = bundle.others["residual"][0]
        for head in range(bundle.W_Q.shape[1]):
            used = bundle.head(layer, head)
            found = feature_pairs(used, dictionary(), bundle.attn_in[layer, 0], *AT, stream)
            pairs, remainder = expanded(*naive_sides(config, w, layer, head, stream.astype(float)))
            assert found.terms.sum() == pytest.approx(pairs, abs=1e-4)
            assert found.terms.sum() + remainder == pytest.approx(found.score, abs=1e-4)
            assert found.parts.sum() == pytest.approx(found.score, abs=1e-4)
            assert found.parts[0] == pytest.approx(found.terms.sum(), abs=1e-4)
            assert np.abs(found.parts).max() > 0.01
    # the stream that was kept is that which the model normalises
    if kind == "llama":
        rms = np.sqrt((stream.astype(float) ** 2).mean(axis=1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(stream / rms * w["layers.1.input_layernorm.weight"], read[1], atol=1e-5)


@pytest.mark.parametrize("x64", [False, True])
def test_norms_of_queries_and_keys_are_held(x64):
    """A rotated head, a bias on one side, a norm over all heads on the other; its dictionary lives in what it reads."""
    dtype = np.float64 if x64 else np.float32
    rng, H = np.random.default_rng(1), 6
    W_Q, W_K, all_heads = (rng.normal(size=(n, D)) for n in (H, H, 2 * H))
    gain, b_K, theta = rng.normal(size=H), rng.normal(size=H), np.array([1.0, 0.3])
    tokens = rng.normal(size=(T, D))
    with jax.enable_x64(x64):
        given = [jnp.asarray(x, dtype) for x in (W_Q, W_K, b_K, gain, all_heads)]
        head = Head(given[0], given[1], None, given[2], theta, query_norm=Norm(given[3], 1e-6, given[4]))
        found = feature_pairs(head, dictionary("attn_in", dtype), tokens.astype(dtype), *AT)
    z = np.maximum(tokens @ W_ENC.T + B_ENC, 0)
    rms = np.sqrt(((tokens @ all_heads.T) ** 2).mean(axis=1, keepdims=True) + 1e-6)
    parts = z @ W_DEC, tokens - z @ W_DEC
    q = [rotated(x @ W_Q.T / rms * gain, theta)[AT[0]] for x in parts]
    k = [rotated(x @ W_K.T + b, theta)[AT[1]] for x, b in zip(parts, (0, b_K), strict=True)]
    pairs, remainder = expanded(q, k)
    close = 1e-9 if x64 else 1e-6 * float(np.abs(found.terms).sum())
    assert found.terms.dtype == dtype
    assert found.terms.sum() == pytest.approx(pairs, abs=close)
    assert found.terms.sum() + remainder == pytest.approx(found.score, abs=close)
    assert dict(zip(PARTS, found.parts, strict=True))["biases"] != 0


def test_a_planted_pair_comes_first():
    """A head that matches feature 3 with feature 7 among heads' noise; by chance one of n x m pairs is first."""
    rng, hits, chance = np.random.default_rng(2), 0, 0.0
    for _ in range(5):
        q, k = np.linalg.pinv(W_DEC[:D]).T[[3, 7]]  # what sees these features, and no other of as many as D
        noise = 0.02 * rng.normal(size=(2, 4, D)) / D**0.5
        head = Head(*(jnp.asarray(noise[i] + np.eye(4)[:, :1] * x, jnp.float32) for i, x in enumerate((q, k))))
        tokens = rng.normal(size=(T, D)).astype(np.float32)
        tokens[5] += 3 * W_ENC[3] / np.linalg.norm(W_ENC[3]) + np.float32(1)
        tokens[2] += 3 * W_ENC[7] / np.linalg.norm(W_ENC[7])
        some = Dictionary(
            W_DEC[:D].T.astype(np.float32), "attn_in", encoder=Encoder(W_ENC[:D].astype(np.float32), B_ENC[:D], "relu")
        )
        found = feature_pairs(head, some, tokens, query=5, key=2)
        hits += found.top(1)[0][:2] == (3, 7)
        chance += 1 / found.terms.size
    assert hits == 5 > 100 * chance


def test_what_does_not_fit_is_one_sentence():
    head, tokens = Head(jnp.ones((2, D)), jnp.ones((2, D))), RNG.normal(size=(T, D)).astype(np.float32)
    with pytest.raises(InputError, match=r"^stream must be what the tokens were before their normalisation, .* away$"):
        feature_pairs(head, dictionary(), tokens, 1, 0, tokens[::-1])
    with pytest.raises(InputError, match=r"^stream must have the shape of tokens, \(9, 24\), got \(8, 24\)$"):
        feature_pairs(head, dictionary(), tokens, 1, 0, tokens[1:])
    with pytest.raises(InputError, match=r"^key must be a whole number from 0 to 8, got 9$"):
        feature_pairs(head, dictionary(), tokens, 1, 9)
    with pytest.raises(InputError, match=r"^dictionary must have an encoder to be read with, got none$"):
        feature_pairs(head, Dictionary(W_DEC.T, "attn_in"), tokens, 1, 0)
    with pytest.raises(InputError, match="must hold features of 24 dimensions, as the model has, got 3 x 3"):
        feature_pairs(head, Dictionary(np.eye(3), "attn_in"), tokens, 1, 0)


def test_the_stream_before_a_layer_is_what_the_layer_before_leaves(tmp_path):
    folder = write(tmp_path, CONFIGS["llama"], weights(CONFIGS["llama"]))
    with pytest.raises(InputError, match=r"^residual must be a whole number from 0 to 1, got 2$"):
        read_model(folder, tokens=TOKENS, residual=2)
    first = read_model(folder, tokens=TOKENS, residual=0).others["residual"]
    np.testing.assert_array_equal(first, Checkpoint(folder).inputs()["embedding"][TOKENS])
