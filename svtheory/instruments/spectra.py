"""Spectra of all heads, raw and as their data see them, with gaps, blocks and the alignment that tokens allow.

For every head of a bundle (safetensors: W_Q, W_K, perhaps what they read) the singular values of Omega = W_Q^T W_K and,
where inputs are given, those of its balanced form A^{1/2} Omega B^{1/2} (T22): the standard deviations of each mode's
part of a score, with a pattern, what moves the mode, and a probe, what the head computes, on either side; raw, both are
the singular vector. How many values a head effectively has stands beside factors of independent Gaussian entries, read
alike. A vector can be named if its gap is above the rounding D eps sigma_1 of the stored matrix (T14); values closer
than 0.001 sigma_1 form a block, of which only the subspace is known. A head whose largest possible score, sigma_1 times
the largest input norms (1 where no inputs are given) over the score divisor, is below float32's epsilon is numerically
zero and has no directions. Rotary heads are read at offset 0. Of heads that normalise their queries and keys (T23) the
gains are in Omega, and the tokens are those that each rescales for itself: there are no moments of a layer, bounds or
Gaussian factors to read balanced.

A and B are the moments of each layer's tokens: the covariance on the key side and for queries with a bias that is
not zero, else the second moment (T6); balanced, the latter too for keys without a bias that rotary positions turn.
Their condition number kappa, on their range (singular values of the tokens above min(D, tokens) eps of the largest),
bounds the cosine of the leading singular vector of a single matched pair with E[r f_i], the feature itself where
activations are uncorrelated and centred, by 2 sqrt(kappa)/(1 + kappa) after training to the end, and by more after
shorter training (kappa_t of T17: gradient flow on Omega from zero, small logits). A bound below chance, the mean |cos|
of random directions, promises nothing: table and summary say so. Time is counted in units of 1/(L_r L_s), the time
constant of the fastest mode. Standard errors are those of a bootstrap over sequences, within
the 16 longest and 16 shortest principal axes.

Of models so large that the vectors of all heads would take more than 1 GiB, some 1.5 billion parameters, all else is
kept and they are not: svtheory.spectrum(head.W_Q, head.W_K) has those of a head.

>>> import numpy as np
>>> from svtheory import HeadBundle
>>> W_Q, W_K, tokens = (np.random.default_rng(0).normal(size=s) for s in ((1, 2, 4, 8), (1, 2, 4, 8), (1, 9, 5, 8)))
>>> found = survey(HeadBundle(W_Q, W_K, attn_in=tokens))
>>> dict(found.key_pattern.sizes)
{'layer': 1, 'head': 2, 'reading': 2, 'dimension': 8, 'pair': 4}
>>> bool((found.effective_rank > 1).all())
True
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from svtheory.heads.bundles import HeadBundle
from svtheory.heads.rescaled import TokenScales, rescaled, without_norms
from svtheory.heads.weights import Head
from svtheory.instruments.gaussian_heads import gaussian_effective_ranks, gaussian_values
from svtheory.instruments.labels import SCORE, Labels, labelled
from svtheory.instruments.moments import Moments, in_threads, largest_norm, layer_moments, seen_by, seen_rescaled
from svtheory.instruments.sources import Source, check_values_held
from svtheory.instruments.survey import EPSILON, PLACE, by_head, layer_colours, over_heads, places, rounding
from svtheory.instruments.token_bounds import TIMES, token_bounds
from svtheory.instruments.token_bounds import VARIABLES as BOUND_VARIABLES
from svtheory.reports.options import Options, at_least
from svtheory.reports.plotting import GREY, chance_line, legend_below, measured, panels_or, plain, rank_ticks, thinned
from svtheory.spectra.balanced import BalancedSpectrum, balanced
from svtheory.spectra.blocks import block_labels, firsts
from svtheory.spectra.spectra import effective_rank, spectrum

READINGS = ("raw", "balanced")
VECTORS = ("query_pattern", "query_probe", "key_pattern", "key_probe")
HELD = 2**30  # bytes of all vectors, at most
LAYER_DRAWS = 10  # Gaussian heads that a layer's tokens see, at most
MANY = 24  # heads, of which each is drawn
SHORTER = (1, 10, 100)  # times, in units of the fastest mode, that the summary quotes
SPECTRA = (
    "Singular values of each head over its largest, raw and as its tokens see it, beside the mean of Gaussian factors "
    "of the same shape in each layer (lines); hollow points cannot be named. Of many heads, the median of each layer "
    "and its middle half."
)
BOUNDS = (
    " Last, the alignment of a single matched pair that each layer's token moments guarantee after training "
    "for a time (lines), and at its end (points, with standard errors)."
)
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

PATTERN = "what in a {} token moves the mode; raw, the singular vector"
PROBE = "what the head computes of a {} token; raw, the singular vector"
VARIABLES: Labels = {
    **BOUND_VARIABLES,
    "query_pattern": PATTERN.format("query"),
    "query_probe": PROBE.format("query"),
    "key_pattern": PATTERN.format("key"),
    "key_probe": PROBE.format("key"),
    "rank": ("values above rounding", "values"),
    "effective_rank": ("how many values there are in effect, exp of the entropy of their shares", "values"),
    "gap": ("distance of a value to its nearest neighbour (T14)", SCORE),
    "largest_score": ("largest score possible, sigma_1 times the largest norms of inputs, over the divisor", "score"),
    "numerically_zero": "whether the largest score possible is below float32's epsilon",
    "gaussian_value": "singular value over the largest of heads of independent Gaussian entries, mean",
    "gaussian_effective_rank": ("effective rank of heads of independent Gaussian entries, mean", "values"),
    "gaussian_effective_rank_deviation": ("its standard deviation", "values"),
}


@dataclass(frozen=True)
class Settings(Options):
    """What standard errors and comparisons are made with."""

    resamples: Annotated[int, at_least(2)] = 100
    """Bootstrap samples behind a standard error."""
    gaussians: Annotated[int, at_least(2)] = 100
    """Heads of Gaussian factors to compare with."""
    seed: int = 0
    """Seed of bootstrap and Gaussian factors."""


DEFAULTS = Settings()


def requested(source: Source, settings: Settings) -> xr.Dataset:
    """What the command asks for."""
    return survey(source.bundle(), settings).assign_attrs(bundle=source.label)


def survey(bundle: HeadBundle, settings: Settings = DEFAULTS) -> xr.Dataset:
    """The spectrum of every head of a bundle; where it has what they read, balanced too, and what that allows."""
    said = bundle.metadata
    bundle, scales = without_norms(bundle)
    moments = None if scales is not None else layer_moments(bundle)
    results = _spectra(bundle, moments, scales)
    results = results.merge(_gaussian_heads(bundle, moments, settings, results.sizes["reading"]))
    if moments is not None:
        results = results.merge(token_bounds(bundle, moments, settings.seed, settings.resamples))
    return labelled(results.assign_attrs(said), VARIABLES)


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a head."""
    return [_row(head) for head in places(results, *PLACE)]


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
    how = "Raw," if here.reading.item() == "raw" else "Balanced, as the data see them,"
    rank = here.gaussian_effective_rank
    beside = "" if rank.isnull().all() else f" ({float(rank.mean()):.3g} of Gaussian factors)"
    return (
        f"{how} {here.numerically_zero.size} heads use {float(here.effective_rank.median()):.3g} directions effectively"
        f"{beside}, their median; {int(here.named.sum())} of {here.named.size} directions can be named."
    )


def _spectra(bundle: HeadBundle, moments: Moments | None, scales: TokenScales | None) -> xr.Dataset:
    """The spectra of every head; vectors, gap and effective rank are NaN where they say nothing."""
    size = bundle.W_Q.size * len(VECTORS) * (1 if moments is None else len(READINGS)) * np.dtype(np.float32).itemsize
    read, kept = (_read, VECTORS) if size <= HELD else (_read_values, ())
    axes: dict[str, tuple[str, ...]] = dict.fromkeys(kept, ("reading", "dimension", "pair"))
    axes |= dict.fromkeys(("rank", "effective_rank"), ("reading",))
    axes |= dict.fromkeys(("singular_value", "gap", "named", "block"), ("reading", "pair"))
    tokens = None if scales is None else bundle.attn_in
    real = None if bundle.mask is None else jnp.asarray(bundle.mask)
    found = over_heads(read, bundle, axes, (moments, tokens), (scales,), (real, rounding(bundle)))
    found = found.assign_coords(
        reading=list(READINGS[: found.sizes["reading"]]), pair=range(1, found.sizes["pair"] + 1)
    )
    check_values_held(found.singular_value.sel(reading="raw").values)
    divisors = np.array(bundle.scoring.divisors)[:, None]
    scale = xr.DataArray(_largest_norms(bundle, scales) / divisors, dims=PLACE).astype(np.float32)
    largest = found.singular_value.sel(reading="raw").isel(pair=0, drop=True)
    found["largest_score"] = (largest * scale).drop_vars("reading")
    zero = found["numerically_zero"] = found.largest_score < EPSILON
    named = found["named"] = found.named & ~zero
    for name, known in {**dict.fromkeys(kept, named), "gap": ~zero, "effective_rank": ~zero}.items():
        found[name] = found[name].where(known)
    found["rank"] = found["rank"].where(~zero, 0)
    return found


def _largest_norms(bundle: HeadBundle, scales: TokenScales | None) -> np.ndarray:
    """The product of the largest norms of what each head reads, of queries and keys, (layers, heads)."""
    if bundle.attn_in is None:
        return np.ones(bundle.W_Q.shape[:2])
    if scales is None:
        norms = np.array(in_threads(lambda tokens: largest_norm(tokens, bundle.real), bundle.attn_in))
        return np.tile(norms[:, None] ** 2, bundle.W_Q.shape[1])
    norms = np.linalg.norm(bundle.attn_in, axis=-1)[:, None]
    query, key = ((norms * side).max(axis=(2, 3), where=bundle.real, initial=0) for side in scales)
    return query * key


def _read(
    head: Head,
    moments: Moments | None,
    tokens: Array | None,
    scales: TokenScales | None,
    real: Array | None,
    rounding: Array,
) -> dict[str, Array]:
    """One head, raw and balanced, whose vectors can be named where gaps are above `rounding` times sigma_1."""
    s = spectrum(head.W_Q, head.W_K)
    found = [_described(BalancedSpectrum(s.values, s.left, s.left, s.right, s.right, s.gaps), rounding)]
    sides = None if moments is None else seen_by(head, moments)
    if tokens is not None:
        sides = seen_rescaled(head, *rescaled(tokens, scales), real)
    if sides is not None:
        found.append(_described(balanced(head.W_Q, head.W_K, *sides), rounding))
    return jax.tree.map(lambda *x: jnp.stack(x), *found)


def _read_values(*given: Any) -> dict[str, Array]:
    """The same without vectors."""
    return {name: x for name, x in _read(*given).items() if name not in VECTORS}


def _described(s: BalancedSpectrum, rounding: Array) -> dict[str, Array]:
    """One reading of one head."""
    error = rounding * s.values[0]
    labels = block_labels(s.values, error)
    found = {"singular_value": s.values, "gap": s.gaps, "named": s.gaps > error}
    found |= dict(zip(VECTORS, (s.query_patterns, s.query_probes, s.key_patterns, s.key_probes), strict=True))
    found |= {"block": 1 + firsts(labels), "rank": (s.values > error).sum()}
    return found | {"effective_rank": effective_rank(s.values)}


def _gaussian_heads(bundle: HeadBundle, moments: Moments | None, settings: Settings, readings: int) -> xr.Dataset:
    """Mean spectrum, relative to sigma_1, and effective rank of heads of independent Gaussian entries, by layer.

    NaN in a reading whose moments each head has for itself.
    """
    layers, _, H, D = bundle.W_Q.shape
    shape, one = (H, D), np.ones(D)
    raw = gaussian_values(shape, [(one, one)], settings.seed, settings.gaussians)[0]
    seen = [[raw] * layers]
    if moments is not None:
        lengths = np.stack([moments.uncentred.lengths, moments.centred.lengths])
        biased = np.zeros(layers, bool) if bundle.b_K is None else (bundle.b_K != 0).any(axis=2).all(axis=1)
        centred = np.asarray(bundle.query_bias.all(axis=1)), biased | (bundle.scoring.frequencies is None)
        query, key = (lengths[side.astype(int), np.arange(layers)] for side in centred)
        sides = list(zip(query, key, strict=True))
        seen.append(list(gaussian_values(shape, sides, settings.seed, min(LAYER_DRAWS, settings.gaussians))))
    seen += [[np.full_like(raw, np.nan)] * layers] * (readings - len(seen))
    of = lambda read: [[read(values) for values in reading] for reading in seen]  # noqa: E731
    ranks = ("reading", "layer")
    return xr.Dataset(
        {
            "gaussian_value": ((*ranks, "pair"), of(lambda values: values.mean(axis=0))),
            "gaussian_effective_rank": (ranks, of(lambda values: gaussian_effective_ranks(values).mean())),
            "gaussian_effective_rank_deviation": (ranks, of(lambda v: gaussian_effective_ranks(v).std(ddof=1))),
        },
        {"reading": list(READINGS[: len(seen)])},
    )


def _row(here: xr.Dataset) -> dict[str, Any]:
    """One head: its first singular value, rank, nameable pairs and blocks, and what its layer's tokens allow."""
    zero = bool(here.numerically_zero)
    sigma = float(here.singular_value.sel(reading="raw")[0])
    row = {
        **{name: int(here[name]) for name in PLACE},
        "sigma_1": sigma,
        "gap_1/sigma_1": float("nan") if zero else float(here.gap.sel(reading="raw")[0]) / sigma,
        "largest score": float(here.largest_score),
    }
    for reading in here.reading.values:
        there, of = here.sel(reading=reading), "" if reading == "raw" else f"{reading}: "
        row[f"{of}effective rank"] = float(there.effective_rank)
        row[f"{of}rank"] = int(there["rank"])
        named = f"{int(there.named.sum())} of {there.named.size}"
        row[f"{of}named" if of else "directions named"] = "none: numerically zero" if zero else named
        row[f"{of}blocks"] = "-" if zero else listed(there.block.values)
    for side in here.side.values if "side" in here.dims else ():
        there = here.sel(side="key" if bool(here.query_bias) else side)
        row[f"kappa, {side}"] = f"{float(there.condition):.3g} ± {float(there.condition_standard_error):.2g}"
        below = " (below chance)" if there.bound < there.chance_cosine else ""
        row[f"bound, {side}"] = f"{float(there.bound):.4g}{below}"
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
    worst = results.stack(moment=("layer", "side")).isel(moment=int(np.argmax(results.condition.values)))
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


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """The spectrum of every head by reading, and the bounds of every layer; on as many `axes` where they are given."""
    readings = results.reading.values
    drawn, axes = panels_or(axes, columns=len(readings) + ("side" in results.dims), height=4.6)
    colours = layer_colours(results)
    for ax, reading in zip(axes, readings, strict=False):
        _draw_spectra(ax, results.sel(reading=reading), colours)
    if "side" in results.dims:
        _draw_bounds(axes[-1], results, colours)
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    return SPECTRA + (BOUNDS if "side" in results.dims else "")


def _draw_spectra(ax: Axes, results: xr.Dataset, colours: np.ndarray) -> None:
    """`sigma_k / sigma_1` of every head that is not numerically zero; of many heads, their middle half by layer."""
    zero = results.numerically_zero
    shown = results.singular_value.where(~zero)
    relative = shown / shown.isel(pair=0)
    draw = _draw_each if zero.size <= MANY else _draw_quartiles
    draw(ax, relative, results.named.values, colours)
    if results.gaussian_value.notnull().any():
        ax.plot(results.pair, results.gaussian_value.transpose("pair", "layer"), color=GREY, linewidth=1, zorder=1)
        ax.plot([], [], color=GREY, label="Gaussian factors")
    ax.plot([], [], "o", color=GREY, markerfacecolor="none", label="cannot be named")
    if zero.all():
        ax.text(0.5, 0.5, "every head is numerically zero", ha="center", transform=ax.transAxes)
    name = plain(results.attrs.get("bundle", "all heads"))
    zeros = f", {int(zero.sum())} zero" if zero.any() else ""
    title = f"{name}: {zero.size} heads, {results.reading.item()}{zeros}"
    balanced = results.reading.item() == "balanced"
    ax.set(
        xlabel="pair k",
        ylabel=r"$\tilde\sigma_k / \tilde\sigma_1$" if balanced else r"$\sigma_k / \sigma_1$",
        title=title,
    )
    # below its rounding no value says anything
    least = max(EPSILON / 10, float(relative.where(results.named).min()) / 10) if results.named.any() else EPSILON / 10
    ax.set(yscale="log", ylim=(least, 2)) if relative.min() < 0.01 else ax.set(ylim=(0, None))
    legend_below(ax)


def _draw_each(ax: Axes, relative: xr.DataArray, named: np.ndarray, colours: np.ndarray) -> None:
    """A point a pair of every head, hollow where it cannot be named."""
    heads = relative.sizes["head"]
    for layer, head in np.ndindex(named.shape[:2]):
        x = relative.pair.values + 0.5 * (head - (heads - 1) / 2) / heads
        y, known, colour = relative[layer, head].values, named[layer, head], colours[layer]
        style = {"color": colour, "markersize": 3.5, "alpha": 0.8}
        ax.plot(x, y, "o", markerfacecolor="none", **style)
        ax.plot(x[known], y[known], "o", label=None if head else f"layer {layer}", **style)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_quartiles(ax: Axes, relative: xr.DataArray, named: np.ndarray, colours: np.ndarray) -> None:
    """Some pairs of every layer: median and middle half of its heads, hollow where most of them cannot name it."""
    layers, (_, _, K) = len(colours), named.shape
    some = np.unique(np.geomspace(1, K, 12).round().astype(int)) - 1
    shift = np.linspace(0.94, 1.06, layers)
    for layer, colour in enumerate(colours):
        low, middle, high = np.nanquantile(relative[layer].values[:, some], [0.25, 0.5, 0.75], axis=0)
        known, x = named[layer][:, some].mean(axis=0) >= 0.5, relative.pair.values[some] * shift[layer]
        style = {"color": colour, "markersize": 3.5, "elinewidth": 0.8, "capsize": 0}
        measured(ax, x, middle, [middle - low, high - middle], markerfacecolor="none", **style)
        label = f"layer {layer}" if layer in thinned(layers) else None
        ax.plot(x[known], middle[known], "o", color=colour, markersize=3.5, label=label)
    ax.set(xscale="log")
    rank_ticks(ax, K)


def _draw_bounds(ax: Axes, results: xr.Dataset, colours: np.ndarray) -> None:
    """The bound of each layer and side against training time, and at its end."""
    ends = np.geomspace(2, 100, 2 * len(colours)).reshape(-1, 2) * TIMES[-1]
    for layer, colour in enumerate(colours):
        for side, line, marker, end in (("key", "-", "o", ends[layer, 0]), ("query", "--", "s", ends[layer, 1])):
            here = results.sel(layer=layer, side=side)
            ax.plot(here.time, here.bound_at_time, line, color=colour)
            measured(ax, end, here.bound, here.bound_standard_error, color=colour, fmt=marker)
    for side, line, marker in (("keys", "-", "o"), ("queries", "--", "s")):
        ax.plot([], [], line, marker=marker, color="black", label=f"{side}, colours as above")
    chance_line(ax, float(results.chance_cosine))
    lowest = float(results.bound.min())
    levels = [level for level in (1e-4, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.5, 1) if level > min(0.04, lowest)]
    ax.set(
        xscale="log",
        yscale="log",
        title="least alignment, single pair",
        yticks=levels,
        yticklabels=[f"{level:g}" for level in levels],
    )
    ticks = {0.01: "0.01", 1: "1", 100: "100", 1e4: "10⁴", 1e6: "10⁶", np.sqrt(ends[0, 0] * ends[-1, 1]): "end"}
    ax.set(xticks=list(ticks), xticklabels=list(ticks.values()))
    ax.minorticks_off()
    ax.set(xlabel=r"training time $\times\ L_r L_s$", ylabel=r"$|\cos(u, E[r f_i])|$")
    legend_below(ax)
