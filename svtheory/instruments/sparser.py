"""Sparser than chance: which heads of a model are, by the sparseness test with sequential draws (T11, T22).

A head's verdict is one of three, in this order:

sparser        than random heads of its spectrum, p at most LEVEL, adjusted over heads and readings
low rank only  sparser than Gaussian heads, p at most LOW, adjusted over heads: S as one more draw of theirs (Student's
               t). A few large singular values, of Omega or as the data see it, are enough for what is seen
neither        anything else

Of models of Gaussian heads alone, 7 of 200 (24 heads of 8 x 32) and 0 of 60 (12 heads of 32 x 128) had one that was
called of low rank: S is not quite normal.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from scipy import stats

from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.decomposition import Decomposition, decompose, without_padding
from svtheory.heads.full_rank import full_rank_sparseness
from svtheory.heads.random_heads import NULLS, SparsenessTest, compare_with_random_heads
from svtheory.heads.read_together import READINGS, ReadTogether, read_together
from svtheory.heads.rescaled import TokenScales, rescaled, without_norms
from svtheory.heads.rotations import KINDS, rotation_null
from svtheory.heads.sequential import sequential_p_values
from svtheory.heads.weights import Head
from svtheory.instruments.labels import Labels
from svtheory.instruments.survey import EPSILON, PLACE, adjusted, listed, over_heads, read_inputs, stacked_heads
from svtheory.progress import rounds, track

LEVEL = 0.05
LOW = 0.01
ROUND = 39  # draws at a time: the first ones of every head, and all that a decision gets
DIAGNOSTIC = 24  # draws of each diagnostic null, and Gaussian heads
SPARSER = "sparser than random heads of its spectrum"
LOW_RANK = "low rank only: sparser than Gaussian heads, not than random heads of its spectrum"
NEITHER = "neither sparser than random heads of its spectrum nor than Gaussian heads"
ZERO = "numerically zero: decides nothing"
VARIABLES: Labels = {
    "sparseness": "Treves-Rolls sparseness S of a decision's terms, from 1/K of one term to 1 of equal ones",
    "decision_p_value": "share of random heads whose decision is as sparse",
    "p_value": "share of random heads with a mean S as small",
    "adjusted_p_value": "p-value, adjusted over heads and readings (Benjamini and Hochberg)",
    "adjusted_p_value_least": "what the adjusted p-value might yet become, at least, were draws to go on",
    "draws": ("random heads drawn", "heads"),
    "zero": "whether the head is numerically zero, so that it decides nothing",
    "gaussian_sparseness": "mean S of a head of independent Gaussian entries",
    "diagnostic_p_value": "share of a diagnostic null's draws with a mean S as small (T11)",
    "null_mean": "mean S of a null's heads, mean over draws",
    "null_low": "mean S of a null's heads, 2.5th percentile over draws",
    "null_high": "mean S of a null's heads, 97.5th percentile over draws",
    "low_rank_p_value": "how likely a Gaussian head has a mean S as small, adjusted over heads",
    "verdict": "verdict on the head",
    "null": "kind of random heads, or diagnostic",
    "kind": "diagnostic: rotations, or Gaussian tokens (T11)",
}
SHOWN = {
    "raw": "random heads",
    "balanced": "random heads, balanced",
    "common": "common rotation",
    "independent": "independent rotations",
}
"""Nulls over a training, by what they are called: two that decide, two diagnostics."""


def tokens_read(bundle: HeadBundle) -> Array:
    """What the heads read, (layers, sequences, positions, D); raises InputError for none or a single position."""
    read = read_inputs(bundle)
    if read.shape[2] < 2:
        raise InputError("attn_in must hold at least 2 positions, or no query has keys to choose from, got 1")
    return jnp.asarray(read, jnp.float32)


def real_tokens(bundle: HeadBundle) -> Array | None:
    """Which positions hold tokens, (sequences, positions); None where all do."""
    return None if bundle.mask is None else jnp.asarray(bundle.mask)


def decisions(head: Head, queries: Array, keys: Array, real: Array | None) -> Decomposition:
    """The decomposition of contexts (sequences, positions, D), in which padding decides nothing."""
    d = decompose(head, queries, keys, None)
    return d if real is None else without_padding(d, real)


def first_decision(heads: Head) -> int:
    """The first position whose query sees a key besides its own."""
    return int(heads.causal)


class _Compared:
    """Heads beside random ones, round by round, those of a layer on the same draws.

    They read the same, and are read together once; but for heads that rescale their tokens (T23), each read by itself
    whenever it is asked for: what all of them read would be large.
    """

    def __init__(
        self,
        stacked: list[Head],
        read: Array,
        scales: TokenScales | None,
        real: Array | None,
        readings: int,
        key: Array,
        length: int,
    ):
        self._stacked, self._read, self._scales, self._key, self._length = stacked, read, scales, key, length
        self._options = {"readings": readings, "real": real}
        heads = len(stacked[0].W_Q)
        self._alike = [slice(None)] if scales is None else [slice(head, head + 1) for head in range(heads)]
        layers = list(zip(stacked, read, strict=True)) if scales is None else []
        self._kept = [read_together(heads, x, x, **self._options) for heads, x in track(layers, "reading heads")]

    def round(self, layer: int, number: int, wanted: np.ndarray) -> SparsenessTest:
        """One round of a layer, fields with first axes (head, reading); NaN of heads read apart and not wanted."""
        at = jax.random.fold_in(jax.random.fold_in(self._key, number), layer)
        tests = [
            compare_with_random_heads(self._together(layer, those), at, self._length, jnp.asarray(wanted[those]))
            if wanted[those].any()
            else None
            for those in self._alike
        ]
        none = jax.tree.map(lambda x: np.full_like(x, np.nan), next(test for test in tests if test is not None))
        every = [none if test is None else test for test in tests]
        return jax.tree.map(lambda *x: np.moveaxis(np.concatenate(x, axis=1), 0, 1), *every)

    def gaussian(self, layer: int, key: Array) -> np.ndarray:
        """Mean sparseness of Gaussian heads on the tokens of a layer's heads, (head, draw)."""
        at = jax.random.fold_in(key, layer)
        together = (self._together(layer, those) for those in self._alike)
        return np.concatenate([full_rank_sparseness(heads, at, DIAGNOSTIC) for heads in together])

    def _together(self, layer: int, those: slice) -> ReadTogether:
        """Heads of a layer that read the same."""
        if self._scales is None:
            return self._kept[layer]
        own = jax.tree.map(lambda x: x[those], self._stacked[layer])
        scales = jax.tree.map(lambda x: x[layer, those.start], self._scales)
        return read_together(own, *rescaled(self._read[layer], scales), **self._options)


def tested(bundle: HeadBundle, key: Array, most: int, readings: int) -> xr.Dataset:
    """The sparseness test of every head, its verdict and diagnostics beside it, by layer, head and reading.

    Of the READINGS the first `readings`. Draws continue until Benjamini and Hochberg's verdicts at LEVEL over all heads
    and readings are settled, or for `most` draws. Those of a layer serve all of its heads, which are read together
    unless each has tokens of its own size (T23). Decisions are judged by the first round alone, and not corrected for
    their number.
    """
    first, second = jax.random.split(key)
    third = jax.random.fold_in(key, 2)
    bundle, scales = without_norms(bundle)
    read, stacked, real = tokens_read(bundle), stacked_heads(bundle), real_tokens(bundle)
    largest = over_heads(_largest_score, bundle, {"score": ()}, (read,), (scales,), (real,)).score
    if not np.isfinite(largest).all():
        raise InputError("weights and attn_in must be of a size whose scores float32 holds, got larger scores")
    layers, heads = bundle.W_Q.shape[:2]
    length = min(ROUND, most)
    compared = _Compared(stacked, read, scales, real, readings, first, length)
    everyone = [compared.round(layer, 0, np.ones(heads, bool)) for layer in track(range(layers), "random heads")]
    counted = rounds("more random heads", length, most - length)
    start = {name: np.stack([getattr(x, name) for x in everyone]) for name in everyone[0]._fields}
    zero = largest < EPSILON  # decides nothing
    S = np.where(zero.values[..., None], np.nan, start["head_sparseness"])

    def draw(number: int, wanted: np.ndarray) -> np.ndarray:
        heads_wanted = np.asarray(wanted.reshape(S.shape).any(axis=-1))
        if number == 0:
            null = start["head_null"]
        else:
            next(counted, None)
            null = np.full((*S.shape, len(NULLS), length), np.nan)
            for layer in np.flatnonzero(heads_wanted.any(axis=1)).tolist():
                null[layer] = compared.round(layer, number, heads_wanted[layer]).head_null
        # what is undefined counts as reached: neither a head of zeros nor a random one is evidence
        return ~(S[..., None, None] < null).reshape(S.size, len(NULLS), length)

    tally = sequential_p_values(draw, S.size, len(NULLS), LEVEL, most)
    counted.close()
    gaussian = [compared.gaussian(layer, third) for layer in track(range(layers), "Gaussian heads")]
    keys = jnp.stack([jax.random.split(jax.random.fold_in(second, layer), heads) for layer in range(layers)])
    of_kinds: dict[str, tuple[str, ...]] = dict.fromkeys(("mean", "low", "high", "p_value"), ("kind",))
    kinds = over_heads(_diagnostics, bundle, of_kinds, (read,), (scales, keys), (real,), "rotations")
    null = start["head_null"]
    random = {
        "mean": null.mean(axis=-1),
        "low": np.quantile(null, 0.025, axis=-1),
        "high": np.quantile(null, 0.975, axis=-1),
    }
    of_head = (*PLACE, "reading")
    decided, p = slice(first_decision(stacked[0]), None), tally.p_value.reshape(S.shape)
    results = xr.Dataset(
        {
            "sparseness": ((*of_head, "sequence", "query"), start["sparseness"][..., decided]),
            "decision_p_value": ((*of_head, "sequence", "query"), start["p_value"][..., decided]),
            "p_value": (of_head, p),
            "adjusted_p_value": (of_head, adjusted(p, 3)),
            "adjusted_p_value_least": (of_head, adjusted(tally.lower.reshape(S.shape), 3)),
            "draws": (of_head, tally.draws.max(axis=1).reshape(p.shape)),
            "zero": zero,
            "gaussian_sparseness": ((*PLACE, "gaussian_head"), np.stack(gaussian)),
            "diagnostic_p_value": kinds.p_value,
            **{
                f"null_{name}": ((*of_head, "null"), np.concatenate([x, _of_raw(kinds[name].values, x)], axis=-1))
                for name, x in random.items()
            },
        },
        {"null": [*NULLS, *KINDS], "kind": list(KINDS), "reading": list(READINGS[:readings])},
    )
    results["low_rank_p_value"] = PLACE, adjusted(_as_one_of(results.gaussian_sparseness, S[..., 0]), 2)
    return results.assign(verdict=verdicts(results))


def _as_one_of(null: xr.DataArray, S: np.ndarray) -> np.ndarray:
    """The p-value of S as a further, lower one of normal draws that stand on the null's last axis; NaN if undefined."""
    n = null.shape[-1]
    spread = null.values.std(axis=-1, ddof=1) * (1 + 1 / n) ** 0.5
    distance = np.divide(S - null.values.mean(axis=-1), spread, where=spread > 0, out=np.full_like(S, np.nan))
    return stats.t.cdf(distance, n - 1)


def _of_raw(diagnostic: np.ndarray, like: np.ndarray) -> np.ndarray:
    """What diagnostics (layer, head, kind) say of the raw reading; NaN of any other."""
    found = np.full((*like.shape[:-1], diagnostic.shape[-1]), np.nan)
    found[..., 0, :] = diagnostic
    return found


def _largest_score(head: Head, tokens: Array, scales: TokenScales | None, real: Array | None) -> dict[str, Array]:
    """The largest score of a head over its divisor."""
    (r, s), at = rescaled(tokens, scales), jnp.arange(tokens.shape[1])
    queries, keys = head.queries(r, at), head.keys(s, at)
    if real is not None:
        queries, keys = (jnp.where(real[..., None], x, 0) for x in (queries, keys))
    scores = jnp.einsum("sqh,skh->sqk", queries, keys)
    return {"score": jnp.abs(scores).max() / head.divisor}


def _diagnostics(
    head: Head, tokens: Array, scales: TokenScales | None, key: Array, real: Array | None
) -> dict[str, Array]:
    """Mean, 95 % range and p-value of the diagnostic nulls of a head, (kinds,)."""
    d = decompose(head, *rescaled(tokens, scales), None)
    nulls = [rotation_null(d, key, DIAGNOSTIC, kind, real) for kind in KINDS]
    drawn = jnp.stack([null.head_null for null in nulls])
    return {
        "mean": drawn.mean(axis=-1),
        "low": jnp.quantile(drawn, 0.025, axis=-1),
        "high": jnp.quantile(drawn, 0.975, axis=-1),
        "p_value": jnp.stack([null.head_p_value for null in nulls]),
    }


def found(results: xr.Dataset) -> xr.DataArray:
    """Which heads are sparser than random heads of their spectrum, by reading."""
    return (results.adjusted_p_value <= LEVEL) & ~results.zero


def low_rank(results: xr.Dataset) -> xr.DataArray:
    """Which heads are sparser than Gaussian heads, but not than random heads of their spectrum."""
    sparser = found(results)
    other = sparser.any("reading") if "reading" in sparser.dims else sparser
    return (results.low_rank_p_value <= LOW) & ~other & ~results.zero


def verdicts(results: xr.Dataset) -> xr.DataArray:
    """A sentence for each head: SPARSER, and by which reading; LOW_RANK; NEITHER; or ZERO."""
    by = found(results)
    said = xr.where(low_rank(results), LOW_RANK, NEITHER)
    for readings in (["raw"], ["balanced"], ["raw", "balanced"])[: 2 * by.sizes["reading"] - 1]:
        those = by.sel(reading=readings).all("reading")
        said = xr.where(those, f"{SPARSER}, read {' and '.join(readings)}", said)
    return xr.where(results.zero, ZERO, said)


def in_short(verdict: str) -> str:
    """A verdict for a narrow table.

    >>> in_short(f"{SPARSER}, read raw and balanced"), in_short(LOW_RANK)
    ('sparser, read raw and balanced', 'low rank only')
    """
    words = {LOW_RANK: "low rank only", NEITHER: "neither", ZERO: "numerically zero"}
    return words.get(verdict, verdict.replace(SPARSER, "sparser"))


def answers(results: xr.Dataset) -> list[str]:
    """How many heads have each verdict, and which."""
    by = found(results)
    said = {
        "sparser than random heads of their spectrum": by.any("reading") if "reading" in by.dims else by,
        "of low rank only, sparser than Gaussian heads alone": low_rank(results),
        "numerically zero": results.zero,
    }
    return [
        f"{int(those.sum())} of {those.size} heads are {what}{listed(those)}."
        for i, (what, those) in enumerate(said.items())
        if those.any() or not i
    ]


def mean_sparseness(results: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean S of each head and its standard error, over sequences."""
    by_sequence = results.sparseness.mean("query")
    error = by_sequence.std("sequence", ddof=1) / by_sequence.count("sequence") ** 0.5
    return by_sequence.mean("sequence"), error


def counted(results: xr.Dataset) -> dict[str, Any]:
    """How many heads have each verdict, by names for a summary."""
    by = found(results)
    return {
        "heads": results.zero.size,
        "heads_numerically_zero": int(results.zero.sum()),
        "heads_sparser_than_random_heads": int((by.any("reading") if "reading" in by.dims else by).sum()),
        "heads_of_low_rank_only": int(low_rank(results).sum()),
    }
