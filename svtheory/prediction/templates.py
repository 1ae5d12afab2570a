"""Templates that are no matching: the basis that a head has in place of features (T20)."""

import jax.numpy as jnp
import numpy as np

from svtheory.checks import flag, whole
from svtheory.spectra.spectra import Spectrum, spectrum_of


def order_spectrum(n: int, centred: bool = False) -> Spectrum:
    """The spectrum of `order(n)`, `T_ij = [i >= j]`, in closed form; of `T (I - 11^T/n)` where centred over keys (T20).

    With i, j from 1, `sigma_k = 1/(2 sin a_k)`, `a_k = (2k - 1) pi/(4n + 2)`, left `sin(2 a_k i)` and right
    `cos(2 a_k (j - 1/2))` times `2/sqrt(2n + 1)`, k = 1..n: no feature is aligned, `|cos| <= 2/sqrt(2n + 1)`.
    Centred over keys, as softmax sees it, `a_k = k pi/(2n)`, the same sines and cosines times `sqrt(2/n)`,
    k = 1..n - 1: discrete cosines of the order, falling like `n/(k pi)`. With orthonormal features X and Y the head
    has these vectors carried by them, `X u_k` and `Y v_k`.

    Shapes (n, K), dtype JAX's default. Raises InputError for n below 1, or below 2 where centred.

    >>> order_spectrum(1).values.tolist()
    [1.0]
    """
    n = whole("n", n, 2 if flag("centred", centred) else 1)
    k = np.arange(1, n if centred else n + 1)
    angle = k * np.pi / (2 * n) if centred else (2 * k - 1) * np.pi / (4 * n + 2)
    length = np.sqrt(2 / n) if centred else 2 / np.sqrt(2 * n + 1)
    i = np.arange(1, n + 1)[:, None]
    left, right = np.sin(2 * angle * i), np.cos(2 * angle * (i - 0.5))
    return spectrum_of(*(jnp.asarray(x, float) for x in (length * left, 1 / (2 * np.sin(angle)), length * right)))
