"""Exporting: the heads of a checkpoint, and what they read, as a bundle."""

import numpy as np

from svtheory.checkpoints.checkpoint import HEAD_WEIGHTS, Checkpoint
from svtheory.checkpoints.inference import read_layers
from svtheory.heads.bundles import HeadBundle


def bundle_heads(checkpoint: Checkpoint, tokens: np.ndarray | None = None, folded: bool = False) -> HeadBundle:
    """All heads of a checkpoint as a HeadBundle; with tokens (sequences, positions), also what they read as `attn_in`.

    Every query head has its group's W_K. `folded` folds gain and bias of the normalisation into the weights. Rotary
    frequencies stand among `others` as rope_frequencies, half-split; tokens as tokens.
    Attention is not kept, nor are logits made: a base model or a classifier, without an unembedding, will do.
    Raises InputError as `read_layers` does.
    """
    a = checkpoint.architecture
    weights = _stacked([_heads(checkpoint, i, folded) for i in range(a.layers)])
    attn_in = None
    if tokens is not None:
        layers = read_layers(checkpoint, tokens, folded, attention=False)
        attn_in = np.stack([np.asarray(layer.attn_in) for layer in layers])
    others = {} if tokens is None else {"tokens": np.asarray(tokens)}
    metadata = {
        "source": checkpoint.folder.name,
        "architecture": a.model_type,
        "score_divisor": ", ".join(map(repr, a.divisors if len(set(a.divisors)) > 1 else a.divisors[:1])),
        "causal": "True",
        "norm": f"{a.norm} norm, {'folded into the weights' if folded else 'its gain and bias in attn_in'}",
        "folded": str(folded),
        "weights_dtype": checkpoint.weights_dtype,
        "positional": "rope" if a.frequencies else "learned absolute",
    }
    if a.frequencies:
        others["rope_frequencies"] = np.array(a.frequencies, np.float32)
        metadata |= {"rope_pairing": "half-split", "rope_dims": str(2 * len(a.frequencies))}
    return HeadBundle(**weights, attn_in=attn_in, others=others, metadata=metadata)


def _heads(checkpoint: Checkpoint, layer: int, folded: bool) -> dict[str, np.ndarray]:
    """Weights of a layer's heads by name, stacked."""
    heads = [checkpoint.head(layer, head, folded) for head in range(checkpoint.architecture.heads)]
    present = [name for name in HEAD_WEIGHTS if getattr(heads[0], name) is not None]
    return _stacked([{name: np.asarray(getattr(head, name)) for name in present} for head in heads])


def _stacked(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
