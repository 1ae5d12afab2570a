"""Sparsity that emerges in training, against both nulls (the shape of the paper's Fig 7b), in the toy model.

Features and one head are trained together on several matched pairs, query feature k with key feature k + pairs, logits
asked for falling linearly. Decisions are planted: a random pair, its query feature in the query and its key feature in
one of the keys, everything else drawn. At snapshots of training the planted key's relative attention is decomposed
into terms, one a singular pair; S is their Treves-Rolls sparseness, 1 for equal magnitudes and 1/K for a single term.

Prediction: the head that theory says is best on the snapshot's features (T6), decomposed on the same decisions. It
knows the trained features and not the head, so it is where S is going, not where S is from the start. Nulls (T11), for
the trained head at the same snapshot: one random rotation of both sides, which keeps scores and gives the p-value, and
independent rotations of U and V, the paper's control. The first stays near its level whatever the head learns. The
second falls with the number of large singular values: what it leaves is the sparseness that a low rank alone gives.

Rules: at the end S is within 0.05 of the prediction, and in every member below both nulls with p <= 0.05; the common
rotation stays above 1/4 throughout.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from sims.lab.command import command
from sims.lab.ensemble import train
from sims.lab.figures import COLOURS, GREY, measured, panels
from sims.lab.runs import Exhibit, Outcome, checkpoints
from sims.lab.toy import Toy, activations, training
from svtheory import (
    BernoulliUniform,
    Decomposition,
    Head,
    Scenario,
    count_vectors,
    decompose,
    matching,
    predict,
    rotation_null,
)
from svtheory.checks import InputError, whole
from svtheory.heads.rotations import KINDS

TOLERANCE, LEVEL, NOT_SPARSE = 0.05, 0.05, 0.25


@dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    members: int = 8
    """Members (seeds)."""
    n_features: int = 100
    """Features N, at least two a pair."""
    dim: int = 50
    """Dimension D of a token, and of the head."""
    pairs: int = 20
    """Matched pairs."""
    strength: float = 20.0
    """Largest logit asked for."""
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
    snapshots: int = 20
    """Snapshots, at equal distances."""
    steps: int = 10_000
    """Training steps, a multiple of the snapshots."""
    decisions: int = 256
    """Planted decisions at each snapshot."""
    draws: int = 199
    """Rotations behind a null."""
    seed: int = 0
    """Seed of all random numbers."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point numbers of the run."""

    def __post_init__(self):
        for name, least in (("members", 2), ("dim", 2), ("pairs", 1), ("n-keys", 2), ("batch", 1), ("snapshots", 1)):
            whole(f"--{name}", getattr(self, name.replace("-", "_")), least)
        whole("--n-features", self.n_features, 2 * self.pairs)
        for name, least in (("decisions", 2), ("draws", 19), ("steps", 1)):
            whole(f"--{name}", getattr(self, name), least)
        if self.steps % self.snapshots:
            raise InputError(f"--steps must be a multiple of --snapshots, got {self.steps} and {self.snapshots}")
        if not 0 < self.probability <= 1:
            raise InputError(f"--probability must lie in (0, 1], got {self.probability}")
        for name in ("strength", "coupling", "rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise InputError(f"--{name} must be a finite number above 0, got {getattr(self, name)}")


PAPER = Config()
SCALES = {
    "quick": replace(
        PAPER, members=4, n_features=40, dim=20, pairs=6, steps=2500, snapshots=10, decisions=128, draws=99
    ),
    "paper": PAPER,
    "full": replace(PAPER, members=256, decisions=1024, draws=999),
}


def run(config: Config, folder: Path) -> Outcome:
    """Train, and decompose the planted decisions at every snapshot."""
    law = BernoulliUniform(config.probability, config.n_features)
    snapshots = _snapshots(config, law, folder)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), config.members)

    def over_members(parameters):
        return jax.lax.map(lambda member: _read(config, law, *member), (parameters, keys))

    found = jax.jit(partial(jax.lax.map, over_members))(snapshots)
    results = _results(config, found)
    return Outcome(_summary(results), results, {"sad_toy": _exhibit(results)}, _rows(results))


def _snapshots(config: Config, law: BernoulliUniform, folder: Path) -> dict[str, Array]:
    """Parameters before training and after each of its equal parts, leaves (snapshots + 1, members, ...)."""
    start, update = training(
        lambda rngs: Toy(config.n_features, config.dim, config.dim, rngs=rngs),
        law,
        objective="softmax",
        coupling=config.coupling,
        n_keys=config.n_keys,
        batch=config.batch,
        rate=config.rate,
        steps=config.steps,
    )
    first, keys = jax.random.split(jax.random.key(config.seed), (2, config.members))
    members = jax.jit(jax.vmap(start, (0, None)))(first, _template(config))
    kept, part = [members["parameters"]], config.steps // config.snapshots
    for i in range(config.snapshots):
        of_part = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        label = f"training, part {i + 1} of {config.snapshots}"
        saved = checkpoints(folder) / str(i)
        members, _ = train(update, members, of_part, part, every=part, checkpoint=saved, label=label)
        kept.append(members["parameters"])
    return jax.tree.map(lambda *x: jnp.stack(x), *kept)


def _template(config: Config) -> Array:
    """`T = sum_k t_k e_k e_{k + pairs}^T`, t falling linearly from `strength`, shape (N, N)."""
    strengths = config.strength * (1 - jnp.arange(config.pairs) / config.pairs)
    pairs = range(config.pairs), range(config.pairs, 2 * config.pairs)
    return matching(config.n_features, config.n_features, *pairs, strengths)


def _planted(config: Config, law: BernoulliUniform, key: Array) -> Array:
    """Activations (decisions, 1 + m, N) in which a random pair meets in the query and the first key."""
    draw, choose, value = jax.random.split(key, 3)
    f = activations(law, draw, config.n_keys, config.decisions).transpose(2, 1, 0)
    row, pair = jnp.arange(config.decisions), jax.random.randint(choose, (config.decisions,), 0, config.pairs)
    own = jax.random.uniform(value, (2, config.decisions), f.dtype)
    return f.at[row, 0, pair].set(own[0]).at[row, 1, pair + config.pairs].set(own[1])


def _read(config: Config, law: BernoulliUniform, parameters: dict[str, Array], key: Array) -> dict[str, Array]:
    """One member at one snapshot: S of the trained and of the predicted head, nulls and counts."""
    first, second = jax.random.split(key)
    W = parameters["W"]
    tokens = jnp.einsum("bjn,dn->bjd", _planted(config, law, first), W, precision="highest")
    scenario = Scenario(W, W, _template(config), law, law, objective="softmax", n_keys=config.n_keys)
    best = predict(scenario)
    root = jnp.sqrt(best.values)[:, None]
    d = _decomposed(parameters["W_Q"], parameters["W_K"], tokens)
    foreseen = _decomposed(root * best.left.T, root * best.right.T, tokens)
    nulls = {kind: rotation_null(d, second, config.draws, kind) for kind in KINDS}
    predicted = rotation_null(foreseen, second, 1, "common").head_sparseness
    return {
        "S": nulls["common"].head_sparseness,
        "predicted_S": predicted,
        "null_S": jnp.stack([null.head_null.mean() for null in nulls.values()]),
        "p_value": jnp.stack([null.head_p_value for null in nulls.values()]),
        "count": jnp.nanmedian(count_vectors(d, "acc2025")),
        "attention": d.attention[..., 0].mean(),
    }


def _decomposed(W_Q: Array, W_K: Array, tokens: Array) -> Decomposition:
    """Each context's query, its first token, with its keys, the others; the first key is explained."""
    decisions, m = tokens.shape[0], tokens.shape[1] - 1
    at = jnp.full((1,), m - 1)
    index = jnp.zeros((decisions, 1), int)
    return decompose(Head(W_Q, W_K, divisor=1.0), tokens[:, :1], tokens[:, 1:], index, position=at)


def _results(config: Config, found: dict[str, Array]) -> xr.Dataset:
    axes = {"null_S": ("step", "member", "null"), "p_value": ("step", "member", "null")}
    data = {name: (axes.get(name, ("step", "member")), np.asarray(x)) for name, x in found.items()}
    steps = np.arange(config.snapshots + 1) * (config.steps // config.snapshots)
    return xr.Dataset(data, {"step": steps, "null": list(KINDS)}, {"pairs_of_the_head": config.dim})


def _rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a snapshot: means over members."""
    error = results.S.std("member", ddof=1) / np.sqrt(results.sizes["member"])
    return [
        {
            "step": int(here.step),
            "S": float(here.S.mean()),
            "s.e.": float(error.sel(step=here.step)),
            "predicted S": float(here.predicted_S.mean()),
            **{f"{kind} rotation": float(here.null_S.sel(null=kind).mean()) for kind in KINDS},
            "members with p <= 0.05": f"{int((here.p_value <= LEVEL).all('null').sum())} of {here.member.size}",
            "acc2025 count": float(here["count"].mean()),
            "attention to the planted key": float(here.attention.mean()),
        }
        for here in (results.isel(step=i) for i in range(results.sizes["step"]))
    ]


def _summary(results: xr.Dataset) -> dict[str, Any]:
    start, end = results.isel(step=0), results.isel(step=-1)
    error = abs(float(end.S.mean() - end.predicted_S.mean()))
    lowest = float(results.null_S.sel(null="common").mean("member").min())
    p = float(end.p_value.max())
    return {
        "members": results.sizes["member"],
        "S_before": float(start.S.mean()),
        "S_after": float(end.S.mean()),
        "S_after_standard_error": float(end.S.std(ddof=1) / np.sqrt(end.S.size)),
        "predicted_S_after": float(end.predicted_S.mean()),
        "error_of_S_after": error,
        **{f"S_{kind}_rotation_after": float(end.null_S.sel(null=kind).mean()) for kind in KINDS},
        "S_common_rotation_lowest": lowest,
        "largest_p_value_after": p,
        "least_possible_S": 1 / results.attrs["pairs_of_the_head"],
        "holds": error <= TOLERANCE and p <= LEVEL and lowest >= NOT_SPARSE,
    }


def _exhibit(results: xr.Dataset) -> Exhibit:
    figure, ((ax,),) = panels(width=6.4, height=4.2)
    error = results.std("member", ddof=1) / np.sqrt(results.sizes["member"])
    mean = results.mean("member")
    ax.plot(mean.step, mean.predicted_S, color=COLOURS[1], label="best head on the features so far (T6)")
    measured(ax, mean.step, mean.S, error.S, label="trained head")
    for kind, colour, marker in (("common", COLOURS[2], "s"), ("independent", GREY, "^")):
        null = mean.null_S.sel(null=kind)
        measured(ax, mean.step, null, error.null_S.sel(null=kind), color=colour, fmt=marker, label=f"{kind} rotation")
    ax.axhline(1 / results.attrs["pairs_of_the_head"], color=GREY, linestyle=":", label="a single term")
    ax.set(xlabel="training step", ylabel="mean sparseness S of relative attention", ylim=(0, None))
    ax.legend(loc="center right")
    caption = (
        "Sparseness of the planted decisions over training (points, standard errors over members) on its way to what "
        "theory predicts for the trained features (line). One rotation of both sides stays where it was; independent "
        "rotations follow the number of large singular values down, and stay above the head."
    )
    return Exhibit(figure, caption)


main = command(run, SCALES)

if __name__ == "__main__":
    main()
