"""Token moments: what each side of a scenario sees of its activations, and what training makes of it (T5, T6, T17)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from svtheory.frames import dual_frame, exact_products, numerical_rank_tolerance
from svtheory.scenarios import Scenario
from svtheory.spectra import safe_svd


class Side(NamedTuple):
    """One side of a scenario in the eigenbasis of its token moment `A = U diag(s^2) U^T`, r = min(D, R).

    inverse  `U s^+`, shape (D, r)
    scale    s, shape (r,), falling
    readout  `P^T R^T`, shape (r, N): the template's coordinates

    All three are exactly 0 outside the range of A.
    """

    inverse: Array
    scale: Array
    readout: Array


def moment_roots(scenario: Scenario) -> tuple[Array | None, Array | None]:
    """Roots `R` (N, R) of the activation moments that the objective sees on query and key side; None stands for I.

    Squared objective: second moments (T5). Softmax: the key side sees the covariance; so does the query side when the
    head has a free key-only term, and otherwise it sees the second moment (T6).
    """
    if scenario.objective == "softmax":
        query = scenario.query_law.covariance_root if scenario.query_bias else scenario.query_law.second_moment_root
        return query(), scenario.key_law.covariance_root()
    query_law, key_law = scenario.query_law, scenario.key_law
    return query_law and query_law.second_moment_root(), key_law and key_law.second_moment_root()


@exact_products
def whitened_side(features: Array, root: Array | None) -> Side:
    """The Side of features (D, N) whose activations have moment `root root^T`."""
    Z = features if root is None else features @ root
    _, s, Pt = safe_svd(Z)
    inside = s > numerical_rank_tolerance(s, max(Z.shape))
    s, Pt = jnp.where(inside, s, 0), jnp.where(inside[:, None], Pt, 0)
    # U s^+ = (Z^T)^+ P, in the form whose derivative is true where values are equal, as in a tight frame
    return Side(dual_frame(Z) @ Pt.T, s, Pt if root is None else Pt @ root.T)


def sides(scenario: Scenario) -> tuple[Side, Side]:
    """Query and key Side of a scenario."""
    query_root, key_root = moment_roots(scenario)
    return whitened_side(scenario.query_features, query_root), whitened_side(scenario.key_features, key_root)


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
