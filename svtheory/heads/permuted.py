"""Permuted templates: what else a hypothesis might have asked for, the columns of its templates deranged (T16).

A permutation turns all members of a family alike. Those that another has made already, and templates that the
hypothesis holds itself, are no rivals.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.heads.asked import Asked, Layout, Templates, readouts
from svtheory.heads.batches import in_batches
from svtheory.heads.fitted_time import norm, peak, sizes
from svtheory.numerics import positive


def permuted_templates(key: Array, draws: int, O: Array, given: Templates, asked: Asked, layout: Layout) -> Array:
    """Functional cosines of heads O (h, r, r') with permuted families, each at its best time and member, (h, A, draws).

    NaN for repetitions, and for all of a hypothesis with fewer than two key features.
    """
    O, given, asked = lax.stop_gradient((O, given, asked))
    share, lengths = asked.share, jax.vmap(norm)(O)
    at_times = share.reshape(-1, *asked.rates.shape)
    of_orders, of_codes = jax.random.split(key)
    keys, size = jax.random.split(of_orders, len(layout.widths)), given.key.shape[2]
    widths = jnp.array(layout.widths, jnp.uint32)
    orders = lax.map(lambda of: derangements(of[0], draws, of[1], size), (keys, widths))
    new = new_templates(of_codes, given.templates, orders, layout)
    left, right = readouts(asked.query, asked.key, given, layout)

    def of_member(member):
        asking, right, orders, new = member
        # core `sum_m asking[order[m]] right[m]^T`: its products with a head are sums over M of M x M numbers
        pairs = lax.map(lambda O: asking @ (O[None] * at_times) @ right[None], O)  # (h, TIMES, M, M)

        def rivals(orders):
            cores = (asking[orders].swapaxes(1, 2) @ right.T[None]).reshape(len(orders), -1)
            products = pairs[:, :, orders, jnp.arange(orders.shape[1])[None]].sum(axis=3).swapaxes(1, 2)
            return peak(products / positive(sizes(cores, share)[None] * lengths[:, None, None]))

        some = in_batches(orders, 1 + 2**21 // share.shape[1])
        found = lax.map(rivals, some).swapaxes(0, 1).reshape(len(O), -1)
        return jnp.where(new[None], found[:, : len(new)], -jnp.inf)

    cosines = lax.map(of_member, ((left @ given.templates).swapaxes(1, 2), right, orders[layout.owner], new))
    best = layout.best(cosines.transpose(1, 2, 0))  # (h, draws, A)
    return jnp.where(jnp.isfinite(best), best, jnp.nan).swapaxes(1, 2)


def derangements(key: Array, draws: int, n: Array | int, size: int) -> Array:
    """Uniform permutations of `size` things that leave none of the first n in its place, and all others, (draws, size).

    Of fewer than two there is none: all stay. A third of permutations or more are derangements, so that of four times
    as many, and 64, enough are: one sort, where trying again would sort all as often as the unluckiest needs.
    """
    places, n = jnp.arange(size, dtype=jnp.uint32)[None], jnp.asarray(n, jnp.uint32)
    room = jnp.uint32((1 << (size - 1).bit_length()) - 1)
    bits = jax.random.bits(key, (4 * draws + 64, size), jnp.uint32)
    # numbers that bring their place with them; those that stay come last, in their order
    drawn = jnp.where(places < n, ((bits >> 1) & ~room) | places, jnp.uint32(1 << 31) | places)
    orders = jnp.sort(drawn, axis=1) & room
    fixed = ((orders == places) & (places < n)).any(axis=1)
    deranged = orders[jnp.argsort(fixed, stable=True)[:draws]].astype(int)
    return jnp.where(n < 2, places.astype(int), deranged)


def new_templates(key: Array, T: Array, orders: Array, layout: Layout) -> Array:
    """Whether `T_p[:, order]` is no member of its family and of no earlier order's, for orders (A, n, M); (Q, n).

    Templates are told apart by codes of 64 random bits: equal ones share theirs, others do so once in `2^64/(n Q)^2`.
    """
    of_entry, of_place, of_member = jax.random.split(key, 3)
    columns = _codes(of_entry, T.swapaxes(1, 2))
    itself = jnp.broadcast_to(jnp.arange(T.shape[2]), (len(orders), 1, T.shape[2]))
    orders = jnp.concatenate([itself, orders], axis=1)[layout.owner]
    places = jax.random.bits(of_place, (T.shape[2], 2), jnp.uint32)
    codes = lax.map(lambda at: (at[0][at[1]] * places[None]).sum(axis=1, dtype=jnp.uint32), (columns, orders))
    rows, at = layout.rows
    weights = jax.random.bits(of_member, (rows.shape[1], 2), jnp.uint32)
    return lax.map(lambda codes: _new(codes, weights), codes[rows]).reshape(-1, orders.shape[1] - 1)[at]


def _new(codes: Array, weights: Array) -> Array:
    """The same of one family, from the codes (P, 1 + n, 2) of its members in their own order and in others; (P, n)."""
    held = (codes[:, :, None] == codes[:, 0][None, None]).all(axis=-1).any(axis=2)
    families = (codes * weights[:, None]).sum(axis=0, dtype=jnp.uint32)
    order = jnp.lexsort(families.T)  # stable: the hypothesis itself, then earlier orders, come first among equals
    repeated = (families[order][1:] == families[order][:-1]).all(axis=1)
    first = jnp.ones(len(order), bool).at[order[1:]].set(~repeated)
    return (first[None] & ~held)[:, 1:]


def _codes(key: Array, x: Array) -> Array:
    """64 bits for each row of numbers x (..., N), shape (..., 2): the same for the same row."""
    words = lax.bitcast_convert_type(x + 0.0, jnp.uint32).reshape(*x.shape[:-1], -1)  # -0 is 0
    codes = words[..., None] ^ jax.random.bits(key, (words.shape[-1], 2), jnp.uint32).reshape(
        (1,) * (x.ndim - 1) + (-1, 2)
    )
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):  # bits of an entry mixed well: Wellons' hash
        codes = (codes ^ (codes >> shift)) * jnp.uint32(factor)
    return codes.sum(axis=-2, dtype=jnp.uint32)
