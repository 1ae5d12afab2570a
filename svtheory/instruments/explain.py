"""What is each head for? Trained heads, predicted from what they read and from hypotheses about them (T16).

SOURCE is a bundle, or the folder of a model with --text. By default every head is held against what can be said of its
tokens and positions: that the key's token is the query's ("same token"), that the token before the key is ("previous
token": what induction looks for), that the key's token is the one that followed the query's when it last occurred, that
the key is the first of its sequence, or right before the query; and, with --numbers N, where tokens below N are
numbers, orders of these. --queries and --keys say at which positions: "7:11" are positions 7 to 10, "-1:" is the last.
Take as queries those where the head's decision matters. --features asks about the features of a dictionary in place of
tokens. FILE holds hypotheses of one's own (svtheory/instruments/hypothesis_files.py): templates, and features of
queries and keys.

Each hypothesis predicts the head up to one fitted number, training time. Its functional cosine, the correlation of
predicted and measured logits over independent draws of query and key, decides; the cosine of the weights also counts
directions that data never exercises, where a head keeps its initialisation. Queries are centred if the head has a query
bias that is not zero. A time marked as a bound could be any shorter, or longer, one. Rotary heads are read at offset 0:
what they make of distance by rotation is not seen.

Two questions, two comparisons, each with the hypothesis' own freedom, the best time and of a family the best member. Is
there anything? p is the share of random heads that the hypothesis explains as well: the head's whitened form, and the
head itself, turned at random on both sides; the larger share counts, times the number of hypotheses (Bonferroni),
adjusted over heads (Benjamini and Hochberg); random heads are drawn until it is settled which are at most 0.01. Is it
this? Templates with their columns, the key features, permuted are rivals, and so are the other hypotheses: a rival may
share structure with the truth, so a hypothesis is preferred by its margin over every rival. Intervals are percentiles
(95 %) over samples drawn again, queries and keys apart.

A grade says how far a hypothesis explains a head: "explained" if the lower end of its interval leaves at least 3/4 of
the logits' variance (the cosine's square) accounted for, p is at most 0.01 and the margin at least 0.2; "partly" if it
leaves 1/4, p is at most 0.01 and the margin and its lower end are above 0; else "unexplained". Beside it stands the
published baseline on the same samples, contrastive covariance: how many directions of the head's own space lead, and
the functional cosine of the head with what is left of it there, with that of as many random directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
import xarray as xr

from svtheory.checks import InputError, index
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.hypotheses import LARGEST, Hypothesis, feature_hypotheses, read_at, token_hypotheses
from svtheory.instruments.align import dictionary
from svtheory.instruments.explain_figure import caption, figure
from svtheory.instruments.explained import Question, explained
from svtheory.instruments.grades import EXPLAINED, PARTLY, best, foremost, sentence
from svtheory.instruments.hypothesis_files import Inputs, read_hypotheses
from svtheory.instruments.sources import Source
from svtheory.instruments.survey import PLACE, places
from svtheory.reports.options import Options, at_least

__all__ = ["DEFAULTS", "Request", "Settings", "caption", "figure", "requested", "rows", "summary", "survey"]

# what the queries of the public heads are, and their keys: see the README beside their bundles
INDUCTION = {"queries": "7:8", "keys": "1:7"}
PUBLIC = {
    **{f"induction_ft{steps}": INDUCTION for steps in ("000", "100", "300")},
    "sort5": {"queries": "7:11", "keys": "1:6", "numbers": 64},
}


@dataclass(frozen=True)
class Settings(Options):
    """Which heads and samples, and what p-values and intervals are made with."""

    layer: int | None = None
    """Layer of the heads; none is all of them."""
    head: int | None = None
    """The head; none is all of a layer."""
    queries: str | None = None
    """Positions of queries, first:end; none is all but the first."""
    keys: str | None = None
    """Positions of keys; none is all."""
    numbers: Annotated[int | None, at_least(2)] = None
    """How many tokens, from 0, are the numbers that they are called; none means that tokens are no numbers."""
    largest: Annotated[int, at_least(1)] = LARGEST
    """Most features of a hypothesis: the commonest tokens, the first positions, the most varied features."""
    centre_query: bool | None = None
    """Whether heads can centre their queries; none: those that have a query bias that is not zero."""
    draws: Annotated[int, at_least(19)] = 999
    """Random heads behind a p-value, at most, or as many as one head alone needs; and permuted templates."""
    resamples: Annotated[int, at_least(1)] = 40
    """Times that samples are drawn again, for intervals."""
    seed: int = 0
    """Seed of random heads, permutations and resamples."""


@dataclass(frozen=True)
class Request(Settings):
    """Settings, and where hypotheses of one's own are."""

    file: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="[FILE]")]] = ""
    """Features and templates, .npz or .safetensors; without it hypotheses about tokens."""
    features: str = ""
    """Dictionary, .npz or .safetensors, or the name of an array of the bundle, as for `align`; of one layer."""

    @property
    def label(self) -> str:
        """What the file or dictionary is called."""
        return "-".join(Path(name).stem for name in (self.file, self.features) if name)


DEFAULTS = Settings()


def requested(source: Source, settings: Request) -> xr.Dataset:
    """What the command asks for."""
    bundle = source.bundle()
    known = {name: x for name, x in PUBLIC.get(source.label, {}).items() if getattr(settings, name) is None}
    settings = replace(settings, **known)
    hypotheses, inputs = read_hypotheses(Path(settings.file)) if settings.file else (None, None)
    if settings.features:
        layer = _layer(bundle, settings)
        hypotheses = [*(hypotheses or ()), *of_features(bundle, dictionary(settings.features, bundle), layer, settings)]
        settings = replace(settings, layer=layer)
    return survey(bundle, hypotheses, settings, inputs).assign_attrs(bundle=source.label)


def survey(
    bundle: HeadBundle,
    hypotheses: Sequence[Hypothesis] | None = None,
    settings: Settings = DEFAULTS,
    inputs: Inputs | None = None,
) -> xr.Dataset:
    """Hold heads against hypotheses; without any, against those that can be said of the bundle's tokens.

    Samples are what attn_in has at the settings' queries and keys, sequence after sequence; or `inputs`, what W_Q and
    W_K of one layer read, (n, D) and (n', D'), by default the last one's.
    Raises InputError for a bundle without tokens or attn_in where they are needed, hypotheses of the same name or about
    other samples, and for heads or positions that are not there.
    """
    bundle.check_bilinear()
    queries, keys = _positions("queries", settings.queries, "1:"), _positions("keys", settings.keys, ":")
    if hypotheses is None:
        hypotheses = token_hypotheses(_tokens(bundle), queries, keys, _numbers(bundle, settings), settings.largest)
    if not hypotheses:
        raise InputError("hypotheses must be at least 1, got none that can be asked at these queries and keys")
    if inputs is not None:
        layers = {_layer(bundle, settings): inputs}
    else:
        read, chosen = _read(bundle), range(len(bundle.W_Q)) if settings.layer is None else [_layer(bundle, settings)]
        layers = {layer: (read_at(read[layer], queries), read_at(read[layer], keys)) for layer in chosen}
    count = bundle.W_Q.shape[1]
    heads = range(count) if settings.head is None else [index("head", settings.head, count)]
    centre = (
        bundle.query_bias if settings.centre_query is None else np.full_like(bundle.query_bias, settings.centre_query)
    )
    question = Question(bundle, list(hypotheses), layers, list(heads), centre)
    results = explained(question, jax.random.key(settings.seed), settings.draws, settings.resamples)
    return results.assign_attrs(bundle.metadata)


def of_features(bundle: HeadBundle, X: np.ndarray, layer: int, settings: Settings) -> list[Hypothesis]:
    """Hypotheses about the features of a dictionary (D, N), by the least coefficients `X^+ x` of what a layer reads."""
    queries, keys = _positions("queries", settings.queries, "1:"), _positions("keys", settings.keys, ":")
    values = _read(bundle)[layer] @ np.linalg.pinv(X.astype(np.float32)).T
    return feature_hypotheses(values, queries, keys, settings.largest)


def _layer(bundle: HeadBundle, settings: Settings) -> int:
    count = len(bundle.W_Q)
    return index("layer", count - 1 if settings.layer is None else settings.layer, count)


def _positions(name: str, given: str | None, default: str) -> slice:
    parts = (default if given is None else given).split(":")
    try:
        first, end = (int(part) if part.strip() else None for part in parts)
    except ValueError:
        raise InputError(f"{name} must be positions first:end, such as 1: or 7:11, got {given!r}") from None
    return slice(first, end)


def _read(bundle: HeadBundle) -> np.ndarray:
    if bundle.attn_in is None:
        raise InputError("bundle must hold attn_in, what its heads read, got one without")
    return bundle.attn_in


def _tokens(bundle: HeadBundle) -> np.ndarray:
    """The tokens of the sequences that attn_in has."""
    read, tokens = _read(bundle), bundle.others.get("tokens")
    if tokens is None:
        raise InputError("bundle must hold tokens for hypotheses about them, got one without: give hypotheses")
    if tokens.shape != read.shape[1:3]:
        raise InputError(f"tokens must have shape {read.shape[1:3]}, as attn_in has positions, got {tokens.shape}")
    return tokens


def _numbers(bundle: HeadBundle, settings: Settings) -> np.ndarray | None:
    if settings.numbers is None:
        return None
    size = max(settings.numbers, int(_tokens(bundle).max()) + 1)
    return np.where(np.arange(size) < settings.numbers, np.arange(size, dtype=float), np.nan)


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row for each head, with its best hypothesis; of a single head, for each hypothesis."""
    if results.sizes["layer"] * results.sizes["head"] > 1:
        return [_row(here) for here in places(best(results), *PLACE)]
    return [_row(here) for here in places(results, *PLACE, "hypothesis")]


def _row(here: xr.Dataset) -> dict[str, Any]:
    cosine, chance = float(here.contrast_cosine), float(here.contrast_chance_highest)
    return {
        **{name: here[name].item() for name in PLACE},
        "hypothesis": here.hypothesis.item(),
        "grade": here.grade.item(),
        "functional cosine": _with_interval(here.functional_cosine, here.lowest, here.highest),
        "margin": _with_interval(here.margin, here.margin_lowest, here.margin_highest),
        "over": here.nearest_rival.item(),
        "p": float(here.adjusted_p_value),
        "random, highest": float(here.null.max()),
        "member": _with_interval(here.member, here.first_member, here.last_member),
        "training time": _time(here),
        "not visited": f"{float(here.unvisited):.1%}",
        "contrast": f"{cosine:.2f} of {int(here.contrast_size)} (chance to {chance:.2f})",
    }


def _with_interval(x: xr.DataArray, low: xr.DataArray, high: xr.DataArray) -> str:
    return "-" if np.isnan(x) else f"{float(x):.3g} ({float(low):.3g} to {float(high):.3g})"


def _time(here: xr.Dataset) -> str:
    """The fitted time, and whether it is only a bound."""
    upper, lower = bool(here.time_upper_bound), bool(here.time_lower_bound)
    return "any" if upper and lower else f"{'≤ ' if upper else '≥ ' if lower else ''}{float(here.time):.3g}"


def summary(results: xr.Dataset) -> dict[str, Any]:
    """How many heads are explained, and the best of them."""
    found = best(results)
    top = foremost(found)
    counts = {word: int((found.grade == word).sum()) for word in (EXPLAINED, PARTLY)}
    return {
        "heads": found.grade.size,
        "hypotheses": results.sizes["hypothesis"],
        "heads_explained": counts[EXPLAINED],
        "heads_partly_explained": counts[PARTLY],
        "heads_unexplained": found.grade.size - sum(counts.values()),
        "best_layer": int(top.layer),
        "best_head": int(top["head"]),
        "best_verdict": sentence(top),
        "best_hypothesis": top.hypothesis.item(),
        "best_grade": top.grade.item(),
        **{
            f"best_{name}": float(top[name])
            for name in ("functional_cosine", "lowest", "highest", "margin", "margin_lowest", "member", "weight_cosine")
            if top[name].notnull()
        },
        "best_p_value": float(top.p_value),
        "best_p_value_for_all_hypotheses": float(top.p_value_for_all),
        "best_p_value_adjusted": float(top.adjusted_p_value),
        "best_rank": int(top["rank"]),
        "best_training_time": float(top.time),
        "best_weights_never_exercised_share": float(top.unvisited),
        "best_contrastive_covariance_cosine": float(top.contrast_cosine),
        "best_contrastive_covariance_chance_cosine": float(top.contrast_chance),
        "random_heads_most": int(results.draws.max()),
        **{
            f"best_{side}_mode_{k}_{name}": float(top[name].sel(side=side, mode=k))
            for name in ("pattern_cosine", "pattern_chance_cosine", "seen_cosine")
            for side in results.side.values
            for k in results.mode.values
        },
    }
