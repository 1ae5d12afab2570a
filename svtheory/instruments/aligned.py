"""Aligned: every head of a bundle beside a dictionary of features, and how well random heads would be aligned."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from scipy.stats import beta

from svtheory.heads.bundles import HeadBundle
from svtheory.heads.sequential import sequential_p_values
from svtheory.instruments.directions import (
    READINGS,
    ROUND,
    SIDES,
    Features,
    TokenMoments,
    balanced_heads,
    gaussian_heads,
    in_parts,
    matched_directions,
    moments_of_layers,
    of_head,
    readings,
    unit,
)
from svtheory.instruments.labels import Labels
from svtheory.instruments.sources import check_tokens_differ, check_values_held
from svtheory.instruments.survey import PLACE, adjusted, over_heads
from svtheory.progress import rounds
from svtheory.spectra.alignments import alignment_p_value, chance_alignment

LEVEL = 0.05
AXES = (*PLACE, "side", "reading")
CHANCE = ("matched", "isotropic", "balanced", "gaussian")  # kinds of random heads

VARIABLES: Labels = {
    "best_cosine": "|cos| of a vector with the feature nearest to it",
    "best_feature": "that feature, by its index in the dictionary",
    "mean_removed": "share of a vector's square along the mean token, which is projected out",
    "block_cosine": "length of a unit feature's projection on the vectors of a block, of the nearest",
    "block_feature": "that feature, by its index in the dictionary",
    "block_p": "how likely an isotropic subspace of the block's dimension is as near to a feature",
    "dead_feature": "features of the dictionary that are zero, by their index",
    "largest_cosine": "best |cos| of any vector of the head's side with any feature",
    "isotropic_chance": "best |cos| of a random direction with the features, mean (T12)",
    "isotropic_chance_of_a_head": "best |cos| of as many random directions as the head has vectors, mean (T12)",
    "isotropic_p": "how likely random directions do as well, for all vectors and features of the head",
    "random_p": "share of random heads, the largest of all kinds, with a vector as well aligned",
    "random_p_least": "what that share might yet become, at least, were draws to go on",
    "random_draws": ("random heads drawn of each kind", "heads"),
    "draws_at_most": ("random heads of each kind, at most", "heads"),
    "isotropic_adjusted_p": "isotropic p-value, adjusted over heads and sides",
    "random_adjusted_p": "p-value of random heads, adjusted over heads and sides",
    "matched_chance": "best |cos| of a direction drawn with the tokens' covariance, mean",
    **{
        f"{kind}_chance_of_a_head{suffix}": f"{what}best |cos| of any vector of a random head, {of}, mean"
        for kind, of in (
            ("matched", "directions drawn with the tokens' covariance"),
            ("balanced", "of the balanced spectrum"),
            ("gaussian", "of independent Gaussian entries"),
        )
        for suffix, what in (("", ""), ("_standard_error", "standard error of the "))
    },
}


def compared(bundle: HeadBundle, given: np.ndarray, key: Array, draws: int) -> xr.Dataset:
    """Best cosines of every vector with the features given, (D, N), and those of random heads where there are tokens.

    Vectors that cannot be named are left out; dead features are no comparisons of chance.
    """
    (D, N), moments = given.shape, None
    features = in_parts(given)
    dead = np.flatnonzero(np.asarray(features.lengths).reshape(-1)[:N] == 0)
    if bundle.attn_in is not None:
        check_tokens_differ(bundle)
        tokens = jnp.asarray(unit(bundle.attn_in[:, bundle.real], (1, 2)), jnp.float32)
        moments = moments_of_layers(tokens)
    of_pairs = ("best_cosine", "best_feature", "mean_removed", "block_cosine", "block_feature")
    axes: dict[str, tuple[str, ...]] = dict.fromkeys(("singular_value", "named", "block"), ("reading", "pair"))
    axes |= dict.fromkeys(of_pairs, ("side", "reading", "pair"))
    epsilon = max(bundle.epsilon, float(jnp.finfo(features.units.dtype).eps))
    results = over_heads(of_head, bundle, axes, of_layer=(moments,), shared=(features, epsilon))
    check_values_held(results.singular_value.values[:, :, 0])
    K = results.sizes["pair"]
    alive = N - len(dead)
    results = results.assign(dead_feature=("dead", dead)).assign_attrs(n_features=N)
    results = results.assign_coords(side=list(SIDES), reading=list(readings(moments)), pair=range(1, K + 1))
    results["best_cosine"] = results.best_cosine.where(results.named)
    results["block_p"] = block_p(results, D, alive)
    largest = results["largest_cosine"] = results.best_cosine.max("pair").fillna(0)
    results["isotropic_chance"] = chance_alignment(D, alive)
    results["isotropic_chance_of_a_head"] = chance_alignment(D, alive * K)
    results["isotropic_p"] = AXES, np.asarray(alignment_p_value(jnp.asarray(largest.values), D, K * alive))
    if moments is not None:
        results = results.merge(chance(largest, bundle, features, moments, key, draws))
    for name in nulls(results):
        results[f"{name}_adjusted_p"] = AXES, adjusted(results[f"{name}_p"].values, 3)
    return results


def block_p(results: xr.Dataset, D: int, features: int) -> xr.DataArray:
    """How likely an isotropic subspace of each block's dimension is as near to one of so many features.

    `|P x|^2 ~ Beta(b/2, (D - b)/2)` for a unit vector x and b dimensions of D. NaN for a pair that is its own block.
    """
    size = (results.block == results.block.rename(pair="other")).sum("other")
    a, b = size.values / 2, np.maximum(D - size.values, 1e-9) / 2
    alone = beta.sf(
        results.block_cosine.transpose(..., "side", "reading", "pair").values ** 2, a[:, :, None], b[:, :, None]
    )
    p = xr.zeros_like(results.block_cosine) - np.expm1(features * np.log1p(-np.minimum(alone, 1 - 1e-16)))
    return p.where(size > 1)


def nulls(results: xr.Dataset) -> list[str]:
    """The kinds of chance that were computed."""
    return [name for name in ("isotropic", "random") if f"{name}_p" in results]


def chance(
    largest: xr.DataArray, bundle: HeadBundle, features: Features, moments: TokenMoments, key: Array, draws: int
) -> xr.Dataset:
    """What random heads of all kinds give every side of a head, drawn until its verdicts at LEVEL are settled."""
    weights, biased = [jnp.asarray(W, jnp.float32) for W in (bundle.W_Q, bundle.W_K)], bundle.query_bias
    layers, heads, sides, _ = largest.shape
    tests = layers * heads * sides
    most = max(draws, math.ceil(2 * tests / LEVEL) - 1)  # with fewer, no side by itself could be beyond chance
    centred = np.stack([biased, np.ones_like(biased)], axis=2).astype(int)

    def moments_of(layer: int) -> TokenMoments:
        return jax.tree.map(lambda x: x[layer], moments)

    @cache
    def matched(layer: int, number: int) -> np.ndarray:
        """Random directions of a layer in a round, (ROUND, head, side, reading, 3)."""
        at = jax.random.fold_in(jax.random.fold_in(key, layer), number)
        drawn = matched_directions(at, weights[0].shape[2], features, moments_of(layer))
        return np.asarray(drawn)[:, centred[layer]]

    def balanced(layer: int, number: int, wanted: np.ndarray) -> np.ndarray:
        """Heads of balanced spectra, (ROUND, head, side, reading)."""
        at = jax.random.fold_in(jax.random.fold_in(key, layers + layer), number)
        of_layer = *(W[layer] for W in weights), jnp.asarray(biased[layer])
        return np.asarray(balanced_heads(at, of_layer, jnp.asarray(wanted), features, moments_of(layer)))

    @cache
    def gaussian(layer: int, number: int) -> np.ndarray:
        """Gaussian heads of a layer's shape in a round, (ROUND, head, side, reading)."""
        at = jax.random.fold_in(jax.random.fold_in(key, 2 * layers + layer), number)
        drawn = gaussian_heads(at, weights[0].shape[2], features, moments_of(layer))
        return np.asarray(drawn)[:, biased[layer].astype(int)]

    def p_value(reading: int) -> tuple[np.ndarray, ...]:
        """At most, at least, and of how many draws."""
        counted = rounds(f"random heads, {READINGS[reading]}", ROUND, most)

        def draw(number: int, wanted: np.ndarray) -> np.ndarray:
            next(counted, None)
            reached = np.zeros((layers, heads, sides, len(CHANCE), ROUND), bool)
            wanted = np.any(wanted.reshape(layers, heads, sides), axis=2)
            for layer in np.flatnonzero(wanted.any(axis=1)).tolist():
                directions = matched(layer, number)
                of_heads = balanced(layer, number, wanted[layer]), gaussian(layer, number)
                random = np.stack([directions[..., 0], directions[..., 2], *of_heads])
                random = np.moveaxis(random[..., reading], (0, 1), (2, 3))
                reached[layer] = ~(random < largest.values[layer, :, :, reading, None, None])
            return reached.reshape(tests, len(CHANCE), ROUND)

        tally = sequential_p_values(draw, tests, len(CHANCE), LEVEL, most)
        counted.close()
        found = tally.p_value, tally.lower, tally.draws.max(axis=1)
        return tuple(x.reshape(largest.shape[:-1]) for x in found)

    p, least, count = (np.stack(x, axis=-1) for x in zip(*map(p_value, range(len(READINGS))), strict=True))
    first = np.stack([matched(layer, 0) for layer in range(layers)], axis=1)
    others = np.stack([balanced(layer, 0, np.ones(heads, bool)) for layer in range(layers)], axis=1)
    gaussians = np.stack([gaussian(layer, 0) for layer in range(layers)], axis=1)
    columns = {
        "matched_chance": first[..., 1].mean(axis=0),
        "matched_chance_of_a_head": first[..., 0].mean(axis=0),
        "matched_chance_of_a_head_standard_error": first[..., 0].std(axis=0, ddof=1) / ROUND**0.5,
        "balanced_chance_of_a_head": others.mean(axis=0),
        "balanced_chance_of_a_head_standard_error": others.std(axis=0, ddof=1) / ROUND**0.5,
        "gaussian_chance_of_a_head": gaussians.mean(axis=0),
        "gaussian_chance_of_a_head_standard_error": gaussians.std(axis=0, ddof=1) / ROUND**0.5,
        "random_p": p,
        "random_p_least": least,
        "random_draws": count,
    }
    return xr.Dataset({name: (AXES, x) for name, x in columns.items()} | {"draws_at_most": most})
