"""Page: all heads of a model on one page that needs no network, each with what it reads, writes and attends to.

SOURCE is a bundle, or the folder of a model with --text. The page is one HTML file, report.html in the run's folder: a
table of all heads that can be sorted, and for each head its spectrum, raw and as its data see it, what moves its modes
and what it writes (readout), its attention to the first sequences, its decisions there as sums over what wrote to them
(trace), what removing its directions does (cause), and the hypotheses about it. What cannot be said of this source
stands there in a sentence. It opens without a network and asks for nothing.

Every number is one of an instrument's dataset, and beside it stands the call that finds it; results.nc holds these
datasets as groups. Some instruments look less far here than alone, so that a model of 144 heads takes minutes: fewer
random heads (--draws), permuted templates (--permuted) and samples drawn again (--resamples); hypotheses about wide
heads are asked of few sequences (--asked); directions are removed of a folder's heads that are named (--causes).

How many modes are enough for 90 % is said by squares of singular values: raw, of the head's matrix, and balanced, where
the square of a value is the variance of that mode's part of a score (T22).

>>> import numpy as np
>>> from svtheory import HeadBundle
>>> W_Q, W_K = np.random.default_rng(0).normal(size=(2, 1, 2, 4, 8))
>>> found = survey(HeadBundle(W_Q, W_K))
>>> list(found.children), found.attrs["without_sad"]
(['spectra'], 'bundle must hold attn_in, what its heads read, got one without')
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import numpy as np
import tyro
import xarray as xr
from matplotlib.figure import Figure

from svtheory.checkpoints.networks import Network
from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.instruments import attended, cause, explain, readout, sad, spectra, trace
from svtheory.instruments.asking import Where, positions, read_as
from svtheory.instruments.attended import VARIABLES
from svtheory.instruments.dictionaries import Place, dictionary
from svtheory.instruments.paged import (
    ANSWERING,
    COLUMNS,
    INSTRUMENTS,
    heads_of,
    named,
    parts_of,
    plain_page,
    read_on,
    row,
    short,
)
from svtheory.instruments.sources import SEQUENCES, Source, first_sequences
from svtheory.instruments.survey import by_head, chosen_heads
from svtheory.reports.options import at_least
from svtheory.reports.rendering import rendered

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
    "html",
    "requested",
    "rows",
    "summary",
    "survey",
]


@dataclass(frozen=True)
class Settings(Where):
    """How much is looked at; an instrument alone looks further."""

    shown: Annotated[int, at_least(1)] = 3
    """Sequences whose attention is drawn, the first ones."""
    traced: Annotated[int, at_least(1)] = 4
    """Decisions of each head that are traced in each of these, at most; of many heads fewer, some 500 in all."""
    causes: tuple[str, ...] = ()
    """Heads, LAYER.HEAD, of which directions are removed; none: all of a bundle with every weight, none of a folder."""
    draws: Annotated[int, at_least(19)] = 999
    """Random heads behind a p-value, at most."""
    permuted: Annotated[int, at_least(19)] = 19
    """Permuted templates that a hypothesis is held against."""
    largest: Annotated[int, at_least(1)] = 64
    """Most features of a hypothesis: the commonest tokens, the first positions."""
    asked: Annotated[int | None, at_least(2)] = None
    """Sequences that hypotheses are asked of, at most, the first ones; none: all, or where heads read more than 192
    dimensions, those that hold 192 tokens."""
    resamples: Annotated[int, at_least(1)] = 10
    """Times that samples are drawn again, for intervals of hypotheses."""
    seed: int = 0
    """Seed of whatever is random."""


@dataclass(frozen=True)
class Request(Place, Settings):
    """Settings, and where a dictionary is."""

    features: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """Dictionary, a file, a folder or hf:ORG/REPO/PATH@REVISION, or the name of an array of the bundle; none: none."""


DEFAULTS = Settings()
WIDE = 192
"""Dimensions of what heads read, and tokens: what hypotheses cost grows with the square of the smaller number."""
ROOTS = 500
"""Decisions that are traced, at most, if heads have one in each sequence."""


def requested(source: Source, settings: Request) -> xr.DataTree:
    """What the command asks for."""
    positions(settings)  # before anything is read
    bundle = source.bundle(sequences=SEQUENCES)
    settings = replace(settings, **read_as(source.label, settings))
    model = None if bundle.attn_in is None or source.is_bundle else source.network(bundle)
    given = dictionary(settings.features, bundle, settings).features if settings.features else None
    results = survey(bundle, model, settings, features=given)
    made = "\n".join(_made(source, settings, bundle, model))
    results.attrs |= {"bundle": source.label, "made": made}
    return results


def _made(source: Source, settings: Request, bundle: HeadBundle, model: Network | None) -> Iterator[str]:
    """The lines that make what is named in the calls of a page."""
    count = source.sequences or SEQUENCES
    if source.is_bundle:
        some = "" if bundle.attn_in is None else f", sequences={count}"
        yield f"bundle = svtheory.read_bundle({source.source!r}{some})"
    else:
        yield f"source = sources.{_told(source)}"
        yield f"bundle = source.bundle(sequences={count})"
    if model is not None:
        yield "model = source.network(bundle)"
    if settings.features:
        place = _told(Place(settings.hook, settings.folded))
        yield f"features = dictionaries.dictionary({settings.features!r}, bundle, dictionaries.{place}).features"


def survey(
    bundle: HeadBundle,
    model: Network | None = None,
    settings: Settings = DEFAULTS,
    *,
    features: np.ndarray | None = None,
) -> xr.DataTree:
    """What instruments find of all heads, a dataset each under its name, and under `attention` what is drawn of it.

    model     whose heads they are, a Checkpoint; None is the attention-only model of the bundle itself
    features  of a dictionary, columns (D, N), for `readout`

    Each dataset says in its attribute `call` by which call it is found, the tree's `without_NAME` why one is left out,
    and `asked_NAME` at which positions one asks, where they differ.
    Raises InputError where not even spectra are found, for settings of positions that are none, and unknown heads.
    """
    positions(settings)
    chosen_heads("--causes", settings.causes, bundle)
    seed = settings.seed
    parts, without = {"spectra": _found("spectra", bundle, spectra.Settings(seed=seed))}, {}
    finds: dict[str, Callable[[], xr.Dataset]] = {
        "readout": lambda: _found("readout", bundle, readout.Settings(seed=seed), model, features=features),
        "attention": lambda: _attention(bundle, settings),
        "trace": lambda: _traced(bundle, model, settings, parts),
        "cause": lambda: _caused(bundle, model, settings),
        "explain": lambda: _explained(bundle, settings),
        "sad": lambda: _found("sad", bundle, sad.Settings(draws=settings.draws, seed=seed)),  # the longest
    }
    for name, find in finds.items():
        try:
            parts[name] = find()
        except InputError as error:
            without[name] = str(error)
    if "left_out" in (read := parts.get("readout", xr.Dataset())).attrs:
        without["written"] = read.attrs["left_out"]
    tree = xr.DataTree.from_dict(parts)
    said = ("without_", "asked_")
    own = {name: text for name, text in bundle.metadata.items() if name != "made" and not name.startswith(said)}
    asked = _asked(settings) if "explain" in parts else {}
    tree.attrs = {
        **own,
        **{f"without_{name}": why for name, why in without.items()},
        **{f"asked_{name}": where for name, where in asked.items()},
    }
    return tree


def _asked(settings: Settings) -> dict[str, str]:
    """At which positions the parts ask, if hypotheses are asked at some that are chosen."""
    if settings.queries is None and settings.keys is None:
        return {}
    some = f"at queries {settings.queries or '1:'} and keys {settings.keys or ':'} of each sequence"
    every = f"Asked at all positions; hypotheses are asked {some} alone."
    return dict.fromkeys(("sad", "readout", "attention", "cause"), every) | {"explain": f"Asked {some} alone."}


def _attention(bundle: HeadBundle, settings: Settings) -> xr.Dataset:
    found = attended.survey(bundle, settings.shown)
    return found.assign_attrs(call=f"attended.survey(bundle, {settings.shown})")


def _traced(bundle: HeadBundle, model: Network | None, settings: Settings, parts: dict[str, xr.Dataset]) -> xr.Dataset:
    """The strongest decisions of what is drawn."""
    trace.check_traceable(bundle)
    attention = parts["attention"]
    heads = int(np.prod(attention.attention.shape[:3]))
    count = max(1, min(settings.traced, ROOTS // heads))
    decisions = attended.strongest(attention, count)
    told = f"attended.strongest({attention.attrs['call']}, {count})"
    return _found("trace", bundle, trace.Settings(), model, told={"decisions": told}, decisions=decisions)


def _caused(bundle: HeadBundle, model: Network | None, settings: Settings) -> xr.Dataset:
    if model is not None and not settings.causes:
        raise InputError("heads must be named whose directions are removed, as --causes 0.1 does, got none")
    return _found("cause", bundle, cause.Settings(heads=settings.causes, seed=settings.seed), model)


def _explained(bundle: HeadBundle, settings: Settings) -> xr.Dataset:
    """Hypotheses asked of all tokens or, of wide heads, of the first ones."""
    count = settings.asked
    if count is None and bundle.W_Q.shape[-1] > WIDE:
        count = max(2, WIDE // bundle.real.shape[1])
    few = first_sequences(bundle, count)
    names = ("queries", "keys", "numbers", "largest", "resamples", "seed")
    asked = explain.Settings(draws=settings.permuted, **{name: getattr(settings, name) for name in names})
    given = "bundle" if few is bundle else f"sources.first_sequences(bundle, {count})"
    return _found("explain", few, asked, given=given)


def _found(
    name: str,
    bundle: HeadBundle,
    settings: Any,
    model: Network | None = None,
    *,
    given: str = "bundle",
    told: dict[str, str] | None = None,
    **more: Any,
) -> xr.Dataset:
    """What an instrument finds, and by which call; `told` says how what it is given besides is found."""
    besides = {key: x for key, x in more.items() if x is not None} | ({} if model is None else {"model": model})
    found = INSTRUMENTS[name].survey(bundle, settings=settings, **besides)
    words = [given, *(f"{key}={(told or {}).get(key, key)}" for key in besides), f"settings={name}.{_told(settings)}"]
    return found.assign_attrs(call=f"{name}.survey({', '.join(words)})")


def _told(settings: Any) -> str:
    """Settings as they are made in Python: what is not as it is by default."""
    chosen = {field.name: getattr(settings, field.name) for field in fields(settings)}
    given = [f"{f.name}={chosen[f.name]!r}" for f in fields(settings) if chosen[f.name] != f.default]
    return f"{type(settings).__name__}({', '.join(given)})"


def rows(results: xr.DataTree) -> list[dict[str, Any]]:
    """A row a head."""
    return [row(here) for here in heads_of(parts_of(results))]


def brief(results: xr.DataTree) -> list[dict[str, Any]]:
    """The columns that answer."""
    return by_head(rows(results), "verdict", "modes for 90 %", "balanced: modes for 90 %", "hypothesis", "grade")


def answers(results: xr.DataTree) -> list[str]:
    """What the instruments answer."""
    parts = parts_of(results)
    return [said for name in ANSWERING if name in parts for said in INSTRUMENTS[name].answers(parts[name])]


def summary(results: xr.DataTree) -> dict[str, Any]:
    """Headline figures of the instruments, each under its name."""
    parts = parts_of(results)
    found = {name: module.summary(parts[name]) for name, module in INSTRUMENTS.items() if name in parts}
    return {f"{name}_{key}": x for name, figures in found.items() for key, x in figures.items()}


def figure(results: xr.DataTree, axes: Any = None) -> Figure:
    """The spectra of all heads."""
    return spectra.figure(results["spectra"].to_dataset(), axes)


def caption(results: xr.DataTree) -> str:
    """What to see in the figure."""
    return spectra.caption(results["spectra"].to_dataset())


def html(results: xr.DataTree, command: str = "") -> str:
    """The page; `command` is what made it."""
    return rendered(
        "heads",
        plain_page(results),
        name=named(results),
        read=read_on(results),
        answers=answers(results),
        rows=by_head(rows(results)),
        made=[line for line in str(results.attrs.get("made", "")).splitlines() if line],
        calls=[str(part.attrs["call"]) for part in parts_of(results).values()],
        short=short,
        columns=COLUMNS,
        command=command,
    )
