"""Does the model use a direction? Heads that no longer read along it, the model run on, against random directions.

SOURCE is a model's folder with --text or --prompts, or a bundle that holds every weight of an attention-only model
(docs/bundles.md). Of each head, queries and keys (--side) lose, one after another: its first balanced modes (T22), its
first singular vectors, the modes that carry 90 % of its score's variance together, features of a dictionary, and random
directions. What is read along a direction becomes its mean over all tokens, what another sequence has at the same
position ("resample"), or 0 (--ablation): `r -> r - pattern (probe . r - replacement)`, in what this head's W_Q and W_K
read alone. Values are untouched, and the model runs on from there. With query-key norms (T23) the scale of each token
is held.

Effects: the weight lost by the key that the intact head attends most (variation: by how much its whole attention
moves, half the sum of changes), and, at every next token or the last one (--at), the logit lost by the token that
follows, over the mean logit, the divergence KL(intact || edited) of what the model says, and the loss gained, in nats.
Where the intact loss is not below log(vocabulary) the model does not predict these tokens, and loss says little.

Two nulls. Isotropic directions may be ones along which tokens hardly vary, and where removing anything does little.
Random directions **of the same variance**, uniform in the whitened coordinates of the tokens, take out exactly as
much of what tokens are as a mode does; only what the head makes of it differs. Leading modes are held against as many
of these. "x same variance" is the ratio of mean effects, with the ends of a 95 % interval: sequences, and the random
directions among themselves, are drawn again; where the random directions' own interval holds 0, a ratio says nothing,
and none is given. A mode among several of near-equal values is one direction of a block, of which the others carry
on: its removal costs its share, and leading modes say what the block does.

>>> import numpy as np
>>> from svtheory import HeadBundle
>>> D, H, V, rng = 6, 3, 5, np.random.default_rng(0)
>>> shapes = {"W_E": (D, V), "W_V": (1, 1, H, D), "W_O": (1, 1, D, H), "W_U": (V, D)}
>>> others = {name: rng.normal(size=shape) for name, shape in shapes.items()} | {"tokens": rng.integers(0, V, (9, 4))}
>>> W_Q, W_K, read = *rng.normal(size=(2, 1, 1, H, D)), others["W_E"].T[others["tokens"]][None]
>>> found = survey(HeadBundle(W_Q, W_K, attn_in=read, others=others))
>>> found.effect_mean.sel(direction="mode 1").dims, bool((found.effect_mean.sel(effect="variation") > 0).all())
(('layer', 'head', 'effect'), True)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro
import xarray as xr
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svtheory.checkpoints.attention_only import check_read, check_tokens, network
from svtheory.checkpoints.inference import read_layers
from svtheory.checkpoints.networks import Network
from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.instruments.caused import VARIABLES, Asked, Settings, caused
from svtheory.instruments.dictionaries import Place, dictionary, taken_for
from svtheory.instruments.effects import EFFECTS, NULLS
from svtheory.instruments.labels import labelled, of_file
from svtheory.instruments.moments import moments_of
from svtheory.instruments.sources import SEQUENCES, Source
from svtheory.instruments.survey import PLACE, by_head, check_room, chosen_heads, counted, median_of, places
from svtheory.progress import track
from svtheory.reports.plotting import COLOURS, legend_below, measured, name_heads, panels_or

SHOWN = ("mode 1", "raw vector 1", "leading modes")
COLUMNS = {
    "direction": "What is removed: balanced modes, singular vectors, modes that carry 90 % of the score's variance, "
    "features.",
    "attention, intact": "Mean weight of the intact head on the key that it attends most.",
    "of variance": "Share of the score's variance, over independent tokens, that is gone when the direction reads 0.",
    "attention lost": "Mean weight lost by that key, with its 95 % interval.",
    "x same variance": "The same over what random directions of the same variance take, with its 95 % interval.",
    "x isotropic": "The same over isotropic random directions.",
    "loss gained": "Mean loss gained on next tokens, in nats, with its 95 % interval.",
    "loss, intact": "Mean loss of the intact model; unless it is below log(vocabulary), loss says little.",
}


@dataclass(frozen=True)
class Request(Place, Settings):
    """Settings, and features of a dictionary."""

    features: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """Dictionary, a file, a folder or hf:ORG/REPO/PATH@REVISION, or the name of an array of the bundle."""
    feature: tuple[int, ...] = ()
    """Which of its features are removed, from 0."""


DEFAULTS = Settings()


def requested(source: Source, settings: Request) -> xr.Dataset:
    """What the command asks for."""
    bundle = source.bundle(reads=True, sequences=SEQUENCES)
    columns, said = _columns(bundle, settings)
    results = survey(bundle, source.network(bundle), settings, features=columns)
    return results.assign_attrs(bundle=source.label, **said)


def _columns(bundle: HeadBundle, settings: Request) -> tuple[dict[int, np.ndarray], dict[str, str]]:
    """The features asked for, by their numbers, and what is said of them.

    Raises InputError for a dictionary without numbers, or numbers without a dictionary.
    """
    if bool(settings.features) != bool(settings.feature):
        got = f"{settings.features or 'none'!r} beside {settings.feature}"
        raise InputError(f"--features must be a dictionary beside --feature, numbers of its features, got {got}")
    if not settings.feature:
        return {}, {}
    found = dictionary(settings.features, bundle, settings)
    size = found.features.shape[1]
    if strange := [i for i in settings.feature if not 0 <= i < size]:
        raise InputError(f"--feature must lie from 0 to {size - 1}, got {strange[0]}")
    columns = found.columns(np.array(settings.feature)).T
    return dict(zip(settings.feature, columns, strict=True)), {"taken_for": taken_for(found)}


def survey(
    bundle: HeadBundle,
    model: Network | None = None,
    settings: Settings = DEFAULTS,
    *,
    keys: np.ndarray | None = None,
    targets: np.ndarray | None = None,
    features: Mapping[int, Any] | None = None,
) -> xr.Dataset:
    """What comes of every removal, head by head; NaN for heads that are not edited.

    bundle    with the tokens that the model read, among `others`, and what its heads made of them
    model     whose heads they are, a Checkpoint; None is the attention-only model of the bundle itself
    keys      the key that each query should find, (sequences, positions), -1 where none is looked at; None is the key
              that the intact head attends most
    targets   the token that should follow each, (sequences, positions), -1 where none is looked at; None is the next
              one, or, as `settings` say, the last one of each sequence alone
    features  directions of what heads read, (D,), by their numbers

    Raises InputError for a bundle without what is needed, that is not of the model, or whose tokens are all equal, and
    for heads, keys or targets that are not there, or more random directions than there is room for.
    """
    heads = chosen_heads("--heads", settings.heads, bundle)
    asked = _asked(bundle, model, settings, keys, targets, features or {})
    normed = bundle.scoring.query_key_norm != "none"
    moments = lru_cache(1)(lambda layer: None if normed else moments_of(bundle, layer))
    found, befores = [], enumerate(_befores(asked.model, bundle))
    at, before = next(befores)
    for layer, head in track(heads, "heads edited"):
        while at < layer:
            at, before = next(befores)
        found.append(caused(asked, layer, head, before, moments(layer)))
    results = _of_all(bundle, heads, found)
    chance = np.log(asked.model.architecture.vocabulary)
    results = results.assign(intact_loss=results.intact_loss.mean(), chance_loss=chance)  # of one model, whatever head
    said = {"side": settings.side, "ablation": settings.ablation, "at": settings.at}
    return labelled(results.assign_attrs({**of_file(bundle.metadata), **said}), VARIABLES)


def _asked(
    bundle: HeadBundle, model: Network | None, settings: Settings, keys: Any, targets: Any, features: Any
) -> Asked:
    """What is asked of every head, checked; raises InputError as `survey` does."""
    real, shape = bundle.real, bundle.W_Q.shape
    if "tokens" not in bundle.others:
        raise InputError("bundle must hold tokens, those that its heads read, got one without")
    check_tokens(bundle)
    _check_settings(settings, real, bundle.W_Q.shape, len(features))
    model = network(bundle) if model is None else model
    model.require_unembedding()
    a = model.architecture
    if (found := (a.layers, a.heads, a.d_head, a.d_model)) != shape:
        raise InputError(f"model must have the heads of the bundle, {shape}, got {found}")
    if targets is None:
        targets = _next_tokens(bundle.others["tokens"], real, settings.at)
    else:
        targets = _checked("targets", targets, real, len(model.outputs()["unembedding"]))
    keys = None if keys is None else _checked("keys", keys, real, real.shape[1])
    return Asked(bundle, model, settings, keys, targets, _directions(features, shape[-1]))


def _check_settings(settings: Settings, real: np.ndarray, shape: tuple[int, ...], features: int) -> None:
    """Raise InputError for a donor that is not there, and for more directions and samples than there is room for."""
    if settings.ablation == "resample" and len(real) < 2:
        raise InputError("--ablation resample must have another sequence to take from, got a single one")
    directions = 2 + 2 * min(settings.modes, *shape[2:]) + features + 3 * settings.draws
    check_room("--draws", f"residual streams of {directions} passes", directions * real.size * shape[-1])
    samples = settings.resamples * directions * len(NULLS) * len(EFFECTS)
    check_room("--resamples", f"effects of {directions} directions drawn again", samples)


def _befores(model: Network, bundle: HeadBundle) -> Iterator[Array]:
    """The residual stream before each layer; raises InputError where heads read something else than the bundle says."""
    passed = read_layers(model, bundle.others["tokens"], bundle.scoring.folded, attention=False)
    for i, made in enumerate(passed):
        check_read(bundle, i, made.attn_in)
        assert made.before is not None
        yield made.before


def _of_all(bundle: HeadBundle, heads: list[tuple[int, int]], found: list[xr.Dataset]) -> xr.Dataset:
    """Those of every head, (layer, head, ...), NaN for the others."""
    index = xr.Coordinates.from_pandas_multiindex(pd.MultiIndex.from_tuples(heads, names=PLACE), "place")
    results = xr.concat(found, "place").assign_coords(index).unstack("place")
    every = dict(zip(PLACE, map(range, bundle.W_Q.shape[:2]), strict=True))
    return results.reindex(every).transpose(*PLACE, "direction", "null", "sequence", "effect")


def _next_tokens(tokens: np.ndarray, real: np.ndarray, at: str) -> np.ndarray:
    """The token that follows each, -1 where none does; `at` the last, that one alone."""
    if tokens.ndim != 2:
        raise InputError("targets must be given for tokens of several symbols, which none follows, got none")
    following = np.pad(real[:, 1:], ((0, 0), (0, 1)))
    if at == "last":
        following[:, :-1] &= ~following[:, 1:]
    if not following.any():
        raise InputError(f"tokens must be followed by others, got sequences of {real.sum(axis=1).max()} at most")
    return np.where(following, np.roll(tokens, -1, axis=1), -1)


def _checked(name: str, given: Any, real: np.ndarray, size: int) -> np.ndarray:
    """Keys or targets, whole numbers (sequences, positions) below `size`, some of them not negative."""
    x = np.asarray(given)
    if x.shape != real.shape or not np.issubdtype(x.dtype, np.integer) or not (x >= 0).any():
        wanted = f"whole numbers {real.shape}, one a query, -1 where none is looked at"
        raise InputError(f"{name} must be {wanted}, got {x.dtype} {x.shape}")
    if x.max() >= size:
        raise InputError(f"{name} must be below {size}, got {x.max()}")
    return x


def _directions(features: Mapping[int, Any], D: int) -> dict[int, np.ndarray]:
    """Features that are directions of what heads read."""
    found = {number: np.asarray(x, float) for number, x in features.items()}
    for number, x in found.items():
        if x.shape != (D,) or not np.isfinite(x).all() or not x.any():
            raise InputError(f"features must be finite directions {(D,)} that are not 0, got {x.shape} for {number}")
    return found


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row for every head that was edited and every direction that is not random."""
    asked = results.isel(direction=~results.kind.isin(["same variance", "as many", "isotropic"]))
    return [_row(here) for here in places(asked, *PLACE, "direction") if here.intact.notnull()]


def _row(here: xr.Dataset) -> dict[str, Any]:
    attention, loss = here.sel(effect="attention"), here.sel(effect="loss")
    return {
        **{name: here[name].item() for name in PLACE},
        "direction": _called(here),
        "attention, intact": float(here.intact),
        "of variance": float(here.removed_variance),
        "attention lost": _interval(attention, "effect_mean", "effect"),
        **{f"x {null}": _interval(attention.sel(null=null), "ratio", "ratio") for null in NULLS},
        "loss gained": _interval(loss, "effect_mean", "effect"),
        "loss, intact": float(here.intact_loss),
    }


def _called(here: xr.Dataset) -> str:
    """The direction's name, of leading modes with their number."""
    name = str(here.direction.item())
    return f"{name} ({int(here.directions_removed)})" if name == "leading modes" else name


def _interval(here: xr.Dataset, mean: str, name: str) -> str:
    """Mean and interval as text; nothing where there is none."""
    values = [float(here[key]) for key in (mean, f"{name}_low", f"{name}_high")]
    return "-" if np.isnan(values[0]) else "{:.3g} ({:.2g} to {:.2g})".format(*values)


def brief(results: xr.Dataset) -> list[dict[str, Any]]:
    """The columns that answer, of the first mode and the leading ones."""
    some = [row for row in rows(results) if row["direction"].startswith(("mode 1", "leading"))]
    loss = () if caveat(results) else ("loss gained",)
    return by_head(some, "direction", "attention lost", "x same variance", *loss)


def answers(results: xr.Dataset) -> list[str]:
    """What the first mode does, beside random directions and the first singular vector, and what leading modes do."""
    found = summary(results)
    return [
        f"Without its first balanced mode a head pays {found['mode_attention_lost_median']:.2g} less attention to its "
        f"key{median_of(found['heads'])}; without its first singular vector "
        f"{found['raw_attention_lost_median']:.2g}, without a random direction of the same variance "
        f"{found['same_variance_attention_lost_median']:.2g}, without an isotropic one "
        f"{found['isotropic_attention_lost_median']:.2g}. The mode costs more than random directions of the same "
        f"variance in {counted(found['heads_above_same_variance'], 'head')} (95 % intervals of the difference "
        "above 0).",
        f"Without the modes that carry 90 % of its score's variance, {found['leading_modes_median']:.3g}"
        f"{' in the median' if found['heads'] > 1 else ''}, it pays {found['leading_attention_lost_median']:.2g} less, "
        f"without as many random directions of the same variance {found['as_many_attention_lost_median']:.2g}.",
        caveat(results) or _of_loss(found),
        *(results.attrs[name] for name in ("taken_for",) if name in results.attrs),
    ]


def sentence(here: xr.Dataset) -> str:
    """What removing its first mode does to one head that was edited."""
    first = here.sel(direction="mode 1", effect="attention")
    against = first.sel(null="same variance")
    times = f": {_interval(against, 'ratio', 'ratio')} times what a random direction of the same variance takes"
    return (
        f"Without its first balanced mode it pays {_interval(first, 'effect_mean', 'effect')} less attention to its "
        f"key, of {float(here.intact):.2g}{times if against.ratio.notnull() else ''}."
    )


def caveat(results: xr.Dataset) -> str:
    """That the model does not predict the tokens that should follow, no better than chance; nothing where it does."""
    intact, chance = float(results.intact_loss), float(results.chance_loss)
    if intact < chance:
        return ""
    return (
        f"The model does not predict these next tokens (intact loss {intact:.3g} nats, chance log(V) = {chance:.3g}): "
        "loss says little here; targets= takes the right ones."
    )


def _of_loss(found: dict[str, Any]) -> str:
    """What becomes of the loss without leading modes."""
    intact, highest = f"{found['intact_loss']:.3g} nats", found["leading_loss_gained_highest"]
    if highest <= 0:
        return f"No such removal raises the loss on next tokens, of the intact model {intact}."
    return (
        f"Loss on next tokens, of the intact model {intact}, then rises in "
        f"{counted(found['heads_leading_loss_above_zero'], 'head')} (95 % intervals above 0), by {highest:.2g} nats in "
        "the most."
    )


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures, medians over the heads that were edited."""
    attention = results.sel(effect="attention")
    first, leading = (attention.sel(direction=name) for name in ("mode 1", "leading modes"))
    against = [here.sel(null="same variance").difference_low > 0 for here in (first, leading)]
    many = attention.effect_mean.isel(direction=attention.kind == "as many").mean("direction")
    loss = results.sel(effect="loss", direction="leading modes")
    lost = {
        "mode": first.effect_mean,
        "raw": attention.sel(direction="raw vector 1").effect_mean,
        **{null.replace(" ", "_"): attention.null_mean.sel(null=null) for null in results.null.values},
        "leading": leading.effect_mean,
        "as_many": many,
    }
    of_loss = {
        "heads_leading_loss_above_zero": int((loss.effect_low > 0).sum()),
        "leading_loss_gained_highest": float(loss.effect_mean.max()),
    }
    return {
        "heads": int(results.intact.notnull().sum()),
        "sequences_edited": results.sizes["sequence"],
        "intact_attention_median": float(results.intact.median()),
        "intact_loss": float(results.intact_loss),
        "chance_loss": float(results.chance_loss),
        "leading_modes_median": float(leading.directions_removed.median()),
        **{f"{name}_attention_lost_median": float(x.median()) for name, x in lost.items()},
        "heads_above_same_variance": int(against[0].sum()),
        "heads_leading_above_as_many": int(against[1].sum()),
        **({} if caveat(results) else of_loss),
    }


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """Attention lost and loss gained, head by head, by what is removed; on two `axes` where they are given."""
    drawn, axes = panels_or(axes, 2, width=6.4, height=4.6)
    for ax, effect, label in zip(axes, ("attention", "loss"), ("attention lost", "loss gained, nats"), strict=True):
        _draw(ax, results.sel(effect=effect), label)
    return drawn


def _draw(ax: Axes, results: xr.Dataset, label: str) -> None:
    layers, heads = results.sizes["layer"], results.sizes["head"]
    shown = [(name, results.sel(direction=name), "effect") for name in SHOWN]
    shown += [(f"random, {null}", results.sel(null=null), "null") for null in NULLS]
    for i, (name, here, key) in enumerate(shown):
        mean, low, high = (here[f"{key}_{part}"].transpose(*PLACE).values.ravel() for part in ("mean", "low", "high"))
        x = np.arange(layers * heads) + 0.14 * (i - (len(shown) - 1) / 2)
        error = np.maximum([mean - low, high - mean], 0)
        measured(ax, x, mean, error, color=COLOURS[i], fmt="osDv^"[i], label=name, markersize=4)
    ax.axhline(0, color="black", linewidth=0.8)
    name_heads(ax, range(layers), range(heads))
    ax.set(ylabel=label, title=str(results.attrs.get("bundle", "heads")))
    legend_below(ax, 3, fontsize=8.5)


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    how = {"mean": "their means", "resample": "those of other sequences", "zero": "0"}[results.attrs["ablation"]]
    return (
        "Left, the weight that the key of each query loses when a head no longer reads some directions, right, the "
        f"loss gained; what is read along them becomes {how}. Means over sequences with 95 % intervals; those of "
        "random directions over these too. " + caveat(results)
    ).strip()
