"""Causes: does a head use its first balanced mode, more than random directions of the same variance?

In transformers with known features, every head that does a match (mean weight on the right key at least 0.9) loses what
its query and key side read along one direction, which becomes its mean over tokens; the model runs on, and attention to
the right key and the loss of the answer are compared (`svtheory cause`). Directions: the first balanced mode (T22), the
first singular vector, the modes that carry 90 % of the score's variance together, and random ones: isotropic, of the
same variance, and as many of these as there are leading modes. Modes are of weights and token moments alone: nothing of
the task goes into them.

What to expect. A match of N values that are alike has N - 1 near-equal modes, 1/(N - 1) of the score's variance each:
the first one is no feature but some direction of their span, and what it costs is its share; leading modes say what the
block does. Of R dimensions that tokens visit, a random direction of the same variance takes 1/R of it a side: the ratio
of variances, R/(2 (N - 1)) for equal modes where both sides lose a direction, is beside the ratio of attention.

Rules, set before the run, for mean losses of attention over all heads: the first mode costs at least 10 times what
isotropic directions do, and more than those of the same variance, by the lower ends of 95 % intervals over models. The
same heads with W_O = 0 do nothing: the interval of the loss that their first mode gains holds 0. Shown beside these, by
no rule: the same heads before training. A first version held their loss to 0 too, wrongly: a random head writes noise,
and what flattens its attention lowers the loss a little (-0.0027 nats, -0.0051 to -0.0003, in 32 heads).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr

from sims.ablate import bootstrap
from sims.lab.command import command
from sims.models.trained import Trained, TransformerOptions, bundle, trained
from sims.models.trained_heads import ATTENDS, Run, TrainedHead, none_attends, run_on, unseen
from svtheory.instruments import cause
from svtheory.instruments.survey import side_by_side
from svtheory.reports.options import at_least
from svtheory.reports.plotting import COLOURS, measured, panels
from svtheory.reports.runs import Exhibit, Outcome

THEOREMS = ("T22",)
REMOVED = ("mode 1", "raw vector 1", "leading modes", "same variance", "isotropic", "as many")
RANDOM = REMOVED[3:]
EFFECTS = ("attention", "loss")
SILENT = "W_O = 0"
CONTROLS = (SILENT, "before training")
LEAST = {"isotropic": 10, "same variance": 1}


@dataclass(frozen=True)
class Config(TransformerOptions):
    """Options of the experiment."""

    ARRAYS = (*TransformerOptions.ARRAYS, "sequences 64 8", "random sequences", "resamples members 8")

    sequences: Annotated[int, at_least(64)] = 256
    """Sequences on which models are run."""
    random: Annotated[int, at_least(2)] = 16
    """Random directions of each kind."""
    resamples: Annotated[int, at_least(100)] = 2000
    """Bootstrap samples behind an interval."""


PAPER = Config(("recall", "induction", "attributes"), members=8, steps=2000, resamples=10_000)
SCALES = {
    "quick": Config(("recall", "attributes")),
    "paper": PAPER,
    "full": replace(PAPER, members=32, steps=4000, sequences=1024, random=32),
}


def run(config: Config, folder: Path) -> Outcome:
    """Remove and run on, head by head."""
    heads = [head for task in config.tasks for head in _heads(config, trained(config.recipe(task), folder.parent))]
    if not heads:
        raise none_attends()
    axes = {"effect": ("removed", "measure"), "control": ("of_control", "measure"), "variance": ("removed",)}
    results = side_by_side(heads, "row", axes).set_coords(("model", "task", "match"))
    results = results.assign_coords(removed=list(REMOVED), measure=list(EFFECTS), of_control=list(CONTROLS))
    return Outcome(_summary(config, results), results, {"causes": _exhibit(config, results)}, _rows(config, results))


def _heads(config: Config, models: Trained) -> Iterator[dict[str, Any]]:
    """Every head that does a match, with what its removals cost and what they do to the controls."""
    for member, sampled, _ in unseen(models, config.seed + 3, config.sequences):
        seen, untrained = run_on(models, member, sampled), run_on(models, member, sampled, 0)
        for head in seen.heads:
            if head.attention(head.match) < ATTENDS:
                continue
            found = _removals(config, models, seen, head)
            silent = _silenced(models, head)
            controls = [(silent, run_on(silent, member, sampled), -1), (models, untrained, 0)]
            yield {
                "row": head.label,
                "model": f"{models.recipe.task} {member}",
                "task": models.recipe.task,
                "match": head.match,
                "intact": float(found.intact),
                "leading": int(found.directions_removed.sel(direction="leading modes")),
                "effect": _by_kind(found.effect_mean.sel(effect=list(EFFECTS))),
                "variance": _by_kind(found.removed_variance),
                "control": [
                    _removals(config, of, on, head, at).effect_mean.sel(direction="mode 1", effect=list(EFFECTS))
                    for of, on, at in controls
                ],
            }


def _removals(config: Config, models: Trained, seen: Run, head: TrainedHead, snapshot: int = -1) -> xr.Dataset:
    """`cause` of one head in a model that was run, its right key and the answer that it serves given."""
    sampled, right = head.sampled, np.asarray(head.sampled.right[head.match]).T
    question = list(sampled.right).index(head.match) if len(sampled.answers) > 1 else 0
    targets = np.full(right.shape, -1)
    targets[:, -1] = question * models.recipe.given.vocabulary + np.asarray(sampled.answers)[question]
    given = bundle(models, head.member, seen.reads, snapshot, tokens=sampled.tokens)
    settings = cause.Settings(heads=(head.name,), modes=1, draws=config.random, resamples=100, seed=config.seed)
    found = cause.survey(given, settings=settings, keys=right, targets=targets)
    return found.sel(layer=head.layer, head=head.index)


def _silenced(models: Trained, head: TrainedHead) -> Trained:
    """The models with a head that writes nothing."""
    W_O = models.parameters["W_O"].copy()
    W_O[:, :, head.layer, head.index] = 0
    return models._replace(parameters=models.parameters | {"W_O": W_O})


def _by_kind(found: xr.DataArray) -> np.ndarray:
    """What each of REMOVED costs, random directions averaged."""
    named = [found.sel(direction=name) for name in REMOVED if name not in RANDOM]
    return np.stack([*named, *(found.isel(direction=found.kind == kind).mean("direction") for kind in RANDOM)])


def ratios(config: Config, results: xr.Dataset, over: str, removed: str = "mode 1") -> tuple[float, float, float]:
    """Attention lost without a direction over that without `over`, means of heads, with its 95 % interval."""
    lost = results.effect.sel(measure=["attention"], removed=[removed, over])
    lost = lost.transpose("row", "removed", "measure").values
    mean, again = lost.mean(axis=0)[:, 0], _again(config, results, lost)
    low, high = np.percentile(again[:, 0] / again[:, 1], (2.5, 97.5))
    return float(mean[0] / mean[1]), float(low), float(high)


def _again(config: Config, results: xr.Dataset, values: np.ndarray) -> np.ndarray:
    """Means of resampled models of values (rows, some, 1), (resamples, some)."""
    return bootstrap(values, results.model.values, config.resamples, config.seed)[..., 0]


def control_intervals(config: Config, results: xr.Dataset) -> dict[str, tuple[float, float, float]]:
    """The loss gained without the first mode by heads that do nothing, with its 95 % interval."""
    gained = results.control.sel(measure=["loss"]).transpose("row", "of_control", "measure").values
    low, high = np.percentile(_again(config, results, gained), (2.5, 97.5), axis=0)
    return {name: (gained[:, i].mean(), low[i], high[i]) for i, name in enumerate(CONTROLS)}


def _summary(config: Config, results: xr.Dataset) -> dict[str, Any]:
    found: dict[str, Any] = {"heads": results.sizes["row"], "leading_modes_median": float(results.leading.median())}
    for removed, over in (("mode 1", "isotropic"), ("mode 1", "same variance"), ("leading modes", "as many")):
        name = f"{removed}_over_{over}".replace(" ", "_")
        found[f"ratio_{name}"], found[f"ratio_{name}_low"], found[f"ratio_{name}_high"] = ratios(
            config, results, over, removed
        )
    mean = results.effect.mean("row")
    for removed in REMOVED:
        name = removed.replace(" ", "_")
        found[f"attention_lost_{name}"] = float(mean.sel(removed=removed, measure="attention"))
        found[f"loss_gained_{name}_nats"] = float(mean.sel(removed=removed, measure="loss"))
        found[f"variance_share_{name}"] = float(results.variance.sel(removed=removed).mean())
    return found


def _rows(config: Config, results: xr.Dataset) -> list[dict[str, Any]]:
    """All heads together and task by task, held against either kind of random directions; then the controls."""
    rows = []
    for task in ("all", *dict.fromkeys(results.task.values)):
        some = results if task == "all" else results.sel(row=results.task == task)
        lost, share = some.effect.sel(measure="attention").mean("row"), some.variance.mean("row")
        for over, least in LEAST.items():
            ratio, low, high = ratios(config, some, over)
            rows.append(
                {
                    "task": task,
                    "heads": some.sizes["row"],
                    **{f"lost, {name}": float(lost.sel(removed=name)) for name in REMOVED},
                    "leading": float(some.leading.median()),
                    "mode 1 against": over,
                    "variance, ratio": float(share.sel(removed="mode 1") / share.sel(removed=over)),
                    "ratio": ratio,
                    "95 % lower": low,
                    "95 % upper": high,
                    "rule": f"lower > {least}" if task == "all" else "",
                    "holds": low > least if task == "all" else None,
                }
            )
    for name, (mean, low, high) in control_intervals(config, results).items():
        row = dict.fromkeys(rows[0], "") | {"task": name, "heads": results.sizes["row"]}
        row |= {"mode 1 against": "0, loss gained", "ratio": mean, "95 % lower": low, "95 % upper": high}
        ruled = {"rule": "holds 0", "holds": bool(low <= 0 <= high)} if name == SILENT else {"rule": "", "holds": None}
        rows.append(row | ruled)
    return rows


def _exhibit(config: Config, results: xr.Dataset) -> Exhibit:
    """Attention lost and loss gained, by what is removed and task."""
    figure, (axes,) = panels(2, width=5.4, height=4)
    tasks = list(dict.fromkeys(results.task.values))
    for ax, measure, label in zip(axes, EFFECTS, ("attention lost", "loss gained, nats"), strict=True):
        for i, task in enumerate(tasks):
            some = results.sel(row=results.task == task)
            seen = some.effect.sel(measure=[measure]).transpose("row", "removed", "measure").values
            low, high = np.percentile(_again(config, some, seen), (2.5, 97.5), axis=0)
            mean = seen.mean(axis=0)[:, 0]
            x = np.arange(len(REMOVED)) + 0.16 * (i - (len(tasks) - 1) / 2)
            error = np.maximum([mean - low, high - mean], 0)
            measured(ax, x, mean, error, color=COLOURS[i], fmt="osD^v"[i], label=task)
        ax.axhline(0, color="black", linewidth=0.8)
        names = [f"random, {name}" if name in RANDOM else name for name in REMOVED]
        ax.set_xticks(range(len(REMOVED)), names, rotation=30, ha="right")
        ax.set(ylabel=label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(tasks))
    return Exhibit(
        figure,
        f"{results.sizes['row']} heads that no longer read some directions: means, 95 % intervals over models.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
