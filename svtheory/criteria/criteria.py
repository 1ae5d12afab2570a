"""Criteria: will the singular vectors of a head be its features, and why, or why not?"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svtheory.checks import concrete
from svtheory.criteria.pairs import CarriedPairs, carried_pairs, pair_structure
from svtheory.criteria.sides import View, side_rows
from svtheory.criteria.verdicts import Condition, Conditions
from svtheory.factorisations import safe_svd
from svtheory.geometry.columns import lengths, sine
from svtheory.numerics import exact_products, shifted
from svtheory.prediction.certainty import core_rounding
from svtheory.prediction.optimum import (
    Optimum,
    at_size,
    mode_strengths,
    optimum,
    predict,
)
from svtheory.prediction.whitened import (
    SAFETY,
    Side,
    narrow_sides,
    probing,
    pulled,
    sides,
)
from svtheory.scenarios import Scenario, at_unit_size

TOLERANCE = 1e-3
"""Cosines, and gaps in units of sigma_1, that count as 0."""


def conditions(scenario: Scenario) -> Conditions:
    """Every alignment condition that applies to a scenario, with its margin, its promise and its theorem.

    Answers "will this head's singular vectors be features, and why (not)?"; `print` shows it as a table. A promise
    about the fully trained head is never above the alignment that `predict` gives, and there is none for a pair whose
    vectors `predict` does not name: those that share their value, that the head drops, or that rounding or the
    objective leaves open. Under jit and vmap the conditions that do not apply are listed too, with `applies` false.
    Raises what `predict` raises.

    >>> from svtheory import single_pair
    >>> table = str(conditions(Scenario(2 * jnp.eye(2), jnp.eye(2), single_pair(2, 2, 0, 1, 6.0))))
    >>> table.splitlines()[2]
    'Fully trained, singular vectors are features exactly; chance is 0.6366.'
    """
    if concrete(scenario.weight_decay) and np.asarray(scenario.weight_decay) > 0:
        predict(scenario)
    unit, exponent = at_unit_size(scenario)
    found = _every_condition(unit)
    value, gap = at_size(found.pairs.value, exponent), shifted(found.pairs.gap, exponent)
    rows = tuple(row for row in found.rows if not concrete(row.applies) or row.applies)
    return replace(found, rows=rows, pairs=found.pairs._replace(value=value, gap=gap))


@jax.jit
@exact_products
def _every_condition(scenario: Scenario) -> Conditions:
    """All conditions, whether they apply or not."""
    query, key = sides(scenario)
    found = optimum(scenario)
    pairs = carried_pairs(found, scenario, probing(query), probing(key), TOLERANCE)
    structure = pair_structure(scenario, TOLERANCE)
    views = _views(scenario, query, key, pairs, structure.alone & (pairs.value > 0))
    rows = [row for view in views for row in side_rows(view)]
    rows += [_distinct_row(pairs, found.values), *_rank_rows(scenario)]
    rows += [*_decay_rows(scenario, structure.values, query, key), *_time_rows(scenario, views, pairs)]
    return Conditions(tuple(rows), pairs, scenario.dim)


def _views(scenario: Scenario, query: Side, key: Side, pairs: CarriedPairs, single: Array) -> tuple[View, View]:
    softmax, matched = scenario.objective == "softmax", scenario.target != 0

    def view(name, axis, features, law, centred, side, cosines):
        return View(
            name=name,
            features=features,
            law=law,
            theorem="T6" if softmax else "T5",
            centred=centred,
            side=side,
            pull=pulled(side),
            probe=probing(side),
            count=matched.sum(axis=axis),
            single=single.any(axis=axis),
            predicted=_least(cosines, pairs.gap, matched, axis),
        )

    X, Y = scenario.query_features, scenario.key_features
    return (
        view("query", 1, X, scenario.query_law, softmax and scenario.query_bias, query, pairs.query),
        view("key", 0, Y, scenario.key_law, softmax, key, pairs.key),
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
    return jnp.where(value < needed, 1 - value / jnp.where(needed > 0, needed, 1), 0)


def _distinct_row(pairs: CarriedPairs, values: Array) -> Condition:
    matched = jnp.isfinite(pairs.gap)
    missing = _shortfall(jnp.where(matched, pairs.gap, 0), TOLERANCE * values[0])
    statement = f"the pair's singular value is {TOLERANCE:g} sigma_1 apart from all others"
    return _both("T4", statement, jnp.where(matched, jnp.where(values[0] > 0, missing, 1), jnp.nan))


def _rank_rows(scenario: Scenario) -> list[Condition]:
    """Whether the head has room for all modes, and else whether the kept ones are the only best choice (T7)."""
    core, room = mode_strengths(scenario), scenario.rank
    if room >= core.size:
        return []
    modes = (core > SAFETY * core_rounding(scenario.target, *narrow_sides(scenario))).sum()
    excess = jnp.maximum(modes - room, 0)
    unique = _shortfall(core[room - 1] - core[room], TOLERANCE * core[0])
    return [
        _both("T7", f"head_dim {room} has room for all modes: none too many", excess.astype(core.dtype)),
        _both("T7", "the modes kept outweigh the others in whitened coordinates", unique, excess > 0),
    ]


def _decay_rows(scenario: Scenario, values: Array, query: Side, key: Side) -> list[Condition]:
    """Whether each pair that would be a singular pair outweighs the threshold `g / (alpha beta)` (T8)."""
    threshold = scenario.weight_decay / (query.scale[0] * key.scale[0]) ** 2
    short = jnp.where(values > 0, _shortfall(values, threshold), jnp.nan)
    return [_both("T8", "weight decay stays below the pair's singular value", short, scenario.weight_decay > 0)]


def _time_rows(scenario: Scenario, views: tuple[View, View], pairs: CarriedPairs) -> list[Condition]:
    """What training promises at its beginning, where Omega is along M, and at its end (T17)."""
    rows, matched = [], scenario.target != 0
    if scenario.rank == scenario.dim:
        query, key = views
        early = carried_pairs(_start(scenario, query, key), scenario, query.pull, key.pull, TOLERANCE)
        for view, cosines, axis in zip(views, (early.query, early.key), (1, 0), strict=True):
            promise = _least(cosines, early.gap, matched, axis)
            margin = view.each(view.pulled(sine(view.pull, view.features)))
            rows.append(view.state("T17", "early in training: E[r f_i] || x_i", margin, promise))
    for view, sines, axis in zip(views, (pairs.query_sine, pairs.key_sine), (1, 0), strict=True):
        margin = view.each(_most(sines, pairs.gap, matched, axis))
        rows.append(view.state("T17", "fully trained: u || x_i", margin, view.predicted))
    return rows


def _start(scenario: Scenario, query: View, key: View) -> Optimum:
    """The SVD of `M = sum_ij T_ij E[r f_i] E[s f_j]^T`, and how far rounding may have moved it."""
    U, values, Vt = safe_svd(query.pull @ scenario.target @ key.pull.T)
    # E[r f_i] = Z R_i^T is off by the rounding of Z
    moved = [view.side.rounding * lengths(view.side.readout) for view in (query, key)]
    T = jnp.abs(scenario.target)
    error = moved[0] @ T @ lengths(key.pull) + lengths(query.pull) @ T @ moved[1]
    return Optimum(U, values, Vt.T, lax.stop_gradient(error), jnp.zeros_like(error), jnp.zeros(values.shape, bool))
