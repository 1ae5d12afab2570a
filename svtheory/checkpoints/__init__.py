"""Checkpoints: GPT-2, GPT-NeoX and Llama models from a local Hugging Face folder, without torch and without pickle."""

from svtheory.checkpoints.architecture import Architecture
from svtheory.checkpoints.checkpoint import Checkpoint
from svtheory.checkpoints.exporting import bundle_heads
from svtheory.checkpoints.hub import fetch, tokenize
from svtheory.checkpoints.inference import LayerReading, Reading, forward, read_layers

__all__ = [
    "Architecture",
    "Checkpoint",
    "LayerReading",
    "Reading",
    "bundle_heads",
    "fetch",
    "forward",
    "read_layers",
    "tokenize",
]
