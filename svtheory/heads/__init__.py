"""Heads of real models: bundles of trained weights, and reading features back from singular vectors."""

from svtheory.heads.bundles import HeadBundle, load_heads, save_heads
from svtheory.heads.hypothesis import Explanation, explain
from svtheory.heads.sparsity import (
    IndependentRotations,
    common_rotation_sparseness,
    independent_rotation_sparseness,
    leverage_terms,
    treves_rolls,
)
from svtheory.heads.unwhitening import unwhiten
from svtheory.heads.weights import Head, fold_layer_norm, fold_rms_norm

__all__ = [
    "Explanation",
    "Head",
    "HeadBundle",
    "IndependentRotations",
    "common_rotation_sparseness",
    "explain",
    "fold_layer_norm",
    "fold_rms_norm",
    "independent_rotation_sparseness",
    "leverage_terms",
    "load_heads",
    "save_heads",
    "treves_rolls",
    "unwhiten",
]
