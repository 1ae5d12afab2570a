"""Sampling: how many contexts a head must read before its singular vectors are those of endlessly many (T21).

Every head reads a stream of random contexts and is trained anew on more and more of them. In the first part one pair
of 2 D features, in tight frames, is matched, and what no head can learn of it, because of superposition, is the noise;
activations are Gaussian or sparse, objectives squared or softmax. Measured is `sin^2` between the first singular
vectors, in whitened coordinates (T22), and those of the optimum; under softmax, of heads trained on many more contexts,
whose own error is predicted too. `sampling_error` predicts the mean to first order. Beside it stands, for the squared
objective, what noise of the same size would do that does not depend on the tokens.

In the second part it does not: orthonormal features, Gaussian activations, and so much noise in the answers that it
hides the mode until a number of contexts is reached. Predicted is the law of white noise with its threshold; beside it
stand matrices of the same size and noise, drawn without any tokens.

Rules, set before the run. First part: from 8 D D' contexts on the mean of `sin^2` over its prediction, of both sides,
which are alike, is within a tenth of 1, or within three standard errors where those are larger. Second part: `sin^2` is
within 0.05, or three standard errors, of that of the matrices everywhere, and of the law from twice the contexts of the
threshold on (counted beyond the D D' that the fit takes); and the threshold with which the law fits it best there is
within a tenth of the predicted one.

First runs, before tight frames and before both sides were one rule: in random unit frames, some of whose features are
crowded and have a large `sin^2`, the first order is too high for the squared objective at 8 D D', by a ninth.
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

from sims.engines.simulation import Training, simulate_ensemble
from sims.lab.command import command
from sims.lab.knobs import matched
from sims.lab.noise_threshold import fitted_threshold, matrices_in_noise
from sims.lab.rules import standard_error
from sims.lab.sizes import Precise
from sims.lab.streams import Stream, distances, moments
from sims.lab.sweep import Batch, each, sweep
from svtheory import BernoulliUniform, Gaussian, Law, Scenario, optimal_omega, sampling_error, single_pair, tight_frame
from svtheory.prediction import cosines_in_noise, hiding_threshold, noise_deviation
from svtheory.prediction.whitened import whiten
from svtheory.reports.options import MULTIPLE, PROBABILITY, above, at_least, between
from svtheory.reports.plotting import COLOURS, GREY, curve, measured, panels
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

THEOREMS = ("T21",)
OBJECTIVES, LAWS, SIDES = ("square", "softmax"), ("Gaussian", "sparse"), ("query", "key")
SHAPES = ((16, 16), (8, 32))  # of whitened heads beside white noise
LOGIT = 1.0  # standard deviation of the logits asked for, over independent tokens
N_KEYS = 4
ENOUGH, TENTH = 8, 0.1
ABOVE, NEAR, THRESHOLD = 2, 0.05, 0.1
ERRORS = 3


@dataclass(frozen=True)
class Config(Precise):
    """Size of the sweep."""

    ARRAYS = (
        "frames heads dim dim contexts",
        "frames limit dim",
        "dim dim dim dim",
        "samples dim",
        "noisy_heads noisy_contexts",
    )

    dim: Annotated[int, at_least(2)] = 6
    """Dimension D; there are 2 D features."""
    probability: Annotated[float, PROBABILITY] = 0.3
    """Of a sparse feature to be present."""
    contexts: Annotated[tuple[float, ...], between(0, MULTIPLE)] = (0.125, 0.5, 2.0, 8.0, 32.0)
    """Contexts that a head has read, in units of D D'; growing."""
    frames: Annotated[int, at_least(1)] = 4
    """Random features for each objective and law."""
    heads: Annotated[int, at_least(2)] = 10
    """Heads for each of these, a stream of contexts each."""
    steps: Annotated[int, at_least(1)] = 70
    """Steps of L-BFGS, softmax objective."""
    limit: Annotated[int, at_least(2)] = 16384
    """Contexts that stand for endlessly many, softmax objective."""
    samples: Annotated[int, at_least(2)] = 20000
    """Contexts over which predictions are averaged."""
    noise: Annotated[float, above(0)] = 12.0
    """Standard deviation of the noise in answers, over that of the answers."""
    noisy_contexts: Annotated[tuple[float, ...], between(0, MULTIPLE)] = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
    """Contexts beyond D D' with noisy answers, in units of those of the threshold; growing."""
    noisy_heads: Annotated[int, at_least(2)] = 40
    """Heads for each shape, with noisy answers."""


SCALES = {
    "quick": Config(),
    "paper": Config(
        contexts=(0.125, 0.5, 2.0, 8.0, 16.0, 32.0),
        frames=8,
        heads=100,
        limit=32768,
        samples=60000,
        noisy_contexts=(0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0),
        noisy_heads=200,
    ),
    "full": Config(
        dim=10,
        contexts=(0.125, 0.25, 0.5, 1.25, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
        frames=16,
        heads=200,
        limit=131072,
        samples=400000,
        noisy_heads=1000,
    ),
}


class Part(NamedTuple):
    """Heads of one kind, and where they are read."""

    name: str
    shape: tuple[int, int]
    heads: xr.Dataset
    noisy: bool


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train on more and more contexts, and compare."""
    place, keys = checkpoints(folder), iter(jax.random.split(jax.random.key(config.seed), 6))
    parts = []
    for objective in OBJECTIVES:
        for law in LAWS:
            name = f"{objective}, {law}"
            batch = _superposed(config, next(keys), objective, law, place / f"limit {name}")
            shares = np.array(batch.given.counts) / config.dim**2
            parts.append(_part(config, name, (config.dim, config.dim), batch, place, shares))
    for shape in SHAPES:
        name = f"noise, {shape[0]} x {shape[1]}"
        batch = _noisy(config, next(keys), shape)
        parts.append(_part(config, name, shape, batch, place, np.array(config.noisy_contexts), noisy=True))
    superposed, noisy = ([part for part in parts if part.noisy == kind] for kind in (False, True))
    names = {name: f"noisy_{name}" for name in ("head", "count", "measured", "predicted", "rival", "kind")}
    results = xr.concat([part.heads for part in superposed], "head")
    results = results.merge(xr.concat([part.heads for part in noisy], "head").rename(names))
    rows = [row for part in superposed for row in _superposed_rows(part)]
    rows += [row for part in noisy for row in (*_noisy_rows(part), _threshold_row(part))]
    figures = {
        "sampling": Exhibit(
            _sampling_figure(superposed),
            "sin² between the first singular vectors after n contexts and after endlessly many: trained heads (points, "
            "standard error), first order (lines, from where contexts determine a head), white noise of the same size "
            "(dashed), random vectors (dotted). Left of the grey line no rule is set.",
        ),
        "threshold": Exhibit(
            _threshold_figure(noisy),
            "cos² beside noise that is independent of the tokens: trained heads (points, standard error), the law of "
            "white noise (lines), matrices of white noise without tokens (crosses), the first order (dashed).",
        ),
    }
    return Outcome(_summary(parts, rows), results, figures, rows)


def _part(
    config: Config, name: str, shape: tuple[int, int], batch: Batch, place: Path, at: np.ndarray, noisy: bool = False
) -> Part:
    heads = sweep([batch], partial(distances, steps=config.steps), _read, place / name, ("count", "side"))
    return Part(name, shape, heads.assign_coords(count=at, side=list(SIDES)), noisy)


def _read(stream: Stream, measured: Array) -> dict[str, Array]:
    return {"measured": measured, "predicted": stream.predicted, "rival": stream.rival}


def _superposed(config: Config, key: Array, objective: str, law: str, checkpoint: Path) -> Batch:
    """Heads of one objective and law, whose noise is what superposition leaves of the target."""
    D, F = config.dim, config.frames
    frame_key, limit_key, error_key, head_key = jax.random.split(key, 4)
    build = partial(_scenario, D, objective, _law(config, law))
    scenarios = each(build, jax.random.split(frame_key, F))
    counts = tuple(max(1, round(share * D**2)) for share in config.contexts)
    if objective == "square":
        limit, white = each(partial(_square, np.array(counts), _law(config, law)), scenarios)
        foreseen = np.array([n for n in counts if n > D**2])
    else:
        training = Training(steps=config.steps, contexts=config.limit)
        end = simulate_ensemble(scenarios, jax.random.split(limit_key, F), training, checkpoint, "the limit")
        limit = jnp.einsum("fdk,fk,fek->fde", end.left, end.values, end.right, precision="highest")
        foreseen, white = np.array([*counts, config.limit]), jnp.full((F, len(counts), 2), jnp.nan)
    predict = partial(sampling_error, samples=config.samples, n=foreseen, pairs=1)
    errors = jnp.stack(each(predict, scenarios, jax.random.split(error_key, F)), axis=-1)[:, :, 0]
    if objective == "softmax":  # the limit's own error adds to each
        errors = errors[:, :-1] + errors[:, -1:]
    # where the first order says nothing of some head, its mean says nothing
    errors = jnp.where(jnp.isinf(errors).any(axis=(0, 2), keepdims=True), jnp.nan, errors)
    unknown = jnp.full((F, len(counts) - errors.shape[1], 2), jnp.nan)
    predicted = jnp.concatenate([unknown, errors], axis=1)
    stream = Stream(scenarios, each(moments, scenarios), jnp.zeros(F), limit, predicted, white, counts)
    streams = jax.tree.map(lambda x: jnp.repeat(x, config.heads, axis=0), stream)
    return Batch(streams, head_key, {"kind": f"{objective}, {law}", "frame": np.repeat(np.arange(F), config.heads)})


def _law(config: Config, name: str) -> Law:
    N = 2 * config.dim
    return BernoulliUniform(config.probability, N) if name == "sparse" else Gaussian(jnp.zeros(N), jnp.eye(N))


def _scenario(dim: int, objective: str, law: Law, key: Array) -> Scenario:
    """Query feature 0 matched with key feature 0, each as crowded as all others."""
    strength = LOGIT / law.second_moment()[0, 0]
    options = {"query_law": law, "key_law": law, "objective": objective, "n_keys": N_KEYS}
    return matched(lambda key: tight_frame(key, dim, law.mean().size), key, strength, **options)


def _square(counts: np.ndarray, law: Law, scenario: Scenario) -> tuple[Array, Array]:
    """The optimum of the squared objective, and `sin^2` beside white noise of the size of the residual, (counts, 2)."""
    target, C, core = scenario.target, law.second_moment(), whiten(scenario).core
    deviation = noise_deviation((target * (C @ target @ C)).sum() - (core**2).sum(), counts, core.shape)
    white = 1 - jnp.stack(cosines_in_noise(jnp.linalg.norm(core, ord=2), deviation, core.shape), axis=1)
    return optimal_omega(scenario), white


def _noisy(config: Config, key: Array, shape: tuple[int, int]) -> Batch:
    """Heads of orthonormal features and noisy answers; whitened they are of this shape."""
    D, D_k = shape
    matrix_key, head_key = jax.random.split(key)
    laws = [Gaussian(jnp.zeros(n), jnp.eye(n)) for n in shape]
    scenario = Scenario(*(jnp.eye(max(shape), n) for n in shape), single_pair(*shape, 0, 0, LOGIT), *laws)
    # the threshold falls with the root of the contexts beyond D D'
    appears = (hiding_threshold(noise_deviation(config.noise**2, D * D_k + 1, shape), shape) / LOGIT) ** 2
    counts = tuple(D * D_k + max(1, round(float(share * appears))) for share in config.noisy_contexts)
    deviations = noise_deviation(config.noise**2, np.array(counts), shape)
    law = 1 - jnp.stack(cosines_in_noise(LOGIT, deviations, shape), axis=1)
    stream = Stream(scenario, moments(scenario), jnp.asarray(config.noise), optimal_omega(scenario), law,
                    matrices_in_noise(LOGIT, deviations, shape, matrix_key), counts)  # fmt: skip
    M = config.noisy_heads
    streams = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x)[None], (M, *jnp.shape(x))), stream)
    return Batch(streams, head_key, {"kind": f"noise, {D} x {D_k}"})


def _superposed_rows(part: Part) -> list[dict[str, Any]]:
    """One line of the table for each number of contexts."""
    rows = []
    for share in part.heads["count"].values:
        at = part.heads.sel(count=share)
        (query, _), (key, _), (ratio, error) = (
            over(at.sel(side=list(sides))) for sides in (SIDES[:1], SIDES[1:], SIDES)
        )
        holds = abs(ratio - 1) <= max(TENTH, ERRORS * error) if share >= ENOUGH else None
        rows.append(_row(part, at, share) | {
            "measured / predicted": _both((query, key)), "both": ratio, "s.e.": error, "holds": holds,
        })  # fmt: skip
    return rows


def over(heads: xr.Dataset) -> tuple[float, float]:
    """Mean measured over mean predicted of some sides, and its standard error over heads."""
    mean = heads.predicted.mean().item()
    ratio = heads.measured.mean().item() / mean
    return ratio, standard_error((heads.measured - ratio * heads.predicted).mean("side").values) / mean


def _noisy_rows(part: Part) -> list[dict[str, Any]]:
    rows = []
    for share in part.heads["count"].values:
        at = part.heads.sel(count=share)
        seen, error = at.measured.mean("head").values, [standard_error(at.measured.sel(side=s).values) for s in SIDES]
        allowed = np.maximum(NEAR, ERRORS * np.array(error))
        law, matrices = (x.isel(head=0).values for x in (at.predicted, at.rival))
        near = abs(seen - matrices) <= allowed
        if share >= ABOVE:
            near &= abs(seen - law) <= allowed
        rows.append(_row(part, at, share) | {
            "measured / predicted": _both(seen / law), "both": np.mean(seen / law), "s.e.": np.mean(error / law),
            "holds": bool(near.all()),
        })  # fmt: skip
    return rows


def _row(part: Part, at: xr.Dataset, share: float) -> dict[str, Any]:
    mean = at[["predicted", "rival", "measured"]].mean("head")
    return {
        "heads": part.name,
        "contexts": f"{share:g} n_c" if part.noisy else f"{share:.3g} D D'",
        "sin² predicted": _both(mean.predicted.values),
        "beside it": _both(mean.rival.values),
        "measured": _both(mean.measured.values),
    }


def _both(values: Any) -> str:
    """Query and key side in one cell."""
    return ", ".join(f"{x:.3g}" if np.isfinite(x) else "-" for x in values)


def threshold(part: Part) -> tuple[float, float]:
    """The threshold that fits what is seen above it, over the predicted one, and its standard error."""
    heads = part.heads.sel(count=part.heads["count"] >= ABOVE)
    seen = heads.measured.transpose("head", "count", "side").values
    return fitted_threshold(seen, heads["count"].values, part.shape)


def _threshold_row(part: Part) -> dict[str, Any]:
    found, error = threshold(part)
    return {
        "heads": part.name,
        "contexts": "of the threshold",
        "sin² predicted": "",
        "beside it": "",
        "measured": "",
        "measured / predicted": "",
        "both": found,
        "s.e.": error,
        "holds": bool(abs(found - 1) <= THRESHOLD),
    }


def _summary(parts: list[Part], rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"heads": sum(part.heads.sizes["head"] for part in parts)}
    for part in parts:
        name = part.name.replace(",", "").replace(" ", "_").lower()
        if part.noisy:
            summary[f"threshold_over_predicted_{name}"], summary[f"threshold_standard_error_{name}"] = threshold(part)
            continue
        enough = part.heads["count"].values[part.heads["count"].values >= ENOUGH]
        found = [over(part.heads.sel(count=n)) for n in enough]
        if found:
            summary[f"furthest_ratio_{name}"] = max(found, key=lambda x: abs(x[0] - 1))[0]
            summary[f"largest_standard_error_{name}"] = max(x[1] for x in found)
    return summary


def _sampling_figure(parts: list[Part]):
    figure, axes = panels(len(LAWS), len(OBJECTIVES), width=4.6, height=3.5)
    for ax, part in zip(axes.ravel(), parts, strict=True):
        mean, error = over_heads(part.heads[["predicted", "rival", "measured"]])
        for side, colour, shape in zip(SIDES, COLOURS, "os", strict=False):
            line, spread = mean.sel(side=side), error.measured.sel(side=side)
            ax.plot(mean["count"], line.rival, color=colour, linestyle="--", linewidth=1)
            curve(
                ax, mean["count"], line.predicted, line.measured, spread, color=colour, fmt=shape, label=f"{side} side"
            )
        D = part.shape[0]
        ax.axhline(1 - 1 / D, color=GREY, linestyle=":", label=f"random, 1 - 1/{D}")
        ax.axvline(ENOUGH, color=GREY, linewidth=0.8)
        ax.set(xscale="log", yscale="log", title=part.name, ylim=(1e-3, 3))
    for ax in axes[-1]:
        ax.set_xlabel("contexts / $D\\,D'$")
    for ax in axes[:, 0]:
        ax.set_ylabel(r"$\sin^2$ with the limit's vector")
    axes[0, 0].legend(loc="lower left")
    return figure


def _threshold_figure(parts: list[Part]):
    figure, (axes,) = panels(len(parts), 1, width=4.6, height=3.8)
    fine = np.geomspace(0.2, 4.5, 400)
    for ax, part in zip(axes, parts, strict=True):
        mean, error = over_heads(part.heads[["rival", "measured"]])
        deviations = np.sqrt(1 / fine) / float(hiding_threshold(1.0, part.shape))
        law = cosines_in_noise(1.0, deviations, part.shape)
        for number, (side, colour, shape) in enumerate(zip(SIDES, COLOURS, "os", strict=False)):
            ax.plot(fine, law[number], color=colour)
            ax.plot(fine, 1 - deviations**2 * part.shape[number], color=colour, linestyle="--", linewidth=1)
            seen, spread = 1 - mean.sel(side=side), error.measured.sel(side=side)
            measured(ax, mean["count"], seen.measured, spread, color=colour, fmt=shape, label=f"{side} side")
            ax.plot(mean["count"], seen.rival, "x", color=colour)
        ax.axvline(1, color=GREY, linewidth=0.8)
        ax.set(
            xscale="log", title=part.name, ylim=(-0.03, 1), xlabel="contexts beyond $D\\,D'$ / those of the threshold"
        )
        ax.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"], minor=False)
        ax.minorticks_off()
    axes[0].set_ylabel(r"$\cos^2$ with the mode's vector")
    axes[0].legend(loc="upper left")
    return figure


def over_heads(heads: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Mean of the heads, and its standard error."""
    return heads.mean("head"), heads.std("head", ddof=1) / np.sqrt(heads.sizes["head"])


main = command(run, SCALES)

if __name__ == "__main__":
    main()
