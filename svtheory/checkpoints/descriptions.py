"""Descriptions: the types of models that are read here, as data: what config.json says of each, where weights lie."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from svtheory.checkpoints.settings import Config, flag, size

FULL, SLIDING = KINDS = ("full_attention", "sliding_attention")
RULES = ("default", "linear", "llama3", "dynamic")


def all_full(_: Config, layers: int) -> list[str]:
    """No layer has a window."""
    return [FULL] * layers


def all_windowed(config: Config, layers: int) -> list[str]:
    """Every layer has the window `sliding_window`, if that is a number."""
    return [FULL if config.get("sliding_window") is None else SLIDING] * layers


def later_windowed(config: Config, layers: int) -> list[str]:
    """Layers from `max_window_layers` on have the window, if `use_sliding_window` switches it on."""
    if not flag(config, "use_sliding_window") or config.get("sliding_window") is None:
        return [FULL] * layers
    first = config["max_window_layers"] and size(config, "max_window_layers")  # 0 is every layer
    return [FULL if i < first else SLIDING for i in range(layers)]


def alternating(_: Config, layers: int) -> list[str]:
    """Every other layer has the window, the first among them."""
    return [FULL if i % 2 else SLIDING for i in range(layers)]


def local_and_global(config: Config, layers: int) -> list[str]:
    """All layers have the window but every `sliding_window_pattern`-th."""
    period = size(config, "sliding_window_pattern")
    return [FULL if (i + 1) % period == 0 else SLIDING for i in range(layers)]


@dataclass(frozen=True, kw_only=True)
class Description:
    """A type of decoder.

    names           settings of config.json by the fields of Architecture that they give
    defaults        what settings are where config.json leaves them out
    aliases         settings by other names, which win over them
    reads           settings that are obeyed here and refused in other types
    silent          further settings that are refused, by the values that say nothing
    norm            "layer" or "rms"
    above_one       whether its gains, and those of queries and keys, are stored less 1
    mlp_ratio       d_mlp over d_model where config.json leaves it out, or None
    parallel        whether the MLP reads before attention has written: the setting that says so, or None
    query_key_norm  "none", "per head" or "all heads": over what queries and keys are normalised (T23)
    scaled          whether embeddings are multiplied by sqrt(d_model)
    kinds           which layers have a window, where `layer_types` does not say, of which `by_layer` allows both
    bases           settings of the rotary base: one, or one for each kind of layer; none where positions are learned
    share           the setting that says what share of rows turns, where fewer than all may
    rules           by which frequencies may be rescaled
    prefix          of the tensors of layers
    layer           tensors of a layer by role; roles that share one lie in it one after the other; None is none
    interleaved     whether queries, keys and values lie in theirs head by head
    transposed      whether matrices are (in, out)
    biases          roles with a bias: always, or if a setting says so
    ends            tensors at the ends by role
    """

    names: Mapping[str, str]
    defaults: Mapping[str, Any]
    aliases: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    silent: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    norm: str = "rms"
    above_one: bool = False
    mlp_ratio: int | None = None
    parallel: str | None = None
    query_key_norm: str = "none"
    scaled: bool = False
    kinds: Callable[[Config, int], list[str]] = all_full
    by_layer: bool = False
    bases: tuple[str, ...] = ("rope_theta",)
    share: str | None = None
    rules: tuple[str, ...] = RULES
    prefix: str = "layers"
    layer: Mapping[str, str | None]
    interleaved: bool = False
    transposed: bool = False
    biases: Mapping[str, bool | str] = field(default_factory=dict)
    ends: Mapping[str, str]


def variant(base: Description, *, names: Any = (), defaults: Any = (), layer: Any = (), **others: Any) -> Description:
    """The same but for these names, defaults and tensors of a layer, added or in place of its own, and `others`."""
    merged = {"names": names, "defaults": defaults, "layer": layer}
    return replace(base, **{name: {**getattr(base, name), **dict(new)} for name, new in merged.items()}, **others)


CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
ATTENTION, MLP = "QKVO", ("gate", "in", "out")
# terms of T23 have no place for a bias that is normalised with its query or key
NO_BIAS = {"attention_bias": (False,)}
Q_AND_K = {"q_gain": "self_attn.q_norm", "k_gain": "self_attn.k_norm"}
POST_NORMS = {"attention_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"}

LLAMA = Description(
    names={
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "key_heads": "num_key_value_heads",
        "d_head": "head_dim",
        "d_model": "hidden_size",
        "d_mlp": "intermediate_size",
        "vocabulary": "vocab_size",
        "epsilon": "rms_norm_eps",
        "activation": "hidden_act",
    },
    defaults={
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
    },
    layer={
        "attention_norm": "input_layernorm",
        "Q": "self_attn.q_proj",
        "K": "self_attn.k_proj",
        "V": "self_attn.v_proj",
        "O": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "in": "mlp.up_proj",
        "out": "mlp.down_proj",
    },
    biases=dict.fromkeys(ATTENTION, "attention_bias") | dict.fromkeys(MLP, "mlp_bias"),
    ends={"embedding": "embed_tokens", "norm": "norm", "unembedding": "lm_head"},
)

QWEN2 = variant(
    LLAMA,
    defaults={
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    reads=("sliding_window",),
    kinds=later_windowed,
    by_layer=True,
    biases=dict.fromkeys("QKV", True),
)

GEMMA2 = variant(
    LLAMA,
    names={"activation": "hidden_activation"},
    defaults={
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": True,
    },
    reads=("query_pre_attn_scalar", "sliding_window", *CAPS),
    above_one=True,
    scaled=True,
    kinds=alternating,
    by_layer=True,
    layer={**POST_NORMS, "mlp_norm": "pre_feedforward_layernorm"},
    biases=dict.fromkeys(ATTENTION, "attention_bias"),
)

DESCRIPTIONS: Mapping[str, Description] = {
    "gpt2": Description(
        names={
            "layers": "n_layer",
            "heads": "n_head",
            "d_model": "n_embd",
            "d_mlp": "n_inner",
            "vocabulary": "vocab_size",
            "context": "n_positions",
            "epsilon": "layer_norm_epsilon",
            "activation": "activation_function",
        },
        defaults={
            "n_positions": 1024,
            "layer_norm_epsilon": 1e-5,
            "activation_function": "gelu_new",
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "tie_word_embeddings": True,
        },
        aliases={
            "n_embd": "hidden_size",
            "n_positions": "max_position_embeddings",
            "n_head": "num_attention_heads",
            "n_layer": "num_hidden_layers",
        },
        reads=("scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
        norm="layer",
        mlp_ratio=4,
        bases=(),
        prefix="h",
        layer={
            "attention_norm": "ln_1",
            **dict.fromkeys("QKV", "attn.c_attn"),
            "O": "attn.c_proj",
            "mlp_norm": "ln_2",
            "in": "mlp.c_fc",
            "out": "mlp.c_proj",
        },
        transposed=True,
        biases=dict.fromkeys((*ATTENTION, *MLP), True),
        ends={"embedding": "wte", "positions": "wpe", "norm": "ln_f", "unembedding": "lm_head"},
    ),
    "gpt_neox": Description(
        names={
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "d_model": "hidden_size",
            "d_mlp": "intermediate_size",
            "vocabulary": "vocab_size",
            "epsilon": "layer_norm_eps",
            "activation": "hidden_act",
        },
        defaults={
            "layer_norm_eps": 1e-5,
            "hidden_act": "gelu",
            "max_position_embeddings": 2048,
            "attention_bias": True,
            "use_parallel_residual": True,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000.0,
            "tie_word_embeddings": False,
        },
        norm="layer",
        parallel="use_parallel_residual",
        bases=("rotary_emb_base",),
        share="rotary_pct",
        layer={
            "attention_norm": "input_layernorm",
            **dict.fromkeys("QKV", "attention.query_key_value"),
            "O": "attention.dense",
            "mlp_norm": "post_attention_layernorm",
            "in": "mlp.dense_h_to_4h",
            "out": "mlp.dense_4h_to_h",
        },
        interleaved=True,
        biases={**dict.fromkeys(ATTENTION, "attention_bias"), **dict.fromkeys(MLP, True)},
        ends={"embedding": "embed_in", "norm": "final_layer_norm", "unembedding": "lm_head"},
    ),
    "llama": LLAMA,
    "mistral": variant(
        LLAMA,
        defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
        reads=("sliding_window",),
        kinds=all_windowed,
        biases={},
    ),
    "phi3": variant(
        LLAMA,
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "partial_rotary_factor": 1.0},
        reads=("sliding_window",),
        kinds=all_windowed,
        share="partial_rotary_factor",
        rules=("default",),
        layer={**dict.fromkeys("QKV", "self_attn.qkv_proj"), **dict.fromkeys(("gate", "in"), "mlp.gate_up_proj")},
        biases={},
    ),
    "qwen2": QWEN2,
    "qwen3": variant(
        QWEN2,
        defaults={"head_dim": 128},
        silent=NO_BIAS,
        query_key_norm="per head",
        layer=Q_AND_K,
        biases={},
    ),
    "olmo2": variant(
        LLAMA,
        defaults={"rms_norm_eps": 1e-5},
        silent=NO_BIAS,
        query_key_norm="all heads",
        layer={"attention_norm": None, "mlp_norm": None, **POST_NORMS, **Q_AND_K},
        biases={},
    ),
    "gemma2": GEMMA2,
    "gemma3_text": variant(
        GEMMA2,
        defaults={
            "vocab_size": 262208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "max_position_embeddings": 131072,
            "sliding_window_pattern": 6,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "final_logit_softcapping": None,
        },
        reads=("query_pre_attn_scalar", "sliding_window", "final_logit_softcapping"),
        silent=NO_BIAS,
        query_key_norm="per head",
        kinds=local_and_global,
        bases=("rope_theta", "rope_local_base_freq"),
        layer=Q_AND_K,
        biases={},
    ),
}
