"""Reading criteria: which of a head's readings shows which feature, raw, unwhitened or balanced, and why (T15, T22)."""

from collections.abc import Iterator

import jax.numpy as jnp
from jax import Array

from svtheory.criteria.pairs import Modes, modes_of
from svtheory.criteria.sides import SideFeatures, overlaps
from svtheory.criteria.verdicts import Condition
from svtheory.factorisations import safe_svd
from svtheory.numerics import exact_products, inverse
from svtheory.prediction.optimum import Optimum
from svtheory.prediction.whitened import Side, has_query_bias
from svtheory.spectra.readings import unwhitened

UNWHITENED = "the probe of x_i is orthogonal to the other pairs': A u || E[r f_i]"
BALANCED = "x_i shares no leverage with the other pairs, L_il = 0: A^1/2 u~ || E[r f_i]"


@exact_products
def modes_by_reading(found: Optimum) -> tuple[Modes, Modes, Modes]:
    """The modes of an optimum by each of the `READINGS`: raw, unwhitened, balanced."""
    query, key, _ = found.tokens
    raw = modes_of(found, query.probes, key.probes)
    # of the weights as they are: a head that is too narrow for its bias is no cut of the core
    seen = (query.scale[:, None] * (query.basis.T @ found.left)) * found.values[None, :]
    U, values, Vt = safe_svd(seen @ (found.right.T @ (key.basis * key.scale[None, :])))
    K = len(found.values)
    left, right = query.basis @ _first(U, K), key.basis @ _first(Vt.T, K)
    patterns, probes = zip(unwhitened(query.moment, found.left), unwhitened(key.moment, found.right), strict=True)
    whitened = zip(_by_root(query, left), _by_root(key, right), strict=True)
    balanced = Modes(
        left=left,
        right=right,
        values=_first(values[None, :], K)[0],
        slack=found.slack * query.scale[0] * key.scale[0],
        undecided=jnp.broadcast_to(found.undecided.any(), K),
        query=query.basis @ query.readout,
        key=key.basis @ key.readout,
        **dict(zip(("patterns", "probes"), map(jnp.stack, whitened), strict=True)),
    )
    return raw, raw._replace(patterns=jnp.stack(patterns), probes=jnp.stack(probes)), balanced


def _first(U: Array, K: int) -> Array:
    """The first K columns, of zeros beyond those that there are."""
    return jnp.pad(U[:, :K], ((0, 0), (0, max(K - U.shape[1], 0))))


def _by_root(side: Side, u: Array) -> tuple[Array, Array]:
    """Balanced: `A^{1/2} u~` and `A^{+1/2} u~` of vectors (D, K)."""
    along, s = side.basis.T @ u, side.scale[:, None]
    return side.basis @ (s * along), side.basis @ (inverse(s) * along)


def reading_rows(
    found: Optimum,
    sides: tuple[SideFeatures, SideFeatures],
    predicted: dict[str, tuple[Array, Array]],
    single: Array,
    distinct: Condition,
    tolerance: float,
) -> Iterator[Condition]:
    """Conditions under which unwhitened vectors (T15) and balanced patterns (T22) are features.

    predicted  the |cos| of each feature with its vector, by reading and side, NaN where that is not named
    single     whether each pair is a singular pair of the head, (N, M)
    distinct   whether each pair's balanced value is apart from all others

    A promise is the law's, `cos(E[r f_i], x_i)`, for pairs that keep apart from the others, and never above what is
    predicted.
    """
    matched = found.scenario.target != 0
    overlap = [overlaps(own.count, own.side.readout) for own in sides]
    apart = matched & (overlap[0] <= tolerance)[:, None] & (overlap[1] <= tolerance)[None, :]
    if has_query_bias(found.scenario) and found.scenario.rank < found.scenario.dim:
        apart = jnp.zeros_like(apart)  # a bias that takes its share of a narrow head mixes modes (T7)
    for axis, own in enumerate(sides):
        mixed = own.each(own.correlated(own.law_sine))
        yield own.state("T22", "read back, E[r f_i] || x_i: activations are uncorrelated and centred", mixed)
        for reading, theorem, statement, margin, alone in (
            ("unwhitened", "T15", UNWHITENED, own.overlap, single),
            ("balanced", "T22", BALANCED, overlap[axis], apart),
        ):
            promise = jnp.where(
                alone.any(axis=1 - axis), jnp.minimum(own.law_cosine, predicted[reading][axis]), jnp.nan
            )
            yield own.state(theorem, statement, own.each(margin), promise, True, reading)
    yield distinct
