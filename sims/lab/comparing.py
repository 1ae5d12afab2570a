"""Comparing: heads of transformers that look for the next larger number, held against a family of orders (T16, T20).

Such a head must prefer near numbers, and by how much is for training to find: a family of decaying orders, the best of
which is the prediction, is one hypothesis. Its first modes are compared with the head's as the data see them (T22).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes

from sims.lab.rules import Rule, row
from sims.models.tasks import reaches
from sims.models.trained import Trained
from sims.models.trained_heads import TrainedHead, explanation, inputs, run_on, unseen
from svtheory import Explanation, balanced_spectrum
from svtheory.instruments.survey import side_by_side
from svtheory.reports.plotting import COLOURS, GREY, panels
from svtheory.reports.runs import Exhibit
from svtheory.spectra import Tokens

MATCH = "next larger"
LEARNED, EXPLAINED, CHANCE = Rule("lowest", ">=", 0.99), Rule("lowest", ">=", 0.9), Rule("highest", "<=", 0.01)
LEAD, ALIKE, ABOVE = Rule("lowest", ">=", 0.2), Rule("median", ">=", 0.9), Rule("lowest", ">=", 0.0)
MODES, RANDOM = 2, 1000
SIDES = ("query", "key")
PATTERN = ("side", "mode")
AXES = {"rival_cosine": ("rival",), **dict.fromkeys(("pattern", "pattern_chance", "pattern_high"), PATTERN)}


def compared(models: Trained, seed: int, sequences: int, draws: int, resamples: int) -> xr.Dataset:
    """Of every head, along `transformer`, what the family explains, its rivals, and modes along `side` and `mode`."""
    found = []
    for member, sampled, key in unseen(models, seed, sequences):
        seen = run_on(models, member, sampled)
        found += [{"accuracy": seen.accuracy.mean(), **_read(head, key, draws, resamples)} for head in seen.heads]
    rivals = [name for name in models.recipe.given.hypotheses if name != MATCH]
    names = {"rival": rivals, "side": list(SIDES), "mode": np.arange(MODES) + 1}
    return side_by_side(found, "transformer", AXES).assign_coords(names)


def _read(head: TrainedHead, key: Array, draws: int, resamples: int) -> dict[str, Any]:
    """What the family explains of a head, beside its rivals and permuted families, each at its own best."""
    hypotheses = dict(head.recipe.given.hypotheses)
    truth = explanation(head, hypotheses.pop(MATCH), MATCH, key, draws, resamples)
    rivals = [explanation(head, other, MATCH, key, 1).functional_cosine for other in hypotheses.values()]
    low, high = truth.interval()
    return {
        "attention": head.attention(MATCH),
        "functional_cosine": float(truth.functional_cosine),
        "low": float(low),
        "high": float(high),
        "p_value": float(truth.p_value),
        "reach": reaches(head.recipe.given.vocabulary)[int(truth.member)],
        "permuted_cosine": float(jnp.nanmax(truth.rivals)),
        "rival_cosine": np.array(rivals, float),
        **_patterns(head, truth, key),
    }


def _patterns(head: TrainedHead, truth: Explanation, key: Array) -> dict[str, np.ndarray]:
    """|cos| of the first patterns with the predicted ones, (side, mode); mean and 95 % point of random modes'."""
    query, keys = map(jnp.asarray, inputs(head, MATCH))
    tokens = query - head.biased * query.mean(axis=0)[None], keys - keys.mean(axis=0)[None]
    size = jnp.sqrt(truth.predicted.values)[None]
    factors = (truth.predicted.left * size).T, (truth.predicted.right * size).T
    moments = [Tokens(x) for x in tokens]
    predicted = balanced_spectrum(*factors, *moments)
    own = balanced_spectrum(head.weights.W_Q, head.weights.W_K, *moments)
    found = []
    for side, x, draw in zip(SIDES, tokens, jax.random.split(key), strict=True):
        told, seen = (np.asarray(getattr(modes, f"{side}_patterns"))[:, :MODES] for modes in (predicted, own))
        # of a random mode: a combination of the tokens, which their moment's root makes of any direction
        chance = _cosines(told, np.asarray(x.T @ jax.random.normal(draw, (len(x), RANDOM), x.dtype)))
        found.append((_cosines(told, seen).diagonal(), chance.mean(axis=1), np.quantile(chance, 0.95, axis=1)))
    names = "pattern", "pattern_chance", "pattern_high"
    return {name: np.stack(sides) for name, sides in zip(names, zip(*found, strict=True), strict=True)}


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|cos| of columns."""
    a, b = (x / np.linalg.norm(x, axis=0) for x in (a, b))
    return np.abs(a.T @ b)


def rows(heads: xr.Dataset) -> list[dict[str, Any]]:
    """Lines of the table: each rule over all transformers, the lead over each rival."""
    labels = {"template": "decaying order", "features": "numbers", "objective": "transformer", "t": None}
    labels |= {"heads": heads.sizes["transformer"]}
    found = heads.functional_cosine
    leads = {str(name): found - heads.rival_cosine.sel(rival=name) for name in heads.rival.values}
    leads["best permuted family"] = found - heads.permuted_cosine
    held = [
        ("accuracy", heads.accuracy, LEARNED),
        ("functional cosine", found, EXPLAINED),
        ("p", heads.p_value, CHANCE),
    ]
    held += [(f"lead over {name}", lead, LEAD) for name, lead in leads.items()]
    held += [("|cos| of patterns", heads.pattern, ALIKE)]
    held += [("the same, above 95 % of random modes", heads.pattern - heads.pattern_high, ABOVE)]
    return [row(name, x.values, rule, **labels) for name, x, rule in held]


def summary(heads: xr.Dataset) -> dict[str, Any]:
    """Medians over the transformers."""
    patterns = {
        f"median_{side}_pattern_{mode}{name}": heads[f"pattern{name}"].sel(side=side, mode=mode).median().item()
        for side in heads.side.values
        for mode in heads["mode"].values
        for name in ("", "_chance")
    }
    found = ("functional_cosine", "low", "high", "permuted_cosine", "reach", "attention", "accuracy")
    rivals = {
        f"median_cosine_{x.rival.item().replace(' ', '_')}": x.item() for x in heads.rival_cosine.median("transformer")
    }
    return {f"median_transformer_{name}": heads[name].median().item() for name in found} | rivals | patterns


def exhibit(heads: xr.Dataset) -> Exhibit:
    """Functional cosines beside rivals, and patterns beside chance."""
    figure, ((cosines, patterns),) = panels(2, width=5.2, height=3.9)
    _draw_rivals(cosines, heads)
    _draw_patterns(patterns, heads)
    return Exhibit(
        figure,
        "Transformers that find the next larger number. Left, functional cosine of each head with the family of "
        "decaying orders (interval of 95 %) and with its rivals, each at its own best. Right, |cos| of the first two "
        "balanced patterns with predicted ones, and of random modes in the same tokens (bars from mean to 95 %).",
    )


def _draw_rivals(ax: Axes, heads: xr.Dataset) -> None:
    spread = np.linspace(-0.2, 0.2, heads.sizes["transformer"])
    found = heads.functional_cosine.values
    error = np.abs(np.stack([heads.low, heads.high]) - found[None])
    names = ["decaying order", *heads.rival.values, "best permuted family"]
    ax.errorbar(spread, found, error, fmt="o", color=COLOURS[0], markersize=4, capsize=2)
    for place, x in enumerate((*heads.rival_cosine.transpose("rival", ...).values, heads.permuted_cosine.values), 1):
        ax.plot(place + spread, x, "x", color=COLOURS[1], markersize=5)
    ax.axhline(EXPLAINED.bound, color="black", linestyle="--", linewidth=1.2, label="rule for the lowest")
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set(ylabel="functional cosine", ylim=(-0.25, 1.03))
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    ax.legend(loc="lower right", fontsize=8)


def _draw_patterns(ax: Axes, heads: xr.Dataset) -> None:
    kinds = [(side, mode) for side in heads.side.values for mode in heads["mode"].values]
    spread = np.linspace(-0.2, 0.2, heads.sizes["transformer"])
    for place, (side, mode) in enumerate(kinds):
        at = heads.sel(side=side, mode=mode)
        low, high = at.pattern_chance.mean().item(), at.pattern_high.mean().item()
        ax.fill_between([place - 0.3, place + 0.3], low, high, color=GREY, alpha=0.4, linewidth=0,
                        label="random modes" if place == 0 else None)  # fmt: skip
        ax.plot(place + spread, at.pattern, "o", color=COLOURS[0], markersize=4, label="heads" if place == 0 else None)
    ax.axhline(ALIKE.bound, color="black", linestyle="--", linewidth=1.2, label="rule for the median")
    ax.set(xlabel="side and mode", ylabel="|cos(predicted, trained pattern)|", ylim=(0, 1.03))
    ax.set_xticks(range(len(kinds)), [f"{side} {mode}" for side, mode in kinds])
    ax.legend(loc="lower center", ncols=3, fontsize=8)
