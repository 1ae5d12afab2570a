"""Trained transformers, their heads predicted before they are opened (T16).

Attention-only transformers are trained on tasks whose features are known at every position. For each head, every
hypothesis of its task ("colour = asked colour") is a template, from which T16 predicts Omega = W_Q^T W_K out of what
the head reads and feature values alone; one number, the training time tau, is fitted. Queries are the positions where
the decision is made, keys are all positions. The query side is uncentred unless the head has a query bias, and always
where every query is the same token (the end token of `largest`): centring would leave nothing there.

A head does the match to whose right key it gives a mean weight of at least 0.9; that match is the true hypothesis, all
others are rivals. A hypothesis holds if its functional cosine is at least 0.8 and 0.2 above every rival's; heads for
which none does are unexplained, whether they do a match or not. Reported beside: the weight cosine, tau, the lead over
permuted templates too, how much of the head's top-k singular subspaces is covered (k/D by chance), and |cos| of
singular vectors with raw feature directions `E[r f_i]`.

Rules: over heads that do a match the median functional cosine is at least 0.95, and in 90 % of them the true hypothesis
leads every rival by at least 0.2. Every task is learned to an accuracy of 0.99 by all its members.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr

from sims.lab.command import command
from sims.models.tasks import TASKS
from sims.models.trained import Recipe, Trained, TransformerOptions, bundle, trained
from sims.models.trained_heads import ATTENDS, HOLDS, LEAD, OVERLAPS, described, run_on, unseen
from svtheory import chance_alignment, save_heads
from svtheory.checks import InputError, one_of
from svtheory.instruments.survey import places, side_by_side
from svtheory.reports.options import at_least
from svtheory.reports.plotting import COLOURS, GREY, panels
from svtheory.reports.runs import Exhibit, Outcome

THEOREMS = ("T16",)
LEARNED, MEDIAN, SHARE = 0.99, 0.95, 0.9
VARIANTS = {
    "plain": {},
    "rotary": {"positions": "rotary"},
    "normalised": {"normalise": True, "biases": True},
}


@dataclass(frozen=True)
class Config(TransformerOptions):
    """Options of the experiment."""

    ARRAYS = (*TransformerOptions.ARRAYS, "sequences 64 8")

    variants: tuple[str, ...] = ("plain",)
    """Of "plain" (learned positions), "rotary", "normalised" (with biases); the last two on `attributes` alone."""
    sequences: Annotated[int, at_least(64)] = 512
    """Sequences on which heads are read."""
    draws: Annotated[int, at_least(1)] = 99
    """Random heads and permuted templates."""

    def __post_init__(self):
        super().__post_init__()
        if not self.variants:
            raise InputError("--variants must name at least one")
        for name in self.variants:
            one_of("--variants", name, tuple(VARIANTS))

    def recipes(self) -> list[tuple[str, Recipe]]:
        """What is trained: every task plain, and the other variants on one of them."""
        return [
            (variant, self.recipe(task, **VARIANTS[variant]))
            for variant in self.variants
            for task in (self.tasks if variant == "plain" else ("attributes",))
        ]


SCALES = {
    "quick": Config(),
    "paper": Config(tuple(TASKS), variants=tuple(VARIANTS), members=8, steps=2000, draws=99),
    "full": Config(tuple(TASKS), variants=tuple(VARIANTS), members=64, steps=4000, sequences=4096, draws=999),
}


def run(config: Config, folder: Path) -> Outcome:
    """Train, read every head, explain it by every hypothesis."""
    found, accuracy = [], {}
    for variant, recipe in config.recipes():
        models = trained(recipe, folder.parent)
        heads, right = _read(config, models, folder / "bundles", variant)
        found += [{"variant": variant, "task": recipe.task, **head} for head in heads]
        accuracy[variant, recipe.task] = models, right
    results = _results(config, found)
    figures = {"heads": _functional_figure(results), "directions": _direction_figure(results)}
    return Outcome(_summary(results, accuracy), results, figures, _rows(results, accuracy))


def _read(config: Config, models: Trained, bundles: Path, variant: str) -> tuple[list[dict[str, Any]], np.ndarray]:
    """What there is to say about every head of every member; accuracy of every member; bundles are saved."""
    bundles.mkdir(exist_ok=True)
    heads, accuracy = [], []
    for member, sampled, key in unseen(models, config.seed + 1, config.sequences):
        seen = run_on(models, member, sampled)
        name = f"{models.recipe.task}_{variant}_{member}.safetensors"
        save_heads(bundles / name, bundle(models, member, seen.reads, tokens=sampled.tokens))
        accuracy.append(seen.accuracy.mean())
        heads += [{"member": member, **described(head, key, config.draws)} for head in seen.heads]
    return heads, np.array(accuracy)


def _results(config: Config, found: list[dict[str, Any]]) -> xr.Dataset:
    """One row a head; functional cosines of all hypotheses as one array, NaN where a task lacks one."""
    of_all = [head.pop("hypotheses") for head in found]
    names = sorted({name for cosines in of_all for name in cosines})
    cosines = np.array([[cosines.get(name, np.nan) for name in names] for cosines in of_all])
    results = side_by_side(found, "row").assign(hypothesis_cosine=(("row", "hypothesis"), cosines), hypothesis=names)
    return results.assign_attrs(attends=ATTENDS, holds=HOLDS, lead=LEAD, sequences=config.sequences)


def _does(heads: xr.Dataset) -> xr.Dataset:
    return heads.sel(row=heads.attention >= ATTENDS)


def _share(holds: xr.DataArray) -> float:
    return float(holds.mean()) if holds.size else float("nan")


def _median(values: xr.DataArray) -> float:
    return float(np.median(values)) if values.size else float("nan")


def _hold(doing: xr.Dataset) -> bool:
    """Whether heads are as predicted."""
    return bool(_median(doing.functional_cosine) >= MEDIAN and _share(doing.lead >= LEAD) >= SHARE)


def _rows(results: xr.Dataset, accuracy: dict[tuple[str, str], Any]) -> list[dict[str, Any]]:
    """By variant, task and match, then all together: how the heads that do it are predicted."""
    rows = []
    for (variant, task), (_, right) in accuracy.items():
        mine = results.sel(row=(results.variant == variant) & (results.task == task))
        for match in sorted(set(mine.match.values)):
            heads = mine.sel(row=mine.match == match)
            side, doing = str(heads.query_side[0].values), _does(heads)
            holds = _hold(doing) if doing.sizes["row"] else None
            rows.append(_row(f"{task}, {variant}", str(match), right.min(), heads, side, holds))
    lowest = min(right.min() for _, right in accuracy.values())
    return [*rows, _row("all", "", lowest, results, "", _hold(_does(results)) and bool(lowest >= LEARNED))]


def _row(name: str, match: str, accuracy: float, heads: xr.Dataset, side: str, holds: bool | None) -> dict[str, Any]:
    doing = _does(heads)
    cosine, n = doing.functional_cosine, doing.sizes["row"]
    return {
        "task": name,
        "match": match,
        "lowest accuracy": accuracy,
        "heads": heads.sizes["row"],
        "attend": n,
        "functional cos": _median(cosine),
        "s.e.": float(cosine.std(ddof=1)) / n**0.5 if n > 1 else None,
        "lead": _median(doing.lead),
        "over permuted": _median(doing.lead_over_permuted),
        "weight cos": _median(doing.weight_cosine),
        "tau": _median(doing.tau),
        **{f"top {k}": _median(doing[f"overlap_{k}"]) for k in OVERLAPS},
        "raw query": _median(doing.raw_query),
        "raw key": _median(doing.raw_key),
        "query side": side,
        "unexplained": int((~heads.explained).sum()),
        "holds": holds,
    }


def _summary(results: xr.Dataset, accuracy: dict[tuple[str, str], Any]) -> dict[str, Any]:
    doing, dim = _does(results), int(results.dim[0])
    unexplained = places(results.sel(row=~results.explained), "row")
    names = [f"{h.task.item()} {h.variant.item()} {int(h.member)}:{h['head'].item()}" for h in unexplained]
    found = {
        "heads": results.sizes["row"],
        "heads_that_attend": doing.sizes["row"],
        "median_functional_cosine": _median(doing.functional_cosine),
        "share_with_margin": _share(doing.lead >= LEAD),
        "share_with_margin_over_permuted": _share(doing.lead_over_permuted >= LEAD),
        "median_weight_cosine": _median(doing.weight_cosine),
        "median_tau": _median(doing.tau),
        **{f"median_overlap_{k}": _median(doing[f"overlap_{k}"]) for k in OVERLAPS},
        "overlap_4_chance": 4 / dim,
        "raw_direction_chance_cosine": chance_alignment(dim),
        "unexplained_share": _share(~results.explained),
        "unexplained_heads": "; ".join(names),
        "lowest_accuracy": min(right.min() for _, right in accuracy.values()),
    }
    for (variant, task), (models, right) in accuracy.items():
        found |= {
            f"members_learned_{variant}_{task}": int((right >= LEARNED).sum()),
            f"training_wall_s_{variant}_{task}": models.seconds,
            f"training_processor_s_{variant}_{task}": models.processor_seconds,
        }
    return found


def _functional_figure(results: xr.Dataset) -> Exhibit:
    """Every head: the true hypothesis, its best rival, and what permuted templates reach."""
    kinds = sorted(set(zip(*(results[name].values for name in ("task", "variant", "match")), strict=True)))
    figure, ((ax,),) = panels(width=8.5, height=1.2 + 0.42 * len(kinds))
    rng = np.random.default_rng(0)  # scatter only
    for y, (task, variant, match) in enumerate(reversed(kinds)):
        mine = (results.task == task) & (results.variant == variant) & (results.match == match)
        for head in places(results.sel(row=mine), "row"):
            level, filled = y + rng.uniform(-0.28, 0.28), head.attention >= ATTENDS
            true = head.functional_cosine
            ax.plot(true - head.lead_over_permuted, level, "|", color=GREY, markersize=6)
            ax.plot(true - head.lead, level, "x", color=COLOURS[1], markersize=4)
            ax.plot(true, level, "o", color=COLOURS[0], markersize=5, fillstyle="full" if filled else "none")
    ax.axvline(MEDIAN, color="black", linestyle="--", linewidth=1.2)
    ax.set(xlim=(-0.1, 1.02), ylim=(-0.6, len(kinds) - 0.4), xlabel="functional cosine of predicted and trained Omega")
    ax.set_yticks(range(len(kinds)), [_label(*kind) for kind in reversed(kinds)])
    for marker, colour, label in (
        ("o", COLOURS[0], "true hypothesis (hollow: head attends less than 0.9)"),
        ("x", COLOURS[1], "best rival"),
        ("|", GREY, "best permuted template"),
    ):
        ax.plot([], [], marker, color=colour, label=label)
    ax.plot([], [], "--", color="black", linewidth=1.2, label=f"rule for the median, {MEDIAN}")
    figure.legend(loc="outside lower center", ncols=2)
    return Exhibit(
        figure,
        "Each head of each model, predicted from what it reads and the match that it does, beside the best rival "
        "hypothesis and the best permuted template, each at its own best training time.",
    )


def _label(task: str, variant: str, match: str) -> str:
    return f"{task}{'' if variant == 'plain' else f' ({variant})'}: {match}"


def _direction_figure(results: xr.Dataset) -> Exhibit:
    """Prediction against raw feature directions, and weights against function."""
    figure, ((subspaces, weights),) = panels(2, width=5, height=4)
    doing, dim = _does(results), int(results.dim[0])
    doing = doing if doing.sizes["row"] else results
    for colour, task in zip(COLOURS, sorted(set(doing.task.values)), strict=False):
        mine, style = doing.sel(row=doing.task == task), {"color": colour, "alpha": 0.8}
        subspaces.plot((mine.raw_query + mine.raw_key) / 2, mine.overlap_4, "o", label=task, **style)
        weights.plot(mine.weight_cosine, mine.functional_cosine, "o", **style)
    subspaces.axhline(4 / dim, color=GREY, linestyle=":", label="chance")
    subspaces.axvline(chance_alignment(dim), color=GREY, linestyle=":")
    subspaces.set(xlabel="|cos| of singular vectors with raw feature directions", xlim=(0, 1), ylim=(0, 1.02))
    subspaces.set_ylabel("predicted share of the top-4 subspaces")
    weights.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    weights.set(xlabel="cosine of weights", ylabel="functional cosine", xlim=(0, 1.02), ylim=(0, 1.02))
    subspaces.legend(loc="upper left")
    return Exhibit(
        figure,
        "Left: how much of a head's top four singular directions the prediction covers, against how near single "
        "singular vectors are to single raw features. Right: weights keep what data never visits, function does not.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
