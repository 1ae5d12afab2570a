"""At the logits asked for: a softmax head of any strength, found in the plane of its probes (T18)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checks import InputError, concrete, instance, random_key, whole
from svtheory.factorisations import safe_svd
from svtheory.laws import Law
from svtheory.numerics import exact_products, numerical_rank_tolerance, positive, root
from svtheory.prediction.decay import check_undecayed
from svtheory.prediction.optimum import predict
from svtheory.prediction.strength import Sample, derivatives, draw_contexts, minimise
from svtheory.scenarios import Scenario
from svtheory.spectra.spectra import Spectrum, spectrum

CONVERGED = 1e-6  # what another step of Newton's may gain, of the entropy of m keys


class Plane(NamedTuple):
    """A head `Q C P^T` in the plane of its probes.

    query  Q, shape (D, L)
    keys   P, shape (D, K)
    core   C, shape (L, K)
    free   the key-only term of a query bias in the same probes, shape (K,); 0 without one
    noise  the covariance of C by the contexts it was solved on (T21), shape (L, K, L, K)
    """

    query: Array
    keys: Array
    core: Array
    free: Array
    noise: Array


def predict_finite(scenario: Scenario, key: Array, samples: int, pairs: int | None = None) -> Spectrum:
    """The spectrum of a trained softmax head at the logits asked for, not only to leading order (T18).

    Where a token's rest is elliptical beside its matched activations, every optimum is `Omega = Q C P^T`, whatever the
    strength and the number of keys: P spans the probes `K_s^+ Cov(s, g_J)`, Q the probes `K_r^+ Cov(r, f_I)` and,
    without a query bias, `K_r^+ E r`: a saturated head imitates a constant with the mean token. C, of K (K + 1)
    numbers, minimises the convex cross-entropy over `samples` contexts drawn here: no head is trained, and none is
    seen. For other laws it holds as far as conditional means are near linear. `predict` is its limit of small logits.
    Under the squared objective `predict` is exact at any size, and is returned.

    With head_dim below K, C is cut to its leading singular values in whitened coordinates (T7), which is exact to
    leading order only. The angle in the plane and the sizes have the sampling error of `samples` contexts (T21); the
    plane has none.

    Args:
        scenario: with laws, without weight decay.
        key: of the contexts.
        samples: how many contexts are drawn.
        pairs: K, the rank of the target, or more; needed while JAX traces it, found from the target otherwise.

    Returns K pairs, values falling, vectors (D, K). Works under jit, vmap and grad (`samples` and `pairs` static).
    Raises InputError for a weight decay, fewer than 2 samples, pairs below the rank of the target
    (not told while JAX traces it) or none of a traced one, or contexts for which no minimum is found, as where nothing
    bounds the logits (NaN while JAX traces).

    >>> from svtheory import BernoulliUniform, single_pair
    >>> law = BernoulliUniform(0.5, 2)
    >>> scenario = Scenario(jnp.eye(2), jnp.eye(2), single_pair(2, 2, 0, 1, 5.0), law, law, "softmax")
    >>> bool(abs(predict_finite(scenario, jax.random.key(0), 10000).values[0] - 5.0) < 0.2)
    True
    """
    _check(scenario, key, samples)
    if scenario.objective == "square":
        return predict(scenario)
    return _carried(optimal_plane(scenario, key, samples, pairs), scenario.rank)


def finite_error(scenario: Scenario, key: Array, samples: int, pairs: int | None = None) -> tuple[Array, Array, Array]:
    """What its own contexts leave uncertain of `predict_finite`: `E sin^2` of vectors, errors of values (T21).

    The sandwich `Cov C = H^{-1} Cov(gradient) H^{-1}/samples` of the restricted problem, carried to first order through
    the singular value decomposition of `Q C P^T`: the plane has no error, so what a vector may turn by is within it.

    Arguments as of `predict_finite`. Returns `E sin^2` of the left vectors, the standard errors of the values and
    `E sin^2` of the right vectors, each (K,); zeros under the squared objective. Works under jit and vmap; raises as
    `predict_finite`.

    >>> from svtheory import BernoulliUniform, single_pair
    >>> law = BernoulliUniform(0.5, 3)
    >>> scenario = Scenario(jnp.eye(2, 3), jnp.eye(2, 3), single_pair(3, 3, 0, 1, 5.0), law, law, "softmax")
    >>> left, value, right = finite_error(scenario, jax.random.key(0), 10000)
    >>> bool(0 < left[0] < 1e-3), bool(0 < value[0] < 0.1), bool(right[0] < 1e-9)  # the key's plane is a line
    (True, True, True)
    """
    _check(scenario, key, samples)
    if scenario.objective == "square":
        exact = jnp.zeros_like(predict(scenario).values)
        return exact, exact, exact
    return _spread(optimal_plane(scenario, key, samples, pairs), scenario.rank)


def _check(scenario: Scenario, key: Array, samples: int) -> None:
    instance("scenario", scenario, Scenario)
    check_undecayed(scenario, "at finite logits")
    random_key("key", key)
    whole("samples", samples, 2)


def optimal_plane(scenario: Scenario, key: Array, samples: int, pairs: int | None) -> Plane:
    """The optimal head of a softmax scenario in the plane of its probes; raises as `predict_finite`."""
    most = min(scenario.dim, *scenario.target.shape[-2:])
    plane, lasting = in_plane(scenario, key, samples, min(_pairs(scenario.target, pairs), most))
    if concrete(lasting) and not bool(lasting <= CONVERGED):
        raise InputError(f"samples must bound the logits, got {samples} contexts for which no minimum was found")
    return plane


def _pairs(target: Array, pairs: int | None) -> int:
    """How many pairs the plane is to hold: the rank of the target, or more."""
    if not concrete(target):
        if pairs is None:
            raise InputError("pairs must be given while the target is traced, got None")
        return whole("pairs", pairs, 1)
    rank = max(1, int(np.linalg.matrix_rank(np.asarray(target))))
    if pairs is not None and whole("pairs", pairs, 1) < rank:
        raise InputError(f"pairs must be at least {rank}, the rank of target, got {pairs}")
    return rank if pairs is None else pairs


@partial(jax.jit, static_argnames=("samples", "pairs"))
@exact_products
def in_plane(scenario: Scenario, key: Array, samples: int, pairs: int) -> tuple[Plane, Array]:
    """The optimal head, NaN where the solve has not converged, and what another step of it would gain."""
    X, Y, bias = scenario.query_features, scenario.key_features, scenario.query_bias
    left, _, right = safe_svd(scenario.target)
    query, asked = probe_plane(X, scenario.query_law, left[:, :pairs], mean=not bias)
    keys, sought = probe_plane(Y, scenario.key_law, right[:pairs].T, mean=False)
    f, g, wanted = draw_contexts(scenario, key, samples)
    read, written = f @ (X.T @ query), g @ (Y.T @ keys)
    if bias:  # a free key-only term: what reads 1 of every query
        read, asked = jnp.concatenate([read, jnp.ones_like(read[:, :1])], axis=1), jnp.append(asked, True)
    features = read[:, None, :, None] * written[:, :, None, :]
    used = (asked[:, None] & sought[None, :]).ravel()
    sample = Sample(features.reshape(samples, scenario.n_keys, -1) * used.astype(f.dtype)[None, None, :], wanted)
    c = minimise(jax.tree.map(lax.stop_gradient, sample), used)
    gradients, H = derivatives(sample, c, used)
    slope = gradients.mean(axis=0)
    # one more step of Newton's, through which the derivative of the solution flows
    c -= jnp.linalg.solve(lax.stop_gradient(H), slope)
    lasting = slope @ jnp.linalg.solve(H, slope) / jnp.log(jnp.asarray(scenario.n_keys, f.dtype))
    known = (lasting <= CONVERGED) & (scenario.weight_decay == 0)
    C = jnp.where(used & known, c, jnp.where(used, jnp.nan, 0)).reshape(asked.size, pairs)
    sandwich = jnp.linalg.solve(H, jnp.linalg.solve(H, gradients.T @ gradients).T) / samples**2
    L = query.shape[1]
    noise = sandwich.reshape(*C.shape, *C.shape)[:L, :, :L, :]
    return Plane(query, keys, *((C[:-1], C[-1]) if bias else (C, jnp.zeros_like(C[0]))), noise), lasting


def probe_plane(features: Array, law: Law, matched: Array, mean: bool) -> tuple[Array, Array]:
    """Directions (D, L) that span the probes of `matched^T f` (N, K), each with unit moment, and which of them are any.

    `K^+ Cov(r, f) matched`, or with the mean token, L = K + 1, `S^+ [E r f^T matched, E r]`, which spans the same as
    `K^+ [Cov(r, f) matched, E r]` where E r is in the range of K, and is right where it is not (T18). Of deficient
    rank the last directions are arbitrary, and marked so.
    """
    root = law.second_moment_root() if mean else law.covariance_root()
    U, s, Vt = safe_svd(features @ root)
    inside = s > numerical_rank_tolerance(s, max(features.shape))
    asked = root.T @ matched
    if mean:
        # the last column of the root is the mean
        asked = jnp.concatenate([asked, jnp.zeros_like(asked[:, :1]).at[-1].set(1)], axis=1)
    asked = asked / jnp.maximum(jnp.linalg.norm(asked, axis=0, keepdims=True), jnp.finfo(s.dtype).tiny)
    basis, sizes, _ = safe_svd(jnp.where(inside[:, None], Vt @ asked, 0))
    whitened = U @ (basis / positive(s, inside)[:, None])
    return whitened, sizes > numerical_rank_tolerance(sizes, max(features.shape))


@partial(jax.jit, static_argnames="rank")
@exact_products
def _carried(plane: Plane, rank: int) -> Spectrum:
    """The spectrum of `Q C P^T`, cut to a rank within the plane."""
    U, values, Vt = safe_svd(plane.core)
    kept = jnp.where(jnp.arange(values.size) < rank, values, 0)
    return spectrum((plane.query @ (U * kept[None, :])).T, (plane.keys @ Vt.T).T)


@partial(jax.jit, static_argnames="rank")
@exact_products
def _spread(plane: Plane, rank: int) -> tuple[Array, Array, Array]:
    """How far the noise of C turns the left and right vectors, mean squares, and moves the values; (K,) each."""

    def of_core(core):
        found = _carried(plane._replace(core=core), rank)
        return found.left, found.values, found.right

    def mean_square(slope):
        return jnp.einsum("...ij,ijkl,...kl->...", slope, plane.noise, slope, optimize=True)

    left, values, right = map(mean_square, jax.jacfwd(of_core)(plane.core))
    return left.sum(axis=0), root(values), right.sum(axis=0)
