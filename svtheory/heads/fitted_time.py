"""Fitted time: how long a hypothesis was trained that comes nearest to a head, and how near it comes (T16, T17).

In whitened coordinates training for a time tau makes of the core C, what the template asks for, the head
`C_ab (1 - e^{-x_ab tau})`, at rates `x_ab = lam_a mu_b`. Cosines are taken after `O -> A^{1/2} O B^{1/2}`, heads and
cores as rows of numbers (c,), c = r r'.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.numerics import positive, root

TIMES = 33
"""Training times on the grid."""
OPEN = 1e-3
"""How much nearer the best time must come than the first or last one for that one to be out of question."""


def filtered(C: Array, rates: Array, tau: Array) -> Array:
    """`C_ab (1 - e^{-x_ab tau})`, the whitened head after training for tau."""
    return -C * jnp.expm1(-rates * tau)


def log_times(rates: Array) -> Array:
    """Logarithms of the times that are tried, evenly from a linear to a flat filter, (TIMES,)."""
    first = jnp.log(0.01 / positive(rates.max()))
    last = jnp.log(100 / jnp.min(jnp.where(rates > 0, rates, jnp.inf)))
    return jnp.linspace(first, jnp.clip(last, first + 1, first + 37), TIMES)


def learnt(rates: Array) -> Array:
    """`1 - e^{-x tau}` for all times that are tried, (TIMES, c)."""
    return jax.vmap(lambda t: -jnp.expm1(-rates * jnp.exp(t)))(log_times(rates)).reshape(TIMES, rates.size)


def cosine(F: Array, O: Array) -> Array:
    """The cosine of two arrays of one shape, 0 where one vanishes."""
    return (F * O).sum() / positive(norm(F) * norm(O))


def norm(A: Array) -> Array:
    """The root of the sum of squares."""
    return root((A**2).sum())


def at_times(C: Array, O: Array, share: Array) -> Array:
    """Cosines of heads O (b, c) with a core C (c,), of which `share` (TIMES, c) is learnt by each time; (b, TIMES)."""
    sizes = _lengths(O)[:, None] * root(share**2 @ C**2)[None, :]
    return _products(O, C[None] * share) / positive(sizes)


def at_best_times(cores: Array, O: Array, share: Array) -> Array:
    """Cosines of many heads O (b, c) with cores (Q, c), each at its best time; (b, Q)."""
    cores, O, share = lax.stop_gradient((cores, O, share))
    return lax.map(lambda C: peak(at_times(C, O, share)), cores).T


def sizes(cores: Array, share: Array) -> Array:
    """How large what is learnt of cores (b, c) is by each time that is tried, (b, TIMES)."""
    return root(_products(cores**2, share**2))


def _products(rows: Array, of_times: Array) -> Array:
    """`rows of_times^T` of (b, c) and (TIMES, c), the last time apart: 32 at a time take a CPU half as long as 33."""
    return jnp.concatenate([rows @ times.T for times in (of_times[:-1], of_times[-1:])], axis=1)


def _lengths(rows: Array) -> Array:
    return root((rows**2).sum(axis=1))


def peak(cosines: Array) -> Array:
    """The highest of cosines (..., TIMES) at times evenly apart, between these by a parabola, (...)."""
    top = jnp.clip(cosines.argmax(axis=-1), 1, TIMES - 2)[..., None]
    before, here, after = (jnp.take_along_axis(cosines, top + i, axis=-1)[..., 0] for i in (-1, 0, 1))
    bend = 2 * here - before - after
    peak = here + jnp.where(bend > 0, (after - before) ** 2 / (8 * positive(bend)), 0)
    return jnp.where(jnp.abs(after - before) < 2 * bend, jnp.minimum(peak, 1), cosines.max(axis=-1))


def best_time(C: Array, rates: Array, O: Array, share: Array) -> tuple[Array, Array]:
    """The tau of largest cosine, on the grid of times, then refined; and whether the grid's ends do as well, (2,).

    Where the first or the last time comes as near, to OPEN, tau is no more than a bound, from above or from below.
    """
    C, rates, O, share = lax.stop_gradient((C, rates, O, share))
    grid, on_grid = log_times(rates), at_times(C.ravel(), O.reshape(1, -1), share)[0]

    def refine(_, state):
        t, distance = state
        times = t + jnp.array([0, -1, 1], t.dtype) * distance / 2
        return times[lax.map(lambda t: cosine(filtered(C, rates, jnp.exp(t)), O), times).argmax()], distance / 2

    t, _ = lax.fori_loop(0, 8, refine, (grid[on_grid.argmax()], grid[1] - grid[0]))
    return jnp.exp(t), on_grid.max() - on_grid[jnp.array([0, -1])] < OPEN
