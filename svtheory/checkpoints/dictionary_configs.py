"""Dictionary configs: where a dictionary lives and how its encoder works, as the files of each library say it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from svtheory.checks import InputError
from svtheory.heads.dictionaries import SPACES

SUPPORTED = "SAELens, Gemma Scope, dictionary_learning, Llama Scope, sparsify, Qwen Scope or plain arrays"
NEITHER = "a dictionary that reads and writes one space"
PREFIX = r"(?:\w+\.)*?"
HOOKS = (
    (r"(?:blocks\.(\d+)\.)?(?:hook_)?(resid_pre|resid_mid|resid_post|attn_out|mlp_out)(?:_layer_(\d+))?", None),
    (r"(?:blocks\.(\d+)\.)?attn_in", "attn_in"),
    (r"blocks\.(\d+)\.ln1\.hook_normalized", "attn_in"),
    (PREFIX + r"(?:layers|h)\.(\d+)\.input_layernorm(?:\.output)?", "attn_in"),
    (PREFIX + r"(?:layers|h)\.(\d+)(?:\.output)?", "resid_post"),
    (PREFIX + r"(?:layers|h)\.(\d+)\.input", "resid_pre"),
    (PREFIX + r"(?:layers|h)\.(\d+)\.(?:attention|self_attn|attn)(?:\.output)?", "attn_out"),
    (PREFIX + r"(?:layers|h)\.(\d+)\.(?:mlp|post_feedforward_layernorm)(?:\.output)?", "mlp_out"),
)
"""Hook points of TransformerLens and modules of transformers, and the space of each."""


class Said(NamedTuple):
    """What a config says of a dictionary.

    hook         where it lives, as it stands there, or None
    activation   of the encoder, as it stands there, or None
    k            of a topk
    threshold    of a jumprelu, where it is one number for all features
    subtracts    whether the decoder's bias is taken from tokens before they are encoded
    scale        what tokens are multiplied by before they are encoded, and reconstructions divided by after
    by_length    whether activations are compared times the length of the decoder's direction
    folded       of a normalised space: whether it lies before the gain of the norm, or None
    without      why its encoder cannot be used, or nothing
    turned       whether the decoder has features as columns
    """

    hook: str | None = None
    activation: str | None = None
    k: Any = None
    threshold: float | None = None
    subtracts: bool = False
    scale: float = 1.0
    by_length: bool = False
    folded: bool | None = None
    without: str = ""
    turned: bool = False


def where(hook: str) -> tuple[str, int | None]:
    """The space and layer of a hook point; raises InputError for one at which no dictionary is read here.

    >>> where("blocks.3.hook_resid_pre"), where("model.layers.17.output"), where("resid_post")
    (('resid_pre', 3), ('resid_post', 17), ('resid_post', None))
    """
    if not isinstance(hook, str):
        raise InputError(f"hook must be a text, got {hook!r:.60}")
    for pattern, space in HOOKS:
        if found := re.fullmatch(pattern, hook):
            layer = next((int(x) for x in found.groups() if x and x.isdigit()), None)
            return space or str(found[2]), layer
    raise InputError(
        f"hook must be one of {', '.join(SPACES)}, with a layer as blocks.3.hook_resid_pre or model.layers.3, got "
        f"{hook!r}"
    )


def read_config(config: Mapping[str, Any], file: Path, thresholds: bool) -> Said:
    """What a config says of the dictionary in `file`, which holds `thresholds` or not.

    Raises InputError for a dictionary that reads one space and writes another, or several layers.
    """
    for known, read in KINDS:
        if known(config):
            try:
                return read(config, file)
            except InputError:
                raise
            except Exception as error:  # whatever is missing or of another kind
                raise InputError(
                    f"the dictionary's config must be as its library writes it, got one that is not: {error!r:.80}"
                ) from error
    if config:
        raise InputError(f"the dictionary must be one of {SUPPORTED}, got a config with {', '.join(config):.80}")
    # what Gemma Scope publishes beside no config
    return Said(activation="jumprelu" if thresholds else None)


def _saelens(config: Mapping[str, Any], _: Path) -> Said:
    """SAELens, whose keys were renamed twice; without a version, as it was before version 6."""
    about = {**config, **(config.get("metadata") or {})}
    architecture = str(about.get("architecture") or "standard")
    if "transcoder" in architecture or architecture in ("crosscoder", "clt", "temporal"):
        raise InputError(f"the dictionary must be {NEITHER}, got architecture {architecture!r}")
    function = str(about.get("activation_fn") or about.get("activation_fn_str") or "relu")
    kind = function if architecture == "standard" else architecture
    given = about.get("activation_fn_kwargs") or {}
    normalised, reasons = about.get("normalize_activations"), []
    if normalised not in (None, False, "none"):
        reasons.append(f"normalize_activations {normalised!r}")
    if about.get("finetuning_scaling_factor"):
        reasons.append("finetuning_scaling_factor")
    return Said(
        hook=about.get("hook_name") or about.get("hook_point"),
        activation=kind,
        k=given.get("k", about.get("k")),
        subtracts=bool(about.get("apply_b_dec_to_input", True)),
        by_length=bool(about.get("rescale_acts_by_decoder_norm", False)),
        folded=(about.get("model_from_pretrained_kwargs") or {}).get("fold_ln"),
        without=" and ".join(reasons),
    )


def _gemma_scope_2(config: Mapping[str, Any], _: Path) -> Said:
    if config.get("type", "sae") != "sae" or config["hf_hook_point_in"] != config.get("hf_hook_point_out"):
        raise InputError(f"the dictionary must be {NEITHER}, got type {config.get('type')!r}")
    affine = "affine_connection" if config.get("affine_connection") else ""
    hook = config["hf_hook_point_in"]
    kind = str(config.get("architecture", "jump_relu")).replace("_", "")
    return Said(hook=hook, activation=kind, folded=_after_gain(hook), without=affine)


def _llama_scope(config: Mapping[str, Any], _: Path) -> Said:
    """Llama Scope, whose threshold is of tokens as they are, not as they are scaled."""
    hook, other = config["hook_point_in"], config.get("hook_point_out")
    if other not in (None, hook):
        raise InputError(f"the dictionary must be {NEITHER}, got hook_point_in {hook!r} and hook_point_out {other!r}")
    norm, norms = config.get("norm_activation", "dataset-wise"), config.get("dataset_average_activation_norm")
    scale, without = 1.0, ""
    if norm == "dataset-wise" and norms:
        average = norms["in"] if isinstance(norms, dict) else norms
        scale = float(config["d_model"]) ** 0.5 / float(average)
    elif norm != "inference":
        without = f"norm_activation {norm!r}" + ("" if norms else " without dataset_average_activation_norm")
    if config.get("use_glu_encoder"):
        without = "use_glu_encoder"
    return Said(
        hook=hook,
        activation=config.get("act_fn"),
        k=config.get("top_k"),
        threshold=config.get("jump_relu_threshold"),
        subtracts=bool(config.get("apply_decoder_bias_to_pre_encoder", False)),
        scale=scale,
        by_length=bool(config.get("sparsity_include_decoder_norm", False)),
        without=without,
    )


def _dictionary_learning(config: Mapping[str, Any], _: Path) -> Said:
    """dictionary_learning, whose classes take the decoder's bias from tokens, or not."""
    trainer, reads = config["trainer"], (config.get("buffer") or {}).get("io", "out")
    if reads != "out":
        raise InputError(f"the dictionary must be of a module's output, got one with buffer.io {reads!r}")
    kind = str(trainer.get("dict_class"))
    activation = {
        "AutoEncoder": "relu",
        "AutoEncoderNew": "relu",
        "AutoEncoderTopK": "topk",
        "BatchTopKSAE": "jumprelu",
        "MatryoshkaBatchTopKSAE": "jumprelu",
        "JumpReluAutoEncoder": "jumprelu",
    }.get(kind, kind)
    subtracts = kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    return Said(trainer.get("submodule_name"), activation, trainer.get("k"), subtracts=subtracts)


def _qwen_scope(config: Mapping[str, Any], file: Path) -> Said:
    """Qwen Scope, one file a layer, which its name gives."""
    found = re.search(r"layer(\d+)", file.name)
    hook = f"blocks.{found[1]}.hook_{config.get('hook_point')}" if found else config.get("hook_point")
    return Said(hook, "topk", config.get("k"), turned=True)


def _sparsify(config: Mapping[str, Any], file: Path) -> Said:
    """EleutherAI's sparsify, whose folder is named after the module."""
    for name in ("transcode", "skip_connection"):
        if config.get(name):
            raise InputError(f"the dictionary must be {NEITHER}, got {name}")
    hook, without = file.resolve().parent.name, "signed activations" if config.get("signed") else ""
    known = any(re.fullmatch(pattern, hook) for pattern, _ in HOOKS)
    activation = config.get("activation", "topk")
    return Said(hook if known else None, activation, config.get("k"), subtracts=True, without=without)


def _after_gain(hook: str) -> bool | None:
    """A module's output lies after its gain."""
    return False if "layernorm" in hook else None


KINDS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any], Path], Said]], ...] = (
    (lambda c: "trainer" in c and isinstance(c["trainer"], dict), _dictionary_learning),
    (lambda c: "hf_hook_point_in" in c, _gemma_scope_2),
    (lambda c: "hook_point_in" in c, _llama_scope),
    (lambda c: c.get("model_type") == "topk_sae", _qwen_scope),
    (lambda c: "d_sae" in c or "hook_name" in c or "hook_point" in c, _saelens),
    (lambda c: "d_in" in c and ("expansion_factor" in c or "num_latents" in c), _sparsify),
)
