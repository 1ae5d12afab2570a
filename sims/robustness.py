"""Robustness (the paper's appendix A): alignment over coupling, features, context, head dimension, density and seeds.

One knob at a time is turned away from a common setting, and features, autoencoder and head are trained together on one
matched pair. For each value: the lower |cos| of the first singular vectors with the two matched features, its mean over
seeds with a 95 % confidence interval (Student's t), and what theory expects of the features that training arrived at.

Rules, set before the run, for each value: mean alignment at least 0.9; mean |predicted - trained| alignment at most
0.02.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import scipy.stats
import xarray as xr

from sims.lab.command import command
from sims.lab.rules import Rule, judged
from sims.lab.sweep import each
from sims.models.toys import ToyConfig, compared, problems, train_toys
from sims.single_pair import template
from svtheory import chance_alignment
from svtheory.reports.options import above
from svtheory.reports.plotting import COLOURS, chance_line, measured, panels
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

THEOREMS = ("T6",)
CONFIDENCE = 0.95
ALIGNED = Rule("mean", ">=", 0.9)
FORESEEN = Rule("mean", "<", 0.02)
SIDES = {"expected": "expected_cosine", "trained": "cosine"}
AXES = {
    "coupling": "weight of the attention loss",
    "n_features": "features N",
    "n_keys": "keys m in a context",
    "head_dim": "head dimension H",
    "probability": "probability p of a feature",
}


@dataclass(frozen=True)
class Config(ToyConfig):
    """Options of the experiment; each knob's values are run at the common setting of the others."""

    ARRAYS = (
        *ToyConfig.ARRAYS,
        "members features features",
        "members dim features",
        "members head_dims dim",
        "batch n_keys features",
        "batch contexts n_features",
    )

    strength: Annotated[float, above(0)] = 20.0
    """Target logit of the matched pair."""
    couplings: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    """Values of the weight lambda of the attention loss."""
    features: tuple[int, ...] = (12, 20, 30, 40)
    """Values of N."""
    contexts: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Values of m."""
    head_dims: tuple[int, ...] = (2, 5, 10)
    """Values of H."""
    probabilities: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.5)
    """Values of p."""

    def __post_init__(self):
        super().__post_init__()
        self.settings()  # each toy keeps the limits of its own options

    def settings(self) -> list[tuple[str, float, ToyConfig]]:
        """Every (knob, value, toy) of the grid."""
        common = ToyConfig(**{field.name: getattr(self, field.name) for field in fields(ToyConfig)})
        values = (self.couplings, self.features, self.contexts, self.head_dims, self.probabilities)
        return [(knob, x, replace(common, **{knob: x})) for knob, some in zip(AXES, values, strict=True) for x in some]


PAPER = Config(members=8)
SCALES = {
    "quick": replace(
        PAPER,
        members=3,
        steps=1500,
        rate=3e-3,
        couplings=(0.3, 3.0),
        features=(30,),
        contexts=(16,),
        head_dims=(2,),
        probabilities=(0.05,),
    ),
    "paper": PAPER,
    "full": replace(PAPER, members=256, batch=1024),
}


def run(config: Config, folder: Path) -> Outcome:
    """Train every setting, those of one shape together; predict from the features, compare."""
    by_shape, settings = defaultdict(list), config.settings()
    for number, (_, _, toy) in enumerate(settings):
        by_shape[toy.n_features, toy.n_keys, toy.head_dim].append(number)
    tables = [
        trained(config, [settings[number] for number in numbers], checkpoints(folder) / "-".join(map(str, shape)))
        for shape, numbers in by_shape.items()
    ]
    results = xr.concat(tables, "setting").isel(setting=np.argsort(np.concatenate(list(by_shape.values()))))
    rows = list(table_rows(config, results))
    return Outcome(summary(config, results), results, {"robustness": exhibit(config, results)}, rows)


def trained(config: Config, settings: list[tuple[str, float, ToyConfig]], checkpoint: Path) -> xr.Dataset:
    """Expected and trained alignment, by setting and seed, of toys of one shape."""
    knobs, values, toys = zip(*settings, strict=True)
    p, coupling = (
        jnp.repeat(jnp.array([getattr(toy, name) for toy in toys], float), config.members)
        for name in ("probability", "coupling")
    )
    asked = problems(toys[0], template(toys[0], jnp.array(config.strength, float)), p, coupling)
    parameters, _ = train_toys(toys[0], asked, checkpoint)
    found = each(lambda *toy: compared(toys[0], *toy).cosines(0, 0, 1), parameters, asked)
    lower = {name: jnp.minimum(found[f"{key}_query"], found[f"{key}_key"]) for name, key in SIDES.items()}
    return xr.Dataset(
        {name: (("setting", "seed"), np.asarray(x).reshape(len(toys), config.members)) for name, x in lower.items()},
        {"knob": ("setting", list(knobs)), "value": ("setting", np.array(values, float))},
    )


def half_width(x: np.ndarray) -> float:
    """Half the confidence interval of the mean of x."""
    return float(scipy.stats.sem(x) * scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 1))


def table_rows(config: Config, results: xr.Dataset) -> Iterator[dict[str, Any]]:
    """Two rows a setting: how aligned, and how well foreseen."""
    chance = chance_alignment(config.dim)
    for number in range(results.sizes["setting"]):
        here = results.isel(setting=number)
        off = np.abs(here.trained - here.expected)
        for what, x, level, rule in (
            ("|cos|", here.trained.values, chance, ALIGNED),
            ("|predicted - trained|", off.values, None, FORESEEN),
        ):
            setting = {"knob": AXES[here.knob.item()], "setting": here.value.item(), "quantity": what}
            yield setting | {"mean": x.mean(), "95 % +-": half_width(x), "chance": level} | judged(rule, x)


def summary(config: Config, results: xr.Dataset) -> dict[str, Any]:
    """Headline figures."""
    means = results.trained.mean("seed")
    worst = results.isel(setting=means.values.argmin())
    return {
        "settings": results.sizes["setting"],
        "heads": results.trained.size,
        "alignment_mean": results.trained.mean().item(),
        "alignment_mean_lowest_setting": means.min().item(),
        "lowest_setting": f"{worst.knob.item()} = {worst.value.item():g}",
        "mean_absolute_error_cosine": np.abs(results.trained - results.expected).mean().item(),
        "chance_cosine": chance_alignment(config.dim),
    }


def exhibit(config: Config, results: xr.Dataset) -> Exhibit:
    """Alignment by knob."""
    figure, axes = panels(columns=len(AXES), width=3.4)
    for ax, (knob, label) in zip(axes[0], AXES.items(), strict=True):
        some = results.sel(setting=results.knob == knob).sortby("value")
        widths = [half_width(x) for x in some.trained.values]
        # the bar shows where a line of one value would not
        ax.plot(some.value, some.expected.mean("seed"), color=COLOURS[1], marker="_", markersize=16, label="predicted")
        measured(ax, some.value, some.trained.mean("seed"), widths, label="trained, 95 %")
        chance_line(ax, chance_alignment(config.dim))
        ax.set(xlabel=label, xscale="log", ylim=(0, 1.05))
        ax.set_xticks(some.value.values, [f"{x:g}" for x in some.value.values])
        ax.minorticks_off()
    axes[0, 0].set_ylabel("lower |cos| of the two sides")
    axes[0, 0].legend(fontsize=8)
    return Exhibit(
        figure,
        "Alignment of the first singular vectors with the matched features, one knob at a time: trained heads with "
        "confidence intervals over seeds on what theory expects of their features.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
