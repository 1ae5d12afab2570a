"""Who wrote what a head attends by? Decisions as exact sums over what earlier parts of the model wrote.

SOURCE is a model's folder with --text, or a bundle with every weight of an attention-only model (docs/bundles.md).

A decision is a query of a head and a key that it attends to. Its score, before a cap and over the divisor, is a sum
over what was written into the residual stream at the query's position with what was written at the key's: the
embedding, the position, what each earlier head took from each source position, MLPs, and biases: of a layer's values
and outputs, of an MLP, and, as "bias", of the head itself with that of the norm before it. The scales of norms, of
queries' and keys' too (T23), are held at their values, so that all else is linear; rotary heads turn each side to its
position.

A component's contribution is what it adds to the score with all of the other side. Of either side the strongest are
shown, by absolute value, all others are one remainder; a table has every pair of what is shown and of remainders, and
sums to the score. Beside it stand the parts of the first modes, raw and balanced (T22; near-equal values are one mode;
of what their moments do not hold, such as what all keys have in common, balanced modes have nothing).
Where one of the strongest is a head's, why that head attended to its source is a decision itself: it is traced too,
to a depth. What raises the scores of all keys alike changes no attention: contributions say what makes a score,
not what makes this key preferred to others.

Without --layer, --head, --sequence, --query and --key, the decisions of a head are the strongest, one a sequence: most
weight on a key above an even share. The first position, where many heads of language models rest, is a key only where
--key 0 asks for it. The pass of the whole model is kept in memory: all attention, and some 4 numbers a layer, token
and dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from svtheory.checkpoints.attention_only import check_tokens, network
from svtheory.checkpoints.components import KINDS, SIDES, Recorded, recorded
from svtheory.checkpoints.networks import Network
from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.instruments.decisions import PLACE, Asked, Decision, asked_for, given_decisions, strongest, visible
from svtheory.instruments.labels import Labels, labelled
from svtheory.instruments.sources import Source
from svtheory.instruments.survey import by_head, places, read_inputs
from svtheory.instruments.traced import READINGS, Part, Shown, check_tables, head_readings, traced, writers
from svtheory.reports.options import at_least
from svtheory.reports.plotting import panels_or

SHOWN = 3
"""Components of a side that a row names."""
NOTHING = "nothing"
"""What is named of a side where every component adds 0, as to the scores of a head of zeros."""
SEQUENCES = 20
"""Of a text, or a bundle, where the command says nothing else."""

COLUMNS = {
    "decision": "Sequence: query's position > key's position.",
    "weight": "The attention that the query pays the key.",
    "score": "What is softmaxed, before a cap: the sum of everything beside it.",
    "query": "What adds most at the query's position: what wrote it, @ the position that a head took it from, and how "
    "much it adds.",
    "query, rest": "The sum of all other components of the query's position.",
    "key": "The same at the key's position.",
    "key, rest": "The sum of all other components of the key's position.",
    "gap": "How far the sum of all components is from the score, over the root mean square of the head's scores.",
}

UNIT = "score over the divisor"
VARIABLES: Labels = {
    "layer": "layer of the decision's head",
    "head": "head of its layer",
    "sequence": "sequence, from 0",
    "query": "position of the query",
    "key": "position of the key",
    "depth": "1 of a decision that was asked for, else 1 more than that of the one it stands behind",
    "component": "component, 1 of the largest absolute contribution",
    "mode": "mode, a block of near-equal singular values, 1 of the largest",
    "writer": "what wrote: embedding, position, a head (layer.head), an MLP, or all biases, if there are any",
    "query_part": "component at the query, 0 the sum of all that are not shown",
    "key_part": "component at the key, 0 the sum of all that are not shown",
    "score": ("q^T k over the divisor, before a cap", UNIT),
    "weight": "attention that the query pays the key",
    "head_scale": ("root mean square of the head's scores in the sequence", UNIT),
    "gap": "distance of the sum of all components from the score, over head_scale",
    "kind": "what the component is; nothing where there are no more",
    "writer_layer": "layer of what wrote it, -1 where it has none",
    "writer_head": "head that wrote it, -1 where none did",
    "source": "position from which a head took it, -1 where none did",
    "contribution": ("what the component adds to the score, with all of the other side", UNIT),
    "remainder": ("what all components add that are not shown", UNIT),
    "components": "how many components there are",
    "child": "number of the decision of a head's component, -1 where it is not traced",
    "table": ("what a part at the query and a part at the key add together", UNIT),
    "contribution_of_mode": ("a mode's part of what the component adds", UNIT),
    "remainder_of_mode": ("a mode's part of what all components add that are not shown", UNIT),
    "score_of_mode": ("a mode's part of the score", UNIT),
    "contribution_of_writer": ("what all components of a writer add; NaN where it writes later or nothing", UNIT),
}


@dataclass(frozen=True)
class Settings(Asked):
    """Which decisions, and how much of them is kept."""

    decisions: Annotated[int, at_least(1)] = 3
    """Decisions of a head, at most, one a sequence."""
    top: Annotated[int, at_least(1)] = 8
    """Components shown, of either side; all where there are fewer."""
    depth: Annotated[int, at_least(1)] = 2
    """How deep decisions are followed: 1 is only those asked for."""
    branches: Annotated[int, at_least(1)] = 2
    """Heads of either side whose own decisions are followed."""
    modes: Annotated[int, at_least(1)] = 3
    """Modes whose parts are kept."""


DEFAULTS = Settings()


def requested(source: Source, settings: Settings) -> xr.Dataset:
    """What the command asks for."""
    bundle = source.bundle(reads=True, sequences=SEQUENCES)
    read, sequence = len(bundle.real), settings.sequence
    if sequence is not None and not 0 <= sequence < read:
        allowed = f"a whole number from 0 to {read - 1}, of the {read} sequences that are read (--sequences)"
        raise InputError(f"--sequence must be {allowed}, got {sequence}")
    return survey(bundle, source.network(bundle), settings).assign_attrs(bundle=source.label)


def survey(
    bundle: HeadBundle,
    model: Network | None = None,
    settings: Settings = DEFAULTS,
    decisions: Sequence[Sequence[int]] | np.ndarray | None = None,
) -> xr.Dataset:
    """Trace decisions of a bundle's heads through the model that they are of, by default the bundle's own.

    decisions (n, 5) are layer, head, sequence, query and key; without them, those that the settings ask for.
    Raises InputError for a bundle without tokens or what its heads read, a model that is not its own, and decisions
    that are not there: out of range, of padding, or of a key that the query does not see; and for more decisions and
    components than there is room for.
    """
    check_traceable(bundle)
    asked = asked_for(bundle, settings) if decisions is None else given_decisions(bundle, decisions)
    shown = _shown(bundle, settings, len(asked) if isinstance(asked, list) else _most(asked, settings.decisions))
    found = recorded(network(bundle) if model is None else model, bundle)
    roots = asked if isinstance(asked, list) else strongest(bundle, found, asked, settings.decisions)
    there = max(len(found.labels(d.layer, d.at(side), side).kind) for d in roots for side in SIDES)
    shown = replace(shown, top=min(shown.top, there))
    readings = head_readings(bundle)
    every, depths, parts, child = traced(found, readings, roots, shown)
    results = _dataset(every, parts, writers(found)).assign_coords(depth=("decision", depths))
    results["child"] = ("decision", "side", "component"), child
    here = [list(x) for x in zip(*every, strict=True)]
    results["weight"] = "decision", _weights(found, every)
    scores = readings.score.values[tuple(here)]
    scale = _scales(bundle, readings, every)
    results["head_scale"] = "decision", scale
    results["gap"] = "decision", np.abs(results.score.values - scores) / scale
    return labelled(results.assign_attrs({**bundle.metadata, "roots": len(dict.fromkeys(roots))}), VARIABLES)


def check_traceable(bundle: HeadBundle) -> None:
    """Raise InputError for a bundle without what its heads read and the tokens of that, or of a single position."""
    read_inputs(bundle)
    if "tokens" not in bundle.others:
        raise InputError("bundle must hold tokens, which the model reads again, got one without")
    check_tokens(bundle)
    if bundle.real.sum(axis=1).max() < 2:
        raise InputError("attn_in must hold at least 2 positions, or no query has keys to choose from, got 1")


def _shown(bundle: HeadBundle, settings: Settings, roots: int) -> Shown:
    """How much of each decision is kept, no more than there may be.

    Raises InputError where the tables of `roots` decisions have no room.
    """
    layers, heads, *shape = bundle.W_Q.shape
    top = min(settings.top, layers * (heads * bundle.real.shape[1] + 3) + 3)  # biases of all kinds among them
    shown = Shown(top, settings.branches, min(settings.depth, layers), min(settings.modes, *shape))
    check_tables(shown, roots)
    return shown


def _most(asked: dict[str, np.ndarray], count: int) -> int:
    """How many decisions are asked for, at most: `count` of each head, one a sequence."""
    return len(asked["layer"]) * len(asked["head"]) * min(count, len(asked["sequence"]))


def _weights(found: Recorded, decisions: list[Decision]) -> list[float]:
    return [float(found.layers[d.layer].attention[d.sequence, d.head, d.query, d.key]) for d in decisions]


def _scales(bundle: HeadBundle, readings: xr.Dataset, decisions: list[Decision]) -> list[float]:
    """The root mean square of the scores of each decision's head, in its sequence, of keys that are seen."""
    tiny, seen = np.finfo(np.float32).tiny, [visible(bundle, layer) for layer in range(len(bundle.W_Q))]
    squares = {}
    for at in {d[:3] for d in decisions}:
        scores = readings.score.values[at][seen[at[0]][at[2]]]
        squares[at] = max(float(np.sqrt((scores.astype(np.float64) ** 2).mean())), tiny)
    return [squares[d[:3]] for d in decisions]


def _dataset(decisions: list[Decision], parts: list[Part], names: list[str]) -> xr.Dataset:
    """What was found of each decision, labelled."""
    of = ("decision", "side", "component")
    axes = {
        "score": of[:1],
        "contribution": of,
        "remainder": of[:2],
        "components": of[:2],
        "table": ("decision", "query_part", "key_part"),
        "contribution_of_mode": (*of, "reading", "mode"),
        "remainder_of_mode": (*of[:2], "reading", "mode"),
        "score_of_mode": ("decision", "reading", "mode"),
        "contribution_of_writer": (*of[:2], "writer"),
    }
    data: dict[str, Any] = {
        name: (dims, np.stack([getattr(part, name) for part in parts])) for name, dims in axes.items()
    }
    labels = np.stack([part.labels for part in parts])
    data["kind"] = of, np.array([*KINDS, ""])[labels[..., 0]]
    named = zip(("writer_layer", "writer_head", "source"), range(1, 4), strict=True)
    data |= {name: (of, labels[..., i]) for name, i in named}
    found = xr.Dataset(
        data, {name: ("decision", list(x)) for name, x in zip(PLACE, zip(*decisions, strict=True), strict=True)}
    )
    top, modes = found.sizes["component"], found.sizes["mode"]
    shown = [*range(1, top + 1), 0]
    coordinates = {
        "side": list(SIDES),
        "reading": list(READINGS),
        "writer": names,
        "query_part": shown,
        "key_part": shown,
    }
    return found.assign_coords(component=range(1, top + 1), mode=range(1, modes + 1), **coordinates)


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a decision that was asked for."""
    return [_row(here) for here in places(_roots(results), "decision")]


def brief(results: xr.Dataset) -> list[dict[str, Any]]:
    """The strongest components of every decision that was asked for."""
    return by_head(rows(results), "decision", "weight", "score", "query", "key")


def _roots(results: xr.Dataset) -> xr.Dataset:
    return results.isel(decision=results.depth.values == 1)


def _row(here: xr.Dataset) -> dict[str, Any]:
    row: dict[str, Any] = {name: int(here[name]) for name in PLACE[:2]}
    row["decision"] = f"{int(here.sequence)}: {int(here['query'])} > {int(here.key)}"
    row |= {"weight": float(here.weight), "score": float(here.score)}
    for side in SIDES:
        this = here.sel(side=side)
        some = places(this.isel(component=slice(SHOWN)), "component")
        row[side] = "; ".join(_named(x) for x in some if float(x.contribution)) or NOTHING
        row[f"{side}, rest"] = float(this.contribution[SHOWN:].sum() + this.remainder)
    return {**row, "gap": float(here.gap)}


def called(component: xr.Dataset) -> str:
    """What a component is called: "embedding", "0.3 @ 12" of head 0.3's source at 12, "mlp 0"."""
    kind, layer = str(component.kind.values), int(component.writer_layer)
    if kind == "head":
        return f"{layer}.{int(component.writer_head)} @ {int(component.source)}"
    return kind if kind in ("embedding", "position", "bias", "") else f"{kind} {layer}"


def _first(roots: xr.Dataset, side: str) -> np.ndarray:
    """The kind of the strongest component of each decision on a side, NOTHING where all of them are 0."""
    first = roots.sel(side=side).isel(component=0)
    return np.where(first.contribution.values != 0, first.kind.values, NOTHING)


def _named(component: xr.Dataset) -> str:
    return f"{called(component)}: {float(component.contribution):.3g}"


def answers(results: xr.Dataset) -> list[str]:
    """What adds most on either side, and how exact the sums are."""
    roots = _roots(results)
    said = []
    for side in SIDES:
        kinds = _first(roots, side)
        counted = [(int((kinds == kind).sum()), kind) for kind in (*KINDS, NOTHING)]
        most = ", ".join(f"{kind} in {count}" for count, kind in sorted(counted, reverse=True) if count)
        said.append(f"The strongest component at the {side}'s position: {most} of {len(kinds)} decisions.")
    count, followed = results.sizes["decision"], results.sizes["decision"] - roots.sizes["decision"]
    exact = f"Components sum to every score to {float(results.gap.max()):.1g} of the head's scores"
    return [*said, f"{exact}; of {count} decisions {followed} are those of heads behind others."]


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures."""
    roots = _roots(results)
    total = np.abs(roots.contribution).sum("component") + np.abs(roots.remainder)
    shown = xr.where(total > 0, np.abs(roots.contribution).sum("component") / total.where(total > 0), 1)
    return {
        "decisions": roots.sizes["decision"],
        "decisions_followed": results.sizes["decision"] - roots.sizes["decision"],
        "heads": len({(int(x), int(y)) for x, y in zip(roots.layer, roots["head"], strict=True)}),
        "largest_gap": float(results.gap.max()),
        "weight_median": float(roots.weight.median()),
        **{f"{side}_shown_share_median": float(shown.sel(side=side).median()) for side in SIDES},
        **{f"{side}_first_is_head": float((_first(roots, side) == "head").mean()) for side in SIDES},
    }


def shares(results: xr.Dataset) -> xr.DataArray:
    """Of each head that was asked for, by side, every writer's mean share of absolute contributions."""
    roots = _roots(results)
    size = np.abs(roots.contribution_of_writer)
    share = size / size.sum("writer").where(lambda x: x > 0)
    heads = [f"{int(x)}.{int(y)}" for x, y in zip(roots.layer, roots["head"], strict=True)]
    named = share.drop_vars([*PLACE, "depth"]).groupby(xr.DataArray(heads, dims="decision", name="of"))
    return named.mean("decision").sel(of=list(dict.fromkeys(heads)))


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """Whose writing the heads' queries and keys read; on two `axes` where they are given."""
    found = shares(results)
    drawn, axes = panels_or(axes, 2, width=6.0, height=max(3.2, min(9.0, 1.6 + 0.16 * found.sizes["of"])))
    for ax, side in zip(axes, SIDES, strict=True):
        _draw(ax, found.sel(side=side), side)
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    return (
        "Whose writing the scores of each head's decisions are made of, at the query's position (left) and at the "
        "key's: shares of absolute contributions, summed over sources, means over decisions. White: written later, "
        "or of scores of 0."
    )


def _draw(ax: Axes, share: xr.DataArray, side: str) -> None:
    values = share.transpose("of", "writer").values
    scale = {"norm": PowerNorm(0.5, 0, 1), "cmap": "viridis"}  # of many writers each has a small share
    image = ax.imshow(np.ma.masked_invalid(values), aspect="auto", interpolation="nearest", **scale)
    for axis, names in ((ax.xaxis, share.writer.values), (ax.yaxis, share.of.values)):
        every = max(1, -(-len(names) // 30))
        axis.set_ticks(range(0, len(names), every), names[::every], fontsize=7)
    ax.tick_params(axis="x", rotation=90)
    ax.grid(visible=False)
    ax.set(title=f"written at the {side}'s position", xlabel="writer", ylabel="head")
    ax.figure.colorbar(image, ax=ax, label="share", fraction=0.05)
