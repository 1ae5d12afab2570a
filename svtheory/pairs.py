"""Pairs: which matched features are a singular pair of their own, which mix, which no value tells apart (T4)."""

from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from svtheory.alignments import alignment
from svtheory.checks import InputError, real_array
from svtheory.frames import dual_frame, exact_products, unit_columns
from svtheory.moments import Side, probing, sides
from svtheory.optimum import predict
from svtheory.scenarios import Scenario
from svtheory.spectra import Spectrum, value_groups
from svtheory.tightness import connected, lengths


class PairStructure(NamedTuple):
    """What becomes of each matched pair (i, j) of a scenario, all of shape (N, M).

    labels      the block that the pair belongs to, counted from 0; -1 where the target is 0. Blocks are orthogonal to
                each other on both sides, so the SVD of the head is the SVDs of its blocks
    alone       whether the block is this pair only, which is then a singular pair: `u || probe_i`, `v || probe_j`
    values      its singular value `|t| |probe_i| |probe_j|` before weight decay; 0 for pairs that mix, and for those
                that a head of smaller rank drops or cannot tell from one it drops (T7)
    identified  whether the pair is alone and no other singular value is near its own; equal ones fix only the subspace
    """

    labels: Array
    alone: Array
    values: Array
    identified: Array


@exact_products
def pair_structure(scenario: Scenario, tolerance: float = 1e-3) -> PairStructure:
    """Which pairs of the target are singular pairs, which mix, and which are degenerate (T4).

    Two pairs mix when they share a feature, or when their probes (duals, without laws) are not orthogonal on some side:
    cosine above `tolerance`; mixing chains. A head whose rank drops modes must find the pairs orthogonal in whitened
    coordinates too (T7). Values are near each other below `tolerance * sigma_1`. For linearly dependent probes pairs
    that mix here may still come out apart by accident.

    >>> from svtheory import matching
    >>> scenario = Scenario(jnp.eye(3), jnp.eye(3), matching(3, 3, [0, 1, 1], [0, 1, 2], [5.0, 3.0, 4.0]))
    >>> structure = pair_structure(scenario)
    >>> structure.labels.tolist(), structure.values.diagonal().tolist()
    ([[0, -1, -1], [-1, 1, 1], [-1, -1, -1]], [5.0, 0.0, 0.0])
    """
    query, key = sides(scenario)
    d, e = probing(query), probing(key)
    matched = scenario.target != 0
    core = jnp.linalg.svd(query.readout @ scenario.target @ key.readout.T, compute_uv=False)
    dropped = _first_dropped(core, scenario.head_dim)
    truncates = dropped > tolerance * core[0]
    across = _links(query, d, tolerance, truncates), _links(key, e, tolerance, truncates)
    labels, alone = _blocks(matched, *across)
    kept = ~truncates | (_pair_sizes(scenario, query.readout, key.readout) > dropped + tolerance * core[0])
    values = jnp.where(alone & kept, _pair_sizes(scenario, d, e), 0)
    return PairStructure(labels, alone, values, alone & _apart(values, scenario, tolerance))


def _first_dropped(core: Array, head_dim: int | None) -> Array:
    """`sigma_{H+1}` of the whitened core, the first mode that the head has no room for; 0 if it has room for all."""
    return jnp.zeros_like(core[0]) if head_dim is None or head_dim >= core.size else core[head_dim]


def _links(side: Side, directions: Array, tolerance: float, truncates: Array) -> Array:
    """Which features of one side are not orthogonal, shape (N, N)."""
    in_weights = alignment(directions, directions) > tolerance
    whitened = alignment(side.readout, side.readout) > tolerance
    return in_weights | (whitened & truncates)


def _blocks(matched: Array, query_links: Array, key_links: Array) -> tuple[Array, Array]:
    """Labels of the pairs' connected blocks and whether each block is one pair, from the links within both sides."""
    row, column = matched.any(axis=1), matched.any(axis=0)
    query_links &= row[:, None] & row[None, :]
    key_links &= column[:, None] & column[None, :]
    reach = connected(jnp.block([[query_links, matched], [matched.T, key_links]]))[: row.size, : row.size]
    first = jnp.argmax(reach, axis=1)
    is_first = row & (first == jnp.arange(row.size))
    label = (jnp.cumsum(is_first) - 1)[first]
    members = jnp.where(reach & row[None, :], matched.sum(axis=1)[None, :], 0).sum(axis=1)
    return jnp.where(matched, label[:, None], -1), matched & (members == 1)[:, None]


def _pair_sizes(scenario: Scenario, query: Array, key: Array) -> Array:
    """`|T_ij| |query_i| |key_j|`, shape (N, M)."""
    return jnp.abs(scenario.target) * lengths(query)[:, None] * lengths(key)[None, :]


def _apart(values: Array, scenario: Scenario, tolerance: float) -> Array:
    """Whether a pair's value is not zero and near exactly one value of the predicted spectrum, its own."""
    spectrum = predict(replace(scenario, weight_decay=jnp.zeros_like(scenario.weight_decay))).values
    near = jnp.abs(values[..., None] - spectrum[None, None, :]) <= tolerance * spectrum[0]
    return (values > tolerance * spectrum[0]) & (near.sum(axis=-1) == 1)


@exact_products
def star_alignment(features: Array, strengths: Array) -> Array:
    """`cos(v, y_j)` of the one singular pair that a feature matched with several keys has, shape (M,) (T4).

    `v || (Y^T)^+ t` for key features Y (D, M) and strengths t (M,); `|t_j| / sqrt(sum t^2)` where Y is orthonormal.
    Raises InputError for shapes that disagree.

    >>> [round(float(c), 4) for c in star_alignment(jnp.eye(2), jnp.array([3.0, 4.0]))]
    [0.6, 0.8]
    """
    Y, t = real_array("features", features, ndim=2), real_array("strengths", strengths, ndim=1)
    if t.size != Y.shape[1]:
        raise InputError(f"strengths must have shape {(Y.shape[1],)}, one a feature, got {t.shape}")
    return alignment((dual_frame(Y) @ t)[:, None], Y)[0]


class CarriedPairs(NamedTuple):
    """Which group of singular vectors carries each matched pair, and how well it aligns; all (N, M), NaN elsewhere.

    query, key  |cos| of x_i, y_j with u, v; where the value is shared, with the space of all vectors that share it
    value, gap  singular value and gap of the group, 0 and 0 where no singular pair carries the two
    """

    query: Array
    key: Array
    value: Array
    gap: Array


@exact_products
def carried_pairs(
    spectrum: Spectrum, scenario: Scenario, query_directions: Array, key_directions: Array, tolerance: float = 1e-3
) -> CarriedPairs:
    """For each pair the singular vectors of `spectrum` that carry most of its directions (D, N), (D, M), on both sides.

    Values nearer than `tolerance * sigma_1` share their vectors; smaller ones carry nothing.
    """
    labels = value_groups(spectrum.values, tolerance)
    nonzero = spectrum.values > tolerance * spectrum.values[0]
    groups = (labels[None, :] == jnp.arange(labels.size)[:, None]) & nonzero[None, :]
    carried = _share(spectrum.left, query_directions, groups), _share(spectrum.right, key_directions, groups)
    product = carried[0][:, :, None] * carried[1][:, None, :]
    best = jnp.argmax(product, axis=0)
    found = product.max(axis=0) > 0
    query = _share(spectrum.left, scenario.query_features, groups)[best, jnp.arange(best.shape[0])[:, None]]
    key = _share(spectrum.right, scenario.key_features, groups)[best, jnp.arange(best.shape[1])[None, :]]
    member = jnp.argmax(groups, axis=1)[best]
    return CarriedPairs(
        *(
            jnp.where(scenario.target != 0, jnp.where(found, x, 0), jnp.nan)
            for x in (query, key, spectrum.values[member], spectrum.gaps[member])
        )
    )


def _share(vectors: Array, directions: Array, groups: Array) -> Array:
    """|cos| of each direction (D, N) with the span of each group (G, K) of orthonormal vectors (D, K): (G, N)."""
    squared = groups.astype(vectors.dtype) @ (vectors.T @ unit_columns(directions)) ** 2
    return jnp.minimum(jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0), 1)
