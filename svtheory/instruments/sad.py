"""Sparse attention decomposition: does a head need fewer singular vectors than chance would? (the paper's Figs 8, 9)

For every head of a bundle (safetensors: W_Q, W_K and attn_in, what they read) or of a checkpoint (a Hugging Face folder
of GPT-2, GPT-NeoX or Llama type, with --text), each query's attention to the key it attends most is a decision. Its
relative attention, that key's score less the mean of the others', is the sum of terms c_k, one a singular pair. S is
their Treves-Rolls sparseness, 1 for equal magnitudes and 1/K for a single term.

A head is called sparser than chance when its mean S is below that of random heads on the same tokens (T22), which keep
its singular values, biases and rotary maps, rotate its singular vectors on both sides, and attend to a key of their
own: once with the singular values of Omega, once with those that the data see, and the larger p-value counts. p-values
are adjusted for the number of heads (Benjamini and Hochberg); draws go on until the verdicts at 0.05 cannot change any
more (Besag and Clifford), or for --draws at most, and one draw serves all heads of a layer.

Beside it stand three diagnostics, which reject heads that match nothing (T11). The common rotation of both sides keeps
every score: a head of low rank is sparser than it, whatever its vectors are. Independent rotations of U and V, the
paper's control, forget that the key was chosen for its score. Gaussian tokens say what second moments alone would give.
Where only the common rotation rejects (p <= 0.05, not adjusted), the verdict is "rotations only": a low rank, or the
choice of the key, is enough to explain what is seen.

Counts of singular vectors follow three published rules, each in its own convention of biases, on the same decisions:
the table gives medians and, in brackets, how often a rule is undefined, which it is too where the terms of its
convention do not sum to the scores. Chance needs few vectors too: a small count alone shows nothing. Rotary positions
are maps of the inputs around one decomposition. Singular values that lie closer than rounding fix no vector: the share
of contributions that falls on such pairs is reported, their terms are not named.
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
from svtheory.heads.counting import count_vectors
from svtheory.heads.decomposition import decompose, relative_attention
from svtheory.heads.random_heads import NULLS
from svtheory.heads.rotations import KINDS
from svtheory.heads.weights import Head
from svtheory.instruments import sparser
from svtheory.instruments.sources import SEQUENCES, Source, check_values_held
from svtheory.instruments.survey import PLACE, layer_colours, over_heads, places
from svtheory.numerics import positive
from svtheory.reports.options import Options, at_least
from svtheory.reports.plotting import COLOURS, GREY, measured, panels_or

MISSED = 1e-3  # of a query's largest score: where a convention's terms miss scores by more, nothing is counted
PUBLISHED = {  # each rule with the conventions it was published in
    "sad2024": ("sad2024", "augmented-last"),
    "acc2025, query": ("acc2025", "query-side"),
    "acc2025, key": ("acc2025", "key-side"),
    "accpp2026": ("accpp2026", "plain"),
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
    tested = sparser.tested(bundle, jax.random.key(settings.seed), settings.draws)
    return tested.merge(_terms(bundle)).assign_attrs(bundle.metadata)


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a head."""
    return [_row(head) for head in places(results, *PLACE)]


def _terms(bundle: HeadBundle) -> xr.Dataset:
    """The terms of every head's decisions, by layer and head: counts, ranks, and how well scores are reproduced."""
    axes = {"count": ("rule", "sequence", "query"), "score_error": ("rule",), "attention_error": ()}
    axes |= dict.fromkeys(("contribution", "largest", "named", "singular_value"), ("pair",))
    found = over_heads(_head, bundle, axes, (sparser.tokens_read(bundle),), shared=(sparser.real_tokens(bundle),))
    check_values_held(found.singular_value.values)
    return found.assign_coords(rule=list(PUBLISHED), pair=range(1, found.sizes["pair"] + 1))


def _head(head: Head, tokens: Array, real: Array | None = None) -> dict[str, Array]:
    """One head on tokens (sequences, positions, D), of which some may not be `real`."""
    d = sparser.decisions(head, tokens, real)
    first = sparser.first_decision(head)
    decided = jnp.ones(d.index.shape, bool) if real is None else real
    terms = jnp.abs(relative_attention(d))[:, first:]
    total = terms.sum(axis=-1, keepdims=True)
    largest_score = jnp.where(d.visible, jnp.abs(d.scores), 0).max(axis=-1)
    counts, errors = [], []
    for rule, convention in PUBLISHED.values():
        same = convention == "plain" or (head.b_Q is None and head.b_K is None)
        read = d if same else decompose(head, tokens, tokens, d.index, convention)
        error = read.error / positive(largest_score)
        counts.append(jnp.where(decided & (error <= MISSED), count_vectors(read, rule), jnp.nan))
        errors.append(error.max(where=decided, initial=0))
    off = jnp.where(d.visible, 0, d.attention).sum(axis=-1) + jnp.abs(d.attention.sum(axis=-1) - 1)
    over = {"axis": (0, 1), "where": decided[:, first:, None]}
    return {
        "count": jnp.stack(counts)[..., first:],
        "contribution": (terms / positive(total)).mean(**over),
        "largest": jax.nn.one_hot(terms.argmax(axis=-1), terms.shape[-1]).mean(**over),
        "named": d.named,
        "singular_value": d.spectrum.values,
        "score_error": jnp.stack(errors),
        "attention_error": off.max(),
    }


def _share_small(results: xr.Dataset) -> float:
    """The share of decisions, of those that are defined, with a p-value of at most sparser.LEVEL."""
    p = results.decision_p_value
    return float((p <= sparser.LEVEL).where(p.notnull()).mean())


def _quartiles(counts: xr.DataArray) -> np.ndarray:
    """Quartiles of the counts that are defined."""
    defined = counts.values[np.isfinite(counts.values)]
    return np.quantile(defined, [0.25, 0.5, 0.75]) if defined.size else np.full(3, np.nan)


def _row(here: xr.Dataset) -> dict[str, Any]:
    """One head: S and its standard error, p, mean S of random heads, decisions with p <= 0.05, diagnostics, counts."""
    _, error = sparser.mean_sparseness(here)
    null = here.null_mean
    row = {
        "head": f"{int(here.layer)}.{int(here['head'])}",
        "sparser than chance": str(here.verdict.values),
        "S": f"{float(here.sparseness.mean()):.3f} ± {float(error):.3f}",
        "random heads": float(null.sel(null="raw")),
        "balanced": float(null.sel(null="balanced")),
        "p": float(here.p_value),
        "p adj.": float(here.adjusted_p_value),
        "p <= 0.05": f"{_share_small(here):.0%}",
        **{kind: float(null.sel(null=kind)) for kind in KINDS},
        "named": f"{int(here.named.sum())}/{here.named.size}",
    }
    for rule in PUBLISHED:
        count = here["count"].sel(rule=rule)
        row[rule] = f"{_quartiles(count)[1]:g} ({float(count.isnull().mean()):.0%})"
    return row


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures of all heads."""
    half, named = results.sizes["pair"] // 2, results.named
    found = {
        **sparser.counted(results.verdict),
        **{
            f"heads_below_{kind}_null_p_0.05": int((results.diagnostic_p_value.sel(kind=kind) <= sparser.LEVEL).sum())
            for kind in KINDS
        },
        "decisions": int(results.sparseness.notnull().sum()),
        "sparseness_mean": float(results.sparseness.mean()),
        **{f"sparseness_{name}_null_mean": float(results.null_mean.sel(null=name).mean()) for name in NULLS + KINDS},
        "smallest_p_value": float(results.p_value.min()),
        "draws_of_random_heads_most": int(results.draws.max()),
        "decisions_p_0.05_share": _share_small(results),
        "contribution_of_lower_half_of_singular_values_share": float(
            results.contribution[..., half:].sum("pair").mean()
        ),
        "largest_contribution_from_lower_half_share": float(results.largest[..., half:].sum("pair").mean()),
        "contribution_of_pairs_not_named_share": float(results.contribution.where(~named, 0).sum("pair").mean()),
        "score_error_relative_to_largest": float(results.score_error.max()),
        "attention_not_causal_or_not_normalised": float(results.attention_error.max()),
    }
    for rule in PUBLISHED:
        count, name = results["count"].sel(rule=rule), rule.replace(", ", "_")
        found |= {f"{name}_median_count": _quartiles(count)[1], f"{name}_undefined": int(count.isnull().sum())}
    return found


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """Sparseness beside chance, where contributions come from, and counts; on three `axes` where they are given."""
    drawn, axes = panels_or(axes, 3, width=4.8, height=4.0)
    for ax, draw in zip(axes, (_draw_sparseness, _draw_ranks, _draw_counts), strict=True):
        draw(ax, results)
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    return (
        "Left, mean sparseness of each head's decisions (points, with standard errors over sequences) and that of "
        "random heads on the same tokens, their keys chosen anew (lines, with 95 % of them): of the head's singular "
        "values, and of those that the data see; filled points are sparser than either. Crosses: the common rotation, "
        "a diagnostic that any head of low rank falls below. Middle, where "
        "in the order of singular values contributions come from: mean of each layer, and the even share as a line. "
        "Right, how many singular vectors a decision needs by each rule: median and middle half of each head."
    )


def _draw_sparseness(ax: Axes, results: xr.Dataset) -> None:
    flat = results.stack(unit=PLACE)
    (S, error), x = sparser.mean_sparseness(flat), np.arange(flat.sizes["unit"])
    for null, colour, shift, label in (
        ("raw", COLOURS[1], -0.15, "random heads"),
        ("balanced", COLOURS[2], 0.15, "random heads, balanced"),
    ):
        here = flat.sel(null=null)
        ax.hlines(here.null_mean, x + shift - 0.2, x + shift + 0.2, color=colour, label=label)
        ax.vlines(x + shift, here.null_low, here.null_high, color=colour, alpha=0.4, linewidth=4)
    ax.plot(x, flat.null_mean.sel(null="common"), "x", color=GREY, markersize=4, label="common rotation")
    found = (flat.verdict == sparser.SPARSER).values
    measured(ax, x, S, error, markerfacecolor="white", label="head")
    measured(ax, x[found], S[found])
    heads = results.sizes["head"]
    if len(x) <= 40:
        ax.set_xticks(x, [f"{layer}.{head}" for layer, head in flat.unit.values], rotation=90, fontsize=8)
    else:
        ax.set_xticks(x[::heads], [str(layer) for layer in results.layer.values])
    ax.set(xlabel="layer.head" if len(x) <= 40 else "heads by layer", ylabel="mean sparseness S", ylim=(0, None))
    ax.set_title(f"{int(found.sum())} of {len(x)} heads sparser than random heads")
    ax.legend(loc="lower right", fontsize=8)


def _draw_ranks(ax: Axes, results: xr.Dataset) -> None:
    share, largest = results.contribution.mean("head"), results.largest.mean("head")
    ax.axhline(1 / results.sizes["pair"], color="black", label="even share")
    shown = results.layer.values[:: -(-results.sizes["layer"] // 6)]
    for layer, colour in zip(results.layer.values, layer_colours(results), strict=True):
        label = f"layer {layer}" if layer in shown else None
        measured(ax, results.pair, share.sel(layer=layer), color=colour, markersize=4, label=label)
        ax.plot(results.pair, largest.sel(layer=layer), "+", color=colour)
    ax.plot([], [], "+", color="black", label="is the largest term")
    ax.set(xlabel="rank k of the singular value", ylabel=r"share of $\sum_k |c_k|$, or of decisions", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize=8)


def _draw_counts(ax: Axes, results: xr.Dataset) -> None:
    flat = results["count"].stack(unit=PLACE)
    for i, rule in enumerate(PUBLISHED):
        low, middle, high = np.array([_quartiles(head) for head in flat.sel(rule=rule).transpose("unit", ...)]).T
        x = i + np.linspace(-0.3, 0.3, middle.size)
        measured(ax, x, middle, [middle - low, high - middle], color=COLOURS[i], markersize=4, alpha=0.6)
    labels = [
        f"{rule}\n{float(results['count'].sel(rule=rule).isnull().mean()):.0%} undefined".replace(", ", ",\n")
        for rule in PUBLISHED
    ]
    ax.set_xticks(range(len(labels)), labels, fontsize=8)
    ax.set(ylabel="singular vectors a decision needs", ylim=(0, None))
