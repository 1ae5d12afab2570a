"""Models of transformers as bundles: each attends as its model, or is refused; needs the extra bench (make parity)."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import decompose, load_heads
from svtheory.checks import InputError
from svtheory.export import from_transformers, hugging_face

torch = pytest.importorskip("torch", reason="the reference needs torch: the extra bench, make parity")
transformers = pytest.importorskip(
    "transformers", reason="the reference needs transformers: the extra bench, make parity"
)
# what torch and transformers warn of is not ours
pytestmark = pytest.mark.filterwarnings("default")

V = 61
SIZES = {
    "vocab_size": V,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": V, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 4}
NEOX = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"} | {"num_attention_heads": 3}
GPT_NEO = {"vocab_size": V, "hidden_size": 48, "num_layers": 2, "num_heads": 3, "max_position_embeddings": 64}
BLOOM = {"vocab_size": V, "hidden_size": 48, "n_layer": 2, "n_head": 3}
T5 = {"vocab_size": V, "d_model": 48, "d_kv": 16, "num_layers": 2, "num_heads": 3, "d_ff": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 256}
CASES = {
    "gpt2": ("GPT2LMHeadModel", GPT2, {"divisors": (12**0.5,) * 3}),
    "gpt2, divided by layer": (
        "GPT2LMHeadModel",
        {**GPT2, "scale_attn_by_inverse_layer_idx": True},
        {"divisors": tuple(12**0.5 * i for i in (1, 2, 3))},
    ),
    "neox, rotated in part": ("GPTNeoXForCausalLM", NEOX, {"pairing": "half-split"}),
    "llama, groups, llama 3's rope": ("LlamaForCausalLM", {**SIZES, "rope_parameters": LLAMA3}, {}),
    "llama, yarn, which lengthens queries": ("LlamaForCausalLM", {**SIZES, "rope_parameters": YARN}, {}),
    "qwen2, biases, windows in some layers": (
        "Qwen2ForCausalLM",
        {**SIZES, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
        {"windows": (None, 9, 9)},
    ),
    "mistral, a window": ("MistralForCausalLM", {**SIZES, "sliding_window": 11}, {"windows": (11,) * 3}),
    "qwen3, normalised by head": ("Qwen3ForCausalLM", {**SIZES, "head_dim": 16}, {"query_key_norm": "per head"}),
    "olmo2, normalised over heads": ("Olmo2ForCausalLM", SIZES, {"query_key_norm": "all heads"}),
    "gemma2, a cap": (
        "Gemma2ForCausalLM",
        {**SIZES, "head_dim": 8, "sliding_window": 9, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0},
        {"cap": 5.0, "windows": (9, None, 9)},
    ),
    "gemma3, another rope in some layers": (
        "Gemma3ForCausalLM",
        {**SIZES, "head_dim": 8, "sliding_window": 9, "num_hidden_layers": 6},
        {"windows": (9,) * 5 + (None,)},
    ),
    "phi3, one matrix for all": ("Phi3ForCausalLM", SIZES, {}),
    "gpt-j, adjacent rows": ("GPTJForCausalLM", {**GPT2, "rotary_dim": 8}, {"pairing": "adjacent"}),
    "gpt-neo, not divided": (
        "GPTNeoForCausalLM",
        {**GPT_NEO, "attention_types": [[["global", "local"], 1]], "window_size": 7},
        {"divisors": (1, 1), "windows": (None, 7)},
    ),
    "bert, which sees all": ("BertModel", NEOX, {"causal": False}),
}


def reference(kind, settings):
    """A random model, its weights large enough for attention far from uniform, as users load it."""
    torch.manual_seed(0)
    cls = getattr(transformers, kind)
    model = cls(cls.config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.12)
    return model


def attention_of(model, tokens):
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return torch.stack(model(torch.tensor(tokens), output_attentions=True).attentions).numpy()


def furthest(bundle, attention):
    """The largest distance of the attention that decompositions of the bundle's heads show from the model's."""
    found = []
    for i, j in np.ndindex(bundle.W_Q.shape[:2]):
        read = jnp.asarray(bundle.attn_in[i])
        found.append(np.abs(decompose(bundle.head(i, j), read, read, None).attention - attention[i][:, j]).max())
    return max(found)


@pytest.mark.parametrize("case", CASES)
def test_a_bundle_attends_as_its_model(case):
    kind, settings, said = CASES[case]
    length = 1100 if "llama 3" in case else 30
    model, tokens = reference(kind, settings), np.random.default_rng(0).integers(1, V, size=(2, length))
    before = model.config._attn_implementation
    bundle = from_transformers(model, tokens)
    assert model.config._attn_implementation == before
    for name, value in said.items():
        found = getattr(bundle.scoring, name)
        assert found == (pytest.approx(value) if name == "divisors" else value), name
    attention = attention_of(model, tokens)
    assert attention.max(axis=-1)[..., -1].mean() > 1.5 / length  # uniform attention would pass too much
    error = furthest(bundle, attention)
    print(case, json.dumps({"attention": float(error)}))
    assert error <= 1e-4


def test_prompts_of_different_lengths_are_read_alone():
    model = reference("LlamaForCausalLM", SIZES)
    rows = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]]
    bundle = from_transformers(model, rows)
    assert bundle.mask.sum(axis=1).tolist() == [3, 5, 2]
    alone = from_transformers(model, rows[:1])
    assert bundle.attn_in[:, 0, :3] == pytest.approx(alone.attn_in[:, 0], abs=1e-6)


REFUSED = {
    "bloom": ("BloomForCausalLM", BLOOM, "got biases by distance (ALiBi) in layer 0"),
    "t5": (
        "T5EncoderModel",
        T5,
        "model must have scores that a bundle holds, got biases by distance (T5) in layer 0",
    ),
    "gpt-oss": (
        "GptOssForCausalLM",
        {**SIZES, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
        "model must have scores that a bundle holds, got attention that no key gets (sinks) in layer 0",
    ),
    "a norm with means": (
        "StableLmForCausalLM",
        {**SIZES, "qk_layernorm": True},
        "away in layer 0: a bundle holds W_Q",
    ),
    "both halves": ("T5ForConditionalGeneration", T5, "model must be an encoder or a decoder alone"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_bundle_cannot_hold_is_refused(case):
    kind, settings, sentence = REFUSED[case]
    with pytest.raises(InputError) as refused:
        from_transformers(reference(kind, settings), [[1, 2, 3, 4, 5]])
    assert sentence in str(refused.value)


def test_a_window_that_is_not_told_is_found_out(monkeypatch):
    model = reference("MistralForCausalLM", {**SIZES, "sliding_window": 11})
    monkeypatch.setattr(hugging_face, "_window", lambda *_: None)
    with pytest.raises(InputError, match=r"got weights of attention \S+ away in layer 0: a bundle holds"):
        from_transformers(model, np.arange(30).reshape(1, 30))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda model: model.half(), r"model must be in float32, model.float\(\), .* got torch.float16"),
        (lambda model: model.train(), r"model must be in evaluation mode, model.eval\(\), got one in training"),
        (
            lambda model: model.lm_head,
            r"model must be one of transformers with projections q_proj and k_proj, .* Linear$",
        ),
    ],
)
def test_models_that_are_not_taken(change, sentence):
    with pytest.raises(InputError, match=f"^{sentence}"):
        from_transformers(change(reference("GPT2LMHeadModel", GPT2)), [[1, 2, 3]])


def test_adapters_are_to_be_merged():
    class Adapted(torch.nn.Module):
        def __init__(self, base_layer):
            super().__init__()
            self.base_layer = base_layer

        def forward(self, x):
            return 2 * self.base_layer(x)

    model = reference("LlamaForCausalLM", SIZES)
    attn = model.model.layers[1].self_attn
    attn.q_proj = Adapted(attn.q_proj)
    with pytest.raises(InputError, match=r"^q_proj of layer 1 must be linear, without adapters .*, got Adapted$"):
        from_transformers(model, [[1, 2, 3]])


def test_the_lines_of_the_documentation(tmp_path, monkeypatch):
    """docs/bundles.md: the export in one line, then the check of any export."""
    page = (Path(__file__).parents[3] / "docs" / "bundles.md").read_text()
    check, export = (part.split("```")[0] for part in page.split("```python\n")[1:3])
    model, tokens = reference("GPT2LMHeadModel", GPT2), np.random.default_rng(0).integers(0, V, size=(2, 30))
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in export.splitlines() if "from_transformers(" in line]
    exec(f"from svtheory import save_heads\nfrom svtheory.export import from_transformers\n{line}", locals())
    exec(check, {"attention": attention_of(model, tokens)})
    assert load_heads("my_model.safetensors").others["tokens"].shape == (2, 30)
