"""Hugging Face's own implementation gives the same numbers; needs the extra `bench` (`make parity`)."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import rope_cases
from parity_cases import CASES, GPT2, LLAMA, READS, SETTINGS, V
from test_folders import OTHERS

from svtheory import decompose, load_heads
from svtheory.checkpoints import Checkpoint, bundle_heads, forward, read_layers
from svtheory.checks import InputError

torch = pytest.importorskip("torch", reason="the reference needs torch: the extra bench, make parity")
transformers = pytest.importorskip(
    "transformers", reason="the reference needs transformers: the extra bench, make parity"
)
# what torch and transformers warn of is not ours
pytestmark = pytest.mark.filterwarnings("default")

# types whose language model bears another name than its config
LANGUAGE_MODELS = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}


def reference(kind, settings, name=None):
    """A random model of Hugging Face, its weights large enough for attention far from uniform."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings, attn_implementation="eager")
    name = name or LANGUAGE_MODELS.get(kind, f"{kind}ForCausalLM")
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.12)
    return model


def from_folder(folder, kind="AutoModelForCausalLM"):
    return getattr(transformers, kind).from_pretrained(folder, attn_implementation="eager").eval()


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
    logits = out.logits.numpy() if "logits" in out else None
    return logits, torch.stack(reads).numpy(), torch.stack(out.attentions).numpy()


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
    assert errors["attention"] <= 1e-5
    assert errors["inputs"] <= 2e-5


def frequencies(rotary):
    """Those of a rotary embedding, (n,), or of Gemma 3's layers, a windowed one and one that is not, (2, n)."""
    if hasattr(rotary, "inv_freq"):
        return rotary.inv_freq.numpy()
    return np.stack([getattr(rotary, f"{kind}_attention_inv_freq").numpy() for kind in ("sliding", "full")])


@pytest.mark.parametrize("case", rope_cases.CASES)
def test_rotary_settings_mean_the_same(tmp_path, case):
    """Both read one folder, its config.json as the case has it: frequencies, and attention past 1,000 positions."""
    config = rope_cases.CASES[case]
    kind = {"llama": "Llama", "gpt_neox": "GPTNeoX", "gemma3_text": "Gemma3Text"}[config["model_type"]]
    sizes = {name: value for name, value in config.items() if name in {*rope_cases.GEMMA3} - {"model_type"}}
    reference(kind, sizes).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, checkpoint = from_folder(tmp_path), Checkpoint(tmp_path)
    theirs, ours = frequencies(model.base_model.rotary_emb), np.array(checkpoint.architecture.frequencies)
    assert np.abs((ours if theirs.ndim == 2 else ours[0]) / theirs - 1).max() <= 1e-6
    assert theirs == pytest.approx(np.array(rope_cases.RECORDED["frequencies"][case]), rel=1e-6)
    tokens = np.random.default_rng(0).integers(0, V, size=(1, 1100))
    _, _, attention = run_reference(kind, model, tokens)
    error = max(np.abs(x.attention - attention[i]).max() for i, x in enumerate(read_layers(checkpoint, tokens)))
    print(case, json.dumps({"attention": float(error)}))
    assert error <= 1e-5


@pytest.mark.parametrize("case", [case for case in CASES if "past" not in case])
def test_a_bundle_attends_as_the_model(tmp_path, case):
    kind, settings, length = CASES[case]
    model = reference(kind, settings)
    model.save_pretrained(tmp_path)
    tokens = np.random.default_rng(0).integers(0, V, size=(2, length))
    *_, attention = run_reference(kind, model, tokens)
    bundle = bundle_heads(Checkpoint(tmp_path), tokens, folded=True)
    for layer, head in np.ndindex(bundle.W_Q.shape[:2]):
        read = jnp.asarray(bundle.attn_in[layer])
        found = decompose(bundle.head(layer, head), read, read, None).attention
        assert np.abs(found - attention[layer, :, head]).max() <= 1e-4


CHANGES = {
    "a stale index": lambda folder, _: (folder / "model.safetensors.index.json").write_text("{"),
    "another file": lambda folder, config: (
        (folder / "model.safetensors").rename(folder / "best.safetensors"),
        config.update(transformers_weights="best.safetensors"),
    ),
    "sizes by other names": lambda _, config: config.update(num_attention_heads=config["n_head"], n_head=2),
    "layers divided": lambda _, config: config.update(scale_attn_by_inverse_layer_idx=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_folders_mean_the_same(tmp_path, change):
    reference("GPT2", GPT2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    CHANGES[change](tmp_path, config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokens = np.random.default_rng(0).integers(0, V, size=(2, 30))
    logits, _, attention = run_reference("GPT2", from_folder(tmp_path), tokens)
    reading = forward(Checkpoint(tmp_path), tokens)
    assert np.abs(reading.logits - logits).max() <= 1e-4
    assert np.abs(reading.attention - attention).max() <= 1e-4


def altered(kind, settings):
    """Every number and flag of a config class of transformers, each alone not as it was; tokens and outputs aside."""
    for field in dataclasses.fields(getattr(transformers, f"{kind}Config")):
        value = settings.get(field.name, field.default)
        if field.name.endswith("token_id") or field.name in ("vocab_size", "return_dict", "is_encoder_decoder"):
            continue
        if isinstance(value, bool):
            yield field.name, not value
        elif isinstance(value, int | float):
            step = 48 if field.name.endswith("_size") else 1 if field.name == "num_key_value_heads" else value
            yield field.name, value + step


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_setting_is_obeyed_or_refused(tmp_path, kind):
    """Whatever a config.json says, logits are those of transformers, or a sentence names it."""
    settings, tokens = SETTINGS[kind], np.arange(80).reshape(2, 40) % V
    changes = [*altered(kind, settings), *[(name, value) for name, (value, _) in OTHERS.items()]]
    assert len(changes) > 25
    refused, compared = set(), {}
    for name, value in changes:
        known = name not in OTHERS
        model = reference(kind, {**settings, **({name: value} if known else {})})
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, name: value}))
        try:
            reading = forward(Checkpoint(tmp_path), tokens)
        except InputError as error:
            refused.add(name if name in str(error) else str(error))
            continue
        logits, _, _ = run_reference(kind, from_folder(tmp_path), tokens)
        compared[name] = np.abs(reading.logits - logits).max()
    print(kind, len(compared), "obeyed, to", max(compared.values()), "and refused:", *sorted(refused))
    assert max(compared.values()) <= 1e-4
    assert refused <= {*OTHERS, "attention_bias", "use_bidirectional_attention"}


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_tied_flag_with_another_head(tmp_path, kind):
    """Transformers 5 uses the file's head, and says so; so does this package."""
    settings = SETTINGS[kind]
    reference(kind, {**settings, "tie_word_embeddings": False}).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    tokens = np.random.default_rng(0).integers(0, V, size=(2, 30))
    logits, _, _ = run_reference(kind, from_folder(tmp_path), tokens)
    with pytest.warns(UserWarning, match="tie_word_embeddings is set in config.json"):
        reading = forward(Checkpoint(tmp_path), tokens)
    assert np.abs(reading.logits - logits).max() <= 1e-4


OTHER_HEADS = ["GPT2Model", "GPT2ForSequenceClassification", "GPT2DoubleHeadsModel", "GPTNeoXModel"]
OTHER_HEADS += [
    "GPTNeoXForTokenClassification",
    "LlamaModel",
    "LlamaForSequenceClassification",
    "LlamaForQuestionAnswering",
    *(f"{kind}Model" for kind in ("Mistral", "Qwen2", "Gemma2", "Gemma3Text", "Olmo2")),
    *(f"{kind}ForSequenceClassification" for kind in ("Qwen3", "Gemma2", "Gemma3Text", "Phi3")),
]


@pytest.mark.parametrize("name", OTHER_HEADS)
def test_models_with_other_heads_or_none(tmp_path, name):
    kind = next(kind for kind in READS if name.startswith(kind))
    settings = SETTINGS[kind]
    model = reference(kind, settings, name)
    model.save_pretrained(tmp_path)
    tokens = np.random.default_rng(0).integers(0, V, size=(2, 30))
    _, reads, attention = run_reference(kind, model.base_model, tokens)
    checkpoint = Checkpoint(tmp_path)
    assert np.abs(bundle_heads(checkpoint, tokens).attn_in - reads).max() <= 1e-5
    for layer, exact in zip(read_layers(checkpoint, tokens), attention, strict=True):
        assert np.abs(layer.attention - exact).max() <= 1e-4


@torch.no_grad()
def test_the_text_part_of_gemma_3_with_images(tmp_path):
    """As transformers writes it, on text alone; its config.json leaves out what the class implies."""
    sizes = {**SETTINGS["Gemma3Text"], "sliding_window": 8, "num_key_value_heads": 2}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    tokens = {"image_token_index": 3, "boi_token_index": 4, "eoi_token_index": 5, "mm_tokens_per_image": 4}
    torch.manual_seed(0)
    config = transformers.Gemma3Config(text_config=sizes, vision_config=vision, **tokens, attn_implementation="eager")
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.12)
    model.save_pretrained(tmp_path)
    given = 6 + np.random.default_rng(0).integers(0, V - 6, size=(2, 30))
    out = model(torch.tensor(given), output_attentions=True)
    checkpoint = Checkpoint(tmp_path)
    reading = forward(checkpoint, given)
    assert "head_dim" in checkpoint.config
    assert np.abs(reading.logits - out.logits.numpy()).max() <= 1e-4
    assert np.abs(reading.attention - torch.stack(out.attentions).numpy()).max() <= 1e-5


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
    check, _, export = (part.split("```")[0] for part in page.split("```python\n")[1:4])
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
