"""What is this head for? A trained head, predicted from what it reads and from hypotheses about it (T16).

FILE is an .npz (nothing pickled) or .safetensors file, whose numbers are taken as float32, with

    query_inputs      what W_Q reads at the positions where the head's decision matters, one a row, n x D
    key_inputs        what W_K reads at keys, n' x D
    query_features    values of candidate features at these queries, n x N
    key_features      at these keys, n' x M
    template.NAME     a hypothesis: the logit asked for between each query and key feature, N x M; one or more. Or a
                      family of P such templates, P x N x M, of which the head may choose the best
    member.NAME       what to call the members of a family, P numbers; 0, 1, ... where it is left out

and query_features.NAME or key_features.NAME in place of the common ones for a hypothesis about other features. Without
FILE two public heads can be read: induction_ft000 with "previous token = current token", and "own token = current
token" as its rival; and sort5, which looks for the next larger number, with the family of orders that decay with the
distance, and order, match and sizes alone as rivals.

Each hypothesis predicts the head up to one fitted number, training time. Its functional cosine, the correlation of
predicted and measured logits, decides; the cosine of the weights also counts directions that data never exercises,
where a head keeps its initialisation. Queries are centred if the head has a query bias that is not zero.

Two questions, two comparisons, each with the hypothesis' own freedom, the best time. Is there anything? p is the share
of random heads that the hypothesis explains as well: the head's whitened form, and the head itself, turned at random
on both sides; the larger share counts, times the number of hypotheses (Bonferroni). Is it this? Templates with their
columns, the key features, permuted are rivals, and so are the other hypotheses: a rival may share structure with the
truth, so a hypothesis is preferred by its margin over every rival, and its rank among the permuted templates is given;
few columns, or like ones, have few permutations. Of a family random heads and permutations too choose their best
member. Rotary heads are read at offset 0.

Intervals are percentiles over samples drawn again, queries and keys apart: of the functional cosine (95 %), and the
members of a family that between them are the best one as often. The first two modes of the best hypothesis as the data
see them (T22) are held against the head's: cosines of patterns, beside those of a random head's two modes, of the same
whitened values and turned at random.

Rules, set before the run: a hypothesis explains the head if its functional cosine is at least 0.9, its p-value for all
hypotheses at most 0.01 and its margin at least 0.2.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
import xarray as xr
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import svtheory.instruments.induction as induction
import svtheory.instruments.sorting as sorting
from svtheory.checks import InputError, index
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.explanation import Explanation, explain
from svtheory.instruments.arrays import read_arrays
from svtheory.instruments.sources import Source
from svtheory.instruments.survey import places, side_by_side
from svtheory.reports.options import Options, at_least
from svtheory.reports.plotting import COLOURS, GREY, measured, panels_or
from svtheory.spectra.alignments import chance_alignment
from svtheory.spectra.balanced import Tokens, balanced_spectrum

COSINE, P_VALUE, MARGIN = 0.9, 0.01, 0.2
INPUTS = ("query_inputs", "key_inputs")
PUBLIC = {model.NAME: model for model in (induction, sorting)}
INTERVAL = 0.95
MODES = 2  # whose patterns are compared
SHOWN = 16  # singular values in the figure


@dataclass(frozen=True)
class Settings(Options):
    """Which head, and what p-values and intervals are made with."""

    layer: int | None = None
    """Layer of the head; none is the last."""
    head: int = 0
    """The head."""
    centre_query: bool | None = None
    """Whether the head can centre its queries; none: if it has a query bias that is not zero."""
    samples: Annotated[int, at_least(100)] = 2000
    """Sequences, without FILE."""
    draws: Annotated[int, at_least(19)] = 999
    """Random heads behind a p-value, or more if many hypotheses need it, and permuted templates to draw."""
    resamples: Annotated[int, at_least(1)] = 40
    """Times that samples are drawn again, for intervals."""
    seed: int = 0
    """Seed of sequences, random heads, permutations and resamples."""


@dataclass(frozen=True)
class Request(Settings):
    """Settings, and where the hypotheses are."""

    file: tyro.conf.Positional[str] = ""
    """Inputs, features and templates, .npz or .safetensors."""

    @property
    def label(self) -> str:
        """What the file is called."""
        return Path(self.file).stem if self.file else ""


DEFAULTS = Settings()


def requested(source: Source, settings: Request) -> xr.Dataset:
    """What the command asks for."""
    bundle = source.bundle()
    first, _ = jax.random.split(jax.random.key(settings.seed))
    arrays = _arrays(source, settings, bundle, first)
    return survey(bundle, arrays, settings).assign_attrs(bundle=source.label)


def survey(bundle: HeadBundle, arrays: Mapping[str, np.ndarray], settings: Settings = DEFAULTS) -> xr.Dataset:
    """Explain one head by every hypothesis, given as the arrays of a FILE."""
    bundle.check_bilinear()
    layer = index("layer", bundle.W_Q.shape[0] - 1 if settings.layer is None else settings.layer, bundle.W_Q.shape[0])
    at = layer, index("head", settings.head, bundle.W_Q.shape[1])
    _, second = jax.random.split(jax.random.key(settings.seed))
    centre = bool(bundle.query_bias[at]) if settings.centre_query is None else settings.centre_query
    hypotheses = _hypotheses(arrays)
    members = {name: _members(arrays, name) for name in hypotheses}
    draws = max(settings.draws, math.ceil(len(hypotheses) / P_VALUE) - 1)  # or no p-value could be small enough
    weights = bundle.W_Q[at], bundle.W_K[at]
    options: dict[str, Any] = {"centre_query": centre, "draws": draws, "resamples": settings.resamples}
    found = {name: explain(*weights, **given, key=second, **options) for name, given in hypotheses.items()}
    results = _results(found, members).assign_attrs(layer=at[0], head=at[1], centre_query=int(centre))
    best = str(_best(results).hypothesis.item())
    return results.merge(_patterns(found[best], weights, hypotheses[best], centre, settings.seed))


def _arrays(source: Source, settings: Request, bundle: HeadBundle, key: Array) -> Mapping[str, np.ndarray]:
    if settings.file:
        return {name: x.astype(np.float32) for name, x in read_arrays(Path(settings.file), INPUTS).items()}
    if source.label not in PUBLIC:
        raise InputError(
            f"FILE must be given for any bundle but {' and '.join(PUBLIC)}, got none for {source.source!r}"
        )
    return PUBLIC[source.label].arrays(bundle, key, settings.samples)


def _members(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """What the members of a hypothesis are called."""
    template = arrays[f"template.{name}"]
    size = len(template) if template.ndim == 3 else 1
    called = arrays.get(f"member.{name}", np.arange(size))
    if called.shape != (size,):
        raise InputError(f"member.{name} must have shape ({size},), a number for each member, got {called.shape}")
    return called


def _hypotheses(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """By name, the data arguments of `explain`: inputs and features of queries and keys, template."""
    names = [name.removeprefix("template.") for name in arrays if name.startswith("template.")]
    if not names:
        raise InputError(f"FILE must hold a hypothesis, template.NAME, got only {', '.join(arrays)}")

    def features(side, name):
        own, common = f"{side}_features.{name}", f"{side}_features"
        if own not in arrays and common not in arrays:
            raise InputError(f"FILE must hold {common} or {own}, got one without")
        return arrays[own] if own in arrays else arrays[common]

    return {
        name: {
            **{inputs: arrays[inputs] for inputs in INPUTS},
            "query_features": features("query", name),
            "key_features": features("key", name),
            "template": arrays[f"template.{name}"],
        }
        for name in names
    }


def _results(found: Mapping[str, Explanation], members: Mapping[str, np.ndarray]) -> xr.Dataset:
    """The explanations side by side, and the functional cosines of each family's members."""
    records = [
        {
            "functional_cosine": float(e.functional_cosine),
            **dict(zip(("lowest", "highest"), map(float, e.interval(INTERVAL)), strict=True)),
            **_interval_of_members(e, members[own]),
            "weight_cosine": float(e.cosine),
            "p_value": float(e.p_value),
            "p_value_for_all": min(1.0, len(found) * float(e.p_value)),
            "margin": float(e.margin(*(rival for name, rival in found.items() if name != own))),
            "rank": float(e.rank),
            "time": float(e.time),
            "unvisited": float(e.unvisited),
            "null": e.null,
            "rival": e.rivals,
            "predicted_value": e.predicted.values,
        }
        for own, e in found.items()
    ]
    axes = {"null": ("random_head", "draw"), "rival": ("draw",), "predicted_value": ("pair",)}
    measured = np.asarray(next(iter(found.values())).measured.values)
    results = side_by_side(records, "hypothesis", axes).assign(measured_value=("pair", measured))
    names = {"hypothesis": list(found), "random_head": ["whitened", "raw"], "pair": range(1, measured.size + 1)}
    families = {
        f"members_{name}": xr.DataArray(e.members, {f"member_{name}": members[name]}, (f"member_{name}",))
        for name, e in found.items()
        if e.members.size > 1
    }
    return results.assign_coords(names).assign(families)


def _interval_of_members(e: Explanation, called: np.ndarray) -> dict[str, float]:
    """The best member of a family, and the first and last of those that are best in the middle of the resamples."""
    if e.members.size == 1:
        return dict.fromkeys(("member", "first_member", "last_member"), math.nan)
    resampled = called[np.asarray(e.resampled.argmax(axis=1))]
    tail = (1 - INTERVAL) / 2
    first, last = np.quantile(resampled, (tail, 1 - tail), method="nearest")
    return {"member": float(called[int(e.member)]), "first_member": float(first), "last_member": float(last)}


def _patterns(
    e: Explanation, weights: tuple[np.ndarray, np.ndarray], given: Mapping[str, Any], centre: bool, seed: int
) -> xr.Dataset:
    """The first modes of prediction and head: |cos| of their patterns, and of the modes as the data see them."""
    tokens = [given["query_inputs"] - centre * given["query_inputs"].mean(axis=0, keepdims=True)]
    tokens += [given["key_inputs"] - given["key_inputs"].mean(axis=0, keepdims=True)]
    size = np.sqrt(np.asarray(e.predicted.values))
    factors = [(np.asarray(x) * size).T for x in (e.predicted.left, e.predicted.right)]
    moments = [Tokens(jnp.asarray(x)) for x in tokens]
    predicted, own = (balanced_spectrum(*map(jnp.asarray, pair), *moments) for pair in (factors, weights))
    rng, found = (
        np.random.default_rng(seed),
        {name: [] for name in ("pattern", "seen", "pattern_chance", "seen_chance")},
    )
    for side, x in zip(("query", "key"), tokens, strict=True):
        told, probe, seen = (
            np.asarray(getattr(modes, f"{side}_{what}"))[:, :MODES]
            for modes, what in ((predicted, "patterns"), (predicted, "probes"), (own, "patterns"))
        )
        # of a random mode: a combination of the tokens, which their moment's root makes of any direction
        random = x.T @ rng.normal(size=(len(x), 1000))
        found["pattern"].append(_cosines(told, seen).diagonal())
        found["pattern_chance"].append(_cosines(told, random).mean(axis=1))
        found["seen"].append(np.abs((probe * seen).sum(axis=0)))
        found["seen_chance"].append(float(chance_alignment(int(np.linalg.matrix_rank(x)))))
    axes = ("side", "mode")
    data = {f"{name}_cosine": (axes[: np.ndim(x)], np.array(x)) for name, x in found.items()}
    return xr.Dataset(data, {"side": ["query", "key"], "mode": np.arange(MODES) + 1})


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|cos| of columns."""
    a, b = (x / np.linalg.norm(x, axis=0) for x in (a, b))
    return np.abs(a.T @ b)


def _best(results: xr.Dataset) -> xr.Dataset:
    return results.isel(hypothesis=int(np.argmax(results.functional_cosine.values)))


def _explained(results: xr.Dataset) -> xr.DataArray:
    enough = (results.functional_cosine >= COSINE) & (results.margin >= MARGIN)
    return enough & (results.p_value_for_all <= P_VALUE)


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a hypothesis."""
    return [
        {
            "hypothesis": str(here.hypothesis.item()),
            "explains the head": "yes" if bool(_explained(here)) else "no",
            "member": _with_interval(here.member, here.first_member, here.last_member),
            "functional cosine": _with_interval(here.functional_cosine, here.lowest, here.highest),
            "weight cosine": float(here.weight_cosine),
            "random head, highest": float(here.null.max()),
            "p": float(here.p_value),
            "p, all hypotheses": float(here.p_value_for_all),
            "permuted, highest": float(here.rival.max()),
            "rank": f"{int(here['rank'])} of {1 + int(here.rival.notnull().sum())}",
            "margin": float(here.margin),
            "training time": float(here.time),
            "weights never exercised": f"{float(here.unvisited):.2%}",
        }
        for here in places(results, "hypothesis")
    ]


def _with_interval(x: xr.DataArray, low: xr.DataArray, high: xr.DataArray) -> str:
    return "-" if np.isnan(x) else f"{float(x):.3g} ({float(low):.3g} to {float(high):.3g})"


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures of the best hypothesis."""
    best = _best(results)
    return {
        "hypotheses": results.sizes["hypothesis"],
        "best_hypothesis": str(best.hypothesis.item()),
        "functional_cosine": float(best.functional_cosine),
        "functional_cosine_lowest": float(best.lowest),
        "functional_cosine_highest": float(best.highest),
        **{name: float(best[name]) for name in ("member", "first_member", "last_member") if best[name].notnull()},
        "weight_cosine": float(best.weight_cosine),
        "p_value": float(best.p_value),
        "p_value_for_all_hypotheses": float(best.p_value_for_all),
        "highest_random_head_functional_cosine": float(best.null.max()),
        "margin_functional_cosine": float(best.margin),
        "rank": int(best["rank"]),
        "permuted_templates": int(best.rival.notnull().sum()),
        "highest_permuted_functional_cosine": float(best.rival.max()),
        "training_time": float(best.time),
        "weights_never_exercised_share": float(best.unvisited),
        "explained": bool(_explained(best)),
        **{
            f"{side}_mode_{k}_{name}": float(best[name].sel(side=side, mode=k))
            for name in ("pattern_cosine", "pattern_chance_cosine", "seen_cosine")
            for side in best.side.values
            for k in best.mode.values
        },
        "seen_chance_cosine": float(best.seen_chance_cosine.mean()),
    }


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """Cosines of all hypotheses, singular values, and families; on `axes`, two and one a family, where given."""
    families = [name.removeprefix("members_") for name in map(str, results) if name.startswith("members_")]
    drawn, (cosines, values, *others) = panels_or(axes, 2 + len(families), width=5.2, height=4.0)
    _draw_cosines(cosines, results)
    for ax, name in zip(others, families, strict=True):
        _draw_members(ax, results, name)
    best = _best(results).isel(pair=slice(SHOWN))
    values.plot(best.pair, best.predicted_value, color=COLOURS[1], label=f'predicted by "{best.hypothesis.item()}"')
    measured(values, best.pair, best.measured_value, label="the head's own")
    values.set(xlabel="pair k", ylabel=r"singular value $\sigma_k$", ylim=(0, None))
    values.legend()
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    return (
        "Left, functional cosine of each hypothesis (points) beside random heads that it would explain, the head's "
        "whitened form or the head itself turned (dots, a line at the highest), and its permuted templates (crosses). "
        "Right, singular values that the best hypothesis predicts, scaled to the head's logits, and "
        "the head's own. Further right, functional cosines of each family's members, shaded those that resamples "
        "choose, a line at the best of the permuted families."
    )


def _draw_members(ax: Axes, results: xr.Dataset, name: str) -> None:
    members, here = results[f"members_{name}"], results.sel(hypothesis=name)
    x = members[f"member_{name}"].values
    ax.axvspan(float(here.first_member), float(here.last_member), color=GREY, alpha=0.2, label="best, 95 %")
    measured(ax, x, members, fmt="o-", label="the head")
    ax.axhline(float(here.rival.max()), color=COLOURS[1], label="permuted families, highest")
    if (x > 0).all() and x.max() > 10 * x.min():
        ax.set_xscale("log")
    ax.set(xlabel=f'member of "{name}"', ylabel="functional cosine")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)


def _draw_cosines(ax: Axes, results: xr.Dataset) -> None:
    x = np.arange(results.sizes["hypothesis"])
    spread = np.random.default_rng(0).uniform(-0.08, 0.08, results.sizes["draw"])
    kinds = (
        (-0.27, results.null.sel(random_head="whitened"), ".", GREY, "random heads, whitened"),
        (-0.09, results.null.sel(random_head="raw"), ".", COLOURS[2], "random heads, raw"),
        (0.12, results.rival, "x", COLOURS[1], "permuted templates"),
    )
    for offset, cosines, marker, colour, label in kinds:
        for i, here in zip(x + offset, cosines.values, strict=True):
            ax.plot(i + spread, here, marker, color=colour, alpha=0.25, markersize=3)
            ax.hlines(here[~np.isnan(here)].max(initial=-1), i - 0.09, i + 0.09, color=colour)
        ax.plot([], [], marker, color=colour, label=label)
    measured(ax, x + 0.3, results.functional_cosine, markersize=8, label="the head")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    ax.set_xticks(x, [str(name) for name in results.hypothesis.values])
    where = f"{results.attrs.get('bundle', 'the head')}, layer {results.attrs['layer']}, head {results.attrs['head']}"
    ax.set(xlim=(-0.6, len(x) - 0.4), xlabel="hypothesis", ylabel="functional cosine", title=where)
