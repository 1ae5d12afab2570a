"""Pairs: which matched features are a singular pair of their own, which mix, which no value tells apart (T4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.checks import InputError, real_array
from svtheory.geometry.columns import lengths, unit_columns
from svtheory.geometry.frames import dual_frame
from svtheory.geometry.tightness import connected
from svtheory.numerics import exact_products, root, shifted
from svtheory.prediction.certainty import core_rounding
from svtheory.prediction.optimum import Optimum, held_at_size, optimum
from svtheory.prediction.whitened import SAFETY, Side
from svtheory.scenarios import Scenario, at_unit_size
from svtheory.spectra.alignments import alignment
from svtheory.spectra.spectra import value_gaps


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


def pair_structure(scenario: Scenario, tolerance: float = 1e-3) -> PairStructure:
    """Which pairs of the target are singular pairs, which mix, and which are degenerate (T4).

    Two pairs mix when they share a feature, or when their probes (duals, without laws) are not orthogonal on some side:
    cosine above `tolerance`; mixing chains. A head whose rank drops modes must find the pairs orthogonal in whitened
    coordinates too, those of `(r; 1)` with a query bias (T7). Values are near each other below `tolerance * sigma_1`.
    For linearly dependent probes pairs that mix here may still come out apart by accident.

    >>> from svtheory import matching
    >>> scenario = Scenario(jnp.eye(3), jnp.eye(3), matching(3, 3, [0, 1, 1], [0, 1, 2], [5.0, 3.0, 4.0]))
    >>> structure = pair_structure(scenario)
    >>> structure.labels.tolist(), structure.values.diagonal().tolist()
    ([[0, -1, -1], [-1, 1, 1], [-1, -1, -1]], [5.0, 0.0, 0.0])
    """
    found, unit = _pair_structure(scenario, tolerance)
    held_at_size(found.values, unit)
    return found


@jax.jit
def _pair_structure(scenario: Scenario, tolerance: float) -> tuple[PairStructure, Array]:
    """The structure, and the pairs' values at unit size."""
    unit, exponent = at_unit_size(scenario)
    found = structure(optimum(unit), tolerance)
    return found._replace(values=shifted(found.values, exponent)), found.values


@exact_products
def structure(found: Optimum, tolerance: float) -> PairStructure:
    """The `pair_structure` of the scenario of an optimum without weight decay."""
    (query, key, T), H = found.trained, found.scenario.rank
    truncates, kept = jnp.asarray(False), jnp.asarray(True)
    if found.modes is not None:
        strengths = found.modes[1]
        truncates = strengths[H] > SAFETY * core_rounding(found.trained)
        kept = ~truncates | (_pair_sizes(T, query.readout, key.readout) > strengths[H] + tolerance * strengths[0])
    labels, alone = _blocks(T != 0, *(_links(side, tolerance, truncates) for side in (query, key)))
    values = jnp.where(alone & kept, _pair_sizes(T, query.probes, key.probes), 0)
    return PairStructure(labels, alone, values, alone & _apart(values, found.values, tolerance))


def _links(side: Side, tolerance: float, truncates: Array) -> Array:
    """Which features of one side are not orthogonal, shape (N, N)."""
    in_weights, whitened = (alignment(columns, columns) > tolerance for columns in (side.probes, side.readout))
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


def _pair_sizes(target: Array, query: Array, key: Array) -> Array:
    """`|T_ij| |query_i| |key_j|`, shape (N, M)."""
    return jnp.abs(target) * lengths(query)[:, None] * lengths(key)[None, :]


def _apart(values: Array, spectrum: Array, tolerance: float) -> Array:
    """Whether a pair's value is not zero and near exactly one value of the predicted spectrum, its own."""
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


class PairAlignments(NamedTuple):
    """Which singular vectors carry each matched pair, and how well they align; all (N, M), NaN where nothing is asked.

    query, key    |cos| of x_i, y_j with u, v; where the value is shared, with the space of all vectors that share it
    value, gap    the singular value, and its distance to the nearest other, 0 where it is shared
    query_sine, key_sine  the sines of the same angles, which tell how near 1 a cosine is

    Cosines, value and gap are 0, and sines 1, where no singular pair that can be named carries the two: the head drops
    them (T7, T8), or may, or what carries them is lost in rounding.
    """

    query: Array
    key: Array
    value: Array
    gap: Array
    query_sine: Array
    key_sine: Array


@jax.jit
@exact_products
def pair_alignments(
    found: Optimum, query_directions: Array, key_directions: Array, tolerance: float = 1e-3
) -> PairAlignments:
    """For each pair the singular vectors of an optimum that carry most of its directions (D, N), (D, M), on both sides.

    Values that rounding does not tell apart share their vectors; what it does not tell from 0 carries nothing, nor does
    what is undecided, nor vectors whose |cos| with the directions is below `tolerance` on a side.
    """
    scenario, values, present = found.scenario, found.values, (found.values > found.slack) & ~found.undecided
    new = values[:-1] - values[1:] > found.slack
    labels = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(new)])
    groups = (labels[None, :] == jnp.arange(labels.size)[:, None]) & present[None, :]
    carried = [
        _share(vectors, directions, groups)[0]
        for vectors, directions in ((found.left, query_directions), (found.right, key_directions))
    ]
    carried = [jnp.where(share > tolerance, share, 0) for share in carried]
    product = carried[0][:, :, None] * carried[1][:, None, :]
    best, nowhere = jnp.argmax(product, axis=0), product.max(axis=0) == 0
    rows, columns = jnp.arange(best.shape[0])[:, None], jnp.arange(best.shape[1])[None, :]
    query, query_sine = (x[best, rows] for x in _share(found.left, scenario.query_features, groups))
    key, key_sine = (x[best, columns] for x in _share(found.right, scenario.key_features, groups))
    member = jnp.argmax(groups, axis=1)[best]
    gaps = jnp.where(found.named(), value_gaps(values), 0)
    lost = PairAlignments(0.0, 0.0, 0.0, 0.0, 1.0, 1.0)  # pyright: ignore
    return PairAlignments(
        *(
            jnp.where(scenario.target != 0, jnp.where(nowhere, none, x), jnp.nan)
            for x, none in zip((query, key, values[member], gaps[member], query_sine, key_sine), lost, strict=True)
        )
    )


def _share(vectors: Array, directions: Array, groups: Array) -> tuple[Array, Array]:
    """|cos| and sin of each direction (D, N) with the span of each group (G, K) of orthonormal vectors (D, K): (G, N).

    The sine is that of what lies along the other vectors and outside all, so it keeps its digits near 0.
    """
    unit = unit_columns(directions)
    along = vectors.T @ unit
    outside = ((unit - vectors @ along) ** 2).sum(axis=0)
    inside, across = (members.astype(vectors.dtype) @ along**2 for members in (groups, ~groups))
    return jnp.minimum(root(inside), 1), jnp.minimum(root(across + outside[None, :]), 1)
