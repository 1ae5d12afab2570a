"""Rotary settings as config.json files state them, old style and new, and the frequencies transformers makes of them.

The frequencies in rope_recorded.json are those of transformers' own rotary embeddings; `make parity` makes them again.
"""

import json
from pathlib import Path

LLAMA = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 80,
}
NEOX = {**LLAMA, "model_type": "gpt_neox"}
GEMMA3 = {  # the first layer has a window, the second has none
    **LLAMA,
    "model_type": "gemma3_text",
    "head_dim": 16,
    "num_key_value_heads": 1,
    "sliding_window_pattern": 2,
    "sliding_window": 1000,
    "pad_token_id": 0,
}

BY_THREE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
OLD3, NEW3 = {"type": "llama3", **BY_THREE}, {"rope_type": "llama3", **BY_THREE}


def scaling(**given):
    return {"rope_scaling": given}


def parameters(**given):
    return {"rope_parameters": given}


OF_LLAMA = {
    "nothing": {},
    "base beside": {"rope_theta": 500.0},
    "base, new style": parameters(rope_theta=500.0),
    "base and rule, new style": parameters(rope_type="default", rope_theta=5e5),
    "new names under the old section": scaling(rope_type="default", rope_theta=5e5),
    "old section, base beside": {"rope_theta": 5e5, **scaling(type="default")},
    "whole base": scaling(rope_type="default", rope_theta=500),
    "base beside and within": {"rope_theta": 1.5, **parameters(rope_theta=500.0)},
    "base beside and within the old section": {
        "rope_theta": 1.5,
        **scaling(rope_type="linear", factor=2.0, rope_theta=500.0),
    },
    "both sections": {**scaling(rope_type="linear", factor=2.0, rope_theta=5e5), **parameters(rope_theta=7.0)},
    "both sections, the base in the one that loses": {
        **scaling(type="linear", factor=2.0),
        **parameters(rope_theta=7.0),
    },
    "old section null": {"rope_scaling": None, **parameters(rope_theta=7.0)},
    "old section empty": {**scaling(), **parameters(rope_theta=7.0)},
    "both empty": {**scaling(), **parameters(), "rope_theta": 500.0},
    "linear, old style": {"rope_theta": 500.0, **scaling(type="linear", factor=4.0)},
    "linear, new style": parameters(rope_type="linear", factor=4.0, rope_theta=500.0),
    "linear, the old name of the rule in the new section": parameters(type="linear", factor=4.0),
    "two names of the rule": scaling(rope_type="default", type="linear", factor=4.0),
    "llama3, old style": {"rope_theta": 5e5, **scaling(**OLD3, original_max_position_embeddings=256)},
    "llama3, new style": parameters(**NEW3, rope_theta=5e5, original_max_position_embeddings=256),
    "llama3, context of the model": {"max_position_embeddings": 64, **scaling(**NEW3)},
    "llama3, no context stated": parameters(**NEW3, rope_theta=5e5),
    "llama3, original context beside": {
        "original_max_position_embeddings": 32,
        "max_position_embeddings": 512,
        **scaling(**NEW3),
    },
    "llama3, original context beside and within": {
        "original_max_position_embeddings": 32,
        **scaling(**NEW3, original_max_position_embeddings=128),
    },
    "dynamic, old style": {"rope_theta": 500.0, **scaling(type="dynamic", factor=4.0)},
    "dynamic, new style": parameters(rope_type="dynamic", factor=4.0, rope_theta=500.0),
    "long heads": {"head_dim": 20, **scaling(rope_type="linear", factor=2.0, rope_theta=500.0)},
    "a share beside, which Llama's default rule has no use for": {"partial_rotary_factor": 0.5},
    "a share within, which Llama's default rule has no use for": parameters(
        rope_theta=500.0, partial_rotary_factor=0.5
    ),
}
OF_NEOX = {
    "nothing": {},
    "share and base beside": {"rotary_pct": 0.5, "rotary_emb_base": 500},
    "all rows": {"rotary_pct": 1.0},
    "share and base, new style": parameters(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.5),
    "share and base under the old section": scaling(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.5),
    "beside and within": {
        "rotary_pct": 1.0,
        "rotary_emb_base": 7,
        **parameters(rope_theta=500.0, partial_rotary_factor=0.5),
    },
    "share within, base beside": {
        "rotary_pct": 1.0,
        "rotary_emb_base": 500,
        **scaling(rope_type="default", partial_rotary_factor=0.5),
    },
    "both sections": {
        **scaling(type="linear", factor=2.0, partial_rotary_factor=1.0),
        **parameters(rope_theta=7.0, partial_rotary_factor=0.5),
    },
    "linear, old style": {"rotary_pct": 0.5, **scaling(type="linear", factor=2.0)},
    "linear, new style": parameters(rope_type="linear", factor=2.0, rope_theta=500.0, partial_rotary_factor=0.75),
    "llama3, context of the model": {"rotary_pct": 1.0, "max_position_embeddings": 64, **scaling(**NEW3)},
    "llama3, share within": parameters(**NEW3, partial_rotary_factor=0.5, original_max_position_embeddings=128),
    "dynamic, share within": parameters(rope_type="dynamic", factor=2.0, partial_rotary_factor=0.5),
    "names of Llama beside, which NeoX has no use for": {"rope_theta": 500.0, "partial_rotary_factor": 1.0},
}
OF_GEMMA3 = {
    "nothing": {},
    "bases beside": {"rope_theta": 5e5, "rope_local_base_freq": 50.0},
    "old section, of layers without a window": {"rope_theta": 5e5, **scaling(rope_type="linear", factor=8.0)},
    "old section, with a base": scaling(rope_type="linear", factor=8.0, rope_theta=5e4),
    "by kind": parameters(
        sliding_attention={"rope_type": "default", "rope_theta": 50.0},
        full_attention={"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
    ),
    "one kind alone, bases beside": {
        "rope_theta": 5e5,
        "rope_local_base_freq": 50.0,
        **parameters(full_attention={"rope_type": "linear", "factor": 4.0}),
    },
    "rules in both kinds": parameters(
        sliding_attention={"rope_type": "linear", "factor": 2.0}, full_attention={**NEW3, "rope_theta": 5e5}
    ),
    "both sections": {
        **scaling(rope_type="linear", factor=8.0),
        **parameters(sliding_attention={"rope_theta": 50.0}, full_attention={"rope_theta": 5e5}),
    },
    "dynamic, original context beside": {
        "original_max_position_embeddings": 64,
        **parameters(full_attention={"rope_type": "dynamic", "factor": 4.0}),
    },
}

CASES = {
    **{f"llama: {name}": {**LLAMA, **given} for name, given in OF_LLAMA.items()},
    **{f"gpt_neox: {name}": {**NEOX, **given} for name, given in OF_NEOX.items()},
    **{f"gemma3_text: {name}": {**GEMMA3, **given} for name, given in OF_GEMMA3.items()},
}
FILE = Path(__file__).with_name("rope_recorded.json")
RECORDED = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
