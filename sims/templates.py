"""Templates that are no matching: which basis does a head have in place of features?

First part. Heads are trained on four templates of N = 9 things: the order `[i >= j]`, a cycle whose logit falls with
the steps from i on to j, three categories of three, and a product of sizes. With orthonormal features T20 says their
singular values and vectors in closed form, carried by the features: sines and cosines of the order, Fourier planes,
indicators, one direction; under softmax the same centred over keys. In superposition, 9 features in 6 dimensions, they
are mixed as T4 says, by `predict`. Values that are equal are compared as subspaces; all modes count, the smallest too.

The squared objective is a polynomial. Softmax is averaged over all contexts of a query and two keys, one thing each:
nothing is sampled, so that what is left between prediction and head is theory's and training's. T6 holds to leading
order in the logits; what strength does beyond is shown, and held to nothing.

Rules, set before the run, for every template on either frame, squared or softmax at the smallest strength: median |cos|
of predicted with trained vectors at least 0.999 and median |error| of values, over sigma_1, at most 0.001. And no head
of orthonormal features that is asked for an order has a vector nearer to a feature, by more than 0.001, than T20
allows: 2/sqrt(2N + 1) for the squared objective, sqrt(2/N) under softmax. Most random directions are nearer to the best
of N features.

Second part. One-layer transformers are trained to find the next larger number of a list, which takes a comparison. The
hypothesis about their heads is the family of orders that decay with the distance, `[k > q] e^{-(k - q)/L}`; its best
member predicts the head (T16), and the prediction's first two balanced patterns (T22) are held against the head's.

Rules, set before the run, for every one of them: accuracy at least 0.99; functional cosine at least 0.9 and p at most
0.01 by random heads; a lead of at least 0.2 over matching, over the sizes of both numbers and of the key's alone, and
over every permuted family. |cos| of patterns is at least 0.9 in the median, and each is above 95 % of those that random
modes in the same tokens have with the predicted one.

What runs said: at paper scale functional cosines are 0.88 to 0.93, and seven of sixteen miss the 0.9 that was set.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes

from sims.engines.descent import descend
from sims.engines.simulation import Weights, small_factors
from sims.lab import comparing
from sims.lab.command import command
from sims.lab.rules import Rule, row
from sims.lab.sizes import Precise
from sims.lab.sweep import Batch, each, grid, sweep
from sims.models.trained import Recipe, trained
from svtheory import (
    Scenario,
    Spectrum,
    alignment,
    compare,
    conditioned_frame,
    order_spectrum,
    predict,
    spectrum,
)
from svtheory.checks import InputError
from svtheory.prediction import cyclic_spectrum
from svtheory.reports.options import above, at_least
from svtheory.reports.plotting import COLOURS, GREY, measured, panels
from svtheory.reports.runs import Exhibit, Outcome, checkpoints
from svtheory.spectra.spectra import spectrum_of
from svtheory.targets import categories, order

THEOREMS = ("T4", "T6", "T16", "T20", "T22")
N, DIM, CONDITION = 9, 6, 4.0
TEMPLATES = ("order", "cycle", "categories", "product")
OBJECTIVES = ("square", "softmax")
FRAMES = ("orthonormal", "superposed")
PROFILE = 0.6 ** np.arange(N)
LABELS = "aaabbbccc"
SIZES = np.arange(1, N + 1) / N, (np.arange(1, N + 1) / N) ** 2
START = 1e-3  # what tokens never reach stays as it started
COSINE, VALUE = Rule("median", ">=", 0.999), Rule("median", "<=", 0.001)
RESAMPLES = 40  # behind an interval
NEAREST = {"square": 2 / np.sqrt(2 * N + 1), "softmax": np.sqrt(2 / N)}
SHOWN = 3  # vectors in the figure


@dataclass(frozen=True)
class Config(Precise):
    """Size of the experiment."""

    ARRAYS = ("seeds 1000", "transformers 100 4096", "sequences 64 8")

    seeds: Annotated[int, at_least(2)] = 4
    """Heads of each template, frame, objective and strength."""
    strengths: Annotated[tuple[float, ...], above(0)] = (0.1, 30.0)
    """Softmax: the template's largest logit; the smallest is held to the rules."""
    steps: Annotated[int, at_least(1)] = 400
    """Steps of L-BFGS."""
    transformers: Annotated[int, at_least(2)] = 2
    """Transformers that compare."""
    training: Annotated[int, at_least(100)] = 2000
    """Their training steps, a multiple of 100."""
    sequences: Annotated[int, at_least(64)] = 512
    """Sequences on which their heads are read."""
    draws: Annotated[int, at_least(99)] = 199
    """Random heads, and permuted families."""

    def __post_init__(self):
        super().__post_init__()
        if len(set(self.strengths)) < len(self.strengths):
            raise InputError(f"--strengths must be distinct, got {self.strengths}")
        if self.training % 100:
            raise InputError(f"--training must be a multiple of 100, got {self.training}")


SCALES = {
    "quick": Config(steps=250),
    "paper": Config(seeds=24, strengths=(0.1, 0.3, 1.0, 3.0, 10.0, 30.0), transformers=16, sequences=1024, draws=999),
    "full": Config(
        seeds=200, strengths=(0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0), transformers=64, sequences=4096, draws=999
    ),
}


class Given(NamedTuple):
    """What a head is trained on, features X and Y (N, N) and T, and the spectrum that theory predicts of it."""

    query_features: Array
    key_features: Array
    target: Array
    softmax: Array
    prediction: Spectrum


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train and compare."""
    batches = [_heads(config, number, objective) for number, objective in enumerate(OBJECTIVES)]
    results = sweep(batches, partial(_train, config), _read, checkpoints(folder), ("pair", "entry"))
    rows = [row for cell in _cells(config) for row in _rows(config, results, *cell)]
    rows += [_nearest_row(config, results, objective) for objective in OBJECTIVES]
    transformers = _transformers(config, folder)
    figures = {"templates": _exhibit(config, results), "comparing": comparing.exhibit(transformers)}
    summary = _summary(config, results) | comparing.summary(transformers)
    return Outcome(summary, results.merge(transformers), figures, rows + comparing.rows(transformers))


def _transformers(config: Config, folder: Path) -> xr.Dataset:
    """What is read of the transformers that compare, in float32 as all transformers are."""
    with jax.enable_x64(False):
        models = trained(Recipe("next_larger", config.transformers, config.training, seed=config.seed), folder.parent)
        return comparing.compared(models, config.seed + 1, config.sequences, config.draws, RESAMPLES)


def _strengths(config: Config, objective: str) -> tuple[float, ...]:
    return (1.0,) if objective == "square" else tuple(sorted(config.strengths))


def _heads(config: Config, number: int, objective: str) -> Batch:
    """All heads of one objective."""
    strengths = _strengths(config, objective)
    cells = grid(template=range(len(TEMPLATES)), frame=range(len(FRAMES)), t=strengths, seed=range(config.seeds))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number), cells["t"].size)
    told = [_told(name, objective) for name in TEMPLATES]
    closed = jax.tree.map(lambda *leaves: jnp.stack(leaves), *told)
    given = each(partial(_given, objective, closed), cells["template"], cells["frame"], jnp.asarray(cells["t"]), keys)
    labels = {"objective": objective, "t": cells["t"], "seed": cells["seed"]}
    labels |= {"template": np.array(TEMPLATES)[cells["template"]], "frame": np.array(FRAMES)[cells["frame"]]}
    return Batch(given, keys, labels)


def _templates() -> Array:
    """T of largest entry 1, of each of `TEMPLATES`, (templates, N, N)."""
    steps = np.arange(N)
    cycle, product = PROFILE[(steps[:, None] - steps[None, :]) % N], np.outer(*SIZES)
    return jnp.stack([order(N), jnp.asarray(cycle), categories(LABELS), jnp.asarray(product)])


def _told(name: str, objective: str) -> Spectrum:
    """The template's spectrum in closed form, centred over keys under softmax; pairs beyond its rank are 0."""
    centred = objective == "softmax"
    if name == "order":
        s = order_spectrum(N, centred)
    elif name == "cycle":
        s = cyclic_spectrum(jnp.asarray(PROFILE - centred * PROFILE.mean()))
    else:
        if name == "categories":
            kinds = np.array([[float(label == kind) for kind in "abc"] for label in LABELS])
            # differences of the indicators, if they are centred
            left = right = np.linalg.svd(kinds - centred * kinds.mean(axis=0))[0][:, : 3 - centred]
            values = np.full(3 - centred, 3.0)
        else:
            a, b = SIZES[0], SIZES[1] - centred * SIZES[1].mean()
            values = np.array([np.linalg.norm(a) * np.linalg.norm(b)])
            left, right = (x[:, None] / np.linalg.norm(x) for x in (a, b))
        s = spectrum_of(*(jnp.asarray(x) for x in (left, values, right)))
    missing = N - len(s.values)
    return jax.tree.map(lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]), s)


def _given(objective: str, closed: Spectrum, template: Array, frame: Array, t: Array, key: Array) -> Given:
    X, Y = (_features(frame, k) for k in jax.random.split(key))
    softmax, T = objective == "softmax", t * _templates()[template]
    # T6: of keys that hold one thing each, equally often, softmax sees the differences, and all else drops out
    mixed = predict(Scenario(X, Y - softmax * Y.mean(axis=1, keepdims=True), T))
    told = jax.tree.map(lambda leaf: leaf[template], closed)
    carried = Spectrum(_product(X, told.left), t * told.values, _product(Y, told.right), t * told.gaps)
    prediction = jax.tree.map(lambda a, b: jnp.where(frame == 0, a, b), carried, mixed)
    return Given(X, Y, T, jnp.asarray(softmax), prediction)


def _product(A: Array, B: Array) -> Array:
    return jnp.matmul(A, B, precision="highest")


def _features(frame: Array, key: Array) -> Array:
    """Orthonormal features, or ones of condition number CONDITION in a random subspace of DIM dimensions; (N, N)."""
    turn, other = jax.random.split(key)
    crowded = jnp.pad(conditioned_frame(other, DIM, N, CONDITION), ((0, N - DIM), (0, 0)))
    return _product(jax.random.orthogonal(turn, N), jnp.where(frame == 0, jnp.eye(N), crowded))


def _train(config: Config, given: Given, keys: Array, **place: Any) -> Spectrum:
    weights = each(lambda key: small_factors(N, N, START, key), keys)
    weights, _ = descend(_loss, weights, keys, config.steps, given._replace(prediction=None), **place)
    return each(lambda W: spectrum(W["W_Q"], W["W_K"]), weights)


def _loss(weights: Weights, given: Given) -> Array:
    """Half the squared error of all logits; or the divergence over each query with each pair of keys, once.

    Of two keys whose logits differ by d, the ones asked for by e: `ln(1 + e^d) - ln(1 + e^e) - (d - e)/(1 + e^-e)`. The
    entropy of what is asked is left out, beside which small logits would be lost.
    """
    queries, keys = _product(weights["W_Q"], given.query_features), _product(weights["W_K"], given.key_features)
    logits, (j, k) = _product(queries.T, keys), np.triu_indices(N, 1)
    d, e = (x[:, j] - x[:, k] for x in (logits, given.target))
    divergence = jax.nn.softplus(d) - jax.nn.softplus(e) - jax.nn.sigmoid(e) * (d - e)
    return jnp.where(given.softmax, divergence.sum(), ((logits - given.target) ** 2).sum() / 2)


def _read(given: Given, trained: Spectrum) -> dict[str, Array]:
    """Agreement of all pairs, the nearest feature of each trained vector, and the trained vectors' key coordinates."""
    found = compare(given.prediction, trained)
    X, Y = given.query_features, given.key_features
    nearest = [alignment(vectors, x).max(axis=1) for vectors, x in ((trained.left, X), (trained.right, Y))]
    shown = _product(Y.T, trained.right)
    told = _product(Y.T, given.prediction.right)
    return {
        "cosine": jnp.minimum(found.left, found.right),
        "value_error": found.value_error,
        "nearest": jnp.where(
            given.prediction.values > 1e-3 * given.prediction.values[0], jnp.maximum(*nearest), jnp.nan
        ),
        "predicted": given.prediction.values,
        "measured": trained.values,
        "vector": (shown * jnp.sign((shown * told).sum(axis=0))[None, :]).T,
    }


def _cells(config: Config) -> list[tuple[str, str, str, float]]:
    return [
        (template, frame, objective, t)
        for objective in OBJECTIVES
        for frame in FRAMES
        for template in TEMPLATES
        for t in _strengths(config, objective)
    ]


def _chosen(results: xr.Dataset, **labels: Any) -> xr.Dataset:
    for name, value in labels.items():
        results = results.sel(head=results[name] == value)
    return results


def _told_of(x: xr.DataArray) -> np.ndarray:
    """What is said of pairs that are predicted."""
    return x.values[np.isfinite(x.values)]


def _held(config: Config, t: float, objective: str) -> bool:
    return t == _strengths(config, objective)[0]


def _rows(config: Config, results: xr.Dataset, template: str, frame: str, objective: str, t: float) -> list[dict]:
    heads = _chosen(results, template=template, frame=frame, objective=objective, t=t)
    labels = {"template": template, "features": frame, "objective": objective, "t": t, "heads": heads.sizes["head"]}
    held = _held(config, t, objective)
    return [
        row("|cos(predicted, trained)|", _told_of(heads.cosine), COSINE if held else None, **labels),
        row("|sigma error|/sigma_1", np.abs(_told_of(heads.value_error)), VALUE if held else None, **labels),
    ]


def _orders(config: Config, results: xr.Dataset, objective: str) -> np.ndarray:
    """Cosines of order heads' vectors with the nearest of their orthonormal features."""
    t = _strengths(config, objective)[0]
    return _told_of(_chosen(results, template="order", frame="orthonormal", objective=objective, t=t).nearest)


def _nearest_row(config: Config, results: xr.Dataset, objective: str) -> dict[str, Any]:
    labels = {"template": "order", "features": "orthonormal", "objective": objective}
    labels |= {"t": _strengths(config, objective)[0], "heads": config.seeds}
    # what is not told apart from the bound by training is not beyond it
    rule = Rule("highest", "<=", NEAREST[objective] + 1e-3)
    return row("|cos(trained, nearest feature)|", _orders(config, results, objective), rule, **labels)


def _summary(config: Config, results: xr.Dataset) -> dict[str, Any]:
    found: dict[str, Any] = {"heads": results.sizes["head"]}
    for frame in FRAMES:
        for objective in OBJECTIVES:
            for t in _strengths(config, objective):
                name = f"{frame}_{objective}" + (f"_t{t:g}" if objective == "softmax" else "")
                heads = _chosen(results, frame=frame, objective=objective, t=t)
                found[f"median_cosine_{name}"] = float(np.median(_told_of(heads.cosine)))
                found[f"median_value_error_{name}"] = float(np.median(np.abs(_told_of(heads.value_error))))
    for objective in OBJECTIVES:
        found[f"highest_cosine_with_a_feature_order_{objective}"] = float(_orders(config, results, objective).max())
    found["random_direction_cosine_with_the_nearest_feature"] = _chance()
    return found


def _chance() -> float:
    """Mean |cos| of a random direction with the nearest of N orthonormal features."""
    x = np.random.default_rng(0).normal(size=(20_000, N))
    return float((np.abs(x).max(axis=1) / np.linalg.norm(x, axis=1)).mean())


def _exhibit(config: Config, results: xr.Dataset) -> Exhibit:
    figure, ((vectors, values, strength),) = panels(3, width=4.6, height=4.0)
    _draw_vectors(vectors, _chosen(results, frame="orthonormal", template="order", objective="softmax"), config)
    for number, template in enumerate(TEMPLATES):
        _draw_values(values, _chosen(results, frame="orthonormal", template=template, objective="square"), number)
        _draw_strength(strength, _chosen(results, frame="superposed", template=template, objective="softmax"), number)
    values.set(xlabel="pair k", ylabel=r"singular value $\sigma_k$", title="orthonormal, squared objective")
    values.legend()
    strength.set(
        xscale="log", yscale="log", xlabel="largest logit t", ylabel="1 - |cos|, median", title="superposed, softmax"
    )
    strength.legend()
    return Exhibit(
        figure,
        "Left, right singular vectors of heads asked for an order under softmax, in the coordinates of their features: "
        "discrete cosines (lines) and trained heads (points). Middle, singular values in closed form (lines) and "
        "trained (points). Right, what logits beyond the leading order do to heads in superposition: how far trained "
        "vectors are from those predicted at small logits.",
    )


def _draw_vectors(ax: Axes, heads: xr.Dataset, config: Config) -> None:
    heads = heads.sel(head=heads.t == _strengths(config, "softmax")[0])
    told, places = np.asarray(order_spectrum(N, True).right), np.arange(1, N + 1)
    fine = np.linspace(1, N, 200)
    for k in range(SHOWN):
        curve = np.sqrt(2 / N) * np.cos((k + 1) * np.pi * (fine - 0.5) / N)
        ax.plot(fine, curve, color=COLOURS[k])
        vector = heads.vector.isel(pair=k)
        sign = np.sign(vector.values @ told[:, k])[:, None]
        seen = vector.values * sign
        measured(ax, places, seen.mean(axis=0), seen.std(axis=0, ddof=1), color=COLOURS[k], label=f"k = {k + 1}")
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set(xlabel="key j", ylabel=r"$y_j^T v_k$", title="order, orthonormal, softmax", ylim=(-0.55, 0.8))
    ax.legend(ncols=SHOWN, loc="upper center")


def _draw_values(ax: Axes, heads: xr.Dataset, number: int) -> None:
    told = heads.predicted.mean("head")
    rank = int((told > 1e-3 * told[0]).sum())
    pairs, style = np.arange(1, rank + 1), {"color": COLOURS[number], "fmt": "os^D"[number]}
    ax.plot(pairs, told[:rank], color=COLOURS[number])
    measured(ax, pairs, heads.measured.mean("head")[:rank], heads.measured.std("head", ddof=1)[:rank], **style,
             label=TEMPLATES[number])  # fmt: skip


def _draw_strength(ax: Axes, heads: xr.Dataset, number: int) -> None:
    t = np.unique(heads.t)
    some = [1 - _told_of(_chosen(heads, t=value).cosine) for value in t]
    style = {"color": COLOURS[number], "fmt": f"{'os^D'[number]}-"}
    measured(ax, t, [max(np.median(x), 1e-16) for x in some], **style, label=TEMPLATES[number])


main = command(run, SCALES)

if __name__ == "__main__":
    main()
