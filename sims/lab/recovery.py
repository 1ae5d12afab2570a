"""Recovery: how much of a feature a singular vector shows, before and after unwhitening (T15)."""

import jax
import jax.numpy as jnp
from jax import Array

from sims.lab.shortfall import SANDWICH
from svtheory import Law, Scenario, Spectrum, alignment, compare, predict, sampling_error, unwhiten
from svtheory.spectra.unwhitening import remove_direction

SIDES = ("query", "key")
READINGS = ("before", "after", "mean token removed")


def compared(contexts: int, key: Array, scenario: Scenario, trained: Spectrum) -> dict[str, Array]:
    """Of the first singular pair, predicted and measured: recoveries and removed shares, and the |cos| of the two.

    By side, and recoveries by reading, (2, 3); with the `E sin^2` that so many contexts leave a softmax head, by side,
    NaN under the squared objective, which is trained without.
    """
    prediction = predict(scenario)
    (predicted, predicted_share), (seen, share) = recoveries(prediction, scenario), recoveries(trained, scenario)
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


def recoveries(spectrum: Spectrum, scenario: Scenario) -> tuple[Array, Array]:
    """`recovery` of the first singular pair, on the query and the key side; shapes (2, 3) and (2,)."""
    query = recovery(spectrum.left[:, 0], scenario.query_features, scenario.query_law)
    key = recovery(spectrum.right[:, 0], scenario.key_features, scenario.key_law)
    return jax.tree.map(lambda *sides: jnp.stack(sides), query, key)


def recovery(vector: Array, features: Array, law: Law) -> tuple[Array, Array]:
    """|cos| of feature 0 with a singular vector (D,), read in the three `READINGS`, shape (3,), and the removed share.

    As it is; unwhitened by the covariance of the tokens; and with the mean token projected out of both. Features
    (D, N); the share is that of squared length which the mean token took.
    """
    vectors, feature = vector[:, None], features[:, :1]
    with jax.default_matmul_precision("highest"):
        covariance, mean = features @ law.covariance() @ features.T, features @ law.mean()
    pattern, _ = unwhiten(vectors, covariance)
    cleaned, share = unwhiten(vectors, covariance, mean)
    cosines = [
        alignment(vectors, feature),
        alignment(pattern, feature),
        alignment(cleaned, remove_direction(feature, mean)),
    ]
    return jnp.stack(cosines)[:, 0, 0], share[0]
