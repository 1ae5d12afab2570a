"""Side criteria: what one side of a scenario, queries or keys, says about its features being singular vectors."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from svtheory.criteria.verdicts import Condition
from svtheory.geometry.columns import root, sine, unit_columns
from svtheory.geometry.frames import dual_frame
from svtheory.geometry.tightness import eigenvector_residual
from svtheory.laws import Law
from svtheory.numerics import exact_products
from svtheory.prediction.certainty import mean_outside
from svtheory.prediction.whitened import Side, eigenbasis, moment_bounds
from svtheory.spectra.alignments import alignment

QUERY_SYMBOLS = ("E[r", "x_i", "f_i", "X", "A", "u ||")
KEY_SYMBOLS = ("E[s", "y_j", "f_j", "Y", "B", "v ||")


class View(NamedTuple):
    """One side of a scenario as the criteria see it.

    name       "query" or "key"
    features   X, shape (D, N)
    law        of the activations
    theorem    that says which moment the side sees
    centred    whether that is the covariance
    side       its Side
    pull       `E[r f_i]`, shape (D, N)
    probe      `A^+ E[r f_i]`, shape (D, N)
    count      in how many pairs each feature is, shape (N,)
    single     whether each feature's pair is a singular pair of the head, shape (N,)
    predicted  |cos| of each feature with its singular vector, shape (N,); NaN where it has none that can be named
    """

    name: str
    features: Array
    law: Law | None
    theorem: str
    centred: bool
    side: Side
    pull: Array
    probe: Array
    count: Array
    single: Array
    predicted: Array

    def state(
        self, theorem: str, statement: str, margin: Array, promise: Any = jnp.nan, applies: Any = True
    ) -> Condition:
        """A condition on this side; the statement is written for queries."""
        if self.name == "key":
            for of_query, of_key in zip(QUERY_SYMBOLS, KEY_SYMBOLS, strict=True):
                statement = statement.replace(of_query, of_key)
        return Condition(
            theorem, self.name, statement, margin, jnp.asarray(promise, margin.dtype), jnp.asarray(applies)
        )

    def each(self, values: Array) -> Array:
        """`values` (N,) of the matched features, NaN elsewhere."""
        return jnp.where(self.count > 0, values, jnp.nan)

    def pulled(self, values: Array) -> Array:
        """`values` (N,) of the features that training pulls towards at all, 1 elsewhere."""
        return jnp.where(self.pull.any(axis=0), values, 1)

    def promised(self, values: Array) -> Array:
        """`values` (N,) of the features whose pair is a singular pair, NaN elsewhere; never above what is predicted.

        A pair counts as a singular pair if the others are nearly orthogonal to it; near a tie they turn it even so.
        """
        return jnp.where(self.single, jnp.minimum(values, self.predicted), jnp.nan)


@exact_products
def side_rows(view: View) -> list[Condition]:
    """Law (T5, T6), exact alignment (T2), approximate alignment (T3) and orthogonality of pairs (T4) of one side."""
    return [*_law_rows(view), *_exact_rows(view), *_approximate_rows(view), _orthogonal_row(view)]


def _law_rows(view: View) -> list[Condition]:
    """Whether the activation moment that the side sees is c I (T2d), and no bias does the work of Omega (T6)."""
    if view.law is None:
        return []
    cone = _cone_share(view, view.law)
    rows = [view.state(view.theorem, "the activations' covariance is c I", _anisotropy(view.law.covariance()))]
    if not view.centred:
        return [view.state(view.theorem, "the tokens have no mean: X mu = 0", cone), *rows]
    rows = [view.state(view.theorem, "a mean drops out: the tokens are centred", jnp.zeros_like(cone)), *rows]
    if view.name == "query":
        apart = mean_outside(view.features, view.law, view.side)
        rows.append(view.state("T6", "Omega and the bias are told apart: no w . r is the same for all tokens", apart))
    return rows


def _cone_share(view: View, law: Law) -> Array:
    """The share of the token second moment that is the mean token: `|X mu|^2 / tr S_r`."""
    mean, spread = view.features @ law.mean(), view.features @ law.covariance_root()
    squared = (mean**2).sum()
    total = squared + (spread**2).sum()
    return squared / jnp.where(total > 0, total, 1)


def _anisotropy(V: Array) -> Array:
    """`|V - c I|_F / |V|_F` with the best c: the sine of the angle between V and I."""
    identity = jnp.eye(len(V), dtype=V.dtype)
    return sine(identity.reshape(-1, 1), V.reshape(-1, 1))[0]


def _isotropic(view: View) -> Array:
    """Whether the side is trained as if the activation moment were the identity, to rounding: the setting of T2."""
    if view.law is None:
        return jnp.asarray(True)
    rounding = 100 * view.features.shape[1] * jnp.finfo(view.features.dtype).eps
    centred = jnp.asarray(view.centred) | (_cone_share(view, view.law) < rounding**2)
    return centred & (_anisotropy(view.law.covariance()) < rounding)


def _exact_rows(view: View) -> list[Condition]:
    X = view.features
    residual = view.pulled(sine(view.probe, X))
    duals = jnp.where(X.any(axis=0), _cosines(dual_frame(X), X), 1).min()
    statement = "x_i is an eigenvector of the token moment A: A x_i || E[r f_i]"
    return [
        view.state("T2", statement, view.each(residual), view.promised(_cosines(view.probe, X))),
        view.state(
            "T2",
            "all features are orthogonal tight groups",
            eigenvector_residual(X).max(),
            view.promised(jnp.full_like(view.predicted, duals)),
            _isotropic(view),
        ),
    ]


def _approximate_rows(view: View) -> list[Condition]:
    m, L = moment_bounds(view.side)
    spread = (L - m) / (L + m)
    slip = _slip(view)
    law_angle = jnp.arctan2(sine(view.pull, view.features), _cosines(view.pull, view.features))
    whole, local = (
        jnp.cos(jnp.minimum(angle + law_angle, jnp.pi / 2)) for angle in (jnp.arcsin(spread), jnp.arctan(slip))
    )
    return [
        view.state("T3", "the token moment A is isotropic: spread eps = 0", spread, view.promised(whole)),
        view.state(
            "T3",
            "E[r f_i] has no residual as an eigenvector: |A^+ q| = 0",
            view.each(view.pulled(slip)),
            view.promised(local),
        ),
    ]


def _slip(view: View) -> Array:
    """`|A^+ q|` for the residual q of the unit vector along `E[r f_i]` as an eigenvector of A, shape (N,) (T3)."""
    U, s = eigenbasis(view.side), view.side.scale[:, None]
    weights = U.T @ unit_columns(view.pull)
    rho = ((s * weights) ** 2).sum(axis=0, keepdims=True)
    inside = s > 0
    squared = (jnp.where(inside, 1 - rho / jnp.where(inside, s, 1) ** 2, 0) * weights) ** 2
    return root(squared.sum(axis=0))


def _orthogonal_row(view: View) -> Condition:
    others = (view.count > 0)[None, :] & ~jnp.eye(view.count.size, dtype=bool)
    overlap = jnp.where(others, alignment(view.probe, view.probe), 0).max(axis=1)
    overlap = jnp.where(view.count > 1, 1, overlap)
    statement = "the probe of x_i is orthogonal to those of the other pairs"
    return view.state("T4", statement, view.each(overlap), view.predicted)


def _cosines(A: Array, B: Array) -> Array:
    """|cos| of the columns of A with those of B, one by one, shape (N,)."""
    return jnp.minimum(jnp.abs((unit_columns(A) * unit_columns(B)).sum(axis=0)), 1)
