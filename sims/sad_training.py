"""Does sparsity emerge in training? S of every head over a series of checkpoints, against both nulls (Fig 7b).

MODELS are checkpoints of one model in the order of training: folders of GPT-2, GPT-NeoX or Llama type with --text, or
bundles with attn_in, all of which should have read the same tokens. Without any, a two-layer attention-only model is
trained here to continue repeated sequences, and read at snapshots.

As in sad, a decision is a query's attention to the key it attends most; S is the Treves-Rolls sparseness of the terms
of its relative attention, 1 for equal magnitudes and 1/K for a single term, and the mean over decisions is a head's.
Two nulls (T11): the common rotation keeps every score and gives the p-value; independent rotations of U and V, the
paper's control, keep the singular values alone. The first checkpoint of a series is a third: unequal singular values
make a random head a little sparser than its common rotation, so what training adds is the fall of S over that level
since the start. A head is called sparser than chance when its p-value, adjusted for the number of heads of its
checkpoint (Benjamini and Hochberg), is at most 0.05. Standard errors are over heads in the mean, over sequences for a
head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
import xarray as xr
from jax import Array
from matplotlib.axes import Axes
from scipy.stats import false_discovery_control

from sims.lab import repeats
from sims.lab.command import command
from sims.lab.figures import COLOURS, GREY, measured, panels
from sims.lab.models import read_heads
from sims.lab.runs import Exhibit, Outcome, checkpoints
from svtheory import Head, HeadBundle, decompose, rotation_null
from svtheory.checks import InputError, whole
from svtheory.heads.rotations import KINDS

LEVEL = 0.05


@dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    models: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[MODELS]")]] = ()
    """Files of bundles or folders of checkpoints, in the order of training."""
    text: str = ""
    """Text file that checkpoints read."""
    sequences: int = 24
    """Sequences read, at most."""
    positions: int = 64
    """Tokens a sequence of the text."""
    draws: int = 99
    """Rotations behind a p-value."""
    steps: int = 500
    """Steps of the model trained here."""
    snapshots: int = 8
    """Its snapshots, at most, at growing distances."""
    seed: int = 0
    """Seed of training and rotations."""

    def __post_init__(self):
        for name, least in (("sequences", 2), ("positions", 2), ("draws", 19), ("snapshots", 1)):
            whole(f"--{name}", getattr(self, name), least)
        whole("--steps", self.steps, repeats.EVERY)
        if len(self.models) == 1:
            raise InputError(f"MODELS must be a series of at least 2 checkpoints, got only {self.models[0]!r}")


SCALES = {
    "quick": Config(),
    "paper": Config(steps=4000, snapshots=16, draws=999, sequences=64),
    "full": Config(steps=20_000, snapshots=40, draws=9999, sequences=256),
}


def run(config: Config, folder: Path) -> Outcome:
    """Decompose every head of every checkpoint, and compare with rotated heads."""
    first, second = jax.random.split(jax.random.key(config.seed))
    found = {name: _checkpoint(bundle, second, config.draws) for name, bundle in _series(config, first, folder)}
    shapes = {name: tuple(x.sizes[axis] for axis in ("layer", "head", "query")) for name, x in found.items()}
    if odd := [name for name, shape in shapes.items() if shape != next(iter(shapes.values()))]:
        raise InputError(f"MODELS must be of one shape, got {odd[0]!r} with {shapes[odd[0]]} layers, heads and queries")
    results = xr.concat(list(found.values()), "checkpoint").assign_coords(checkpoint=list(found))
    rows = [_row(results.isel(checkpoint=i)) for i in range(len(found))]
    return Outcome(_summary(results), results, {"sad_training": _exhibit(results)}, rows)


def _series(config: Config, key: Array, folder: Path) -> Iterator[tuple[str, HeadBundle]]:
    """Name and heads of each checkpoint, one after the other; given ones are read when they are asked for."""
    if not config.models:
        yield from repeats.snapshot_series(
            key, config.steps, config.snapshots, config.sequences, checkpoints(folder)
        ).items()
    for i, name in enumerate(config.models):
        yield f"{i + 1}: {Path(name).stem}", read_heads(name, config.text, config.sequences, config.positions)


def _checkpoint(bundle: HeadBundle, key: Array, draws: int) -> xr.Dataset:
    """S of every decision, and the nulls of every head."""
    assert bundle.attn_in is not None
    layers, heads = bundle.W_Q.shape[:2]
    found = []
    for layer in range(layers):
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *(bundle.head(layer, head) for head in range(heads)))
        keys = jax.random.split(jax.random.fold_in(key, layer), heads)
        found.append(_layer(stacked, jnp.asarray(bundle.attn_in[layer], jnp.float32), keys, draws))
    axes = {"sparseness": ("sequence", "query"), "null_mean": ("null",), "p_value": ("null",)}
    data = {
        name: (("layer", "head", *dims), np.stack([np.asarray(layer[name]) for layer in found]))
        for name, dims in axes.items()
    }
    results = xr.Dataset(data, {"null": list(KINDS), "layer": range(layers), "head": range(heads)})
    p = results.p_value.sel(null="common").fillna(1).values
    results["adjusted_p_value"] = ("layer", "head"), false_discovery_control(p.ravel()).reshape(p.shape)
    results["loss"] = float(bundle.metadata.get("loss", "nan"))
    return results


@jax.jit(static_argnums=3)
def _layer(heads: Head, tokens: Array, keys: Array, draws: int) -> dict[str, Array]:
    """Of each head on tokens (sequences, positions, D)."""

    def of_head(given):
        head, key = given
        d = decompose(head, tokens, tokens, None)
        nulls = [rotation_null(d, key, draws, kind) for kind in KINDS]
        return {
            "sparseness": nulls[0].sparseness[:, 1:],  # the first query sees no other key
            "null_mean": jnp.stack([null.head_null.mean() for null in nulls]),
            "p_value": jnp.stack([null.head_p_value for null in nulls]),
        }

    return jax.lax.map(of_head, (heads, keys))


def _row(here: xr.Dataset) -> dict[str, Any]:
    """One checkpoint: S over its heads and the levels of chance."""
    S = here.sparseness.mean(("sequence", "query"))
    common = here.null_mean.sel(null="common")
    return {
        "checkpoint": str(here.checkpoint.values),
        "loss (nats)": float(here.loss),
        "S": f"{float(S.mean()):.3f} ± {_error(S.values.ravel()):.3f}",
        "common": float(common.mean()),
        "independent": float(here.null_mean.sel(null="independent").mean()),
        "S / common": f"{float((S / common).mean()):.3f} ± {_error((S / common).values.ravel()):.3f}",
        "lowest S": float(S.min()),
        "sparser than chance": f"{int((here.adjusted_p_value <= LEVEL).sum())} of {S.size}",
        "smallest p": float(here.p_value.sel(null="common").min()),
    }


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _summary(results: xr.Dataset) -> dict[str, Any]:
    S = results.sparseness.mean(("sequence", "query"))
    ratio = S / results.null_mean.sel(null="common")
    sparser = (results.adjusted_p_value <= LEVEL).sum(("layer", "head"))
    found: dict[str, Any] = {"checkpoints": results.sizes["checkpoint"], "heads": S.isel(checkpoint=0).size}
    for name, i in (("first", 0), ("last", -1)):
        here = results.isel(checkpoint=i)
        found |= {
            f"{name}_sparseness_mean": float(S.isel(checkpoint=i).mean()),
            **{f"{name}_sparseness_{kind}_null_mean": float(here.null_mean.sel(null=kind).mean()) for kind in KINDS},
            f"{name}_sparseness_over_common_null_mean": float(ratio.isel(checkpoint=i).mean()),
            f"{name}_heads_sparser_than_chance": int(sparser.isel(checkpoint=i)),
            f"{name}_loss_nats": float(here.loss),
        }
    return found


def _exhibit(results: xr.Dataset) -> Exhibit:
    figure, axes = panels(2, width=5.6)
    _draw_mean(axes[0, 0], results)
    _draw_heads(axes[0, 1], results)
    return Exhibit(
        figure,
        "Left, sparseness averaged over decisions and heads (points, with standard errors over heads) and what rotated "
        "singular vectors give (lines). Right, each head over its own common rotation (line: equal); filled points are "
        "sparser than chance, error bars over sequences.",
    )


def _draw_mean(ax: Axes, results: xr.Dataset) -> None:
    flat = results.stack(unit=("layer", "head")).transpose(..., "unit")
    S = flat.sparseness.mean(("sequence", "query"))
    x = np.arange(results.sizes["checkpoint"])
    for kind, colour in (("common", COLOURS[1]), ("independent", GREY)):
        ax.plot(x, flat.null_mean.sel(null=kind).mean("unit"), color=colour, label=f"{kind} rotation")
    measured(ax, x, S.mean("unit"), [_error(values) for values in S.values], label="heads")
    _name(ax, results)
    ax.set(ylabel="mean sparseness S", ylim=(0, None))
    ax.legend()


def _draw_heads(ax: Axes, results: xr.Dataset) -> None:
    heads = [(layer, head) for layer in results.layer.values for head in results["head"].values]
    by_sequence = results.sparseness.mean("query") / results.null_mean.sel(null="common")
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, results.sizes["layer"]))
    ax.axhline(1, color=COLOURS[1])
    for i, (layer, head) in enumerate(heads):
        here = by_sequence.sel(layer=layer, head=head)
        x = np.arange(results.sizes["checkpoint"]) + 0.5 * (i + 0.5 - len(heads) / 2) / len(heads)
        error = here.std("sequence", ddof=1) / here.sizes["sequence"] ** 0.5
        y, colour = here.mean("sequence"), colours[layer]
        measured(ax, x, y, error, fmt="none", color=colour)
        sparser = (results.adjusted_p_value.sel(layer=layer, head=head) <= LEVEL).values
        ax.plot(x[~sparser], y[~sparser], "o", color=colour, markersize=4.5, markerfacecolor="white")
        ax.plot(x[sparser], y[sparser], "o", color=colour, markersize=4.5)
        if head == 0:
            ax.plot([], [], "o", color=colour, label=f"layer {layer}")
    _name(ax, results)
    ax.set(ylabel="S over common rotation's")
    ax.legend(loc="lower left")


def _name(ax: Axes, results: xr.Dataset) -> None:
    names = [str(name) for name in results.checkpoint.values]
    ax.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 6 else 45)
    ax.set(xlabel="checkpoint" if any(":" in name for name in names) else "training steps")


main = command(run, SCALES)

if __name__ == "__main__":
    main()
