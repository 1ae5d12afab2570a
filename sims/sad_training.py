"""Does sparsity emerge in training? S of every head over a series of checkpoints, against random heads (Fig 7b).

MODELS are checkpoints of one model in the order of training: folders of GPT-2, GPT-NeoX or Llama type with --text, or
bundles with attn_in, all of which should have read the same tokens. Without any, a two-layer attention-only transformer
is trained here on the task of induction, and read at snapshots, at all its queries, though answers need few of them.

As in sad, a decision is a query's attention to the key it attends most; S is the Treves-Rolls sparseness of the terms
of its relative attention, 1 for equal magnitudes and 1/K for a single term, and the mean over decisions is a head's. A
head is called sparser than chance when it is sparser than random heads on the same tokens, which keep its singular
values (those of Omega, and those that the data see; the larger p-value counts) and choose their key anew (T22);
p-values are adjusted for the number of heads of the checkpoint (Benjamini and Hochberg), and draws go on until the
verdicts at 0.05 cannot change, or for --draws. Beside it stand the diagnostics of T11: the common rotation keeps every
score, and any head of low rank is sparser than it; independent rotations of U and V, the paper's control, forget the
choice of the key. Standard errors are over heads in the mean, over sequences for a head.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
import xarray as xr
from jax import Array
from matplotlib.axes import Axes

from sims.lab.command import command
from sims.lab.sources import read_heads
from sims.models.trained import Recipe, bundle, trained
from sims.models.trained_heads import run_on
from svtheory import HeadBundle
from svtheory.checks import InputError
from svtheory.heads.random_heads import NULLS
from svtheory.instruments import sparser
from svtheory.instruments.survey import PLACE, layer_colours, places
from svtheory.reports.options import Options, at_least
from svtheory.reports.plotting import COLOURS, GREY, measured, panels
from svtheory.reports.runs import Exhibit, Outcome

THEOREMS = ("T11", "T22")
HEADS = 4  # of each layer of the model trained here
SHOWN = {
    "raw": "random heads",
    "balanced": "random heads, balanced",
    "common": "common rotation",
    "independent": "independent rotations",
}
"""Nulls of the table and the figure: two that decide, two diagnostics."""


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    models: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[MODELS]")]] = ()
    """Files of bundles or folders of checkpoints, in the order of training."""
    text: str = ""
    """Text file that checkpoints read."""
    sequences: Annotated[int, at_least(2)] = 24
    """Sequences read, at most."""
    positions: Annotated[int, at_least(2)] = 64
    """Tokens a sequence of the text."""
    draws: Annotated[int, at_least(19)] = 999
    """Random heads behind a p-value, at most."""
    steps: int = 500
    """Steps of the model trained here, a multiple of 100."""
    snapshots: Annotated[int, at_least(1)] = 8
    """Its snapshots, at most, at growing distances."""
    seed: int = 0
    """Seed of training and random heads."""

    def __post_init__(self):
        super().__post_init__()
        if len(self.models) == 1:
            raise InputError(f"MODELS must be a series of at least 2 checkpoints, got only {self.models[0]!r}")
        _ = self.recipe

    @property
    def recipe(self) -> Recipe:
        """What is trained where no models are given."""
        return Recipe("induction", members=1, steps=self.steps, batch=64, seed=self.seed, heads=HEADS)


SCALES = {
    "quick": Config(),
    "paper": Config(steps=4000, snapshots=16, draws=2999, sequences=64),
    "full": Config(steps=20_000, snapshots=40, draws=9999, sequences=256),
}


def run(config: Config, folder: Path) -> Outcome:
    """Decompose every head of every checkpoint, and compare with random heads."""
    first, second = jax.random.split(jax.random.key(config.seed))
    found, shapes = {}, set()
    for name, heads in _series(config, first, folder):
        assert heads.attn_in is not None
        shapes.add(shape := (*heads.W_Q.shape[:2], heads.attn_in.shape[2] - int(heads.scoring.causal)))
        if len(shapes) > 1:
            raise InputError(f"MODELS must be of one shape, got {name!r} with {shape} layers, heads and queries")
        loss = float(heads.metadata.get("loss", "nan"))
        found[name] = sparser.tested(heads, second, config.draws).assign(loss=loss)
    results = xr.concat(list(found.values()), "checkpoint").assign_coords(checkpoint=list(found))
    rows = [_row(checkpoint) for checkpoint in places(results, "checkpoint")]
    return Outcome(_summary(results), results, {"sad_training": _exhibit(results)}, rows)


def _series(config: Config, key: Array, folder: Path) -> Iterator[tuple[str, HeadBundle]]:
    """Name and heads of each checkpoint, one after the other; given ones are read when they are asked for."""
    for i, name in enumerate(config.models):
        yield f"{i + 1}: {Path(name).stem}", read_heads(name, config.text, config.sequences, config.positions)
    if config.models:
        return
    models = trained(config.recipe, folder.parent)
    sampled = config.recipe.given.sample(key, config.sequences)
    for snapshot in np.unique(np.linspace(0, len(models.steps) - 1, config.snapshots + 1).round().astype(int)):
        seen = run_on(models, 0, sampled, snapshot)
        heads = bundle(models, 0, seen.reads, snapshot)
        yield str(models.steps[snapshot]), replace(heads, metadata={**heads.metadata, "loss": f"{seen.loss:.4g}"})


def _row(here: xr.Dataset) -> dict[str, Any]:
    """One checkpoint: S over its heads and the levels of chance."""
    S = here.sparseness.mean(("sequence", "query"))
    random = _of_random_heads(here)
    return {
        "checkpoint": str(here.checkpoint.values),
        "loss (nats)": float(here.loss),
        "S": f"{float(S.mean()):.3f} ± {_error(S.values.ravel()):.3f}",
        **{name: float(here.null_mean.sel(null=null).mean()) for null, name in SHOWN.items()},
        "S / random heads": f"{float((S / random).mean()):.3f} ± {_error((S / random).values.ravel()):.3f}",
        "lowest S": float(S.min()),
        "sparser than chance": f"{int((here.verdict == sparser.SPARSER).sum())} of {S.size}",
        "rotations only": int((here.verdict == sparser.ROTATED).sum()),
        "smallest p": float(here.p_value.min()),
    }


def _of_random_heads(results: xr.Dataset) -> xr.DataArray:
    """Mean S of the sparser of the two kinds of random heads."""
    return results.null_mean.sel(null=list(NULLS)).min("null")


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _summary(results: xr.Dataset) -> dict[str, Any]:
    S = results.sparseness.mean(("sequence", "query"))
    ratio = S / _of_random_heads(results)
    found: dict[str, Any] = {"checkpoints": results.sizes["checkpoint"], "heads": S.isel(checkpoint=0).size}
    for name, i in (("first", 0), ("last", -1)):
        here = results.isel(checkpoint=i)
        found |= {
            f"{name}_sparseness_mean": float(S.isel(checkpoint=i).mean()),
            **{f"{name}_sparseness_{null}_null_mean": float(here.null_mean.sel(null=null).mean()) for null in SHOWN},
            f"{name}_sparseness_over_random_heads_mean": float(ratio.isel(checkpoint=i).mean()),
            **{
                f"{name}_{count}": number for count, number in sparser.counted(here.verdict).items() if count != "heads"
            },
            f"{name}_loss_nats": float(here.loss),
        }
    return found


def _exhibit(results: xr.Dataset) -> Exhibit:
    figure, axes = panels(2, width=5.6)
    _draw_mean(axes[0, 0], results)
    _draw_heads(axes[0, 1], results)
    return Exhibit(
        figure,
        "Left, sparseness averaged over decisions and heads (points, with standard errors over heads) and that of "
        "random heads of the same singular values on the same tokens (lines), beside rotations, which are diagnostics "
        "(dotted). Right, each head over the sparser of its random heads (line: equal); filled points are sparser than "
        "chance, error bars over sequences.",
    )


def _draw_mean(ax: Axes, results: xr.Dataset) -> None:
    flat = results.stack(unit=PLACE).transpose(..., "unit")
    S = flat.sparseness.mean(("sequence", "query"))
    x = np.arange(results.sizes["checkpoint"])
    for (null, name), style in zip(SHOWN.items(), ("-", "--", ":", "-."), strict=True):
        colour = COLOURS[1] if null in NULLS else GREY
        ax.plot(x, flat.null_mean.sel(null=null).mean("unit"), style, color=colour, label=name)
    measured(ax, x, S.mean("unit"), [_error(values) for values in S.values], label="heads")
    _name(ax, results)
    ax.set(ylabel="mean sparseness S", ylim=(0, None))
    ax.legend()


def _draw_heads(ax: Axes, results: xr.Dataset) -> None:
    over_chance = results.assign(sparseness=results.sparseness / _of_random_heads(results))
    heads, colours = list(places(over_chance, *PLACE)), layer_colours(results)
    ax.axhline(1, color=COLOURS[1])
    for i, here in enumerate(heads):
        x = np.arange(results.sizes["checkpoint"]) + 0.5 * (i + 0.5 - len(heads) / 2) / len(heads)
        (y, error), colour = sparser.mean_sparseness(here), colours[int(here.layer)]
        measured(ax, x, y, error, fmt="none", color=colour)
        found = (here.verdict == sparser.SPARSER).values
        ax.plot(x[~found], y[~found], "o", color=colour, markersize=4.5, markerfacecolor="white")
        ax.plot(x[found], y[found], "o", color=colour, markersize=4.5)
    for layer, colour in zip(results.layer.values, colours, strict=True):
        ax.plot([], [], "o", color=colour, label=f"layer {layer}")
    _name(ax, results)
    ax.set(ylabel="S over that of random heads")
    ax.legend(loc="lower left")


def _name(ax: Axes, results: xr.Dataset) -> None:
    names = [str(name) for name in results.checkpoint.values]
    ax.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 6 else 45)
    ax.set(xlabel="checkpoint" if any(":" in name for name in names) else "training steps")


main = command(run, SCALES)

if __name__ == "__main__":
    main()
