"""Sparsity: how few singular directions carry an attention logit, and how few chance would give (T11).

A logit is the sum of its terms `c_k = sigma_k (r^T u_k)(v_k^T s)`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checks import InputError, concrete, index, real_array
from svtheory.geometry.frames import leverage
from svtheory.numerics import exact_products, positive

ROUNDING = 100  # times epsilon: what of a head's largest term may be rounding in another


def treves_rolls(terms: Array) -> Array:
    """Treves-Rolls sparseness `S(c) = (mean |c|)^2 / mean(c^2)` over the last axis, in [1/n, 1] (T11).

    1 for equal magnitudes, 1/n for a single term, NaN where all terms are 0 and it is undefined. Terms (..., n).

    >>> treves_rolls(jnp.array([[2.0, -2.0], [3.0, 0.0], [0.0, 0.0]])).tolist()
    [1.0, 0.5, nan]
    """
    magnitudes = jnp.abs(real_array("terms", terms))
    largest = lax.stop_gradient(magnitudes.max(axis=-1, keepdims=True))
    # S does not depend on scale; without it squares of tiny terms would underflow
    scaled = magnitudes / positive(largest)
    defined = largest[..., 0] > 0
    return jnp.where(defined, scaled.mean(axis=-1) ** 2 / positive((scaled**2).mean(axis=-1)), jnp.nan)


def decision_sparseness(terms: Array, size: Array) -> Array:
    """S of each of a head's decisions, relative terms (K,) or (..., T, K); NaN where they are rounding.

    A query that the head does not read gives terms that are 0 up to rounding beside the largest of the head, keys that
    are all alike such ones beside what was subtracted, of `size` () or (..., T): they have a sparseness of their own
    that means nothing.
    """
    largest = jnp.abs(terms).max(axis=-1)
    rounding = ROUNDING * jnp.finfo(terms.dtype).eps * jnp.maximum(largest.max(), size)
    return jnp.where(largest > rounding, treves_rolls(terms), jnp.nan)


@exact_products
def leverage_terms(
    query_features: Array,
    key_features: Array,
    queries: Sequence[int],
    keys: Sequence[int],
    strengths: Sequence[float] | Array,
    query_activations: Array,
    key_activations: Array,
) -> Array:
    """The terms of the optimal head of a matching, `c_k = t_k (P_X f_r)_{i_k} (P_Y f_s)_{j_k}`, shape (..., K) (T11).

    They sum to the logit `r^T Omega* s` of T1, and where the duals of the matched features are mutually orthogonal on
    both sides (T4) each is the term of one singular pair. `c_k = t_k f_{i_k} f_{j_k}` iff the leverages are 1, the
    matched features outside the span of the others; in superposition absent features contribute too.

    query_features X (D, N), key_features Y (D, M); pairs `queries[k]`, `keys[k]` of strength `strengths[k]`, as for
    `matching`; activations (..., N) and (..., M). Raises InputError for shapes that disagree or an index out of range.

    >>> X = jnp.array([[1.0, -1.0]])  # an antipodal pair: half of the absent feature is seen, with its sign turned
    >>> leverage_terms(X, X, [0], [0], [4.0], jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])).round(3).tolist()
    [-1.0]
    """
    X, f_r = _side("query", query_features, query_activations)
    Y, f_s = _side("key", key_features, key_activations)
    t = real_array("strengths", strengths, ndim=1)
    i = np.array([index("query", k, X.shape[1]) for k in queries])
    j = np.array([index("key", k, Y.shape[1]) for k in keys])
    if not i.size == j.size == t.size:
        raise InputError(f"queries, keys and strengths must be of one length, got {i.size}, {j.size} and {t.size}")
    terms = (f_r @ leverage(X)[:, i]) * (f_s @ leverage(Y)[:, j])
    return jnp.broadcast_to(t.astype(terms.dtype), terms.shape) * terms


def _side(name: str, features: Array, activations: Array) -> tuple[Array, Array]:
    X, f = real_array(f"{name}_features", features, ndim=2), real_array(f"{name}_activations", activations)
    if f.ndim == 0 or f.shape[-1] != X.shape[1]:
        raise InputError(f"{name}_activations must have shape (..., {X.shape[1]}), one a feature, got {f.shape}")
    return X, f


def common_rotation_sparseness(cosine: Array | float) -> Array:
    """Sparseness under one random rotation of both sides: `[(2/pi)(sqrt(1-rho^2) + rho arcsin rho)]^2/(1 + 2 rho^2)`.

    The null that keeps the total: `a = Sigma^{1/2} U^T r`, `b = Sigma^{1/2} V^T s`, `c_k = (Q a)_k (Q b)_k`, Q Haar,
    and rho the signed cosine of a and b: `(2/pi)^2` at rho = 0, 1/3 at +-1. Leading term for many directions n: the
    mean over rotations exceeds it by about `4/n` of itself (T11).
    Raises InputError for a cosine outside [-1, 1].

    >>> round(float(common_rotation_sparseness(0.0)), 4), round(float(common_rotation_sparseness(1.0)), 4)
    (0.4053, 0.3333)
    """
    rho = real_array("cosine", cosine)
    if concrete(rho) and (np.abs(np.asarray(rho)) > 1).any():
        raise InputError(f"cosine must lie in [-1, 1], got {np.asarray(rho).tolist()}")
    return (2 / math.pi * _mean_product(rho)) ** 2 / (1 + 2 * rho**2)


@jax.custom_jvp
def _mean_product(rho: Array) -> Array:
    """`(pi/2) E|x y|` of standard normal x, y with correlation rho."""
    return jnp.sqrt(1 - rho**2) + rho * jnp.arcsin(rho)


# the two infinite slopes at +-1 cancel
_mean_product.defjvps(lambda tangent, _, rho: tangent * jnp.arcsin(rho))


class IndependentRotations(NamedTuple):
    """Leading term of a null and the number that says how far to trust it.

    sparseness        `(2/pi)^2 (sum sigma)^2 / (n sum sigma^2)`
    effective_number  `(sum sigma^2)^2 / sum sigma^4`, from 1 to n: the mean exceeds the term by about 3 parts in it
    """

    sparseness: Array
    effective_number: Array


def independent_rotation_sparseness(values: Array) -> IndependentRotations:
    """Sparseness that independent random rotations of U and V leave, `(2/pi)^2 (sum sigma)^2/(n sum sigma^2)` (T11).

    The paper's control: it keeps the singular values (..., n) and not the total. Leading term for many values of like
    size: the mean over rotations exceeds it by about `3/effective_number` of itself, 5 % for 64 equal values, 20 % at
    an effective number of 15, a factor of 2 at 2.5 (64 values falling as 1/k). NaN where all values are 0.

    >>> null = independent_rotation_sparseness(jnp.ones(64))
    >>> round(float(null.sparseness), 4), float(null.effective_number)
    (0.4053, 64.0)
    """
    sigma = real_array("values", values)
    largest = sigma.max(axis=-1, keepdims=True)
    sigma = sigma / positive(largest)  # squares of tiny or huge values would be lost
    return IndependentRotations((2 / math.pi) ** 2 * treves_rolls(sigma), sigma.shape[-1] * treves_rolls(sigma**2))
