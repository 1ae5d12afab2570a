"""White noise: what is left of a mode of a head beside noise of its own size, and where nothing is (T21).

Where a squared residual is independent of the tokens, least squares on n contexts adds to the whitened head, D x D', a
matrix of independent entries of one variance. Then not only the first order in it is known (Benaych-Georges and
Nadakuditi 2012): in the limit of large D and D', at a fixed D/D', a mode below a threshold leaves no trace in the
singular vectors.
"""

import jax.numpy as jnp
from jax import Array

from svtheory.checks import InputError, concrete, real_array, whole
from svtheory.numerics import positive, root


def noise_deviation(variance: Array | float, n: Array | int, shape: tuple[int, int]) -> Array:
    """`nu = sqrt(E e^2/(n - D D'))`, the standard deviation of an entry of the whitened head after n contexts (T21).

    The residual e, of the given `variance`, is independent of the tokens. The mean of `(Z^T Z)^{-1}` over n rows Z of D
    D' independent normal entries is `I/(n - D D' - 1)`; products of whitened tokens are such rows as far as D and D'
    are large. Broadcasts variance and n, follows their dtype. Infinite where n is at most D D', where no head is
    determined. Raises InputError for a negative variance and a shape that is no two numbers of at least 1.

    >>> float(noise_deviation(4.0, 116, (4, 4)))
    0.20000000298023224
    """
    variance, n = real_array("variance", variance), real_array("n", n)
    if concrete(variance) and bool((variance < 0).any()):
        raise InputError(f"variance must be at least 0, got {variance}")
    D, D_k = _shape(shape)
    over = n - D * D_k
    return jnp.where(over > 0, root(variance / positive(over)), jnp.inf)


def hiding_threshold(deviation: Array | float, shape: tuple[int, int]) -> Array:
    """`nu (D D')^{1/4}`: noise of this `deviation` nu hides every mode whose value is below it (T21).

    Follows the dtype and shape of the deviation. Raises InputError for a shape that is no two numbers of at least 1.

    >>> float(hiding_threshold(0.5, (4, 4)))
    1.0
    """
    D, D_k = _shape(shape)
    return real_array("deviation", deviation, endless=True) * (D * D_k) ** 0.25


def cosines_in_noise(value: Array | float, deviation: Array | float, shape: tuple[int, int]) -> tuple[Array, Array]:
    """`cos^2` of the first singular vectors with those of the mode that noise is added to, left and right (T21).

    With `theta^2 = sigma~^2/(nu^2 D')` and `c = D/D'`, above the threshold `theta^4 = c`

        cos^2_u = 1 - c (1 + theta^2)/(theta^2 (theta^2 + c)),   cos^2_v = 1 - (c + theta^2)/(theta^2 (theta^2 + 1)),

    and 0 below it: the limit of large D and D', where chance is 0 too. To first order in the noise `1 - cos^2_u` is
    `nu^2 D/sigma~^2`, and `1 - cos^2_v` is `nu^2 D'/sigma~^2`; for D = D' the first order is all.

    Args:
        value: sigma~, the mode's singular value in whitened coordinates.
        deviation: nu, as `noise_deviation` gives it; broadcast with value.
        shape: (D, D') of the whitened head.

    Follows the dtype of value and deviation; without noise both are 1. Raises InputError for a shape that is no two
    numbers of at least 1.

    >>> [float(x) for x in cosines_in_noise(2.0, 0.5, (4, 4))]
    [0.75, 0.75]
    """
    value, deviation = real_array("value", value), real_array("deviation", deviation, endless=True)
    D, D_k = _shape(shape)
    signal, noise, c = value**2, deviation**2 * D_k, D / D_k  # theta^2 is signal over noise, which may be 0
    seen = signal**2 > c * noise**2
    s, bounded = jnp.where(seen, signal, 1), jnp.where(seen, noise, 0)
    left = 1 - c * bounded * (bounded + s) / (s * (s + c * bounded))
    right = 1 - bounded * (c * bounded + s) / (s * (s + bounded))
    return jnp.where(seen, left, 0), jnp.where(seen, right, 0)


def _shape(shape: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise InputError(f"shape must be (D, D'), got {shape!r}")
    return whole("shape", shape[0], 1), whole("shape", shape[1], 1)
