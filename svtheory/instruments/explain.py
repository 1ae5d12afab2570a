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
what they make of distance by rotation is not seen. Heads that normalise their queries and keys are read by the tokens
that each rescales for itself (T23), and predicted as if those sizes had stood fixed in training.

Two questions, two comparisons, each with the hypothesis' own freedom, the best time and of a family the best member. Is
there anything? p is the share of random heads that the hypothesis explains as well: the head's whitened form, and the
head itself, turned at random on both sides; the larger share counts, times the number of hypotheses (Bonferroni),
adjusted over heads (Benjamini and Hochberg); random heads are drawn until it is settled which are at most 0.01. Is it
this? Templates with their columns, the key features, permuted are rivals, and so are the other hypotheses: a rival may
share structure with the truth, so a hypothesis is preferred by its margin over every rival. Intervals are percentiles
(95 %) over samples drawn again, queries and keys apart; of these fewer are different ones, so that an interval may lie
below the cosine where samples are few for their dimension: then it is headed "drawn again".

A grade says how far a hypothesis explains a head: "explained" if the lower end of its interval leaves at least 3/4 of
the logits' variance (the cosine's square) accounted for, p is at most 0.01 and the margin at least 0.2; "partly" if it
leaves 1/4, p is at most 0.01 and the margin and its lower end are above 0; else "unexplained". Beside it stands the
published baseline on the same samples, contrastive covariance: how many directions of the head's own space lead, and
the functional cosine of the head with what is left of it there, with that of as many random directions.

Which vectors carry a head? Of its modes as the data see them (T22) those that have 90 % of the variance of its scores,
and of the singular pairs of Omega those whose terms do. Their overlap is the share of them inside the span of as many
of the prediction's own as carry 90 % of that, weighted by the variance of each; that of random vectors, the span's
dimension over that of what heads read, is chance. The first two modes stand beside those predicted one by one:
pattern_cosine is the |cos| of what in a token moves the mode, beside the mean of random modes, and seen_cosine that of
the modes in whitened tokens, which no strong direction of the tokens can make alike. Near-equal values mix modes: then
the span is meant, not a mode.
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
from svtheory.heads.hypotheses import ASKED, Hypothesis, feature_hypotheses
from svtheory.instruments import carried
from svtheory.instruments.asking import Asking, chosen_layer, of_tokens, positions, read_as, samples_of
from svtheory.instruments.dictionaries import Place, dictionary, named
from svtheory.instruments.explain_figure import caption, figure
from svtheory.instruments.explained import VARIABLES, Question, explained
from svtheory.instruments.grades import (
    EXPLAINED,
    PARTLY,
    UNEXPLAINED,
    best,
    foremost,
    sentence,
    with_interval,
    worth,
)
from svtheory.instruments.hypothesis_files import Inputs, read_hypotheses
from svtheory.instruments.sources import Source
from svtheory.instruments.survey import PLACE, by_head, called, listed, places, read_inputs
from svtheory.reports.options import at_least
from svtheory.reports.tables import at_most

__all__ = [
    "COLUMNS",
    "DEFAULTS",
    "VARIABLES",
    "Request",
    "Settings",
    "answers",
    "brief",
    "caption",
    "figure",
    "requested",
    "rows",
    "summary",
    "survey",
]
COLUMNS = {
    "hypothesis": "Of those asked the one that explains the head best: what a query attends to. "
    + "; ".join(f'"{name}": {asked}' for name, asked in ASKED.items())
    + ".",
    "grade": "Explained: at least 3/4 of the logits' variance accounted for, at the interval's lower end, p at most "
    "0.01, and a margin of at least 0.2. Partly: at least 1/4, p at most 0.01, ahead of every rival. Else unexplained.",
    "functional cosine": "Correlation of predicted and measured logits over independent draws of query and key, with "
    "its 95 % interval, over samples drawn again; said so where that does not hold it, as fewer samples are different.",
    "margin": "Lead of that cosine over the best rival.",
    "best rival": "What comes nearest after it: permuted templates, or another hypothesis.",
    "p": "Share of random heads that the hypothesis explains as well, times the number of hypotheses, adjusted for all "
    "heads. With ≤, draws ended once verdicts were settled: it may be less.",
    "random, highest": "The best functional cosine of the first 99 random heads.",
    "best parameter": "Of a hypothesis that is a family the parameter that fits best, such as the length over which a "
    "preference for nearer numbers falls.",
    "training time": "Fitted, in units of 1 / (learning rate x mean eigenvalues of both input moments).",
    "weights unread": "Share of the weights' square in directions that no token has anything along.",
    "modes": "The fewest modes of the head as its data see it, 1 the largest, that carry 90 % of the variance of its "
    "scores, and what they carry; how much of them lies in the span that the hypothesis predicts, of queries and of "
    "keys, from 0 to 1, beside random vectors. Of heads that are explained, if only partly, or nearest to it.",
    "raw vectors": "The same of the singular pairs of Omega itself; their terms' variances need not add up.",
    "contrastive covariance": "Functional cosine with what is left of the head in the few leading directions of its "
    "own space that contrastive covariance, the published baseline, finds, how many these are, and the 97.5th "
    "percentile of as many random ones.",
}
MENTIONED = 8  # heads that a sentence is said of, at most


@dataclass(frozen=True)
class Settings(Asking):
    """Which heads and samples, and what p-values and intervals are made with.

    Without a layer all heads are read; with a FILE of inputs, or a dictionary, those of the last layer.
    """

    head: int | None = None
    """The head; none is all of a layer."""
    largest: Annotated[int, at_least(1)] = 256
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
class Request(Place, Settings):
    """Settings, and where hypotheses of one's own are."""

    file: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="[FILE]")]] = ""
    """Features and templates, .npz or .safetensors; without it hypotheses about tokens."""
    features: str = ""
    """Dictionary, or the name of an array of the bundle, as for `align`; of one layer."""

    @property
    def label(self) -> str:
        """What the file or dictionary is called."""
        return "-".join([Path(self.file).stem] * bool(self.file) + [named(self.features)] * bool(self.features))


DEFAULTS = Settings()


def requested(source: Source, settings: Request) -> xr.Dataset:
    """What the command asks for."""
    bundle = source.bundle()
    settings = replace(settings, **read_as(source.label, settings))
    hypotheses, inputs = read_hypotheses(Path(settings.file)) if settings.file else (None, None)
    if settings.features:
        layer = chosen_layer(bundle, settings)
        X = dictionary(settings.features, bundle, settings).features
        hypotheses = [*(hypotheses or ()), *of_features(bundle, X, layer, settings)]
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

    >>> from svtheory import load_heads
    >>> results = survey(load_heads("induction_ft000.safetensors"), settings=Settings(queries="-1:"))  # doctest: +SKIP
    >>> results.grade.sel(hypothesis="previous token").to_dataframe()  # doctest: +SKIP
    """
    hypotheses = of_tokens(bundle, settings, settings.largest) if hypotheses is None else list(hypotheses)
    if not hypotheses:
        raise InputError("hypotheses must be at least 1, got none that can be asked at these queries and keys")
    if inputs is not None:
        layers = {chosen_layer(bundle, settings): inputs}
    else:
        all_layers = settings.layer is None
        chosen = range(len(bundle.W_Q)) if all_layers else [chosen_layer(bundle, settings)]
        layers = {layer: samples_of(bundle, layer, settings) for layer in chosen}
    count = bundle.W_Q.shape[1]
    heads = range(count) if settings.head is None else [index("head", settings.head, count)]
    centre = (
        bundle.query_bias if settings.centre_query is None else np.full_like(bundle.query_bias, settings.centre_query)
    )
    question = Question(bundle, hypotheses, layers, list(heads), centre)
    results = explained(question, jax.random.key(settings.seed), settings.draws, settings.resamples)
    return results.assign_attrs(bundle.metadata)


def of_features(bundle: HeadBundle, X: np.ndarray, layer: int, settings: Settings) -> list[Hypothesis]:
    """Hypotheses about the features of a dictionary (D, N), by the least coefficients `X^+ x` of what a layer reads."""
    values = read_inputs(bundle)[layer] @ np.linalg.pinv(X.astype(np.float32)).T
    return feature_hypotheses(values, *positions(settings), settings.largest, bundle.mask)


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row for each head, with its best hypothesis; of a single head, for each hypothesis."""
    return [_row(here) for here in _shown(results)]


def brief(results: xr.Dataset) -> list[dict[str, Any]]:
    """The columns that answer, the best explained first."""
    shown = [(float(worth(here)), _row(here)) for here in _shown(results)]
    ordered = [row for _, row in sorted(shown, key=lambda x: -x[0])]
    return by_head(ordered, "hypothesis", "grade", "functional cosine", "p")


def answers(results: xr.Dataset) -> list[str]:
    """How many heads are explained, and by what: those that are, or the one that is nearest to it."""
    found = best(results)
    counts = {word: int((found.grade == word).sum()) for word in (EXPLAINED, PARTLY)}
    heads = sorted(places(found, *PLACE), key=lambda here: -float(worth(here)))
    explained = [here for here in heads if here.grade.item() != UNEXPLAINED]
    said = [
        f"{counts[EXPLAINED]} of {len(heads)} heads are explained by a hypothesis, {counts[PARTLY]} partly.",
    ]
    for here in explained[:MENTIONED] or heads[:1]:
        said.append(f"Head {called(here)} is {sentence(here)}.")
        if carried.compared(here):
            said.append(f"It is {carried.sentence(here)}.")
    for here in places(results, "hypothesis"):
        if not here.asked.all():
            said.append(
                f'"{here.hypothesis.item()}" is not asked where it says the same for all queries, of heads with a '
                f"query bias, or of all keys: what these have in common is taken out{listed(~here.asked)}."
            )
    return said


def _shown(results: xr.Dataset) -> list[xr.Dataset]:
    """Each head with its best hypothesis; a single head with each hypothesis."""
    if results.sizes["layer"] * results.sizes["head"] > 1:
        return list(places(best(results), *PLACE))
    own = results.hypothesis == best(results).hypothesis  # modes were compared with that alone
    return list(places(results.assign(variance_share=results.variance_share.where(own)), *PLACE, "hypothesis"))


def _row(here: xr.Dataset) -> dict[str, Any]:
    cosine, chance = float(here.contrast_cosine), float(here.contrast_chance_highest)
    return {
        **{name: here[name].item() for name in PLACE},
        "hypothesis": here.hypothesis.item(),
        "grade": here.grade.item(),
        "functional cosine": _with_interval(here.functional_cosine.where(here.asked), here.lowest, here.highest),
        "margin": _with_interval(here.margin, here.margin_lowest, here.margin_highest),
        "best rival": here.nearest_rival.item(),
        "p": _p(here),
        "random, highest": float(here.null.max()),
        "best parameter": _with_interval(here.member, here.first_member, here.last_member),
        "training time": _time(here),
        "weights unread": f"{float(here.unvisited):.1%}",
        "modes": carried.short(here, "balanced"),
        "raw vectors": carried.short(here, "raw"),
        "contrastive covariance": f"{cosine:.2f} of {int(here.contrast_size)} (chance to {chance:.2f})",
    }


def _p(here: xr.Dataset) -> str:
    if not here.asked:
        return "not asked"
    return at_most(float(here.adjusted_p_value), float(here.adjusted_p_value_least), int(here.draws))


def _with_interval(x: xr.DataArray, low: xr.DataArray, high: xr.DataArray) -> str:
    return "-" if np.isnan(x) else with_interval(x, low, high)


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
            f"best_{reading}_{side}_{name}": float(top[name].sel(side=side, reading=reading))
            for name in ("span_overlap", "span_chance")
            for reading in results.reading.values
            for side in results.side.values
        },
        **{
            f"best_{side}_mode_{k}_{name}": float(top[name].sel(side=side, mode=k))
            for name in ("pattern_cosine", "pattern_chance_cosine", "seen_cosine")
            for side in results.side.values
            for k in results.mode.values
        },
    }
