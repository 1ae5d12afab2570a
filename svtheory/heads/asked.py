"""Asked: what hypotheses ask of heads that read the same samples, in whitened coordinates (T16).

Hypotheses about one set of samples share the moments of what queries and keys read, and their eigenbases. Their
families of templates stand in one row, a core each; what hypothesis a member belongs to says a Layout.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.factorisations import after
from svtheory.heads.fitted_time import learnt
from svtheory.numerics import positive
from svtheory.prediction.whitened import Side, Whitened, sampled_side


class Layout(NamedTuple):
    """Of each hypothesis how many members its family has, and how many key features."""

    members: tuple[int, ...]
    widths: tuple[int, ...]

    @property
    def owner(self) -> np.ndarray:
        """The hypothesis that each member belongs to, (Q,)."""
        return np.repeat(np.arange(len(self.members)), self.members)

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Members of each hypothesis, the first one again where it has fewer, (A, P); and their places there, (Q,)."""
        starts, P = np.cumsum((0, *self.members))[:-1], max(self.members)
        within = np.arange(P)[None] < np.array(self.members)[:, None]
        return np.where(within, starts[:, None] + np.arange(P)[None], starts[:, None]), np.flatnonzero(within)

    def best(self, x: Array) -> Array:
        """The largest of each family of x (..., Q), (..., A)."""
        return x[..., self.rows[0]].max(axis=-1)


class Templates(NamedTuple):
    """Hypotheses side by side: features of samples (n, A, N) and (n', A, M), templates (Q, N, M) of all members.

    What a hypothesis lacks in features, others have: zeros.
    """

    query: Array
    key: Array
    templates: Array


class Asked(NamedTuple):
    """The moments of the samples by their eigenbases, and what templates ask for there.

    query, key  Sides, of r and r' dimensions; their readouts are of all features, (r, A N) and (r', A M)
    cores       of all members, (Q, r, r')
    rates       `lam_a mu_b`, (r, r')
    """

    query: Side
    key: Side
    cores: Array
    rates: Array

    @property
    def share(self) -> Array:
        """`1 - e^{-x tau}` for all times that are tried, (TIMES, r r')."""
        return learnt(self.rates)

    @property
    def flat(self) -> Array:
        """The cores as rows, (Q, r r')."""
        return self.cores.reshape(len(self.cores), -1)


def stacked(
    query: Sequence[np.ndarray], key: Sequence[np.ndarray], templates: Sequence[np.ndarray]
) -> tuple[Templates, Layout]:
    """Hypotheses of features (n, N), (n', M) and templates (P, N, M) side by side, zeros where they have fewer."""
    N, M = (max(f.shape[1] for f in side) for side in (query, key))

    def features(side, size):
        return jnp.stack([jnp.pad(f, ((0, 0), (0, size - f.shape[1]))) for f in side], axis=1)

    padded = [jnp.pad(T, ((0, 0), (0, N - T.shape[1]), (0, M - T.shape[2]))) for T in templates]
    layout = Layout(tuple(len(T) for T in templates), tuple(T.shape[2] for T in templates))
    return Templates(features(query, N), features(key, M), jnp.concatenate(padded)), layout


def ask(query_inputs: Array, key_inputs: Array, given: Templates, layout: Layout, centre_query: bool) -> Asked:
    """What hypotheses ask of heads that read these samples, (n, D) and (n', D')."""
    q = sampled_side(query_inputs, given.query.reshape(len(given.query), -1), centre_query)
    k = sampled_side(after(q, key_inputs), given.key.reshape(len(given.key), -1), True)
    T = given.templates / positive(jnp.abs(given.templates).max(axis=(1, 2), keepdims=True))
    left, right = readouts(q, k, given, layout)
    # what has a number a sample is not asked for again
    q, k = (side._replace(rotation=side.rotation[:, :0], root=None) for side in (q, k))
    return Asked(q, k, left @ T @ right.swapaxes(1, 2), Whitened(q, k, T[0]).eigenvalues)


def readouts(q: Side, k: Side, given: Templates, layout: Layout) -> tuple[Array, Array]:
    """Of each member its hypothesis' features in the eigenbases, (Q, r, N) and (Q, r', M)."""
    sides = ((q, given.query), (k, given.key))
    of_hypothesis = [side.readout.reshape(-1, *f.shape[1:]).swapaxes(0, 1) for side, f in sides]
    return of_hypothesis[0][layout.owner], of_hypothesis[1][layout.owner]


def as_seen(W_Q: Array, W_K: Array, asked: Asked) -> tuple[Array, Array]:
    """`U^T Omega U'` and `A^{1/2} Omega B^{1/2}` in the eigenbases, both (r, r')."""
    read = (W_Q @ asked.query.basis).T @ (W_K @ asked.key.basis)
    return read, jnp.sqrt(asked.rates) * read
