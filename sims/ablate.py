"""Ablation: do the predicted directions cause attention?

A head that does a match (mean weight on the right key at least 0.9) is predicted by T16 from what it reads; then the
head's reads lose the k strongest predicted directions, `W_Q (I - U_k U_k^T)` and `W_K (I - V_k V_k^T)`, and the model
is run again. Controls remove as many directions: random ones of the residual space; random ones inside the predicted
subspace, which tend to the predicted ones by construction as k grows; and the next k singular pairs of the head itself.

Prediction: the predicted directions carry the match, so that attention to the right key falls; a random direction of
D dimensions carries about 1/D of it. Rule: at k = 1, 2 and 4 the mean loss of attention over heads is at least 5 times
that of random directions. Intervals are 95 %, from a bootstrap over models.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from sims.lab.command import command
from sims.models.tasks import TASKS
from sims.models.trained import Trained, TransformerOptions, trained
from sims.models.trained_heads import ATTENDS, TrainedHead, ablated, explanation, none_attends, run_on
from svtheory import Explanation
from svtheory.instruments.survey import side_by_side
from svtheory.reports.options import at_least
from svtheory.reports.plotting import COLOURS, measured, panels
from svtheory.reports.runs import Exhibit, Outcome

THEOREMS = ("T16",)
COUNTS = (1, 2, 4)
KINDS = ("predicted", "random", "inside", "next pairs")
LABELS = ("strongest predicted", "random, residual space", "random, predicted subspace", "head's next singular pairs")
RATIO = 5
SIGNIFICANT = 1e-3  # predicted singular values above this share of the first span the predicted subspace


@dataclass(frozen=True)
class Config(TransformerOptions):
    """Options of the experiment."""

    ARRAYS = (*TransformerOptions.ARRAYS, "sequences 64 8", "random sequences", "resamples members 8")

    sequences: Annotated[int, at_least(64)] = 512
    """Sequences on which heads are read and run."""
    random: Annotated[int, at_least(1)] = 8
    """Random removals of each kind and number."""
    resamples: Annotated[int, at_least(100)] = 2000
    """Bootstrap samples behind an interval."""


SCALES = {
    "quick": Config(),
    "paper": Config(tuple(TASKS), members=8, steps=2000, resamples=10_000),
    "full": Config(tuple(TASKS), members=64, steps=4000, sequences=4096, random=64, resamples=10_000),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, remove and run again, head by head."""
    heads = [head for task in config.tasks for head in _heads(config, trained(config.recipe(task), folder.parent))]
    if not heads:
        raise none_attends()
    removal = ("row", "kind", "removed")
    results = side_by_side(heads, "row", {"attention": removal[1:], "accuracy": removal[1:]})
    results = results.set_coords(("model", "task", "match")).assign_coords(kind=list(KINDS), removed=list(COUNTS))
    summary = _summary(config, results)
    return Outcome(summary, results, {"ablation": _exhibit(config, results)}, _rows(config, results))


def _heads(config: Config, models: Trained) -> list[dict[str, Any]]:
    """Every head that does a match, intact and with reads removed."""
    found = []
    for member in range(models.recipe.members):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed + 2), member), 3)
        # directions are predicted on some sequences and removed on others
        seen, fresh = (run_on(models, member, models.recipe.given.sample(key, config.sequences)) for key in keys[:2])
        for head, tested in zip(seen.heads, fresh.heads, strict=True):
            if head.attention(head.match) >= ATTENDS:
                found.append(_head(config, models, head, tested, keys[2]))
    return found


def _head(config: Config, models: Trained, head: TrainedHead, tested: TrainedHead, key: Array) -> dict[str, Any]:
    """Attention and accuracy of one head, arrays (kinds, counts), random removals averaged."""
    found = explanation(head, models.recipe.given.hypotheses[head.match], head.match, key, draws=1)
    removals = [_removals(found, k, key, config.random) for k in COUNTS]
    nothing = jnp.zeros((1, head.reads.shape[0], 1))
    stacks = [(nothing, nothing), *(stack for removal in removals for stack in removal.values())]
    after = ablated(models, tested, *([one for stack in stacks for one in stack[side]] for side in (0, 1)))
    bounds = np.cumsum([len(stack[0]) for stack in stacks])[:-1]
    (intact, *seen), (right, *answered) = ([part.mean() for part in np.split(x, bounds)] for x in after)
    attention, accuracy = (np.reshape(x, (len(COUNTS), len(KINDS))).T for x in (seen, answered))
    return {
        "row": head.label,
        "model": f"{models.recipe.task} {head.member}",
        "task": models.recipe.task,
        "match": head.match,
        "attention": attention,
        "accuracy": accuracy,
        "intact_attention": intact,
        "intact_accuracy": right,
    }


def _removals(found: Explanation, k: int, key: Array, draws: int) -> dict[str, tuple[Array, Array]]:
    """For each kind, orthonormal directions of query and key side, (removals, D, k).

    Where the prediction has fewer than k directions, those it has are removed.
    """
    values = np.asarray(found.predicted.values)
    rank = int((values > SIGNIFICANT * values[0]).sum())
    predicted = found.predicted.left[:, :rank], found.predicted.right[:, :rank]
    keys = jax.random.split(key, 2 * draws).reshape(2, draws)

    def random(keys, basis):
        """Orthonormal directions in the span of `basis`, one set a key."""
        size = basis.shape[1]
        turns = jnp.stack([jax.random.orthogonal(key, size)[:, :k] for key in keys])
        return jnp.matmul(basis[None], turns, precision="highest")

    whole_space = jnp.eye(len(predicted[0]))
    return {
        "predicted": (_padded(predicted[0][None, :, :k], k), _padded(predicted[1][None, :, :k], k)),
        "random": (random(keys[0], whole_space), random(keys[1], whole_space)),
        "inside": (_padded(random(keys[0], predicted[0]), k), _padded(random(keys[1], predicted[1]), k)),
        "next pairs": (found.measured.left[None, :, k : 2 * k], found.measured.right[None, :, k : 2 * k]),
    }


def _padded(directions: Array, k: int) -> Array:
    """With columns of zeros, which remove nothing, up to k."""
    return jnp.pad(directions, ((0, 0), (0, 0), (0, k - directions.shape[2])))


def losses(results: xr.Dataset) -> xr.DataArray:
    """Attention to the right key lost, (row, kind, removed)."""
    return (results.intact_attention - results.attention).transpose("row", "kind", "removed")


def bootstrap(losses: np.ndarray, models: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Mean losses (heads, kinds, counts) of resampled models, (resamples, kinds, counts).

    Heads of one model are not independent.
    """
    names, which = np.unique(models, return_inverse=True)
    sums = np.stack([losses[which == i].sum(axis=0) for i in range(len(names))])
    sizes = np.bincount(which)
    drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    return sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)[:, None, None]


def ratios(config: Config, results: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Loss by predicted over loss by random directions, and its 95 % lower bound, (counts,)."""
    lost = losses(results).values
    mean, resampled = lost.mean(axis=0), bootstrap(lost, results.model.values, config.resamples, config.seed)
    predicted, random = KINDS.index("predicted"), KINDS.index("random")
    low = np.percentile(resampled[:, predicted] / resampled[:, random], 2.5, axis=0)
    return mean[predicted] / mean[random], low


def _summary(config: Config, results: xr.Dataset) -> dict[str, Any]:
    ratio, low = ratios(config, results)
    mean = losses(results).mean("row")
    return {
        "heads": results.sizes["row"],
        "effect_ratio": ratio.min(),
        "effect_ratio_low": low.min(),
        **{f"effect_ratio_{k}": r for k, r in zip(COUNTS, ratio, strict=True)},
        **{f"effect_ratio_low_{k}": r for k, r in zip(COUNTS, low, strict=True)},
        **{
            f"attention_lost_{kind.replace(' ', '_')}_{k}": mean.sel(kind=kind, removed=k).item()
            for kind in KINDS
            for k in COUNTS
        },
    }


def _rows(config: Config, results: xr.Dataset) -> list[dict[str, Any]]:
    """All heads together, then task by task."""
    rows = []
    for task in ("all", *dict.fromkeys(results.task.values)):
        some = results if task == "all" else results.sel(row=results.task == task)
        ratio, low = ratios(config, some)
        mean, accuracy = losses(some).mean("row"), some.accuracy.mean("row")
        for k, r, bound in zip(COUNTS, ratio, low, strict=True):
            rows.append(
                {
                    "task": task,
                    "k": k,
                    "heads": some.sizes["row"],
                    "intact attention": some.intact_attention.mean().item(),
                    **{f"lost, {kind}": mean.sel(kind=kind, removed=k).item() for kind in KINDS},
                    **{f"accuracy, {kind}": accuracy.sel(kind=kind, removed=k).item() for kind in KINDS[:2]},
                    "ratio": r,
                    "95 % lower": bound,
                    "rule": f">= {RATIO}" if task == "all" else "",
                    "holds": bool(r >= RATIO) if task == "all" else None,
                }
            )
    return rows


def _exhibit(config: Config, results: xr.Dataset) -> Exhibit:
    """Attention and accuracy against k, by kind of removal."""
    figure, (axes,) = panels(2, width=5, height=4)
    shifts = np.linspace(-0.09, 0.09, len(KINDS))
    for ax, name, title in zip(
        axes, ("attention", "accuracy"), ("attention to the right key", "accuracy"), strict=True
    ):
        intact = results[f"intact_{name}"].mean().item()
        seen = results[name].transpose("row", "kind", "removed").values
        low, high = np.percentile(
            bootstrap(seen, results.model.values, config.resamples, config.seed), (2.5, 97.5), axis=0
        )
        mean = seen.mean(axis=0)
        for i, label in enumerate(LABELS):
            error = np.maximum([mean[i] - low[i], high[i] - mean[i]], 0)
            measured(ax, np.array(COUNTS) + shifts[i], mean[i], error, color=COLOURS[i], fmt="oshD"[i], label=label)
        ax.axhline(intact, color="black", linewidth=1.2, label="intact")
        ax.set(xlabel="directions removed on each side, k", ylabel=title, ylim=(0, 1.03), xticks=COUNTS)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return Exhibit(
        figure,
        f"{results.sizes['row']} heads, their reads without k directions: means, 95 % intervals over models.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
