"""Geometry: features as columns of a matrix, their frames, arrangements, polytopes and phases (T2, T3, T10)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
