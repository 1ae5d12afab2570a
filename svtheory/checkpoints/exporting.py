"""Exporting: the heads of a model's folder, and what they read, as a bundle."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from svtheory.checkpoints.architecture import Architecture
from svtheory.checkpoints.checkpoint import HEAD_WEIGHTS, Checkpoint
from svtheory.checkpoints.inference import read_layers
from svtheory.checkpoints.texts import Reader, padded
from svtheory.checks import InputError, index, whole
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.scoring import told_by_layer
from svtheory.progress import track


def read_model(
    folder: str | Path,
    text: str | Sequence[str] | None = None,
    *,
    prompts: Sequence[str] | None = None,
    tokens: Any = None,
    positions: int = 64,
    sequences: int = 40,
    bos: bool | None = None,
    folded: bool = True,
    attention: bool = False,
    residual: int | None = None,
) -> HeadBundle:
    """The heads of a model's folder as Hugging Face writes it, and what they read, as a bundle.

    Models are GPT-2, GPT-NeoX, Llama, Mistral, Qwen 2 or 3, Gemma 2 or 3, OLMo 2 or Phi-3.

    They read one of:

    text     a text, or several, cut into rows of `positions` tokens, of which the first `sequences` are read; where
             there are more, or tokens that fill no row, metadata says so, as sequences "40 of 96" and tokens_left_over
    prompts  texts that are left as they are, a row each
    tokens   rows of tokens, an array (sequences, positions) or rows of any lengths
    nothing  the bundle then holds no `attn_in`

    Rows of different lengths are padded, and the bundle's `mask` says where. Rows of text begin with the special tokens
    that tokenizer.json puts first, as Llama's does and GPT-2's does not; `bos` True begins all with one, if need be the
    bos_token_id of config.json, and False with none. `positions` counts them.
    Weights are `folded` with the gain and bias of the normalisation before them (see Head), and `attention`, if asked
    for, is kept among `others`, shape (layers, sequences, heads, positions, positions); so is, as `residual`, the
    residual stream before a layer, (sequences, positions, d_model), which metadata then names as residual_layer. The
    model is read a layer at a time; arrays are float32, or float64 where JAX has x64 on.
    Raises InputError for a folder that is no checkpoint (see Checkpoint), more than one thing to read, a text without a
    whole row, and tokens outside the vocabulary or more of them than the model has positions.
    """
    given = {"text": text, "prompts": prompts, "tokens": tokens}
    if len(named := [name for name, x in given.items() if x is not None]) > 1:
        raise InputError(f"{named[0]} must be all that is read, got {named[1]} beside it")
    checkpoint = Checkpoint(folder)
    if not named:
        return bundle_heads(checkpoint, folded=folded)
    cut: dict[str, str] = {}
    if tokens is None:
        reader = Reader(checkpoint.folder, bos, checkpoint.config.get("bos_token_id"))
        if text is None:
            tokens = [reader.prompt(prompt) for prompt in _several("prompts", prompts)]
        else:
            parts = [text] if isinstance(text, str) else _several("text", text)
            tokens, cut = _rows(reader, checkpoint.architecture, parts, positions, sequences)
    made = bundle_heads(checkpoint, *padded(tokens), folded=folded, attention=attention, residual=residual)
    return replace(made, metadata={**made.metadata, **cut})


def _several(name: str, texts: Any) -> Sequence[str]:
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise InputError(f"{name} must be several texts, got {texts!r:.60}")
    return texts


def _rows(
    reader: Reader, a: Architecture, texts: Sequence[str], positions: int, sequences: int
) -> tuple[np.ndarray, dict[str, str]]:
    """The first rows of texts, and what metadata says of what is not read."""
    positions, sequences = whole("positions", positions, 2), whole("sequences", sequences, 1)
    if a.context is not None and positions > a.context:
        raise InputError(f"positions must be at most {a.context}, the model's context, got {positions}")
    rows, left, unread = [], 0, len(texts)
    for text in texts:
        found, over = reader.rows(text, positions)
        rows, left, unread = [*rows, *found], left + over, unread - 1
        if len(rows) >= sequences:
            break
    if not rows:
        longest = max((len(reader.prompt(text)) for text in texts), default=0)
        raise InputError(f"text must hold at least {positions} tokens, one sequence, got {longest}")
    of = f"more than {len(rows)}" if unread else str(len(rows))
    cut = {"sequences": f"{min(len(rows), sequences)} of {of}"} if unread or len(rows) > sequences else {}
    return np.stack(rows[:sequences]), cut | ({"tokens_left_over": str(left)} if left else {})


def bundle_heads(
    checkpoint: Checkpoint,
    tokens: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    *,
    folded: bool = False,
    attention: bool = False,
    residual: int | None = None,
) -> HeadBundle:
    """All heads of a checkpoint as a HeadBundle; with tokens (sequences, positions), also what they read as `attn_in`.

    `mask` says where tokens are no padding, as in HeadBundle. Every query head has its group's W_K. `folded` folds gain
    and bias of the normalisation into the weights. Rotary frequencies stand among `others` as rope_frequencies,
    half-split; tokens as tokens; `attention` and the `residual` stream before a layer as those, if they are asked for.
    No logits are made: a base model or a classifier, without an unembedding, will do.
    Raises InputError as `read_layers` and HeadBundle do.
    """
    a = checkpoint.architecture
    weights = _gathered((_heads(checkpoint, i, folded) for i in range(a.layers)), a.layers)
    metadata = {
        "source": checkpoint.folder.name,
        "architecture": a.model_type,
        "score_divisor": told_by_layer(a.divisors),
        "causal": "True",
        "window": told_by_layer(a.windows),
        "score_cap": told_by_layer([a.score_cap]),
        **_norms(checkpoint, folded),
        "weights_dtype": checkpoint.weights_dtype,
        "positional": "rope" if a.frequencies[0] else "learned absolute",
    }
    read = {} if tokens is None else _read(checkpoint, tokens, folded, attention, residual)
    if "residual" in read:
        metadata["residual_layer"] = str(residual)
    read |= {name: weights.pop(name) for name in list(weights) if name.endswith("gain")}
    if a.frequencies[0]:
        theta = a.frequencies if len(set(a.frequencies)) > 1 else a.frequencies[0]
        read["rope_frequencies"] = np.array(theta, np.float32)
        metadata |= {"rope_pairing": "half-split", "rope_dims": str(2 * len(a.frequencies[0]))}
    return HeadBundle(**weights, attn_in=read.pop("attn_in", None), mask=mask, others=read, metadata=metadata)


def _norms(checkpoint: Checkpoint, folded: bool) -> dict[str, str]:
    """What metadata says of the norm before heads, and of that of queries and keys."""
    a = checkpoint.architecture
    said = {"norm": "none: heads read the residual stream as it is", "folded": "False"}
    if checkpoint.normalises:
        norm = f"{a.norm} norm, {'folded into the weights' if folded else 'its gain and bias in attn_in'}"
        said = {"norm": norm, "folded": str(folded)}
    if a.query_key_norm != "none":
        said |= {"query_key_norm": a.query_key_norm, "query_key_epsilon": repr(a.epsilon)}
    return said


def _read(
    checkpoint: Checkpoint, tokens: np.ndarray, folded: bool, attention: bool, residual: int | None
) -> dict[str, np.ndarray]:
    """What a bundle holds of a forward pass, by name; each layer's part is written where it stays."""
    kept: dict[str, np.ndarray] = {}
    layers = checkpoint.architecture.layers
    wanted = None if residual is None else index("residual", residual, layers)
    for i, layer in enumerate(track(read_layers(checkpoint, tokens, folded, attention), "layers read", layers)):
        for name in ("attn_in", "attention") if attention else ("attn_in",):
            part = np.asarray(getattr(layer, name))
            if i == 0:
                kept[name] = np.empty((layers, *part.shape), part.dtype)
            kept[name][i] = part
        if i == wanted:
            kept["residual"] = np.asarray(layer.before)
    return {**kept, "tokens": np.asarray(tokens)}


def _heads(checkpoint: Checkpoint, layer: int, folded: bool) -> dict[str, np.ndarray]:
    """Weights of a layer's heads by name, stacked, and the gains of their queries and keys."""
    heads = [checkpoint.head(layer, head, folded, norms=False) for head in range(checkpoint.architecture.heads)]
    present = [name for name in HEAD_WEIGHTS if getattr(heads[0], name) is not None]
    weights = _stacked([{name: np.asarray(getattr(head, name)) for name in present} for head in heads])
    gains = checkpoint.gains(layer)
    return weights | {name: np.repeat(gain, len(heads) // len(gain), axis=0) for name, gain in gains.items()}


def _stacked(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _gathered(parts: Iterator[dict[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """The same of parts that are made one by one, of which there is then no second copy."""
    kept: dict[str, np.ndarray] = {}
    for i, part in enumerate(parts):
        if i == 0:
            kept = {name: np.empty((count, *x.shape), x.dtype) for name, x in part.items()}
        for name, x in part.items():
            kept[name][i] = x
    return kept
