"""Checkpoints: decoders of ten types from a local Hugging Face folder, without torch and without pickle."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
