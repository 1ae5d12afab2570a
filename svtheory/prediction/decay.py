"""Weight decay for any moments: the nuclear norm, from duals back to features (T24; T8 is its tight case)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checks import InputError, concrete
from svtheory.numerics import exact_products, inverse, positive
from svtheory.prediction.whitened import Side, Whitened
from svtheory.scenarios import Scenario

STEPS = 100_000
PRECISION = 30
"""How many roundings of what cancels in it the certificate may be."""


class Decayed(NamedTuple):
    """The optimum with weight decay, for a head that has room for it.

    omega      shape (D, D)
    reached    whether its certificate says that it is the optimum, a scalar
    error      how far rounding, and what the certificate leaves, may have moved it, spectral norm, a scalar
    largest    `|M|_2`, the decay from which nothing is left, a scalar
    """

    omega: Array
    reached: Array
    error: Array
    largest: Array


def bears_decay(scenario: Scenario) -> bool:
    """Whether a scenario's weight decay is above 0, or may be, unknown while JAX traces."""
    return not concrete(scenario.weight_decay) or bool(np.asarray(scenario.weight_decay) != 0)


def check_undecayed(scenario: Scenario, where: str) -> None:
    """Raise InputError for a weight decay above 0, unless JAX traces it; `where` says what theory has none."""
    if concrete(scenario.weight_decay) and bears_decay(scenario):
        raise InputError(f"weight_decay must be 0 {where}, got {float(scenario.weight_decay):.3g}")


def objective_decay(scenario: Scenario) -> Array:
    """The decay g beside `(1/2) tr(Omega^T A Omega B)`, of which the softmax objective is `1 - 1/m` times (T6, T24)."""
    share = 1 - 1 / scenario.n_keys if scenario.objective == "softmax" else 1
    return scenario.weight_decay / share


@exact_products
def decayed_optimum(scenario: Scenario, tokens: Whitened, decay: Array) -> Decayed:
    """`argmin (1/2) tr(Omega^T A Omega B) - tr(M^T Omega) + g |Omega|_*` of a scenario's whitened tokens (T24)."""
    query, key = _seen(scenario.query_features, tokens.query), _seen(scenario.key_features, tokens.key)
    asked = _by_root(tokens.query, _by_root(tokens.key, scenario.target.T).T)
    A, B, M = query @ query.T, key @ key.T, query @ asked @ key.T
    W, found = nuclear_optimum(A, B, M, decay)
    omega = tokens.query.basis @ W @ tokens.key.basis.T
    left = asked - query.T @ W @ key
    moved = _rounding(tokens.query, key @ left.T, tokens.key, W) + _rounding(tokens.key, query @ left, tokens.query, W)
    # a step of length r from where it is certified ends with a slope of no more than 2 r
    unsolved = 2 * found * jnp.maximum(jnp.linalg.norm(M), tokens.eigenvalues.max() * jnp.linalg.norm(W))
    error = max(omega.shape) * jnp.finfo(W.dtype).eps * jnp.linalg.norm(W)
    error += (tokens.query.reach() * tokens.key.reach()) ** 2 * (moved + unsolved)
    return Decayed(omega, is_certified(found), lax.stop_gradient(error), jnp.linalg.norm(M, 2))


def _seen(features: Array, side: Side) -> Array:
    """`U^T X R`, tokens in the eigenbasis of their moment, shape (r, R); 0 outside its range."""
    tokens = side.basis.T @ (features if side.root is None else features @ side.root.T)
    return jnp.where(side.scale[:, None] > 0, tokens, 0)


def _by_root(side: Side, columns: Array) -> Array:
    return columns if side.root is None else side.root @ columns


def _rounding(side: Side, untold: Array, other: Side, W: Array) -> Array:
    """How far rounding d of a side's `Z = X R` may move the gradient `Z (R^T T R' - Z^T Omega Z') Z'^T`, twice."""
    curved = side.scale[0] * other.scale[0] ** 2 * jnp.linalg.norm(W)
    return 2 * side.rounding * (jnp.linalg.norm(untold) + curved)


def is_certified(found: Array) -> Array:
    """Whether a certificate says that the optimum was reached, to the rounding of its dtype."""
    return found <= PRECISION * jnp.finfo(found.dtype).eps


@jax.custom_jvp
@exact_products
def nuclear_optimum(A: Array, B: Array, asked: Array, decay: Array) -> tuple[Array, Array]:
    """`argmin_W (1/2) tr(W^T A W B) - tr(M^T W) + g |W|_*` of diagonal A and B, and its certificate, a scalar (T24).

    `g |W|_*` is the decay `(g/2)(|W_Q|_F^2 + |W_K|_F^2)` of the best factors of W. Proximal gradient with momentum,
    restarted where it overshoots: singular values are lowered by g over the largest curvature, a step at a time. The
    certificate is the length of the last step, `|W - lowered(W + h (M - A W B), h g)|_F / h`, over the size of what
    cancels in it, the larger of `|M|_F` and `|A|_2 |W|_F |B|_2`: 0 iff `(M - A W B) v_k = g u_k`, the like on the left,
    and `|M - A W B|_2 <= g`. Where it was not reached, for moments too ill-conditioned, it exceeds 30 roundings.

    Args:
        A: query moment in its eigenbasis, shape (r, r), of which the diagonal is read; 0 outside its range, where W is.
        B: the like for keys, shape (r', r').
        asked: M, shape (r, r').
        decay: g, a scalar, at least 0; at 0 the start, `A^+ M B^+`, is returned without a step.

    Works under jit, vmap and grad: derivatives are those of the optimum, by one linear solve in r r' numbers, and by A
    and B off their diagonals too, as where equal eigenvalues part.
    """
    eigenvalues = _eigenvalues(A, B)
    asked = jnp.where(eigenvalues > 0, asked, 0)
    start = asked * inverse(eigenvalues)
    step, size = _step_size(eigenvalues), jnp.linalg.norm(asked)

    def unfinished(state):
        *_, number, error, before = state
        done = (is_certified(error) & (error >= before)) | jnp.isnan(error)
        return ~done & (number < STEPS)

    def advance(state):
        W, ahead, momentum, number, error, before = state
        lower = lowered(ahead + step * (asked - eigenvalues * ahead), step * decay)
        moved = jnp.linalg.norm(ahead - lower) / positive(jnp.maximum(step * size, jnp.linalg.norm(lower)))
        # momentum that points uphill is forgotten (O'Donoghue and Candes 2015)
        uphill = ((ahead - lower) * (lower - W)).sum() > 0
        following = jnp.where(uphill, 1, (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2)
        ahead = jnp.where(uphill, lower, lower + (momentum - 1) / following * (lower - W))
        # where it is small enough, steps go on as long as it falls
        due = (number + 1) % 16 == 0
        error, before = jnp.where(due, moved, error), jnp.where(due, error, before)
        return lower, ahead, following, number + 1, error, before

    one = jnp.ones((), asked.dtype)
    first = jnp.where(decay > 0, jnp.inf, 0).astype(asked.dtype)
    W, *_, error, _ = lax.while_loop(unfinished, advance, (start, start, one, 0, first, first))
    return W, error


@nuclear_optimum.defjvp
@exact_products
def _nuclear_optimum_jvp(primals, tangents):
    """`W = lowered(W + h (M - A W B), h g)` moves as its right side does (the implicit function theorem)."""
    W, error = nuclear_optimum(*primals)
    eigenvalues, decay = _eigenvalues(*primals[:2]), primals[3]
    inside = eigenvalues > 0
    step = lax.stop_gradient(_step_size(eigenvalues))

    def advanced(W, A, B, asked, decay):
        return jnp.where(inside, lowered(W + step * (asked - A @ W @ B), step * decay), 0)

    def implicit():
        _, moved = jax.jvp(partial(advanced, W), primals, tangents)
        slope = jax.jacfwd(advanced)(W, *primals).reshape(W.size, W.size)
        return jnp.linalg.solve(jnp.eye(W.size, dtype=W.dtype) - slope, moved.ravel()).reshape(W.shape)

    def undecayed():
        (A, B), (dA, dB, asked, _) = primals[:2], tangents
        return (asked - dA @ W @ B - A @ W @ dB) * inverse(eigenvalues)

    return (W, error), (lax.cond(decay > 0, implicit, undecayed), jnp.zeros_like(error))


def _eigenvalues(A: Array, B: Array) -> Array:
    """`lam_a mu_b`, shape (r, r')."""
    return jnp.diagonal(A)[:, None] * jnp.diagonal(B)[None, :]


def _step_size(eigenvalues: Array) -> Array:
    return 1 / positive(eigenvalues.max())


@jax.custom_jvp
def lowered(A: Array, by: Array) -> Array:
    """`U (s - by)_+ V^T` of a matrix (r, r'): its singular values lowered, with derivatives at equal values too."""
    U, values, Vt = jnp.linalg.svd(A, full_matrices=False)
    return (U * jnp.maximum(values - by, 0)[None, :]) @ Vt


@lowered.defjvp
def _lowered_jvp(primals, tangents):
    """Divided differences of `f(s) = (s - by)_+`, on A made square by zeros (Lewis and Sendov 2005)."""
    (A, by), (dA, dby) = primals, tangents
    n = max(A.shape)
    padding = [(0, n - size) for size in A.shape]
    U, s, Vt = jnp.linalg.svd(jnp.pad(A, padding))
    f, kept = jnp.maximum(s - by, 0), (s > by).astype(A.dtype)
    turned = U.T @ jnp.pad(dA, padding) @ Vt.T
    even, odd = (turned + turned.T) / 2, (turned - turned.T) / 2
    apart, total = s[:, None] - s[None, :], s[:, None] + s[None, :]
    near = jnp.abs(apart) <= n * jnp.finfo(s.dtype).eps * s[0]
    first = jnp.where(near, kept[:, None], (f[:, None] - f[None, :]) / jnp.where(near, 1, apart))
    second = (f[:, None] + f[None, :]) * inverse(total)
    moved = U @ (first * even + second * odd - jnp.diag(kept * dby)) @ Vt
    rows, columns = A.shape
    return lowered(A, by), moved[:rows, :columns]
