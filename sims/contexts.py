"""Contexts: do the tokens that move a mode most hold the feature value that its weights name?

Of every trained head that does a match (mean weight on the right key at least 0.9) `svtheory readout` finds the first
balanced modes (T22), those that carry 5 % of the variance of scores, and the 20 tokens in context at both ends of each,
on either side. What a mode is about is said before, from weights and embeddings alone: candidates are the embedding of
every symbol, the vector of every position with the mean of what stands there (symbols, and what heads of earlier layers
write there), and what these heads write of symbols and positions, `W_O W_V x`, kind by kind, of the kinds that a tenth
of the tokens on that side have, and of values that one of them has. The value of a candidate is the mode's probe along
it, less the mean of its kind. All of at least 0.8 of the largest value at an end are named: a set, where values are
nearly equal.

A context holds a member if its token has that symbol or position, or if the position that the earlier head attends
most from there has it. Beside the share that does stands chance, the same share of all tokens that stand at that side.
Queries of the last layer are those at the last position, the only ones that the model is trained at, and its keys the
tokens before them.

What heads that copy write is named alike: the tokens of at least 0.8 of the largest logit at an end of each of the
first axes of what is written; contexts are the tokens attended that move it most. Rules: 0.9 of contexts hold a named
value, on either side of heads of every match, and 0.9 of the attended tokens are written.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import xarray as xr

from sims.lab.command import command
from sims.models.tasks import Batch
from sims.models.trained import Trained, TransformerOptions, bundle, trained
from sims.models.trained_heads import ATTENDS, Run, TrainedHead, none_attends, run_on, unseen
from svtheory import HeadBundle
from svtheory.instruments import readout
from svtheory.instruments.survey import places, side_by_side
from svtheory.reports.options import at_least
from svtheory.reports.plotting import COLOURS, GREY, measured, panels
from svtheory.reports.runs import Exhibit, Outcome

THEOREMS = ("T22",)
SIDES = ("query", "key", "written")
NAMED = 0.8  # of the largest value: what is named beside it
CARRIED = 0.05  # of the variance of scores: less is none of the first modes
COMMON = 0.1  # of the tokens on a side: what fewer have is no candidate
HELD = 0.9


@dataclass(frozen=True)
class Config(TransformerOptions):
    """Options of the experiment."""

    ARRAYS = (*TransformerOptions.ARRAYS, "sequences 64 8")

    tasks: tuple[str, ...] = ("attributes", "recall")
    """Tasks to train on."""
    sequences: Annotated[int, at_least(64)] = 512
    """Sequences on which heads are read."""
    modes: Annotated[int, at_least(1)] = 3
    """First modes of each head."""
    contexts: Annotated[int, at_least(1)] = 20
    """Tokens in context at each end of a mode."""


SCALES = {
    "quick": Config(),
    "paper": Config(("attributes", "recall", "induction"), members=8, steps=2000),
    "full": Config(("attributes", "recall", "induction"), members=64, steps=4000, sequences=4096),
}


class Kind(NamedTuple):
    """What a token may be by one feature.

    directions  what each value adds to what heads read, (D, N)
    values      the value of every token, or -1, (sequences, positions)
    """

    name: str
    directions: np.ndarray
    values: np.ndarray


def run(config: Config, folder: Path) -> Outcome:
    """Name the modes of all heads that attend, read their contexts and compare."""
    models = [trained(config.recipe(task), folder.parent) for task in config.tasks]
    records = [record for of_task in models for record in _task(config, of_task)]
    if not records:
        raise none_attends()
    results = side_by_side(records, "end_of_mode")
    summary = {
        "ends": results.sizes["end_of_mode"],
        "lowest_share_held": min(row["held"] for row in _rows(results)),
        "highest_chance": max(row["chance"] for row in _rows(results)),
        "modes_that_are_blocks": int(results.block.sum()),
    }
    return Outcome(summary, results, {"contexts": _exhibit(results)}, _rows(results))


def _task(config: Config, models: Trained) -> Iterator[dict[str, Any]]:
    """Every end of the first modes of every head that attends."""
    for member, sampled, _ in unseen(models, config.seed + 6, config.sequences):
        seen = run_on(models, member, sampled)
        read = bundle(models, member, seen.reads, tokens=sampled.tokens)
        for layer in range(len(seen.reads)):
            heads = [head for head in seen.heads if head.layer == layer and head.attention(head.match) >= ATTENDS]
            if heads:
                last = layer == len(seen.reads) - 1
                positions = ("-1:", ":-1") if last else (None, None)
                settings = readout.Settings(config.modes, config.contexts, models.recipe.given.vocabulary, *positions)
                found = readout.survey(read, settings=settings).sel(layer=layer, reading="balanced")
                kinds = kinds_of(read, seen, sampled, layer)
                for head in heads:
                    yield from _head(head, found.sel(head=head.index), kinds, last)


def kinds_of(read: HeadBundle, seen: Run, sampled: Batch, layer: int) -> list[Kind]:
    """Symbols by feature, positions, and what every head of earlier layers writes of them."""
    weights = read.others
    made = [
        Kind(name, weights["W_E"][:, symbols], np.asarray(sampled.features[name]).T)
        for name in sampled.features
        if (symbols := symbols_of(sampled, name)) is not None
    ]
    length, number = sampled.tokens.shape[1:]
    shares = [(kind.directions.mean(axis=1), (kind.values >= 0).mean(axis=0)) for kind in made]
    stands = weights["W_pos"] + sum(np.outer(mean, share) for mean, share in shares)
    itself = [*made, Kind("position", stands, np.tile(np.arange(length), (number, 1)))]
    carried = stands.copy()
    for head in (head for head in seen.heads if head.layer < layer):
        writes = weights["W_O"][head.layer, head.index] @ weights["W_V"][head.layer, head.index]
        most = head.pattern.argmax(axis=1).T  # the key that every query attends most, (sequences, positions)
        carried += (writes @ stands)[:, most].mean(axis=1)
        for name, x, values in itself:
            made.append(Kind(f"{name}, by {head.name}", writes @ x, np.take_along_axis(values, most, axis=1)))
    return [*made, itself[-1]._replace(directions=carried)]


def symbols_of(sampled: Batch, feature: str) -> np.ndarray | None:
    """The symbol that stands for each value of a feature, None of one that no symbol of the token itself shows."""
    values, tokens = np.asarray(sampled.features[feature]), np.asarray(sampled.tokens)
    known = values >= 0
    found = np.full((len(tokens), values.max() + 1), -1)
    for slot, symbols in zip(found, tokens, strict=True):
        slot[values[known]] = symbols[known]
        if (slot >= 0).all() and (slot[values[known]] == symbols[known]).all():
            return slot
    return None


def _head(head: TrainedHead, found: xr.Dataset, kinds: list[Kind], last: bool) -> Iterator[dict[str, Any]]:
    """Both ends of every mode of one head, on both sides, and of what it writes if it is of the last layer."""
    about = {"task": head.recipe.task, "member": head.member, "head": head.name, "match": head.match}
    for here in places(found.isel(mode=found.variance_share.values >= CARRIED), "mode", "side", "end"):
        side, end = str(here.side.values), str(here.end.values)
        stands = slice(None) if not last else slice(-1, None) if side == "query" else slice(None, -1)
        some = [kind for kind in kinds if (kind.values[:, stands] >= 0).mean() >= COMMON]
        named = _named(some, here.probe.values * (1 if end == "top" else -1), stands)
        at = here.context_sequence.values, here.context_position.values
        block = int(here.last_pair > here.first_pair)
        yield {**about, "side": side, "mode": int(here.mode), "end": end, "block": block, **_held(named, at, stands)}
    for here in places(found.isel(mode=found.ov_variance_share.values >= CARRIED), "mode", "end") if last else ():
        end, block = str(here.end.values), int(here.ov_last_pair > here.ov_first_pair)
        yield {**about, "side": "written", "mode": int(here.mode), "end": end, "block": block, **_copied(here, head)}


def _named(kinds: list[Kind], probe: np.ndarray, stands: slice) -> list[tuple[Kind, np.ndarray]]:
    """The values that move most along a probe (D,), those that stand there, by kind; the kind of the largest first."""
    along = []
    for kind in kinds:
        there = np.isin(np.arange(kind.directions.shape[1]), kind.values[:, stands])
        x = probe @ kind.directions
        along.append(np.where(there, x - x[there].mean(), -np.inf))
    largest = [x.max() for x in along]
    order = [k for k in np.argsort(largest)[::-1] if largest[k] >= NAMED * max(largest)]
    return [(kinds[k], np.flatnonzero(along[k] >= NAMED * max(largest))) for k in order]


def _held(named: list[tuple[Kind, np.ndarray]], at: tuple[np.ndarray, np.ndarray], stands: slice) -> dict[str, Any]:
    """Which contexts hold what is named, and chance, of all tokens that stand there."""
    holds = np.any([_among(kind.values, values) for kind, values in named], axis=0)
    return {
        "kind": " or ".join(kind.name for kind, _ in named),
        "named": sum(len(values) for _, values in named),
        "held": holds[at].mean(),
        "chance": holds[:, stands].mean(),
    }


def _among(values: np.ndarray, named: np.ndarray) -> np.ndarray:
    """Which values (...) are among those that are named (n,)."""
    return np.any(values[..., None] == named, axis=-1)


def _copied(here: xr.Dataset, head: TrainedHead) -> dict[str, Any]:
    """Which attended tokens, that move an axis of what is written most, are among those that it raises most."""
    question = int(np.abs(here.ov_logit.isel(near=0)).argmax("question"))
    there = here.isel(question=question)
    logits, symbols = there.ov_logit.values, there.ov_written_token.values
    named = symbols[logits / logits[0] >= NAMED]
    holds = _among(np.asarray(head.sampled.tokens), named).max(axis=0).T
    attended = head.pattern[-1].argmax(axis=0)
    return {
        "kind": "symbol",
        "named": len(named),
        "held": holds[here.ov_context_sequence.values, here.ov_context_position.values].mean(),
        "chance": holds[np.arange(len(holds)), attended].mean(),
    }


def _rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row for each match and side, and what heads write."""
    rows = []
    for match, side in dict.fromkeys(zip(results.match.values, results.side.values, strict=True)):
        here = results.isel(end_of_mode=(results.match == match) & (results.side == side))
        held = here.held.values
        members = [of.held.mean().item() for _, of in here.groupby("member")]
        rows.append(
            {
                "task": ", ".join(np.unique(here.task.values)),
                "match": str(match),
                "side": str(side),
                "ends": len(held),
                "named": here.named.mean().item(),
                "chance": here.chance.mean().item(),
                "held": held.mean(),
                "s.e.": np.std(members, ddof=1) / len(members) ** 0.5 if len(members) > 1 else float("nan"),
                "ends held": (held >= HELD).mean(),
                "rule": f">= {HELD}",
                "holds": bool(held.mean() >= HELD),
            }
        )
    return rows


def _exhibit(results: xr.Dataset) -> Exhibit:
    """The share of contexts that hold what is named, by match and side, beside chance."""
    rows = _rows(results)
    figure, ((ax,),) = panels(1, width=7.2, height=0.42 * len(rows) + 1.3)
    y = np.arange(len(rows))[::-1]
    measured(ax, [row["held"] for row in rows], y, xerr=[row["s.e."] for row in rows], label="hold what is named")
    ax.plot([row["chance"] for row in rows], y, "x", color=GREY, label="chance")
    ax.axvline(HELD, color=COLOURS[1], linewidth=1, label="rule")
    ax.set_yticks(y, [f"{row['match']}: {row['side']}" for row in rows], fontsize=8.5)
    ax.set(xlim=(0, 1.03), ylim=(-0.6, len(rows) - 0.4), xlabel="share of contexts")
    ax.legend(loc="center")
    return Exhibit(figure, "Tokens in context that move modes most: the share that holds the value named before.")


main = command(run, SCALES)

if __name__ == "__main__":
    main()
