"""Pairs: which matched features are a singular pair of their own, which mix, which no value tells apart (T4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from svtheory.checks import InputError, instance, non_negative, real_array
from svtheory.geometry.columns import lengths, unit_columns
from svtheory.geometry.frames import dual_frame
from svtheory.geometry.tightness import connected
from svtheory.numerics import exact_products, positive, root, shifted
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


def pair_structure(scenario: Scenario, tolerance: Array | float = 1e-3) -> PairStructure:
    """Which pairs of the target are singular pairs, which mix, and which are degenerate (T4).

    Two pairs mix when they share a feature, or when their probes (duals, without laws) are not orthogonal on some side:
    cosine above `tolerance`; mixing chains. A head whose rank drops modes must find the pairs orthogonal in whitened
    coordinates too, those of `(r; 1)` with a query bias (T7). Values are near each other below `tolerance * sigma_1`.
    For linearly dependent probes pairs that mix here may still come out apart by accident.

    >>> from svtheory import matching
    >>> scenario = Scenario(jnp.eye(3), jnp.eye(3), matching(3, 3, [0, 1, 1], [0, 1, 2], [5.0, 3.0, 4.0]))
    >>> structure = pair_structure(scenario)
    >>> structure.labels.tolist(), structure.values.diagonal().round(4).tolist()
    ([[0, -1, -1], [-1, 1, 1], [-1, -1, -1]], [5.0, 0.0, 0.0])
    """
    instance("scenario", scenario, Scenario)
    tolerance = non_negative("tolerance", tolerance).astype(scenario.target.dtype)
    found, unit = _pair_structure(scenario, tolerance)
    held_at_size(found.values, unit)
    return found


@jax.jit
def _pair_structure(scenario: Scenario, tolerance: Array) -> tuple[PairStructure, Array]:
    """The structure, and the pairs' values at unit size."""
    unit, exponent = at_unit_size(scenario)
    found = structure(optimum(unit), tolerance)
    return found._replace(values=shifted(found.values, exponent)), found.values


@exact_products
def structure(found: Optimum, tolerance: Array | float) -> PairStructure:
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


def _links(side: Side, tolerance: Array | float, truncates: Array) -> Array:
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


def _apart(values: Array, spectrum: Array, tolerance: Array | float) -> Array:
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

    Each pair is read by the vectors that carry most of it, so pairs that mix (T4) may have the same ones, of one value.
    Cosines, value and gap are 0, and sines 1, where no singular pair that can be named carries the two: the head drops
    them (T7, T8), or may, or what carries them is lost in rounding.
    """

    query: Array
    key: Array
    value: Array
    gap: Array
    query_sine: Array
    key_sine: Array


class Modes(NamedTuple):
    """Modes of an optimum, and how features are read from them.

    left, right       orthonormal vectors (D, K) on both sides, by which pairs are carried
    values            of the modes, falling, (K,)
    slack             how far they may be from true, a scalar
    undecided         which are no modes of every optimum, (K,)
    query, key        what is to be carried of each feature, (D, N) and (D, M)
    patterns, probes  on both sides, (2, D, K): of a feature x modes show `sum_k pattern_k (probe_k . x)`
    """

    left: Array
    right: Array
    values: Array
    slack: Array
    undecided: Array
    query: Array
    key: Array
    patterns: Array
    probes: Array


def modes_of(found: Optimum, query_directions: Array, key_directions: Array) -> Modes:
    """The singular vectors of an optimum, read as they are."""
    vectors = jnp.stack([found.left, found.right])
    known = found.left, found.right, found.values, found.slack, found.undecided
    return Modes(*known, query_directions, key_directions, vectors, vectors)


@jax.jit
def pair_alignments(
    found: Optimum, query_directions: Array, key_directions: Array, tolerance: float = 1e-3
) -> PairAlignments:
    """For each pair the singular vectors of an optimum that carry most of its directions (D, N), (D, M), on both sides.

    Values that rounding does not tell apart share their vectors; what it does not tell from 0 carries nothing, nor does
    what is undecided, nor vectors whose |cos| with the directions is below `tolerance` on a side.
    """
    return read_pairs(found.scenario, modes_of(found, query_directions, key_directions), tolerance)


@exact_products
def read_pairs(scenario: Scenario, modes: Modes, tolerance: float) -> PairAlignments:
    """The `pair_alignments` of any modes: the |cos| of each feature with what those show of it that carry its pair."""
    values, present = modes.values, (modes.values > modes.slack) & ~modes.undecided
    new = values[:-1] - values[1:] > modes.slack
    labels = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(new)])
    groups = (labels[None, :] == jnp.arange(labels.size)[:, None]) & present[None, :]
    members = groups.astype(values.dtype)
    carried = [
        root(members @ (vectors.T @ unit_columns(directions)) ** 2)
        for vectors, directions in ((modes.left, modes.query), (modes.right, modes.key))
    ]
    carried = [jnp.where(share > tolerance, share, 0) for share in carried]
    product = carried[0][:, :, None] * carried[1][:, None, :]
    best, nowhere = jnp.argmax(product, axis=0), product.max(axis=0) == 0
    rows, columns = jnp.arange(best.shape[0])[:, None], jnp.arange(best.shape[1])[None, :]
    query, key, query_sine, key_sine = _shown(scenario, modes, members)
    member = jnp.argmax(groups, axis=1)[best]
    apart = value_gaps(values)
    gaps = jnp.where((apart > modes.slack) & ~modes.undecided, apart, 0)
    read = query[best, rows], key[best, columns], values[member], gaps[member]
    lost = PairAlignments(0.0, 0.0, 0.0, 0.0, 1.0, 1.0)  # pyright: ignore
    return PairAlignments(
        *(
            jnp.where(scenario.target != 0, jnp.where(nowhere, none, x), jnp.nan)
            for x, none in zip((*read, query_sine[best, rows], key_sine[best, columns]), lost, strict=True)
        )
    )


def _shown(scenario: Scenario, modes: Modes, groups: Array) -> tuple[Array, Array, Array, Array]:
    """|cos| of each feature with what each group of modes (G, K) shows of it, (G, N) and (G, M), and the sines.

    A sine is that of what is left of the feature, so it keeps its digits near 0.
    """
    X, Y = unit_columns(scenario.query_features), unit_columns(scenario.key_features)

    def of_feature(given: tuple[Array, Array]) -> tuple[Array, Array]:
        x, side = given
        parts = (modes.patterns[side] * (x @ modes.probes[side])[None, :]) @ groups.T
        shown = parts / positive(root((parts**2).sum(axis=0, keepdims=True)))
        along = x @ shown
        left = x[:, None] - shown * along[None, :]
        return jnp.minimum(jnp.abs(along), 1), jnp.minimum(root((left**2).sum(axis=0)), 1)

    sides = jnp.repeat(jnp.arange(2), jnp.array([X.shape[1], Y.shape[1]]), total_repeat_length=X.shape[1] + Y.shape[1])
    cosines, sines = lax.map(of_feature, (jnp.concatenate([X.T, Y.T]), sides))
    n = X.shape[1]
    return cosines[:n].T, cosines[n:].T, sines[:n].T, sines[n:].T
