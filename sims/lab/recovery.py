"""Recovery: how much of a feature a singular vector shows, before and after unwhitening (T15)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from sims.lab.shortfall import SANDWICH
from sims.lab.sweep import without_decay
from svtheory import Law, Scenario, Spectrum, alignment, compare, predict, sampling_error, unwhiten
from svtheory.spectra.unwhitening import remove_direction

SIDES = ("query", "key")
READINGS = ("before", "after", "mean token removed")


def compared(contexts: int, key: Array, scenario: Scenario, trained: Spectrum) -> dict[str, Array]:
    """Of the first singular pair, predicted and measured: recoveries and removed shares, and the |cos| of the two.

    By side, and recoveries by reading, (2, 3); with the `E sin^2` that so many contexts leave a softmax head, by side,
    NaN under the squared objective, which is trained without.
    """
    prediction = predict(without_decay(scenario))
    (predicted, seen), (predicted_share, share) = recoveries((prediction, trained), scenario)
    agreement, sin2 = compare(prediction, trained), jnp.full(2, jnp.nan)
    if scenario.objective == "softmax":
        sin2 = jnp.stack(
            [x[0] for x in sampling_error(scenario, key, min(contexts, SANDWICH), contexts, raw=True, pairs=1)]
        )
    return {
        "predicted": predicted,
        "measured": seen,
        "predicted_removed": predicted_share,
        "removed": share,
        "cosine": jnp.stack([agreement.left[0], agreement.right[0]]),
        "sin2": sin2,
    }


def recoveries(spectra: Sequence[Spectrum], scenario: Scenario) -> tuple[Array, Array]:
    """`recovery` of the first singular pair of S spectra, on the query and the key side; shapes (S, 2, 3), (S, 2)."""
    left, right = (jnp.stack([getattr(s, side)[:, 0] for s in spectra], axis=1) for side in ("left", "right"))
    query = recovery(left, scenario.query_features, scenario.query_law)
    key = recovery(right, scenario.key_features, scenario.key_law)
    return jax.tree.map(lambda *sides: jnp.stack(sides, axis=1), query, key)


def recovery(vectors: Array, features: Array, law: Law) -> tuple[Array, Array]:
    """|cos| of feature 0 with singular vectors (D, K), read in the three `READINGS`, (K, 3), and removed shares (K,).

    As it is; unwhitened by the covariance of the tokens; and with the mean token projected out of both. Features
    (D, N); the share is that of squared length which the mean token took.
    """
    feature = features[:, :1]
    with jax.default_matmul_precision("highest"):
        covariance, mean = features @ law.covariance() @ features.T, features @ law.mean()
    patterns, _ = unwhiten(vectors, covariance)
    cleaned, shares = unwhiten(vectors, covariance, mean)
    cosines = [
        alignment(vectors, feature),
        alignment(patterns, feature),
        alignment(cleaned, remove_direction(feature, mean)),
    ]
    return jnp.concatenate(cosines, axis=1), shares
