"""Hypotheses: a trained head predicted from what it reads and a template of what it is for (T16).

With `A = U diag(lam) U^T` and `B = U' diag(mu) U'^T` the moments of what queries and keys read, `G_r = E[r f_q^T]`,
`G_s = E[s f_k^T]` and `M = G_r T G_s^T`, training from a small start for a time tau gives (T17)
`(U^T Omega_P U')_ab = M_ab (1 - e^{-lam_a mu_b tau})/(lam_a mu_b)`. In whitened coordinates this is a plain product:
`A^{1/2} Omega_P B^{1/2}` has entries `C_ab (1 - e^{-lam_a mu_b tau})`, C the correlations of the features with the
whitened inputs, joined by the template.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import InputError, real_array, whole
from svtheory.frames import exact_products, numerical_rank_tolerance
from svtheory.pytrees import pytree
from svtheory.spectra import Spectrum, safe_svd, spectrum, spectrum_of

VISITED = 1e-4
"""The least eigenvalue of an input moment, of its mean, that counts as visited."""


@pytree()
@dataclass(frozen=True)
class Explanation:
    """How well a hypothesis explains a head.

    functional_cosine  cosine of prediction and head after `O -> A^{1/2} O B^{1/2}`: the correlation of their logits
                       over independent draws of query and key; it decides
    cosine             cosine of the weights themselves, directions that the data never visits included
    time               tau, the one fitted number: learning rate times steps times the mean eigenvalues of A and B
    unvisited          share of `|Omega|_F^2` that the data never or hardly exercises: outside the directions in which
                       the eigenvalues of A and B exceed 1e-4 of their mean, a hundredth in spread
    predicted          spectrum of the prediction, its values scaled to the head's logits by least squares
    measured           spectrum of the head
    null               functional cosines of the template with its columns deranged, each at its own best time, (draws,)
    p_value            share of null and hypothesis that reach the hypothesis' functional cosine; with few key features
                       not below one in the number of templates that there are
    """

    functional_cosine: Array
    cosine: Array
    time: Array
    unvisited: Array
    predicted: Spectrum
    measured: Spectrum
    null: Array
    p_value: Array

    def overlap(self, k: int) -> tuple[Array, Array]:
        """How much of the head's top-k left and right singular subspaces the prediction's cover: `|U_k^T U'_k|_F^2/k`.

        The mean squared cosine of the principal angles; k/D by chance. Raises InputError for k out of range.
        """
        most = self.predicted.values.shape[-1]
        if whole("k", k, 1) > most:
            raise InputError(f"k must be at most {most}, the number of predicted singular values, got {k}")
        return _overlap(self.predicted.left, self.measured.left, k), _overlap(
            self.predicted.right, self.measured.right, k
        )

    def margin(self, *rivals: "Explanation") -> Array:
        """The lead in functional cosine over the best competitor: every deranged template, and any rival hypotheses.

        A rival can share structure with the truth: a hypothesis is preferred by its margin.
        """
        best = self.null.max(axis=-1)
        for rival in rivals:
            best = jnp.maximum(best, rival.functional_cosine)
        return self.functional_cosine - best


@exact_products
def _overlap(predicted: Array, measured: Array, k: int) -> Array:
    cosines = predicted[..., :k].swapaxes(-1, -2) @ measured[..., :k]
    return (cosines**2).sum(axis=(-1, -2)) / k


def explain(
    W_Q: Array,
    W_K: Array,
    query_inputs: Array,
    query_features: Array,
    key_inputs: Array,
    key_features: Array,
    template: Array,
    key: Array,
    centre_query: bool = True,
    draws: int = 999,
) -> Explanation:
    """Predict a trained head from samples of what it reads and a hypothesis; say how much of the head that explains.

    Keys are always centred, queries iff the head has a query bias (T6). Eigenvalues of A and B are divided by their
    mean, trace/D; tau is the best on a log grid, refined (T16). The null permutes the template's columns, the key
    features, by random derangements and gives each the same freedom; its cost is some 60 evaluations of a (D, D')
    filter a draw.

    W_Q (H, D), W_K (H, D'); query_inputs (n, D) and key_inputs (n', D'), one sample a row, treated as independent
    draws: take as queries the positions where the head's decision matters; query_features (n, N) and key_features
    (n', M), the candidate features' values at these samples; template (N, M); draws of the null. All follow the dtype
    of W_Q. Works under jit and vmap, `centre_query` and `draws` static.
    Raises InputError for shapes that disagree, fewer than 2 samples or 2 key features.
    """
    W_Q, W_K = real_array("W_Q", W_Q, ndim=2), real_array("W_K", W_K, ndim=2)
    if W_K.shape[0] != W_Q.shape[0]:
        raise InputError(f"W_K must have {W_Q.shape[0]} rows, the head dimension of W_Q, got shape {W_K.shape}")
    query = _samples("query", query_inputs, query_features, W_Q)
    keys = _samples("key", key_inputs, key_features, W_K)
    T = real_array("template", template, ndim=2).astype(W_Q.dtype)
    if T.shape != (query[1].shape[1], keys[1].shape[1]):
        raise InputError(
            f"template must have shape {(query[1].shape[1], keys[1].shape[1])}, query by key features, got {T.shape}"
        )
    if T.shape[1] < 2:
        raise InputError("key_features must hold at least 2 features, for the null to permute, got 1")
    whole("draws", draws, 1)
    return _explain(W_Q, W_K.astype(W_Q.dtype), query, keys, T, key, bool(centre_query), draws)


def _samples(name: str, inputs: Array, features: Array, W: Array) -> tuple[Array, Array]:
    x = real_array(f"{name}_inputs", inputs, ndim=2)
    f = real_array(f"{name}_features", features, ndim=2)
    if x.shape[1] != W.shape[1]:
        raise InputError(f"{name}_inputs must have {W.shape[1]} columns, as the head's weights, got shape {x.shape}")
    if x.shape[0] < 2 or f.shape[0] != x.shape[0]:
        raise InputError(
            f"{name}_inputs and {name}_features must have one row a sample, at least 2, got {x.shape} and {f.shape}"
        )
    return x.astype(W.dtype), f.astype(W.dtype)


class _Side(NamedTuple):
    """One side's samples: eigenvectors U (D, r) and eigenvalues lam (r,) of the moment, `E[whitened f^T]` (r, N).

    Eigenvalues are exactly 0 outside the moment's range, where the prediction is 0 whatever the readout.
    """

    basis: Array
    values: Array
    readout: Array


def _side(inputs: Array, features: Array, centre: bool) -> _Side:
    if centre:
        inputs, features = (a - a.mean(axis=0, keepdims=True) for a in (inputs, features))
    P, s, Ut = safe_svd(inputs)
    # more samples do not make the rounding of each larger, so the smaller size counts
    s = jnp.where(s > numerical_rank_tolerance(s, min(inputs.shape)), s, 0)
    return _Side(Ut.T, s**2 / _positive((s**2).sum() / inputs.shape[1]), P.T @ features)


@partial(jax.jit, static_argnums=(6, 7))
@exact_products
def _explain(
    W_Q: Array,
    W_K: Array,
    query: tuple[Array, Array],
    keys: tuple[Array, Array],
    T: Array,
    key: Array,
    centre_query: bool,
    draws: int,
) -> Explanation:
    q, k = _side(*query, centre_query), _side(*keys, True)
    # products of tiny weights would underflow
    q_size, k_size = _positive(jnp.abs(W_Q).max()), _positive(jnp.abs(W_K).max())
    omega = (W_Q / q_size).T @ (W_K / k_size)
    T = T / _positive(jnp.abs(T).max())
    read = q.basis.T @ omega @ k.basis
    x = q.values[:, None] * k.values[None, :]
    O = jnp.sqrt(x) * read

    def best(T):
        """A template's functional cosine at its best time, that time, and its whitened prediction there."""
        C = q.readout @ T @ k.readout.T
        time = _best_time(C, x, O)
        F = _filtered(C, x, time)
        return _cosine(F, O), time, F

    functional_cosine, time, F = best(T)
    null = lax.map(lambda key: best(T[:, _derangement(key, T.shape[1])])[0], jax.random.split(key, draws))
    reached = (1 + (null >= functional_cosine).sum()) / (1 + draws)
    weights = F * _inverse_root(x)
    scale = q_size * k_size * (F * O).sum() / _positive((F**2).sum())
    return Explanation(
        functional_cosine=functional_cosine,
        cosine=(weights * read).sum() / _positive(_norm(weights) * _norm(omega)),
        time=time,
        unvisited=_unvisited(q, k, omega, read),
        predicted=_spectrum(q.basis, scale * weights, k.basis, min(W_Q.shape)),
        measured=spectrum(W_Q, W_K),
        null=null,
        p_value=jnp.maximum(reached, 1 / (1 + _derangements(T.shape[1]))).astype(T.dtype),
    )


def _unvisited(q: _Side, k: _Side, omega: Array, read: Array) -> Array:
    inside = (q.values > VISITED)[:, None] & (k.values > VISITED)[None, :]
    share = _norm(jnp.where(inside, read, 0)) / _positive(_norm(omega))
    return jnp.maximum((1 - share) * (1 + share), 0)


def _filtered(C: Array, x: Array, tau: Array) -> Array:
    """`C_ab (1 - e^{-lam_a mu_b tau})`, the whitened head after training for tau; x holds `lam_a mu_b`."""
    return -C * jnp.expm1(-x * tau)


def _best_time(C: Array, x: Array, O: Array) -> Array:
    """The tau of largest functional cosine, on a log grid from a linear to a flat filter, then refined."""
    C, x, O = lax.stop_gradient((C, x, O))
    first = jnp.log(0.01 / _positive(x.max()))
    last = jnp.log(100 / jnp.min(jnp.where(x > 0, x, jnp.inf)))
    grid, distance = jnp.linspace(first, jnp.clip(last, first + 1, first + 37), 33, retstep=True)

    def best(times):
        # as many at once as keep the working set near a million numbers
        scores = lax.map(lambda t: _cosine(_filtered(C, x, jnp.exp(t)), O), times, batch_size=1 + 2**20 // x.size)
        return times[scores.argmax()]

    def refine(_, state):
        t, distance = state
        return best(t + jnp.array([0, -1, 1], t.dtype) * distance / 2), distance / 2

    return jnp.exp(lax.fori_loop(0, 8, refine, (best(grid), distance))[0])


def _derangement(key: Array, n: int) -> Array:
    """A uniform permutation of n >= 2 things that leaves none in its place."""

    def again(state):
        key, _ = state
        key, draw = jax.random.split(key)
        return key, jax.random.permutation(draw, n)

    return lax.while_loop(lambda state: (state[1] == jnp.arange(n)).any(), again, (key, jnp.arange(n)))[1]


def _derangements(n: int) -> float:
    """How many derangements n >= 2 things have: n!/e to the nearest whole number."""
    return float(round(math.factorial(n) / math.e)) if n < 20 else math.inf


def _spectrum(left: Array, core: Array, right: Array, K: int) -> Spectrum:
    U, values, Vt = safe_svd(core)
    return spectrum_of((left @ U)[:, :K], values[:K], (right @ Vt.T)[:, :K])


def _inverse_root(x: Array) -> Array:
    return jnp.where(x > 0, lax.rsqrt(_positive(x)), 0)


def _cosine(F: Array, O: Array) -> Array:
    return (F * O).sum() / _positive(_norm(F) * _norm(O))


def _norm(A: Array) -> Array:
    squared = (A**2).sum()
    return jnp.where(squared > 0, jnp.sqrt(_positive(squared)), 0)


def _positive(x: Array) -> Array:
    """`x`, or 1 in place of 0, to divide by."""
    return jnp.where(x > 0, x, 1)
