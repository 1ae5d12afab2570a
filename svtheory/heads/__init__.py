"""Heads of real models: bundles of trained weights, and reading features back from singular vectors."""

from svtheory.heads.bundles import HeadBundle, load_heads, save_heads
from svtheory.heads.unwhitening import unwhiten

__all__ = ["HeadBundle", "load_heads", "save_heads", "unwhiten"]
