"""Criteria: will the singular vectors of a head be its features, and why, or why not?"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import concrete, instance
from svtheory.criteria.pairs import PairAlignments, modes_of, read_pairs, structure
from svtheory.criteria.reading import modes_by_reading, reading_rows
from svtheory.criteria.sides import SideFeatures, overlaps, side_rows
from svtheory.criteria.verdicts import Condition, Conditions
from svtheory.factorisations import safe_svd
from svtheory.geometry.columns import cosine, lengths, sine
from svtheory.numerics import exact_products, positive, shifted
from svtheory.prediction.certainty import core_rounding
from svtheory.prediction.decay import bears_decay, objective_decay
from svtheory.prediction.optimum import Optimum, check_decay, held_at_size, optimum
from svtheory.prediction.whitened import SAFETY, has_query_bias
from svtheory.scenarios import Scenario, at_unit_size
from svtheory.spectra.readings import READINGS

TOLERANCE = 1e-3
"""Cosines, and gaps in units of sigma_1, that count as 0."""


def conditions(scenario: Scenario) -> Conditions:
    """Every alignment condition that applies to a scenario, with its margin, its promise and its theorem.

    Answers "will this head's singular vectors be features, and why (not)?" (T2 to T4), and which reading shows them
    where they are not: singular vectors, unwhitened ones (T15), balanced patterns (T22); `print` shows it as a table. A
    promise about the fully trained head is never above the alignment that `predict` gives, read in the way that the
    promise names, and there is none for a pair whose vectors `predict` does not name: those that share their value,
    that the head drops, or that rounding or the objective leaves open. Under jit and vmap the conditions that do not
    apply are listed too, with `applies` false.
    Raises what `predict` raises.

    >>> from svtheory import single_pair
    >>> table = str(conditions(Scenario(2 * jnp.eye(2), jnp.eye(2), single_pair(2, 2, 0, 1, 6.0))))
    >>> table.splitlines()[2]
    'Fully trained, singular vectors are features exactly; chance is 0.6366.'
    """
    instance("scenario", scenario, Scenario)
    found, unit, refused = _every_condition(scenario, bears_decay(scenario))
    check_decay(refused)
    held_at_size(found.pairs.value, unit)
    rows = tuple(row for row in found.rows if not concrete(row.applies) or row.applies)
    return replace(found, rows=rows)


@partial(jax.jit, static_argnames="decayed")
@exact_products
def _every_condition(scenario: Scenario, decayed: bool) -> tuple[Conditions, Array, Array]:
    """All conditions, whether they apply or not, the pairs' values at unit size, and whether they are refused."""
    unit, exponent = at_unit_size(scenario)
    found = optimum(unit, decayed)
    pairs, *read, early = _pairs(found)
    singular = structure(optimum(unit) if decayed else found, TOLERANCE)
    sides = _sides(found, pairs, singular.alone & (pairs.value > 0))
    rows = [row for side in sides for row in side_rows(side)]
    rows += [_distinct_row(pairs, found.values), *_rank_rows(found), *_decay_rows(found, singular.values)]
    rows += [*_early_rows(found, sides, early), *_late_rows(found, sides, pairs)]
    by_reading: dict[str, PairAlignments] = dict(zip(READINGS, (pairs, *read), strict=True))
    rows += _reading_rows(found, sides, singular.alone, by_reading)

    def at_size(pairs: PairAlignments) -> PairAlignments:
        return pairs._replace(value=shifted(pairs.value, exponent), gap=shifted(pairs.gap, exponent))

    of_reading = {name: at_size(some) for name, some in by_reading.items()}
    made = Conditions(tuple(rows), of_reading["raw"], scenario.dim, of_reading)
    return made, pairs.value, found.refused


def _pairs(found: Optimum) -> list[Any]:
    """What each reading of the trained head shows of the pairs, and what its beginning does (T17), if it is known."""
    modes = [*modes_by_reading(found)]
    if begins := found.scenario.rank == found.scenario.dim:
        query, key, _ = found.tokens
        modes.append(modes_of(_beginning(found), query.correlations, key.correlations))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *modes)
    read = lax.map(lambda some: read_pairs(found.scenario, some, TOLERANCE), stacked)
    return [jax.tree.map(lambda x, n=n: x[n], read) for n in range(len(modes))] + [None] * (not begins)


def _sides(found: Optimum, pairs: PairAlignments, single: Array) -> tuple[SideFeatures, SideFeatures]:
    scenario, matched = found.scenario, found.scenario.target != 0
    softmax = scenario.objective == "softmax"

    def features(name, axis, columns, law, centred, side, cosines):
        count = matched.sum(axis=axis)
        return SideFeatures(
            name=name,
            columns=columns,
            law=law,
            theorem="T6" if softmax else "T5",
            centred=centred,
            side=side,
            count=count,
            single=single.any(axis=axis),
            predicted=_least(cosines, pairs.gap, matched, axis),
            law_cosine=cosine(side.correlations, columns),
            law_sine=sine(side.correlations, columns),
            overlap=overlaps(count, side.probes),
        )

    X, Y, (query, key, _) = scenario.query_features, scenario.key_features, found.tokens
    return (
        features("query", 1, X, scenario.query_law, has_query_bias(scenario), query, pairs.query),
        features("key", 0, Y, scenario.key_law, softmax, key, pairs.key),
    )


def _least(values: Array, gaps: Array, where: Array, axis: int) -> Array:
    """The least of the features' values, NaN where a pair of theirs is not named or there is none."""
    least = jnp.where(where, jnp.where(gaps > 0, values, jnp.nan), jnp.inf).min(axis=axis)
    return jnp.where(where.any(axis=axis), least, jnp.nan)


def _most(values: Array, gaps: Array, where: Array, axis: int) -> Array:
    """The largest of the features' sines, 1 where a pair of theirs is not named."""
    return jnp.where(where, jnp.where(gaps > 0, values, 1), 0).max(axis=axis)


def _both(theorem: str, statement: str, margin: Array, applies: Array | bool = True) -> Condition:
    return Condition(theorem, "both", statement, margin, jnp.asarray(jnp.nan, margin.dtype), jnp.asarray(applies))


def _shortfall(value: Array, needed: Array) -> Array:
    """By which share `value` stays below what is needed: 0 if it does not, 1 for no value at all."""
    return jnp.where(value < needed, 1 - value / positive(needed), 0)


def _distinct_row(pairs: PairAlignments, values: Array, reading: str = "raw") -> Condition:
    """Whether each pair's value is apart from all others (T4; of the balanced reading T22)."""
    matched = jnp.isfinite(pairs.gap)
    missing = _shortfall(jnp.where(matched, pairs.gap, 0), TOLERANCE * values[0])
    theorem, whose = ("T4", "singular") if reading == "raw" else ("T22", reading)
    statement = f"the pair's {whose} value is {TOLERANCE:g} of the largest apart from all others"
    row = _both(theorem, statement, jnp.where(matched, jnp.where(values[0] > 0, missing, 1), jnp.nan))
    return replace(row, reading=reading)


def _rank_rows(found: Optimum) -> list[Condition]:
    """Whether the head has room for all modes, and else whether the kept ones are the only best choice (T7)."""
    if found.modes is None:
        return []
    strengths, room, closed = found.modes[1], found.scenario.rank, found.closed
    excess = jnp.maximum((strengths > SAFETY * core_rounding(found.trained)).sum() - room, 0)
    unique = _shortfall(strengths[room - 1] - strengths[room], TOLERANCE * strengths[0])
    return [
        _both("T7", f"head_dim {room} has room for all modes: none too many", excess.astype(strengths.dtype), closed),
        _both("T7", "the modes kept outweigh the others in whitened coordinates", unique, (excess > 0) & closed),
    ]


def _decay_rows(found: Optimum, values: Array) -> Iterator[Condition]:
    """Whether each pair that would be a singular pair outweighs the threshold (T8), or at least one mode does (T24)."""
    decay = objective_decay(found.scenario)
    short = jnp.where(values > 0, _shortfall(values, decay / found.tokens.eigenvalues[0, 0]), jnp.nan)
    yield _both("T8", "weight decay stays below the pair's singular value", short, found.closed & (decay > 0))
    nothing = _shortfall(found.largest, decay)
    yield _both("T24", "weight decay stays below |M|_2, so that something is left", nothing, ~found.closed)


def _early_rows(
    found: Optimum, sides: tuple[SideFeatures, SideFeatures], pairs: PairAlignments | None
) -> Iterator[Condition]:
    """What training promises at its beginning, where Omega is along M (T17)."""
    if pairs is None:
        return
    for features, cosines, axis in zip(sides, (pairs.query, pairs.key), (1, 0), strict=True):
        promise = _least(cosines, pairs.gap, found.scenario.target != 0, axis)
        margin = features.each(features.correlated(features.law_sine))
        yield features.state("T17", "early in training: E[r f_i] || x_i", margin, promise)


def _late_rows(found: Optimum, sides: tuple[SideFeatures, SideFeatures], pairs: PairAlignments) -> Iterator[Condition]:
    """What training promises at its end (T17)."""
    for features, sines, axis in zip(sides, (pairs.query_sine, pairs.key_sine), (1, 0), strict=True):
        margin = features.each(_most(sines, pairs.gap, found.scenario.target != 0, axis))
        yield features.state("T17", "fully trained: u || x_i", margin, features.predicted)


def _reading_rows(
    found: Optimum, sides: tuple[SideFeatures, SideFeatures], alone: Array, read: dict[str, PairAlignments]
) -> Iterator[Condition]:
    """What other readings promise at its end (T15, T22)."""
    matched = found.scenario.target != 0
    predicted = {
        name: (_least(pairs.query, pairs.gap, matched, 1), _least(pairs.key, pairs.gap, matched, 0))
        for name, pairs in read.items()
    }
    pairs = read["balanced"]
    largest = jnp.where(jnp.isfinite(pairs.value), pairs.value, 0).max()
    return reading_rows(found, sides, predicted, alone, _distinct_row(pairs, largest[None], "balanced"), TOLERANCE)


def _beginning(found: Optimum) -> Optimum:
    """In place of the optimum `M = sum_ij T_ij E[r f_i] E[s f_j]^T`, and how far rounding may have moved it."""
    query, key, T = found.tokens
    U, values, Vt = safe_svd(query.correlations @ T @ key.correlations.T)
    # E[r f_i] = Z R_i^T is off by the rounding of Z
    moved = [side.rounding * lengths(side.readout) for side in (query, key)]
    error = moved[0] @ jnp.abs(T) @ lengths(key.correlations) + lengths(query.correlations) @ jnp.abs(T) @ moved[1]
    return found._replace(
        left=U,
        values=values,
        right=Vt.T,
        error=lax.stop_gradient(error),
        doubt=jnp.zeros_like(error),
        undecided=jnp.zeros(values.shape, bool),
    )
