"""TransformerLens models as bundles: each attends as its model; needs the extra `bench` (`make parity`)."""

import numpy as np
import pytest
from test_hugging_face import BLOOM, CASES, V, furthest, reference

from svtheory.checks import InputError
from svtheory.export import from_transformer_lens, from_transformers

torch = pytest.importorskip("torch", reason="the reference needs torch: the extra bench, make parity")
lens = pytest.importorskip(
    "transformer_lens", reason="the reference needs TransformerLens: the extra bench, make parity"
)
if not hasattr(lens, "TransformerBridgeConfig"):
    pytest.skip("these tests are of TransformerLens 4", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("default")

TOKENS = np.random.default_rng(0).integers(1, V, size=(2, 30))
BRIDGED = ["gpt2, divided by layer", "neox, rotated in part", "llama, yarn, which lengthens queries"]
BRIDGED += ["qwen2, biases, windows in some layers", "mistral, a window", "gemma2, a cap", "gpt-j, adjacent rows"]
OWN = {
    "learned positions": {},
    "rotary, groups, a cap": {
        "positional_embedding_type": "rotary",
        "n_key_value_heads": 2,
        "attn_scores_soft_cap": 5.0,
    },
    "seen from both sides, attention alone": {"attention_dir": "bidirectional", "attn_only": True},
}


def bridge(case, folded):
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    kind, settings, _ = CASES[case]
    model = reference(kind, settings)
    model.set_attn_implementation("eager")
    made = build_bridge_from_module(model, kind, hf_config=model.config)
    if folded:
        made.enable_compatibility_mode(disable_warnings=True)
    return made


def own(settings):
    """A model of TransformerLens's own, as one trains for a study."""
    sizes = {"d_model": 48, "d_head": 12, "n_layers": 2, "n_ctx": 64, "n_heads": 4, "d_mlp": 64, "d_vocab": V}
    config = lens.TransformerBridgeConfig(**sizes, act_fn="relu", normalization_type="LN", seed=0, **settings)
    model = lens.TransformerBridge.boot_native(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def attention_of(model):
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor(TOKENS))
    return [cache[f"blocks.{i}.attn.hook_pattern"].numpy() for i in range(model.cfg.n_layers)]


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("case", BRIDGED)
def test_a_bridge_attends_as_its_bundle(case, folded):
    model = bridge(case, folded)
    bundle = from_transformer_lens(model, TOKENS)
    error = furthest(bundle, attention_of(model))
    print(case, folded, float(error))
    assert error <= 1e-4
    assert bundle.scoring.folded == folded


@pytest.mark.parametrize("case", OWN)
def test_a_model_of_its_own_attends_as_its_bundle(case):
    model = own(OWN[case])
    error = furthest(from_transformer_lens(model, TOKENS), attention_of(model))
    print(case, float(error))
    assert error <= 1e-4


def test_a_bridge_is_what_it_bridges():
    case = "llama, yarn, which lengthens queries"
    kind, settings, _ = CASES[case]
    theirs, direct = (
        from_transformer_lens(bridge(case, False), TOKENS),
        from_transformers(reference(kind, settings), TOKENS),
    )
    for name in ("W_Q", "W_K", "attn_in"):
        assert getattr(theirs, name) == pytest.approx(getattr(direct, name), abs=1e-5), name
    assert theirs.scoring.divisors == direct.scoring.divisors


def test_what_a_bundle_cannot_hold_is_refused():
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = reference("BloomForCausalLM", BLOOM)
    model.set_attn_implementation("eager")
    made = build_bridge_from_module(model, "BloomForCausalLM", hf_config=model.config)
    with pytest.raises(InputError, match=r"got biases by distance \(ALiBi\) in layer 0$"):
        from_transformer_lens(made, TOKENS)
    with pytest.raises(InputError, match=r"^model must be one of TransformerLens, got BloomForCausalLM$"):
        from_transformer_lens(model, TOKENS)
