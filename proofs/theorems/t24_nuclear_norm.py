r"""T24. Weight decay for any moments: the nuclear norm, from duals back to features.

The decay :math:`\frac g2(|W_Q|_F^2 + |W_K|_F^2)` of the best factors of :math:`\Omega` is :math:`g|\Omega|_*`. So a
head with room for the result minimises

.. math:: \tfrac12\mathrm{tr}(\Omega^TA\Omega B) - \mathrm{tr}(M^T\Omega) + g|\Omega|_* ,

for any token moments A, B. :math:`\Omega = USV^T` is the optimum if :math:`R = M - A\Omega B` has :math:`RV = gU`,
:math:`R^TU = gV` and :math:`|R|_2 \le g`. Nothing is left iff :math:`g \ge |M|_2`. For a single pair, :math:`M =
t\,a\,b^T` with :math:`a = E[r f_i]`, a result of rank one obeys

.. math:: \sigma\,(u^TAu)(v^TBv) = u^TMv - g, \qquad g\,P_a^\perp u = -\sigma\,(v^TBv)\,P_a^\perp Au ,

so that u turns to a as g rises to :math:`|M|_2`, whatever A: to the feature itself, if the moment of the activations is
diagonal. It is the optimum iff :math:`\cos(\theta_u + \theta_v) \ge g/|M|_2`, the angles those of u to a and of v to b.

Predicts: with :math:`A = B = I` and M of values 3 and 1, a decay of 2 leaves one value, 1.

Why: for any factors, with :math:`J^TJ = g^2 - R^TR`, the objective exceeds that of :math:`USV^T` by

.. math:: \tfrac12|Z^T(W_Q^TW_K - USV^T)Z_k|^2 + \frac1{2g}\left(|gW_Q - W_KR^T|^2 + |JW_K^T|^2\right) \ge 0, \qquad
A = ZZ^T,\ B = Z_kZ_k^T,

since :math:`\langle R, USV^T\rangle = g\,\mathrm{tr}\,S`. Softmax is :math:`1 - 1/m` of a squared loss to leading order
(T6), and g then divided by that. At :math:`S = 0` this is :math:`|M|_2 \le g`. Else a pair of unit columns c, d with
:math:`c^TMd = m > g` lowers the objective from 0 by :math:`(m - g)^2/2\kappa`, :math:`\kappa = |Z^Tc|^2|Z_k^Td|^2`. For
:math:`M = t\,a\,b^T` the certificate of one pair reads :math:`t(b^Tv)a - \sigma(v^TBv)Au = gu` and the like on the
other side; beyond the pair R is :math:`-tg/(\sigma\,u^TAu\,v^TBv)` times :math:`P_u^\perp ab^TP_v^\perp`, whose norm is
at most g iff :math:`t|P_u^\perp a||P_v^\perp b| \le t(a^Tu)(b^Tv) - g`.
"""

from sympy import Identity as One
from sympy import ImmutableMatrix, Rational, diag, eye, sqrt, symbols

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices, trace
from proofs.engine.statements import at_least, equal
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem
from proofs.theorems import t08_soft_threshold as t08

H, K, W_Q, W_K, U, V, S, root, E = t08.H, t08.K, t08.A, t08.B, t08.U, t08.V, t08.S, t08.root, t08.E
Z, Z_k, T = matrices("Z", D, N), matrices("Z_k", D, M), matrices("T_0", N, M)
Omega, R, J, asked, weakly, J_1, strongly = matrices("Omega R J M_0 M_1 J_1 M_2", D, D)
u, v, a, b, c, d = columns("u v a b c d", D)
e = columns("e", H)
g, sigma, alpha, beta, t, kappa = symbols("g sigma alpha beta t kappa", positive=True)
p, q, r, m = symbols("p q r m", real=True)
A, B, Omega_0 = Z * Z.T, Z_k * Z_k.T, t08.Omega_0
P_u, P_v = One(D) - u * u.T, One(D) - v * v.T


def across(column):
    """What of a column is across a, times ``|a|^2``."""
    return SquaredNorm(a) * column - a * a.T * column


def loss(head, pull):
    """``tr(Omega^T A Omega B)/2 - tr(M^T Omega)``."""
    return SquaredNorm(Z.T * head * Z_k) / 2 - Inner(pull, head)


def objective(left, right, pull):
    """The loss of two factors' product and their decay."""
    return loss(left.T * right, pull) + g / 2 * (SquaredNorm(left) + SquaredNorm(right))


def three_squares(rest, room, best):
    """By how much the objective exceeds that of the best head."""
    off = SquaredNorm(Z.T * (W_Q.T * W_K - best) * Z_k)
    return off / 2 + (SquaredNorm(g * W_Q - W_K * rest.T) + SquaredNorm(room * W_K.T)) / (2 * g)


least = loss(Omega_0, asked) + g * trace(S)
size = r**2 * (g - m) + r**4 * kappa / 2
left = t * a * b.T - sigma * A * u * v.T * B

orthonormal, has_root, embeds = t08.orthonormal, t08.has_root, t08.embeds
singular = Hypothesis("U and V are singular vectors of R, values g", equal(R * V, g * U), equal(R.T * U, g * V))
bounded = Hypothesis("R is at most g", equal(J.T * J, g**2 * One(D) - R.T * R))
weak = Hypothesis("M is at most g", equal(J_1.T * J_1, g**2 * One(D) - weakly.T * weakly))
strong = Hypothesis("M is m along unit columns", equal(Inner(c, strongly * d), m), equal(SquaredNorm(c), 1),
                    equal(SquaredNorm(d), 1), equal(SquaredNorm(e), 1))  # fmt: skip
curvature = Hypothesis("kappa is the curvature there", equal(SquaredNorm(Z.T * c) * SquaredNorm(Z_k.T * d), kappa))
best_size = Hypothesis("r^2 is the best size", equal(r**2 * kappa, m - g))
unit = Hypothesis("u and v are unit columns", equal(SquaredNorm(u), 1), equal(SquaredNorm(v), 1))
overlaps = Hypothesis("p and q are overlaps", equal(Inner(a, u), p), equal(Inner(b, v), q))
moments = Hypothesis(
    "alpha and beta are moments", equal(SquaredNorm(Z.T * u), alpha), equal(SquaredNorm(Z_k.T * v), beta)
)
one_pair = Hypothesis("one pair has the certificate", equal(t * q * a - sigma * beta * A * u, g * u),
                      equal(t * p * b - sigma * alpha * B * v, g * v))  # fmt: skip

lemmas = (
    t08.theorem.cite("nuclear norm", {t08.values_of: S}, given=[orthonormal]),
    t08.theorem.cite("attained: product", {}, given=[has_root, embeds]),
    t08.theorem.cite("attained: decay", {}, given=[orthonormal, has_root, embeds]),
    Lemma("the loss", equal(SquaredNorm(Z.T * Omega * Z_k - T) / 2, loss(Omega, Z * T * Z_k.T) + SquaredNorm(T) / 2),
          "the square written out, M = Z T_0 Z_k^T"),
    Definition("what is asked", equal(asked, R + A * Omega_0 * B)),
    Lemma("the rest meets the head", equal(Inner(R, Omega_0), g * trace(S)), "R V = g U",
          given=[singular, orthonormal]),
    Lemma("optimum", at_least(objective(W_Q, W_K, asked), least), "three squares",
          given=[singular, bounded, orthonormal], where=["what is asked"], certificate=three_squares(R, J, Omega_0)),
    Lemma("attained", equal(objective(E * root * U.T, E * root * V.T, asked), least), "by balanced factors",
          given=[orthonormal, has_root, embeds], where=["what is asked"]),
    Lemma("nothing is left", at_least(objective(W_Q, W_K, weakly), 0), "three squares at S = 0", given=[weak],
          certificate=three_squares(weakly, J_1, 0 * Omega_0)),
    Lemma("a head along one pair", equal(objective(r * e * c.T, r * e * d.T, strongly), size), "of unit columns",
          given=[strong, curvature]),
    Lemma("something is left", equal(size, -((m - g) ** 2) / (2 * kappa)), "at the best size", given=[best_size]),
    Lemma("what is left of a single pair", equal(sigma * alpha * beta, t * p * q - g), "u^T (M - A Omega B) v = g",
          given=[unit, overlaps, moments, one_pair]),
    Lemma("no more than |M|_2 - g", at_least(SquaredNorm(a) * SquaredNorm(b), (p * q) ** 2), "Cauchy and Schwarz",
          given=[unit, overlaps],
          certificate=SquaredNorm(b) * SquaredNorm(a - p * u) + p**2 * SquaredNorm(b - q * v)),
    Lemma("u turns to a", equal(g * across(u), -sigma * beta * across(A * u)), "what of the certificate is across a",
          given=[one_pair]),
    Lemma("beyond the pair", equal(sigma * alpha * beta * P_u * left * P_v, -t * g * P_u * a * b.T * P_v),
          "A u by a and u, B v by b and v", given=[unit, overlaps, moments, one_pair]),
)  # fmt: skip


def _column(*entries) -> ImmutableMatrix:
    return ImmutableMatrix(entries)


def _values(changes: dict) -> dict:
    """Exact values for every symbol: one mode of size 4, |M_1|_2 = g = 2 and M_2 above it; u at 27 degrees to a."""
    first = _column(1, 0)
    values = {
        D: 2, N: 2, M: 2, H: 2, K: 1, Z: ImmutableMatrix([[1, 0], [1, 1]]), Z_k: ImmutableMatrix([[1, 1], [0, 1]]),
        T: ImmutableMatrix([[1, 2], [0, 3]]), W_Q: ImmutableMatrix([[1, 2], [0, 1]]),
        W_K: ImmutableMatrix([[1, 0], [3, 1]]), Omega: ImmutableMatrix([[1, 0], [5, 1]]), U: first, V: first,
        S: _column(4), root: _column(2), E: first, R: diag(2, 1), J: diag(0, sqrt(3)), weakly: diag(2, 1),
        J_1: diag(0, sqrt(3)), strongly: diag(4, 1), c: first, d: first, e: first, u: first, v: first, a: _column(2, 1),
        b: _column(2, Rational(1, 2)), g: 2, sigma: 1, alpha: 1, beta: 2, t: 1, kappa: 2, p: 2, q: 2, r: 1, m: 4,
        **changes,
    }  # fmt: skip
    seen = values[Z] * values[Z].T * values[U] * values[S] * values[V].T * values[Z_k] * values[Z_k].T
    return {**values, asked: values[R] + seen}


third = Rational(2, 3)
first_of_three, corner = _column(1, 0, 0), ImmutableMatrix(3, 3, [0, 1, 0, 0, 0, 0, Rational(1, 2), 0, 0])
deficient = _values({
    D: 3, M: 1, Z: ImmutableMatrix([[1, 0], [0, 1], [1, 1]]), Z_k: _column(1, 1, 0), T: _column(1, 2),
    W_Q: ImmutableMatrix(2, 3, range(6)), W_K: ImmutableMatrix(2, 3, [1, 0, 2, 0, 1, 1]),
    Omega: ImmutableMatrix(3, 3, range(9)), U: first_of_three, V: _column(0, 1, 0), S: _column(3),
    root: _column(sqrt(3)), R: corner, J: diag(sqrt(3) / 2, 0, 1), weakly: diag(Rational(1, 2), 0, 0),
    J_1: diag(sqrt(3) / 2, 1, 1), strongly: ImmutableMatrix(3, 3, [3, 0, 0, 0, 0, 1, 0, 0, 0]), c: first_of_three,
    d: first_of_three, u: first_of_three, v: first_of_three, a: _column(1, 0, third), b: _column(1, third, 0), g: 1,
    sigma: 2, beta: 1, t: 3, kappa: 1, p: 1, q: 1, r: sqrt(2), m: 3,
})  # fmt: skip
lopsided, absent = _values({W_Q: diag(1, 0), W_K: diag(4, 0)}), _values({W_Q: diag(0, 0), W_K: diag(0, 0)})
twice = _column(2, 0)
counterexamples = {
    orthonormal: _values({U: twice, V: twice}),
    has_root: _values({root: _column(1)}),
    embeds: _values({E: twice}),
    singular: _values({R: eye(2), J: diag(sqrt(3), sqrt(3))}),
    bounded: _values({R: diag(2, 5), W_Q: diag(2, 1), W_K: diag(2, 1)}),
    weak: _values({weakly: diag(5, 1), W_Q: diag(1, 0), W_K: diag(1, 0)}),
    strong: _values({m: 5, r: sqrt(Rational(3, 2))}),
    curvature: _values({kappa: 3, r: sqrt(third)}),
    best_size: _values({r: 5}),
    unit: _values({u: twice, v: twice, alpha: 4, beta: 8, p: 5, q: 8, a: _column(Rational(5, 2), 2)}
                  | {b: _column(4, Rational(8, 5))}),
    overlaps: _values({p: 4, b: _column(1, Rational(1, 4))}),
    moments: _values({alpha: 3, beta: 6, q: 4, a: _column(2, Rational(3, 2)), b: _column(4, Rational(3, 2))}),
    one_pair: _values({a: _column(2, 7)}),
}  # fmt: skip

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("any vectors", singular),
        Control("any rest beyond them", bounded),
        Control("half the nuclear norm", "attained", loss(Omega_0, asked) + g / 2 * trace(S)),
        Control("nothing is left at any decay", weak),
        Control("no curvature", "a head along one pair", r**2 * (g - m)),
        Control("a single pair loses nothing", "what is left of a single pair", t * p * q),
        Control("u turns to the dual", "u turns to a", equal(g * across(A * u), -sigma * beta * across(u))),
        Control("rank one at every decay", "beyond the pair",
                equal(sigma * alpha * beta * P_u * left * P_v, 0 * P_u * a * b.T * P_v)),
        Control("a second moment elsewhere", moments),
    ),
    scope="general D, N, M; token moments of any rank; room for the result", status="proved",
    functions=("svtheory.prediction.optimum.predict", "svtheory.prediction.decay.nuclear_optimum"),
    examples=(_values({}), deficient, lopsided, absent), counterexamples=counterexamples,
    references=("Srebro, Rennie and Jaakkola 2004", "Recht, Fazel and Parrilo 2010"),
)  # fmt: skip
