r"""T1. The optimum is a dual frame.

Minimise :math:`\frac12|X^T\Omega Y - T|_F^2`. At :math:`\Omega^* = (X^T)^+ T Y^+` the gradient
:math:`X(X^T\Omega Y - T)Y^T` vanishes, because :math:`X X^+ ... = X`: the residual of a projection is orthogonal to
its range. Hence for every Z the cross term drops out,

.. math:: |X^T(\Omega^* + Z)Y - T|^2 = |X^T\Omega^* Y - T|^2 + |X^T Z Y|^2,

so no Z does better, and the minimisers are exactly :math:`\Omega^* + Z` with :math:`X^T Z Y = 0`. Such a Z is
orthogonal to :math:`\Omega^*`, so :math:`|\Omega^* + Z|^2 = |\Omega^*|^2 + |Z|^2` and :math:`\Omega^*` is the
shortest of them. For one pair :math:`T = t e_i e_j^T` it is the rank-one matrix :math:`t \tilde x_i \tilde y_j^T`,
which is its own singular decomposition.
"""

from __future__ import annotations

from sympy import Abs, Matrix, Ne, Rational, sign, symbols

from proofs.notation import D, Inner, M, N, SquaredNorm, columns, equal, implies, matrices, norm, penrose, pinv
from proofs.verifier import Claim, Control, Identity, Theorem

X, Y, T = matrices("X", D, N), matrices("Y", D, M), matrices("T", N, M)
Omega, Z = matrices("Omega Z", D, D)
e_i, e_j = columns("e_i", N), columns("e_j", M)
(u, v), (t, sigma) = columns("u v", D), symbols("t sigma", real=True)

dual_x, dual_y = pinv(X).T * e_i, pinv(Y).T * e_j
optimum = pinv(X).T * T * pinv(Y)

hypotheses = {
    "X^+ is the pseudo-inverse of X": penrose(X),
    "Y^+ is the pseudo-inverse of Y": penrose(Y),
    "the target is not zero": Ne(t, 0),
    "the dual of x_i is not zero": Ne(SquaredNorm(dual_x), 0),
    "the dual of y_j is not zero": Ne(SquaredNorm(dual_y), 0),
}

residual = X.T * Omega * Y - T
claim = {
    "optimum": equal(Omega, optimum),
    "normal equations": equal(X * residual * Y.T, 0),
    "minimum": equal(SquaredNorm(X.T * (Omega + Z) * Y - T), SquaredNorm(residual) + SquaredNorm(X.T * Z * Y)),
    "least norm": implies(equal(X.T * Z * Y, 0), equal(SquaredNorm(Omega + Z), SquaredNorm(Omega) + SquaredNorm(Z))),
    "sigma": equal(sigma, Abs(t) * norm(dual_x) * norm(dual_y)),
    "u": equal(u, dual_x / norm(dual_x)),
    "v": equal(v, sign(t) * dual_y / norm(dual_y)),
    "single pair": equal(t * pinv(X).T * e_i * e_j.T * pinv(Y), sigma * u * v.T),
    "a feature is zero if its dual is": implies(equal(dual_x, 0), equal(X * e_i, 0)),
}


def proof(claim: Claim):
    """Normal equations, Pythagoras twice, then the single pair."""
    at = {Omega: claim["optimum"].rhs}
    P, Q = pinv(X) * X, pinv(Y) * Y
    yield Identity("the fit is a projection of the target", X.T * at[Omega] * Y, P * T * Q, "optimum")
    yield from claim.conclude("normal equations", "the gradient vanishes at the optimum", at)
    yield from claim.conclude("minimum", "Pythagoras: any other Omega costs more by |X^T Z Y|^2", at)
    yield from claim.conclude("least norm", "Pythagoras: any other minimiser is longer by |Z|^2", at)
    pair = at[Omega].xreplace({T: t * e_i * e_j.T})
    yield Identity("the optimum of one pair is an outer product of duals", pair, t * dual_x * dual_y.T)
    svd = {symbol: claim[str(symbol)].rhs for symbol in (sigma, u, v)}
    yield from claim.conclude("single pair", "which is sigma u v^T", svd)
    yield Identity("sigma is the largest value of u^T Omega v", Inner(svd[u], pair * svd[v]), svd[sigma], "sigma")
    yield from claim.conclude(
        "a feature is zero if its dual is", "x_i = X X^T x~_i, so a non-zero feature has a non-zero dual"
    )
    yield Identity("u is a unit vector", SquaredNorm(svd[u]), 1, "u")
    yield Identity("v is a unit vector", SquaredNorm(svd[v]), 1, "v")


def _example(x: Matrix, y: Matrix, target: Matrix, other: Matrix) -> dict:
    """Values for every symbol; x^T other y = 0 is needed for the least-norm part to say something."""
    first = {e_i: Matrix([1] + [0] * (x.cols - 1)), e_j: Matrix([0] * (y.cols - 1) + [1])}
    sizes = {D: x.rows, N: x.cols, M: y.cols}
    optimal = {Omega: x.T.pinv() * target * y.pinv()}
    left, right = x.pinv().T * first[e_i], y.pinv().T * first[e_j]
    svd = {sigma: left.norm() * right.norm() * Rational(3, 2), u: left / left.norm(), v: -right / right.norm()}
    return {**sizes, **first, **optimal, **svd, X: x, Y: y, T: target, Z: other, t: Rational(-3, 2)}


deficient = Matrix([[1, 0, 1], [0, 1, 1], [1, 1, 2]])
many = Matrix([[1, 0, 1, 2], [0, 1, 1, -1], [0, 0, 1, 1]])
few = Matrix([[1, 2], [0, 1], [1, 0]])
examples = (
    _example(deficient, few, Matrix([[1, 2], [0, 3], [-1, 1]]), Matrix([1, 1, -1]) * Matrix([[2, 0, 1]])),
    _example(many, few, Matrix(4, 2, range(8)), Matrix([1, 0, 3]) * Matrix([[1, -2, -1]])),
    _example(few, many, Matrix(2, 4, range(8)), Matrix(3, 3, range(9))),
)
one_sided = {**examples[0], pinv(X): deficient.pinv() + Matrix([1, 1, -1]) * Matrix([[1, 1, -1]])}
counterexamples = {
    "X^+ is the pseudo-inverse of X": one_sided,
    "Y^+ is the pseudo-inverse of Y": {
        **examples[0],
        pinv(Y): few.pinv() + Matrix([1, 0]) * Matrix([[1, -2, -1]]),
    },
    "the target is not zero": {**examples[0], t: 0},
    "the dual of x_i is not zero": {**examples[0], e_i: Matrix([0, 0, 0])},
    "the dual of y_j is not zero": {**examples[0], e_j: Matrix([0, 0])},
}


theorem = Theorem(
    id="T1",
    title="The optimum is a dual frame",
    statement=(
        "The least-norm minimiser of (1/2)|X^T Omega Y - T|_F^2 is Omega* = (X^T)^+ T Y^+. For a single pair "
        "T = t e_i e_j^T it has rank one, with u = x~_i/|x~_i|, v = y~_j/|y~_j| (up to sign) and "
        "sigma = |t||x~_i||y~_j|."
    ),
    hypotheses=hypotheses,
    claim=claim,
    proof=proof,
    controls=(
        Control("twice the optimum", {"optimum": equal(Omega, 2 * optimum)}),
        Control("features in place of duals", {"optimum": equal(Omega, X * T * Y.T)}),
        Control(
            "the cross term counted", {"minimum": equal(SquaredNorm(X.T * (Omega + Z) * Y - T), SquaredNorm(residual))}
        ),
        Control("any inverse, not the least-norm one", without=("X^+ is the pseudo-inverse of X",)),
        Control("sigma without the dual norms", {"sigma": equal(sigma, Abs(t))}),
    ),
    scope="general D, N, M; X and Y of any rank",
    status="proved",
    functions=(
        "svtheory.prediction.optimum.optimal_omega",
        "svtheory.prediction.optimum.predict",
        "svtheory.geometry.frames.dual_frame",
    ),
    experiment="ledger",
    examples=examples,
    counterexamples=counterexamples,
    references=("Penrose 1956",),
)
