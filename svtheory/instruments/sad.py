"""Sparse attention decomposition: does a head need fewer singular vectors than chance would? (the paper's Figs 8, 9)

For every head of a bundle (safetensors: W_Q, W_K and attn_in, what they read) or of a checkpoint (a Hugging Face folder
of a model, with --text), each query's attention to the key it attends most is a decision. Its relative attention, that
key's score less the mean of the others', is the sum of terms c_k, one a singular pair; or, read balanced, one a mode of
the head as its data see it (T22). S is their Treves-Rolls sparseness, 1 for equal magnitudes and 1/K for a single term.
Heads that normalise their queries and keys are read by the tokens that each rescales for itself (T23).

A head is called sparser than chance when its mean S is below that of random heads on the same tokens (T22), read alike,
which keep its singular values, biases and rotary maps, rotate its singular vectors on both sides, and attend to a key
of their own: once with the singular values of Omega, once with those that the data see, and the larger p-value counts.
p-values are adjusted for the number of heads and readings (Benjamini and Hochberg); draws go on until the verdicts at
0.05 cannot change any more (Besag and Clifford), or for --draws at most, and one draw serves all heads of a layer.

The verdict on any other head is "low rank only" where it is sparser than Gaussian heads, read raw: of independent
entries, with its shape, the norms of its factors, its biases and rotary maps, on the same tokens. Then a few large
singular values, of Omega or as the data see it, are enough for what is seen, whatever their vectors are. The head's S
counts as one more of their draws (Student's t), p <= 0.01 adjusted over heads: of 20 models without any structure at
most one has such a head. Else the verdict is "neither".

Beside it stand three diagnostics of the raw reading, which reject heads that match nothing (T11). The common rotation
of both sides keeps every score: a head of low rank is sparser than it, whatever its vectors are. Independent rotations
of U and V, the paper's control, forget that the key was chosen for its score. Gaussian tokens say what second moments
alone would give.

Singular values that lie closer than 0.001 sigma_1, or than rounding, are one block, whose vectors are only together
something: its contribution is one term, the sum of its pairs', in shares and counts. Counts follow three published
rules, each in its own convention of biases, on the same decisions (balanced, all on the same terms): the table gives
medians and, in brackets, how often a rule is undefined, which it is too where the terms of its convention miss a score
by 0.001 of the query's largest, or of the median query's where that is larger. Chance needs few vectors too: a small
count alone shows nothing. Rotary positions are maps of the inputs around one decomposition.

>>> import numpy as np
>>> from svtheory import HeadBundle
>>> W_Q, W_K, tokens = (np.random.default_rng(0).normal(size=s) for s in ((1, 1, 2, 3), (1, 1, 2, 3), (1, 3, 4, 3)))
>>> found = survey(HeadBundle(W_Q, W_K, attn_in=tokens), Settings(draws=19))
>>> found.verdict.dims, found.contribution.dims  # a sentence a head; a share of each pair, in each reading
(('layer', 'head'), ('layer', 'head', 'reading', 'pair'))
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svtheory.heads.bundles import HeadBundle
from svtheory.heads.counting import count_vectors
from svtheory.heads.decomposition import Decomposition, decompose, read_balanced, relative_attention
from svtheory.heads.random_heads import NULLS
from svtheory.heads.read_together import READINGS
from svtheory.heads.rescaled import TokenScales, rescaled, without_norms
from svtheory.heads.rotations import KINDS
from svtheory.heads.weights import Head
from svtheory.instruments import sparser
from svtheory.instruments.labels import Labels, labelled
from svtheory.instruments.moments import Moments, layer_moments, seen_by, seen_rescaled
from svtheory.instruments.sources import SEQUENCES, Source, check_values_held
from svtheory.instruments.survey import PLACE, called, layer_colours, over_heads, places, rounding
from svtheory.numerics import positive
from svtheory.reports.options import Options, at_least
from svtheory.reports.plotting import (
    COLOURS,
    GREY,
    MANY,
    legend_below,
    measured,
    name_heads,
    panels_or,
    rank_ticks,
    thinned,
)
from svtheory.reports.tables import at_most
from svtheory.spectra.balanced import balanced
from svtheory.spectra.blocks import block_labels, block_sums, firsts

MISSED = 1e-3  # of the scores' size: where a convention's terms miss scores by more, nothing is counted
DIAGNOSTICS = {
    "common": "common rotation",
    "independent": "independent rotations",
    "gaussian": "Gaussian tokens",
}
PUBLISHED = {  # each rule with the conventions it was published in
    "sad2024": ("sad2024", "augmented-last"),
    "acc2025, query": ("acc2025", "query-side"),
    "acc2025, key": ("acc2025", "key-side"),
    "accpp2026": ("accpp2026", "plain"),
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
    "sad2024": "Median number of terms of the score, the largest first, whose sum is above the score; in brackets how "
    "often a rule is undefined.",
    "acc2025, query": "The same of terms of the relative attention, until their sum reaches it; biases on the query's "
    "side.",
    "acc2025, key": "The same with biases on the key's side.",
    "accpp2026": "Median number of vectors taken out of all scores until attention falls to 2.5 times an even share.",
}

VARIABLES: Labels = {
    **sparser.VARIABLES,
    "count": ("singular vectors that a decision needs by a rule", "vectors"),
    "score_error": "by how much a convention's terms miss a score, over the largest of the query, or of the median one",
    "attention_error": "attention to keys that are not seen, and how far its sum is from 1, at most",
    "contribution": "a pair's share of the terms' magnitudes, mean over decisions",
    "largest": "share of decisions whose largest term is the pair's",
    "decision": "whether something is decided there, and it is no padding",
    "rule": "published rule of counting",
}


@dataclass(frozen=True)
class Settings(Options):
    """What p-values are made with."""

    draws: Annotated[int, at_least(19)] = 2999
    """Random heads behind a p-value, at most."""
    seed: int = 0
    """Seed of the random heads."""


DEFAULTS = Settings()


def requested(source: Source, settings: Settings) -> xr.Dataset:
    """What the command asks for."""
    return survey(source.bundle(reads=True, sequences=SEQUENCES), settings).assign_attrs(bundle=source.label)


def survey(bundle: HeadBundle, settings: Settings = DEFAULTS) -> xr.Dataset:
    """Decompose every head on what it reads, and compare with random heads."""
    tested = sparser.tested(bundle, jax.random.key(settings.seed), settings.draws, len(READINGS))
    return labelled(tested.merge(_terms(bundle)).assign_attrs(bundle.metadata), VARIABLES)


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


def _terms(bundle: HeadBundle) -> xr.Dataset:
    """The terms of every head's decisions, by reading: counts, ranks, and how well scores are reproduced."""
    of = ("reading",)
    bundle, scales = without_norms(bundle)
    axes = {"count": (*of, "rule", "sequence", "query"), "score_error": (*of, "rule"), "attention_error": ()}
    axes |= dict.fromkeys(("contribution", "largest", "named", "block", "singular_value"), (*of, "pair"))
    given = sparser.tokens_read(bundle), layer_moments(bundle) if scales is None else None
    shared = sparser.real_tokens(bundle), rounding(bundle)
    found = over_heads(_head, bundle, axes, given, (scales,), shared, "terms")
    check_values_held(found.singular_value.sel(reading=0).values)
    first = given[0].shape[2] - found.sizes["query"]
    found["decision"] = ("sequence", "query"), bundle.real[:, first:]
    coordinates = {"reading": list(READINGS), "rule": list(PUBLISHED), "pair": range(1, found.sizes["pair"] + 1)}
    return found.assign_coords(coordinates)


def _head(
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


def _undefined(results: xr.Dataset) -> xr.DataArray:
    """Which counts of decisions are undefined: 1, or 0, and NaN where padding decides nothing."""
    return results["count"].isnull().where(results.decision)


def _share_small(results: xr.Dataset) -> float:
    """The share of decisions, of those that are defined, with a p-value of at most sparser.LEVEL."""
    p = results.decision_p_value
    return float((p <= sparser.LEVEL).where(p.notnull()).mean())


def _quartiles(counts: xr.DataArray) -> np.ndarray:
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
        row[rule] = f"{_quartiles(there['count'])[1]:g} ({float(_undefined(there).mean()):.0%})"
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
            f"{name}_median_count": float(_quartiles(here["count"])[1]),
            f"{name}_undefined": int(_undefined(here).sum()),
        }
    return found


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """Sparseness beside chance, raw and balanced, where contributions come from, counts; on four `axes` if given."""
    heads = results.zero.size
    drawn, axes = panels_or(axes, 4, width=max(4.6, min(0.2 * heads, 8.0)) if heads <= MANY else 5.2, height=4.8)
    for ax, reading in zip(axes, READINGS, strict=False):
        _draw_sparseness(ax, results.sel(reading=reading))
    _draw_ranks(axes[2], results)
    _draw_counts(axes[3], results.sel(reading="raw"))
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    return (
        "First two, mean sparseness of each head's decisions, read raw and balanced (points, with standard errors over "
        "sequences), and that of random heads on the same tokens, their keys chosen anew (lines, with 95 % of them): "
        "of the head's singular values, and of those that the data see; filled points are sparser than either. "
        "Dotted: Gaussian heads; below these alone a head is of low rank only. Crosses: the common rotation, a "
        "diagnostic. Third, where in the order "
        "of singular values contributions come from: mean of each layer, raw filled and balanced hollow, and the even "
        "share as a line. Right, how many singular vectors a decision needs by each rule: median and middle half of "
        "each head."
    )


def _draw_sparseness(ax: Axes, results: xr.Dataset) -> None:
    flat = results.stack(unit=PLACE)
    (S, error), x = sparser.mean_sparseness(flat), np.arange(flat.sizes["unit"])
    many = len(x) > MANY
    for null, colour, shift, label in (
        ("raw", COLOURS[1], -0.15, "random heads"),
        ("balanced", COLOURS[2], 0.15, "random heads, as data see them"),
    ):
        here = flat.sel(null=null)
        ax.hlines(here.null_mean, x + shift - 0.3, x + shift + 0.3, color=colour, label=label, linewidth=1.2)
        ax.vlines(x + shift, here.null_low, here.null_high, color=colour, alpha=0.4, linewidth=1.2 if many else 4)
    common = flat.null_mean.sel(null="common")
    if common.notnull().any():
        ax.plot(x, common, "x", color=GREY, markersize=3 if many else 4, label="common rotation")
        gaussian = flat.gaussian_sparseness.mean("gaussian_head")
        ax.hlines(gaussian, x - 0.45, x + 0.45, color=GREY, linestyles=":", label="Gaussian heads")
    known, size = sparser.found(flat).values, 2.5 if many else 5
    measured(ax, x, S, error, markerfacecolor="white", markersize=size, elinewidth=0.8, label="head")
    measured(ax, x[known], S[known], markersize=size)
    name_heads(ax, results.sizes["layer"], results.sizes["head"])
    ax.set(ylabel="mean sparseness S")
    ax.set_title(f"{results.reading.item()}: {int(known.sum())} of {len(x)} sparser than random heads")
    legend_below(ax, 2, fontsize=8.5)


def _draw_ranks(ax: Axes, results: xr.Dataset) -> None:
    layers, K = results.sizes["layer"], results.sizes["pair"]
    some = np.unique(np.geomspace(1, K, min(K, 24)).round().astype(int)) - 1
    ax.axhline(1 / K, color="black", label="even share")
    for layer, colour in enumerate(layer_colours(results)):
        here = results.contribution.isel(layer=layer, pair=some).mean("head")
        style = {"color": colour, "markersize": 4}
        ax.plot(here.pair, here.sel(reading="balanced"), "o", markerfacecolor="none", **style)
        label = f"layer {layer}" if layer in thinned(layers) else None
        ax.plot(here.pair, here.sel(reading="raw"), "o", label=label, **style)
    ax.plot([], [], "o", color=GREY, markerfacecolor="none", label="balanced")
    ax.set(xlabel="rank k of the singular value", ylabel=r"share of $\Sigma_k |c_k|$", xscale="log", ylim=(0, None))
    rank_ticks(ax, K)
    legend_below(ax, 4, fontsize=8.5)


def _draw_counts(ax: Axes, results: xr.Dataset) -> None:
    flat = results["count"].stack(unit=PLACE)
    many = flat.sizes["unit"] > MANY
    for i, rule in enumerate(PUBLISHED):
        low, middle, high = np.array([_quartiles(head) for head in flat.sel(rule=rule).transpose("unit", ...)]).T
        x = i + np.linspace(-0.3, 0.3, middle.size)
        style = {"markersize": 2, "elinewidth": 0.5, "capsize": 0} if many else {"markersize": 4}
        measured(ax, x, middle, [middle - low, high - middle], color=COLOURS[i], alpha=0.6, **style)
    labels = [
        f"{rule}\n{float(_undefined(results.sel(rule=rule)).mean()):.0%} undefined".replace(", ", ",\n")
        for rule in PUBLISHED
    ]
    ax.set_xticks(range(len(labels)), labels, fontsize=8)
    ax.set(ylabel="singular vectors a decision needs", ylim=(0, None))
