"""Whitened: both sides of a scenario in the eigenbases of their token moments, and what is asked there (T5, T6, T17).

A side's token moment is a square, `A = Z Z^T`, `Z = X R = U diag(s) P^T`, of features X and a root R of the moment of
their activations; of samples, `Z` are the tokens and `R^T` the activations, one a sample (T16).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import instance
from svtheory.factorisations import safe_svd
from svtheory.laws import Law
from svtheory.numerics import exact_products, inverse, numerical_rank_tolerance, positive, root, scaled
from svtheory.scenarios import Scenario
from svtheory.spectra.balanced import Root

SAFETY = 8
"""How many roundings a direction must be away from zero to count as one."""


class Side(NamedTuple):
    """One side of a scenario in the eigenbasis of its token moment `A = U diag(s^2) U^T`, r = min(D, R).

    basis     U, shape (D, r)
    inverse   `U s^+`, shape (D, r)
    scale     s, shape (r,), falling
    readout   `P^T R^T`, shape (r, N): the template's coordinates
    rotation  `P^T`, shape (r, R)
    root      `R^T`, shape (R, N); None stands for I
    doubtful  `s^-1 P^T R^T` of directions that were dropped though rounding need not have made them, shape (r, N)
    rounding  how far rounding may have moved `X R`, spectral norm, a scalar

    Inverse, scale and readout are exactly 0 outside the range of A, whose directions are at least 8 roundings large, so
    that none is in it by accident. What is smaller, but larger than rounding makes of an exact zero, is doubtful.
    """

    basis: Array
    inverse: Array
    scale: Array
    readout: Array
    rotation: Array
    root: Array | None
    doubtful: Array
    rounding: Array

    @property
    @exact_products
    def correlations(self) -> Array:
        """`E[r f_i] = U s readout`, shape (D, N)."""
        return (self.inverse * self.scale[None, :] ** 2) @ self.readout

    @property
    @exact_products
    def probes(self) -> Array:
        """`A^+ E[r f_i] = U s^+ readout`, shape (D, N)."""
        return self.inverse @ self.readout

    @property
    def moment(self) -> Root:
        """The token moment A by its principal axes."""
        return Root(self.basis, self.scale)

    def untold(self, columns: Array) -> Array:
        """`(1 - P P^T) R^T columns`: the part of activations' `columns` (N, K) that no token tells, shape (R, K)."""
        seen = columns if self.root is None else self.root @ columns
        return seen - self.rotation.T @ (self.readout @ columns)

    def reach(self) -> Array:
        """`1/s` of the smallest direction within the range, 0 for the zero moment: what rounding is multiplied by."""
        return inverse(self.scale).max()

    def bounds(self) -> tuple[Array, Array]:
        """The extreme eigenvalues `(m, L)` of A on its range; (0, 0) for the zero moment."""
        largest = self.scale[0]
        smallest = jnp.min(jnp.where(self.scale > 0, self.scale, largest))
        return smallest**2, largest**2


class Whitened(NamedTuple):
    """Both sides in the eigenbases of their token moments A and B, and the template T (N, M) between them."""

    query: Side
    key: Side
    target: Array

    @property
    @exact_products
    def core(self) -> Array:
        """What the template asks for in whitened coordinates, `G = (P^T R^T) T (R' P')`, shape (r, r')."""
        return self.query.readout @ self.target @ self.key.readout.T

    @property
    def eigenvalues(self) -> Array:
        """`lam_a mu_b`, by which the flow learns each entry of the core, shape (r, r') (T17)."""
        return (self.query.scale**2)[:, None] * (self.key.scale**2)[None, :]

    @exact_products
    def unwhitened(self, core: Array) -> Array:
        """The head of a core (r, r'): `(U s^+) G (U' s'^+)^T`, shape (D, D')."""
        return self.query.inverse @ core @ self.key.inverse.T

    def is_tight(self) -> Array:
        """Whether both token moments are multiples of the identity on their ranges, to rounding."""
        return _is_tight(self.query) & _is_tight(self.key)


def _is_tight(side: Side) -> Array:
    m, L = side.bounds()
    return L - m <= 100 * side.scale.size * jnp.finfo(side.scale.dtype).eps * L


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
    constant = jnp.zeros_like(tokens[:1]).at[0, -1].set(jnp.sqrt(positive(squared)))
    terms = ((features**2).sum(axis=0) * (root**2).sum(axis=1)).sum() + squared
    inherited = law.root_rounding() * jnp.sqrt((features**2).sum())
    side = _side(jnp.concatenate([tokens, constant]), root.T, terms, inherited)
    return side._replace(basis=side.basis[:-1], inverse=side.inverse[:-1])


def _side(Z: Array, root: Array | None, terms: Array, inherited: Array) -> Side:
    """The Side of `Z = X R` (D, R), given `R^T` and what |Z|^2 would be if no terms cancelled."""
    squared = (Z**2).sum()
    cancelled = jnp.sqrt(jnp.maximum(terms / positive(squared), 1))
    share = lax.stop_gradient(max(Z.shape) * jnp.finfo(Z.dtype).eps * cancelled)
    U, whitening, s, Pt = _whitened(Z, share)
    inside = s > share * s[0]
    doubtful = ~inside & (s > _zero_share(Z) * lax.stop_gradient(cancelled) * s[0])
    readout = Pt if root is None else Pt @ root
    return Side(
        U,
        whitening,
        jnp.where(inside, s, 0),
        jnp.where(inside[:, None], readout, 0),
        rotation=Pt,
        root=root,
        doubtful=inverse(s, doubtful)[:, None] * readout,
        rounding=lax.stop_gradient(share * s[0] / SAFETY + inherited),
    )


def _zero_share(Z: Array) -> float:
    """The share of `s[0]` that rounding makes of exact zeros: 98 of 100 seen from D, N = 2, 3 to 64, 200 are below."""
    return max(0.5, max(Z.shape) ** 0.5 / 10) * float(jnp.finfo(Z.dtype).eps)


@jax.custom_jvp
def _whitened(Z: Array, share: Array) -> tuple[Array, Array, Array, Array]:
    """U, `U s^+`, s and `P^T` of `Z = U diag(s) P^T`; values up to `share * s[0]` have no inverse.

    `U s^+ = (Z^T)^+ P` has the derivative of that product, true where values are equal, as in a tight frame.
    """
    U, s, Pt = safe_svd(Z)
    return U, U * inverse(s, s > share * s[0])[None, :], s, Pt


@_whitened.defjvp
@exact_products
def _whitened_jvp(primals, tangents):
    (Z, share), (dZ, _) = primals, tangents
    found = _, whitening, _, Pt = _whitened(Z, share)
    dU, ds, dPt = jax.jvp(safe_svd, (Z,), (dZ,))[1]
    dual = whitening @ Pt
    turned = dZ @ dual.T @ dual
    d_dual = -dual @ dZ.T @ dual
    d_dual += turned - Z @ (dual.T @ turned) + (dual @ dual.T @ dZ) - (dual @ dual.T @ dZ) @ dual.T @ Z
    return found, (dU, d_dual @ Pt.T + dual @ dPt.T, ds, dPt)


@exact_products
def sampled_side(tokens: Array, activations: Array, centre: bool) -> Side:
    """The Side of samples, tokens (n, D) and activations (n, N), a row a sample; centred where that is asked (T16).

    Moments are means over the samples; A is divided by its mean eigenvalue, `tr A / D`, features by a power of 2.
    """
    # nothing here depends on their sizes, whose squares may not be held
    tokens, activations = scaled(tokens)[0], scaled(activations)[0]
    if centre:
        tokens, activations = (a - a.mean(axis=0, keepdims=True) for a in (tokens, activations))
    P, s, Ut = safe_svd(tokens)
    # more samples do not make the rounding of each larger, so the smaller size counts
    cut = numerical_rank_tolerance(s, min(tokens.shape))
    s = jnp.where(s > cut, s, 0)
    unit = root((s**2).sum() / tokens.shape[1])
    s, readout = s * inverse(unit), P.T @ activations
    inside = (s > 0)[:, None]
    return Side(
        basis=Ut.T,
        inverse=Ut.T * inverse(s)[None, :],
        scale=s,
        readout=jnp.where(inside, readout, 0),
        rotation=P.T,
        root=activations,
        doubtful=jnp.zeros_like(readout),
        rounding=cut * inverse(unit),
    )


@jax.jit
def whiten(scenario: Scenario) -> Whitened:
    """A scenario in the eigenbases of its token moments."""
    X, Y, laws = scenario.query_features, scenario.key_features, (scenario.query_law, scenario.key_law)
    query_rounding, key_rounding = (0.0 if law is None else law.root_rounding() for law in laws)
    query_root, key_root = moment_roots(scenario)
    query, key = whitened_side(X, query_root, query_rounding), whitened_side(Y, key_root, key_rounding)
    return Whitened(query, key, scenario.target)


def has_query_bias(scenario: Scenario) -> bool:
    """Whether the objective sees a query bias: a squared one does not."""
    return scenario.objective == "softmax" and scenario.query_bias


def narrowed(scenario: Scenario, tokens: Whitened) -> Whitened:
    """`tokens` as a head sees them that is too narrow for all modes: a bias takes its share of them (T7)."""
    if not has_query_bias(scenario):
        return tokens
    return tokens._replace(query=biased_side(scenario.query_features, scenario.query_law))


def correlations(scenario: Scenario) -> tuple[Array, Array]:
    """What training pulls towards: columns `E[r f_i] = X C e_i`, shapes (D, N) and (D, M) (T17).

    C is the activation moment that the side sees (I without a law, V where it is centred: T6). The gradient at
    `Omega = 0` is `-M`, `M = sum_ij T_ij E[r f_i] E[s f_j]^T`, so these are the singular directions of a single pair at
    small training time.
    """
    instance("scenario", scenario, Scenario)
    tokens = whiten(scenario)
    return tokens.query.correlations, tokens.key.correlations


def probes(scenario: Scenario) -> tuple[Array, Array]:
    """The best linear probes of each feature, columns `A^+ E[r f_i]`, shapes (D, N) and (D, M) (T5).

    The singular directions of a fully trained single pair; without laws the dual frames `x~_i`, `y~_j` (T1). The
    optimum of full rank is `Omega* = sum_ij T_ij probe_i probe_j^T`.
    """
    instance("scenario", scenario, Scenario)
    tokens = whiten(scenario)
    return tokens.query.probes, tokens.key.probes
