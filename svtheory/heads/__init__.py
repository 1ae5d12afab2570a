"""Heads of real models: bundles of weights, attention scores as sums of terms, and tests of both (T11, T16)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
