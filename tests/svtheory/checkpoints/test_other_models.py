"""Types beside GPT-2, GPT-NeoX and Llama: windows, caps, norms of queries and keys, gains above 1, joint matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from other_models import OTHERS, WINDOWS, naive, weights
from small_models import CONFIGS, LLAMA, V, write
from small_models import weights as llama_weights

from svtheory import decompose, read_model
from svtheory.checkpoints import Checkpoint, bundle_heads, forward
from svtheory.checks import InputError
from svtheory.heads import Dictionary, Encoder, feature_pairs
from svtheory.heads.decomposition import CONVENTIONS, read_balanced
from svtheory.heads.rescaled import rescaled, without_norms
from svtheory.instruments import explain, sad, spectra
from svtheory.instruments.dictionaries import check_fits
from svtheory.instruments.moments import seen_rescaled
from svtheory.instruments.sad_terms import MISSED
from svtheory.spectra.balanced import balanced

n = 11
TOKENS = np.random.default_rng(6).integers(0, V, size=(1, n))


@pytest.mark.parametrize("kind", OTHERS)
def test_each_type_against_a_naive_forward(tmp_path, kind):
    """Logits to 1e-4, attention and what heads read to 1e-5, beside float64; a bundle says the same of its heads."""
    tensors = weights(kind)
    checkpoint = Checkpoint(write(tmp_path, OTHERS[kind], tensors))
    reading = forward(checkpoint, TOKENS)
    logits, read, paid, scores = naive(OTHERS[kind], tensors, TOKENS[0])
    assert np.abs(reading.logits[0] - logits).max() <= 1e-4
    assert np.abs(reading.attention[:, 0] - paid).max() <= 1e-5
    assert np.abs(reading.attn_in[:, 0] - read).max() <= 1e-5 * np.abs(read).max()
    bundle = bundle_heads(checkpoint)
    windows = tuple(99 if window is None else window for window in bundle.scoring.windows)
    assert windows == WINDOWS.get(kind, (99, 99))
    head, at = bundle.head(1, 2), np.arange(n)
    found = np.asarray(head.queries(reading.attn_in[1, 0], at)) @ np.asarray(head.keys(reading.attn_in[1, 0], at)).T
    assert np.abs(found - scores[1, 2]).max() <= 1e-5 * np.abs(scores[1, 2]).max()


KEY = 9


@jax.jit
def sums(heads, tokens):
    """Sums of terms of the last query with every key, and which it sees, by head and convention."""

    def of(head):
        given = [decompose(head, tokens[-1], tokens, KEY, name) for name in CONVENTIONS]
        return jnp.stack([d.terms.sum(axis=-1) for d in given]), given[0].visible

    return jax.lax.map(of, heads)


SLOW = [(kind, True) for kind in OTHERS] + [(kind, False) for kind in OTHERS if kind != "olmo2"]


@pytest.mark.parametrize(
    ("kind", "folded"),
    [("olmo2", False), *(pytest.param(*given, marks=pytest.mark.slow) for given in SLOW)],
)
def test_terms_sum_to_the_score(tmp_path, kind, folded):
    """Before the cap, in every convention, with the scalars of queries and keys; a window hides the keys before it."""
    tensors = weights(kind)
    checkpoint = Checkpoint(write(tmp_path, OTHERS[kind], tensors))
    bundle = bundle_heads(checkpoint, TOKENS, folded=folded)
    *_, scores = naive(OTHERS[kind], tensors, TOKENS[0])
    for layer in range(2):
        heads = jax.tree.map(lambda *x: jnp.stack(x), *(bundle.head(layer, h) for h in range(4)))
        found, visible = sums(heads, jnp.asarray(bundle.attn_in[layer, 0]))
        exact = scores[layer, :, None, -1]
        assert np.abs(found - exact).max() <= 1e-4 * np.abs(exact).max()
        seen = WINDOWS.get(kind, (99, 99))[layer]
        assert np.asarray(visible).tolist() == [[n - 1 - j < seen for j in range(n)]] * 4


# what is refused


def reports(config, tensors, folder):
    write(folder, config, tensors)
    with pytest.raises(InputError) as caught:
        Checkpoint(folder)
    return str(caught.value)


REFUSED = {
    "another type": (
        {"model_type": "mamba"},
        "model_type of config.json must be one of 'gpt2', 'gpt_neox', 'llama', 'mistral', 'phi3', 'qwen2', 'qwen3', "
        "'olmo2', 'gemma2', 'gemma3_text', 'gemma3', got 'mamba'",
    ),
    "quantised": (
        {**OTHERS["mistral"], "quantization_config": {"quant_method": "gptq"}},
        "quantization_config of config.json must be absent or {} in a mistral that is read here, got "
        "{'quant_method': 'gptq'}",
    ),
    "both ways": (
        {**OTHERS["gemma2"], "use_bidirectional_attention": True},
        "use_bidirectional_attention of config.json must be absent or False in a gemma2 that is read here, got True",
    ),
    "a cap that the type has not": (
        {**OTHERS["gemma3_text"], "attn_logit_softcapping": 50.0},
        "attn_logit_softcapping of config.json must be absent in a gemma3_text that is read here, got 50.0",
    ),
    "biases that are normalised": (
        {**OTHERS["qwen3"], "attention_bias": True},
        "attention_bias of config.json must be absent or False in a qwen3 that is read here, got True",
    ),
    "kinds of layers": (
        {**OTHERS["gemma2"], "layer_types": ["full_attention", "chunked_attention"]},
        "layer_types of config.json must all be 'full_attention' or 'sliding_attention', got ['full_attention', "
        "'chunked_attention']",
    ),
    "kinds of too many layers": (
        {**OTHERS["gemma2"], "layer_types": ["full_attention"] * 3},
        "layer_types of config.json must be 2, one a layer, got 3",
    ),
    "layers without the window of all": (
        {**OTHERS["mistral"], "layer_types": ["full_attention"] * 2},
        "layer_types of config.json must all be 'sliding_attention', got ['full_attention', 'full_attention']",
    ),
    "a window without a number": (
        {**OTHERS["qwen2"], "use_sliding_window": False, "layer_types": ["sliding_attention"] * 2},
        "sliding_window of config.json must be a whole number of at least 1, got None",
    ),
    "a rule of long contexts": (
        {**OTHERS["phi3"], "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}},
        "rope_type of config.json must be one of 'default', got 'longrope'",
    ),
    "a rule for all kinds of layers": (
        {**OTHERS["gemma3_text"], "rope_parameters": {"rope_type": "linear", "factor": 8.0}},
        "rope_parameters of config.json must be by layer type, 'full_attention' and 'sliding_attention', got "
        "'rope_type'",
    ),
    "a base of one kind": (
        {**OTHERS["gemma3_text"], "rope_local_base_freq": -1},
        "rope_local_base_freq of config.json must be a positive number, got -1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_one_sentence(tmp_path, name):
    config, sentence = REFUSED[name]
    kind = config["model_type"] if config["model_type"] in OTHERS else "mistral"
    assert reports(config, weights(kind), tmp_path) == sentence


def test_an_adapter_alone_is_none(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"^the checkpoint must be a merged model, got '.*' with adapter_config.json"):
        Checkpoint(tmp_path)


def test_dynamic_frequencies_end_with_the_context(tmp_path):
    config = {**LLAMA, "max_position_embeddings": 12, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    checkpoint = Checkpoint(write(tmp_path, config, llama_weights(LLAMA)))
    plain = Checkpoint(write(tmp_path / "plain", LLAMA, llama_weights(LLAMA))).architecture
    assert checkpoint.architecture.frequencies == plain.frequencies
    with pytest.raises(InputError, match=r"^tokens must have at most 12 positions, the model's context, got 13$"):
        forward(checkpoint, np.zeros((1, 13), int))


# folders


@pytest.mark.parametrize("style", ["model.language_model.", "language_model.model."])
def test_the_text_part_of_a_model_that_reads_images(tmp_path, style):
    """Its config lies within, its tensors under another name beside those of the part that sees."""
    kind = "gemma3_text"
    tensors = {name.replace("model.", style, 1): x for name, x in weights(kind).items()}
    tensors |= {"vision_tower.layers.0.weight": np.ones(3, np.float32)}
    text = {name: value for name, value in OTHERS[kind].items() if name != "model_type"}
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}}
    checkpoint = Checkpoint(write(tmp_path, config, tensors))
    alone = Checkpoint(write(tmp_path / "alone", OTHERS[kind], weights(kind)))
    assert checkpoint.architecture == alone.architecture
    for found, expected in zip(*(jax.tree.leaves((x.layer(1), x.ends())) for x in (checkpoint, alone)), strict=True):
        assert np.array_equal(found, expected)


def test_half_precision_shards_of_a_base_model(tmp_path):
    """bfloat16, in shards, without prefix or unembedding, as float32."""
    tensors = {name.removeprefix("model."): x.astype(jnp.bfloat16) for name, x in weights("gemma2").items()}
    checkpoint = Checkpoint(write(tmp_path, {**OTHERS["gemma2"], "tie_word_embeddings": False}, tensors, shards=3))
    bundle = bundle_heads(checkpoint, folded=True)
    gain = 1 + tensors["layers.1.input_layernorm.weight"].astype(np.float32)
    expected = tensors["layers.1.self_attn.k_proj.weight"].astype(np.float32)[8:16] * gain
    assert np.array_equal(bundle.W_K[1, 3], expected)
    assert (bundle.metadata["weights_dtype"], bundle.W_K.dtype) == ("bfloat16", np.float32)


# instruments


def plain_heads(bundle, layer):
    """Heads of a layer, stacked, as plain ones, and what their queries and keys are made of, (heads, s, n, D)."""
    plain, scales = without_norms(bundle)
    heads = [plain.head(layer, h) for h in range(plain.W_Q.shape[1])]
    tokens = jnp.asarray(bundle.attn_in[layer])
    read = [rescaled(tokens, jax.tree.map(lambda x, h=h: x[layer, h], scales)) for h in range(len(heads))]
    return jax.tree.map(lambda *x: jnp.stack(x), *zip(heads, read, strict=True))


@jax.jit
def off(given):
    """How far sums of singular terms and of balanced modes are from scores, over the largest of each head."""

    def of(given):
        head, (r, s) = given
        d = decompose(head, r, s, None)
        modes = balanced(head.W_Q, head.W_K, *seen_rescaled(head, r, s, None))
        seen = read_balanced(d, head, head.queries(r, jnp.arange(n)), head.keys(s, jnp.arange(n)), modes)
        return jnp.stack([d.error.max(), seen.error.max()]) / jnp.where(d.visible, jnp.abs(d.scores), 0).max()

    return jax.lax.map(of, given)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*CONFIGS, *OTHERS])
def test_instruments_read_every_type(tmp_path, kind):
    """Terms sum to the scores, raw in each published convention and balanced; attention is that of the model."""
    config, tensors = (
        (CONFIGS[kind], llama_weights(CONFIGS[kind])) if kind in CONFIGS else (OTHERS[kind], weights(kind))
    )
    tokens = np.random.default_rng(8).integers(0, V, size=(12, n))
    bundle = read_model(write(tmp_path, config, tensors), tokens=tokens, attention=True)
    found = sad.survey(bundle, sad.Settings(draws=19))
    assert float(found.score_error.max()) <= MISSED  # of each query's own largest score, however small
    for layer in range(2):
        found_off = np.asarray(off(plain_heads(bundle, layer)))
        print(kind, "terms and modes miss scores by", found_off.max(axis=0))
        assert (found_off <= 1e-4).all()
    assert float(found.attention_error.max()) <= 1e-5
    assert found.sparseness.notnull().any()
    at = {"layer": 1, "head": 1}
    seen = decompose(bundle.head(**at), *[jnp.asarray(bundle.attn_in[1])] * 2, None)
    assert np.abs(seen.attention - bundle.others["attention"][1, :, 1]).max() <= 1e-5
    spectrum = spectra.survey(bundle, spectra.Settings(resamples=2, gaussians=2))
    assert np.isfinite(spectrum.singular_value).all()
    explained = explain.survey(bundle, settings=explain.Settings(draws=19, resamples=2, **at))
    assert explained.functional_cosine.notnull().all()


@pytest.mark.parametrize("kind", ["gemma2", "qwen3", "olmo2"])
def test_pairs_of_features_and_what_is_left_sum_to_the_score(tmp_path, kind):
    """Of gains above 1 and scaled embeddings, norms of queries and keys, and heads that read the stream as it is."""
    rng, tensors = np.random.default_rng(0), weights(kind)
    bundle = read_model(write(tmp_path, OTHERS[kind], tensors), tokens=TOKENS, residual=1)
    exact, stream = naive(OTHERS[kind], tensors, TOKENS[0])[3], bundle.others["residual"][0]
    W = [(rng.normal(size=(40, stream.shape[1])) / stream.shape[1]).astype(np.float32) for _ in range(2)]
    features = Dictionary(W[0].T, "resid_post", 0, encoder=Encoder(W[1], rng.normal(size=40) / 4, "relu"))
    check_fits(features, bundle)
    for head in range(bundle.W_Q.shape[1]):
        found = feature_pairs(bundle.head(1, head), features, bundle.attn_in[1, 0], 8, 3, stream)
        wanted = exact[1, head, 8, 3]
        assert found.parts.sum() == pytest.approx(wanted, abs=1e-4 * max(1, abs(wanted)))
        assert found.terms.sum() == pytest.approx(found.parts[0], abs=1e-4)
        assert found.parts[0] != 0
