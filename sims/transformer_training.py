"""What emerges when: accuracy, sparse attention, and the head that theory predicts, over training.

At snapshots of training, the heads that end up doing a match are read: the attention they give to the right key; the
Treves-Rolls sparseness S of its relative attention over singular pairs, beside that of random heads of the same
singular values on the same tokens, about the same key (T22; of the two kinds of random heads the larger p-value and
the lower S count); S under common rotations, a diagnostic that any head of low rank falls below; the functional cosine
of T16's prediction from this snapshot's inputs; and the one number that it fits, the training time tau.

Predictions: tau grows with the training step actually reached (T17), so that its rank correlation with the step is
above 0 in the median head, as long as there is a time to read: from where the prediction explains the head at all
(functional cosine 0.5; below, the fit ends anywhere on its grid) until the task is learned (a softmax that is right no
longer drives the flow that tau is the time of). This window was chosen after a run of seed 0; the correlation over all
snapshots, which lie at growing distances, is reported beside. Sparsity emerges: S stays below 0.8 of that of random
heads, at p <= 0.05, adjusted for the number of heads at the snapshot (Benjamini and Hochberg). When it does, and when
alignment does (functional cosine 0.8), is reported in steps after accuracy on fresh sequences first stays at 0.99.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy.stats import rankdata

from sims.lab.command import command
from sims.models.tasks import TASKS
from sims.models.trained import Trained, TransformerOptions, trained
from sims.models.trained_heads import ATTENDS, HOLDS, TrainedHead, explanation, none_attends, run_on, sparseness, unseen
from svtheory.instruments.survey import adjusted, places, side_by_side
from svtheory.reports.options import at_least
from svtheory.reports.plotting import COLOURS, GREY, panels
from svtheory.reports.runs import Exhibit, Outcome

THEOREMS = ("T16", "T17", "T22")
LEARNED, EXPLAINS, LEVEL, SPARSE = 0.99, 0.5, 0.05, 0.8


@dataclass(frozen=True)
class Config(TransformerOptions):
    """Options of the experiment."""

    ARRAYS = (*TransformerOptions.ARRAYS, "sequences 64 8")

    sequences: Annotated[int, at_least(64)] = 256
    """Sequences on which heads are read."""
    draws: Annotated[int, at_least(19)] = 199
    """Random heads of a head and snapshot."""


SCALES = {
    "quick": Config(),
    "paper": Config(tuple(TASKS), members=8, steps=2000),
    "full": Config(tuple(TASKS), members=64, steps=4000, sequences=1024, draws=999),
}


def run(config: Config, folder: Path) -> Outcome:
    """Read the same heads at every snapshot."""
    heads = [head for task in config.tasks for head in _heads(config, trained(config.recipe(task), folder.parent))]
    if not heads:
        raise none_attends()
    results = _results(heads)
    figures = {"training": _training_exhibit(results), "tau": _tau_exhibit(results)}
    return Outcome(_summary(results), results, figures, _rows(results))


def _heads(config: Config, models: Trained) -> list[xr.Dataset]:
    """Every head that does a match in the end, over the snapshots."""
    found = []
    for member, sampled, key in unseen(models, config.seed + 3, config.sequences):
        runs = [run_on(models, member, sampled, snapshot) for snapshot in range(len(models.steps))]
        for number, last in enumerate(runs[-1].heads):
            if last.attention(last.match) >= ATTENDS:
                series = [
                    {"accuracy": run.accuracy.mean(), **_measured(run.heads[number], last.match, key, config.draws)}
                    for run in runs
                ]
                place = {"row": [last.label], "task": ("row", [models.recipe.task]), "step": models.steps}
                found.append(side_by_side(series, "step").expand_dims("row").assign_coords(place))
    return found


def _measured(head: TrainedHead, match: str, key: Array, draws: int) -> dict[str, float]:
    """One head at one snapshot."""
    found = explanation(head, head.recipe.given.hypotheses[match], match, key, draws=1)
    test, rotated = sparseness(head, match, key, draws)
    return {
        "attention": head.attention(match),
        "sparseness": float(test.head_sparseness),
        "null_sparseness": float(np.mean(test.head_null, axis=-1).min()),
        "p_value": float(test.head_p_value),
        "rotated_sparseness": float(np.mean(rotated.head_null)),
        "rotated_p_value": float(rotated.head_p_value),
        "functional_cosine": float(found.functional_cosine),
        "tau": float(found.time),
    }


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's; NaN of fewer than three points."""
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1]) if len(x) > 2 else float("nan")


def read_while(head: Any, steps: np.ndarray) -> np.ndarray:
    """At which snapshots tau is a time: after the start, explained, and until the task is learned."""
    explained = (steps > 0) & (np.asarray(head["functional_cosine"]) >= EXPLAINS)
    return explained & (steps <= first_kept(np.asarray(head["accuracy"]) >= LEARNED, steps))


def sparse(results: xr.Dataset) -> xr.DataArray:
    """At which snapshots relative attention is sparser than that of random heads."""
    return (results.adjusted_p_value <= LEVEL) & (results.sparseness <= SPARSE * results.null_sparseness)


def first_kept(holds: np.ndarray, steps: np.ndarray) -> float:
    """The first step from which on `holds` stays true; NaN where it is false at the end."""
    fails = np.flatnonzero(~holds)
    after = fails[-1] + 1 if len(fails) else 0
    return float(steps[after]) if after < len(steps) else float("nan")


def _results(heads: list[xr.Dataset]) -> xr.Dataset:
    """Series over snapshots, and the steps at which things emerge; members of one run share their steps."""
    results = xr.concat(heads, "row")
    steps, both = results.step.values, ("row", "step")
    results["adjusted_p_value"] = both, adjusted(results.p_value.values, 1)
    window = np.stack([read_while(head, steps) for head in places(results, "row")])
    tau = results.tau.values
    emerged = {
        "accuracy_step": results.accuracy >= LEARNED,
        "sparsity_step": sparse(results),
        "alignment_step": results.functional_cosine >= HOLDS,
    }
    columns = {name: [first_kept(x, steps) for x in holds.values] for name, holds in emerged.items()}
    columns["tau_rank_correlation"] = [rank_correlation(steps[w], x[w]) for x, w in zip(tau, window, strict=True)]
    # before the first step there is no training time to find
    columns["tau_rank_correlation_all"] = [rank_correlation(steps[1:], x[1:]) for x in tau]
    return results.assign({"tau_read": (both, window), **{name: ("row", np.array(x)) for name, x in columns.items()}})


def _rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """By task: the end of training, and when what emerged; medians over heads with quartiles."""
    return [_row(task, results.sel(row=results.task == task)) for task in dict.fromkeys(results.task.values)]


def _row(task: str, heads: xr.Dataset) -> dict[str, Any]:
    last, tau = heads.isel(step=-1), heads.tau_rank_correlation.median().item()
    return {
        "task": task,
        "heads": heads.sizes["row"],
        "accuracy step": _quartiles(heads.accuracy_step),
        "sparsity - accuracy step": _quartiles(heads.sparsity_step - heads.accuracy_step),
        "alignment - accuracy step": _quartiles(heads.alignment_step - heads.accuracy_step),
        "S, start": heads.sparseness.isel(step=0).mean().item(),
        "S, end": last.sparseness.mean().item(),
        "random heads, end": last.null_sparseness.mean().item(),
        "sparser, p adj. <= 0.05": f"{int((last.adjusted_p_value <= LEVEL).sum())} of {heads.sizes['row']}",
        "rotated, end": last.rotated_sparseness.mean().item(),
        "functional cos": last.functional_cosine.median().item(),
        "tau rank correlation": tau,
        "over all": heads.tau_rank_correlation_all.median().item(),
        "holds": None if np.isnan(tau) else bool(tau > 0 and (last.adjusted_p_value <= LEVEL).all()),
    }


def _quartiles(steps: xr.DataArray) -> str:
    """Median and quartiles over the heads in which it happens."""
    known = steps.values[np.isfinite(steps.values)]
    if not len(known):
        return "never"
    low, middle, high = np.percentile(known, (25, 50, 75))
    return f"{middle:g} ({low:g} to {high:g}; {len(known)} of {steps.size})"


def _summary(results: xr.Dataset) -> dict[str, Any]:
    last, correlation = results.isel(step=-1), results.tau_rank_correlation
    return {
        "heads": results.sizes["row"],
        "median_tau_rank_correlation": correlation.median().item(),
        "lowest_tau_rank_correlation": correlation.min().item(),
        "heads_with_a_tau_rank_correlation": int(correlation.notnull().sum()),
        "heads_with_a_positive_one": int((correlation > 0).sum()),
        "median_tau_rank_correlation_over_all_snapshots": results.tau_rank_correlation_all.median().item(),
        "mean_sparseness_start": results.sparseness.isel(step=0).mean().item(),
        "mean_sparseness_end": last.sparseness.mean().item(),
        "mean_null_sparseness_end": last.null_sparseness.mean().item(),
        "share_sparser_than_random_heads_end": (last.adjusted_p_value <= LEVEL).mean().item(),
        "mean_rotated_sparseness_end": last.rotated_sparseness.mean().item(),
        "share_sparser_than_rotations_end": (last.rotated_p_value <= LEVEL).mean().item(),
        "median_sparsity_after_accuracy_steps": (results.sparsity_step - results.accuracy_step).median().item(),
        "median_alignment_after_accuracy_steps": (results.alignment_step - results.accuracy_step).median().item(),
        "median_functional_cosine_end": last.functional_cosine.median().item(),
    }


def _by_task(results: xr.Dataset, height: float) -> tuple[Figure, list[tuple[str, Axes, xr.Dataset]]]:
    """A figure with a panel a task, and each task with its panel and its heads."""
    tasks = list(dict.fromkeys(results.task.values))
    figure, (axes,) = panels(len(tasks), width=3.6 if len(tasks) > 1 else 5.5, height=height)
    return figure, [(task, ax, results.sel(row=results.task == task)) for task, ax in zip(tasks, axes, strict=True)]


def _training_exhibit(results: xr.Dataset) -> Exhibit:
    """Accuracy, sparseness with its null, and alignment, a panel a task."""
    figure, parts = _by_task(results, 3.8)
    lines = (
        ("accuracy", "black", "-", "accuracy"),
        ("functional_cosine", COLOURS[0], "-", "functional cosine with the prediction (T16)"),
        ("sparseness", COLOURS[1], "-", "sparseness S of relative attention"),
        ("null_sparseness", GREY, "--", "S of random heads on the same tokens"),
    )
    for task, ax, heads in parts:
        for name, colour, style, label in lines:
            ax.plot(results.step, heads[name].median("row"), style, marker=".", color=colour, label=label)
            low, high = heads[name].quantile([0.25, 0.75], "row").values
            ax.fill_between(results.step, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.set(title=f"{task}, {heads.sizes['row']} heads", xlabel="training step", ylim=(-0.05, 1.03))
        ax.set_xscale("symlog", linthresh=results.step.values[1])
        ax.set_xlim(0, results.step.values[-1])
    parts[0][1].set_ylabel("median and quartiles over heads")
    lines = parts[0][1].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=2 if len(parts) > 1 else 1)
    return Exhibit(figure, "What emerges when, over the heads that end up doing a match.")


def _tau_exhibit(results: xr.Dataset) -> Exhibit:
    """The fitted training time of every head against the step, marked where it can be read."""
    figure, parts = _by_task(results.isel(step=slice(1, None)), 3.6)
    for task, ax, heads in parts:
        for head in places(heads, "row"):
            tau, read = head.tau.values, head.tau_read.values
            ax.plot(head.step, tau, color=GREY, alpha=0.4, linewidth=0.6)
            ax.plot(head.step[read], tau[read], "o-", color=COLOURS[0], alpha=0.6, markersize=4, linewidth=1)
        correlation = heads.tau_rank_correlation.median().item()
        ax.set(title=f"{task}\nmedian rank correlation {correlation:.2f}", xlabel="training step")
        ax.set(xscale="log", yscale="log")
        ax.xaxis.set_minor_formatter(NullFormatter())
    parts[0][1].set_ylabel("fitted training time tau (T17)")
    return Exhibit(
        figure,
        "The one fitted number of T16, head by head, against the training step actually reached; points where it can be"
        " read, from where the prediction explains the head until the task is learned.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
