"""Exporting: the heads of a checkpoint, and what they read, as a bundle."""

import numpy as np

from svtheory.checkpoints.checkpoint import HEAD_WEIGHTS, Checkpoint
from svtheory.checkpoints.inference import forward
from svtheory.heads.bundles import HeadBundle


def bundle_heads(checkpoint: Checkpoint, tokens: np.ndarray | None = None, folded: bool = False) -> HeadBundle:
    """All heads of a checkpoint as a HeadBundle; with tokens (sequences, positions), also what they read as `attn_in`.

    Every query head has its group's W_K. `folded` folds gain and bias of the normalisation into the weights. Rotary
    frequencies stand among `others` as rope_frequencies, half-split; tokens as tokens.
    Raises InputError as `forward` does.
    """
    a = checkpoint.architecture
    reading = None if tokens is None else forward(checkpoint, tokens, folded)
    heads = [[checkpoint.head(i, j, folded) for j in range(a.heads)] for i in range(a.layers)]
    present = [name for name in HEAD_WEIGHTS if getattr(heads[0][0], name) is not None]
    weights = {name: np.array([[getattr(head, name) for head in row] for row in heads]) for name in present}
    others = {} if tokens is None else {"tokens": np.asarray(tokens)}
    metadata = {
        "source": checkpoint.folder.name,
        "architecture": a.model_type,
        "score_divisor": ", ".join(map(repr, a.divisors if len(set(a.divisors)) > 1 else a.divisors[:1])),
        "causal": "True",
        "norm": f"{a.norm} norm, {'folded into the weights' if folded else 'its gain and bias in attn_in'}",
        "folded": str(folded),
        "positional": "rope" if a.frequencies else "learned absolute",
    }
    if a.frequencies:
        others["rope_frequencies"] = np.array(a.frequencies, np.float32)
        metadata |= {"rope_pairing": "half-split", "rope_dims": str(2 * len(a.frequencies))}
    return HeadBundle(**weights, attn_in=None if reading is None else reading.attn_in, others=others, metadata=metadata)
