"""Sparser than chance: which heads of a model are, by the sparseness test with sequential draws (T11, T22)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from scipy.stats import false_discovery_control

from svtheory import Head, HeadBundle, decompose, rotation_null
from svtheory.checks import InputError
from svtheory.heads.random_heads import NULLS, compare_with_random_heads, read_together
from svtheory.heads.rotations import KINDS
from svtheory.heads.sequential import sequential_p_values

LEVEL = 0.05
ROUND = 99  # draws at a time: the first ones of every head, and all that a decision gets
DIAGNOSTIC = 39  # draws of each diagnostic null
EPSILON = float(np.finfo(np.float32).eps)  # a head whose largest score is smaller decides nothing
SPARSER, ROTATED, NEITHER, ZERO = "yes", "no: rotations only", "no", "no: numerically zero"


def layers(bundle: HeadBundle) -> list[tuple[Head, Array]]:
    """Of each layer the heads, stacked, and the tokens that they read."""
    assert bundle.attn_in is not None
    number, heads = bundle.W_Q.shape[:2]
    if bundle.attn_in.shape[2] < 2:
        raise InputError("attn_in must hold at least 2 positions, or no query has keys to choose from, got 1")
    return [
        (
            jax.tree.map(lambda *x: jnp.stack(x), *(bundle.head(layer, head) for head in range(heads))),
            jnp.asarray(bundle.attn_in[layer], jnp.float32),
        )
        for layer in range(number)
    ]


def first_decision(heads: Head) -> int:
    """The first position whose query sees a key besides its own."""
    return int(heads.causal)


def tested(bundle: HeadBundle, key: Array, most: int) -> xr.Dataset:
    """The sparseness test of every head, diagnostics beside it, by layer and head.

    Draws continue until Benjamini and Hochberg's verdicts at LEVEL over all heads are settled, or for `most` draws.
    Those of a layer serve all of its heads. Decisions are judged by the first round alone, and not corrected for their
    number.
    """
    first, diagnostics = jax.random.split(key)
    read = layers(bundle)
    together = [read_together(heads, tokens, tokens) for heads, tokens in read]
    length = min(ROUND, most)

    def compared(layer: int, number: int, wanted: np.ndarray):
        at = jax.random.fold_in(jax.random.fold_in(first, number), layer)
        return compare_with_random_heads(together[layer], at, length, jnp.asarray(wanted))

    heads = bundle.W_Q.shape[1]
    everyone = [compared(layer, 0, np.ones(heads, bool)) for layer in range(len(read))]
    start = {name: np.stack([np.asarray(getattr(x, name)) for x in everyone]) for name in everyone[0]._fields}
    largest = np.stack([np.asarray(_largest_scores(*layer)) for layer in read])
    if not np.isfinite(largest).all():
        raise InputError("weights and attn_in must be of a size whose scores float32 holds, got larger scores")
    zero = largest < EPSILON
    S = np.where(zero, np.nan, start["head_sparseness"])

    def draw(number: int, wanted: np.ndarray) -> np.ndarray:
        wanted = wanted.reshape(S.shape)
        if number == 0:
            null = start["head_null"]
        else:
            rows = [compared(layer, number, row) if row.any() else None for layer, row in enumerate(wanted)]
            empty = np.full((heads, len(NULLS), length), np.nan)
            null = np.stack([empty if row is None else np.asarray(row.head_null) for row in rows])
        # what is undefined counts as reached: neither a head of zeros nor a random one is evidence
        return ~(S[..., None, None] < null).reshape(S.size, len(NULLS), length)

    tally = sequential_p_values(draw, S.size, len(NULLS), LEVEL, most)
    kinds = [_diagnostics(*layer, jax.random.fold_in(diagnostics, i)) for i, layer in enumerate(read)]
    kind = {name: np.stack([np.asarray(x[name]) for x in kinds]) for name in kinds[0]}
    null = np.concatenate([start["head_null"].mean(axis=-1), kind["mean"]], axis=-1)
    low, high = (
        np.concatenate([np.quantile(start["head_null"], q, axis=-1), kind[name]], axis=-1)
        for q, name in ((0.025, "low"), (0.975, "high"))
    )
    p = tally.p_value.reshape(S.shape)
    both, decisions = ("layer", "head"), ("layer", "head", "sequence", "query")
    return xr.Dataset(
        {
            "sparseness": (decisions, start["sparseness"][..., first_decision(read[0][0]) :]),
            "decision_p_value": (decisions, start["p_value"][..., first_decision(read[0][0]) :]),
            "p_value": (both, p),
            "adjusted_p_value": (both, false_discovery_control(p.ravel()).reshape(p.shape)),
            "draws": (both, tally.draws.max(axis=1).reshape(p.shape)),
            "zero": (both, zero),
            "null_mean": ((*both, "null"), null),
            "null_low": ((*both, "null"), low),
            "null_high": ((*both, "null"), high),
            "diagnostic_p_value": ((*both, "kind"), kind["p_value"]),
        },
        {"null": [*NULLS, *KINDS], "kind": list(KINDS), "layer": range(len(read)), "head": range(heads)},
    )


@jax.jit
def _largest_scores(heads: Head, tokens: Array) -> Array:
    """The largest score over the divisor of each head."""
    at = jnp.arange(tokens.shape[1])

    def largest(head):
        return jnp.abs(jnp.einsum("sqh,skh->sqk", head.queries(tokens, at), head.keys(tokens, at))).max() / head.divisor

    return jax.lax.map(largest, heads)


@jax.jit
def _diagnostics(heads: Head, tokens: Array, key: Array) -> dict[str, Array]:
    """Mean, 95 % range and p-value of the diagnostic nulls of each head, (heads, kinds)."""

    def of_head(given):
        head, key = given
        d = decompose(head, tokens, tokens, None)
        nulls = [rotation_null(d, key, DIAGNOSTIC, kind) for kind in KINDS]
        drawn = jnp.stack([null.head_null for null in nulls])
        return {
            "mean": drawn.mean(axis=-1),
            "low": jnp.quantile(drawn, 0.025, axis=-1),
            "high": jnp.quantile(drawn, 0.975, axis=-1),
            "p_value": jnp.stack([null.head_p_value for null in nulls]),
        }

    return jax.lax.map(of_head, (heads, jax.random.split(key, len(heads.W_Q))))


def verdicts(results: xr.Dataset) -> xr.DataArray:
    """A word for each head: SPARSER than random heads of its spectrum, only than its common rotation, NEITHER, ZERO.

    The rotation is a diagnostic, which a low rank is enough for: its p-value is not adjusted.
    """
    rotated = results.diagnostic_p_value.sel(kind="common") <= LEVEL
    found = xr.where(results.adjusted_p_value <= LEVEL, SPARSER, xr.where(rotated, ROTATED, NEITHER))
    return xr.where(results.zero, ZERO, found)


def counted(verdict: xr.DataArray) -> dict[str, Any]:
    """How many heads have each verdict, by names for a summary."""
    return {
        "heads": verdict.size,
        "heads_numerically_zero": int((verdict == ZERO).sum()),
        "heads_sparser_than_random_heads": int((verdict == SPARSER).sum()),
        "heads_sparser_than_rotations_only": int((verdict == ROTATED).sum()),
    }
