"""Spectra: the singular values and vectors of a head, and the comparison of two of them."""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.alignments import alignment, chance_alignment
from svtheory.checks import InputError, concrete, real_array
from svtheory.frames import exact_products, scaled, shifted
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


@exact_products
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
    (W_Q, q), (W_K, k) = scaled(W_Q), scaled(W_K)
    left, unit, right = factored_svd(W_Q, W_K)
    values = shifted(unit, q + k)
    if concrete(values) and not _held(np.asarray(values), np.asarray(unit)):
        power = math.log10(float(unit[0])) + int(q + k) * math.log10(2)
        raise InputError(f"W_Q and W_K must have a sigma_1 that {values.dtype} holds, got about 1e{power:.0f}")
    return spectrum_of(left, values, right.T, shifted(product_rounding(W_Q, W_K), q + k))


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


def value_gaps(values: Array) -> Array:
    """`min(sigma_k, min_{j != k} |sigma_k - sigma_j|)`, shape (K,), for falling `values`.

    >>> value_gaps(jnp.array([5.0, 3.0, 3.0])).tolist()
    [2.0, 0.0, 0.0]
    """
    return _gaps(_spectral_values(values))


def _gaps(values: Array) -> Array:
    steps = values[:-1] - values[1:]
    infinite = jnp.full((1,), jnp.inf, values.dtype)
    below = jnp.concatenate([steps, infinite])
    above = jnp.concatenate([infinite, steps])
    return jnp.minimum(values, jnp.minimum(below, above))


@jax.custom_jvp
def safe_svd(A: Array) -> tuple[Array, Array, Array]:
    """Thin SVD `(U, values, V^T)` of a matrix whose derivative stays finite at equal and at zero values.

    Within a group of equal values the basis is arbitrary, and the derivative leaves it at rest: true for distinct
    values and for projections on the space of a whole group, not for `U f(values) V^T` where values are equal.
    """
    U, values, Vt = jnp.linalg.svd(A, full_matrices=False)
    return U, values, Vt


@jax.custom_jvp
def tall_svd(A: Array) -> tuple[Array, Array, Array]:
    """`safe_svd` by way of a thin QR, `A = P L`: several times as fast where A has many more rows than columns."""
    P, _ = jnp.linalg.qr(A)
    U, values, Vt = safe_svd(P.T @ A)
    return P @ U, values, Vt


@jax.custom_jvp
def factored_svd(W_Q: Array, W_K: Array) -> tuple[Array, Array, Array]:
    """`safe_svd` of `W_Q^T W_K`, thin: K = min(H, D, D') triples, the derivative too without forming the product.

    The QR on the way has no derivative where a factor is of deficient rank, as with a row of zeros; the SVD has.
    """
    # One factorisation feeds the next: two at once, such as QRs of both factors, can deadlock under vmap on few cores.
    Q, _ = jnp.linalg.qr(W_Q.T)
    V, values, Ut = tall_svd(W_K.T @ (W_Q @ Q))
    return Q @ Ut.T, values, V.T


def _svd_jvp(svd, primals, tangents):
    (A,), (dA,) = primals, tangents
    found = U, _, Vt = svd(A)
    return found, _svd_tangents(found, dA @ Vt.T, dA.T @ U)


safe_svd.defjvp(partial(_svd_jvp, safe_svd))
tall_svd.defjvp(partial(_svd_jvp, tall_svd))


@factored_svd.defjvp
def _factored_svd_jvp(primals, tangents):
    (W_Q, W_K), (dQ, dK) = primals, tangents
    found = U, _, Vt = factored_svd(W_Q, W_K)
    right = dQ.T @ (W_K @ Vt.T) + W_Q.T @ (dK @ Vt.T)
    left = dK.T @ (W_Q @ U) + W_K.T @ (dQ @ U)
    return found, _svd_tangents(found, right, left)


def _svd_tangents(found: tuple[Array, Array, Array], right: Array, left: Array) -> tuple[Array, Array, Array]:
    """How `A = U diag(s) V^T` moves with dA, given as `dA V` and `dA^T U`."""
    U, s, Vt = found
    V = Vt.T
    dP = U.T @ right
    tolerance = max(len(U), len(V)) * jnp.finfo(s.dtype).eps * s[0]
    difference = s[None, :] - s[:, None]
    apart = jnp.abs(difference) > tolerance
    F = jnp.where(apart, 1 / jnp.where(apart, difference * (s[None, :] + s[:, None]), 1), 0)
    inverse = jnp.where(s > tolerance, 1 / jnp.where(s > tolerance, s, 1), 0)
    dU = U @ (F * (dP * s[None, :] + s[:, None] * dP.T))
    dV = V @ (F * (s[:, None] * dP + dP.T * s[None, :]))
    if U.shape[0] > U.shape[1]:
        dU += (right - U @ dP) * inverse[None, :]
    if V.shape[0] > V.shape[1]:
        dV += (left - V @ dP.T) * inverse[None, :]
    return dU, jnp.diagonal(dP), dV.T


def value_groups(values: Array, tolerance: float = 1e-3) -> Array:
    """Labels (K,) that equal values share: neighbours closer than `tolerance * sigma_1` belong together.

    >>> value_groups(jnp.array([5.0, 3.0, 3.0, 0.0])).tolist()
    [0, 1, 1, 2]
    """
    values = _spectral_values(values)
    new = values[:-1] - values[1:] > tolerance * values[0]
    return jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(new)])


def effective_rank(values: Array) -> Array:
    """`exp(-sum p_k ln p_k)`, `p_k = sigma_k / sum sigma` (Roy and Vetterli 2007); 0 for the zero matrix.

    Raises InputError for values (K,) that are negative or not finite (NaN while JAX traces).

    >>> round(float(effective_rank(jnp.array([2.0, 2.0, 0.0]))), 4)
    2.0
    """
    values, _ = scaled(_spectral_values(values))
    total = values.sum()
    p = values / jnp.where(total == 0, 1, total)
    entropy = -jnp.sum(jnp.where(p == 0, 0, p * jnp.log(jnp.where(p == 0, 1, p))))
    return jnp.where(total == 0, 0, jnp.exp(entropy))


def _spectral_values(values: Array) -> Array:
    values = real_array("values", values, ndim=1)
    if concrete(values) and (np.asarray(values) < 0).any():
        raise InputError(f"values must be at least 0, as singular values are, got {float(values.min())}")
    return values


@pytree()
@dataclass(frozen=True)
class Agreement:
    """How a measured spectrum agrees with a predicted one, pair by predicted pair; NaN where nothing is predicted.

    left, right   |cos| of predicted with measured u_k, v_k, shape (K,); where the predicted value belongs to a group
                  of equal ones, the cosine of the largest principal angle between the groups' subspaces
    value_error   (measured - predicted sigma_k) / predicted sigma_1, shape (K,)
    identified    whether the predicted vector is named by its value: non-zero and apart from all others, shape (K,)
    chance        E|cos| of a random direction (T12)
    predicted_left, measured_left, predicted_right, measured_right
                  |cos| of the singular vectors with the features, shapes (K, N) and (K, M); None without features
    """

    left: Array
    right: Array
    value_error: Array
    identified: Array
    chance: Array
    predicted_left: Array | None = None
    measured_left: Array | None = None
    predicted_right: Array | None = None
    measured_right: Array | None = None


@exact_products
def compare(
    prediction: Spectrum,
    measurement: Spectrum,
    features: tuple[Array, Array] | None = None,
    tolerance: float = 1e-3,
) -> Agreement:
    """Compare a measured spectrum with a predicted one.

    Pairs are matched by the order of their values, vectors up to sign, predicted values closer than
    `tolerance * sigma_1` as subspaces, predicted zeros not at all. `features = (X, Y)`, shapes (D, N) and (D, M), adds
    the alignment tables of both spectra. Works under jit and vmap. Raises InputError for spectra of different D, or a
    measurement with fewer pairs than the prediction.
    """
    D, K = prediction.left.shape
    if measurement.left.shape[0] != D or measurement.values.shape[0] < K:
        raise InputError(
            f"measurement must be a spectrum of at least {K} pairs in dimension {D}, got shape {measurement.left.shape}"
        )
    labels = value_groups(prediction.values, tolerance)
    together = labels[:, None] == labels[None, :]
    nonzero = prediction.values > tolerance * prediction.values[0]
    aligned = {} if features is None else _alignment_tables(prediction, measurement, features)
    return Agreement(
        left=_group_cosines(prediction.left, measurement.left[:, :K], together, nonzero),
        right=_group_cosines(prediction.right, measurement.right[:, :K], together, nonzero),
        value_error=jnp.where(nonzero, (measurement.values[:K] - prediction.values) / prediction.values[0], jnp.nan),
        identified=nonzero & (together.sum(axis=1) == 1),
        chance=jnp.asarray(chance_alignment(D), prediction.values.dtype),
        **aligned,
    )


def _group_cosines(predicted: Array, measured: Array, together: Array, nonzero: Array) -> Array:
    """For each k the smallest principal cosine between the two spans of k's group; NaN where not `nonzero`."""
    cosines = predicted.T @ measured
    alone = together.sum(axis=1) == 1

    def smallest(group):
        inside = group[:, None] & group[None, :]
        # outside the group the identity stands in, whose singular values are 1
        return jnp.linalg.svd(jnp.where(inside, cosines, jnp.eye(len(cosines), dtype=cosines.dtype)), compute_uv=False)[
            -1
        ]

    # one after the other, and only where needed: most of the many pairs of a large head are alone or zero
    grouped = jax.lax.map(
        lambda k: jax.lax.cond(k[0], smallest, lambda _: jnp.ones((), cosines.dtype), k[1]),
        (nonzero & ~alone, together),
    )
    found = jnp.where(alone, jnp.abs(jnp.diagonal(cosines)), grouped)
    return jnp.where(nonzero, jnp.minimum(found, 1), jnp.nan)


def _alignment_tables(prediction: Spectrum, measurement: Spectrum, features: tuple[Array, Array]) -> dict[str, Array]:
    X, Y = features
    return {
        "predicted_left": alignment(prediction.left, X),
        "measured_left": alignment(measurement.left, X),
        "predicted_right": alignment(prediction.right, Y),
        "measured_right": alignment(measurement.right, Y),
    }
