"""Spectra's page: what is said and shown of a dataset of `spectra`: table, answers and summary."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from svtheory.instruments.survey import PLACE, by_head

SHORTER = (1, 10, 100)  # times, in units of the fastest mode, that the summary quotes
COLUMNS = {
    "sigma_1": "The largest singular value of Omega = W_Q^T W_K.",
    "gap_1/sigma_1": "Its distance to the nearest other value, relative to it.",
    "largest score": "The largest score possible: sigma_1 times the largest norms of inputs, over the divisor.",
    "effective rank": "How many values there are in effect, from 1 of a single one to d_head of equal ones.",
    "rank": "How many values are above rounding.",
    "directions named": "Pairs whose gap is above rounding, so that their vectors are something by themselves (T14).",
    "named": "The same of the head as its data see it.",
    "blocks": "Near-equal values, first to last, whose vectors are only together something.",
    "kappa, query": "Condition number of the moment of the layer's queries, with its standard error.",
    "kappa, key": "The same of keys.",
    "bound, query": "The cosine of a vector and a feature that this moment leaves, at least, to a single matched pair; "
    "below chance it promises nothing.",
    "bound, key": "The same of keys.",
}


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a head."""
    # numbers themselves: labels of hundreds of heads would take longer than all that is read of them
    x = {str(name): array.values for name, array in results.variables.items()}
    layers, heads = (range(results.sizes[name]) for name in PLACE)
    return [_row(layer, head, results.reading.values, x) for layer in layers for head in heads]


def brief(results: xr.Dataset) -> list[dict[str, Any]]:
    """The columns that answer."""
    of_balanced = ("balanced: effective rank", "balanced: named")
    return by_head(rows(results), "sigma_1", "effective rank", "directions named", *of_balanced)


def answers(results: xr.Dataset) -> list[str]:
    """How many directions heads use and how many have a name, by reading; and what tokens allow."""
    said = [_answer(results.sel(reading=reading)) for reading in results.reading.values]
    if "side" in results.dims:
        above = int((results.bound >= results.chance_cosine).sum())
        said.append(
            f"The moments of what heads read leave alignment with a feature above chance in {above} of "
            f"{results.bound.size} layers and sides."
        )
    return said


def _answer(here: xr.Dataset) -> str:
    """One reading."""
    heads = here.numerically_zero.size
    many, median = (f"{heads} heads use", ", their median") if heads > 1 else ("1 head uses", "")
    how = "Raw," if here.reading.item() == "raw" else "Balanced, as the data see them,"
    rank = here.gaussian_effective_rank
    beside = "" if rank.isnull().all() else f" ({float(rank.mean()):.3g} of Gaussian factors)"
    return (
        f"{how} {many} {float(here.effective_rank.median()):.3g} directions effectively"
        f"{beside}{median}; {int(here.named.sum())} of {here.named.size} directions can be named."
    )


def _row(layer: int, head: int, readings: Sequence[Any], x: dict[str, np.ndarray]) -> dict[str, Any]:
    """One head: its first singular value, rank, nameable pairs and blocks, and what its layer's tokens allow."""
    at = layer, head
    zero, raw = bool(x["numerically_zero"][at]), (*at, list(readings).index("raw"), 0)
    sigma = float(x["singular_value"][raw])
    row = {
        "layer": int(x["layer"][layer]),
        "head": int(x["head"][head]),
        "sigma_1": sigma,
        "gap_1/sigma_1": float("nan") if zero else float(x["gap"][raw]) / sigma,
        "largest score": float(x["largest_score"][at]),
    }
    for i, reading in enumerate(readings):
        there, of = (*at, i), "" if reading == "raw" else f"{reading}: "
        row[f"{of}effective rank"] = float(x["effective_rank"][there])
        row[f"{of}rank"] = int(x["rank"][there])
        named = f"{int(x['named'][there].sum())} of {x['named'][there].size}"
        row[f"{of}named" if of else "directions named"] = "none: numerically zero" if zero else named
        row[f"{of}blocks"] = "-" if zero else listed(x["block"][there])
    sides = x.get("side", np.array([])).tolist()
    for side in sides:
        there = layer, sides.index("key" if x["query_bias"][at] else side)
        kappa, error, bound = (float(x[name][there]) for name in ("condition", "condition_standard_error", "bound"))
        row[f"kappa, {side}"] = f"{kappa:.3g} ± {error:.2g}"
        row[f"bound, {side}"] = f"{bound:.4g}{' (below chance)' if bound < x['chance_cosine'] else ''}"
    return row


def listed(first: np.ndarray) -> str:
    """The blocks of more than one pair, from the first pair of each pair's block, as text.

    >>> listed(np.array([1, 2, 2, 4, 5, 5, 5]))
    '2-3, 5-7'
    """
    return ", ".join(f"{a}-{b}" for a, b in _several(first)) or "-"


def _several(first: np.ndarray) -> list[tuple[int, int]]:
    """First and last pair of every block of more than one."""
    starts, sizes = np.unique(first, return_counts=True)
    return [(a, a + size - 1) for a, size in zip(starts.tolist(), sizes.tolist(), strict=True) if size > 1]


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures of all heads."""
    zero, largest = results.numerically_zero, results.singular_value.sel(reading="raw").isel(pair=0)
    found: dict[str, Any] = {
        "heads": zero.size,
        "heads_numerically_zero": int(zero.sum()),
        "sigma_1_lowest": float(largest.min()),
        "sigma_1_highest": float(largest.max()),
    }
    for reading in results.reading.values:
        here, of = results.sel(reading=reading), "" if reading == "raw" else f"_{reading}"
        rank, spread = here.gaussian_effective_rank, here.gaussian_effective_rank_deviation
        gaussian = {
            f"effective_rank_of_gaussian_factors{of}": float(rank.mean()),
            f"effective_rank_of_gaussian_factors_standard_deviation{of}": float(spread.mean()),
        }
        found |= {
            f"directions{of}": here.named.size,
            f"directions_named{of}": int(here.named.sum()),
            f"blocks{of}": sum(len(_several(head)) for head in here.block.values.reshape(-1, here.sizes["pair"])),
            f"rank_lowest{of}": int(here["rank"].min()),
            f"rank_highest{of}": int(here["rank"].max()),
            f"effective_rank_median{of}": float(here.effective_rank.median()),
            **({} if rank.isnull().all() else gaussian),
        }
    return found | (_summary_of_bounds(results) if "side" in results.dims else {})


def _summary_of_bounds(results: xr.Dataset) -> dict[str, Any]:
    ends = results[["condition", "condition_standard_error", "bound", "bound_standard_error"]]
    worst = ends.stack(moment=("layer", "side")).isel(moment=int(np.argmax(results.condition.values)))
    shorter = results.bound_at_time.min(("layer", "side"))
    return {
        "tokens": int(results.tokens),
        "condition_number_highest": float(worst.condition),
        "condition_number_highest_standard_error": float(worst.condition_standard_error),
        "alignment_bound_lowest_cosine": float(worst.bound),
        "alignment_bound_lowest_cosine_standard_error": float(worst.bound_standard_error),
        **{
            f"alignment_bound_lowest_cosine_after_{t}_time_constants": float(np.interp(t, results.time, shorter))
            for t in SHORTER
        },
        "chance_cosine": float(results.chance_cosine),
        "layers_and_sides": results.bound.size,
        "layers_and_sides_bounded_below_chance": int((results.bound < results.chance_cosine).sum()),
    }
