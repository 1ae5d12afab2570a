"""Sad's page: what is said and shown of a dataset of `sad`: table, answers and summary."""

from typing import Any

import numpy as np
import xarray as xr

from svtheory.heads.random_heads import NULLS
from svtheory.heads.read_together import READINGS
from svtheory.heads.rotations import KINDS
from svtheory.instruments import sparser
from svtheory.instruments.sad_terms import PUBLISHED
from svtheory.instruments.survey import PLACE, called, places
from svtheory.reports.tables import at_most

DIAGNOSTICS = {
    "common": "common rotation",
    "independent": "independent rotations",
    "gaussian": "Gaussian tokens",
}
COLUMNS = {
    "verdict": "sparser than random heads of its spectrum, of low rank only, or neither; see below.",
    "S": "Mean sparseness over decisions, with the standard error over sequences: 1/K if one term is all, 1 if all are "
    "equal.",
    "random heads": "Mean S of random heads on the same tokens: of the singular values of Omega / of those that the "
    "data see.",
    "p": "Share of random heads that are as sparse, or would be at most, were draws not to end at a verdict.",
    "p adj.": "The same, adjusted for all heads and readings: at most 0.05 is sparser. With ≤, draws ended once "
    "verdicts were settled, and it may be less.",
    "p <= 0.05": "Share of decisions as sparse as which few random heads' are.",
    "Gaussian heads": "Mean S of heads of independent Gaussian entries.",
    "low rank: p adj.": "How likely a Gaussian head is as sparse, adjusted for all heads.",
    "common rotation": "Mean S where both sides are turned alike, which keeps every score (T11): a diagnostic.",
    "independent rotations": "Mean S where U and V are turned apart, the paper's control: a diagnostic.",
    "Gaussian tokens": "Mean S with tokens of the same second moments: a diagnostic.",
    "named": "How many singular pairs have a gap above rounding (T14).",
    "vectors needed (sad2024)": "By the published rule of that name (heads.count_vectors): the median number of terms "
    "of the score, the largest first, whose sum is above the score; in brackets how often the rule is undefined.",
    "vectors needed (acc2025, query)": "By another: of terms of the relative attention, until their sum reaches it; "
    "biases on the query's side.",
    "vectors needed (acc2025, key)": "The same with biases on the key's side.",
    "vectors needed (accpp2026)": "By a third: vectors taken out of all scores until attention falls to 2.5 times an "
    "even share.",
}


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a head."""
    return [_row(head) for head in places(results, *PLACE)]


def brief(results: xr.Dataset) -> list[dict[str, Any]]:
    """The columns that answer, the smallest p-values first, each head in the reading that has its smaller one."""
    chosen = results.isel(reading=results.adjusted_p_value.argmin("reading"))
    return [_brief(head) for head in sorted(places(chosen, *PLACE), key=lambda head: float(head.adjusted_p_value))]


def _brief(here: xr.Dataset) -> dict[str, Any]:
    return {
        "head": called(here),
        "verdict": sparser.in_short(str(here.verdict.values)),
        "reading": str(here.reading.values),
        "S": float(here.sparseness.mean()),
        "chance": float(here.null_mean.sel(null=list(NULLS)).min()),
        "p adj.": _adjusted_p(here),
    }


def _adjusted_p(here: xr.Dataset) -> str:
    return at_most(float(here.adjusted_p_value), float(here.adjusted_p_value_least), int(here.draws))


def answers(results: xr.Dataset) -> list[str]:
    """How many heads are sparser than chance, and which."""
    return sparser.answers(results)


def undefined(results: xr.Dataset) -> xr.DataArray:
    """Which counts of decisions are undefined: 1, or 0, and NaN where padding decides nothing."""
    return results["count"].isnull().where(results.decision)


def _share_small(results: xr.Dataset) -> float:
    """The share of decisions, of those that are defined, with a p-value of at most sparser.LEVEL."""
    p = results.decision_p_value
    return float((p <= sparser.LEVEL).where(p.notnull()).mean())


def quartiles(counts: xr.DataArray) -> np.ndarray:
    """Quartiles of the counts that are defined."""
    defined = counts.values[np.isfinite(counts.values)]
    return np.quantile(defined, [0.25, 0.5, 0.75]) if defined.size else np.full(3, np.nan)


def _row(here: xr.Dataset) -> dict[str, Any]:
    """One head: its verdict; by reading S and its standard error, p and mean S of random heads; diagnostics, counts."""
    S, error = sparser.mean_sparseness(here)
    row: dict[str, Any] = {"head": called(here), "verdict": str(here.verdict.values)}
    for reading in READINGS:
        there, of = here.sel(reading=reading), "" if reading == "raw" else f"{reading}: "
        row |= {
            f"{of}S": f"{float(S.sel(reading=reading)):.3f} ± {float(error.sel(reading=reading)):.3f}",
            f"{of}random heads": " / ".join(f"{float(there.null_mean.sel(null=null)):.3f}" for null in NULLS),
            f"{of}p": float(there.p_value),
            f"{of}p adj.": _adjusted_p(there),
            f"{of}p <= 0.05": f"{_share_small(there):.0%}",
        }
    raw = here.sel(reading="raw")
    row["Gaussian heads"] = float(raw.gaussian_sparseness.mean())
    row["low rank: p adj."] = float(raw.low_rank_p_value)
    row |= {DIAGNOSTICS[kind]: float(raw.null_mean.sel(null=kind)) for kind in KINDS}
    row["named"] = f"{int(raw.named.sum())}/{raw.named.size}"
    for rule in PUBLISHED:
        there = raw.sel(rule=rule)
        row[f"vectors needed ({rule})"] = f"{quartiles(there['count'])[1]:g} ({float(undefined(there).mean()):.0%})"
    return row


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures of all heads."""
    found = {
        **sparser.counted(results),
        **{
            f"heads_below_{kind}_null_p_0.05": int((results.diagnostic_p_value.sel(kind=kind) <= sparser.LEVEL).sum())
            for kind in KINDS
        },
        "decisions": int(results.sparseness.sel(reading="raw").notnull().sum()),
        "smallest_p_value": float(results.p_value.min()),
        "draws_of_random_heads_most": int(results.draws.max()),
        "attention_not_causal_or_not_normalised": float(results.attention_error.max()),
    }
    for reading in READINGS:
        of = "" if reading == "raw" else f"{reading}_"
        found |= {f"{of}{name}": value for name, value in _summary(results.sel(reading=reading)).items()}
    return found


def _summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures of one reading."""
    half, named = results.sizes["pair"] // 2, results.named
    means = results.null_mean.mean(PLACE).dropna("null")
    found = {
        "heads_sparser": int(sparser.found(results).sum()),
        "sparseness_mean": float(results.sparseness.mean()),
        **{f"sparseness_{name}_null_mean": float(means.sel(null=name)) for name in means.null.values},
        "decisions_p_0.05_share": _share_small(results),
        "contribution_of_lower_half_of_singular_values_share": float(
            results.contribution[..., half:].sum("pair").mean()
        ),
        "largest_contribution_from_lower_half_share": float(results.largest[..., half:].sum("pair").mean()),
        "contribution_of_pairs_not_named_share": float(results.contribution.where(~named, 0).sum("pair").mean()),
        "score_error_relative_to_largest": float(results.score_error.max()),
    }
    for rule in PUBLISHED:
        here, name = results.sel(rule=rule), rule.replace(", ", "_")
        found |= {
            f"{name}_median_count": float(quartiles(here["count"])[1]),
            f"{name}undefined": int(undefined(here).sum()),
        }
    return found
