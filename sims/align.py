"""Your dictionary against a head: which features do its singular vectors point along, and is that beyond chance?

BUNDLE (safetensors, docs/bundles.md) holds the heads; --features FILE, an .npz or .safetensors file, `features`, D x N,
features as columns, or `W_dec`, N x D, as the decoder of a sparse autoencoder is stored; or the name of an array of the
bundle itself, N x D, such as its token embedding. Features must live in the space that the heads read: for a dictionary
of the residual stream take a bundle with the normalisation folded in.

Every singular vector that can be named (its gap above rounding, T14) is compared with every feature. Where the bundle
says what heads read, vectors are compared a second time unwhitened (T15), as a trained head's are whitened features:
K v with K the covariance of the tokens. Queries without a bias keep the mean token, which is then projected out of
vectors and features; the share removed is reported.

Chance has two levels. Isotropic: a random direction's best cosine of N (T12), its p-value corrected for all vectors and
features of the head. Covariance-matched: heads of random directions drawn with the token covariance K, or, unwhitened,
K times random directions, which alone turns them towards what is common in the tokens; the p-value is the share of such
heads that have a vector as well aligned. Over all heads, p-values are adjusted by Benjamini and Hochberg's procedure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
import xarray as xr
from jax import Array
from matplotlib.axes import Axes
from scipy.stats import false_discovery_control

from sims.lab.arrays import read_arrays
from sims.lab.command import command
from sims.lab.figures import COLOURS, GREY, panels
from sims.lab.models import bundle_file
from sims.lab.runs import Exhibit, Outcome
from svtheory import (
    HeadBundle,
    alignment,
    alignment_p_value,
    chance_alignment,
    load_heads,
    nameable,
    spectrum,
    unwhiten,
)
from svtheory.checks import InputError, whole
from svtheory.heads.unwhitening import remove_direction
from svtheory.laws import symmetric_root

LEVEL = 0.05
SIDES = ("query", "key")
READINGS = ("raw", "unwhitened")
LABELS = 24  # heads named below the figure, at most


@dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    bundle: tyro.conf.Positional[str] = "induction_ft000"
    """File of the heads, or its name in $SVTHEORY_REAL_MODELS (../shared/real_models)."""
    features: Annotated[str, tyro.conf.arg(metavar="FILE")] = "W_E"
    """Dictionary, .npz or .safetensors, or the name of an array of the bundle."""
    draws: int = 199
    """Heads of random directions behind a covariance-matched p-value."""
    seed: int = 0
    """Seed of the random directions."""

    def __post_init__(self):
        whole("--draws", self.draws, 19)


SCALES = {"quick": Config(), "paper": Config(draws=999), "full": Config(draws=9999)}


def run(config: Config, folder: Path) -> Outcome:
    """Compare the singular vectors of every head with the dictionary."""
    bundle = load_heads(bundle_file(config.bundle))
    bundle.check_bilinear()
    features = dictionary(config.features, bundle)
    results = compared(bundle, jnp.asarray(features, jnp.float32), jax.random.key(config.seed), config.draws)
    names = {"bundle": Path(config.bundle).stem, "features": Path(config.features).stem}
    results = results.assign_attrs({**bundle.metadata, **names, "n_features": features.shape[1]})
    places = product(*(range(results.sizes[name]) for name in ("layer", "head", "side", "reading")))
    rows = [row(results.isel(layer=i, head=j, side=k, reading=r)) for i, j, k, r in places]
    return Outcome(summary(results), results, {"align": exhibit(results)}, rows)


def dictionary(name: str, bundle: HeadBundle) -> np.ndarray:
    """Features as columns, (D, N), without those that are zero."""
    if name in bundle.others:
        X = bundle.others[name].T
    else:
        arrays = read_arrays(Path(name), ())
        if ("features" in arrays) == ("W_dec" in arrays):
            raise InputError(f"FILE must hold either features or W_dec, got {', '.join(arrays)}")
        X = arrays["features"] if "features" in arrays else arrays["W_dec"].T
    D = bundle.W_Q.shape[-1]
    if X.ndim != 2 or X.shape[0] != D or X.dtype.kind != "f" or not np.isfinite(X).all():
        raise InputError(
            f"FILE must hold finite features, D x N with D = {D} as in the bundle, got {X.dtype} {X.shape}"
        )
    X = X[:, (X != 0).any(axis=0)]
    if not X.size:
        raise InputError("FILE must hold a feature that is not zero, got none")
    return X


def compared(bundle: HeadBundle, features: Array, key: Array, draws: int) -> xr.Dataset:
    """Best cosines of every vector with the features, and those of random heads where there are tokens."""
    layers, _, K, _ = bundle.W_Q.shape
    with_bias = bundle.b_Q is not None

    def of_layer(given):
        weights, tokens, key = given
        moments = None if tokens is None else token_moments(tokens)
        found = jax.lax.map(lambda head: of_head(head, features, moments, with_bias), weights)
        null = None if moments is None else random_heads(key, K, draws, features, moments, with_bias)
        return found, null

    weights = [jnp.asarray(W, jnp.float32) for W in (bundle.W_Q, bundle.W_K)]
    tokens = None if bundle.attn_in is None else jnp.asarray(bundle.attn_in.reshape(layers, -1, len(features)))
    given = (weights, tokens, jax.random.split(key, layers))
    found, null = jax.tree.map(np.asarray, jax.jit(partial(jax.lax.map, of_layer))(given))
    return labelled(found, null, *features.shape)


def token_moments(tokens: Array) -> tuple[Array, Array]:
    """Covariance (D, D) and mean (D,) of tokens (n, D)."""
    mean = tokens.mean(axis=0)
    centred = tokens - mean[None, :]
    return jnp.matmul(centred.T, centred, precision="highest") / len(tokens), mean


def of_head(head: list[Array], features: Array, moments: Any, with_bias: bool) -> dict[str, Array]:
    """Of one head: its values, which vectors can be named, and the best feature of each by side and reading."""
    s = spectrum(*head)
    vectors = {"query": s.left, "key": s.right}

    def read(side, reading):
        table, removed = aligned(reading, vectors[side], features, moments, with_bias or side == "key")
        return {"best_cosine": table.max(axis=1), "best_feature": table.argmax(axis=1), "mean_removed": removed}

    return {"singular_value": s.values, "named": nameable(s), **by_side_and_reading(read, moments)}


def readings(moments: Any) -> tuple[str, ...]:
    """Vectors are unwhitened where the tokens are known."""
    return READINGS[:1] if moments is None else READINGS


def by_side_and_reading(read: Callable[[str, str], Any], moments: Any) -> Any:
    """What `read(side, reading)` gives, stacked to (side, reading, ...)."""
    stack = partial(jax.tree.map, lambda *x: jnp.stack(x))
    return stack(*(stack(*(read(side, reading) for reading in readings(moments))) for side in SIDES))


def aligned(reading: str, vectors: Array, features: Array, moments: Any, centred: bool) -> tuple[Array, Array]:
    """|cos| of vectors (D, K) with features, (K, N), and the share of each vector that was the mean token, (K,)."""
    if reading == "raw":
        return alignment(vectors, features), jnp.zeros(vectors.shape[1], vectors.dtype)
    covariance, mean = moments
    patterns, removed = unwhiten(vectors, covariance, None if centred else mean)
    return alignment(patterns, features if centred else remove_direction(features, mean)), removed


def random_heads(key: Array, K: int, draws: int, features: Array, moments: Any, with_bias: bool) -> Array:
    """Best |cos| of the K vectors of random heads, shape (draws, side, reading, K)."""
    root = symmetric_root(moments[0])

    def draw(key):
        g = jax.random.normal(key, (len(features), K), features.dtype)
        vectors = {"raw": jnp.matmul(root, g, precision="highest"), "unwhitened": g}

        def read(side, reading):
            return aligned(reading, vectors[reading], features, moments, with_bias or side == "key")[0].max(axis=1)

        return by_side_and_reading(read, moments)

    return jax.lax.map(draw, jax.random.split(key, draws))


def labelled(found: dict[str, np.ndarray], null: np.ndarray | None, D: int, N: int) -> xr.Dataset:
    """The findings by name, vectors that cannot be named left out, with chance levels and p-values."""
    layers, heads, K = found["named"].shape
    axes = ("layer", "head", "side", "reading")
    dims = {"singular_value": ("layer", "head", "pair"), "named": ("layer", "head", "pair")}
    dims |= dict.fromkeys(("best_cosine", "best_feature", "mean_removed"), (*axes, "pair"))
    results = xr.Dataset(
        {name: (dims[name], array) for name, array in found.items()},
        {
            "layer": range(layers),
            "head": range(heads),
            "side": list(SIDES),
            "reading": list(readings(null)),
            "pair": range(1, K + 1),
        },
    )
    results["best_cosine"] = results.best_cosine.where(results.named)
    largest = results["largest_cosine"] = results.best_cosine.max("pair").fillna(0)
    results["isotropic_chance"] = chance_alignment(D, N)
    results["isotropic_chance_of_a_head"] = chance_alignment(D, N * K)
    results["isotropic_p"] = axes, np.asarray(alignment_p_value(jnp.asarray(largest.values), D, K * N))
    if null is not None:
        random = xr.DataArray(null, dims=("layer", "draw", "side", "reading", "pair"))
        of_a_head = random.max("pair")
        results["matched_chance"] = random.mean(("draw", "pair"))
        results["matched_chance_of_a_head"] = of_a_head.mean("draw")
        results["matched_chance_of_a_head_standard_error"] = of_a_head.std("draw", ddof=1) / len(random.draw) ** 0.5
        reached = (of_a_head >= largest).sum("draw")
        results["matched_p"] = ((1 + reached) / (1 + len(random.draw))).transpose(*axes)
    for name in nulls(results):
        p = results[f"{name}_p"].values
        adjusted = false_discovery_control(p.reshape(-1, p.shape[-1]), axis=0)
        results[f"{name}_adjusted_p"] = axes, adjusted.reshape(p.shape)
    return results


def nulls(results: xr.Dataset) -> list[str]:
    """The kinds of chance that were computed."""
    return [name for name in ("isotropic", "matched") if f"{name}_p" in results]


def row(here: xr.Dataset) -> dict[str, Any]:
    """One reading of one side of one head: its best aligned vector and its p-values."""
    cosines = here.best_cosine.fillna(0).values
    k, nothing = int(cosines.argmax()), not cosines.any()
    place = {name: here[name].item() for name in ("layer", "head", "side", "reading")}
    return {
        **place,
        "named": f"{int(here.named.sum())} of {here.named.size}",
        "best |cos|": float("nan") if nothing else float(cosines[k]),
        "pair": "-" if nothing else str(k + 1),
        "feature": "-" if nothing else str(int(here.best_feature[k])),
        "mean |cos|": float(here.best_cosine.mean()),
        **{f"p, {name}": float(here[f"{name}_p"]) for name in nulls(here)},
        "mean token removed": float(here.mean_removed.mean()),
    }


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures: chance levels, and how many sides of heads are beyond each, by reading."""
    found = {
        "sides_of_heads": results.largest_cosine.isel(reading=0).size,
        "features": results.attrs["n_features"],
        "isotropic_chance_cosine": float(results.isotropic_chance),
        "isotropic_chance_cosine_of_a_head": float(results.isotropic_chance_of_a_head),
    }
    for reading in results.reading.values:
        here = results.sel(reading=reading)
        found |= {
            f"{reading}_best_cosine_mean": float(here.best_cosine.mean()),
            f"{reading}_best_cosine_highest": float(here.largest_cosine.max()),
            **{
                f"{reading}_beyond_{name}_chance": int((here[f"{name}_adjusted_p"] <= LEVEL).sum())
                for name in nulls(here)
            },
        }
        if "matched_chance" in here:
            found[f"{reading}_matched_chance_cosine"] = float(here.matched_chance.mean())
            found[f"{reading}_matched_chance_cosine_of_a_head"] = float(here.matched_chance_of_a_head.mean())
    return found


def exhibit(results: xr.Dataset) -> Exhibit:
    """The best aligned vector of each head, by side, over what chance gives a head."""
    readings = results.reading.values
    heads = results.sizes["layer"] * results.sizes["head"]
    figure, axes = panels(columns=len(readings), width=max(5.0, min(0.3 * heads, 10)))
    for ax, reading in zip(axes[0], readings, strict=True):
        draw(ax, results.sel(reading=reading))
        ax.set(title=f"{results.attrs['bundle']} with {results.attrs['features']}: {reading}")
    axes[0, 0].set(ylabel="best |cos| with a feature")
    axes[0, 0].legend(loc="upper right")
    caption = (
        "The best aligned singular vector of each head and side, filled where beyond every chance level, adjusted for "
        "the number of heads; and the best that chance gives a whole head (lines)."
    )
    return Exhibit(figure, caption)


def draw(ax: Axes, here: xr.Dataset) -> None:
    """One reading: points by head; isotropic chance dotted, covariance-matched chance as steps."""
    layers, heads = here.sizes["layer"], here.sizes["head"]
    x = np.arange(layers * heads).reshape(layers, heads)
    p = np.maximum.reduce([here[f"{name}_adjusted_p"] for name in nulls(here)])
    for i, (side, marker) in enumerate(zip(SIDES, "so", strict=True)):
        y = here.largest_cosine.sel(side=side).values
        beyond = p[..., i] <= LEVEL
        at = x + 0.2 * (i - 0.5)
        ax.plot(at[beyond], y[beyond], marker, color=COLOURS[i])
        ax.plot(at[~beyond], y[~beyond], marker, color=COLOURS[i], markerfacecolor="none")
        ax.plot([], [], marker, color=COLOURS[i], label={"query": "queries, u", "key": "keys, v"}[side])
        if "matched_chance_of_a_head" in here:
            level = np.repeat(here.matched_chance_of_a_head.sel(side=side).values, 2)
            edges = (np.arange(layers)[:, None] * heads + np.array([-0.5, heads - 0.5])[None, :]).ravel()
            ax.plot(edges, level, "--", color=COLOURS[i], label=f"covariance-matched chance, {side}")
    ax.axhline(float(here.isotropic_chance_of_a_head), color=GREY, linestyle=":", label="isotropic chance")
    names = [f"{layer}.{head}" for layer in range(layers) for head in range(heads)]
    some = slice(None, None, max(1, -(-len(names) // LABELS)))
    ax.set_xticks(x.ravel()[some], names[some], rotation=90 if len(names) > 8 else 0)
    ax.set(ylim=(0, 1.45), yticks=np.linspace(0, 1, 6), xlabel="layer.head")


main = command(run, SCALES)

if __name__ == "__main__":
    main()
