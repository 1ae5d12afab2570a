"""Experiments: theory predicts a spectrum, a trained head shows one, and the two are compared."""

from sims.lab.simulation import Training, simulate
