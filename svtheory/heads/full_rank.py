"""Full rank: how sparse the decisions of Gaussian heads are, the chance level of a head without any structure.

Random heads of a head's spectrum (svtheory.heads.random_heads) keep its singular values. A head that is sparser than
Gaussian heads, but not than those, owes it to a low rank: to few large singular values, whatever their vectors are.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import whole
from svtheory.factorisations import safe_svd
from svtheory.heads.random_frames import Factor, on_frame
from svtheory.heads.read_together import ReadTogether, sparseness_on_frames
from svtheory.numerics import exact_products, inverse


def full_rank_sparseness(together: ReadTogether, key: Array, draws: int) -> Array:
    """Mean S of the decisions of Gaussian heads on the tokens that heads read together, shape (heads, draws).

    Their factors have independent Gaussian entries, and the Frobenius norms of the head's; its biases, rotary maps and
    the rule by which the key is chosen are kept. S is that of the raw reading, as in `sparseness_test`, and NaN where
    nothing is decided. `together` is what `read_together` makes; one draw serves all of its heads, whose dtype is
    followed. Raises InputError for fewer than one draw.
    """
    return _full_rank_sparseness(together, key, whole("draws", draws, 1))


@partial(jax.jit, static_argnames=("draws",))
@exact_products
def _full_rank_sparseness(together: ReadTogether, key: Array, draws: int) -> Array:
    like, H = together.like, together.heads.head.W_Q.shape[-2]

    def drawn(key, side):
        """A frame E and the factor L on it of `W = L E^T`, W (H, d) of independent entries."""
        E, R = jnp.linalg.qr(jax.random.normal(key, (side.coordinates.shape[1], H), like.query.dtype))
        return E, Factor(R.T, jnp.linalg.pinv(R.T), None)

    def draw(key):
        first, second = jax.random.split(key)
        (E, query), (F, keys) = drawn(first, together.raw[0]), drawn(second, together.raw[1])
        tokens = on_frame(together.raw[0], E, like.query.shape), on_frame(together.raw[1], F, like.keys.shape)
        U, values, Vt = safe_svd(query.matrix.T @ keys.matrix)

        def of_head(head):
            factors = _of_size(query, head.raw[0]), _of_size(keys, head.raw[1])
            size = jnp.linalg.norm(factors[0].matrix.T @ factors[1].matrix) / jnp.linalg.norm(values)
            root = jnp.sqrt(size * values)[None, :]
            return jnp.nanmean(sparseness_on_frames(together, head.head, tokens, factors, [(U * root, Vt.T * root)]))

        return lax.map(of_head, together.heads)

    return lax.map(draw, jax.random.split(key, draws)).T


def _of_size(drawn: Factor, own: Factor) -> Factor:
    """A factor with the Frobenius norm and the bias of a head's own."""
    size = jnp.linalg.norm(own.matrix) / jnp.linalg.norm(drawn.matrix)
    return Factor(size * drawn.matrix, inverse(size) * drawn.inverse, own.shift)
