"""Robustness: how far a perturbation moves singular vectors, and which of them can be named (T14)."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.checks import instance, non_negative
from svtheory.numerics import numerical_rank_tolerance, positive
from svtheory.spectra.spectra import Spectrum, in_one_space


def mixed_gaps(prediction: Spectrum, measurement: Spectrum) -> Array:
    """`delta_k = min_{j != k} |sigma_k(Omega*) - sigma_j(Omega)|`, shape (K,) (T14).

    Values are padded with zeros to the larger dimension of the matrices: one that is not square has a 0 at least, whose
    vector lies on its longer side. K is the number of predicted pairs. Raises InputError for spectra of different
    dimensions.
    """
    in_one_space(prediction, measurement)
    return _mixed_gaps(prediction.values, measurement.values, max(len(prediction.left), len(prediction.right)))


@partial(jax.jit, static_argnums=2)
def _mixed_gaps(predicted: Array, measured: Array, D: int) -> Array:
    K = len(predicted)
    sigma = jnp.zeros(D, measured.dtype).at[: len(measured)].set(measured)
    distance = jnp.abs(predicted[:, None] - sigma[None, :])
    return jnp.where(jnp.arange(K)[:, None] == jnp.arange(D)[None, :], jnp.inf, distance).min(axis=1)


def wedin_bound(prediction: Spectrum, measurement: Spectrum, error: Array | float) -> Array:
    """`sqrt(sin^2 angle(u_k) + sin^2 angle(v_k)) <= sqrt 2 |E|_2 / delta_k`, shape (K,), at most sqrt 2 (Wedin; T14).

    `measurement` is the spectrum of `Omega* + E`, `prediction` that of `Omega*`, `error` the spectral norm of E and
    delta_k the mixed gap. Raises InputError for a negative error or spectra of different dimensions.
    """
    return math.sqrt(2) * _ratio(non_negative("error", error), mixed_gaps(prediction, measurement))


def wedin_own_bound(spectrum: Spectrum, error: Array | float) -> Array:
    """`sin angle <= (1 + sqrt 2) |E|_2 / gap_k` for u_k and for v_k, shape (K,), at most 1 (T14).

    The gap is the spectrum's own, so no perturbed spectrum is needed: `error` is the spectral norm of what may be added
    to the matrix of `spectrum`. Raises InputError for a negative error.

    >>> from svtheory.spectra.spectra import spectrum
    >>> [round(float(x), 4) for x in wedin_own_bound(spectrum(jnp.diag(jnp.array([3.0, 1.0])), jnp.eye(2)), 0.1)]
    [0.1207, 0.2414]
    """
    instance("spectrum", spectrum, Spectrum)
    return _ratio((1 + math.sqrt(2)) * non_negative("error", error), spectrum.gaps)


def nameable(spectrum: Spectrum, error: Array | float | None = None) -> Array:
    """Whether each singular vector may be named: its gap is above the numerical error of its matrix, shape (K,) (T14).

    `error` is the spectral norm of that error: by default the rounding of a D x D matrix, `D epsilon sigma_1` (the
    gaps of `predict` are 0 where the rounding of what it was computed from is larger). Vectors whose gap is smaller
    belong to a subspace only. Raises InputError for a negative error.
    """
    instance("spectrum", spectrum, Spectrum)
    rounding = numerical_rank_tolerance(spectrum.values, max(spectrum.left.shape[0], spectrum.right.shape[0]))
    return spectrum.gaps > (rounding if error is None else non_negative("error", error))


@jax.jit
def _ratio(error: Array, gap: Array) -> Array:
    """`error / gap` up to 1; 0 without error, 1 without a gap."""
    return jnp.where(error < gap, error / positive(gap, error < gap), jnp.where(error > 0, 1.0, 0.0))
