"""Sparser than chance: which heads of a model are, by the sparseness test with sequential draws (T11, T22)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.decomposition import Decomposition, decompose, without_padding
from svtheory.heads.random_heads import NULLS, compare_with_random_heads, read_together
from svtheory.heads.rotations import KINDS, rotation_null
from svtheory.heads.sequential import sequential_p_values
from svtheory.heads.weights import Head
from svtheory.instruments.survey import PLACE, adjusted, over_heads, stacked_heads

LEVEL = 0.05
ROUND = 99  # draws at a time: the first ones of every head, and all that a decision gets
DIAGNOSTIC = 39  # draws of each diagnostic null
EPSILON = float(np.finfo(np.float32).eps)  # a head whose largest score is smaller decides nothing
SPARSER, ROTATED, NEITHER, ZERO = "yes", "no: rotations only", "no", "no: numerically zero"


def tokens_read(bundle: HeadBundle) -> Array:
    """What the heads read, (layers, sequences, positions, D); raises InputError for a single position."""
    assert bundle.attn_in is not None
    if bundle.attn_in.shape[2] < 2:
        raise InputError("attn_in must hold at least 2 positions, or no query has keys to choose from, got 1")
    return jnp.asarray(bundle.attn_in, jnp.float32)


def real_tokens(bundle: HeadBundle) -> Array | None:
    """Which positions hold tokens, (sequences, positions); None where all do."""
    return None if bundle.mask is None else jnp.asarray(bundle.mask)


def decisions(head: Head, tokens: Array, real: Array | None) -> Decomposition:
    """The decomposition of contexts (sequences, positions, D), in which padding decides nothing."""
    d = decompose(head, tokens, tokens, None)
    return d if real is None else without_padding(d, real)


def first_decision(heads: Head) -> int:
    """The first position whose query sees a key besides its own."""
    return int(heads.causal)


def tested(bundle: HeadBundle, key: Array, most: int) -> xr.Dataset:
    """The sparseness test of every head, its verdict and diagnostics beside it, by layer and head.

    Draws continue until Benjamini and Hochberg's verdicts at LEVEL over all heads are settled, or for `most` draws.
    Those of a layer serve all of its heads. Decisions are judged by the first round alone, and not corrected for their
    number.
    """
    first, second = jax.random.split(key)
    read, stacked, real = tokens_read(bundle), stacked_heads(bundle), real_tokens(bundle)
    largest = over_heads(_largest_score, bundle, {"score": ()}, (read,), shared=(real,)).score
    if not np.isfinite(largest).all():
        raise InputError("weights and attn_in must be of a size whose scores float32 holds, got larger scores")
    together = [read_together(heads, x, x, real=real) for heads, x in zip(stacked, read, strict=True)]
    length = min(ROUND, most)

    def compared(layer: int, number: int, wanted: np.ndarray):
        at = jax.random.fold_in(jax.random.fold_in(first, number), layer)
        return compare_with_random_heads(together[layer], at, length, jnp.asarray(wanted))

    layers, heads = bundle.W_Q.shape[:2]
    everyone = [compared(layer, 0, np.ones(heads, bool)) for layer in range(layers)]
    start = {name: np.stack([np.asarray(getattr(x, name)) for x in everyone]) for name in everyone[0]._fields}
    zero = largest < EPSILON
    S = np.where(zero, np.nan, start["head_sparseness"])

    def draw(number: int, wanted: np.ndarray) -> np.ndarray:
        wanted = wanted.reshape(S.shape)
        if number == 0:
            null = start["head_null"]
        else:
            null = np.full((*S.shape, len(NULLS), length), np.nan)
            for layer in np.flatnonzero(wanted.any(axis=1)).tolist():
                null[layer] = compared(layer, number, wanted[layer]).head_null
        # what is undefined counts as reached: neither a head of zeros nor a random one is evidence
        return ~(S[..., None, None] < null).reshape(S.size, len(NULLS), length)

    tally = sequential_p_values(draw, S.size, len(NULLS), LEVEL, most)
    keys = jnp.stack([jax.random.split(jax.random.fold_in(second, layer), heads) for layer in range(layers)])
    kinds = over_heads(
        _diagnostics, bundle, dict.fromkeys(("mean", "low", "high", "p_value"), ("kind",)), (read,), (keys,), (real,)
    )
    random = {
        "mean": start["head_null"].mean(axis=-1),
        "low": np.quantile(start["head_null"], 0.025, axis=-1),
        "high": np.quantile(start["head_null"], 0.975, axis=-1),
    }
    decided, p = slice(first_decision(stacked[0]), None), tally.p_value.reshape(S.shape)
    decisions = (*PLACE, "sequence", "query")
    results = xr.Dataset(
        {
            "sparseness": (decisions, start["sparseness"][..., decided]),
            "decision_p_value": (decisions, start["p_value"][..., decided]),
            "p_value": (PLACE, p),
            "adjusted_p_value": (PLACE, adjusted(p, 2)),
            "draws": (PLACE, tally.draws.max(axis=1).reshape(p.shape)),
            "zero": zero,
            "diagnostic_p_value": kinds.p_value,
            **{
                f"null_{name}": ((*PLACE, "null"), np.concatenate([x, kinds[name]], axis=-1))
                for name, x in random.items()
            },
        },
        {"null": [*NULLS, *KINDS], "kind": list(KINDS)},
    )
    return results.assign(verdict=verdicts(results))


def _largest_score(head: Head, tokens: Array, real: Array | None) -> dict[str, Array]:
    """The largest score of a head over its divisor."""
    at = jnp.arange(tokens.shape[1])
    queries, keys = head.queries(tokens, at), head.keys(tokens, at)
    if real is not None:
        queries, keys = (jnp.where(real[..., None], x, 0) for x in (queries, keys))
    scores = jnp.einsum("sqh,skh->sqk", queries, keys)
    return {"score": jnp.abs(scores).max() / head.divisor}


def _diagnostics(head: Head, tokens: Array, key: Array, real: Array | None) -> dict[str, Array]:
    """Mean, 95 % range and p-value of the diagnostic nulls of a head, (kinds,)."""
    d = decompose(head, tokens, tokens, None)
    nulls = [rotation_null(d, key, DIAGNOSTIC, kind, real) for kind in KINDS]
    drawn = jnp.stack([null.head_null for null in nulls])
    return {
        "mean": drawn.mean(axis=-1),
        "low": jnp.quantile(drawn, 0.025, axis=-1),
        "high": jnp.quantile(drawn, 0.975, axis=-1),
        "p_value": jnp.stack([null.head_p_value for null in nulls]),
    }


def verdicts(results: xr.Dataset) -> xr.DataArray:
    """A word for each head: SPARSER than random heads of its spectrum, only than its common rotation, NEITHER, ZERO.

    The rotation is a diagnostic, which a low rank is enough for: its p-value is not adjusted.
    """
    rotated = results.diagnostic_p_value.sel(kind="common") <= LEVEL
    found = xr.where(results.adjusted_p_value <= LEVEL, SPARSER, xr.where(rotated, ROTATED, NEITHER))
    return xr.where(results.zero, ZERO, found)


def mean_sparseness(results: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean S of each head and its standard error, over sequences."""
    by_sequence = results.sparseness.mean("query")
    error = by_sequence.std("sequence", ddof=1) / by_sequence.count("sequence") ** 0.5
    return by_sequence.mean("sequence"), error


def counted(verdict: xr.DataArray) -> dict[str, Any]:
    """How many heads have each verdict, by names for a summary."""
    return {
        "heads": verdict.size,
        "heads_numerically_zero": int((verdict == ZERO).sum()),
        "heads_sparser_than_random_heads": int((verdict == SPARSER).sum()),
        "heads_sparser_than_rotations_only": int((verdict == ROTATED).sum()),
    }
