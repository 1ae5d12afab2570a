"""Weight decay for any moments: the nuclear norm, from duals back to features (T24; T8 is its tight case)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.numerics import exact_products, inverse, numerical_rank_tolerance, positive

STEPS = 100_000
PRECISION = 1000
"""How many roundings of M the certificate may be away from."""


def is_certified(found: Array) -> Array:
    """Whether a certificate says that the optimum was reached, to the rounding of its dtype."""
    return found <= PRECISION * jnp.finfo(found.dtype).eps


def certificate(W: Array, eigenvalues: Array, asked: Array, decay: Array) -> Array:
    """How far W is from optimal, over `|M|_2`; 0 for nothing asked."""
    size = jnp.linalg.norm(asked, 2)
    rest = jnp.where(eigenvalues > 0, asked - eigenvalues * W, 0)
    U, values, Vt = jnp.linalg.svd(W, full_matrices=False)
    kept = values > 8 * numerical_rank_tolerance(values, max(W.shape))  # a value lowered to 0 comes back as rounding
    right, left = rest @ Vt.T - decay * U, rest.T @ U - decay * Vt.T
    apart = [jnp.where(kept[None, :], x, 0) for x in (right, left)]
    worst = jnp.stack([*(jnp.linalg.norm(x, axis=0).max() for x in apart), jnp.linalg.norm(rest, 2) - decay])
    return jnp.maximum(worst.max(), 0) / positive(size)


@jax.custom_jvp
@exact_products
def nuclear_optimum(eigenvalues: Array, asked: Array, decay: Array) -> tuple[Array, Array]:
    """`argmin_W (1/2) sum_ab lam_a mu_b W_ab^2 - <M, W> + g |W|_*`, and its certificate, a scalar (T24).

    In the eigenbases of the token moments A and B that is `(1/2) tr(Omega^T A Omega B) - tr(M^T Omega)` and the decay
    `(g/2)(|W_Q|_F^2 + |W_K|_F^2)` of the best factors of Omega. Proximal gradient with momentum, restarted where it
    overshoots: singular values are lowered by g over the largest curvature, a step at a time. The certificate is how
    far optimality is from exact over `|M|_2`: `(M - A Omega B) v_k = g u_k`, the like on the left, and
    `|M - A Omega B|_2 <= g`. It exceeds 1000 roundings, for moments too ill-conditioned, where it was not reached.

    Args:
        eigenvalues: `lam_a mu_b`, shape (r, r'), 0 outside the range of a moment, where W is 0.
        asked: M, shape (r, r').
        decay: g, a scalar, at least 0; at 0 the start, `M/(lam mu)`, is returned without a step.

    Works under jit, vmap and grad: derivatives are those of the optimum, by one linear solve in r r' numbers.
    """
    asked = jnp.where(eigenvalues > 0, asked, 0)
    start = asked * inverse(eigenvalues)
    step = _step_size(eigenvalues)

    def unfinished(state):
        _, _, _, number, error = state
        return ~is_certified(error) & (number < STEPS)

    def advance(state):
        W, ahead, momentum, number, error = state
        lower = lowered(ahead + step * (asked - eigenvalues * ahead), step * decay)
        # momentum that points uphill is forgotten (O'Donoghue and Candes 2015)
        uphill = ((ahead - lower) * (lower - W)).sum() > 0
        following = jnp.where(uphill, 1, (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2)
        ahead = jnp.where(uphill, lower, lower + (momentum - 1) / following * (lower - W))
        # the certificate costs as much as a step
        due = (number + 1) % 16 == 0
        error = lax.cond(due, lambda: certificate(lower, eigenvalues, asked, decay), lambda: error)
        return lower, ahead, following, number + 1, error

    one = jnp.ones((), asked.dtype)
    first = jnp.where(decay > 0, jnp.inf, 0).astype(asked.dtype)
    W, *_, error = lax.while_loop(unfinished, advance, (start, start, one, 0, first))
    return W, error


@nuclear_optimum.defjvp
@exact_products
def _nuclear_optimum_jvp(primals, tangents):
    """`W = lowered(W + h (M - lam mu W), h g)` moves as its right side does (the implicit function theorem)."""
    W, error = nuclear_optimum(*primals)
    eigenvalues, _, decay = primals
    inside = eigenvalues > 0
    step = lax.stop_gradient(_step_size(eigenvalues))

    def advanced(W, eigenvalues, asked, decay):
        return jnp.where(inside, lowered(W + step * (asked - eigenvalues * W), step * decay), 0)

    def implicit():
        _, moved = jax.jvp(partial(advanced, W), primals, tangents)
        slope = jax.jacfwd(advanced)(W, *primals).reshape(W.size, W.size)
        return jnp.linalg.solve(jnp.eye(W.size, dtype=W.dtype) - slope, moved.ravel()).reshape(W.shape)

    def undecayed():
        curved, asked = tangents[:2]
        return (asked - curved * W) * inverse(eigenvalues)

    return (W, error), (lax.cond(decay > 0, implicit, undecayed), jnp.zeros_like(error))


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
