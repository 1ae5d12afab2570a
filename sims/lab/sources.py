"""Models of others: where their bundles and checkpoints are looked for, and how their heads are read."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from svtheory import HeadBundle, load_heads
from svtheory.checkpoints import Checkpoint, bundle_heads, tokenize
from svtheory.checkpoints.texts import read_text
from svtheory.checks import InputError

MODELS = Path(os.environ.get("SVTHEORY_REAL_MODELS", Path(__file__).parents[2] / "../shared/real_models"))


def bundle_file(name: str) -> Path:
    """The path `name`, or the bundle of that name among the models of others."""
    return next((path for path in (Path(name), MODELS / f"{name}.safetensors") if path.is_file()), Path(name))


def read_heads(name: str, text: str, sequences: int, positions: int) -> HeadBundle:
    """The heads of a bundle, or of a checkpoint's folder reading a text file, normalisation folded; with `attn_in`.

    The bundle's first `sequences` are kept; a text is cut into as many sequences of `positions` tokens.
    """
    if Path(name).is_dir():
        return bundle_heads(Checkpoint(name), _tokens(name, text, sequences, positions), folded=True)
    bundle = load_heads(bundle_file(name))
    if bundle.attn_in is None:
        raise InputError(f"bundle must hold attn_in, what its heads read, got {name!r} without")
    return dataclasses.replace(bundle, attn_in=bundle.attn_in[:, :sequences])


def check_tokens_differ(attn_in: np.ndarray) -> None:
    """Raise InputError where a layer's tokens, of (layers, sequences, positions, D), are all equal: nothing varies."""
    constant = np.ptp(attn_in, axis=(1, 2)).max(axis=1) == 0
    if constant.any():
        raise InputError(f"attn_in must hold tokens that differ, got equal ones in layer {constant.argmax()}")


def check_values_held(values: np.ndarray) -> None:
    """Raise InputError where singular values (layers, heads, K) have become infinite."""
    lost = ~np.isfinite(values).all(axis=-1)
    if lost.any():
        where = ".".join(map(str, np.unravel_index(np.argmax(lost), lost.shape)))
        raise InputError(f"W_Q and W_K must have singular values that float32 holds, got larger ones in head {where}")


def _tokens(folder: str, text: str, sequences: int, positions: int) -> np.ndarray:
    if not Path(text).is_file():
        raise InputError(f"--text must be a text file for the checkpoint to read, got {text!r}")
    tokens = np.array(tokenize(folder, read_text(Path(text))))
    if len(tokens) < positions:
        raise InputError(f"--text must hold at least {positions} tokens, one sequence, got {len(tokens)}")
    rows = min(sequences, len(tokens) // positions)
    return tokens[: rows * positions].reshape(rows, positions)
