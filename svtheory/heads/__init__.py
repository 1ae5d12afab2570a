"""Heads of real models: bundles of trained weights, and reading features back from singular vectors."""

from svtheory.heads.bundles import HeadBundle, load_heads, save_heads
from svtheory.heads.counting import RULES, count_vectors
from svtheory.heads.decomposition import CONVENTIONS, Decomposition, decompose, relative_attention
from svtheory.heads.hypothesis import Explanation, explain
from svtheory.heads.random_heads import SparsenessTest, sparseness_test
from svtheory.heads.rotations import RotationNull, rotation_null
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
    "CONVENTIONS",
    "RULES",
    "Decomposition",
    "Explanation",
    "Head",
    "HeadBundle",
    "IndependentRotations",
    "RotationNull",
    "SparsenessTest",
    "common_rotation_sparseness",
    "count_vectors",
    "decompose",
    "explain",
    "fold_layer_norm",
    "fold_rms_norm",
    "independent_rotation_sparseness",
    "leverage_terms",
    "load_heads",
    "relative_attention",
    "rotation_null",
    "save_heads",
    "sparseness_test",
    "treves_rolls",
    "unwhiten",
]
