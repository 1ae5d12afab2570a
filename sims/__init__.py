"""Experiments: theory predicts a spectrum, a trained head shows one, and the two are compared."""

import os

# Before SciPy loads it: on matrices of the size of heads, threads of OpenBLAS mostly wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from sims.lab.simulation import Training, simulate
