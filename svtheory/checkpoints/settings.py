"""Settings: the entries of a config.json, checked one by one."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from svtheory.checks import InputError, one_of, whole

Config = Mapping[str, Any]

# tanh and error-function forms of GELU differ by up to 5e-4
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "swish")

# what models of other kinds are told here, and the values that say nothing; anything else is refused by name
SILENT: Mapping[str, tuple[Any, ...]] = {
    "is_causal": (True,),
    **dict.fromkeys(("is_encoder_decoder", "add_cross_attention", "use_bidirectional_attention"), (False,)),
    **dict.fromkeys(("alibi", "use_alibi", "qk_norm", "use_qk_norm", "qk_layernorm"), (False,)),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "no_rope_layers", "query_pre_attn_scalar"), ()),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "logits_soft_cap", "clip_qkv"), ()),
    **dict.fromkeys(("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"), (1,)),
    "logit_scale": (1,),
    **dict.fromkeys(("quantization_config", "per_layer_config", "pruned_heads"), ({},)),
}


def refuse_others(config: Config, kind: str, reads: Collection[str], own: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise InputError for a setting of attention, scores or logits that would have to be ignored.

    A `kind` of model `reads` some of those in SILENT, and has some of its `own` that must say nothing.
    """
    for name, silent in {**SILENT, **own}.items():
        if name in reads or (name == "sliding_window" and config.get("use_sliding_window") is False):
            continue
        if (given := config.get(name)) is not None and given not in silent:
            allowed = " or ".join(["absent", *map(repr, silent)])
            raise InputError(
                f"{name} of config.json must be {allowed} in a {kind} that is read here, got {given!r:.60}"
            )


def size(config: Config, name: str, default: int | None = None) -> int:
    """A positive whole number."""
    return whole(f"{name} of config.json", entry(config, name, default), 1)


def number(config: Config, name: str, default: float | None = None) -> float:
    """A positive finite number."""
    x = entry(config, name, default)
    if isinstance(x, bool) or not isinstance(x, int | float) or not 0 < x <= float(np.finfo(float).max):
        raise InputError(f"{name} of config.json must be a positive number, got {x!r:.60}")
    return float(x)


def flag(config: Config, name: str, default: bool | None = None) -> bool:
    """True or false."""
    x = entry(config, name, default)
    if not isinstance(x, bool):
        raise InputError(f"{name} of config.json must be true or false, got {x!r}")
    return x


def activation(config: Config, name: str) -> str:
    """An activation function that is known here."""
    return one_of(f"{name} of config.json", entry(config, name), ACTIVATIONS)


def section(config: Config, *names: str) -> Config:
    """The first of these objects that is given and not empty; empty if none is."""
    found = next((config[name] for name in names if config.get(name)), {})
    if not isinstance(found, dict):
        raise InputError(f"{' or '.join(names)} of config.json must be an object, got {found!r}")
    return found


def quotient(config: Config, whole_name: str, part_name: str) -> int:
    """The first setting over the second, which must divide it."""
    whole_size, part = size(config, whole_name), size(config, part_name)
    if whole_size % part:
        raise InputError(f"{whole_name} of config.json must be a multiple of {part_name}, got {whole_size} and {part}")
    return whole_size // part


def entry(config: Config, name: str, default: Any = None) -> Any:
    """A setting as it stands; an absent or null one is the default."""
    value = config.get(name)
    return default if value is None else value
