import numpy as np
import pytest
from small_models import CONFIGS, GPT2, LLAMA, NEOX, V, gelu, gelu_tanh, naive, weights, write

from svtheory.checkpoints import Checkpoint, forward
from svtheory.checks import InputError

RNG = np.random.default_rng(1)
TOKENS = RNG.integers(0, V, size=(2, 11))


def agree(reading, config, tensors, tokens, **given):
    """Logits and attention to 1e-4, attention inputs to 1e-5 of their largest, beside a float64 computation."""
    for s, sequence in enumerate(tokens):
        logits, read, paid = naive(config, tensors, sequence, **given)
        assert np.abs(reading.logits[s] - logits).max() <= 1e-4
        assert np.abs(reading.attention[:, s] - paid).max() <= 1e-4
        assert np.abs(reading.attn_in[:, s] - read).max() <= 1e-5 * np.abs(read).max()


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_type_against_a_naive_forward(tmp_path, kind):
    config, tensors = CONFIGS[kind], weights(CONFIGS[kind])
    reading = forward(Checkpoint(write(tmp_path, config, tensors)), TOKENS)
    agree(reading, config, tensors, TOKENS)
    assert {x.dtype for x in reading} == {np.dtype("float32")}
    assert (reading.attention[..., *np.triu_indices(TOKENS.shape[1], 1)] == 0).all()


@pytest.mark.parametrize("config", [NEOX, LLAMA], ids=["gpt_neox", "llama"])
def test_offsets_past_a_thousand(tmp_path, config):
    tokens = RNG.integers(0, V, size=(1, 1100))
    tensors = weights(config)
    agree(forward(Checkpoint(write(tmp_path, config, tensors)), tokens), config, tensors, tokens)


CHANGED = {
    "exact GELU": ({**GPT2, "activation_function": "gelu"}, {}),
    "attention before the MLP": ({**NEOX, "use_parallel_residual": False}, {}),
    "no groups": ({**LLAMA, "num_key_value_heads": 4}, {}),
    "new names under the old section": (
        {**LLAMA, "rope_theta": 1.5, "rope_scaling": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_theta": 500.0},
    ),
    "the old section wins": (
        {**LLAMA, "rope_scaling": {"type": "default", "rope_theta": 500.0}, "rope_parameters": {"rope_theta": 1.5}},
        {"rope_theta": 500.0},
    ),
    "share of NeoX under the old section": (
        {**NEOX, "rotary_pct": 1.0, "rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        {"rotary_pct": 0.5},
    ),
    "newer rotary settings": (
        {**LLAMA, "rope_theta": 1.0, "rope_parameters": {"rope_theta": 500.0}},
        {"rope_theta": 500.0},
    ),
}


@pytest.mark.parametrize("change", CHANGED)
def test_settings(tmp_path, change):
    config, meant = CHANGED[change]
    tensors = weights(config)
    agree(forward(Checkpoint(write(tmp_path, config, tensors)), TOKENS), {**config, **meant}, tensors, TOKENS)


def test_rope_scaling_by_llama_3s_rule(tmp_path):
    """Wavelengths below 64/8 stay, above 64/2 are stretched by 4, between them the frequency is interpolated."""
    rule = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 2.0, "high_freq_factor": 8.0}
    config = {**LLAMA, "rope_scaling": {**rule, "original_max_position_embeddings": 64}}
    tensors = weights(config)
    theta = 500.0 ** (-np.arange(0, 8, 2) / 8)
    length = 2 * np.pi / theta
    share = (64 / length - 2) / (8 - 2)
    expected = np.where(length < 8, theta, np.where(length > 32, theta / 4, (1 - share) * theta / 4 + share * theta))
    assert 0 < share[1] < 1
    checkpoint = Checkpoint(write(tmp_path, config, tensors))
    assert checkpoint.architecture.frequencies[0] == pytest.approx(expected, rel=1e-6)
    agree(forward(checkpoint, TOKENS), config, tensors, TOKENS, theta=expected)


def test_an_erf_is_not_a_tanh():
    """The two GELUs differ by far more than the tolerance: a mix-up cannot pass."""
    x = np.linspace(-3, 3, 61)
    assert np.abs(gelu(x) - gelu_tanh(x)).max() > 4e-4


def test_tied_embeddings(tmp_path):
    for config, name in ((NEOX, "gpt_neox.embed_in.weight"), (LLAMA, "model.embed_tokens.weight")):
        tensors = weights(config)
        head = "embed_out.weight" if config is NEOX else "lm_head.weight"
        without = {key: x for key, x in tensors.items() if key != head}
        folder = write(tmp_path / config["model_type"], {**config, "tie_word_embeddings": True}, without)
        agree(forward(Checkpoint(folder), TOKENS), config, without | {head: tensors[name]}, TOKENS)


def test_scores_divided_by_layer_or_not_at_all(tmp_path):
    """By inverse layer is W_Q and b_Q of layer i over i + 1; without scale_attn_weights, times sqrt(H)."""
    tensors = weights(GPT2)
    for name, setting, factors in (
        ("by_layer", {"scale_attn_by_inverse_layer_idx": True}, (1, 1 / 2)),
        ("not", {"scale_attn_weights": False}, (8**0.5, 8**0.5)),
    ):
        same = {key: x.copy() for key, x in tensors.items()}
        for i, factor in enumerate(factors):
            for part in ("weight", "bias"):
                same[f"transformer.h.{i}.attn.c_attn.{part}"][..., :24] *= np.float32(factor)
        folder = write(tmp_path / name, {**GPT2, **setting}, tensors)
        agree(forward(Checkpoint(folder), TOKENS), GPT2, same, TOKENS)


@pytest.mark.parametrize("kind", CONFIGS)
def test_folded_inputs_are_before_gain_and_bias(tmp_path, kind):
    tensors = weights(CONFIGS[kind])
    checkpoint = Checkpoint(write(tmp_path, CONFIGS[kind], tensors))
    plain, folded = (forward(checkpoint, TOKENS, folded=f).attn_in for f in (False, True))
    for i in range(2):
        norm = checkpoint.layer(i)["attention_norm"]
        assert folded[i] * norm["gain"] + norm.get("bias", 0) == pytest.approx(plain[i], abs=1e-5)


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        ([[0, V]], "tokens must lie from 0 to 28, the vocabulary, got 29"),
        ([[0, -1]], "tokens must lie from 0 to 28, the vocabulary, got -1"),
        ([0, 1], r"tokens must be whole numbers \(sequences, positions\), got int64 \(2,\)"),
        ([[0.5, 1.0]], r"tokens must be whole numbers \(sequences, positions\), got float64 \(1, 2\)"),
        ([[]], r"tokens must be whole numbers \(sequences, positions\), got float64 \(1, 0\)"),
        ([[0] * 33], "tokens must have at most 32 positions, the model's context, got 33"),
    ],
)
def test_tokens_that_cannot_be_read(tmp_path, tokens, sentence):
    checkpoint = Checkpoint(write(tmp_path, GPT2, weights(GPT2)))
    with pytest.raises(InputError, match=sentence):
        forward(checkpoint, np.array(tokens))
