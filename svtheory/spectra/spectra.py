"""Spectra: the singular values and vectors of a head, and the comparison of two of them."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.checks import InputError, concrete, instance, non_negative, real_array
from svtheory.factorisations import factored_svd
from svtheory.numerics import exact_products, positive, scaled, shifted
from svtheory.pytrees import pytree


@pytree()
@dataclass(frozen=True)
class Spectrum:
    """`Omega = sum_k sigma_k u_k v_k^T`, values falling.

    left    u_k as columns, shape (D, K)
    values  sigma_k, shape (K,)
    right   v_k as columns, shape (D, K)
    gaps    distance of sigma_k to the nearest other value, zero included, shape (K,): how far Omega must move before
            the pair k loses its identity (T14); 0 where rounding may have moved Omega as far
    """

    left: Array
    values: Array
    right: Array
    gaps: Array


def spectrum(W_Q: Array, W_K: Array) -> Spectrum:
    """The singular value decomposition of `Omega = W_Q^T W_K` from its factors, without forming it.

    A thin QR `W_Q^T = Q R` gives a basis of the range of Omega, another, `Omega^T Q = W_K^T (W_Q Q) = P L`, one of its
    row space, and the SVD of the small L the rest. Shapes (H, D) and (H, D') give K = min(H, D, D') pairs; transpose
    weights stored as (in, out), which is (D, H): shapes need not tell. Each factor is first divided by the power of 2
    near its largest entry, so that no product on the way is too large or too small for its dtype. Rounding scales with
    the factors, not with their product: gaps up to `epsilon |W_Q|_F |W_K|_F` are 0.
    Raises InputError for factors that disagree in H or whose sigma_1 is too large or too small for the dtype (infinite
    or 0 while JAX traces), TypeError for anything but real matrices.

    >>> s = spectrum(jnp.array([[3.0, 0.0], [0.0, 1.0]]), jnp.eye(2))
    >>> s.values.round(4).tolist(), s.gaps.round(4).tolist()
    ([3.0, 1.0], [2.0, 1.0])
    """
    W_Q, W_K = real_array("W_Q", W_Q, ndim=2), real_array("W_K", W_K, ndim=2)
    if W_Q.shape[0] != W_K.shape[0]:
        raise InputError(
            f"W_K must have {W_Q.shape[0]} rows, the head dimension of W_Q, got shape {W_K.shape}; "
            "factors are (H, D): transpose weights stored as (in, out)"
        )
    found, unit, exponent = _spectrum(W_Q, W_K)
    values = found.values
    if concrete(values) and not _held(np.asarray(values), np.asarray(unit)):
        power = math.log10(float(unit[0])) + int(exponent) * math.log10(2)
        raise InputError(f"W_Q and W_K must have a sigma_1 that {values.dtype} holds, got about 1e{power:.0f}")
    return found


@jax.jit
@exact_products
def _spectrum(W_Q: Array, W_K: Array) -> tuple[Spectrum, Array, Array]:
    """The spectrum, its values at unit size, and the exponent of that size."""
    (W_Q, q), (W_K, k) = scaled(W_Q), scaled(W_K)
    left, unit, right = factored_svd(W_Q, W_K)
    error = shifted(product_rounding(W_Q, W_K), q + k)
    return spectrum_of(left, shifted(unit, q + k), right.T, error), unit, q + k


def product_rounding(W_Q: Array, W_K: Array) -> Array:
    """How far rounding of the factors may move `W_Q^T W_K`, spectral norm: `epsilon |W_Q|_F |W_K|_F`, a scalar."""
    (W_Q, q), (W_K, k) = map(scaled, jax.lax.stop_gradient((W_Q, W_K)))
    return shifted(jnp.finfo(W_Q.dtype).eps * jnp.linalg.norm(W_Q) * jnp.linalg.norm(W_K), q + k)


def _held(values: np.ndarray, unit: np.ndarray) -> bool:
    return bool(np.isfinite(values).all()) and bool(unit[0] == 0 or values[0] >= np.finfo(values.dtype).tiny)


def spectrum_of(left: Array, values: Array, right: Array, error: Array | float = 0.0) -> Spectrum:
    """The Spectrum of the given singular vectors (D, K) and falling values (K,), with its gaps, 0 up to `error`."""
    gaps = _gaps(values)
    return Spectrum(left, values, right, jnp.where(gaps > error, gaps, 0 * gaps))


def in_one_space(prediction: Spectrum, measurement: Spectrum) -> None:
    """Both are spectra of matrices of one shape; raises InputError otherwise."""
    spectra = instance("prediction", prediction, Spectrum), instance("measurement", measurement, Spectrum)
    asked, got = ((s.left.shape[0], s.right.shape[0]) for s in spectra)
    if asked != got:
        raise InputError(f"measurement must be a spectrum in dimension {_named(asked)}, got {_named(got)}")


def _named(shape: tuple[int, int]) -> str:
    return str(shape[0]) if shape[0] == shape[1] else f"{shape[0]} x {shape[1]}"


def value_gaps(values: Array) -> Array:
    """`min(sigma_k, min_{j != k} |sigma_k - sigma_j|)`, shape (K,), for falling `values`.

    >>> value_gaps(jnp.array([5.0, 3.0, 3.0])).tolist()
    [2.0, 0.0, 0.0]
    """
    return _gaps(_spectral_values(values))


@jax.jit
def _gaps(values: Array) -> Array:
    steps = values[:-1] - values[1:]
    infinite = jnp.full((1,), jnp.inf, values.dtype)
    below = jnp.concatenate([steps, infinite])
    above = jnp.concatenate([infinite, steps])
    return jnp.minimum(values, jnp.minimum(below, above))


def value_groups(values: Array, tolerance: Array | float = 1e-3) -> Array:
    """Labels (K,) that equal values share: neighbours closer than `tolerance * sigma_1` belong together.

    >>> value_groups(jnp.array([5.0, 3.0, 3.0, 0.0])).tolist()
    [0, 1, 1, 2]
    """
    values = _spectral_values(values)
    return _groups(values, non_negative("tolerance", tolerance).astype(values.dtype))


@jax.jit
def _groups(values: Array, tolerance: Array | float) -> Array:
    new = values[:-1] - values[1:] > tolerance * values[0]
    return jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(new)])


def effective_rank(values: Array) -> Array:
    """`exp(-sum p_k ln p_k)`, `p_k = sigma_k / sum sigma` (Roy and Vetterli 2007); 0 for the zero matrix.

    Raises InputError for values (K,) that are negative or not finite (NaN while JAX traces).

    >>> round(float(effective_rank(jnp.array([2.0, 2.0, 0.0]))), 4)
    2.0
    """
    return _effective_rank(_spectral_values(values))


@jax.jit
def _effective_rank(values: Array) -> Array:
    values, _ = scaled(values)
    total = values.sum()
    p = values / positive(total)
    entropy = -jnp.sum(p * jnp.log(positive(p)))
    return jnp.where(total == 0, 0, jnp.exp(entropy))


def _spectral_values(values: Array) -> Array:
    values = real_array("values", values, ndim=1)
    if concrete(values) and (np.asarray(values) < 0).any():
        raise InputError(f"values must be at least 0, as singular values are, got {float(values.min())}")
    return values
