"""Drift: where a saturated head's query vector goes, in closed form but for one scalar curve (T18)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checks import InputError, concrete, instance, random_key, whole
from svtheory.numerics import exact_products, positive
from svtheory.prediction.decay import check_undecayed
from svtheory.prediction.finite import probe_plane
from svtheory.prediction.strength import Sample, minimise
from svtheory.scenarios import Scenario
from svtheory.spectra.spectra import Spectrum, spectrum

LEVELS = 33  # activations at which the curve is solved; between them it is linear


def predict_drift(scenario: Scenario, key: Array, samples: int) -> Spectrum:
    """The singular pair of a softmax head with one matched pair of any strength, from one scalar curve (T18).

    With `v || K_s^+ Cov(s, g_j)`, let `phi(f) = argmin_a E KL(softmax(t f g_j) || softmax(a v . s))`: how much of v the
    best answer to each activation takes. Then `u || S_r^+ (Cov(r, f_i) Cov(f_i, phi) / Var f_i + E[phi] E r)`, the
    regression of phi on the token. At small logits phi is linear and this is T6; a saturated phi is nearly constant,
    and without a query bias only the mean token can imitate a constant, so u drifts to it. With a query bias,
    `u || K_r^+ Cov(r, f_i)` at every strength. Where `predict_finite` minimises the cross-entropy this fits by least
    squares, so it is near and not exact: it says why, and has no problem in K (K + 1) numbers to solve.

    Args:
        scenario: softmax, with a single pair, of activations that are independent or elliptical; no weight decay.
        key: of the activations over which expectations are taken.
        samples: how many queries and contexts of keys those are.

    Returns a Spectrum of one pair, vectors (D, 1); its value is `|u|`, which saturation makes rough. Works under jit
    and vmap (`samples` static). Raises InputError otherwise.

    >>> from svtheory import BernoulliUniform, predict, single_pair
    >>> X, law = jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]), BernoulliUniform(0.9, 3)
    >>> scenario = Scenario(X, X, single_pair(3, 3, 0, 1, 80.0), law, law, "softmax")
    >>> drifted, leading = predict_drift(scenario, jax.random.key(0), 2000), predict(scenario)
    >>> round(float(abs(drifted.left[:, 0] @ leading.left[:, 0])), 2)  # with the head at its logits: 0.998 and 0.964
    0.95
    """
    instance("scenario", scenario, Scenario)
    random_key("key", key)
    if scenario.objective != "softmax":
        raise InputError(f"objective must be 'softmax' for a drift, got {scenario.objective!r}")
    check_undecayed(scenario, "for a drift")
    if concrete(scenario.target) and np.count_nonzero(scenario.target) != 1:
        raise InputError(f"target must match a single pair, got {np.count_nonzero(scenario.target)} entries")
    return _drifted(scenario, key, whole("samples", samples, 2))


@partial(jax.jit, static_argnames="samples")
@exact_products
def _drifted(scenario: Scenario, key: Array, samples: int) -> Spectrum:
    X, Y, law, T = scenario.query_features, scenario.key_features, scenario.query_law, scenario.target
    i, j = jnp.unravel_index(jnp.argmax(jnp.abs(T)), T.shape)
    own, other = (jnp.zeros((n, 1), X.dtype).at[x].set(1) for n, x in zip(T.shape, (i, j), strict=True))
    query, asked = probe_plane(X, law, own, mean=not scenario.query_bias)
    keys, _ = probe_plane(Y, scenario.key_law, other, mean=False)
    query_key, key_key = jax.random.split(key)
    f = law.sample(query_key, (samples,))[:, i]
    g = scenario.key_law.sample(key_key, (samples, scenario.n_keys))
    levels, curve = saturation(T[i, j], f, g[:, :, j], g @ (Y.T @ keys))
    phi = jnp.interp(f, levels, curve)
    with_phi = law.covariance()[:, i] * ((f - f.mean()) * phi).mean() / positive(law.covariance()[i, i])
    if not scenario.query_bias:
        with_phi += law.mean() * phi.mean()
    u = query @ jnp.where(asked, query.T @ (X @ with_phi), 0)
    return spectrum(u[None], keys.T)


def saturation(t: Array, f: Array, g: Array, written: Array) -> tuple[Array, Array]:
    """The curve phi at LEVELS activations that span f (n,); of keys' g (n, m) and `v . s` (n, m, 1); each (LEVELS,)."""
    # closer together near 0, where the curve of a strong target bends
    ends = jnp.sign(jnp.stack([f.min(), f.max()])) * jnp.sqrt(jnp.abs(jnp.stack([f.min(), f.max()])))
    roots = jnp.linspace(ends[0], ends[1], LEVELS)
    levels = roots * jnp.abs(roots)
    used = jnp.ones(1, bool)

    def imitated(level):
        return minimise(Sample(written, jax.nn.softmax(t * level * g, axis=-1)), used)[0]

    return levels, lax.map(imitated, levels)
