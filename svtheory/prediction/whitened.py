"""Token moments: what each side of a scenario sees of its activations, and what training makes of it (T5, T6, T17)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.factorisations import safe_svd
from svtheory.laws import Law
from svtheory.numerics import exact_products
from svtheory.scenarios import Scenario

SAFETY = 8
"""How many roundings a direction must be away from zero to count as one."""


class Side(NamedTuple):
    """One side of a scenario in the eigenbasis of its token moment `A = U diag(s^2) U^T`, r = min(D, R).

    inverse   `U s^+`, shape (D, r)
    scale     s, shape (r,), falling
    readout   `P^T R^T`, shape (r, N): the template's coordinates
    rotation  `P^T`, shape (r, R)
    root      `R^T`, shape (R, N); None stands for I
    doubtful  `s^-1 P^T R^T` of directions that were dropped though rounding need not have made them, shape (r, N)
    rounding  how far rounding may have moved `X R`, spectral norm, a scalar

    The first three are exactly 0 outside the range of A, whose directions are at least 8 roundings large, so that none
    is in it by accident. What is smaller, but larger than rounding makes of an exact zero, is doubtful.
    """

    inverse: Array
    scale: Array
    readout: Array
    rotation: Array
    root: Array | None
    doubtful: Array
    rounding: Array

    def untold(self, columns: Array) -> Array:
        """`(1 - P P^T) R^T columns`: the part of activations' `columns` (N, K) that no token tells, shape (R, K)."""
        seen = columns if self.root is None else self.root @ columns
        return seen - self.rotation.T @ (self.readout @ columns)

    def reach(self) -> Array:
        """`1/s` of the smallest direction within the range, 0 for the zero moment: what rounding is multiplied by."""
        return jnp.where(self.scale > 0, 1 / jnp.where(self.scale > 0, self.scale, 1), 0).max()


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
def whitened_side(features: Array, root: Array | None, root_rounding: Array | float = 0.0) -> Side:
    """The Side of features (D, N) whose activations have moment `root root^T`.

    Rounding scales with the terms of `X R`, not with their sum: a mean that all features share cancels in tokens that
    are centred, its rounding does not. So does rounding of the root itself, spectral norm `root_rounding`.
    """
    Z = features if root is None else features @ root
    terms = (features**2).sum() if root is None else ((features**2).sum(axis=0) * (root**2).sum(axis=1)).sum()
    inherited = root_rounding * jnp.sqrt((features**2).sum())
    return _side(Z, None if root is None else root.T, terms, inherited)


@exact_products
def biased_side(features: Array, law: Law) -> Side:
    """The query Side with a bias to train: that of `(r; 1)` instead of r, inverse and all without the last row (T7).

    The 1 is scaled to the size of r, which changes no regression.
    """
    root = law.second_moment_root()
    tokens = features @ root
    squared = (tokens**2).sum()
    constant = jnp.zeros_like(tokens[:1]).at[0, -1].set(jnp.sqrt(jnp.where(squared > 0, squared, 1)))
    terms = ((features**2).sum(axis=0) * (root**2).sum(axis=1)).sum() + squared
    inherited = law.root_rounding() * jnp.sqrt((features**2).sum())
    side = _side(jnp.concatenate([tokens, constant]), root.T, terms, inherited)
    return side._replace(inverse=side.inverse[:-1])


def _side(Z: Array, root: Array | None, terms: Array, inherited: Array) -> Side:
    """The Side of `Z = X R` (D, R), given `R^T` and what |Z|^2 would be if no terms cancelled."""
    squared = (Z**2).sum()
    cancelled = jnp.sqrt(jnp.maximum(terms / jnp.where(squared > 0, squared, 1), 1))
    share = lax.stop_gradient(max(Z.shape) * jnp.finfo(Z.dtype).eps * cancelled)
    inverse, s, Pt = _whitened(Z, share)
    inside = s > share * s[0]
    doubtful = ~inside & (s > _zero_share(Z) * lax.stop_gradient(cancelled) * s[0])
    readout = Pt if root is None else Pt @ root
    return Side(
        inverse,
        jnp.where(inside, s, 0),
        jnp.where(inside[:, None], readout, 0),
        rotation=Pt,
        root=root,
        doubtful=jnp.where(doubtful[:, None], readout / jnp.where(doubtful, s, 1)[:, None], 0),
        rounding=lax.stop_gradient(share * s[0] / SAFETY + inherited),
    )


def _zero_share(Z: Array) -> float:
    """The share of `s[0]` that rounding makes of exact zeros: 98 of 100 seen from D, N = 2, 3 to 64, 200 are below."""
    return max(0.5, max(Z.shape) ** 0.5 / 10) * float(jnp.finfo(Z.dtype).eps)


@jax.custom_jvp
def _whitened(Z: Array, share: Array) -> tuple[Array, Array, Array]:
    """`U s^+`, s and `P^T` of `Z = U diag(s) P^T`; values up to `share * s[0]` have no inverse.

    `U s^+ = (Z^T)^+ P` has the derivative of that product, true where values are equal, as in a tight frame.
    """
    U, s, Pt = safe_svd(Z)
    inside = s > share * s[0]
    return U * jnp.where(inside, 1 / jnp.where(inside, s, 1), 0)[None, :], s, Pt


@_whitened.defjvp
@exact_products
def _whitened_jvp(primals, tangents):
    (Z, share), (dZ, _) = primals, tangents
    inverse, s, Pt = _whitened(Z, share)
    _, ds, dPt = jax.jvp(safe_svd, (Z,), (dZ,))[1]
    dual = inverse @ Pt
    turned = dZ @ dual.T @ dual
    d_dual = -dual @ dZ.T @ dual
    d_dual += turned - Z @ (dual.T @ turned) + (dual @ dual.T @ dZ) - (dual @ dual.T @ dZ) @ dual.T @ Z
    return (inverse, s, Pt), (d_dual @ Pt.T + dual @ dPt.T, ds, dPt)


def sides(scenario: Scenario) -> tuple[Side, Side]:
    """Query and key Side of a scenario."""
    X, Y, laws = scenario.query_features, scenario.key_features, (scenario.query_law, scenario.key_law)
    query_rounding, key_rounding = (0.0 if law is None else law.root_rounding() for law in laws)
    query_root, key_root = moment_roots(scenario)
    return whitened_side(X, query_root, query_rounding), whitened_side(Y, key_root, key_rounding)


def has_query_bias(scenario: Scenario) -> bool:
    """Whether the objective sees a query bias: a squared one does not."""
    return scenario.objective == "softmax" and scenario.query_bias


def narrow_sides(scenario: Scenario) -> tuple[Side, Side]:
    """Query and key Side as a head sees them that is too narrow for all modes: a bias takes its share of them (T7)."""
    query, key = sides(scenario)
    if has_query_bias(scenario):
        query = biased_side(scenario.query_features, scenario.query_law)
    return query, key


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
