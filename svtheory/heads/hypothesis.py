"""Hypotheses: a trained head predicted from what it reads and a template of what it is for (T16).

With `A = U diag(lam) U^T` and `B = U' diag(mu) U'^T` the moments of what queries and keys read, `G_r = E[r f_q^T]`,
`G_s = E[s f_k^T]` and `M = G_r T G_s^T`, training from a small start for a time tau gives (T17)
`(U^T Omega_P U')_ab = M_ab (1 - e^{-lam_a mu_b tau})/(lam_a mu_b)`. In whitened coordinates this is a plain product:
`A^{1/2} Omega_P B^{1/2}` has entries `C_ab (1 - e^{-lam_a mu_b tau})`, C the correlations of the features with the
whitened inputs, joined by the template.

A hypothesis may leave the template open within a family, `[k > q] e^{-(k - q)/L}` for several L, say: the best member
is the prediction, and whatever it is held against chooses its best member too.

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
    query = _samples("query", query_inputs, query_features, W_Q)
    keys = _samples("key", key_inputs, key_features, W_K)
    T = real_array("template", template).astype(W_Q.dtype)
    asked = query[1].shape[1], keys[1].shape[1]
    if T.shape[-2:] != asked or T.ndim not in (2, 3):
        hint = ", which looks transposed" if T.shape[:-3:-1] == asked else ""
        each = " of each member" if T.ndim == 3 else ""
        raise InputError(f"template must have shape {asked}{each}, query by key features, got {T.shape}{hint}")
    sizes = whole("draws", draws, 1), whole("resamples", resamples, 0)
    family = T.reshape(-1, *asked)
    found = _explain(W_Q, W_K.astype(W_Q.dtype), query, keys, family, key, flag("centre_query", centre_query), *sizes)
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


@partial(jax.jit, static_argnums=(6, 7, 8))
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
    resamples: int,
) -> Explanation:
    # products of tiny weights would underflow
    q_size, k_size = positive(jnp.abs(W_Q).max()), positive(jnp.abs(W_K).max())
    unit = W_Q / q_size, W_K / k_size
    omega = unit[0].T @ unit[1]
    T = T / positive(jnp.abs(T).max(axis=(1, 2), keepdims=True))
    q, k, C, x, read = _sides(query, keys, T, omega, centre_query)
    O = jnp.sqrt(x) * read

    times = lax.map(lambda C: _best_time(C, x, O), C)
    members = lax.map(lambda given: _cosine(_filtered(given[0], x, given[1]), O), (C, times))
    best = members.argmax()
    F = _filtered(C[best], x, times[best])
    learnt = _learnt(x)
    of_random, of_permuted, of_samples = jax.random.split(key, 3)
    measured = spectrum(_after(k, W_Q), W_K)
    null = _random_heads(of_random, draws, [_after(measured, W) for W in unit], q, k, C, learnt)
    # where few turns are possible many heads tie: what rounding alone sets apart counts as reached
    least = _at_best(C, O, learnt) - 100 * jnp.finfo(null.dtype).eps
    weights = F * inverse(root(x))
    scale = q_size * k_size * (F * O).sum() / positive((F**2).sum())
    predicted = _spectrum(q.basis, _after(null, scale * weights), k.basis, min(W_Q.shape))
    samples = (_after(predicted, query[0]), query[1]), keys
    return Explanation(
        functional_cosine=members[best],
        cosine=(weights * read).sum() / positive(_norm(weights) * _norm(omega)),
        time=times[best],
        unvisited=_unvisited(q, k, omega, read),
        predicted=predicted,
        measured=measured,
        members=members,
        resampled=_resampled(of_samples, resamples, samples, T, omega, centre_query),
        null=null,
        p_value=((1 + (~(null < least)).sum(axis=1).max()) / (1 + draws)).astype(T.dtype),
        rivals=_permuted(of_permuted, draws, q, k, T, O, learnt),
    )


def _sides(
    query: tuple[Array, Array], keys: tuple[Array, Array], T: Array, omega: Array, centre_query: bool
) -> tuple[Side, Side, Array, Array, Array]:
    """Both sides, the cores C (P, r, r') of a family, `lam_a mu_b` and `U^T Omega U'`, (r, r')."""
    q = sampled_side(*query, centre_query)
    k = sampled_side(_after(q, keys[0]), keys[1], True)
    return q, k, _cores(q, k, T), Whitened(q, k, T).eigenvalues, q.basis.T @ omega @ k.basis


def _cores(q: Side, k: Side, T: Array) -> Array:
    return jax.vmap(lambda T: Whitened(q, k, T).core)(T)


def _resampled(
    key: Array,
    resamples: int,
    samples: tuple[tuple[Array, Array], tuple[Array, Array]],
    T: Array,
    omega: Array,
    centre_query: bool,
) -> Array:
    """Functional cosines of all members for samples drawn again with replacement, (resamples, P)."""

    def again(key):
        def drawn(key, side):
            rows = jax.random.randint(key, (len(side[0]),), 0, len(side[0]))
            return side[0][rows], side[1][rows]

        query, keys = map(drawn, jax.random.split(key), samples)
        _, _, C, x, read = _sides(query, keys, T, omega, centre_query)
        learnt = _learnt(x)
        return jax.vmap(lambda C: _at_best_time(C, jnp.sqrt(x) * read, learnt))(C)

    if resamples == 0:
        return jnp.zeros((0, len(T)), T.dtype)
    samples, T, omega = lax.stop_gradient((samples, T, omega))
    return lax.map(again, jax.random.split(key, resamples))


def _after(done: Any, x: Array) -> Array:
    """`x`, computed after `done`: two batches of factorisations at once can deadlock on few cores."""
    last = jax.tree.leaves(lax.stop_gradient(done))[-1]
    return jnp.where(jnp.isnan(last).any(), jnp.nan, x)


def _random_heads(key: Array, draws: int, factors: Sequence[Array], q: Side, k: Side, C: Array, learnt: Array) -> Array:
    """How well the hypothesis explains random heads, (2, draws): the whitened head turned, and the head itself."""
    (W_Q, W_K), q, k, C = lax.stop_gradient((factors, q, k, C))
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
        return jax.vmap(lambda O: _at_best(C, O, learnt))(jnp.stack([of_seen, turned]))

    # in batches of one size: those left over would be factorised beside the others
    rounds = -(-draws // _together(C))
    each = -(-draws // rounds)
    keys = jax.random.split(key, rounds * each).reshape(rounds, each)
    return lax.map(jax.vmap(draw), keys).reshape(-1, 2)[:draws].T


def _frames(key: Array, inside: Array, pairs: int) -> Array:
    """Haar frames (n, D, pairs) of the coordinates where `inside` (n, D, 1) is 1; any columns beyond their number."""
    Q, R = jnp.linalg.qr(inside * jax.random.normal(key, (*inside.shape[:2], pairs), inside.dtype))
    return Q * jnp.sign(jnp.diagonal(R, axis1=1, axis2=2))[:, None, :]


def _permuted(key: Array, draws: int, q: Side, k: Side, T: Array, O: Array, learnt: Array) -> Array:
    """Functional cosines of different families among random derangements of the columns, NaN for repetitions."""
    if T.shape[2] < 2:
        return jnp.full(draws, jnp.nan, T.dtype)
    of_orders, of_codes = jax.random.split(key)
    orders = jax.vmap(lambda key: _derangement(key, T.shape[2]))(jax.random.split(of_orders, draws))

    def rival(given):
        order, new = given
        cosines = jax.vmap(lambda C: _at_best_time(C, O, learnt))(_cores(q, k, T[:, :, order]))
        return jnp.where(new, cosines, -jnp.inf).max()

    new = _new(of_codes, T, orders)
    rivals = lax.map(rival, (orders, new), batch_size=_together(O, len(T)))
    return jnp.where(new.any(axis=1), rivals, jnp.nan)


def _new(key: Array, T: Array, orders: Array) -> Array:
    """Whether `T_p[:, order]` is no member and of no earlier order's family, for orders (n, M), shape (n, P).

    Templates are told apart by codes of 64 random bits: equal ones share theirs, others do so once in `2^64/(n P)^2`.
    """
    of_entry, of_place, of_member = jax.random.split(key, 3)
    columns = _codes(of_entry, T.swapaxes(1, 2))
    orders = jnp.concatenate([jnp.arange(T.shape[2])[None], orders])
    places = jax.random.bits(of_place, (T.shape[2], 2), jnp.uint32)
    codes = lax.map(lambda order: (columns[:, order] * places[None]).sum(axis=1, dtype=jnp.uint32), orders)
    held = (codes[:, :, None] == codes[0][None, None]).all(axis=-1).any(axis=2)
    families = (codes * jax.random.bits(of_member, (len(T), 2), jnp.uint32)[None]).sum(axis=1, dtype=jnp.uint32)
    order = jnp.lexsort(families.T)  # stable: the hypothesis itself, then earlier orders, come first among equals
    repeated = (families[order][1:] == families[order][:-1]).all(axis=1)
    first = jnp.ones(len(orders), bool).at[order[1:]].set(~repeated)
    return (first[:, None] & ~held)[1:]


def _codes(key: Array, x: Array) -> Array:
    """64 bits for each row of numbers x (..., N), shape (..., 2): the same for the same row."""
    words = lax.bitcast_convert_type(x + 0.0, jnp.uint32).reshape(*x.shape[:-1], -1)  # -0 is 0
    codes = words[..., None] ^ jax.random.bits(key, (words.shape[-1], 2), jnp.uint32).reshape(
        (1,) * (x.ndim - 1) + (-1, 2)
    )
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):  # bits of an entry mixed well: Wellons' hash
        codes = (codes ^ (codes >> shift)) * jnp.uint32(factor)
    return codes.sum(axis=-2, dtype=jnp.uint32)


def _together(C: Array, members: int = 1) -> int:
    """How many draws at once keep the working set near four million numbers."""
    return 1 + 2**22 // (C.size * members)


def _unvisited(q: Side, k: Side, omega: Array, read: Array) -> Array:
    inside = (q.scale**2 > VISITED)[:, None] & (k.scale**2 > VISITED)[None, :]
    share = _norm(jnp.where(inside, read, 0)) / positive(_norm(omega))
    return jnp.maximum((1 - share) * (1 + share), 0)


def _filtered(C: Array, x: Array, tau: Array) -> Array:
    """`C_ab (1 - e^{-lam_a mu_b tau})`, the whitened head after training for tau; x holds `lam_a mu_b`."""
    return -C * jnp.expm1(-x * tau)


def _learnt(x: Array) -> Array:
    """`1 - e^{-x tau}` for all times that are tried, (TIMES, r r')."""
    return jax.vmap(lambda t: -jnp.expm1(-x * jnp.exp(t)))(_log_times(x)).reshape(TIMES, x.size)


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


def _at_best(C: Array, O: Array, learnt: Array) -> Array:
    """`_at_best_time` of the best member of a family C (P, r, r')."""
    return jax.vmap(lambda C: _at_best_time(C, O, learnt))(C).max()


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
