"""Hypotheses: a trained head predicted from what it reads and a template of what it is for (T16).

With `A = U diag(lam) U^T` and `B = U' diag(mu) U'^T` the moments of what queries and keys read, `G_r = E[r f_q^T]`,
`G_s = E[s f_k^T]` and `M = G_r T G_s^T`, training from a small start for a time tau gives (T17)
`(U^T Omega_P U')_ab = M_ab (1 - e^{-lam_a mu_b tau})/(lam_a mu_b)`. In whitened coordinates this is a plain product:
`A^{1/2} Omega_P B^{1/2}` has entries `C_ab (1 - e^{-lam_a mu_b tau})`, C the correlations of the features with the
whitened inputs, joined by the template.

Chance is a random head of the same size: `A^{1/2} O B^{1/2}` turned at random on both sides, or O itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import InputError, flag, held, real_array, whole
from svtheory.factorisations import safe_svd
from svtheory.numerics import exact_products, inverse, positive, root
from svtheory.prediction.whitened import Side, Whitened, sampled_side
from svtheory.pytrees import pytree
from svtheory.spectra.balanced import balanced
from svtheory.spectra.spectra import Spectrum, spectrum, spectrum_of

TIMES = 33
"""Training times on the grid."""
VISITED = 1e-4
"""The least eigenvalue of an input moment, of its mean, that counts as visited."""


@pytree()
@dataclass(frozen=True)
class Explanation:
    """How well a hypothesis explains a head.

    functional_cosine  cosine of prediction and head after `O -> A^{1/2} O B^{1/2}`: the correlation of their logits
                       over independent draws of query and key; it decides
    cosine             cosine of the weights themselves, directions that the data never visits included
    time               tau, the one fitted number: learning rate times steps times the mean eigenvalues of A and B
    unvisited          share of `|Omega|_F^2` that the data never or hardly exercises: outside the directions in which
                       the eigenvalues of A and B exceed 1e-4 of their mean, a hundredth in spread
    predicted          spectrum of the prediction, its values scaled to the head's logits by least squares
    measured           spectrum of the head
    null               functional cosines of the hypothesis with random heads, each at its own best time, (2, draws):
                       the head's whitened form turned at random, then the head itself
    p_value            share of random heads and head that the hypothesis explains as well as the head: the larger of
                       the two nulls' shares, of which `1/(1 + draws)` is the least
    rivals             functional cosines of the head with permuted templates, each at its own best time, (draws,): once
                       each template that differs from the hypothesis, NaN for the rest
    """

    functional_cosine: Array
    cosine: Array
    time: Array
    unvisited: Array
    predicted: Spectrum
    measured: Spectrum
    null: Array
    p_value: Array
    rivals: Array

    @property
    def rank(self) -> Array:
        """The place of the hypothesis among its permuted templates, 1 for the first."""
        return 1 + (self.rivals >= self.functional_cosine[..., None]).sum(axis=-1)

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
) -> Explanation:
    """Predict a trained head from samples of what it reads and a hypothesis; say how much of the head that explains.

    Keys are always centred, queries iff the head has a query bias (T6). Eigenvalues of A and B are divided by their
    mean, trace/D; tau is the best on a log grid, refined (T16).

    Chance is a head that has nothing to do with the features: `draws` random heads, twice. Once the head's whitened
    form `A^{1/2} Omega B^{1/2}` between independent Haar rotations of the ranges of A and B, which keep what its data
    see of its spectrum; once Omega itself between rotations of all D and D' dimensions, which keep its singular values.
    The p-value is the larger of the two, and holds its level for random heads of either kind. What else the template
    might have been is another question: up to `draws` random derangements of its columns, the key features, are the
    hypothesis' rivals. Random heads and rivals have the hypothesis' own freedom, the best time. The cost is some 40
    products of (D, D') matrices a draw.

    W_Q (H, D), W_K (H, D'); query_inputs (n, D) and key_inputs (n', D'), one sample a row, treated as independent
    draws: take as queries the positions where the head's decision matters; query_features (n, N) and key_features
    (n', M), the candidate features' values at these samples; template (N, M); draws of chance and of
    rivals. All follow the dtype of W_Q. Works under jit and vmap, `centre_query` and `draws` static.
    Raises InputError for shapes that disagree, fewer than 2 samples, or singular values that the dtype does not hold.
    """
    W_Q, W_K = real_array("W_Q", W_Q, ndim=2), real_array("W_K", W_K, ndim=2)
    if W_K.shape[0] != W_Q.shape[0]:
        raise InputError(f"W_K must have {W_Q.shape[0]} rows, the head dimension of W_Q, got shape {W_K.shape}")
    query = _samples("query", query_inputs, query_features, W_Q)
    keys = _samples("key", key_inputs, key_features, W_K)
    T = real_array("template", template, ndim=2).astype(W_Q.dtype)
    asked = query[1].shape[1], keys[1].shape[1]
    if T.shape != asked:
        hint = ", which looks transposed" if T.shape[::-1] == asked else ""
        raise InputError(f"template must have shape {asked}, query by key features, got {T.shape}{hint}")
    whole("draws", draws, 1)
    found = _explain(W_Q, W_K.astype(W_Q.dtype), query, keys, T, key, flag("centre_query", centre_query), draws)
    held("W_Q and W_K", found.measured.values)
    return found


def _samples(name: str, inputs: Array, features: Array, W: Array) -> tuple[Array, Array]:
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


@partial(jax.jit, static_argnums=(6, 7))
@exact_products
def _explain(
    W_Q: Array,
    W_K: Array,
    query: tuple[Array, Array],
    keys: tuple[Array, Array],
    T: Array,
    key: Array,
    centre_query: bool,
    draws: int,
) -> Explanation:
    q = sampled_side(*query, centre_query)
    k = sampled_side(_after(q, keys[0]), keys[1], True)
    # products of tiny weights would underflow
    q_size, k_size = positive(jnp.abs(W_Q).max()), positive(jnp.abs(W_K).max())
    unit = W_Q / q_size, W_K / k_size
    omega = unit[0].T @ unit[1]
    whitened = Whitened(q, k, T / positive(jnp.abs(T).max()))
    read = q.basis.T @ omega @ k.basis
    C, x = whitened.core, whitened.eigenvalues
    O = jnp.sqrt(x) * read

    time = _best_time(C, x, O)
    F = _filtered(C, x, time)
    functional_cosine = _cosine(F, O)
    learnt = jax.vmap(lambda t: -jnp.expm1(-x * jnp.exp(t)))(_log_times(x)).reshape(TIMES, x.size)
    of_random, of_permuted = jax.random.split(key)
    measured = spectrum(_after(k, W_Q), W_K)
    null = _random_heads(of_random, draws, [_after(measured, W) for W in unit], whitened, learnt)
    # where few turns are possible many heads tie: what rounding alone sets apart counts as reached
    least = _at_best_time(C, O, learnt) - 100 * jnp.finfo(null.dtype).eps
    weights = F * inverse(root(x))
    scale = q_size * k_size * (F * O).sum() / positive((F**2).sum())
    return Explanation(
        functional_cosine=functional_cosine,
        cosine=(weights * read).sum() / positive(_norm(weights) * _norm(omega)),
        time=time,
        unvisited=_unvisited(q, k, omega, read),
        predicted=_spectrum(q.basis, _after(null, scale * weights), k.basis, min(W_Q.shape)),
        measured=measured,
        null=null,
        p_value=((1 + (~(null < least)).sum(axis=1).max()) / (1 + draws)).astype(T.dtype),
        rivals=_permuted(of_permuted, draws, whitened, O, learnt),
    )


def _after(done: Any, x: Array) -> Array:
    """`x`, computed after `done`: two batches of factorisations at once can deadlock on few cores."""
    last = jax.tree.leaves(lax.stop_gradient(done))[-1]
    return jnp.where(jnp.isnan(last).any(), jnp.nan, x)


def _random_heads(key: Array, draws: int, factors: Sequence[Array], whitened: Whitened, learnt: Array) -> Array:
    """How well the hypothesis explains random heads, (2, draws): the whitened head turned, and the head itself."""
    (W_Q, W_K), (q, k, _), C = lax.stop_gradient((factors, whitened, whitened.core))
    q_root, k_root = q.scale[:, None], k.scale[:, None]
    raw = spectrum(W_Q, W_K).values
    seen = balanced(_after(raw, W_Q), W_K, q.moment, k.moment).values
    q_all, k_all = (jnp.ones_like(side.basis[:, :1]) for side in (q, k))
    spaces = (jnp.sign(q_root), jnp.sign(k_root), q_all, k_all)
    dim = max(len(q_all), len(k_all))
    inside = jnp.stack([jnp.pad(space, ((0, dim - len(space)), (0, 0))) for space in spaces])
    inside = _after(seen, inside)

    def draw(key):
        P, Q, U, V = _frames(key, inside, len(raw))
        of_seen = (P[: len(q_root), : len(seen)] * seen[None, :]) @ Q[: len(k_root), : len(seen)].T
        # any coordinates are as good as those in the eigenbasis
        turned = (q_root * U[: len(q_root)] * raw[None, :]) @ (k_root * V[: len(k_root)]).T
        return jax.vmap(lambda O: _at_best_time(C, O, learnt))(jnp.stack([of_seen, turned]))

    return lax.map(draw, jax.random.split(key, draws), batch_size=_together(C)).T


def _frames(key: Array, inside: Array, pairs: int) -> Array:
    """Haar frames (n, D, pairs) of the coordinates where `inside` (n, D, 1) is 1; any columns beyond their number."""
    Q, R = jnp.linalg.qr(inside * jax.random.normal(key, (*inside.shape[:2], pairs), inside.dtype))
    return Q * jnp.sign(jnp.diagonal(R, axis1=1, axis2=2))[:, None, :]


def _permuted(key: Array, draws: int, whitened: Whitened, O: Array, learnt: Array) -> Array:
    """Functional cosines of different templates among random derangements of the columns, NaN for repetitions."""
    T = whitened.target
    if T.shape[1] < 2:
        return jnp.full(draws, jnp.nan, T.dtype)
    of_orders, of_codes = jax.random.split(key)
    orders = jax.vmap(lambda key: _derangement(key, T.shape[1]))(jax.random.split(of_orders, draws))

    def rival(order):
        return _at_best_time(whitened._replace(target=T[:, order]).core, O, learnt)

    rivals = lax.map(rival, orders, batch_size=_together(O))
    return jnp.where(_new(of_codes, T, orders), rivals, jnp.nan)


def _new(key: Array, T: Array, orders: Array) -> Array:
    """Whether `T[:, order]` is neither T nor that of an earlier order, for orders (n, M), shape (n,).

    Templates are told apart by codes of 64 random bits: equal ones share theirs, others do so once in `2^64/n^2`.
    """
    first_like = lax.map(lambda column: (column[:, None] == T).all(axis=0).argmax(), T.T)
    of_column, of_place = jax.random.bits(key, (2, len(first_like), 2))
    orders = jnp.concatenate([jnp.arange(len(first_like))[None], orders])
    codes = (of_column[first_like][orders] * of_place[None]).sum(axis=1)
    order = jnp.lexsort(codes.T)  # stable: the hypothesis itself, then earlier orders, come first among equals
    repeated = (codes[order][1:] == codes[order][:-1]).all(axis=1)
    return jnp.ones(len(orders), bool).at[order[1:]].set(~repeated)[1:]


def _together(C: Array) -> int:
    """How many draws at once keep the working set near four million numbers."""
    return 1 + 2**22 // C.size


def _unvisited(q: Side, k: Side, omega: Array, read: Array) -> Array:
    inside = (q.scale**2 > VISITED)[:, None] & (k.scale**2 > VISITED)[None, :]
    share = _norm(jnp.where(inside, read, 0)) / positive(_norm(omega))
    return jnp.maximum((1 - share) * (1 + share), 0)


def _filtered(C: Array, x: Array, tau: Array) -> Array:
    """`C_ab (1 - e^{-lam_a mu_b tau})`, the whitened head after training for tau; x holds `lam_a mu_b`."""
    return -C * jnp.expm1(-x * tau)


def _log_times(x: Array) -> Array:
    """Logarithms of the times that are tried, evenly from a linear to a flat filter, (TIMES,)."""
    first = jnp.log(0.01 / positive(x.max()))
    last = jnp.log(100 / jnp.min(jnp.where(x > 0, x, jnp.inf)))
    return jnp.linspace(first, jnp.clip(last, first + 1, first + 37), TIMES)


def _best_time(C: Array, x: Array, O: Array) -> Array:
    """The tau of largest functional cosine, on the grid of times, then refined."""
    C, x, O = lax.stop_gradient((C, x, O))
    grid = _log_times(x)

    def best(times):
        # as many at once as keep the working set near a million numbers
        scores = lax.map(lambda t: _cosine(_filtered(C, x, jnp.exp(t)), O), times, batch_size=1 + 2**20 // x.size)
        return times[scores.argmax()]

    def refine(_, state):
        t, distance = state
        return best(t + jnp.array([0, -1, 1], t.dtype) * distance / 2), distance / 2

    return jnp.exp(lax.fori_loop(0, 8, refine, (best(grid), grid[1] - grid[0]))[0])


def _derangement(key: Array, n: int) -> Array:
    """A uniform permutation of n >= 2 things that leaves none in its place."""

    def again(state):
        key, _ = state
        key, draw = jax.random.split(key)
        return key, jax.random.permutation(draw, n)

    return lax.while_loop(lambda state: (state[1] == jnp.arange(n)).any(), again, (key, jnp.arange(n)))[1]


def _at_best_time(C: Array, O: Array, learnt: Array) -> Array:
    """The functional cosine of `C_ab learnt_ab` and O at its best time, between the times of `learnt` by a parabola."""
    C, O, learnt = lax.stop_gradient((C, O, learnt))
    cosines = (learnt @ (C * O).ravel()) / positive(jnp.sqrt(learnt**2 @ (C**2).ravel()) * _norm(O))
    top = jnp.clip(cosines.argmax(), 1, TIMES - 2)
    before, here, after = cosines[top - 1], cosines[top], cosines[top + 1]
    bend = 2 * here - before - after
    peak = here + jnp.where(bend > 0, (after - before) ** 2 / (8 * positive(bend)), 0)
    return jnp.where(jnp.abs(after - before) < 2 * bend, jnp.minimum(peak, 1), cosines.max())


def _spectrum(left: Array, core: Array, right: Array, K: int) -> Spectrum:
    U, values, Vt = safe_svd(core)
    return spectrum_of((left @ U)[:, :K], values[:K], (right @ Vt.T)[:, :K])


def _cosine(F: Array, O: Array) -> Array:
    return (F * O).sum() / positive(_norm(F) * _norm(O))


def _norm(A: Array) -> Array:
    return root((A**2).sum())
