"""Experiments: theory predicts a spectrum, a trained head shows one, and the two are compared."""

import os

import lazy_loader

# Before SciPy loads it: on matrices of the size of heads, threads of OpenBLAS mostly wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
