r"""T1. The optimum is a dual frame.

The least-norm minimiser of :math:`\frac12|X^T\Omega Y - T|_F^2` is

.. math:: \Omega^* = (X^T)^+ T\, Y^+ .

For a single pair :math:`T = t\,e_i e_j^T` it has rank one, with the duals as singular vectors: :math:`u = \tilde x_i /
|\tilde x_i|`, :math:`v = \tilde y_j / |\tilde y_j|` up to sign, and :math:`\sigma = |t|\,|\tilde x_i|\,|\tilde y_j|`.

Predicts: two unit features at 60 degrees on either side have duals of length :math:`1/\sin 60°`, so that :math:`\sigma
= \frac43|t|`.

Why: minimise :math:`\frac12|X^T\Omega Y - T|_F^2`. At :math:`\Omega^* = (X^T)^+ T Y^+` the gradient :math:`X(X^T\Omega
Y - T)Y^T` vanishes, because :math:`X X^+ ... = X`: the residual of a projection is orthogonal to its range. Hence for
every Z the cross term drops out,

.. math:: |X^T(\Omega^* + Z)Y - T|^2 = |X^T\Omega^* Y - T|^2 + |X^T Z Y|^2,

so no Z does better, and the minimisers are exactly :math:`\Omega^* + Z` with :math:`X^T Z Y = 0`. Such a Z is
orthogonal to :math:`\Omega^*`, so :math:`|\Omega^* + Z|^2 = |\Omega^*|^2 + |Z|^2` and :math:`\Omega^*` is the shortest
of them. For one pair :math:`T = t e_i e_j^T` it is the rank-one matrix :math:`t \tilde x_i \tilde y_j^T`, which is its
own singular decomposition.
"""

from sympy import Abs, Matrix, Ne, Rational, sign, symbols

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices, norm, pinv
from proofs.engine.statements import equal, implies
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem, pseudo_inverse

X, Y, T = matrices("X", D, N), matrices("Y", D, M), matrices("T", N, M)
Omega, Z = matrices("Omega Z", D, D)
e_i, e_j = columns("e_i", N), columns("e_j", M)
(u, v), (t, sigma) = columns("u v", D), symbols("t sigma", real=True)
dual_x, dual_y = pinv(X).T * e_i, pinv(Y).T * e_j
optimum = pinv(X).T * T * pinv(Y)

X_plus = pseudo_inverse(X)
Y_plus = pseudo_inverse(Y)
some_target = Hypothesis("the target is not zero", Ne(t, 0))
some_dual_x = Hypothesis("the dual of x_i is not zero", Ne(SquaredNorm(dual_x), 0))
some_dual_y = Hypothesis("the dual of y_j is not zero", Ne(SquaredNorm(dual_y), 0))
residual = X.T * Omega * Y - T
P, Q = pinv(X) * X, pinv(Y) * Y
pair = optimum.xreplace({T: t * e_i * e_j.T})

lemmas = (
    Definition("optimum", equal(Omega, optimum)),
    Lemma("the fit is a projection of the target", equal(X.T * Omega * Y, P * T * Q),
          "X^T (X^T)^+ = X^+ X projects on the range of X^T", given=[X_plus], where=["optimum"]),
    Definition("sigma", equal(sigma, Abs(t) * norm(dual_x) * norm(dual_y))),
    Definition("u", equal(u, dual_x / norm(dual_x))),
    Definition("v", equal(v, sign(t) * dual_y / norm(dual_y))),
    Lemma("normal equations", equal(X * residual * Y.T, 0), "the gradient vanishes at the optimum",
          given=[X_plus, Y_plus], where=["optimum"]),
    Lemma("minimum", equal(SquaredNorm(X.T * (Omega + Z) * Y - T), SquaredNorm(residual) + SquaredNorm(X.T * Z * Y)),
          "Pythagoras: any other Omega costs more by |X^T Z Y|^2", given=[X_plus, Y_plus], where=["optimum"]),
    Lemma("least norm",
          implies(equal(X.T * Z * Y, 0), equal(SquaredNorm(Omega + Z), SquaredNorm(Omega) + SquaredNorm(Z))),
          "Pythagoras: any other minimiser is longer by |Z|^2", given=[X_plus, Y_plus], where=["optimum"]),
    Lemma("the optimum of one pair is an outer product of duals", equal(pair, t * dual_x * dual_y.T),
          "(X^T)^+ e_i is the dual of x_i"),
    Lemma("single pair", equal(pair, sigma * u * v.T), "which is sigma u v^T",
          given=[some_target, some_dual_x, some_dual_y], where=["sigma", "u", "v"]),
    Lemma("sigma is the largest value of u^T Omega v", equal(Inner(u, pair * v), sigma), "the rank is one",
          given=[some_target, some_dual_x, some_dual_y], where=["u", "v", "sigma"]),
    Lemma("a feature is zero if its dual is", implies(equal(dual_x, 0), equal(X * e_i, 0)),
          "x_i = X X^T x~_i, so a non-zero feature has a non-zero dual", given=[X_plus]),
    Lemma("u is a unit vector", equal(SquaredNorm(u), 1), "divided by its length", given=[some_dual_x], where=["u"]),
    Lemma("v is a unit vector", equal(SquaredNorm(v), 1), "divided by its length, and a sign",
          given=[some_target, some_dual_y], where=["v"]),
)  # fmt: skip


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
counterexamples = {
    X_plus: {**examples[0], pinv(X): deficient.pinv() + Matrix([1, 1, -1]) * Matrix([[1, 1, -1]])},
    Y_plus: {**examples[0], pinv(Y): few.pinv() + Matrix([1, 0]) * Matrix([[1, -2, -1]])},
    some_target: {**examples[0], t: 0},
    some_dual_x: {**examples[0], e_i: Matrix([0, 0, 0])},
    some_dual_y: {**examples[0], e_j: Matrix([0, 0])},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("twice the optimum", "optimum", 2 * optimum),
        Control("features in place of duals", "optimum", X * T * Y.T),
        Control("the cross term counted", "minimum", SquaredNorm(residual)),
        Control("any inverse, not the least-norm one", X_plus),
        Control("sigma without the dual norms", "sigma", Abs(t)),
    ),
    scope="general D, N, M; X and Y of any rank", status="proved",
    functions=("svtheory.prediction.optimum.optimal_omega", "svtheory.prediction.optimum.predict",
               "svtheory.geometry.frames.dual_frame"),
    examples=examples, counterexamples=counterexamples, references=("Penrose 1956",),
)  # fmt: skip
