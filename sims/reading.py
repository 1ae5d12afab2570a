"""Reading: where do raw, unwhitened and balanced vectors of a trained head show its features, and where do they not?

A head's modes are read in three ways: its singular vectors as they are; unwhitened, `A u` (T15); and balanced, as the
patterns `A^{1/2} u~` of `A^{1/2} Omega B^{1/2}` (T22), with A and B the token moments that the objective sees. Three
matched pairs of strengths t, 0.7 t and 0.5 t are read over the condition number of the features, their number a
dimension, density, strength, head dimension and training time; a pair that a narrow head drops is not read. A feature
is read at that one of the three leading modes whose vectors show both features of its pair best, in prediction and
measurement alike. Predictions come from `predict` (square objective), from `predict_finite` on contexts of its own
(softmax, with a query bias) and from the filter of finite training time (T17).

Random heads on the same tokens give chance: heads of the same singular values, raw and balanced, whose vectors are
random rotations, read by the same rule. The larger p-value of the two counts.

Rules, set before the run. In every cell and reading the mean |predicted - measured| cosine is at most 0.02. A reading
recovers the features of a cell where their median |cos| is at least 0.99. At condition number 100 and N = D, under both
objectives, patterns recover them and the median of raw vectors is below 0.6. In cells that balanced reading is
predicted to recover, every head has p <= 0.05 (random heads reach that in one of twenty cases). Under random invertible
changes of basis on both sides, of condition number 100, no balanced value or term of a trained head changes by more
than 1e-8 of the largest, while raw terms change by at least a tenth in the median. Predicted patterns of independent
features, up to condition number 1e4, are the features to a sine of 1e-8; raw vectors have a sine of at least 0.1.
Softmax heads are read at N = D, where any contexts, if they are enough, have one optimum; what superposition leaves
unexplained is sampled (T21), and drifts with strength (T18).

Trained heads that are given a query-key norm are bilinear in rescaled tokens (T23): to 1e-8 the sums of balanced terms
are their scores, and the squares of balanced values sum to the mean square of the scores, which with the moments of
tokens as they are is off by at least a tenth in the median.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from sims.engines.simulation import Training, simulate_ensemble
from sims.lab.command import command
from sims.lab.courses import PROGRESS, at_progress, filtered, followed
from sims.lab.curves import by_label, with_error
from sims.lab.knobs import padded_frame
from sims.lab.rules import Rule, judged
from sims.lab.sizes import Precise
from sims.lab.sweep import Batch, each, grid, labelled, sweep
from svtheory import (
    BernoulliUniform,
    Gaussian,
    Head,
    Scenario,
    Spectrum,
    alignment,
    balanced_spectrum,
    matching,
    predict,
    predict_finite,
)
from svtheory.checks import InputError
from svtheory.geometry.columns import lengths, sine
from svtheory.heads import Norm, bilinear
from svtheory.instruments.directions import random_factor
from svtheory.prediction.whitened import Whitened, whiten
from svtheory.reports.options import PROBABILITY, above, at_least
from svtheory.reports.plotting import COLOURS, GREY, curve, panels
from svtheory.reports.runs import Exhibit, Outcome, checkpoints
from svtheory.spectra import READINGS, Root, Tokens, readings

THEOREMS = ("T7", "T15", "T17", "T18", "T22", "T23")
PAIRS, SIZES = 3, (1.0, 0.7, 0.5)
KAPPA = 10.0  # condition number wherever that is not what varies
N_KEYS, DENSITY, STRENGTH = 8, 0.3, 5.0  # of softmax heads, wherever these are not what varies
RANDOM = 39  # random heads of each kind behind a p-value
TURNED = 100.0  # condition number of a change of basis
EPSILON, SAMPLED = 1e-6, 100  # of a query-key norm, and the tokens that it is tried on
EXACT = (1.0, 10.0, 100.0, 1e3, 1e4)
RECOVERED, BAR = 0.99, 100.0
NEAR, CHANCE = Rule("mean", "<=", 0.02), Rule("highest", "<=", 0.05)
SHOWN, HIDDEN = Rule("median", ">=", RECOVERED), Rule("median", "<", 0.6)
STAYS, MOVES = Rule("highest", "<=", 1e-8), Rule("median", ">=", 0.1)
NORMALISED = {
    "normalised_scores": "scores from the sums of balanced terms",
    "normalised_moments": "mean square of scores from values in rescaled tokens",
    "unscaled_moments": "the same in tokens as they are",
}
SQUARE, SOFTMAX = "square", "softmax"
KNOBS = {
    "condition number": "condition number of the features",
    "crowd": "features a dimension, N/D",
    "density": "density p of the activations",
    "strength": "strength t, N = D",
    "head dimension": "head dimension H",
}


@dataclass(frozen=True)
class Config(Precise):
    """Size of the sweep."""

    dim: Annotated[int, at_least(4)] = 10
    """Dimension D."""
    conditions: Annotated[tuple[float, ...], at_least(1)] = (1.0, 10.0, 100.0)
    """Condition numbers at N = D."""
    crowds: Annotated[tuple[float, ...], above(0)] = (0.5, 1.0, 1.5, 2.0, 4.0)
    """Features a dimension; three features at least."""
    densities: Annotated[tuple[float, ...], PROBABILITY] = (0.05, 0.3, 0.9)
    """Probabilities of a feature to be present, at N = D."""
    strengths: Annotated[tuple[float, ...], above(0)] = (1.0, 10.0, 40.0)
    """Strengths t of softmax heads, at N = D."""
    head_dims: Annotated[tuple[int, ...], at_least(1)] = (2,)
    """Head dimensions below D, beside D itself, at N = D."""
    frames: Annotated[int, at_least(2)] = 3
    """Random heads of each cell."""
    steps: Annotated[int, at_least(1)] = 800
    """Steps of L-BFGS, square objective."""
    softmax_steps: Annotated[int, at_least(1)] = 400
    """Steps of L-BFGS, softmax."""
    contexts: Annotated[int, at_least(2)] = 1024
    """Sampled contexts of a softmax head, and of its prediction as many others."""

    def __post_init__(self):
        super().__post_init__()
        if round(min(self.crowds) * self.dim) < PAIRS:
            raise InputError(f"--crowds must leave {PAIRS} features in {self.dim} dimensions, got {self.crowds}")
        if max(self.head_dims) > self.dim:
            raise InputError(f"--head-dims must be at most --dim, {self.dim}, got {self.head_dims}")


SCALES = {
    "quick": Config(),
    "paper": Config(
        conditions=(1.0, 3.0, 10.0, 30.0, 100.0),
        densities=(0.02, 0.05, 0.1, 0.3, 0.6, 0.9),
        strengths=(1.0, 3.0, 10.0, 30.0, 80.0),
        head_dims=(1, 2, 3, 5),
        frames=12,
        steps=2000,
        softmax_steps=800,
        contexts=4096,
    ),
    "full": Config(dim=32, frames=64, steps=4000, softmax_steps=2000, contexts=16384),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train, and read in three ways."""
    key, tables = jax.random.key(config.seed), []
    for number, (objective, steps) in enumerate(((SQUARE, config.steps), (SOFTMAX, config.softmax_steps))):
        batches = _batches(config, objective, jax.random.fold_in(key, number))
        train = partial(_trained, Training(steps=steps, contexts=config.contexts))
        place = checkpoints(folder) / objective
        tables.append(sweep(batches, train, partial(_read, config.contexts), place, ("reading", "side", "pair")))
    results = xr.concat(tables, "head").assign_coords(reading=list(READINGS), side=["query", "key"])
    course = _course(config, jax.random.fold_in(key, 2), folder)
    exact = _exact(config, jax.random.fold_in(key, 3))
    cells = _cells(results)
    rows = [_row(*cell) for cell in cells] + _course_rows(course) + _claims(results, exact)
    figures = {"reading": _exhibit(results, course)}
    return Outcome(_summary(results, exact), xr.merge([results, course, exact]), figures, rows)


def _batches(config: Config, objective: str, key: Array) -> list[Batch]:
    """What varies under one objective; head dimensions have shapes of their own."""
    varied: dict[str, tuple[float, ...]] = {"condition number": config.conditions, "density": config.densities}
    if objective == SQUARE:
        varied |= {"crowd": config.crowds, "head dimension": (*config.head_dims, config.dim)}
    else:
        varied |= {"strength": config.strengths}
    cells = [(knob, value) for knob, values in varied.items() for value in values for _ in range(config.frames)]
    keys = jax.random.split(key, len(cells))
    of_shape: dict[int | None, list[int]] = {}
    for n, (knob, value) in enumerate(cells):
        narrow = knob == "head dimension" and value < config.dim
        of_shape.setdefault(int(value) if narrow else None, []).append(n)
    columns = round(max(1, *config.crowds) * config.dim) if objective == SQUARE else config.dim
    batches = []
    for head_dim, places in of_shape.items():
        settings = [_setting(objective, *cells[n]) for n in places]
        given = jax.tree.map(lambda *x: jnp.array(x, float), *settings), keys[np.array(places)]
        scenarios = each(partial(_scenario, objective, config.dim, columns, head_dim), *given)
        knob, value = zip(*(cells[n] for n in places), strict=True)
        batches.append(Batch(scenarios, given[1], {"knob": knob, "objective": objective, "value": value}))
    return batches


def _setting(objective: str, knob: str, value: float) -> dict[str, float]:
    """What a cell's scenario is made of: one of these is the knob's value."""
    square = objective == SQUARE
    usual = {
        "crowd": 1.0,
        "condition number": KAPPA,
        "density": 0.0 if square else DENSITY,
        "strength": 1.0 if square else STRENGTH,
    }
    return {name: value if name == knob else x for name, x in usual.items()}


def _scenario(
    objective: str, D: int, columns: int, head_dim: int | None, setting: dict[str, Array], key: Array
) -> Scenario:
    """Query features 0, 1, 2 matched with key features 0, 1, 2; columns beyond N are zero.

    Under the square objective a density of 0 stands for centred activations of unit variance.
    """
    present, p = jnp.round(setting["crowd"] * D), setting["density"]
    X, Y = (padded_frame(k, D, columns, present, setting["condition number"]) for k in jax.random.split(key))
    target = matching(columns, columns, range(PAIRS), range(PAIRS), setting["strength"] * jnp.array(SIZES))
    if objective == SOFTMAX:
        law = BernoulliUniform(p, columns)
        return Scenario(X, Y, target, law, law, SOFTMAX, n_keys=N_KEYS, query_bias=True)
    # all that the square objective sees of sparse activations is their second moment
    variance = jnp.where(p > 0, p / 3 - p**2 / 4, 1)
    law = Gaussian(p / 2 * jnp.ones(columns), variance * jnp.eye(columns))
    return Scenario(X, Y, target, law, law, head_dim=head_dim)


def _trained(training: Training, scenarios: Scenario, keys: Array, **place: Any) -> tuple[Spectrum, Array]:
    """Trained heads, and keys for what is drawn to read them."""
    return simulate_ensemble(scenarios, keys, training, **place), jax.vmap(partial(jax.random.fold_in, data=7))(keys)


def _read(contexts: int, scenario: Scenario, trained: tuple[Spectrum, Array]) -> dict[str, Array]:
    """|cos| of features and vectors by reading, side and pair, predicted and measured; what chance and bases change."""
    head, key = trained
    first, second, third, fourth = jax.random.split(key, 4)
    tokens = whiten(scenario)
    foreseen = predict_finite(scenario, first, contexts, PAIRS) if scenario.objective == SOFTMAX else predict(scenario)
    W = [_factors(s, len(head.values)) for s in (foreseen, head)]
    random = _random(tokens, *W[1], second)
    heads = jax.tree.map(lambda *x: jnp.concatenate([jnp.stack(x[:2]), x[2]]), *W, random)
    cosines, whitened = jax.lax.map(lambda W: _shown(scenario, tokens, *W), heads)
    own, random = jnp.nanmean(cosines[1], axis=(1, 2)), jnp.nanmean(cosines[2:], axis=(2, 3))
    random = random.reshape(2, RANDOM, len(READINGS))
    stays, moves = _turned(scenario, tokens, *W[1], third)
    return {
        "predicted": cosines[0],
        "measured": cosines[1],
        "chance": random.mean(axis=1).max(axis=0),
        "p_value": ((1 + (random >= own[None, None, :]).sum(axis=1)) / (1 + RANDOM)).max(axis=0),
        "balanced_change": stays,
        "raw_change": moves,
        **_normalised(tokens, *W[1], fourth),
        "whitened_cosine": whitened[1],
    }


def _factors(s: Spectrum, rows: int) -> tuple[Array, Array]:
    """W_Q and W_K of a head of this spectrum, with rows of zeros below."""
    W_Q, W_K = (s.left * s.values[None, :]).T, s.right.T
    below = jnp.zeros((rows - len(W_Q), W_Q.shape[1]))
    return jnp.concatenate([W_Q, below]), jnp.concatenate([W_K, below])


def _shown(scenario: Scenario, tokens: Whitened, W_Q: Array, W_K: Array) -> tuple[Array, Array]:
    """|cos| of matched features with the patterns of their modes, (reading, side, pair), NaN for dropped pairs.

    And of the whitened features with the balanced modes `u~`, which no change of basis changes, shape ().
    """
    room = min(PAIRS, scenario.rank)
    found = readings(W_Q, W_K, tokens.query.moment, tokens.key.moment)
    X, Y = scenario.query_features[:, :PAIRS], scenario.key_features[:, :PAIRS]
    table = []
    for reading in found.values():
        cosines = alignment(reading.query_patterns[:, :room], X), alignment(reading.key_patterns[:, :room], Y)
        at = (cosines[0] * cosines[1]).argmax(axis=0), jnp.arange(PAIRS)
        table.append(jnp.stack([c[at] for c in cosines]))
    # of the balanced reading, the last: u~ . A^{+1/2} x = probe . x
    sides = (reading.query_probes, X, tokens.query), (reading.key_probes, Y, tokens.key)
    whitened = [
        jnp.abs((probes[:, at[0]] * features).sum(axis=0)) / lengths(side.inverse.T @ features)
        for probes, features, side in sides
    ]
    kept = (jnp.arange(PAIRS) < scenario.rank)[None, None, :]
    return jnp.where(kept, jnp.stack(table), jnp.nan), jnp.stack(whitened)[:, :room].mean()


def _random(tokens: Whitened, W_Q: Array, W_K: Array, key: Array) -> tuple[Array, Array]:
    """Factors (2 RANDOM, H, D) of random heads: first of the same raw, then of the same balanced spectrum."""
    sides = tokens.query.moment, tokens.key.moment
    found = readings(W_Q, W_K, *sides)
    values = jnp.stack([found["raw"].values, found["balanced"].values])

    def draw(given):
        kind, key = given
        raw = [Root(side.axes, jnp.where(kind == 0, jnp.sign(side.lengths), side.lengths)) for side in sides]
        keys = jax.random.split(key)
        return tuple(random_factor(k, values[kind], side) for k, side in zip(keys, raw, strict=True))

    return jax.lax.map(draw, (jnp.repeat(jnp.arange(2), RANDOM), jax.random.split(key, 2 * RANDOM)))


def _turned(scenario: Scenario, tokens: Whitened, W_Q: Array, W_K: Array, key: Array) -> tuple[Array, Array]:
    """How far a change of basis moves balanced values and terms, and raw terms, of random tokens, over the largest."""
    D, room = scenario.dim, min(PAIRS, scenario.rank)
    draw, *keys = jax.random.split(key, 5)
    U, V, P, Q = (jax.random.orthogonal(k, D) for k in keys)
    stretch = jnp.geomspace(TURNED**-0.5, TURNED**0.5, D)
    turns = (U * stretch[None, :]) @ V, (P * stretch[None, :]) @ Q
    backs = V.T @ (U / stretch[None, :]).T, Q.T @ (P / stretch[None, :]).T
    sides = tokens.query, tokens.key
    roots = [side.basis * side.scale[None, :] for side in sides]
    r, s = (Z @ g for Z, g in zip(roots, jax.random.normal(draw, (2, D, 20)), strict=True))

    def terms(given):
        W_Q, W_K, Z_r, Z_s, r, s = given
        moments = [Root(*jnp.linalg.svd(Z, full_matrices=False)[:2]) for Z in (Z_r, Z_s)]
        found = readings(W_Q, W_K, *moments)
        return [
            (x.values[:room], x.values[:room, None] * (x.query_probes.T @ r)[:room] * (x.key_probes.T @ s)[:room])
            for x in (found["balanced"], found["raw"])
        ]

    turned = [turn @ x for x, turn in zip((*roots, r, s), 2 * turns, strict=True)]
    after = W_Q @ backs[0], W_K @ backs[1], *turned
    both = jax.tree.map(lambda *x: jnp.stack(x), (W_Q, W_K, *roots, r, s), after)
    balanced, raw = jax.lax.map(terms, both)

    def change(x):
        return jnp.abs(x[1] - x[0]).max() / jnp.abs(x[0]).max()

    return jnp.maximum(*map(change, balanced)), change(raw[1])


def _normalised(tokens: Whitened, W_Q: Array, W_K: Array, key: Array) -> dict[str, Array]:
    """The head with query-key norms of random gains: how far its scores are from what is read in rescaled tokens (T23).

    Sums of balanced terms, over the largest score; and, over the mean square of the scores, the sum of squared balanced
    values, in the moments of the rescaled tokens and in those of the tokens as they are.
    """
    draw, query, keys = jax.random.split(key, 3)
    gains = [jax.random.uniform(k, (len(W_Q),), minval=0.5, maxval=2.0) for k in (query, keys)]
    norms = [Norm(gain, EPSILON) for gain in gains]
    head = Head(W_Q, W_K, query_norm=norms[0], key_norm=norms[1])
    drawn = jax.random.normal(draw, (2, SAMPLED, W_Q.shape[1]))
    r, s = (g @ (side.basis * side.scale[None, :]).T for g, side in zip(drawn, (tokens.query, tokens.key), strict=True))
    scores = head.queries(r, 0) @ head.keys(s, 0).T
    plain, x, y = bilinear(head, r, s)

    def values(r, s):
        return balanced_spectrum(plain.W_Q, plain.W_K, Tokens(r), Tokens(s))

    found = values(x, y)
    sums = ((x @ found.query_probes) * found.values[None, :]) @ (y @ found.key_probes).T
    off = [(other.values**2).sum() / (scores**2).mean() - 1 for other in (found, values(r, s))]
    worst = jnp.abs(sums - scores).max() / jnp.abs(scores).max()
    return dict(zip(NORMALISED, (worst, *map(jnp.abs, off)), strict=True))


def _course(config: Config, key: Array, folder: Path) -> xr.Dataset:
    """Heads of condition number KAPPA along gradient flow, by progress."""
    keys = jax.random.split(key, config.frames)
    setting = {name: jnp.full(config.frames, x) for name, x in _setting(SQUARE, "training time", 0.0).items()}
    scenarios = each(partial(_scenario, SQUARE, config.dim, config.dim, None), setting, keys)
    axes, place = ("reading", "progress"), checkpoints(folder) / "time"
    follow = partial(followed, kinds=("Omega",))
    course = sweep([Batch(scenarios, keys, {})], follow, _read_course, place, axes, "followed")
    return course.assign_coords(progress=PROGRESS, reading=list(READINGS))


def _read_course(scenario: Scenario, flows: dict[str, Array]) -> dict[str, Array]:
    """Mean |cos| over sides and pairs by reading and progress, filtered and along flows."""
    tokens, one = whiten(scenario), jnp.eye(scenario.dim)

    def shown(omega):
        return _shown(scenario, tokens, one, omega)[0].mean(axis=(1, 2))

    along = {"predicted": filtered(scenario), **flows}
    every = jax.lax.map(shown, jnp.concatenate(list(along.values())))
    ends = np.cumsum([len(omega) for omega in along.values()])
    return {
        f"cosine_{kind}": jnp.stack([at_progress(scenario, omega, x) for x in every[end - len(omega) : end].T])
        for (kind, omega), end in zip(along.items(), ends, strict=True)
    }


def _exact(config: Config, key: Array) -> xr.Dataset:
    """The largest sine of predicted patterns, and of raw vectors, with independent features."""
    cells = grid(exact_condition=EXACT, frame=range(config.frames))["exact_condition"]
    keys = jax.random.split(key, cells.size)

    def read(condition, key):
        setting = {**_setting(SQUARE, "condition number", 0.0), "condition number": condition}
        scenario = _scenario(SQUARE, config.dim, config.dim, None, setting, key)
        tokens, s = whiten(scenario), predict(scenario)
        found = readings(*_factors(s, config.dim), tokens.query.moment, tokens.key.moment)
        sides = ("query_patterns", scenario.query_features), ("key_patterns", scenario.key_features)
        return {
            f"sine_{name}": jnp.stack(
                [sine(getattr(found[name], side)[:, :PAIRS], X[:, :PAIRS]).max() for side, X in sides]
            ).max()
            for name in ("balanced", "raw")
        }

    return labelled(each(read, jnp.asarray(cells), keys), {"exact_condition": cells}, "predicted_head")


def _cells(results: xr.Dataset) -> list[tuple[str, str, float, xr.Dataset]]:
    """Heads of one knob, objective and value."""
    places = list(zip(results.knob.values, results.objective.values, results.value.values, strict=True))
    return [
        (*place, results.isel(head=[n for n, other in enumerate(places) if other == place]))
        for place in dict.fromkeys(places)
    ]


COLUMNS = [f"{reading}, {what}" for reading in READINGS for what in ("predicted", "trained")]
COLUMNS += ["chance", "whitened cosine", "recovered, predicted", "recovered, trained"]


def _line(varies: str, objective: str, value: Any, held: dict[str, Any], **columns: Any) -> dict[str, Any]:
    """A row of the table."""
    return {"varies": varies, "objective": objective, "value": value, **dict.fromkeys(COLUMNS), **columns, **held}


def _row(knob: str, objective: str, value: float, heads: xr.Dataset) -> dict[str, Any]:
    """A cell: mean cosines, predicted and measured, by reading."""
    columns: dict[str, Any] = {}
    for reading in READINGS:
        some = heads.sel(reading=reading)
        columns |= _means(reading, some.predicted, some.measured.mean(("side", "pair")))
    columns["chance"] = heads.chance.sel(reading="balanced").mean().item()
    columns["whitened cosine"] = heads.whitened_cosine.mean().item()
    columns["recovered, predicted"], columns["recovered, trained"] = (
        ", ".join(_recovered(heads[name])) or "none" for name in ("predicted", "measured")
    )
    worst = np.abs(heads.predicted - heads.measured).mean(("head", "side", "pair"))
    return _line(knob, objective, value, judged(Rule("highest", "<=", NEAR.bound), worst.values), **columns)


def _means(reading: str, predicted: xr.DataArray, of_a_head: xr.DataArray) -> dict[str, Any]:
    return {f"{reading}, predicted": predicted.mean().item(), f"{reading}, trained": with_error(of_a_head)}


def _recovered(cosines: xr.DataArray) -> list[str]:
    """The readings that recover the features of a cell."""
    return [name for name in READINGS if cosines.sel(reading=name).median() >= RECOVERED]


def _course_rows(course: xr.Dataset) -> list[dict[str, Any]]:
    """Along training, a reading each: Omega trained directly, which the filter describes exactly."""
    rows = []
    for reading in READINGS:
        some = course.sel(reading=reading)
        error = np.abs(some.cosine_predicted - some.cosine_Omega).values
        means = _means(reading, some.cosine_predicted, some.cosine_Omega.mean("progress"))
        held = judged(NEAR, error[np.isfinite(error)])
        rows.append(_line("training time", SQUARE, f"all, {reading}", held, **means))
    return rows


def _claims(results: xr.Dataset, exact: xr.Dataset) -> list[dict[str, Any]]:
    """What is held to rules of its own."""
    rows = []

    def claim(varies: str, objective: str, value: Any, x: xr.DataArray, rule: Rule) -> None:
        found = x.values[np.isfinite(x.values)]
        if found.size:
            rows.append(_line(varies, objective, value, judged(rule, found)))

    for objective in (SQUARE, SOFTMAX):
        at = (results.knob == "condition number") & (results.objective == objective) & (results.value == BAR)
        claim("|cos| of patterns, N = D", objective, BAR, results.measured.sel(head=at, reading="balanced"), SHOWN)
        claim("|cos| of raw vectors, N = D", objective, BAR, results.measured.sel(head=at, reading="raw"), HIDDEN)
    sure = [heads for *_, heads in _cells(results) if "balanced" in _recovered(heads.predicted)]
    if sure:
        p: Any = xr.concat([heads.p_value for heads in sure], "head").sel(reading="balanced")
        claim("p of recovered features, balanced", "both", "all cells", p, CHANCE)
    claim("change of basis: balanced values and terms", "both", "all cells", results.balanced_change, STAYS)
    claim("change of basis: raw terms", "both", "all cells", results.raw_change, MOVES)
    for (name, words), rule in zip(NORMALISED.items(), (STAYS, STAYS, MOVES), strict=True):
        claim(f"query-key norm: {words}", "both", "all cells", results[name], rule)
    for condition in np.unique(exact.exact_condition):
        some = exact.sel(predicted_head=exact.exact_condition == condition)
        claim("sine of predicted patterns", SQUARE, condition, some.sine_balanced, STAYS)
        if condition > 1:
            claim("sine of predicted raw vectors", SQUARE, condition, some.sine_raw, Rule("lowest", ">=", 0.1))
    return rows


def _summary(results: xr.Dataset, exact: xr.Dataset) -> dict[str, Any]:
    found = {"heads": results.sizes["head"]}
    for objective in (SQUARE, SOFTMAX):
        at = (results.knob == "condition number") & (results.objective == objective) & (results.value == BAR)
        for reading in READINGS:
            median = results.measured.sel(head=at, reading=reading).median().item()
            found[f"median_cosine_{objective}_condition_100_{reading}"] = median
    cells = [heads for *_, heads in _cells(results)]
    return found | {
        "cells": len(cells),
        **{
            f"cells_recovered_{reading}_{name}": sum(reading in _recovered(heads[kind]) for heads in cells)
            for reading in READINGS
            for name, kind in (("predicted", "predicted"), ("trained", "measured"))
        },
        "mean_absolute_error_cosine": np.abs(results.predicted - results.measured).mean().item(),
        "largest_change_of_balanced_terms": results.balanced_change.max().item(),
        "largest_sine_of_predicted_patterns": exact.sine_balanced.max().item(),
        "chance_cosine": results.chance.sel(reading="balanced").mean().item(),
    }


def _exhibit(results: xr.Dataset, course: xr.Dataset) -> Exhibit:
    figure, axes = panels(4, 2, width=3.7, height=3.3)
    shown = [("condition number", SQUARE), ("condition number", SOFTMAX), ("crowd", SQUARE), ("density", SQUARE)]
    shown += [("density", SOFTMAX), ("strength", SOFTMAX), ("head dimension", SQUARE)]
    styles = dict(zip(READINGS, zip((COLOURS[1], COLOURS[2], COLOURS[0]), "s^o", strict=True), strict=True))
    for ax, (knob, objective) in zip(axes.flat, shown, strict=False):
        heads = results.sel(head=(results.knob == knob) & (results.objective == objective))
        for reading, (colour, shape) in styles.items():
            of_a_head = heads[["predicted", "measured", "chance"]].sel(reading=reading).mean(("side", "pair"))
            mean, error = by_label(of_a_head, "value")
            line = mean.value, mean.predicted, mean.measured, error.measured
            curve(ax, *line, color=colour, fmt=shape, label=reading)
        ax.plot(mean.value, mean.chance, ":", color=GREY, label="random heads, balanced")
        ax.set(ylim=(0, 1.05), xlabel=KNOBS[knob], title=f"{objective}{', query bias' * (objective == SOFTMAX)}")
        if knob in ("condition number", "strength"):
            ax.set_xscale("log")
    last = axes.flat[len(shown)]
    for reading, (colour, shape) in styles.items():
        some = course.sel(reading=reading)
        error = some.cosine_Omega.std("followed", ddof=1) / np.sqrt(some.sizes["followed"])
        means = some.cosine_predicted.mean("followed"), some.cosine_Omega.mean("followed")
        curve(last, course.progress, *means, error, color=colour, fmt=shape, label=reading)
    last.set(ylim=(0, 1.05), xlabel=r"progress $|\Omega(t)|_F / |\Omega^*|_F$", title="square, along training")
    for ax in axes[:, 0]:
        ax.set_ylabel("|cos| with the matched features")
    axes[0, 0].legend(loc="lower left")
    return Exhibit(
        figure,
        "Mean |cos| of three matched pairs with the vectors of their modes, in three readings: predicted (lines) and "
        "trained heads (points, standard error). Patterns are features where features are independent and activations "
        "uncorrelated; a mean that the objective sees, superposition and an unfinished training mix them.",
    )


main = command(run, SCALES)

if __name__ == "__main__":
    main()
