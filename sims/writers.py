"""Writers: does a trace name the head that wrote what a key is found by?

Two-layer attention-only transformers are trained on `recall` and `induction`. A head of the second layer finds the key
at whose position the token before is the one asked for: only a head of the first layer that looks one position back
can have written that. The task says so beforehand: for the right key r, the component is what that head took from
position r - 1. It is held against all components at the key: embedding, position, what the head took from every other
position, biases. First is the one of the largest absolute contribution to the score, and it must be positive.

Decisions are those of the last query, on sequences that no training saw, where the answer is right and the right key
is the one attended most; readers are heads that give it a mean weight of at least 0.9. Chance: one component in as many
as there are, and the same component at a wrong key, drawn between the first position and the query, where another token
was written.

Rules: it is first in at least 95 % of the correct decisions of each task, and components sum to scores to 1e-4 of the
head's scores. Standard errors are over models.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr

from sims.lab.command import command
from sims.models.tasks import Batch
from sims.models.trained import Trained, TransformerOptions, bundle, trained
from sims.models.trained_heads import ATTENDS, TrainedHead, none_attends, run_on, unseen
from svtheory import HeadBundle
from svtheory.checkpoints import Network, forward, network
from svtheory.checks import one_of
from svtheory.instruments import trace
from svtheory.instruments.survey import side_by_side
from svtheory.reports.options import at_least
from svtheory.reports.plotting import COLOURS, GREY, measured, panels
from svtheory.reports.runs import Exhibit, Outcome

THEOREMS = ()  # its rules are about traces, which are exact sums whatever the head
MATCHES = {"recall": "cue before = cue", "induction": "previous token = token"}
BEFORE = "previous position"
PARTS = ("embedding", "position", "position before", "other positions", "biases")
FIRST, EXACT = 0.95, 1e-4


@dataclass(frozen=True)
class Config(TransformerOptions):
    """Options of the experiment."""

    ARRAYS = (*TransformerOptions.ARRAYS, "sequences 64 8")

    tasks: tuple[str, ...] = tuple(MATCHES)
    """Of recall and induction."""
    sequences: Annotated[int, at_least(64)] = 128
    """Sequences on which decisions are traced."""

    def __post_init__(self):
        super().__post_init__()
        for name in self.tasks:
            one_of("--tasks", name, tuple(MATCHES))


SCALES = {
    "quick": Config(),
    "paper": Config(members=8, steps=2000, sequences=512),
    "full": Config(members=64, steps=4000, sequences=4096),
}


def run(config: Config, folder: Path) -> Outcome:
    """Train, and trace the correct decisions of every model."""
    found = [model for task in config.tasks for model in _models(config, trained(config.recipe(task), folder.parent))]
    if not found:
        raise none_attends()
    results = side_by_side(found, "model", {"contribution": ("at", "part")})
    results = results.assign_coords(at=["right key", "wrong key"], part=list(PARTS))
    return Outcome(_summary(results), results, {"writers": _exhibit(results)}, _rows(results))


def _models(config: Config, models: Trained) -> list[dict[str, Any]]:
    """What is found of every model with a head that does the match."""
    found = []
    for member, sampled, _ in unseen(models, config.seed + 6, config.sequences):
        seen = run_on(models, member, sampled)
        reader, writer = _best(seen.heads, 1, MATCHES[models.recipe.task]), _best(seen.heads, 0, BEFORE)
        if reader.attention(reader.match) < ATTENDS:
            continue
        held = bundle(models, member, seen.reads, tokens=sampled.tokens)
        rng = np.random.default_rng((config.seed, member))
        found.append({"member": member, **_model(held, reader, writer, sampled, rng)})
    return found


def _best(heads: list[TrainedHead], layer: int, match: str) -> TrainedHead:
    """The head of a layer that does a match best."""
    return max((head for head in heads if head.layer == layer), key=lambda head: head.attention(match))


def _model(
    held: HeadBundle, reader: TrainedHead, writer: TrainedHead, sampled: Batch, rng: np.random.Generator
) -> dict[str, Any]:
    """Right and wrong keys of the correct decisions of one model, traced."""
    model, last = network(held), reader.pattern.shape[1] - 1
    answered = forward(model, held.others["tokens"]).logits[:, -1].argmax(axis=1) == np.asarray(sampled.answers[0])
    right = np.asarray(sampled.right[MATCHES[reader.recipe.task]][-1])
    correct = np.flatnonzero(answered & (reader.pattern[-1].argmax(axis=0) == right))
    keys = right[correct], _others(right[correct], last, rng)
    at = [_traced(held, model, reader, writer, correct, last, of) for of in keys]
    return {
        "task": reader.recipe.task,
        "decisions": len(correct),
        "answered": answered.mean(),
        "first": at[0]["first"].mean().item(),
        "first_at_wrong_key": at[1]["first"].mean().item(),
        "chance": (1 / at[0].components).mean().item(),
        "gap": max(x.gap.max().item() for x in at),
        "score": at[0].score.mean().item(),
        "contribution": np.stack([x.part_mean.values for x in at]),
    }


def _others(right: np.ndarray, last: int, rng: np.random.Generator) -> np.ndarray:
    """A position of each sequence that is not the right one, from 1 to the last but one."""
    drawn = rng.integers(1, last - 1, size=len(right))
    return drawn + (drawn >= right)


def _traced(
    held: HeadBundle,
    model: Network,
    reader: TrainedHead,
    writer: TrainedHead,
    sequences: np.ndarray,
    last: int,
    keys: np.ndarray,
) -> xr.Dataset:
    """Whether what the writer took from the position before each key is first there, and what all parts add."""
    asked = [(reader.layer, reader.index, s, last, k) for s, k in zip(sequences, keys, strict=True)]
    every = trace.Settings(top=5 + held.W_Q.shape[1] * (last + 1), depth=1)
    found = trace.survey(held, model, every, np.array(asked)).sel(side="key")
    mine = (found.kind == "head") & (found.writer_head == writer.index) & (found.writer_layer == writer.layer)
    before = mine & (found.source == found.key - 1)
    first = before.isel(component=0) & (found.contribution.isel(component=0) > 0)
    of = {
        "embedding": found.kind == "embedding",
        "position": found.kind == "position",
        "position before": before,
        "other positions": (found.kind == "head") & ~before,
        "biases": found.kind.isin(["bias", "attention bias"]),
    }
    parts = [found.contribution.where(which, 0).sum("component").mean("decision") for which in of.values()]
    return found.assign(first=first, part_mean=("part", [float(x) for x in parts]))


def _rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a task."""
    return [_row(task, results.isel(model=results.task.values == task)) for task in dict.fromkeys(results.task.values)]


def _row(task: str, models: xr.Dataset) -> dict[str, Any]:
    """Shares are over all decisions of a task's models, standard errors over models."""
    count = models.sizes["model"]
    first = float((models["first"] * models.decisions).sum() / models.decisions.sum())
    wrong = float((models.first_at_wrong_key * models.decisions).sum() / models.decisions.sum())
    gap = float(models.gap.max())
    return {
        "task": task,
        "models": count,
        "decisions": int(models.decisions.sum()),
        "answered": float(models.answered.mean()),
        "first": first,
        "s.e.": float(models["first"].std(ddof=1)) / count**0.5 if count > 1 else None,
        "lowest model": float(models["first"].min()),
        "chance": float(models.chance.mean()),
        "first at a wrong key": wrong,
        "score": float(models.score.mean()),
        "of it": float(models.contribution.sel(at="right key", part="position before").mean()),
        "gap": gap,
        "rule": f"first >= {FIRST}, gap <= {EXACT:g}",
        "holds": bool(first >= FIRST and gap <= EXACT),
    }


def _summary(results: xr.Dataset) -> dict[str, Any]:
    rows = _rows(results)
    return {
        "models": results.sizes["model"],
        "largest_gap": float(results.gap.max()),
        **{f"first_{row['task']}": row["first"] for row in rows},
        **{f"first_at_wrong_key_{row['task']}": row["first at a wrong key"] for row in rows},
        **{f"chance_{row['task']}": row["chance"] for row in rows},
        **{f"decisions_{row['task']}": row["decisions"] for row in rows},
    }


def _exhibit(results: xr.Dataset) -> Exhibit:
    """How often the writer is first, and what each part of the key adds at right and wrong keys."""
    tasks = list(dict.fromkeys(results.task.values))
    figure, (axes,) = panels(1 + len(tasks), width=4.2, height=3.8)
    for x, task in enumerate(tasks):
        models = results.isel(model=results.task.values == task)
        spread = np.linspace(-0.12, 0.12, models.sizes["model"])
        axes[0].plot(x + spread, models["first"], "o", color=COLOURS[0], label="right key" if x == 0 else None)
        axes[0].plot(
            x + spread, models.first_at_wrong_key, "x", color=COLOURS[1], label="wrong key" if x == 0 else None
        )
        axes[0].plot(x, models.chance.mean(), "_", color=GREY, markersize=24, label="one in all" if x == 0 else None)
        _draw_parts(axes[1 + x], models, task)
    axes[0].axhline(FIRST, color="black", linestyle="--", linewidth=1.2, label=f"rule, {FIRST}")
    axes[0].set(
        xticks=range(len(tasks)), xlim=(-0.5, len(tasks) - 0.5), ylim=(-0.03, 1.03), ylabel="share of decisions"
    )
    axes[0].set_xticklabels(tasks)
    axes[0].set_title("the writer is first of all")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return Exhibit(
        figure,
        "Left, how often what the first layer's head took from the position before is the first component of a key, a "
        "point a model. Right, what every part of the key adds to the score, means over models with standard errors.",
    )


def _draw_parts(ax: Any, models: xr.Dataset, task: str) -> None:
    at, count = np.arange(len(PARTS)), models.sizes["model"]
    for i, name in enumerate(models["at"].values):
        parts = models.contribution.sel(at=name)
        error = parts.std("model", ddof=1) / count**0.5 if count > 1 else None
        measured(ax, at + 0.2 * i - 0.1, parts.mean("model"), error, color=COLOURS[i], fmt="ox"[i])
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_xticks(at, PARTS, rotation=35, ha="right")
    ax.set(title=task, ylabel="adds to the score")


main = command(run, SCALES)

if __name__ == "__main__":
    main()
