"""Factorisations whose derivatives stay finite at equal and at zero values, and one batch of them after another."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.numerics import inverse, positive, root

LARGE = 32  # rows from which a factorisation of its own pays for its compilation


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

    Large wide factors are made orthonormal by Cholesky factors of their Gram matrices, twice, which takes a third of
    the time of Householder's QR; where the second cannot mend what rounding left of the first, by that QR.
    The QR on the way has no derivative where a factor is of deficient rank, as with a row of zeros; the SVD has.
    """
    H, narrowest = W_Q.shape[0], min(W_Q.shape[1], W_K.shape[1])
    return _by_cholesky(W_Q, W_K) if LARGE <= H <= narrowest / 2 else _by_qr(W_Q, W_K)


def _by_qr(W_Q: Array, W_K: Array) -> tuple[Array, Array, Array]:
    # One factorisation feeds the next: two at once, such as QRs of both factors, can deadlock under vmap on few cores.
    Q, _ = jnp.linalg.qr(W_Q.T)
    V, values, Ut = tall_svd(W_K.T @ (W_Q @ Q))
    return Q @ Ut.T, values, V.T


# one head after the other also under vmap, where both branches would run, one beside the other
@jax.custom_batching.sequential_vmap
def _by_cholesky(W_Q: Array, W_K: Array) -> tuple[Array, Array, Array]:
    """CholeskyQR2 of both factors: `W = A P^T`, P orthonormal, and the SVD of `A_Q^T A_K`."""
    (A_Q, B_Q, mend_Q, rest_Q), (A_K, B_K, mend_K, rest_K) = map(_orthonormal, (W_Q, W_K))

    def mended():
        U, values, Vt = jnp.linalg.svd(A_Q.T @ A_K, full_matrices=False)
        return B_Q @ (mend_Q @ U), values, (B_K @ (mend_K @ Vt.T)).T

    return jax.lax.cond(jnp.maximum(rest_Q, rest_K) <= jnp.finfo(W_Q.dtype).eps, mended, lambda: _by_qr(W_Q, W_K))


def _orthonormal(W: Array) -> tuple[Array, Array, Array, Array]:
    """A (H, H), B (D, H) and its mend (H, H) of a factor `W = A P^T`, (H, D), with `P = B mend` orthonormal.

    B is by Cholesky's factor of the Gram matrix of W's rows at unit length, and orthonormal but for `E = B^T B - I`, of
    condition number^2 epsilon. The mend is `(I + E)^{-1/2}` to second order; last comes what that leaves, `|E|^3`, NaN
    where rows depend.
    """
    gram = W @ W.T
    length = jnp.sqrt(positive(jnp.diagonal(gram)))
    L = jnp.linalg.cholesky(gram / (length[:, None] * length[None, :]), symmetrize_input=False)
    one = jnp.eye(len(L), dtype=W.dtype)
    B = W.T @ (jax.lax.linalg.triangular_solve(L, one, left_side=True, lower=True) / length[None, :]).T
    E = B.T @ B - one
    E2 = E @ E
    A = (length[:, None] * L) @ (one + E / 2 - E2 / 8)
    return A, B, one - E / 2 + 3 * E2 / 8, jnp.linalg.norm(E) ** 3


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
    F = inverse(difference * (s[None, :] + s[:, None]), apart)
    scale = inverse(s, s > tolerance)[None, :]
    dU = U @ (F * (dP * s[None, :] + s[:, None] * dP.T))
    dV = V @ (F * (s[:, None] * dP + dP.T * s[None, :]))
    if U.shape[0] > U.shape[1]:
        dU += (right - U @ dP) * scale
    if V.shape[0] > V.shape[1]:
        dV += (left - V @ dP.T) * scale
    return dU, jnp.diagonal(dP), dV.T


@jax.custom_jvp
def symmetric_root(V: Array) -> Array:
    """`V^{1/2}` of a symmetric positive semi-definite matrix (N, N), exactly singular where V is so to rounding.

    Its derivative, like the root itself, does not care about equal eigenvalues; directions outside the range stay out.
    """
    s, Q = _root_and_basis(V)
    return jnp.matmul(Q * s[None, :], Q.T, precision="highest")


def _root_and_basis(V: Array) -> tuple[Array, Array]:
    values, Q = jnp.linalg.eigh(V)
    return root(values, values > eigenvalue_tolerance(values)), Q


def eigenvalue_tolerance(values: Array) -> Array:
    """What counts as zero beside the last of rising eigenvalues."""
    return values.size * jnp.finfo(values.dtype).eps * values[-1]


@symmetric_root.defjvp
@jax.default_matmul_precision("highest")
def _symmetric_root_jvp(primals, tangents):
    (V,), (dV,) = primals, tangents
    s, Q = _root_and_basis(V)
    return symmetric_root(V), Q @ (inverse(s[:, None] + s[None, :]) * (Q.T @ dV @ Q)) @ Q.T


def after(done: object, x: Array) -> Array:
    """`x`, computed after `done`: two batches of factorisations at once can deadlock on few cores."""
    last = jax.tree.leaves(jax.lax.stop_gradient(done))[-1]
    return jnp.where(jnp.isnan(last).any(), jnp.nan, x)
