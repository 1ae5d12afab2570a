"""Sampling: the standard error of a trained head's singular vectors, from its finitely many contexts (T21)."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checks import InputError, flag, instance, random_key, whole
from svtheory.factorisations import safe_svd
from svtheory.numerics import exact_products, positive
from svtheory.prediction.decay import check_undecayed
from svtheory.prediction.finite import Plane, optimal_plane
from svtheory.prediction.optimum import optimal_omega
from svtheory.prediction.strength import draw_contexts
from svtheory.prediction.whitened import Side, whiten
from svtheory.scenarios import Scenario

TOGETHER = 256  # contexts whose gradients are formed at a time


def sampling_error(
    scenario: Scenario,
    key: Array,
    samples: int,
    n: int | Sequence[int] | np.ndarray,
    raw: bool = False,
    pairs: int | None = None,
) -> tuple[Array, Array]:
    """`E sin^2` between singular vectors after n contexts and those after endlessly many, query and key side (T21).

    Of whitened vectors, those of `A^{1/2} Omega B^{1/2}` (T22), or of the raw ones of Omega. To first order in the
    noise N of Omega the vector k turns towards l by `(sigma_k N_lk + sigma_l N_kl)/(sigma_k^2 - sigma_l^2)`, in the
    basis of all singular vectors. Under the squared objective and in whitened tokens `N = mean(e r~ s~^T)` with the
    residual e, and n is counted as `n - D D'`, the ranks of the moments, as white noise does; for one pair
    `E sin^2 = E[e^2 (v~ . s~)^2 |P_perp r~|^2]/((n - D D') sigma~^2)`. Under softmax N has the sandwich covariance
    `H^{-1} Cov(gradient) H^{-1}/n` at the optimum of the logits asked for (T18). Not before n is several times D D'.

    Args:
        scenario: with laws, without weight decay, and a head_dim that leaves the optimum its rank.
        key: of the contexts over which expectations are taken.
        samples: how many those are; softmax holds and inverts a Hessian of D^2 D'^2 entries.
        n: contexts that a head is trained on, above D D' under the squared objective; one number, or several.
        raw: whether of the vectors of Omega itself.
        pairs: as in `predict_finite`, where the target is traced.

    Returns two arrays (*shape of n, K), K the number of pairs of the optimum; infinite where a value is shared or 0,
    or where n is so small that the first order is above 1, as no `sin^2` is. Works under jit and vmap (all but scenario
    and key static). Raises InputError for what is no such scenario, key or number.
    """
    instance("scenario", scenario, Scenario)
    random_key("key", key)
    counts = _checked(scenario, samples, n)
    if scenario.objective == "square":
        return _square(scenario, key, counts, samples, flag("raw", raw))
    plane = optimal_plane(scenario, jax.random.fold_in(key, 0), samples, pairs)
    return _softmax(scenario, plane, key, counts, samples, flag("raw", raw))


def _checked(scenario: Scenario, samples: int, n: int | Sequence[int] | np.ndarray) -> np.ndarray:
    """The numbers of contexts; raises InputError for what has no sampling error."""
    if scenario.query_law is None or scenario.key_law is None:
        raise InputError("query_law and key_law must be given: without them there is nothing to sample, got None")
    check_undecayed(scenario, "for a sampling error")
    if scenario.head_dim is not None and scenario.head_dim < scenario.dim:
        raise InputError(f"head_dim must be at least {scenario.dim}, the dimension D, got {scenario.head_dim}")
    whole("samples", samples, 2)
    least = scenario.dim**2 + 1 if scenario.objective == "square" else 1
    counts = np.asarray(n)
    for count in counts.ravel().tolist():
        whole("n", count, least)
    return counts.astype(scenario.query_features.dtype)


@partial(jax.jit, static_argnames=("samples", "raw"))
@exact_products
def _square(scenario: Scenario, key: Array, n: Array, samples: int, raw: bool) -> tuple[Array, Array]:
    X, Y, query, keys = scenario.query_features, scenario.key_features, *_sides(scenario)
    omega = optimal_omega(scenario)
    a_map, sigma, b_map = _modes(omega, query, keys, raw)
    query_key, key_key = jax.random.split(key)
    f, g = scenario.query_law.sample(query_key, (samples,)), scenario.key_law.sample(key_key, (samples,))
    r, s = f @ X.T, g @ Y.T
    residual = ((f @ scenario.target) * g).sum(axis=1) - ((r @ omega) * s).sum(axis=1)
    a, b = r @ query.inverse @ a_map, s @ keys.inverse @ b_map
    weighted = residual[:, None] ** 2
    own = jnp.einsum("nl,nk->lk", weighted * a**2, b**2) / samples  # E N_lk^2
    crossed = jnp.einsum("nl,nk->lk", weighted * a * b, a * b) / samples  # E N_lk N_kl
    entries = ((query.scale > 0).sum() * (keys.scale > 0).sum()).astype(n.dtype)
    left, right = _turned(sigma, own, own.T, crossed, scenario.rank)
    return _after(n - entries, left), _after(n - entries, right)


@partial(jax.jit, static_argnames=("samples", "raw"))
@exact_products
def _softmax(scenario: Scenario, plane: Plane, key: Array, n: Array, samples: int, raw: bool) -> tuple[Array, Array]:
    X, Y, D, bias = scenario.query_features, scenario.key_features, scenario.dim, scenario.query_bias
    query, keys = _sides(scenario)
    centre = X @ scenario.query_law.mean() if bias else jnp.zeros(D, X.dtype)
    omega, free = plane.query @ plane.core @ plane.keys.T, plane.keys @ plane.free
    a_map, sigma, b_map = _modes(omega, query, keys, raw)
    rows = D + 1 if bias else D  # a query bias reads 1 of every query

    def batch(key):
        f, g, wanted = draw_contexts(scenario, key, TOGETHER)
        r, s = f @ X.T, g @ Y.T
        logits = jnp.einsum("nd,nmd->nm", r @ omega + free[None, :], s)
        # a common shift of all keys changes nothing, that of queries nothing beside a query bias
        return (r - centre[None, :]) @ query.inverse, s @ keys.inverse, wanted, logits

    def accumulate(sums, key):
        r, s, wanted, logits = batch(key)
        p = jax.nn.softmax(logits, axis=-1)
        if bias:
            r = jnp.concatenate([r, jnp.ones_like(r[:, :1])], axis=1)
        slope = jnp.einsum("nm,np,nmq->npq", p - wanted, r, s).reshape(TOGETHER, -1)
        spread = (s - jnp.einsum("nm,nmq->nq", p, s)[:, None, :]) * jnp.sqrt(p)[..., None]
        H = jnp.einsum("npq,nrs->pqrs", jnp.einsum("np,nr->npr", r, r), jnp.einsum("nmq,nms->nqs", spread, spread))
        H = H.transpose(0, 2, 1, 3).reshape(rows * D, rows * D)
        return (sums[0] + H, sums[1] + slope.T @ slope), None

    steps = -(-samples // TOGETHER)
    size = rows * D
    start = (jnp.zeros((size, size), X.dtype),) * 2
    (H, J), _ = lax.scan(accumulate, start, jax.random.split(key, steps))
    H, J = H / (steps * TOGETHER), J / (steps * TOGETHER)
    H_inverse = jnp.linalg.pinv(H, rtol=size * jnp.finfo(H.dtype).eps, hermitian=True)
    covariance = (H_inverse @ J @ H_inverse).reshape(rows, D, rows, D)[:D, :, :D, :]
    moved = jnp.einsum("pl,qk,pqrs,rm,sj->lkmj", a_map, b_map, covariance, a_map, b_map, optimize=True)
    index = jnp.arange(D)
    l, k = index[:, None], index[None, :]
    own, crossed = moved[l, k, l, k], moved[l, k, k, l]
    left, right = _turned(sigma, own, own.T, crossed, plane.keys.shape[1])
    return _after(n, left), _after(n, right)


def _after(n: Array, once: Array) -> Array:
    """What it is after each number of contexts, (*shape of n, K), from what one context would leave, (K,)."""
    found = once.reshape((1,) * n.ndim + once.shape) / n[..., None]
    return jnp.where(found > 1, jnp.inf, found)


def _sides(scenario: Scenario) -> tuple[Side, Side]:
    """The sides as the objective sees them, whose whitened tokens `r U s^+` have D entries, those without moment 0."""
    D = scenario.dim

    def padded(side: Side) -> Side:
        missing = D - side.scale.size
        basis, inverse = (jnp.pad(x, ((0, 0), (0, missing))) for x in (side.basis, side.inverse))
        return side._replace(basis=basis, inverse=inverse, scale=jnp.pad(side.scale, (0, missing)))

    tokens = whiten(scenario)
    return padded(tokens.query), padded(tokens.key)


def _modes(omega: Array, query: Side, keys: Side, raw: bool) -> tuple[Array, Array, Array]:
    """All singular values, and what takes whitened tokens to coordinates in all singular vectors (D, D)."""
    outward, outward_k = (side.basis * side.scale[None, :] for side in (query, keys))
    U, sigma, Vt = safe_svd(omega if raw else outward.T @ omega @ outward_k)
    # the noise of Omega is inverse N~ inverse'^T, so a raw vector sees a whitened token through the inverse
    return (query.inverse.T @ U if raw else U), sigma, (keys.inverse.T @ Vt.T if raw else Vt.T)


def _turned(sigma: Array, own: Array, other: Array, crossed: Array, modes: int) -> tuple[Array, Array]:
    """`E sin^2` of the first modes, both sides, from `E N_lk^2`, `E N_kl^2` and `E N_lk N_kl` at (l, k)."""
    l, k = sigma[:, None], sigma[None, :]
    apart = (k**2 - l**2) ** 2
    elsewhere = ~jnp.eye(sigma.size, dtype=bool)

    def turned(numerator):
        share = jnp.where(apart > 0, numerator / positive(apart), jnp.inf)
        return jnp.where(elsewhere & (numerator > 0), share, 0).sum(axis=0)[:modes]

    left = turned(k**2 * own + 2 * k * l * crossed + l**2 * other)
    right = turned(k**2 * other + 2 * k * l * crossed + l**2 * own)
    return left, right
