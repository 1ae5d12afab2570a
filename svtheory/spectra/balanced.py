"""Balanced reading: a head as its data see it, each of its modes as a pattern and a probe (T22; Moore 1981)."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.checks import InputError, concrete, real_array
from svtheory.factorisations import factored_svd, safe_svd
from svtheory.numerics import exact_products, numerical_rank_tolerance, positive, root, scaled, shifted
from svtheory.pytrees import pytree
from svtheory.spectra.spectra import product_rounding, spectrum_of


class Tokens(NamedTuple):
    """Tokens (n, D), a row each, whose mean outer product is the moment; subtract their mean for a covariance."""

    tokens: Array


class Root(NamedTuple):
    """A moment by its principal axes, `A = V diag(s^2) V^T`, where these are at hand: taken as they are.

    axes     V, shape (D, R)
    lengths  s (R,), exactly 0 where rounding cannot tell from 0
    """

    axes: Array
    lengths: Array


Moment = Array | Tokens | Root


@pytree()
@dataclass(frozen=True)
class BalancedSpectrum:
    """`A^{1/2} Omega B^{1/2} = sum_k sigma~_k u~_k v~_k^T`, values falling; modes as columns (D, K) and (D', K).

    values          sigma~_k, the standard deviation of mode k's part of a logit, shape (K,)
    query_patterns  `A^{1/2} u~_k`: what in a query token moves the mode
    query_probes    `A^{+1/2} u~_k`: what the head computes of it, `probe . pattern = 1`
    key_patterns    `B^{1/2} v~_k`
    key_probes      `B^{+1/2} v~_k`
    gaps            of the values, as in a Spectrum (T14), shape (K,)

    On the supports of the tokens `Omega = sum_k sigma~_k query_probe_k key_probe_k^T`.
    """

    values: Array
    query_patterns: Array
    query_probes: Array
    key_patterns: Array
    key_probes: Array
    gaps: Array


@exact_products
def balanced_spectrum(W_Q: Array, W_K: Array, query_moment: Moment, key_moment: Moment) -> BalancedSpectrum:
    """The singular value decomposition of `A^{1/2} W_Q^T W_K B^{1/2}`, each mode as a pattern and a probe (T22).

    A and B are the token moments that the objective sees (T5, T6): second moments, or covariances on a side that is
    centred. Under an invertible change of basis of the tokens, `r -> G r`, values stay, patterns go with G and probes
    with `G^{-T}`, where raw singular vectors depend on the inner product at hand. Of a head trained to match linearly
    independent features of uncorrelated activations each pattern is a feature, whatever their angles and lengths.

    Args:
        W_Q: factor, shape (H, D).
        W_K: factor, shape (H, D').
        query_moment: A, shape (D, D), positive semi-definite, or the `Tokens` (n, D) it is the moment of, or a `Root`.
        key_moment: B, shape (D', D'), `Tokens` (n', D'), or a `Root`.

    Where a moment is of deficient rank, what the tokens never visit is read as 0, in patterns and in probes; modes of
    value 0 are arbitrary within what is left. K = min(H, D, D') modes; with H < D neither Omega nor its balanced form
    is formed. Follows the dtype of the factors. Raises InputError for shapes that disagree and for moments that are
    not symmetric or that are negative in a direction, TypeError for anything but real arrays.

    >>> W, moment = jnp.eye(2), jnp.diag(jnp.array([4.0, 1.0]))
    >>> s = balanced_spectrum(W, W, moment, jnp.eye(2))
    >>> s.values.round(4).tolist(), abs(s.query_patterns).round(4).tolist(), abs(s.query_probes).round(4).tolist()
    ([2.0, 1.0], [[2.0, 0.0], [0.0, 1.0]], [[0.5, 0.0], [0.0, 1.0]])
    """
    return balanced(*seen_by_data(W_Q, W_K, query_moment, key_moment))


def seen_by_data(W_Q: Array, W_K: Array, query_moment: Moment, key_moment: Moment) -> tuple[Array, Array, Root, Root]:
    """Both factors and the roots of both moments, checked; raises as `balanced_spectrum`."""
    W_Q, W_K = real_array("W_Q", W_Q, ndim=2), real_array("W_K", W_K, ndim=2)
    if W_Q.shape[0] != W_K.shape[0]:
        raise InputError(f"W_K must have {W_Q.shape[0]} rows, the head dimension of W_Q, got shape {W_K.shape}")
    return W_Q, W_K, moment_root("query_moment", query_moment, W_Q), moment_root("key_moment", key_moment, W_K)


def moment_root(name: str, moment: Moment, W: Array) -> Root:
    """The principal axes of a moment of W's tokens, at W's precision; raises as `balanced_spectrum`."""
    D = W.shape[1]
    if isinstance(moment, Root):
        return moment
    if isinstance(moment, Tokens):
        tokens = real_array(f"{name}.tokens", moment.tokens, ndim=2).astype(W.dtype)
        if tokens.shape[1] != D:
            raise InputError(f"{name}.tokens must have {D} columns, the dimension of its factor, got {tokens.shape}")
        return _root_of_tokens(tokens)
    A = real_array(name, moment, ndim=2).astype(W.dtype)
    if A.shape != (D, D):
        raise InputError(f"{name} must have shape {(D, D)}, that of its factor's tokens, got {A.shape}")
    found, skew, lowest = _root_of_moment(A)
    rounding = 100 * D * float(jnp.finfo(A.dtype).eps)
    if concrete(skew) and float(skew) > rounding:
        raise InputError(f"{name} must be symmetric, got a matrix that is not")
    if concrete(lowest) and float(lowest) < -rounding:
        raise InputError(f"{name} must be positive semi-definite, got an eigenvalue of {lowest:.3g} of its largest")
    return found


@jax.jit
def _root_of_tokens(tokens: Array) -> Root:
    _, lengths, axes = safe_svd(tokens)
    lengths = lengths / jnp.sqrt(jnp.asarray(len(tokens), tokens.dtype))
    inside = lengths > numerical_rank_tolerance(lengths, max(tokens.shape))
    return Root(axes.T, jnp.where(inside, lengths, 0))


@jax.jit
def _root_of_moment(A: Array) -> tuple[Root, Array, Array]:
    """The root, how far A at unit size is from symmetric, and its lowest eigenvalue over the largest."""
    unit, exponent = scaled(A)
    skew = jnp.abs(unit - unit.T).max()
    values, axes = jnp.linalg.eigh((unit + unit.T) / 2)
    lowest = values[0] / positive(jnp.abs(values).max())
    values, axes = values[::-1], axes[:, ::-1]
    inside = values > numerical_rank_tolerance(values, len(values))
    # an even power of 2 leaves the root as it comes in
    odd = exponent % 2
    lengths = root(shifted(values, odd), inside)
    return Root(axes, shifted(lengths, (exponent - odd) // 2)), skew, lowest


@jax.jit
@exact_products
def balanced(W_Q: Array, W_K: Array, query: Root, key: Root) -> BalancedSpectrum:
    """The balanced spectrum from the roots of the moments, which heads of one layer share."""
    (left, q), (right, k) = (scaled((W @ side.axes) * side.lengths[None, :]) for W, side in ((W_Q, query), (W_K, key)))
    U, unit, Vt = factored_svd(left, right)
    s = spectrum_of(U, shifted(unit, q + k), Vt.T, shifted(product_rounding(left, right), q + k))
    modes = (_modes(query, U), _modes(key, Vt.T))
    return BalancedSpectrum(s.values, *modes[0], *modes[1], s.gaps)


def _modes(side: Root, vectors: Array) -> tuple[Array, Array]:
    """Patterns and probes of whitened vectors (R, K) in the moment's axes."""
    inside = (side.lengths > 0)[:, None]
    lengths = positive(side.lengths)[:, None]
    vectors = jnp.where(inside, vectors, 0)
    return side.axes @ (lengths * vectors), side.axes @ (vectors / lengths)
