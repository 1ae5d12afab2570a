"""Hugging Face: heads of a model of transformers, read off its modules and what they are given when it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from svtheory.checks import InputError
from svtheory.export.checking import Pass, checked
from svtheory.export.layers import Layer
from svtheory.export.recording import Given, array, recording
from svtheory.heads.bundles import HeadBundle

# what queries and keys are projected by: two modules, or one for both and the values
PROJECTIONS = (
    *(("q_proj", "k_proj"), ("query", "key"), ("q_lin", "k_lin"), ("q", "k")),
    *(("query_key_value",), ("c_attn",), ("qkv_proj",), ("Wqkv",)),
)
# what an attention module has, or is given, whose part in the scores no bundle holds
UNCARRIED = {
    "alibi": "biases by distance (ALiBi)",
    "position_bias": "biases by distance",
    "relative_attention_bias": "biases by distance (T5)",
    "sinks": "attention that no key gets (sinks)",
}


def from_transformers(model: Any, tokens: Any) -> HeadBundle:
    """The heads of a model of transformers and what they read, as a bundle that is known to attend as the model does.

    Projections are found by name (q_proj and k_proj, c_attn, query_key_value, ...), rotation, divisor, window, cap and
    query-key norm by what modules hold and are given: any model will do whose scores a bundle can hold. The attention
    recomputed from the bundle is compared with the model's own (`attn_implementation="eager"`, switched to for the
    time) in every layer, head and sequence. A window is seen in sequences longer than it is.

    model   a PreTrainedModel in float32 or float64, in evaluation mode
    tokens  whole numbers (sequences, positions), or rows of any lengths, each run alone and padded in the bundle

    Raises InputError, with layer and distance, where attention is more than 1e-3 from the model's, and for what is no
    such model: of encoders and decoders both, with projections of another kind, in half precision, in training.
    """
    import torch  # pyright: ignore[reportMissingImports]

    modules = [module for module in getattr(model, "modules", list)() if _projections(module)]
    _check_model(model, modules)
    calls: list[Given] = []

    def run(row: np.ndarray) -> Pass:
        ids = torch.tensor(row[None], device=model.device)
        with torch.no_grad(), recording(modules) as found:
            out = model(input_ids=ids, output_attentions=True, use_cache=False)
        if len(out.attentions or ()) != len(found):
            raise InputError(
                f"model must show its attention in each of {len(found)} layers, got that of {len(out.attentions or ())}"
            )
        calls[:] = found
        return Pass([call.read for call in found], [array("attention", paid[0]) for paid in out.attentions])

    def layers() -> list[Layer]:
        config = model.config.get_text_config()
        return [layer_of(call, call.module, config, i) for i, call in enumerate(calls)]

    source = str(getattr(model.config, "name_or_path", "") or type(model).__name__)
    with _eager(model):
        return checked(tokens, run, layers, {"source": source, "architecture": str(model.config.model_type)})


def _check_model(model: Any, modules: Sequence[Any]) -> None:
    """Raise InputError for what `from_transformers` does not take."""
    if not modules or not hasattr(model, "config"):
        names = ", ".join(" and ".join(names) for names in PROJECTIONS)
        raise InputError(f"model must be one of transformers with projections {names}, got {type(model).__name__}")
    if model.config.is_encoder_decoder:
        raise InputError(f"model must be an encoder or a decoder alone, got {type(model).__name__}, which is both")
    if model.training:
        raise InputError("model must be in evaluation mode, model.eval(), got one in training, which drops attention")
    if str(model.dtype) not in ("torch.float32", "torch.float64"):
        raise InputError(f"model must be in float32, model.float(), for its attention to be exact, got {model.dtype}")


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """The model with the one implementation of attention that shows it, until the block ends."""
    before = model.config._attn_implementation
    if before != "eager":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if before != "eager":
            model.set_attn_implementation(before)


def _projections(module: Any) -> tuple[str, ...]:
    """The names of the projections that a module holds, if it is one of attention."""
    held = dict(module.named_children())
    return next((names for names in PROJECTIONS if all(name in held for name in names)), ())


def layer_of(call: Given, module: Any, config: Any, index: int) -> Layer:
    """How the heads of an attention module of transformers score."""
    (W_Q, W_K), (b_Q, b_K) = _weights(module, config, index)
    return Layer(W_Q, W_K, b_Q, b_K, **scoring_of(call, module, config, index, W_Q.shape[1]))


def scoring_of(call: Given, module: Any, config: Any, index: int, d_head: int) -> dict[str, Any]:
    """What a Layer says beside weights; raises InputError for what no bundle holds."""
    for name, what in UNCARRIED.items():
        if getattr(module, name, None) is not None or call.others.get(name) is not None:
            raise InputError(f"model must have scores that a bundle holds, got {what} in layer {index}")
    cap = getattr(config, "attn_logit_softcapping", None)
    return {
        "divisor": _divisor(module, config, d_head),
        "window": _window(module, config, index),
        "cap": float(cap) if cap else None,
        "turned": _turned(call, module),
        "norm": norm_of(module),
    }


def _weights(module: Any, config: Any, index: int) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Weights, (heads, d_head, d_model), and biases of queries and keys."""
    names = _projections(module)
    heads, key_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    if getattr(config, "multi_query", False):
        key_heads = 1
    parts = [_linear(getattr(module, name), name, index) for name in names]
    if len(names) == 2:
        weights, biases = zip(*parts, strict=True)
        d_head = len(weights[0]) // heads
    else:
        (joint, bias), key_heads = parts[0], key_heads or heads
        d_head = len(joint) // (heads + 2 * key_heads)
        split = _interleaved if names == ("query_key_value",) and key_heads == heads else _blocks
        weights = split(joint, heads, key_heads, d_head)
        biases = [None] * 2 if bias is None else split(bias, heads, key_heads, d_head)
    return (
        [W.reshape(-1, d_head, W.shape[-1]) for W in weights],
        [None if b is None else b.reshape(-1, d_head) for b in biases],
    )


def _interleaved(rows: np.ndarray, heads: int, _: int, d_head: int) -> list[np.ndarray]:
    """Rows of queries and of keys where each head has its own, then its key's and value's."""
    of_heads = rows.reshape(heads, 3, d_head, *rows.shape[1:])
    return [of_heads[:, i].reshape(-1, *rows.shape[1:]) for i in range(2)]


def _blocks(rows: np.ndarray, heads: int, key_heads: int, d_head: int) -> list[np.ndarray]:
    """Rows of queries and of keys where all queries come first, then all keys."""
    return [rows[: heads * d_head], rows[heads * d_head : (heads + key_heads) * d_head]]


def _linear(module: Any, name: str, index: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Weight (out, in) and bias of a linear map."""
    from torch import nn  # pyright: ignore[reportMissingImports]

    kind = type(module).__name__
    if not (isinstance(module, nn.Linear) or kind == "Conv1D") or not module.weight.is_floating_point():
        raise InputError(f"{name} of layer {index} must be linear, without adapters or quantised weights, got {kind}")
    weight, bias = array(name, module.weight), module.bias
    return weight.T if kind == "Conv1D" else weight, None if bias is None else array(name, bias)


def _divisor(module: Any, config: Any, d_head: int) -> float:
    scaling = getattr(module, "scaling", 1.0 if config.model_type == "gpt_neo" else d_head**-0.5)
    return 1 / float(scaling)


def _window(module: Any, config: Any, index: int) -> int | None:
    """How many keys a query sees in a layer."""
    if config.model_type == "gpt_neo":
        return config.window_size if config.attention_layers[index] == "local" else None
    kinds = getattr(config, "layer_types", None)
    if kinds and "sliding" not in kinds[index]:
        return None
    return getattr(module, "sliding_window", getattr(config, "sliding_window", None))


def _turned(call: Given, module: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Cosines and sines that the module turns queries and keys by, (positions, R) each."""
    given = call.others.get("position_embeddings")
    if not isinstance(given, tuple) or not getattr(module, "use_rope", True):
        return None
    tables = [array("position_embeddings", table) for table in given]
    first, second = (table.reshape(-1, *table.shape[-2:])[0] for table in tables)
    return (first, second) if first[0].any() else (second, first)  # sines of position 0 are 0; GPT-J's come first


def norm_of(module: Any) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Gains of the root-mean-square norms of queries and keys: what they make of ones."""
    import torch  # pyright: ignore[reportMissingImports]

    norms: list[Any] = [getattr(module, f"{side}_norm", None) for side in "qk"]
    weights = [getattr(norm, "weight", getattr(norm, "w", None)) for norm in norms]
    epsilon = getattr(norms[0], "variance_epsilon", getattr(norms[0], "eps", None))
    if epsilon is None or any(weight is None for weight in weights):
        return None
    with torch.no_grad():
        ones = [norm(torch.ones_like(weight)) for norm, weight in zip(norms, weights, strict=True)]
    root = (1 + float(epsilon)) ** 0.5  # of what ones are divided by
    q, k = (array("norm", x) * root for x in ones)
    return q, k, float(epsilon)
