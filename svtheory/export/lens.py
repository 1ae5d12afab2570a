"""Lens: heads of a model of TransformerLens, its bridge to other libraries, its own, or the older HookedTransformer."""

from typing import Any

import numpy as np

from svtheory.checks import InputError
from svtheory.export.checking import Pass, checked
from svtheory.export.hugging_face import norm_of, scoring_of
from svtheory.export.layers import Layer
from svtheory.export.recording import Given, array, recording
from svtheory.heads.bundles import HeadBundle


def from_transformer_lens(model: Any, tokens: Any) -> HeadBundle:
    """The heads of a TransformerLens model and what they read, as a bundle that is known to attend as the model does.

    Weights are those that the model shows (`model.blocks[0].attn.W_Q`): folded and centred where it was told to. The
    attention recomputed from the bundle is compared with `hook_pattern` in every layer, head and sequence. A window is
    seen in sequences longer than it is.

    model   a TransformerBridge (of version 4, its own models among them), or a HookedTransformer of version 3
    tokens  whole numbers (sequences, positions), or rows of any lengths, each run alone and padded in the bundle

    Raises InputError, with layer and distance, where attention is more than 1e-3 from the model's, and for what is no
    such model.
    """
    import torch  # pyright: ignore[reportMissingImports]

    if not all(hasattr(model, name) for name in ("blocks", "cfg", "run_with_cache")):
        raise InputError(f"model must be one of TransformerLens, got {type(model).__name__}")
    modules = [block.attn for block in model.blocks if hasattr(block, "attn")]
    calls: list[Given] = []

    def run(row: np.ndarray) -> Pass:
        ids = torch.tensor(row[None], device=model.cfg.device)
        with torch.no_grad(), recording(modules) as found:
            _, cache = model.run_with_cache(ids, names_filter=lambda name: name.endswith("attn.hook_pattern"))
        if len(cache) != len(found):
            raise InputError(f"model must show its attention in each of {len(found)} layers, got that of {len(cache)}")
        calls[:] = found
        return Pass([call.read for call in found], [array("hook_pattern", paid[0]) for paid in cache.values()])

    def layers() -> list[Layer]:
        return [_layer(call, model, i) for i, call in enumerate(calls)]

    return checked(tokens, run, layers, {"source": str(model.cfg.model_name), "architecture": type(model).__name__})


def _layer(call: Given, model: Any, index: int) -> Layer:
    """How the heads of an attention module score."""
    attn, weights = call.module, {}
    for name in ("W_Q", "W_K", "b_Q", "b_K"):
        found = getattr(attn, name, None)
        weights[name] = None if found is None else array(name, found)
    W_Q, W_K = (weights[name].swapaxes(1, 2) for name in ("W_Q", "W_K"))  # (heads, d_model, d_head) there
    d_head = W_Q.shape[1]
    b_Q, b_K = (None if (b := weights[name]) is None else b.reshape(-1, d_head) for name in ("b_Q", "b_K"))
    module = getattr(attn, "original_component", attn)
    config: Any = getattr(getattr(model, "original_model", None), "config", None)
    if hasattr(config, "get_text_config"):  # a bridge to transformers
        return Layer(W_Q, W_K, b_Q, b_K, **scoring_of(call, module, config.get_text_config(), index, d_head))
    return Layer(W_Q, W_K, b_Q, b_K, **_own_scoring(module, model.cfg))


def _own_scoring(module: Any, cfg: Any) -> dict[str, Any]:
    """What a Layer says beside weights, of a module that TransformerLens runs itself."""
    rotary = getattr(module, "rotary", None)
    tables = [getattr(module, f"rotary_{name}", getattr(rotary, f"{name}_cached", None)) for name in ("cos", "sin")]
    cap = float(getattr(cfg, "attn_scores_soft_cap", -1.0))
    return {
        "divisor": float(module.scale if hasattr(module, "scale") else module.attn_scale),
        "window": cfg.window_size if getattr(module, "attn_type", "global") == "local" else None,
        "cap": cap if cap > 0 else None,
        "turned": None if tables[0] is None else tuple(array("rotary", table) for table in tables),
        "norm": norm_of(module),
    }
