"""Rotary positions: what a RoPE head can make of a target at every offset (T13).

A head rotates plane h of its queries and keys by `theta_h` times their positions, so a logit depends on the offset
`d = query position - key position` alone: `Omega_d = Re sum_h e^{-i theta_h d} z_h w_h^T`, one complex rank-one term a
frequency. Losses are squared, offsets independent of activations.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checks import InputError, concrete, held, instance, one_of, real_array
from svtheory.factorisations import safe_svd
from svtheory.numerics import exact_products, numerical_rank_tolerance
from svtheory.prediction.optimum import predict
from svtheory.pytrees import pytree
from svtheory.scenarios import Scenario
from svtheory.spectra.spectra import Spectrum

PAIRINGS = ("adjacent", "half-split")


@pytree()
@dataclass(frozen=True)
class RotaryHead:
    """A head as complex rank-one terms `z_h w_h^T`, one a rotated plane; unrotated planes have frequency 0.

    query        z_h as rows, shape (H/2, D), complex: `a - ib` of the two rows a, b of W_Q that span plane h
    key          w_h as rows, shape (H/2, D'), complex: `a + ib` of the rows of W_K
    frequencies  theta_h in radians a position, shape (H/2,)
    """

    query: Array
    key: Array
    frequencies: Array

    def at(self, offset: Array | float) -> tuple[Array, Array]:
        """Real factors `(W_Q, W_K)` of Omega_d, shapes (H, D) and (H, D'), at one offset d.

        `spectrum(*head.at(d))` is the head's spectrum there.
        """
        angle = self.frequencies * offset
        key = self.key * lax.complex(jnp.cos(angle), -jnp.sin(angle))[:, None]
        return jnp.concatenate([self.query.real, -self.query.imag]), jnp.concatenate([key.real, key.imag])

    @exact_products
    def omega(self, offset: Array | float) -> Array:
        """`Omega_d = Re sum_h e^{-i theta_h d} z_h w_h^T`, shape (D, D'), at one offset d."""
        W_Q, W_K = self.at(offset)
        return held("W_Q and W_K", W_Q.T @ W_K)


def rotary_head(W_Q: Array, W_K: Array, frequencies: Array, pairing: str) -> RotaryHead:
    """The complex rank-one form of a RoPE head with factors (H, D) and (H, D'), H even (T13).

    frequencies (R/2,) rotate the first R <= H rows; the others are unrotated. `pairing` says which of those R rows span
    a plane: "adjacent" rows 2h and 2h + 1, "half-split" rows h and h + R/2.
    Raises InputError for an odd H, factors that disagree, too many frequencies or an unknown pairing.

    >>> head = rotary_head(jnp.eye(2), jnp.eye(2), jnp.array([jnp.pi / 2]), "adjacent")
    >>> head.omega(1).round().astype(int).tolist()  # the key is turned back by a quarter
    [[0, 1], [-1, 0]]
    """
    W_Q, W_K = real_array("W_Q", W_Q, ndim=2), real_array("W_K", W_K, ndim=2)
    theta = real_array("frequencies", frequencies, ndim=1)
    H = W_Q.shape[0]
    if H % 2:
        raise InputError(f"W_Q must have an even number of rows, got shape {W_Q.shape}")
    if W_K.shape[0] != H:
        raise InputError(f"W_K must have {H} rows, the head dimension of W_Q, got shape {W_K.shape}")
    if 2 * theta.size > H:
        raise InputError(f"frequencies must be at most {H // 2}, one for two of the {H} rows of W_Q, got {theta.size}")
    R = 2 * theta.size
    rows = np.arange(H)
    if one_of("pairing", pairing, PAIRINGS) == "half-split":
        rows[:R] = rows[:R].reshape(2, -1).T.ravel()
    (q_a, q_b), (k_a, k_b) = (W[rows].reshape(-1, 2, W.shape[1]).swapaxes(0, 1) for W in (W_Q, W_K))
    theta = jnp.pad(theta.astype(W_Q.dtype), (0, H // 2 - theta.size))
    return RotaryHead(lax.complex(q_a, -q_b), lax.complex(k_a, k_b), theta)


def projected_profile(profile: Array, frequencies: Array, offsets: Array, weights: Array | None = None) -> Array:
    """`g^`: the weighted projection of a profile g(d) on `span{cos theta_h d, sin theta_h d}`, shape (n,) (T13).

    Profile, offsets and their weights, the distribution of offsets (uniform when left out), have shape (n,), the
    frequencies (P,). Raises InputError for shapes that disagree or weights that are not positive.

    >>> projected_profile(jnp.ones(4), jnp.zeros(1), jnp.arange(4.0)).round(4).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    offsets, weights = _offsets(offsets, weights)
    g, theta = real_array("profile", profile, ndim=1), real_array("frequencies", frequencies, ndim=1)
    if g.shape != offsets.shape:
        raise InputError(f"profile must have shape {offsets.shape}, one value an offset, got {g.shape}")
    return _projected(g, theta, offsets, weights)


@jax.jit
@exact_products
def _projected(g: Array, theta: Array, offsets: Array, weights: Array) -> Array:
    angles = offsets[:, None] * theta[None, :]
    root = jnp.sqrt(weights)
    U, values, _ = safe_svd(root[:, None] * jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1))
    U = jnp.where((values > numerical_rank_tolerance(values, max(angles.shape)))[None, :], U, 0)
    return U @ (U.T @ (root * g)) / root


def rotary_spectra(
    scenario: Scenario, profile: Array, frequencies: Array, offsets: Array, weights: Array | None = None
) -> Spectrum:
    """The spectra that theory predicts for a RoPE head asked for `g(d) T`, T a single pair, stacked over offsets (T13).

    `Omega_d = g^(d) Omega*`, Omega* the scenario's optimum: at every offset the singular vectors of `predict(scenario)`
    and `sigma(d) = |g^(d)| sigma*`; the sign of g^ goes into u. Shapes (n, D, K), (n, K), (n, D, K) and (n, K).
    Profile, frequencies, offsets and weights as for `projected_profile`.
    Raises InputError for a target of more than one pair, a softmax objective or weight decay (while JAX traces the
    target or the decay, values are NaN instead).
    """
    instance("scenario", scenario, Scenario)
    if scenario.objective != "square":
        raise InputError(f"scenario must have the square objective, got {scenario.objective!r}")
    covered = _is_covered(scenario)
    if concrete(covered) and not covered:
        raise InputError("scenario must have a target of one pair and no weight decay, got one that has not")
    profile = projected_profile(profile, frequencies, offsets, weights)
    return _at_offsets(predict(scenario), profile, covered)


@jax.jit
def _is_covered(scenario: Scenario) -> Array:
    return (jnp.count_nonzero(scenario.target) <= 1) & (scenario.weight_decay == 0)


@jax.jit
def _at_offsets(best: Spectrum, profile: Array, covered: Array) -> Spectrum:
    sign = jnp.where(profile < 0, -1, 1).astype(profile.dtype)
    size = jnp.where(covered, jnp.abs(profile), jnp.nan)
    return jax.vmap(lambda sign, size: Spectrum(sign * best.left, size * best.values, best.right, size * best.gaps))(
        sign, size
    )


def plane_cost(frequency: Array | float, offsets: Array, weights: Array | None = None, strength: float = 1.0) -> Array:
    """What two equal pairs cost one rotated plane: the least `E_d |Omega_d - T|_F^2`, T with two values t (T13).

    `min(2 t^2 (1 - |E e^{i theta d}|^2), t^2 (2 - E g^(d)^2))`: both pairs in one rotating term, or one pair as well as
    `g^`, the projection of 1 on `span{cos theta d, sin theta d}`, holds it, and the other not at all. Near 0 where
    `theta d` stays small: a plane then has room for two pairs, a head of H rows for H of them; where the second is
    less, a plane holds one, and the head H/2. There is no factor 1/2 in this loss; features are orthonormal. Offsets
    and weights as for `projected_profile`.

    >>> [round(float(plane_cost(theta, jnp.arange(16.0))), 4) for theta in (0.01, 0.05, 0.3)]
    [0.0042, 0.104, 1.7978]
    """
    offsets, weights = _offsets(offsets, weights)
    frequency = real_array("frequency", frequency, ndim=0).astype(offsets.dtype)
    return _plane_cost(frequency, offsets, weights, strength)


@jax.jit
@exact_products
def _plane_cost(frequency: Array, offsets: Array, weights: Array, strength: Array | float) -> Array:
    angle = frequency * (offsets - weights @ offsets)
    # 1 - |E e^{ia}|^2 = slip (2 - slip) - (E sin a)^2, which keeps its digits where angles are small
    slip = 2 * weights @ jnp.sin(angle / 2) ** 2
    incoherence = slip * (2 - slip) - (weights @ jnp.sin(angle)) ** 2
    held = weights @ _projected(jnp.ones_like(offsets), jnp.atleast_1d(frequency), offsets, weights) ** 2
    return strength**2 * jnp.minimum(2 * incoherence, 2 - held)


def _offsets(offsets: Array, weights: Array | None) -> tuple[Array, Array]:
    """Offsets and their weights, normalised."""
    offsets = real_array("offsets", offsets, ndim=1)
    weights = jnp.ones_like(offsets) if weights is None else real_array("weights", weights, ndim=1)
    if weights.shape != offsets.shape:
        raise InputError(f"weights must have shape {offsets.shape}, one an offset, got {weights.shape}")
    if concrete(weights) and not (np.asarray(weights) > 0).all():
        raise InputError(f"weights must be positive, got {np.asarray(weights).min()}")
    return offsets, weights / weights.sum()
