"""Explanation: a trained head predicted from what it reads and a template of what it is for (T16).

With `A = U diag(lam) U^T` and `B = U' diag(mu) U'^T` the moments of what queries and keys read, `G_r = E[r f_q^T]`,
`G_s = E[s f_k^T]` and `M = G_r T G_s^T`, training from a small start for a time tau gives (T17)
`(U^T Omega_P U')_ab = M_ab (1 - e^{-lam_a mu_b tau})/(lam_a mu_b)`. In whitened coordinates this is a plain product:
`A^{1/2} Omega_P B^{1/2}` has entries `C_ab (1 - e^{-lam_a mu_b tau})`, C the correlations of the features with the
whitened inputs, joined by the template.

A hypothesis may leave the template open within a family, `[k > q] e^{-(k - q)/L}` for several L, say: the best member
is the prediction, and whatever it is held against chooses its best member too.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.checks import InputError, flag, held, random_key, real_array, whole
from svtheory.factorisations import after
from svtheory.heads.asked import Layout, Templates, as_seen, ask
from svtheory.heads.fits import fitted, prediction, reaching, resampled, unit, unvisited
from svtheory.heads.fitted_time import at_best_times
from svtheory.heads.permuted import permuted_templates
from svtheory.heads.turned_heads import turned_heads
from svtheory.numerics import exact_products
from svtheory.pytrees import pytree
from svtheory.spectra.spectra import Spectrum, spectrum


@pytree()
@dataclass(frozen=True)
class Explanation:
    """How well a hypothesis explains a head.

    functional_cosine  cosine of prediction and head after `O -> A^{1/2} O B^{1/2}`: the correlation of their logits
                       over independent draws of query and key; it decides
    cosine             cosine of the weights themselves, directions that the data never visits included
    time               tau, the one fitted number: learning rate times steps times the mean eigenvalues of A and B
    bound              whether tau is only a bound, (2,): from above, as the shortest time that is tried comes as near
                       to the head to 1e-3, and from below, as the longest one does
    unvisited          share of `|Omega|_F^2` that the data never or hardly exercises: outside the directions in which
                       the eigenvalues of A and B exceed 1e-4 of their mean, a hundredth in spread
    predicted          spectrum of the prediction, its values scaled to the head's logits by least squares
    measured           spectrum of the head
    members            functional cosines of all members of the family, each at its own best time, (P,); P = 1 for one
                       template. All else is of the best one, `member`
    resampled          the same for the samples drawn again, (resamples, P): see `interval` and `support`
    null               functional cosines of the hypothesis with random heads, each with its own best time and member,
                       (2, draws): the head's whitened form turned at random, then the head itself
    p_value            share of random heads and head that the hypothesis explains as well as the head: the larger of
                       the two nulls' shares, of which `1/(1 + draws)` is the least
    rivals             functional cosines of the head with permuted families, each at its own best time and member,
                       (draws,): once each family, less templates that the hypothesis holds too; NaN for the rest
    """

    functional_cosine: Array
    cosine: Array
    time: Array
    bound: Array
    unvisited: Array
    predicted: Spectrum
    measured: Spectrum
    members: Array
    resampled: Array
    null: Array
    p_value: Array
    rivals: Array

    @property
    def rank(self) -> Array:
        """The place of the hypothesis among its permuted templates, 1 for the first."""
        return 1 + (self.rivals >= self.functional_cosine[..., None]).sum(axis=-1)

    @property
    def member(self) -> Array:
        """The index of the best member of the family."""
        return self.members.argmax(axis=-1)

    @property
    def support(self) -> Array:
        """The share of resamples of which each member is the best, (P,): members without any are out of question."""
        P = self.members.shape[-1]
        return jax.nn.one_hot(self.resampled.argmax(axis=-1), P, dtype=self.members.dtype).mean(axis=-2)

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Where `level` of the resamples put the functional cosine at their own best member, percentiles.

        Raises InputError for a level outside (0, 1), or where nothing was resampled.
        """
        if not 0 < level < 1:
            raise InputError(f"level must lie between 0 and 1, got {level}")
        if self.resampled.shape[-2] == 0:
            raise InputError("resamples must be at least 1 for an interval, got 0")
        tails = jnp.array([(1 - level) / 2, (1 + level) / 2], self.resampled.dtype)
        low, high = jnp.quantile(self.resampled.max(axis=-1), tails, axis=-1)
        return low, high

    def overlap(self, k: int) -> tuple[Array, Array]:
        """How much of the head's top-k left and right singular subspaces the prediction's cover: `|U_k^T U'_k|_F^2/k`.

        The mean squared cosine of the principal angles; k/D by chance. Raises InputError for k out of range.
        """
        most = self.predicted.values.shape[-1]
        if whole("k", k, 1) > most:
            raise InputError(f"k must be at most {most}, the number of predicted singular values, got {k}")
        return _overlap(self.predicted.left, self.measured.left, k), _overlap(
            self.predicted.right, self.measured.right, k
        )

    def margin(self, *rivals: "Explanation") -> Array:
        """The lead in functional cosine over the best competitor: every permuted template, and any rival hypotheses.

        A rival can share structure with the truth: a hypothesis is preferred by its margin. NaN without a competitor.
        """
        best = jnp.nanmax(self.rivals, axis=-1)
        for rival in rivals:
            best = jnp.fmax(best, rival.functional_cosine)
        return self.functional_cosine - best


@exact_products
def _overlap(predicted: Array, measured: Array, k: int) -> Array:
    cosines = predicted[..., :k].swapaxes(-1, -2) @ measured[..., :k]
    return (cosines**2).sum(axis=(-1, -2)) / k


def explain(
    W_Q: Array,
    W_K: Array,
    query_inputs: Array,
    query_features: Array,
    key_inputs: Array,
    key_features: Array,
    template: Array,
    key: Array,
    centre_query: bool = True,
    draws: int = 999,
    resamples: int = 0,
) -> Explanation:
    """Predict a trained head from samples of what it reads and a hypothesis; say how much of the head that explains.

    Keys are always centred, queries iff the head has a query bias (T6). Eigenvalues of A and B are divided by their
    mean, trace/D; tau is the best on a log grid, refined (T16).

    Chance is a head that has nothing to do with the features: `draws` random heads, twice. Once the head's whitened
    form `A^{1/2} Omega B^{1/2}` between independent Haar rotations of the ranges of A and B, which keep what its data
    see of its spectrum; once Omega itself between rotations of all D and D' dimensions, which keep its singular values.
    The p-value is the larger of the two, and holds its level for random heads of either kind. What else the template
    might have been is another question: up to `draws` random derangements of its columns, the key features, are the
    hypothesis' rivals. Random heads and rivals have the hypothesis' own freedom, the best time and, where `template` is
    a family of P, the best member. The cost is some 40 P products of (D, D') matrices a draw.

    `resamples` asks for intervals: so often are queries and keys drawn again from the samples, independently and with
    replacement, and all members held against the head anew.

    W_Q (H, D), W_K (H, D'); query_inputs (n, D) and key_inputs (n', D'), one sample a row, treated as independent
    draws: take as queries the positions where the head's decision matters; query_features (n, N) and key_features
    (n', M), the candidate features' values at these samples; template (N, M) or a family of them
    (P, N, M), whose sizes do not matter; draws of chance and of rivals. All follow the dtype of W_Q. Works under jit
    and vmap, `centre_query`, `draws` and `resamples` static.
    Raises InputError for shapes that disagree, fewer than 2 samples, or singular values that the dtype does not hold.
    """
    W_Q, W_K = real_array("W_Q", W_Q, ndim=2), real_array("W_K", W_K, ndim=2)
    if W_K.shape[0] != W_Q.shape[0]:
        raise InputError(f"W_K must have {W_Q.shape[0]} rows, the head dimension of W_Q, got shape {W_K.shape}")
    query = checked_samples("query", query_inputs, query_features, W_Q)
    keys = checked_samples("key", key_inputs, key_features, W_K)
    family = checked_family(template, query[1], keys[1])
    random_key("key", key)
    sizes = whole("draws", draws, 1), whole("resamples", resamples, 0)
    found = _explain(W_Q, W_K.astype(W_Q.dtype), query, keys, family, key, flag("centre_query", centre_query), *sizes)
    held("W_Q and W_K", found.measured.values)
    return found


def checked_samples(name: str, inputs: Array, features: Array, W: Array) -> tuple[Array, Array]:
    """Inputs (n, D) and features (n, N) of the samples of one side, in the dtype of its factor W (H, D)."""
    x = real_array(f"{name}_inputs", inputs, ndim=2)
    f = real_array(f"{name}_features", features, ndim=2)
    if x.shape[1] != W.shape[1]:
        turned = x.shape[0] == W.shape[1], x.shape[1] == W.shape[0]
        hints = ", which looks transposed: samples are rows", ": weights are (H, D), these look transposed"
        hint = next((hint for seen, hint in zip(turned, hints, strict=True) if seen), "")
        raise InputError(
            f"{name}_inputs must have {W.shape[1]} columns, as the head's weights, got shape {x.shape}{hint}"
        )
    if x.shape[0] < 2 or f.shape[0] != x.shape[0]:
        hint = ": features look transposed, samples are rows" if f.shape[1] == x.shape[0] else ""
        raise InputError(
            f"{name}_inputs and {name}_features must have one row a sample, at least 2, got {x.shape} and {f.shape}"
            f"{hint}"
        )
    return x.astype(W.dtype), f.astype(W.dtype)


def checked_family(template: Array, query_features: Array, key_features: Array) -> Array:
    """The template of a hypothesis, or its family of them, as (P, N, M)."""
    T = real_array("template", template).astype(query_features.dtype)
    asked = query_features.shape[1], key_features.shape[1]
    if T.shape[-2:] != asked or T.ndim not in (2, 3):
        hint = ", which looks transposed" if T.shape[:-3:-1] == asked else ""
        each = " of each member" if T.ndim == 3 else ""
        raise InputError(f"template must have shape {asked}{each}, query by key features, got {T.shape}{hint}")
    return T.reshape(-1, *asked)


@partial(jax.jit, static_argnums=(6, 7, 8))
@exact_products
def _explain(
    W_Q: Array,
    W_K: Array,
    query: tuple[Array, Array],
    keys: tuple[Array, Array],
    family: Array,
    key: Array,
    centre_query: bool,
    draws: int,
    resamples: int,
) -> Explanation:
    given = Templates(query[1][:, None], keys[1][:, None], family)
    layout = Layout((len(family),), family.shape[2:])
    (W_Q, q_size), (W_K, k_size) = unit(W_Q), unit(W_K)
    asked = ask(query[0], keys[0], given, layout, centre_query)
    of_random, of_permuted, of_samples = jax.random.split(key, 3)
    fit = fitted(W_Q, W_K, asked)
    best = fit.members.argmax()
    head = after(fit, W_Q)[None], W_K[None]
    null = turned_heads(of_random, draws, head, asked, layout)[0, 0]
    _, O = as_seen(W_Q, W_K, asked)
    # where few turns are possible many heads tie: what rounding alone sets apart counts as reached
    least = reaching(at_best_times(asked.flat, O.reshape(1, -1), asked.share).max())
    measured = spectrum(after(null, W_Q), W_K)
    size = q_size * k_size
    predicted = prediction(asked, best, fit.time[best], size * fit.scale[best], min(W_Q.shape))
    samples = (after(predicted, query[0]), keys[0])
    return Explanation(
        functional_cosine=fit.members[best],
        cosine=fit.weight_cosine[best],
        time=fit.time[best],
        bound=fit.bound[best],
        unvisited=unvisited(W_Q, W_K, asked),
        predicted=predicted,
        measured=Spectrum(measured.left, size * measured.values, measured.right, size * measured.gaps),
        members=fit.members,
        resampled=resampled(of_samples, resamples, samples, given, head, layout, centre_query)[0],
        null=null,
        p_value=((1 + (~(null < least)).sum(axis=1).max()) / (1 + draws)).astype(W_Q.dtype),
        rivals=permuted_templates(of_permuted, draws, O[None], given, asked, layout)[0, 0],
    )
