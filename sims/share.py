"""More matches than heads: how matches are divided among heads.

Objects have four attributes that a query asks about, and a model has from one to six heads. A head that attends to the
objects of g matches alike gives each 1/g, and its output cannot say which object was which: of their g sizes the most
common one is the best answer. Dividing 4 matches among H heads without further tricks, sharing g matches costs g ln g
nats in all, so that the best division is as even as possible: with 2 heads 2 + 2. That is the prediction, with the
accuracy that it gives. Heads can do better: with one match in several heads, half and half with another match each,
what these heads agree on is its answer and what is left over the others'.

Measured: the attention of every head to the right key of every match, the squared functional cosine of every match's
template (T16), their effective number per head `1/sum p^2`, p the squared cosines over their sum, and accuracy.

Rules: as many heads as matches, and more, have an accuracy of at least 0.99; with fewer heads accuracy is within 0.05
of the prediction. Where it is above, heads share matches between them.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import xarray as xr

from sims.lab.command import command
from sims.models.tasks import Batch
from sims.models.trained import Recipe, Trained, trained
from sims.models.trained_heads import explanation, run_on, unseen
from svtheory.checks import InputError
from svtheory.instruments.survey import places
from svtheory.reports.options import Options, at_least
from svtheory.reports.plotting import COLOURS, measured, panels
from svtheory.reports.runs import Exhibit, Outcome

THEOREMS = ()  # its rules are about accuracy; heads are read by T16
TASK = "many_attributes"
LEARNED, TOLERANCE = 0.99, 0.05


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    ARRAYS = ("members 100 4096", "heads 4096 100", "sequences 64 8")

    heads: Annotated[tuple[int, ...], at_least(1)] = (2, 4)
    """Numbers of heads, one ensemble each; there are four matches."""
    members: Annotated[int, at_least(2)] = 2
    """Members (seeds) of each ensemble."""
    steps: int = 800
    """Training steps, a multiple of 100."""
    sequences: Annotated[int, at_least(64)] = 512
    """Sequences on which heads are read."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self):
        super().__post_init__()
        if len(set(self.heads)) < len(self.heads):
            raise InputError(f"--heads must be distinct numbers, got {self.heads}")
        _ = recipes(self)


def recipes(config: Config) -> list[Recipe]:
    """One ensemble for each number of heads."""
    alike = Recipe(TASK, members=config.members, steps=config.steps, seed=config.seed)
    return [replace(alike, heads=heads) for heads in config.heads]


SCALES = {
    "quick": Config(),
    "paper": Config((1, 2, 3, 4, 6), members=8, steps=2000),
    "full": Config((1, 2, 3, 4, 5, 6, 8), members=64, steps=4000, sequences=4096),
}


def division(matches: int, heads: int) -> list[int]:
    """How many matches share the head of each match when they are divided as evenly as possible.

    >>> division(4, 3), division(4, 6)
    ([2, 2, 1, 1], [1, 1, 1, 1])
    """
    sizes = [matches // heads + (h < matches % heads) for h in range(heads)]
    return [size for size in sizes for _ in range(size)]


def predicted_accuracy(sampled: Batch, heads: int) -> float:
    """Mean accuracy when every head answers all its matches by the most common of their answers."""
    answers, right, match = np.asarray(sampled.answers), 0.0, 0
    while match < len(answers):
        shared = division(len(answers), heads)[match]
        group = answers[match : match + shared]
        # over the questions of a group, its most common answer is right as often as it occurs
        right += (group[:, None] == group[None]).sum(axis=1).max(axis=0).mean()
        match += shared
    return right / len(answers)


def run(config: Config, folder: Path) -> Outcome:
    """Train with each number of heads; say which head does how much of which match."""
    found = {recipe.heads: _read(config, trained(recipe, folder.parent)) for recipe in recipes(config)}
    results = xr.concat(
        [models.expand_dims(heads=[heads]) for heads, models in found.items()], "heads", join="outer", fill_value=np.nan
    )
    figures = {"accuracy": _accuracy_exhibit(results), "division": _division_exhibit(results)}
    return Outcome(_summary(results), results, figures, _rows(results))


def _read(config: Config, models: Trained) -> xr.Dataset:
    """Accuracy of every member and question; attention and functional cosine of every head and match."""
    recipe = models.recipe
    matches, hypotheses = list(recipe.given.sample(jax.random.key(0), 1).right), recipe.given.hypotheses
    accuracy, attention, cosine, predicted = [], [], [], []
    for member, sampled, key in unseen(models, config.seed + 4, config.sequences):
        seen = run_on(models, member, sampled)
        accuracy.append(seen.accuracy)
        attention.append([[head.attention(match) for match in matches] for head in seen.heads])
        found = [[explanation(head, hypotheses[m], m, key, draws=1) for m in matches] for head in seen.heads]
        cosine.append([[float(e.functional_cosine) for e in of_head] for of_head in found])
        predicted.append(predicted_accuracy(sampled, len(seen.heads)))
    by_head = ("member", "head", "match")
    return xr.Dataset(
        {
            "accuracy": (("member", "match"), np.array(accuracy)),
            "attention": (by_head, np.array(attention)),
            "functional_cosine": (by_head, np.array(cosine)),
            "predicted_accuracy": ("member", np.array(predicted)),
        },
        {"match": matches, "head": range(len(attention[0])), "member": range(recipe.members)},
    )


def effective_matches(results: xr.Dataset) -> xr.DataArray:
    """`1/sum_m p_m^2` of every head, `p_m` its squared positive functional cosines over their sum; NaN without any."""
    squared = results.functional_cosine.clip(min=0) ** 2
    total = squared.sum("match", skipna=False)
    return 1 / ((squared / total.where(total > 0)) ** 2).sum("match", skipna=False)


def _rows(results: xr.Dataset) -> list[dict[str, Any]]:
    return [_row(models) for models in places(results, "heads")]


def _row(models: xr.Dataset) -> dict[str, Any]:
    heads, matches = int(models.heads), models.sizes["match"]
    accuracy = models.accuracy.mean("match").values
    predicted = models.predicted_accuracy.mean().item()
    mean = accuracy.mean()
    rule = f">= {LEARNED}" if heads >= matches else f"within {TOLERANCE} of predicted"
    return {
        "heads": heads,
        "predicted accuracy": predicted,
        "accuracy": mean,
        "s.e.": accuracy.std(ddof=1) / len(accuracy) ** 0.5,
        "lowest match": models.accuracy.mean("member").min().item(),
        "predicted matches a head": matches / heads if heads < matches else 1.0,
        "effective matches a head": effective_matches(models).mean().item(),
        "largest attention a match": models.attention.max("head").mean().item(),
        "heads a match (> 1/4)": (models.attention > 0.25).sum("head").mean().item(),
        "rule": rule,
        "holds": bool(mean >= LEARNED if heads >= matches else abs(mean - predicted) <= TOLERANCE),
    }


def _summary(results: xr.Dataset) -> dict[str, Any]:
    rows = _rows(results)
    return {
        **{f"accuracy_{row['heads']}_heads": row["accuracy"] for row in rows},
        **{f"predicted_accuracy_{row['heads']}_heads": row["predicted accuracy"] for row in rows},
        **{f"effective_matches_{row['heads']}_heads": row["effective matches a head"] for row in rows},
    }


def _accuracy_exhibit(results: xr.Dataset) -> Exhibit:
    """Accuracy and effective number of matches against the number of heads."""
    figure, ((accuracy, number),) = panels(2, width=4.8, height=3.8)
    matches, heads = results.sizes["match"], results.heads.values
    accuracy.plot(heads, results.predicted_accuracy.mean("member"), color=COLOURS[1], label="even division, predicted")
    seen = results.accuracy.mean("match")
    measured(
        accuracy, heads, seen.mean("member"), seen.std("member", ddof=1), label="trained, mean and s.d. over seeds"
    )
    accuracy.set(xlabel="heads (4 matches)", ylabel="accuracy", ylim=(0, 1.03), xticks=heads)
    effective = effective_matches(results)
    number.plot(heads, np.maximum(matches / heads, 1), color=COLOURS[1], label="even division, predicted")
    measured(
        number,
        heads,
        effective.mean(("member", "head")),
        effective.std(("member", "head"), ddof=1),
        label="trained, mean and s.d. over heads",
    )
    number.set(xlabel="heads (4 matches)", ylabel="effective matches a head", ylim=(0, matches + 0.5), xticks=heads)
    for ax in (accuracy, number):
        ax.legend(loc="lower right" if ax is accuracy else "upper right")
    return Exhibit(figure, "Four matches divided among heads: accuracy, and how many matches a head does.")


def _division_exhibit(results: xr.Dataset) -> Exhibit:
    """Attention of every head to the right key of every match, first seed."""
    figure, (axes,) = panels(results.sizes["heads"], width=2.6, height=3.6)
    names = [str(match).split(" =")[0] for match in results.match.values]
    for ax, models in zip(axes, places(results.isel(member=0), "heads"), strict=True):
        attention = models.attention.dropna("head").transpose("head", "match")
        ax.imshow(attention, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        ax.set_xticks(range(len(names)), names, rotation=60)
        heads = attention.sizes["head"]
        ax.set(title=f"{heads} head{'s' if heads > 1 else ''}", yticks=range(heads))
        ax.grid(visible=False)
    axes[0].set_ylabel("head")
    figure.colorbar(axes[-1].images[0], ax=axes[-1], label="attention to the right key")
    return Exhibit(
        figure,
        "Mean attention of every head (rows) to the right key of every match (columns), first seed of each size.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
