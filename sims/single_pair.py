"""One matched pair (the paper's Fig 2a): a trained head's first singular pair is the pair of features it was asked for.

Features, autoencoder and head are trained together; feature 0 of the query is matched with feature 1 of a key, target
logit t. The features that training arrived at are then read by the theory, before the trained head is looked at, and
its prediction (T6) is compared with the head: singular vectors, and the singular value at finite logits. Where the
vectors are features and logits are small, T2 says how large it is: t D_0 D_1 / (|w_0||w_1|), with the feature
dimensionalities D; so superposition quantises it.

Rules, set before the run, per target: every seed has |cos(w_0, u_0)| and |cos(w_1, v_0)| of at least 0.97, or 0.99
from t = 20 on; the median |cos| of predicted with trained singular vectors is at least 0.995; from t = 20 on the
second singular value is below 10 % of the first; the median of sigma_1 over its prediction is within 10 % of 1.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sims.lab.command import command
from sims.lab.ensemble import train
from sims.lab.figures import COLOURS, chance_line, measured, panels, predicted_against_measured
from sims.lab.runs import Exhibit, Outcome, checkpoints
from sims.lab.toy import Toy, training
from svtheory import (
    BernoulliUniform,
    Scenario,
    chance_alignment,
    compare,
    feature_dimensionality,
    logit_scale,
    predict,
    single_pair,
    spectrum,
)
from svtheory.checks import InputError, whole

NEAREST = 0.999999  # cosines nearer to 1 are drawn here
CONTEXTS = 20_000  # sampled contexts behind the predicted size at finite logits
STRONG = 20.0  # target logit from which the stricter rules hold
STATISTICS = {"lowest": np.min, "median": np.median, "highest": np.max}
RELATIONS = {">=": operator.ge, "<": operator.lt, "within 10 % of": lambda x, bound: abs(x / bound - 1) <= 0.1}


class Rule(NamedTuple):
    """A bound that a statistic over the seeds is held to."""

    statistic: str
    relation: str
    bound: float

    def __str__(self):
        return f"{self.statistic} {self.relation} {self.bound:g}"

    def seen(self, x: np.ndarray) -> float:
        """The statistic of x."""
        return float(STATISTICS[self.statistic](x))

    def holds(self, x: np.ndarray) -> bool:
        """Whether the statistic of x keeps the bound."""
        return bool(RELATIONS[self.relation](self.seen(x), self.bound))


@dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    strengths: tuple[float, ...] = (1.0, 20.0)
    """Target logits t, one ensemble of members each."""
    members: int = 16
    """Members (seeds) per target."""
    n_features: int = 20
    """Features N."""
    dim: int = 10
    """Dimension D of a token."""
    head_dim: int = 10
    """Head dimension H."""
    n_keys: int = 8
    """Keys m of each context."""
    probability: float = 0.1
    """Probability that a feature is present."""
    coupling: float = 1.0
    """Weight lambda of the attention loss."""
    batch: int = 256
    """Contexts in a batch."""
    rate: float = 1e-3
    """Learning rate of AdamW, falling to 0 as a cosine."""
    steps: int = 10_000
    """Training steps."""
    seed: int = 0
    """Seed of all random numbers."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point numbers of the run."""

    def __post_init__(self):
        distinct = set(self.strengths)
        if not distinct or len(distinct) < len(self.strengths) or 0 in distinct or not np.isfinite([*distinct]).all():
            raise InputError(f"--strengths must be distinct finite numbers other than 0, got {self.strengths}")
        for name, least in (("members", 2), ("n-features", 2), ("dim", 2), ("head-dim", 2), ("n-keys", 2)):
            whole(f"--{name}", getattr(self, name.replace("-", "_")), least)
        for name in ("batch", "steps"):
            whole(f"--{name}", getattr(self, name), 1)
        if not 0 < self.probability <= 1:
            raise InputError(f"--probability must lie in (0, 1], got {self.probability}")
        for name in ("coupling", "rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise InputError(f"--{name} must be a finite number above 0, got {getattr(self, name)}")


PAPER = Config()
SCALES = {
    "quick": replace(PAPER, strengths=(20.0,), members=8, steps=3000),
    "paper": PAPER,
    "full": replace(PAPER, members=2048, batch=1024),
}


def run(config: Config, folder: Path) -> Outcome:
    """Train the ensemble, predict from its features, compare."""
    law = BernoulliUniform(config.probability, config.n_features)
    targets = jnp.repeat(jnp.array(config.strengths, float), config.members)
    parameters, history = trained(config, law, targets, folder)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), config.steps), targets.size)
    found = jax.jit(partial(jax.lax.map, lambda member: read(config, law, *member)))((parameters, targets, keys))
    results = dataset(config, targets, found, history)
    rows = [row for t in config.strengths for row in table_rows(results.sel(member=results.target == t), t, config.dim)]
    return Outcome(summary(config, rows), results, figures(config, results), rows)


def trained(config: Config, law: BernoulliUniform, targets: Array, folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """Parameters of all members after training, and the history of their losses."""
    start, update = training(
        lambda rngs: Toy(config.n_features, config.dim, config.head_dim, rngs=rngs),
        law,
        objective="softmax",
        coupling=config.coupling,
        n_keys=config.n_keys,
        batch=config.batch,
        rate=config.rate,
        steps=config.steps,
    )
    first, keys = jax.random.split(jax.random.key(config.seed), (2, targets.size))
    templates = jax.vmap(lambda t: template(config, t))(targets)
    members = jax.jit(jax.vmap(start))(first, templates)
    every = -(-config.steps // 200)
    members, history = train(update, members, keys, config.steps, every=every, checkpoint=checkpoints(folder))
    return members["parameters"], history


def template(config: Config, t: Array) -> Array:
    """`T = t e_0 e_1^T`, shape (N, N)."""
    return single_pair(config.n_features, config.n_features, 0, 1, t)


def read(config: Config, law: BernoulliUniform, parameters: dict[str, Array], t: Array, key: Array) -> dict[str, Array]:
    """What theory expects of a head on the trained features, and what the trained head shows."""
    W = parameters["W"]
    scenario = Scenario(
        *(W, W, template(config, t), law, law), objective="softmax", head_dim=config.head_dim, n_keys=config.n_keys
    )
    prediction = predict(scenario)
    # a single pair asks for rank one, whatever the head could hold
    size, size_error = logit_scale(replace(scenario, head_dim=1), key, CONTEXTS)
    measurement = spectrum(parameters["W_Q"], parameters["W_K"])
    agreement = compare(prediction, measurement, features=(W, W))
    D, norms = feature_dimensionality(W), jnp.linalg.norm(W, axis=0)
    return {
        "cosine_query": agreement.measured_left[0, 0],
        "cosine_key": agreement.measured_right[0, 1],
        "expected_cosine_query": agreement.predicted_left[0, 0],
        "expected_cosine_key": agreement.predicted_right[0, 1],
        "predicted_cosine_query": agreement.left[0],
        "predicted_cosine_key": agreement.right[0],
        "dimensionality_query": D[0],
        "dimensionality_key": D[1],
        "norm_query": norms[0],
        "norm_key": norms[1],
        "sigma_1": measurement.values[0],
        "sigma_2_over_sigma_1": measurement.values[1] / measurement.values[0],
        "t_D0_D1": jnp.abs(t) * D[0] * D[1],
        "aligned_sigma": jnp.abs(t) * D[0] * D[1] / (norms[0] * norms[1]),
        "leading_sigma": prediction.values[0],
        "predicted_sigma": size[0],
        "predicted_sigma_error": size_error[0],
    }


def dataset(config: Config, targets: Array, found: dict[str, Array], history: dict[str, np.ndarray]) -> xr.Dataset:
    """Everything found, by member; the losses also by training step."""
    by_member = {name: ("member", np.asarray(values)) for name, values in found.items()}
    losses = {f"{name}_loss": (("step", "member"), history[name]) for name in ("reconstruction", "attention")}
    seeds = np.tile(np.arange(config.members), len(config.strengths))
    coordinates = {"target": ("member", np.asarray(targets)), "seed": ("member", seeds), "step": history["step"]}
    return xr.Dataset({**by_member, **losses}, coordinates)


def rules(t: float) -> dict[str, Rule]:
    """What each quantity is held to at target t."""
    strong = abs(t) >= STRONG
    aligned = Rule("lowest", ">=", 0.99 if strong else 0.97)
    foreseen = Rule("median", ">=", 0.995)
    return {
        "|cos(w_0, u_0)|": aligned,
        "|cos(w_1, v_0)|": aligned,
        "|cos(u_0, predicted)|": foreseen,
        "|cos(v_0, predicted)|": foreseen,
        "sigma_1 / predicted": Rule("median", "within 10 % of", 1),
        **({"sigma_2 / sigma_1": Rule("highest", "<", 0.1)} if strong else {}),
    }


def table_rows(results: xr.Dataset, t: float, dim: int) -> Iterator[dict[str, Any]]:
    """The rows of one target: each quantity over its seeds, chance, and the rule with what it saw."""
    quantities = {
        "|cos(w_0, u_0)|": results.cosine_query,
        "|cos(w_1, v_0)|": results.cosine_key,
        "|cos(u_0, predicted)|": results.predicted_cosine_query,
        "|cos(v_0, predicted)|": results.predicted_cosine_key,
        "sigma_2 / sigma_1": results.sigma_2_over_sigma_1,
        "sigma_1": results.sigma_1,
        "sigma_1 / predicted": results.sigma_1 / results.predicted_sigma,
        "sigma_1 / (t D_0 D_1)": results.sigma_1 / results.t_D0_D1,
        "sigma_1 |w_0||w_1| / (t D_0 D_1)": results.sigma_1 / results.aligned_sigma,
        "D_0": results.dimensionality_query,
        "D_1": results.dimensionality_key,
    }
    for name, values in quantities.items():
        x, rule = values.values, rules(t).get(name)
        yield {
            "quantity": name,
            "t": t,
            "mean": x.mean(),
            "s.e.": x.std(ddof=1) / np.sqrt(x.size),
            "chance": chance_alignment(dim) if "cos" in name else None,
            "rule": str(rule or ""),
            "seen": rule and rule.seen(x),
            "holds": rule and rule.holds(x),
        }


def summary(config: Config, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Headline figures: what each rule saw, by target."""
    names = {
        "|cos(w_0, u_0)|": "cosine_query_lowest",
        "|cos(w_1, v_0)|": "cosine_key_lowest",
        "|cos(u_0, predicted)|": "predicted_cosine_query_median",
        "|cos(v_0, predicted)|": "predicted_cosine_key_median",
        "sigma_2 / sigma_1": "second_over_first_singular_value_highest",
        "sigma_1 / predicted": "singular_value_over_predicted_median",
    }
    judged = [row for row in rows if row["rule"]]
    return {
        "heads": config.members * len(config.strengths),
        "chance_cosine": chance_alignment(config.dim),
        **{f"{names[row['quantity']]}_t{row['t']:g}": row["seen"] for row in judged},
        "rules": len(judged),
        "rules_held": sum(bool(row["holds"]) for row in judged),
    }


def figures(config: Config, results: xr.Dataset) -> dict[str, Exhibit]:
    """Cosines of every seed, and the size of the first singular value."""
    figure, axes = panels(columns=len(config.strengths))
    for ax, t in zip(axes[0], config.strengths, strict=True):
        draw_cosines(ax, results.sel(member=results.target == t), t, chance_alignment(config.dim))
    return {
        "alignment": Exhibit(
            figure,
            "First singular vectors against the features they were asked to match, seed by seed: points are trained "
            "heads, bars what theory expects of the features that training arrived at, the dotted line chance. Cosines "
            f"above {NEAREST} are drawn there.",
        ),
        "size": Exhibit(
            draw_sizes(config, results),
            "First singular value over the target. Left, against D_0 D_1 / (|w_0||w_1|): the levels that superposition "
            "allows. Right, against the prediction at the logits asked for, with its standard error.",
        ),
    }


def draw_cosines(ax: Axes, results: xr.Dataset, t: float, chance: float) -> None:
    """`|cos(w_0, u_0)|` and `|cos(w_1, v_0)|` by seed, measured and expected."""
    bars = {"linestyle": "", "marker": "_", "color": COLOURS[1], "markersize": 11, "markeredgewidth": 2}
    for side, label, shift, colour in (
        ("query", r"$|\cos(w_0, u_0)|$", -0.15, COLOURS[0]),
        ("key", r"$|\cos(w_1, v_0)|$", 0.15, COLOURS[2]),
    ):
        x = results.seed + shift
        ax.plot(x, np.minimum(results[f"expected_cosine_{side}"], NEAREST), **bars)
        measured(ax, x, np.minimum(results[f"cosine_{side}"], NEAREST), color=colour, label=label)
    ax.plot([], [], **bars, label="predicted")
    chance_line(ax, chance)
    # equal steps for each factor of ten nearer to 1, where all the points are
    ax.set_yscale("function", functions=(lambda c: -np.log10(np.maximum(1 - c, 1e-9)), lambda z: 1 - 10.0**-z))
    levels = (0, 0.9, 0.99, 0.999, 0.9999, 0.99999, NEAREST)
    ax.set(ylim=(0, 1 - (1 - NEAREST) / 2), yticks=levels, yticklabels=map(str, levels))
    ax.set(title=f"target logit t = {t:g}", xlabel="seed", ylabel="cosine")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower right")


def draw_sizes(config: Config, results: xr.Dataset) -> Figure:
    """`sigma_1 / t` over T2's level `D_0 D_1 / (|w_0||w_1|)`, and over the prediction at finite logits."""
    figure, ((levels, finite),) = panels(columns=2)
    for t, colour in zip(config.strengths, cycle((COLOURS[0], COLOURS[2], COLOURS[3])), strict=False):
        some, style = (
            results.sel(member=results.target == t) / abs(t),
            {"color": colour, "label": f"trained, t = {t:g}"},
        )
        predicted_against_measured(levels, some.aligned_sigma, some.sigma_1, **style)
        predicted_against_measured(finite, some.predicted_sigma, some.sigma_1, some.predicted_sigma_error, **style)
    levels.set(xlabel=r"$D_0 D_1 / (|w_0||w_1|)$", title="small logits (T2)")
    finite.set(xlabel=r"predicted $\sigma_1 / |t|$", title="finite logits (T6)")
    for ax in (levels, finite):
        ax.set_ylabel(r"$\sigma_1 / |t|$")
        ax.legend()
    return figure


main = command(run, SCALES)

if __name__ == "__main__":
    main()
