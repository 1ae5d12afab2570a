"""What does a head look for, and what does it write? Its modes by the tokens in context that move them most.

Of every head the first blocks of near-equal values, read raw and balanced (T22; almost always single modes), with, on
the query's and the key's side, the tokens in context of the largest and of the smallest coordinate. The top ends of
both sides of a mode belong together, as do the bottom ends; top with bottom lowers the score. A block of several modes
has lengths, and no bottom. Balanced, coordinates are in standard deviations. Tokens are taken less their mean on a side
that is read so (T6). Rotary heads are read at offset 0, heads with query-key norms by the tokens that each rescales for
itself (T23). --queries and --keys read tokens at some positions alone, --heads some heads.

"of variance" is a block's share of the sum of squared values: balanced, of the variance of scores over independent
tokens, raw, over isotropic ones. "of decisions" is the share of decisions, the key that a query attends most, that are
another key once the block's terms are taken from all scores, at their true positions.

Where the model's weights are at hand (a folder, or a bundle that holds them all, docs/bundles.md), the embeddings
nearest to a pattern stand beside it, as the head reads them, less their mean where the side is. What the head writes is
read too: the principal axes of `W_O W_V s` over tokens s, less their mean, a token counting as much as all queries
attend to it. Beside each axis stand the attended tokens that move it most, and the tokens of the vocabulary whose
logits it raises and lowers most by a standard deviation, before the scale of the final norm. --features is a
dictionary, compared as by `align`.

Chance levels: of embeddings and features, the largest |cos| of any with a random pattern, balanced one of the same
moments as the tokens, raw an isotropic one, the mean of 32; of logits, the largest of an isotropic direction of the
same length. What is at or below its chance level names nothing.

>>> import numpy as np
>>> from svtheory import HeadBundle
>>> W_Q, W_K, tokens = (np.random.default_rng(0).normal(size=s) for s in ((1, 1, 2, 3), (1, 1, 2, 3), (1, 3, 4, 3)))
>>> found = survey(HeadBundle(W_Q, W_K, attn_in=tokens))
>>> dict(found.coordinate.isel(layer=0, head=0).sizes)
{'reading': 2, 'mode': 2, 'side': 2, 'end': 2, 'context': 10}
>>> found.attrs["left_out"].partition(":")[0]
'What heads write and embeddings are left out'
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro
import xarray as xr
from tokenizers import Tokenizer

from svtheory.checkpoints.attention_only import network
from svtheory.checkpoints.networks import Network
from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.instruments.asking import span
from svtheory.instruments.dictionaries import Place, dictionary, named, taken_for
from svtheory.instruments.labels import SCORE, Labels, labelled, of_file
from svtheory.instruments.readout_figure import caption, figure
from svtheory.instruments.sources import SEQUENCES, Source
from svtheory.instruments.spelled import AROUND, marked, spelled, tokenizer_of
from svtheory.instruments.survey import PLACE, by_head, check_room, chosen_heads, median_of, places, read_inputs
from svtheory.instruments.surveyed_modes import Wanted, surveyed
from svtheory.reports.options import Options, at_least

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

SHOWN = 3
"""Contexts and tokens that a row names."""
WORD = 16
"""Numbers that the text of a token takes up, about."""
NARROW = 1
"""Tokens on either side of a marked one in a terminal."""
COLUMNS = {
    "of variance": "Share of the variance of scores that the first balanced mode carries.",
    "of decisions": "Share of decisions that are another key without it.",
    "query": "Tokens in context that move it most, on the query's side, the token in «».",
    "key": "The same on the key's side: they are what such queries attend to.",
    "query, other end": "The tokens that move it most the other way.",
    "key, other end": "The same on the key's side, what queries of that other end attend to.",
    "embedding, query": "Nearest embedding of that side's pattern, its cosine, and the largest that chance gives.",
    "embedding, key": "The same on the key's side.",
    "feature, query": "Nearest feature of that side's pattern, its cosine, and the largest that chance gives.",
    "feature, key": "The same on the key's side.",
    "reads to write": "Attended tokens that move most what is written, along the first axis of it.",
    "writes": "Tokens whose logits this raises most, of those above chance.",
    "writes least": "Tokens whose logits it lowers most, of those above chance.",
}
LOGIT = "logit before the scale of the final norm"
DEVIATION = "standard deviations; raw, of unit vectors"
VARIABLES: Labels = {
    "mode": "mode, or block of near-equal ones, 1 of the largest value",
    "end": "largest coordinates, or smallest; the top ends of both sides belong together",
    "value": ("singular value, of a block the root of the sum of squares", SCORE),
    "first_pair": "first singular pair of the mode, 0 of none",
    "last_pair": "last singular pair of the mode, 0 of none",
    "variance_share": "share of the sum of squared values",
    "decision_share": "share of decisions that are another key without the mode's terms",
    "decisions": ("queries that see another key, -1 of a head that is not read", "decisions"),
    "probe": ("direction along which tokens have the mode's coordinate", "1 / length of a token"),
    "context_sequence": "sequence of a token that moves the mode, -1 of none",
    "context_position": "position of a token that moves the mode, -1 of none",
    "coordinate": ("its coordinate; of a block the length", DEVIATION),
    "embedding_token": "token of the vocabulary nearest to the pattern, -1 of none",
    "embedding_cosine": "cosine of its embedding and the pattern",
    "embedding_chance": "largest |cosine| of any embedding with a random pattern",
    "embedding_piece": "text of the nearest token",
    "feature_index": "feature of the dictionary nearest to the pattern, -1 of none",
    "feature_cosine": "cosine of that feature and the pattern",
    "feature_chance": "largest |cosine| of any feature with a random pattern",
    "token": "token at a position, -1 of padding",
    "piece": "text of the token at a position",
    "ov_value": ("standard deviation of what attended tokens write along an axis", "length in the residual stream"),
    "ov_first_pair": "first axis of what is written that is of the mode, 0 of none",
    "ov_last_pair": "last axis of what is written that is of the mode, 0 of none",
    "ov_variance_share": "share of the variance of what attended tokens write",
    "ov_context_sequence": "sequence of an attended token that moves what is written, -1 of none",
    "ov_context_position": "position of an attended token that moves what is written, -1 of none",
    "ov_coordinate": ("its coordinate; of a block the length", "standard deviations"),
    "ov_embedding_token": "token of the vocabulary nearest to the pattern that is copied, -1 of none",
    "ov_embedding_cosine": "cosine of its embedding and that pattern",
    "ov_embedding_chance": "largest |cosine| of any embedding with a random pattern",
    "ov_embedding_piece": "text of that token",
    "ov_written_token": "token whose logit is raised most, or lowered, -1 of none",
    "ov_logit": ("logit that a standard deviation adds to it, less the mean over tokens", LOGIT),
    "ov_logit_chance": ("largest logit of any token that a random direction of that length adds", LOGIT),
    "ov_written_piece": "text of that token",
}


@dataclass(frozen=True)
class Settings(Options):
    """Which heads are read, and what is kept of each."""

    modes: Annotated[int, at_least(1)] = 5
    """Modes of each head, or blocks of near-equal ones."""
    contexts: Annotated[int, at_least(1)] = 10
    """Tokens in context at each end of a mode."""
    nearest: Annotated[int, at_least(1)] = 5
    """Embeddings, features and written tokens at each end."""
    queries: str | None = None
    """Positions of queries, first:end, of each sequence's own tokens; none is all."""
    keys: str | None = None
    """Positions of keys that are read; queries attend to all. None is all."""
    seed: int = 0
    """Seed of the random directions behind chance levels."""
    heads: tuple[str, ...] = ()
    """Heads that are read, each as LAYER.HEAD; none: all."""


@dataclass(frozen=True)
class Request(Place, Settings):
    """Settings, and where a dictionary is."""

    features: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """Dictionary, a file, a folder or hf:ORG/REPO/PATH@REVISION, or the name of an array of the bundle; none: none."""

    @property
    def label(self) -> str:
        """What the dictionary is called."""
        return named(self.features) if self.features else ""


DEFAULTS = Settings()


def requested(source: Source, settings: Request) -> xr.Dataset:
    """What the command asks for."""
    bundle = source.bundle(reads=True, sequences=SEQUENCES)
    model, why = _known(lambda: source.network(bundle))
    given = dictionary(settings.features, bundle, settings) if settings.features else None
    columns = None if given is None else given.features
    results = _survey(bundle, model, why, settings, columns, None).assign_attrs(bundle=source.label)
    return results if given is None else results.assign_attrs(features=settings.label, taken_for=taken_for(given))


def survey(
    bundle: HeadBundle,
    model: Network | None = None,
    settings: Settings = DEFAULTS,
    *,
    features: np.ndarray | None = None,
    tokenizer: Tokenizer | None = None,
) -> xr.Dataset:
    """Read the first modes of every head of a bundle that holds what its heads read, and what these write.

    Of some heads alone, `settings.heads`, of which there are the layers and the heads, NaN or -1 where these meet in
    one that is not read.
    `model` has the weights that heads write with, embeddings and unembedding; None is the bundle's own model where it
    holds all its weights (`checkpoints.network`), and these parts are left out where it does not. features (D, N),
    columns in what heads read, in any precision. The tokenizer is that of the model's folder where none is given.
    Raises InputError for a bundle without attn_in or with a single position, features of another width, heads that are
    not there, and more that is kept than there is room for.
    """
    found, why = (model, "") if model is not None else _known(lambda: network(bundle))
    return _survey(bundle, found, why, settings, features, tokenizer)


def _known(find: Callable[[], Network]) -> tuple[Network | None, str]:
    """The network, or None and why there is none."""
    try:
        return find(), ""
    except InputError as error:
        return None, str(error)


def _survey(
    bundle: HeadBundle,
    model: Network | None,
    why: str,
    settings: Settings,
    features: np.ndarray | None,
    tokenizer: Tokenizer | None,
) -> xr.Dataset:
    """The survey; `why` says why there is no model."""
    if features is not None and (features.ndim != 2 or len(features) != bundle.W_Q.shape[-1]):
        raise InputError(f"features must have {bundle.W_Q.shape[-1]} rows, as heads have inputs, got {features.shape}")
    read_inputs(bundle)
    asked = np.stack([_asked(bundle, side, getattr(settings, side)) for side in ("queries", "keys")])
    heads = chosen_heads("--heads", settings.heads, bundle)
    wanted = Wanted(heads, asked, settings.modes, settings.contexts, settings.nearest, settings.seed)
    _check_room(wanted, bundle.W_Q.shape)
    found = surveyed(bundle, model, features, wanted).assign_attrs(of_file(bundle.metadata))
    if model is None:
        found.attrs["left_out"] = f"What heads write and embeddings are left out: {why}"
    found = spelled(found, bundle, tokenizer_of(model) if tokenizer is None else tokenizer)
    return labelled(found, VARIABLES)


def _check_room(wanted: Wanted, shape: tuple[int, ...]) -> None:
    """Raise InputError where there is no room for all ends of all modes, in each reading and on each side."""
    layers, heads = (len(set(places)) for places in zip(*wanted.heads, strict=True))
    ends = 8 * layers * heads * min(wanted.modes, *shape[2:])
    check_room("--contexts", f"contexts at {ends} ends", 3 * ends * wanted.contexts)
    check_room("--nearest", f"names at {ends} ends", WORD * ends * wanted.near)


def _asked(bundle: HeadBundle, name: str, given: str | None) -> np.ndarray:
    """Which tokens (sequences, positions) stand at the given positions of their sequences."""
    where, asked = span(name, given, ":"), np.zeros_like(bundle.real)
    for row, count in zip(asked, bundle.real.sum(axis=1).tolist(), strict=True):
        row[list(range(count)[where])] = True
    if not asked.any():
        raise InputError(f"{name} must be positions that some sequence has, got {given!r}")
    return asked


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a head: its first balanced mode, and the first axis of what it writes."""
    return _rows(results, AROUND)


def brief(results: xr.Dataset) -> list[dict[str, Any]]:
    """The columns that answer, the heads whose first mode makes most decisions first."""
    every = _rows(results, NARROW)
    order = np.argsort([-row["of decisions"] for row in every], kind="stable")
    return by_head([every[i] for i in order], "of variance", "of decisions", "query", "key", "writes")


def answers(results: xr.Dataset) -> list[str]:
    """What first modes carry, how many are near an embedding or a feature, of what these are, and what is left out."""
    found = summary(results)
    if np.isnan(found["first_mode_variance_share_median"]):
        return [f"None of the {found['heads']} heads has a mode: all are numerically zero.", *_left_out(results)]
    said = [
        f"The first balanced mode carries {found['first_mode_variance_share_median']:.0%} of the variance of scores "
        f"and {found['first_mode_decision_share_median']:.0%} of decisions{median_of(found['heads'], 'the medians')}; "
        f"raw, {found['raw_first_mode_variance_share_median']:.0%} and "
        f"{found['raw_first_mode_decision_share_median']:.0%}."
    ]
    for kind, one in (("embedding", "an embedding"), ("feature", "a feature")):
        if f"patterns_near_{kind}s" in found:
            # chance levels are means over random patterns, of which about half lie nearer
            said.append(
                f"{found[f'patterns_near_{kind}s']} of {found['first_patterns']} patterns of first modes lie nearer to "
                f"{one} than a random pattern does (about {found['first_patterns'] // 2} by chance)."
            )
    said += [results.attrs[name] for name in ("taken_for",) if name in results.attrs]
    return said + _left_out(results)


def carries(here: xr.Dataset) -> str:
    """What the first balanced mode of one head carries."""
    first = here.sel(reading="balanced", mode=1)
    if first.value.isnull():
        return "It has no mode: it is numerically zero."
    return (
        f"Its first balanced mode carries {float(first.variance_share):.0%} of the variance of scores; "
        f"{float(first.decision_share):.0%} of decisions are another key without it."
    )


def writes(here: xr.Dataset) -> str:
    """The tokens whose logits the first axis of what one head writes raises most, of those above chance."""
    first = here.sel(reading="balanced", mode=1).drop_vars("probe")
    if first.ov_value.isnull():
        return "It writes nothing."
    axis = f"The first axis of what it writes, {float(first.ov_variance_share):.0%} of the variance, raises"
    names = _written(_arrays(first), 0)
    return f"{axis} no token's logit above chance." if names == "-" else f"{axis} the logits of {names} most."


def _left_out(results: xr.Dataset) -> list[str]:
    return [results.attrs["left_out"]] if "left_out" in results.attrs else []


def _rows(results: xr.Dataset, around: int) -> list[dict[str, Any]]:
    """Rows with so many tokens on either side of those that are marked."""
    first = results.drop_vars("probe").sel(reading="balanced", mode=1)
    return [_row(results, head, around) for head in places(first, *PLACE) if int(head.decisions) >= 0]


def _row(results: xr.Dataset, head: xr.Dataset, around: int) -> dict[str, Any]:
    here = _arrays(head)
    row = {
        **{name: head[name].item() for name in PLACE},
        "of variance": float(here["variance_share"]),
        "of decisions": float(here["decision_share"]),
    }
    sides = list(enumerate(results.side.values))
    for end, more in enumerate(("", ", other end")):
        for i, side in sides:
            at = here["context_sequence"][i, end], here["context_position"][i, end]
            row[f"{side}{more}"] = _contexts(results, *at, around)
    for kind in ("embedding", "feature"):
        for i, side in sides if f"{kind}_cosine" in here else ():
            row[f"{kind}, {side}"] = _nearest(here, kind, i)
    if "ov_value" in here:
        at = here["ov_context_sequence"][0], here["ov_context_position"][0]
        row["reads to write"] = _contexts(results, *at, around)
    if "ov_written_token" in here:
        row |= {"writes": _written(here, 0), "writes least": _written(here, 1)}
    return row


def _contexts(results: xr.Dataset, sequences: np.ndarray, positions: np.ndarray, around: int) -> str:
    """The first contexts, each token marked in what stands around it."""
    chosen = zip(sequences[:SHOWN].tolist(), positions[:SHOWN].tolist(), strict=True)
    return " | ".join(marked(results, s, p, around) for s, p in chosen if s >= 0) or "-"


def _nearest(here: dict[str, np.ndarray], kind: str, side: int) -> str:
    """The nearest embedding or feature at either end, its cosine and that of chance."""
    cosines = np.nan_to_num(here[f"{kind}_cosine"][side, :, 0])
    end = int(np.abs(cosines).argmax())
    names = next(here[name] for name in (f"{kind}_piece", f"{kind}_token", f"{kind}_index") if name in here)
    return f"{names[side, end, 0].item()!r}: {cosines[end]:.2f} (chance {here[f'{kind}_chance'][side]:.2f})"


def _written(here: dict[str, np.ndarray], end: int) -> str:
    """The tokens at one end of what is written, of each question, that are above chance."""
    names = here["ov_written_piece" if "ov_written_piece" in here else "ov_written_token"][:, end, :SHOWN]
    above = np.abs(here["ov_logit"][:, end, :SHOWN]) > here["ov_logit_chance"][:, None]
    return "; ".join(", ".join(map(repr, x[k].tolist())) for x, k in zip(names, above, strict=True) if k.any()) or "-"


def _arrays(head: xr.Dataset) -> dict[str, np.ndarray]:
    """What is found of one head, of axes side, end and context or near, in this order."""
    return {str(name): x.values for name, x in head.items()}


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures of first modes."""
    decisions = results.decisions.values[results.decisions.values >= 0]
    found: dict[str, Any] = {"heads": decisions.size, "decisions": int(decisions.sum())}
    for reading in results.reading.values:
        here, of = results.sel(reading=reading, mode=1), "" if reading == "balanced" else f"{reading}_"
        for name in ("variance_share", "decision_share"):
            found[f"{of}first_mode_{name}_median"] = float(here[name].median())
    first = results.sel(reading="balanced", mode=1)
    found["first_patterns"] = 2 * found["heads"]
    for kind in ("embedding", "feature"):
        if f"{kind}_cosine" in first:
            largest = abs(first[f"{kind}_cosine"]).isel(near=0).max("end")
            found[f"patterns_near_{kind}s"] = int((largest > first[f"{kind}_chance"]).sum())
            found[f"{kind}_cosine_of_first_patterns_mean"] = float(largest.mean())
            found[f"{kind}_chance_cosine_mean"] = float(first[f"{kind}_chance"].mean())
    if "ov_value" in first:
        found["first_written_axis_variance_share_median"] = float(first.ov_variance_share.median())
    return found
