"""Hugging Face's own implementation gives the same numbers; needs the extra `bench` (`make parity`)."""

import json
from pathlib import Path

import numpy as np
import pytest

from svtheory import load_heads
from svtheory.checkpoints import Checkpoint, bundle_heads, forward

torch = pytest.importorskip("torch", reason="the reference needs torch: the extra bench, make parity")
transformers = pytest.importorskip(
    "transformers", reason="the reference needs transformers: the extra bench, make parity"
)
# what torch and transformers warn of is not ours
pytestmark = pytest.mark.filterwarnings("default")

V = 61
GPT2 = {"vocab_size": V, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 4}
NEOX = {
    "vocab_size": V,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 80,
    "max_position_embeddings": 2048,
}
LLAMA = {
    "vocab_size": V,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 2048,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
CASES = {
    "gpt2": ("GPT2", GPT2, 40),
    "gpt2, exact gelu, scaled by layer": (
        "GPT2",
        {**GPT2, "activation_function": "gelu", "scale_attn_by_inverse_layer_idx": True, "n_inner": 100},
        40,
    ),
    "neox, offsets past 1,000": ("GPTNeoX", NEOX, 1200),
    "neox, one after the other, tied": (
        "GPTNeoX",
        {**NEOX, "use_parallel_residual": False, "tie_word_embeddings": True, "rotary_pct": 0.5},
        40,
    ),
    "llama, groups, offsets past 1,000": ("Llama", LLAMA, 1200),
    "llama, one group, tied, long heads, biases": (
        "Llama",
        {**LLAMA, "num_key_value_heads": 1, "tie_word_embeddings": True, "head_dim": 10, "attention_bias": True},
        40,
    ),
    "llama 3's rope, offsets past 1,000": ("Llama", {**LLAMA, "rope_parameters": LLAMA3}, 1200),
}
READS = {"GPT2": "attn.c_attn", "GPTNeoX": "attention.query_key_value", "Llama": "self_attn.q_proj"}


def reference(kind, settings):
    """A random model of Hugging Face, its weights large enough for attention far from uniform."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings, attn_implementation="eager")
    model = getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(kind, f"{kind}ForCausalLM"))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.12)
    return model


@torch.no_grad()
def run_reference(kind, model, tokens):
    """Its logits, attention, and what reaches its query projections."""
    reads = []
    hooks = [
        module.register_forward_pre_hook(lambda _, given: reads.append(given[0]))
        for name, module in model.named_modules()
        if name.endswith(READS[kind])
    ]
    out = model(torch.tensor(tokens), output_attentions=True)
    for hook in hooks:
        hook.remove()
    return out.logits.numpy(), torch.stack(reads).numpy(), torch.stack(out.attentions).numpy()


@pytest.mark.parametrize("case", CASES)
def test_hugging_face_gives_the_same(tmp_path, case):
    kind, settings, length = CASES[case]
    model = reference(kind, settings)
    model.save_pretrained(tmp_path, max_shard_size="40KB" if "groups" in case else "1GB")
    tokens = np.random.default_rng(0).integers(0, V, size=(2, length))
    logits, reads, attention = run_reference(kind, model, tokens)
    reading = forward(Checkpoint(tmp_path), tokens)
    assert attention.max(axis=-1)[..., -1].mean() > 1.5 / length  # uniform attention would pass too much
    errors = {
        "logits": np.abs(reading.logits - logits).max(),
        "attention": np.abs(reading.attention - attention).max(),
        "inputs": np.abs(reading.attn_in - reads).max(),
    }
    print(case, json.dumps({name: float(error) for name, error in errors.items()}))
    assert errors["logits"] <= 1e-4
    assert errors["attention"] <= 1e-4
    assert errors["inputs"] <= 1e-5


def test_a_sharded_save_is_one(tmp_path):
    reference("Llama", LLAMA).save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    Checkpoint(tmp_path)


def test_half_precision_files_are_read_to_float32(tmp_path):
    model = reference("Llama", LLAMA).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    found = Checkpoint(tmp_path).head(1, 5)
    H, last_group = 8, 1
    exact = model.model.layers[1].self_attn
    assert np.array_equal(found.W_Q, exact.q_proj.weight[5 * H :].float().detach().numpy())
    assert np.array_equal(found.W_K, exact.k_proj.weight[last_group * H :].float().detach().numpy())


@pytest.mark.parametrize("by_layer", [False, True])
def test_the_lines_of_the_documentation_that_use_hooks(tmp_path, monkeypatch, by_layer):
    """docs/bundles.md, "From PyTorch hooks": the bundle is that of the checkpoint, and attends as the model does."""
    page = (Path(__file__).parents[3] / "docs" / "bundles.md").read_text()
    check, export = (part.split("```")[0] for part in page.split("```python\n")[1:3])
    model = reference("GPT2", {**GPT2, "scale_attn_by_inverse_layer_idx": by_layer})
    tokens = np.random.default_rng(0).integers(0, V, size=(2, 30))
    model.save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(export, {"model": model, "tokens": torch.tensor(tokens)})
    *_, attention = run_reference("GPT2", model, tokens)
    exec(check.replace("my_model", "gpt2"), {"attention": attention})
    exported, expected = load_heads("gpt2.safetensors"), bundle_heads(Checkpoint(tmp_path), tokens)
    for name in ("W_Q", "W_K", "b_Q", "b_K"):
        assert np.array_equal(getattr(exported, name), getattr(expected, name))
    assert exported.scoring.divisors == pytest.approx(expected.scoring.divisors)
    assert exported.attn_in == pytest.approx(expected.attn_in, abs=1e-5)
