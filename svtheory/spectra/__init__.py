"""Spectra: singular values and vectors, how two of them agree, what moves them and turns them back (T12, T14, T15)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
