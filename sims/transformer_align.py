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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from sims.lab.command import command
from sims.models.readings import (
    ATTENDS,
    HOLDS,
    LEAD,
    Reading,
    centred,
    explanations,
    lead,
    one_hot,
)
from sims.models.readings import run as read
from sims.models.tasks import TASKS
from sims.models.trained import (
    Recipe,
    Trained,
    Trainings,
    bundle,
    trained,
)
from svtheory import Explanation, alignment, chance_alignment, save_heads
from svtheory.checks import InputError, one_of, whole
from svtheory.reports.plotting import COLOURS, GREY, panels
from svtheory.reports.runs import Exhibit, Outcome

LEARNED, MEDIAN, SHARE = 0.99, 0.95, 0.9
OVERLAPS = (1, 4)  # top-k subspaces that are compared
VARIANTS = {
    "plain": {},
    "rotary": {"positions": "rotary"},
    "normalised": {"normalise": True, "biases": True},
}


@dataclass(frozen=True)
class Config(Trainings):
    """Options of the experiment."""

    variants: tuple[str, ...] = ("plain",)
    """Of "plain" (learned positions), "rotary", "normalised" (with biases); the last two on `attributes` alone."""
    sequences: int = 512
    """Sequences on which heads are read."""
    draws: int = 99
    """Random heads and permuted templates."""

    def __post_init__(self):
        super().__post_init__()
        if not self.variants:
            raise InputError("--variants must name at least one")
        for name in self.variants:
            one_of("--variants", name, tuple(VARIANTS))
        for name, least in (("sequences", 64), ("draws", 1)):
            whole(f"--{name}", getattr(self, name), least)

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
    heads, trainings = [], []
    for variant, recipe in config.recipes():
        models = trained(recipe, folder.parent)
        found, accuracy = _read(config, models, folder / "bundles", variant)
        heads += [{"variant": variant, "task": recipe.task, **head} for head in found]
        trainings.append({"variant": variant, "recipe": recipe, "models": models, "accuracy": accuracy})
    results = _results(config, heads)
    figures = {"heads": _functional_figure(heads), "directions": _direction_figure(heads)}
    return Outcome(_summary(heads, trainings), results, figures, _rows(heads, trainings))


def _read(config: Config, models: Trained, bundles: Path, variant: str) -> tuple[list[dict[str, Any]], np.ndarray]:
    """What there is to say about every head of every member; accuracy of every member; bundles are saved."""
    bundles.mkdir(exist_ok=True)
    recipe, heads, accuracy = models.recipe, [], []
    for member in range(recipe.members):
        fresh, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed + 1), member))
        seen = read(models, member, recipe.given.sample(fresh, config.sequences))
        save_heads(bundles / f"{recipe.task}_{variant}_{member}.safetensors", bundle(models, member, seen.reads))
        accuracy.append(seen.accuracy.mean())
        heads += [{"member": member, **_head(head, key, config.draws)} for head in seen.heads]
    return heads, np.array(accuracy)


def _head(reading: Reading, key: Array, draws: int) -> dict[str, Any]:
    """One head against every hypothesis; `true` is the match that it does best."""
    found = explanations(reading, key, draws)
    cosines = {name: float(e.functional_cosine) for name, e in found.items()}
    best, true = max(cosines, key=lambda name: cosines[name]), reading.match
    truth = found[true]
    return {
        "head": reading.name,
        "match": true,
        "attention": reading.attention(true),
        "best": best,
        "query_side": "centred" if centred(reading, reading.recipe.given.hypotheses[true]) else "uncentred",
        "functional_cosine": cosines[true],
        "lead": lead(found, true),
        "lead_over_permuted": float(truth.margin()),
        "explained": cosines[best] >= HOLDS and lead(found, best) >= LEAD,
        "weight_cosine": float(truth.cosine),
        "tau": float(truth.time),
        "p_value": float(truth.p_value),
        "unvisited": float(truth.unvisited),
        **{f"overlap_{k}": float(np.mean(truth.overlap(k))) for k in OVERLAPS},
        **_directions(reading, truth),
        "dim": reading.reads.shape[0],
        "hypotheses": cosines,
    }


def _directions(reading: Reading, truth: Explanation) -> dict[str, float]:
    """Mean over the template's rank of the best |cos| of trained singular vectors with `E[r f_i]`, by side."""
    hypothesis = reading.recipe.given.hypotheses[reading.match]
    rank = min(np.linalg.matrix_rank(hypothesis.template), truth.measured.values.size)
    tokens = np.moveaxis(reading.reads, 0, -1)
    sides = {"query": (truth.measured.left, hypothesis.query, -1), "key": (truth.measured.right, hypothesis.key, 0)}
    found = {}
    for side, (vectors, feature, first) in sides.items():
        values = one_hot(reading.sampled.features[feature][first:], hypothesis.template.shape[side == "key"])
        x = tokens[first:] - (tokens[first:].mean(axis=(0, 1)) if values.shape[-1] > 1 else 0)
        directions = jnp.asarray(np.einsum("nbd,nbf->df", x, values))
        found[f"raw_{side}"] = float(jnp.mean(alignment(vectors[:, :rank], directions).max(axis=1)))
    return found


def _does(heads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [head for head in heads if head["attention"] >= ATTENDS]


def _share(heads: list[dict[str, Any]], holds: str, least: float) -> float:
    return float(np.mean([head[holds] >= least for head in heads])) if heads else float("nan")


def _median(heads: list[dict[str, Any]], name: str) -> float:
    return float(np.median([head[name] for head in heads])) if heads else float("nan")


def _rows(heads: list[dict[str, Any]], trainings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By variant, task and match: how the heads that do it are predicted; then every unexplained head."""
    rows = []
    for training in trainings:
        variant, recipe = training["variant"], training["recipe"]
        mine = [head for head in heads if (head["variant"], head["task"]) == (variant, recipe.task)]
        rows += [
            _row(f"{recipe.task}, {variant}", match, training["accuracy"], [h for h in mine if h["match"] == match])
            for match in sorted({head["match"] for head in mine})
        ]
    return rows


def _row(name: str, match: str, accuracy: np.ndarray, heads: list[dict[str, Any]]) -> dict[str, Any]:
    doing = _does(heads)
    cosine = _median(doing, "functional_cosine")
    return {
        "task": name,
        "match": match,
        "lowest accuracy": accuracy.min(),
        "heads": len(heads),
        "attend": len(doing),
        "functional cos": cosine,
        "s.e.": np.std([h["functional_cosine"] for h in doing], ddof=1) / len(doing) ** 0.5 if len(doing) > 1 else None,
        "lead": _median(doing, "lead"),
        "over permuted": _median(doing, "lead_over_permuted"),
        "weight cos": _median(doing, "weight_cosine"),
        "tau": _median(doing, "tau"),
        **{f"top {k}": _median(doing, f"overlap_{k}") for k in OVERLAPS},
        "raw query": _median(doing, "raw_query"),
        "raw key": _median(doing, "raw_key"),
        "query side": heads[0]["query_side"],
        "unexplained": sum(not head["explained"] for head in heads),
        "holds": bool(cosine >= MEDIAN and _share(doing, "lead", LEAD) >= SHARE) if doing else None,
    }


def _summary(heads: list[dict[str, Any]], trainings: list[dict[str, Any]]) -> dict[str, Any]:
    doing = _does(heads)
    return {
        "heads": len(heads),
        "heads_that_attend": len(doing),
        "median_functional_cosine": _median(doing, "functional_cosine"),
        "share_with_margin": _share(doing, "lead", LEAD),
        "share_with_margin_over_permuted": _share(doing, "lead_over_permuted", LEAD),
        "median_weight_cosine": _median(doing, "weight_cosine"),
        "median_tau": _median(doing, "tau"),
        **{f"median_overlap_{k}": _median(doing, f"overlap_{k}") for k in OVERLAPS},
        "overlap_4_chance": 4 / heads[0]["dim"],
        "raw_direction_chance_cosine": chance_alignment(heads[0]["dim"]),
        "unexplained_share": float(np.mean([not head["explained"] for head in heads])),
        "unexplained_heads": "; ".join(
            f"{h['task']} {h['variant']} {h['member']}:{h['head']}" for h in heads if not h["explained"]
        ),
        "lowest_accuracy": min(training["accuracy"].min() for training in trainings),
        **{
            f"{name}_{training['variant']}_{training['recipe'].task}": value
            for training in trainings
            for name, value in (
                ("members_learned", int((training["accuracy"] >= LEARNED).sum())),
                ("training_wall_s", training["models"].seconds),
                ("training_processor_s", training["models"].processor_seconds),
            )
        },
        "holds": bool(
            _median(doing, "functional_cosine") >= MEDIAN
            and _share(doing, "lead", LEAD) >= SHARE
            and min(training["accuracy"].min() for training in trainings) >= LEARNED
        ),
    }


def _results(config: Config, heads: list[dict[str, Any]]) -> xr.Dataset:
    """One row a head; functional cosines of all hypotheses as one array, NaN where a task lacks one."""
    names = sorted({name for head in heads for name in head["hypotheses"]})
    cosines = np.array([[head["hypotheses"].get(name, np.nan) for name in names] for head in heads])
    columns = {name: ("row", np.array([head[name] for head in heads])) for name in heads[0] if name != "hypotheses"}
    return xr.Dataset(
        columns | {"hypothesis_cosine": (("row", "hypothesis"), cosines)},
        {"hypothesis": names},
        {"attends": ATTENDS, "holds": HOLDS, "lead": LEAD, "sequences": config.sequences},
    )


def _functional_figure(heads: list[dict[str, Any]]) -> Exhibit:
    """Every head: the true hypothesis, its best rival, and what permuted templates reach."""
    kinds = sorted({(head["task"], head["variant"], head["match"]) for head in heads})
    figure, ((ax,),) = panels(width=8.5, height=1.2 + 0.42 * len(kinds))
    rng = np.random.default_rng(0)  # scatter only
    for y, kind in enumerate(reversed(kinds)):
        mine = [head for head in heads if (head["task"], head["variant"], head["match"]) == kind]
        for head in mine:
            level, filled = y + rng.uniform(-0.28, 0.28), head["attention"] >= ATTENDS
            true = head["functional_cosine"]
            ax.plot(true - head["lead_over_permuted"], level, "|", color=GREY, markersize=6)
            ax.plot(true - head["lead"], level, "x", color=COLOURS[1], markersize=4)
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


def _direction_figure(heads: list[dict[str, Any]]) -> Exhibit:
    """Prediction against raw feature directions, and weights against function."""
    figure, ((subspaces, weights),) = panels(2, width=5, height=4)
    doing = _does(heads) or heads
    for colour, task in zip(COLOURS, sorted({head["task"] for head in doing}), strict=False):
        mine = [head for head in doing if head["task"] == task]
        raw = [(head["raw_query"] + head["raw_key"]) / 2 for head in mine]
        subspaces.plot(raw, [head["overlap_4"] for head in mine], "o", color=colour, label=task, alpha=0.8)
        weights.plot(
            [head["weight_cosine"] for head in mine],
            [head["functional_cosine"] for head in mine],
            "o",
            color=colour,
            alpha=0.8,
        )
    subspaces.axhline(4 / doing[0]["dim"], color=GREY, linestyle=":", label="chance")
    subspaces.axvline(chance_alignment(doing[0]["dim"]), color=GREY, linestyle=":")
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
