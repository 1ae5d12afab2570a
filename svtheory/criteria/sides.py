"""Side criteria: what one side of a scenario, queries or keys, says about its features being singular vectors."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from svtheory.criteria.verdicts import Condition
from svtheory.geometry.columns import cosine, sine, unit_columns
from svtheory.geometry.frames import dual_frame
from svtheory.geometry.tightness import eigenvector_residual
from svtheory.laws import Law
from svtheory.numerics import exact_products, positive, root
from svtheory.prediction.certainty import mean_outside
from svtheory.prediction.whitened import Side
from svtheory.spectra.alignments import alignment

QUERY_SYMBOLS = ("E[r", "x_i", "f_i", "L_il", "X", "A", "u ||", "u~")
KEY_SYMBOLS = ("E[s", "y_j", "f_j", "L_jl", "Y", "B", "v ||", "v~")


class SideFeatures(NamedTuple):
    """The features of one side of a scenario, and what training makes of them.

    name       "query" or "key"
    columns    X, shape (D, N)
    law        of the activations
    theorem    that says which moment the side sees
    centred    whether that is the covariance
    side       its Side
    count      in how many pairs each feature is, shape (N,)
    single     whether each feature's pair is a singular pair of the head, shape (N,)
    predicted  |cos| of each feature with its singular vector, shape (N,); NaN where it has none that can be named
    law_cosine, law_sine  of each feature with `E[r f_i]`, shape (N,)
    overlap    the largest |cos| of each feature's probe with those of the other pairs, shape (N,)
    """

    name: str
    columns: Array
    law: Law | None
    theorem: str
    centred: bool
    side: Side
    count: Array
    single: Array
    predicted: Array
    law_cosine: Array
    law_sine: Array
    overlap: Array

    def state(
        self,
        theorem: str,
        statement: str,
        margin: Array,
        promise: Any = jnp.nan,
        applies: Any = True,
        reading: str = "raw",
    ) -> Condition:
        """A condition on this side; the statement is written for queries."""
        if self.name == "key":
            for of_query, of_key in zip(QUERY_SYMBOLS, KEY_SYMBOLS, strict=True):
                statement = statement.replace(of_query, of_key)
        promise, applies = jnp.asarray(promise, margin.dtype), jnp.asarray(applies)
        return Condition(theorem, self.name, statement, margin, promise, applies, reading)

    def each(self, values: Array) -> Array:
        """`values` (N,) of the matched features, NaN elsewhere."""
        return jnp.where(self.count > 0, values, jnp.nan)

    def correlated(self, values: Array) -> Array:
        """`values` (N,) of the features that tokens are correlated with, `E[r f_i]` not 0; 1 elsewhere."""
        return jnp.where(self.side.correlations.any(axis=0), values, 1)

    def promised(self, values: Array) -> Array:
        """`values` (N,) of the features whose pair is a singular pair, NaN elsewhere; never above what is predicted.

        A pair counts as a singular pair if the others are nearly orthogonal to it; near a tie they turn it even so.
        """
        return jnp.where(self.single, jnp.minimum(values, self.predicted), jnp.nan)


@exact_products
def side_rows(own: SideFeatures) -> list[Condition]:
    """Law (T5, T6), exact alignment (T2), approximate alignment (T3) and orthogonality of pairs (T4) of one side."""
    return [*_law_rows(own), *_exact_rows(own), *_approximate_rows(own), _orthogonal_row(own)]


def _law_rows(own: SideFeatures) -> list[Condition]:
    """Whether the activation moment that the side sees is c I (T2d), and no bias does the work of Omega (T6)."""
    if own.law is None:
        return []
    cone = _cone_share(own, own.law)
    rows = [own.state(own.theorem, "the activations' covariance is c I", _anisotropy(own.law.covariance()))]
    if not own.centred:
        return [own.state(own.theorem, "the tokens have no mean: X mu = 0", cone), *rows]
    rows = [own.state(own.theorem, "a mean drops out: the tokens are centred", jnp.zeros_like(cone)), *rows]
    if own.name == "query":
        apart = mean_outside(own.columns, own.law, own.side)
        rows.append(own.state("T6", "Omega and the bias are told apart: no w . r is the same for all tokens", apart))
    return rows


def _cone_share(own: SideFeatures, law: Law) -> Array:
    """The share of the token second moment that is the mean token: `|X mu|^2 / tr S_r`."""
    mean, spread = own.columns @ law.mean(), own.columns @ law.covariance_root()
    squared = (mean**2).sum()
    total = squared + (spread**2).sum()
    return squared / positive(total)


def _anisotropy(V: Array) -> Array:
    """`|V - c I|_F / |V|_F` with the best c: the sine of the angle between V and I."""
    identity = jnp.eye(len(V), dtype=V.dtype)
    return sine(identity.reshape(-1, 1), V.reshape(-1, 1))[0]


def _isotropic(own: SideFeatures) -> Array:
    """Whether the side is trained as if the activation moment were the identity, to rounding: the setting of T2."""
    if own.law is None:
        return jnp.asarray(True)
    rounding = 100 * own.columns.shape[1] * jnp.finfo(own.columns.dtype).eps
    centred = jnp.asarray(own.centred) | (_cone_share(own, own.law) < rounding**2)
    return centred & (_anisotropy(own.law.covariance()) < rounding)


def _exact_rows(own: SideFeatures) -> list[Condition]:
    X = own.columns
    residual = own.correlated(sine(own.side.probes, X))
    duals = jnp.where(X.any(axis=0), cosine(dual_frame(X), X), 1).min()
    statement = "x_i is an eigenvector of the token moment A: A x_i || E[r f_i]"
    return [
        own.state("T2", statement, own.each(residual), own.promised(cosine(own.side.probes, X))),
        own.state(
            "T2",
            "all features are orthogonal tight groups",
            eigenvector_residual(X).max(),
            own.promised(jnp.full_like(own.predicted, duals)),
            _isotropic(own),
        ),
    ]


def _approximate_rows(own: SideFeatures) -> list[Condition]:
    m, L = own.side.bounds()
    spread = (L - m) / (L + m)
    slip = _slip(own)
    law_angle = jnp.arctan2(own.law_sine, own.law_cosine)
    whole, local = (
        jnp.cos(jnp.minimum(angle + law_angle, jnp.pi / 2)) for angle in (jnp.arcsin(spread), jnp.arctan(slip))
    )
    return [
        own.state("T3", "the token moment A is isotropic: spread eps = 0", spread, own.promised(whole)),
        own.state(
            "T3",
            "E[r f_i] has no residual as an eigenvector: |A^+ q| = 0",
            own.each(own.correlated(slip)),
            own.promised(local),
        ),
    ]


def _slip(own: SideFeatures) -> Array:
    """`|A^+ q|` for the residual q of the unit vector along `E[r f_i]` as an eigenvector of A, shape (N,) (T3)."""
    U, s = own.side.basis, own.side.scale[:, None]
    weights = U.T @ unit_columns(own.side.correlations)
    rho = ((s * weights) ** 2).sum(axis=0, keepdims=True)
    squared = (jnp.where(s > 0, 1 - rho / positive(s) ** 2, 0) * weights) ** 2
    return root(squared.sum(axis=0))


def _orthogonal_row(own: SideFeatures) -> Condition:
    statement = "the probe of x_i is orthogonal to those of the other pairs"
    return own.state("T4", statement, own.each(own.overlap), own.predicted)


def overlaps(count: Array, columns: Array) -> Array:
    """The largest |cos| of each feature's column with those of the other pairs, 1 for a feature in several, (N,)."""
    others = (count > 0)[None, :] & ~jnp.eye(count.size, dtype=bool)
    overlap = jnp.where(others, alignment(columns, columns), 0).max(axis=1)
    return jnp.where(count > 1, 1, overlap)
