"""Templates that are no matching: the basis that a head has in place of features (T20)."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.checks import InputError, flag, real_array, whole
from svtheory.numerics import root
from svtheory.spectra.spectra import Spectrum, spectrum_of


def order_spectrum(n: int, centred: bool | Literal["both"] = False, sign: bool = False) -> Spectrum:
    """The spectrum of `order(n)`, `T_ij = [i >= j]`, or with `sign` of `sign(i - j)`, in closed form (T20).

    As it is, or centred: over keys, as softmax sees it, or over "both", as with a query bias. With i, j from 1, angles
    a_k < pi/2 and phases c, right vectors are along `cos((2j - 1) a_k + c)`; left ones along `sin(2 i a_k + c)` with
    `sigma_k = 1/(2 sin a_k)`, or with `sign` along `sin((2i - 1) a_k + c)` with `sigma_k = cot a_k`:

    order, as it is    a_k = (2k - 1) pi/(4n + 2), c = 0: n pairs, entries of at most `2/sqrt(2n + 1)`
    over keys          a_k = k pi/(2n), c = 0: n - 1 pairs, discrete cosines of the order, falling like n/(k pi)
    sign, as it is     a_k = (2k - 1) pi/(2n), c = 0 and -pi/2: planes of equal values
    over both          a_k = k pi/n, c = 0 and -pi/2: Fourier planes; of the order of an even n also `1/2`, once,
                       at a_k = pi/2

    No feature is aligned: with orthonormal X and Y the head has these vectors carried by them, `X u_k` and `Y v_k`.
    `[i > j]` has the same ones, each left vector one place further on: those of n - 1 as it is, of n where centred.

    Shapes (n, K), K the rank, dtype JAX's default. Raises InputError where n is too small for any pair.

    >>> order_spectrum(1).values.tolist()
    [1.0]
    >>> [f"{value:.3f}" for value in order_spectrum(4, "both").values]
    ['0.707', '0.707', '0.500']
    """
    if not isinstance(centred, bool) and centred != "both":
        raise InputError(f"centred must be False, True (over keys) or 'both', got {centred!r}")
    both, planes = centred == "both", centred == "both" or (flag("sign", sign) and not centred)
    n = whole("n", n, 1 + (sign or centred is not False) + (sign and both))
    k = np.arange(1, n + 1)
    # a_k = pi top/bottom
    top, bottom = (k, n) if both else (k, 2 * n) if centred else (2 * k - 1, 2 * n if sign else 4 * n + 2)
    angle, phase = np.pi * top[2 * top < bottom] / bottom, np.zeros(1)
    if planes:
        angle, phase = np.repeat(angle, 2), np.tile([0, -np.pi / 2], len(angle))
    if both and not sign and n % 2 == 0:
        angle, phase = np.append(angle, np.pi / 2), np.append(phase, -np.pi / 2)
    half = 2 * k[:, None] - 1
    left = np.sin((half if sign else 2 * k[:, None]) * angle + phase)
    right = np.cos(half * angle + phase)
    values = 1 / (np.tan(angle) if sign else 2 * np.sin(angle))
    units = (x / np.linalg.norm(x, axis=0) for x in (left, right))
    left, right, values = (jax.device_put(x.astype(jnp.result_type(float))) for x in (*units, values))
    return spectrum_of(left, values, right)


def cyclic_spectrum(profile: Array) -> Spectrum:
    """The spectrum of `T_ij = g(i - j mod n)`: Fourier modes, with the sizes of g's (T20).

    With `g^_k = sum_d g(d) e^{-2 pi i k d/n}` the plane of `cos(2 pi k j/n)` and `sin(2 pi k j/n)`, 0 < k < n/2, has
    the value `|g^_k|` twice, its left vectors being the right ones turned by the phase of `g^_k`; k = 0, and k = n/2 of
    an even n, have theirs once. `shift(n, by)`, `g(-by mod n) = 1`, has all values 1. Centring takes k = 0 away:
    that is g less its mean.

    profile g (n,); shapes (n, n), values falling, zeros among them, dtype that of g. Raises InputError for what is no
    row of numbers.

    >>> [f"{value:.3f}" for value in cyclic_spectrum(jnp.array([0.0, 1.0, 0.5])).values]
    ['1.500', '0.866', '0.866']
    """
    g = real_array("profile", profile, ndim=1)
    n = whole("profile.size", g.size, 1)
    column = np.arange(n)
    k = (column + 1) // 2
    paired = (k > 0) & (2 * k < n)
    phase = np.where(paired & (column % 2 == 0), -np.pi / 2, 0)
    angle, length = 2 * np.pi / n * (column[:, None] * k % n) + phase, np.sqrt(np.where(paired, n / 2, n))
    return _turned(g, angle.astype(g.dtype), length.astype(g.dtype), k)


@jax.jit
def _turned(g: Array, angle: Array, length: Array, k: Array) -> Spectrum:
    mode = jnp.fft.fft(g)[k]
    size, turned = root(mode.real**2 + mode.imag**2), jnp.arctan2(mode.imag, mode.real)
    falling = jnp.argsort(-size, stable=True)
    left, right = (jnp.cos(x)[:, falling] / length[None, falling] for x in (angle + turned[None, :], angle))
    return spectrum_of(left, size[falling], right)
