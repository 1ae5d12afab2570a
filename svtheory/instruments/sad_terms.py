"""Sad's terms: counts, ranks and shares of singular pairs in every head's decisions, raw and balanced (T11, T22)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import xarray as xr
from jax import Array

from svtheory.heads.bundles import HeadBundle
from svtheory.heads.counting import count_vectors
from svtheory.heads.decomposition import Decomposition, decompose, read_balanced, relative_attention
from svtheory.heads.read_together import READINGS
from svtheory.heads.rescaled import TokenScales, rescaled, without_norms
from svtheory.heads.weights import Head
from svtheory.instruments import sparser
from svtheory.instruments.labels import Labels
from svtheory.instruments.moments import Moments, layer_moments, seen_by, seen_rescaled
from svtheory.instruments.sources import check_values_held
from svtheory.instruments.survey import over_heads, rounding
from svtheory.numerics import positive
from svtheory.spectra.balanced import balanced
from svtheory.spectra.blocks import block_labels, block_sums, firsts

MISSED = 1e-3  # of the scores' size: where a convention's terms miss scores by more, nothing is counted
PUBLISHED = {  # each rule with the conventions it was published in
    "sad2024": ("sad2024", "augmented-last"),
    "acc2025, query": ("acc2025", "query-side"),
    "acc2025, key": ("acc2025", "key-side"),
    "accpp2026": ("accpp2026", "plain"),
}
VARIABLES: Labels = {
    "count": ("singular vectors that a decision needs by a rule", "vectors"),
    "score_error": "by how much a convention's terms miss a score, over the largest of the query, or of the median one",
    "attention_error": "attention to keys that are not seen, and how far its sum is from 1, at most",
    "contribution": "a pair's share of the terms' magnitudes, mean over decisions",
    "largest": "share of decisions whose largest term is the pair's",
    "decision": "whether something is decided there, and it is no padding",
    "rule": "published rule of counting",
}


def terms(bundle: HeadBundle) -> xr.Dataset:
    """The terms of every head's decisions, by reading: counts, ranks, and how well scores are reproduced."""
    of = ("reading",)
    bundle, scales = without_norms(bundle)
    axes = {"count": (*of, "rule", "sequence", "query"), "score_error": (*of, "rule"), "attention_error": ()}
    axes |= dict.fromkeys(("contribution", "largest", "named", "block", "singular_value"), (*of, "pair"))
    given = sparser.tokens_read(bundle), layer_moments(bundle) if scales is None else None
    shared = sparser.real_tokens(bundle), rounding(bundle)
    found = over_heads(terms_of_head, bundle, axes, given, (scales,), shared, "terms")
    check_values_held(found.singular_value.sel(reading=0).values)
    first = given[0].shape[2] - found.sizes["query"]
    found["decision"] = ("sequence", "query"), bundle.real[:, first:]
    coordinates = {"reading": list(READINGS), "rule": list(PUBLISHED), "pair": range(1, found.sizes["pair"] + 1)}
    return found.assign_coords(coordinates)


def terms_of_head(
    head: Head, tokens: Array, moments: Moments | None, scales: TokenScales | None, real: Array | None, rounding: Array
) -> dict[str, Array]:
    """One head on tokens (sequences, positions, D), of which some may not be `real`, rescaled where it does so."""
    (r, s), at = rescaled(tokens, scales), jnp.arange(tokens.shape[1])
    d = sparser.decisions(head, r, s, real)
    decided = jnp.ones(d.index.shape, bool) if real is None else real
    sides = seen_rescaled(head, r, s, real) if moments is None else seen_by(head, moments)
    modes = balanced(head.W_Q, head.W_K, *sides)
    seen = read_balanced(d, head, head.queries(r, at), head.keys(s, at), modes)
    # of a head without biases all conventions are one
    same = head.b_Q is None and head.b_K is None
    raw = {c: d if same or c == "plain" else decompose(head, r, s, d.index, c) for _, c in PUBLISHED.values()}
    readings = (raw["plain"], raw), (seen, dict.fromkeys(raw, seen))
    found = [_described(*reading, decided, sparser.first_decision(head), rounding) for reading in readings]
    off = jnp.where(d.visible, 0, d.attention).sum(axis=-1) + jnp.abs(d.attention.sum(axis=-1) - 1)
    return {**jax.tree.map(lambda *x: jnp.stack(x), *found), "attention_error": off.max()}


def _described(
    d: Decomposition, by: Mapping[str, Decomposition], decided: Array, first: int, rounding: Array
) -> dict[str, Array]:
    """One reading of one head, decomposed plainly and in each convention, where something is `decided`."""
    values = d.spectrum.values
    labels = block_labels(values, rounding * values[0])
    terms = jnp.abs(block_sums(relative_attention(d), labels))[:, first:]
    total = terms.sum(axis=-1, keepdims=True)
    largest = jnp.where(d.visible, jnp.abs(d.scores), 0).max(axis=-1)
    # rounding is small beside the head's scores, not beside those of a query that happen to be near 0
    size = positive(jnp.maximum(largest, jnp.nanmedian(jnp.where(decided, largest, jnp.nan))))
    counts, errors = [], []
    for rule, convention in PUBLISHED.values():
        read = by[convention]
        error = read.error / size
        own = labels if read is d else block_labels(read.spectrum.values, rounding * read.spectrum.values[0])
        counts.append(jnp.where(decided & (error <= MISSED), count_vectors(read, rule, labels=own), jnp.nan))
        errors.append(error.max(where=decided, initial=0))
    over = {"axis": (0, 1), "where": decided[:, first:, None]}
    return {
        "count": jnp.stack(counts)[..., first:],
        "contribution": (terms / positive(total)).mean(**over),
        "largest": jax.nn.one_hot(terms.argmax(axis=-1), terms.shape[-1]).mean(**over),
        "named": d.named,
        "block": 1 + firsts(labels),
        "singular_value": values,
        "score_error": jnp.stack(errors),
    }
