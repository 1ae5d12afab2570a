"""Hypothesised: what the heads of a layer that read the same samples are held against, all hypotheses at once (T16).

Each reading is one compiled program for a layer's shape; samples, moments, permutations and turned heads are shared by
all heads and hypotheses of a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.heads.asked import Asked, Layout, Templates, as_seen, ask, stacked
from svtheory.heads.contrast import contrastive_covariance, recovered
from svtheory.heads.fits import Fit, fitted, prediction, reaching, resampled, unit, unvisited
from svtheory.heads.fitted_time import at_best_times
from svtheory.heads.hypotheses import Hypothesis
from svtheory.heads.permuted import permuted_templates
from svtheory.heads.turned_heads import turned_heads
from svtheory.heads.weights import affine
from svtheory.numerics import exact_products
from svtheory.spectra.spectra import Spectrum, spectrum

SUBSPACES = 99
"""Random subspaces behind the chance level of contrastive covariance."""


class Factors(NamedTuple):
    """Heads that read the same: W_Q (h, H, D) and W_K (h, H, D'), largest entry 1, their sizes (h,), biases (h, H)."""

    W_Q: Array
    W_K: Array
    size: Array
    b_Q: Array
    b_K: Array

    @classmethod
    def of(cls, W_Q: np.ndarray, W_K: np.ndarray, b_Q: np.ndarray | None, b_K: np.ndarray | None) -> "Factors":
        """Factors and biases as a bundle has them, (h, H, D) and (h, H)."""
        (q, q_size), (k, k_size) = jax.vmap(unit)(jnp.asarray(W_Q)), jax.vmap(unit)(jnp.asarray(W_K))
        none = jnp.zeros(q.shape[:2], q.dtype)
        query, key = (
            none if b is None else jnp.asarray(b, q.dtype) / size[:, None] for b, size in ((b_Q, q_size), (b_K, k_size))
        )
        return cls(q, k.astype(q.dtype), q_size * k_size, query, key)


def side_by_side(hypotheses: Sequence[Hypothesis], dtype: np.dtype) -> tuple[Templates, Layout]:
    """Hypotheses about the same samples, as what heads read is held against them."""
    f, g, T = (
        [np.asarray(getattr(hypothesis, name), dtype) for hypothesis in hypotheses]
        for name in ("query_features", "key_features", "family")
    )
    return stacked(f, g, T)


@dataclass(frozen=True)
class Reading:
    """Heads, samples of what they read, (n, D) and (n', D'), and hypotheses about these."""

    factors: Factors
    query_inputs: Array
    key_inputs: Array
    given: Templates
    layout: Layout
    centre_query: bool

    @classmethod
    def of(
        cls,
        factors: Factors,
        inputs: tuple[np.ndarray | Array, np.ndarray | Array],
        given: tuple[Templates, Layout],
        centre_query: bool,
    ) -> "Reading":
        """Heads that read inputs (n, D) and (n', D') held against hypotheses."""
        x, y = (jnp.asarray(x, factors.W_Q.dtype) for x in inputs)
        return cls(factors, x, y, *given, centre_query)

    @cached_property
    def asked(self) -> Asked:
        """What the hypotheses ask."""
        return _ask(self.query_inputs, self.key_inputs, self.given, self.layout, self.centre_query)

    @cached_property
    def held(self) -> "Held":
        """How near every member comes to every head."""
        return _held(self.factors, self.asked, self.layout)

    def permuted(self, key: Array, draws: int) -> Array:
        """Functional cosines of permuted families, (h, A, draws)."""
        return _permuted(key, draws, self.held.O, self.given, self.asked, self.layout)

    def resampled(self, key: Array, resamples: int) -> Array:
        """Functional cosines of all members on samples drawn again, (h, resamples, Q)."""
        inputs, factors = (self.query_inputs, self.key_inputs), self.factors[:2]
        return _resampled(key, resamples, inputs, self.given, factors, self.layout, self.centre_query)

    def turned(self, key: Array, draws: int) -> Array:
        """Functional cosines of the hypotheses with turned heads, (h, A, 2, draws)."""
        return _turned(key, draws, self.factors[:2], self.asked, self.layout)

    def contrasts(self, key: Array) -> dict[str, Array]:
        """What contrastive covariance of each hypothesis' best member recovers of each head, (h, A)."""
        samples = self.query_inputs, self.key_inputs
        return _contrasts(key, self.factors, samples, self.given, self.asked, self.held.best)

    def predicted(self, head: int, member: int) -> Spectrum:
        """The spectrum that a member predicts of a head, to its logits' size."""
        fit = self.held.fit
        scale = self.factors.size[head] * fit.scale[head, member]
        return _predicted(self.asked, member, fit.time[head, member], scale, min(self.factors.W_Q.shape[1:]))


class Held(NamedTuple):
    """Heads held against all members (h, Q) and hypotheses (h, A).

    O         the heads as their data see them, (h, r, r')
    fit       how near each member comes, (h, Q)
    best      the best member of each hypothesis, (h, A)
    least     the cosine that a random head must reach to be explained as well, (h, A)
    unvisited, values  of each head, (h,) and (h, K)
    """

    O: Array
    fit: Fit
    best: Array
    least: Array
    unvisited: Array
    values: Array


_ask = partial(jax.jit, static_argnums=(3, 4))(exact_products(ask))
_permuted = partial(jax.jit, static_argnums=(1, 5))(exact_products(permuted_templates))
_resampled = partial(jax.jit, static_argnums=(1, 5, 6))(exact_products(resampled))
_turned = partial(jax.jit, static_argnums=(1, 4))(exact_products(turned_heads))
_predicted = partial(jax.jit, static_argnums=4)(exact_products(prediction))


@partial(jax.jit, static_argnums=2)
@exact_products
def _held(factors: Factors, asked: Asked, layout: Layout) -> Held:
    share = asked.share

    def of_head(head):
        W_Q, W_K, size = head
        _, O = as_seen(W_Q, W_K, asked)
        fit = fitted(W_Q, W_K, asked)
        rows, _ = layout.rows
        best = jnp.take_along_axis(jnp.asarray(rows), fit.members[rows].argmax(axis=1)[:, None], axis=1)[:, 0]
        least = reaching(layout.best(at_best_times(asked.flat, O.reshape(1, -1), share)[0]))
        return Held(O, fit, best, least, unvisited(W_Q, W_K, asked), size * spectrum(W_Q, W_K).values)

    return lax.map(of_head, factors[:3])


@jax.jit
@exact_products
def _contrasts(
    key: Array, factors: Factors, samples: tuple[Array, Array], given: Templates, asked: Asked, best: Array
) -> dict[str, Array]:
    f, g = given.query.swapaxes(0, 1), given.key.swapaxes(0, 1)

    def of_head(head):
        W_Q, W_K, _, b_Q, b_K, best = head
        q, k = affine(W_Q, b_Q, samples[0]), affine(W_K, b_K, samples[1])

        def of_hypothesis(hypothesis):
            f, g, member = hypothesis
            contrast = contrastive_covariance(q, f, k, g, given.templates[member])
            return recovered(key, SUBSPACES, contrast, (W_Q, W_K), asked)

        return lax.map(of_hypothesis, (f, g, best))

    found = lax.map(of_head, (*factors, best))
    high = jnp.quantile(found.chance, 0.975, axis=-1)
    return {"size": found.size, "cosine": found.cosine, "chance": found.chance.mean(axis=-1), "chance_highest": high}
