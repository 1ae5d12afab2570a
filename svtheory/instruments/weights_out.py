"""Weights out: what of a network's weights a head writes with, and what embeddings and logits are to its heads."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from svtheory.checkpoints.architecture import Architecture
from svtheory.checkpoints.networks import Network
from svtheory.checks import InputError
from svtheory.instruments.nearest import Table, table


def output_weights(a: Architecture, w: Mapping[str, Any], folded: bool) -> tuple[np.ndarray, np.ndarray]:
    """W_V (heads, H, D) and W_O (heads, D, H) of a layer of weights w, one W_V a query head.

    `folded` takes in the gain of the norm before. The gain of a norm of what attention writes is in W_O; its scale is
    left out, as are all constants.
    """
    W_V = np.repeat(w["W_V"], a.heads // a.key_heads, axis=0)
    W_O = np.moveaxis(w["W_O"].reshape(a.d_model, a.heads, -1), 1, 0)
    if folded and (norm := w.get("attention_norm")):
        W_V = _levelled(a, W_V * norm["gain"], axis=2)
    if norm := w.get("attention_post_norm"):
        W_O = norm["gain"][:, None] * _levelled(a, W_O, axis=1)
    return W_V, W_O


def embedding_table(network: Network, w: Mapping[str, Any], folded: bool) -> Table:
    """Embeddings as the heads of a layer of weights w read them, up to their lengths."""
    norm = w.get("attention_norm")
    gain = None if folded or not norm else norm["gain"]
    return table(network.inputs()["embedding"], gain, bool(norm) and network.architecture.norm == "layer")


def unembedding_tables(network: Network) -> list[Table]:
    """What the stream adds to logits before the final norm's scale, a table for each question that a model answers.

    None of a network without an unembedding.
    """
    a = network.architecture
    try:
        made = network.outputs()
    except InputError:
        return []
    norm, rows = made.get("norm"), made["unembedding"].reshape(-1, a.vocabulary, a.d_model)
    # a LayerNorm takes the mean off before its gain, which so belongs to the rows
    return [table(part * norm["gain"], levelled=a.norm == "layer") if norm else table(part) for part in rows]


def _levelled(a: Architecture, W: np.ndarray, axis: int) -> np.ndarray:
    """W less its mean over dimensions of the stream where a norm takes it off."""
    return W - W.mean(axis=axis, keepdims=True) if a.norm == "layer" else W
