"""What token moments make of each feature: what training pulls towards, and where it ends (T5, T17)."""

import jax.numpy as jnp
from jax import Array

from svtheory.frames import exact_products
from svtheory.optimum import Side, sides
from svtheory.scenarios import Scenario


def correlations(scenario: Scenario) -> tuple[Array, Array]:
    """What training pulls towards: columns `E[r f_i] = X C e_i`, shapes (D, N) and (D, M) (T17).

    C is the activation moment that the side sees (I without a law, V where it is centred: T6). The gradient at
    `Omega = 0` is `-M`, `M = sum_ij T_ij E[r f_i] E[s f_j]^T`, so these are the singular directions of a single pair at
    small training time.
    """
    query, key = sides(scenario)
    return pulled(query), pulled(key)


def probes(scenario: Scenario) -> tuple[Array, Array]:
    """The best linear probes of each feature, columns `A^+ E[r f_i]`, shapes (D, N) and (D, M) (T5).

    The singular directions of a fully trained single pair; without laws the dual frames `x~_i`, `y~_j` (T1). The
    optimum of full rank is `Omega* = sum_ij T_ij probe_i probe_j^T`.
    """
    query, key = sides(scenario)
    return probing(query), probing(key)


@exact_products
def pulled(side: Side) -> Array:
    """`E[r f_i] = U s readout` of one side, shape (D, N)."""
    return (side.inverse * side.scale[None, :] ** 2) @ side.readout


@exact_products
def probing(side: Side) -> Array:
    """`A^+ E[r f_i] = U s^+ readout` of one side, shape (D, N)."""
    return side.inverse @ side.readout


def eigenbasis(side: Side) -> Array:
    """U, the eigenvectors of a side's token moment as columns, shape (D, r); zero columns outside its range."""
    return side.inverse * side.scale[None, :]


def moment_bounds(side: Side) -> tuple[Array, Array]:
    """The extreme eigenvalues `(m, L)` of a side's token moment on its range; (0, 0) for the zero moment."""
    largest = side.scale[0]
    smallest = jnp.min(jnp.where(side.scale > 0, side.scale, largest))
    return smallest**2, largest**2


def is_tight(side: Side) -> Array:
    """Whether the token moment is a multiple of the identity on its range, to rounding."""
    m, L = moment_bounds(side)
    return L - m <= 100 * side.scale.size * jnp.finfo(side.scale.dtype).eps * L
