"""Agreement: how well two spectra agree, vector by vector."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.checks import InputError, non_negative, told
from svtheory.numerics import exact_products
from svtheory.pytrees import pytree
from svtheory.spectra.alignments import alignment, chance_alignment
from svtheory.spectra.spectra import Spectrum, in_one_space, value_groups


@pytree()
@dataclass(frozen=True)
class Agreement:
    """How a measured spectrum agrees with a predicted one, pair by predicted pair; NaN where nothing is predicted.

    left, right   |cos| of predicted with measured u_k, v_k, shape (K,); where the predicted value belongs to a group
                  of equal ones, the cosine of the largest principal angle between the groups' subspaces
    value_error   (measured - predicted sigma_k) / predicted sigma_1, shape (K,)
    identified    whether the predicted vector is named by its value: non-zero and apart from all others, shape (K,)
    chance        E|cos| of a random direction (T12)
    predicted_left, measured_left, predicted_right, measured_right
                  |cos| of all singular vectors with the features, (pairs, N) and (pairs, M); None without features
    """

    left: Array
    right: Array
    value_error: Array
    identified: Array
    chance: Array
    predicted_left: Array | None = None
    measured_left: Array | None = None
    predicted_right: Array | None = None
    measured_right: Array | None = None


def compare(
    prediction: Spectrum,
    measurement: Spectrum,
    features: tuple[Array, Array] | None = None,
    tolerance: Array | float = 1e-3,
) -> Agreement:
    """Compare a measured spectrum with a predicted one.

    Pairs are matched by the order of their values, vectors up to sign, predicted values closer than
    `tolerance * sigma_1` as subspaces, predicted zeros not at all. A measurement of fewer pairs than predicted is that
    of a matrix of lower rank: the others are measured as 0, cosines and values. `features = (X, Y)`, shapes (D, N) and
    (D, M), adds the alignment tables of both spectra. Works under jit and vmap. Raises InputError for what is no
    Spectrum, spectra of different dimensions, features that are no pair of arrays and a tolerance below 0.
    """
    in_one_space(prediction, measurement)
    tolerance = non_negative("tolerance", tolerance).astype(prediction.values.dtype)
    found = _agreement(prediction, measurement, tolerance)
    return found if features is None else replace(found, **_alignment_tables(prediction, measurement, features))


@jax.jit
@exact_products
def _agreement(prediction: Spectrum, measurement: Spectrum, tolerance: Array) -> Agreement:
    D, K = prediction.left.shape
    left, values, right = _measured(measurement, K)
    labels = value_groups(prediction.values, tolerance)
    together = labels[:, None] == labels[None, :]
    nonzero = prediction.values > tolerance * prediction.values[0]
    return Agreement(
        left=_group_cosines(prediction.left, left, together, nonzero),
        right=_group_cosines(prediction.right, right, together, nonzero),
        value_error=jnp.where(nonzero, (values - prediction.values) / prediction.values[0], jnp.nan),
        identified=nonzero & (together.sum(axis=1) == 1),
        chance=jnp.asarray(chance_alignment(D), prediction.values.dtype),
    )


def _measured(measurement: Spectrum, K: int) -> tuple[Array, Array, Array]:
    """The first K pairs, of zeros beyond those that there are."""
    beyond = max(K - measurement.values.size, 0)
    left, right = (jnp.pad(x[:, :K], ((0, 0), (0, beyond))) for x in (measurement.left, measurement.right))
    return left, jnp.pad(measurement.values[:K], (0, beyond)), right


def _group_cosines(predicted: Array, measured: Array, together: Array, nonzero: Array) -> Array:
    """For each k the smallest principal cosine between the two spans of k's group; NaN where not `nonzero`."""
    cosines = predicted.T @ measured
    alone = together.sum(axis=1) == 1

    def smallest(group):
        inside = group[:, None] & group[None, :]
        # outside the group the identity stands in, whose singular values are 1
        return jnp.linalg.svd(jnp.where(inside, cosines, jnp.eye(len(cosines), dtype=cosines.dtype)), compute_uv=False)[
            -1
        ]

    # one after the other, and only where needed: most of the many pairs of a large head are alone or zero
    grouped = jax.lax.map(
        lambda k: jax.lax.cond(k[0], smallest, lambda _: jnp.ones((), cosines.dtype), k[1]),
        (nonzero & ~alone, together),
    )
    found = jnp.where(alone, jnp.abs(jnp.diagonal(cosines)), grouped)
    return jnp.where(nonzero, jnp.minimum(found, 1), jnp.nan)


def _alignment_tables(prediction: Spectrum, measurement: Spectrum, features: tuple[Array, Array]) -> dict[str, Array]:
    if not isinstance(features, tuple | list) or len(features) != 2:
        raise InputError(f"features must be a pair (X, Y), those of queries and those of keys, got {told(features)}")
    X, Y = features
    return {
        "predicted_left": alignment(prediction.left, X),
        "measured_left": alignment(measurement.left, X),
        "predicted_right": alignment(prediction.right, Y),
        "measured_right": alignment(measurement.right, Y),
    }
