"""Prediction: the spectrum that theory expects of a scenario, at the optimum and before (T1, T5 to T9, T13, T17)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
