r"""T3. Approximate alignment: the sharp bound.

For every non-zero feature

.. math:: \cos(u, x_i) \ge \frac{2\sqrt\kappa}{1 + \kappa} = \sqrt{1 - \epsilon^2} , \qquad \sin(u, x_i) \le \epsilon ,

where :math:`\kappa = L/m` is the condition number of :math:`S_X` on its range and :math:`\epsilon = (L - m)/(L + m)`.
Two columns with extreme eigenvalues m, L attain it. Locally, for a unit feature x with :math:`\rho = x^TSx` and
:math:`q = Sx - \rho x`, the tangent of the angle is :math:`|P_\perp S^+q|/(\rho\,x^TS^+x) \le |S^+q| \le |q|/m`.

Predicts: a frame with condition number 4 keeps every singular vector within 36.9 degrees of its feature: :math:`\cos
\ge 0.8`.

Why: in the eigenbasis of S, x has weights :math:`w_k = z_k^2/|z|^2` on the eigenvalues, and with :math:`\nu_k =
1/\lambda_k`

.. math:: \cos^2(S^+x, x) = E[\nu]^2/E[\nu^2], \qquad E[f] = \sum_k w_k f(\nu_k).

If :math:`0 < a \le \nu_k \le b`, then :math:`E[(b-\nu)(\nu-a)] \ge 0`, that is :math:`E[\nu^2] \le (a+b)E[\nu] - ab`,
and

.. math:: (a+b)^2E[\nu]^2 - 4ab\,E[\nu^2] = 4ab\,E[(b-\nu)(\nu-a)] + ((a+b)E[\nu] - 2ab)^2 \ge 0.

With a = 1/L and b = 1/m this is :math:`\cos^2 \ge 4\kappa/(1+\kappa)^2 = 1 - \epsilon^2`. The two columns :math:`(\sqrt
m\,q_m \pm \sqrt L\,q_L)/\sqrt 2` attain it. Local bound: for a unit column x with :math:`\rho = x^TSx` and :math:`q =
Sx - \rho x`, :math:`S^+q = x - \rho S^+x`, so :math:`\rho P_\perp S^+x = -P_\perp S^+q`, and :math:`\rho\,x^TS^+x \ge
1`.
"""

from sympy import Identity as One
from sympy import ImmutableMatrix, KroneckerDelta, Ne, Rational, diag, eye, sqrt, symbols

from proofs.engine.notation import D, Inner, N, SquaredNorm, columns, matrices, pinv, table, total
from proofs.engine.polytopes import squared_cosine
from proofs.engine.statements import at_least, equal, implies, more_than, orthonormal, penrose
from proofs.engine.verifier import Control, Hypothesis, Lemma, Theorem, pseudo_inverse

k, l = symbols("k l", integer=True)
w, nu, z, q = (table(name) for name in ("w", "nu", "z", "q"))
a, b = symbols("a b", real=True)
root_m, root_L = symbols("r s", positive=True)
m, L = root_m**2, root_L**2
kappa, eps = L / m, (L - m) / (L + m)


def mean(function):
    """``E[f] = sum_k w_k f(nu_k)``."""
    return total(w[k] * function, (k, 1, D))


first, second = mean(nu[k]), mean(nu[k] ** 2)
Q, Lam, Nu, zeta = matrices("Q", D, N), *matrices("Lambda Nu", N, N), columns("zeta", N)
spectral, inverse = Q * Lam * Q.T, Q * Nu * Q.T
q_m, q_L = columns("q_m q_L", D)
plus, minus = (root_m * q_m + root_L * q_L) / sqrt(2), (root_m * q_m - root_L * q_L) / sqrt(2)
dual_plus = (q_m / root_m + q_L / root_L) / sqrt(2)
frame = plus * plus.T + minus * minus.T
X, e_i = matrices("X", D, N), columns("e_i", N)
x, Splus = X * e_i, pinv(X).T * pinv(X)
rho, inverse_rho = SquaredNorm(X.T * x), SquaredNorm(pinv(X) * x)
residual = X * X.T * x - rho * x
P_perp = One(D) - x * x.T

weights = Hypothesis("weights are not negative", at_least(w[k], 0))
normalised = Hypothesis("weights sum to 1", equal(total(w[k], (k, 1, D)), 1))
spectrum = Hypothesis("the spectrum lies in [a, b]", at_least(nu[k], a), at_least(b, nu[k]))
positive_ends = Hypothesis("its ends are positive", more_than(a, 0), more_than(b, 0))
eigenvectors = Hypothesis("eigenvectors are orthonormal", equal(Q.T * Q, 1))
inverses = Hypothesis("Nu inverts Lambda", equal(Lam * Nu, 1), equal(Nu * Lam, 1))
vectors = (zeta, Q * zeta, Nu * zeta, inverse * Q * zeta)
some_x = Hypothesis("x is not zero", *(Ne(SquaredNorm(vector), 0) for vector in vectors))
extremes = Hypothesis("q_m and q_L are orthonormal", orthonormal(q_m, q_L))
X_plus = pseudo_inverse(X)
unit_x = Hypothesis("x_i is a unit vector", equal(SquaredNorm(x), 1), Ne(rho, 0), Ne(inverse_rho, 0))
spread = mean((b - nu[k]) * (nu[k] - a))
above = mean((nu[k] - a) ** 2) + 2 * a * mean(nu[k] - a) + a**2
parabola = (4 * a * b * spread + ((a + b) * first - 2 * a * b) ** 2) / ((a + b) ** 2 * second)
along, across = Inner(x, Splus * residual) ** 2, SquaredNorm(P_perp * Splus * residual)
schwarz = SquaredNorm(pinv(X) * x - X.T * x / rho)
halves = (b - nu[k]) ** 2 + 2 * (b - nu[k]) * (nu[k] - a) + 2 * a * (b - nu[k])

lemmas = (
    Lemma("the inverse of the spectral form", penrose(spectral, inverse),
          "S^+ = Q Nu Q^T satisfies Penrose's identities", given=[eigenvectors, inverses]),
    Lemma("cosine in the eigenbasis",
          equal(squared_cosine(inverse * Q * zeta, Q * zeta), squared_cosine(Nu * zeta, zeta)),
          "Q drops out of the cosine", given=[eigenvectors, some_x]),
    Lemma("a diagonal form is a sum",
          equal(total(z[k] * nu[k] * KroneckerDelta(k, l) * z[l], (l, 1, D), (k, 1, D)),
                total(nu[k] * z[k] ** 2, (k, 1, D))), "and a diagonal form is the mean of nu under the weights"),
    Lemma("E[(b - nu)(nu - a)] >= 0", at_least((a + b) * first - a * b, second), "no value lies outside [a, b]",
          given=[weights, normalised, spectrum], certificate=spread),
    Lemma("E[nu^2] > 0", more_than(second, 0), "no value lies below a",
          given=[weights, normalised, spectrum, positive_ends], certificate=above),
    Lemma("Kantorovich", at_least(first**2 / second, 4 * a * b / (a + b) ** 2), "and one perfect square",
          given=[weights, normalised, spectrum, positive_ends], uses=["E[nu^2] > 0"], certificate=parabola),
    Lemma("sine", at_least(((b - a) / (b + a)) ** 2, 1 - first**2 / second), "1 - 4ab/(a+b)^2 = ((b-a)/(b+a))^2",
          given=[weights, normalised, spectrum, positive_ends], uses=["E[nu^2] > 0"], certificate=parabola),
    Lemma("in kappa", equal((4 * a * b / (a + b) ** 2).xreplace({a: 1 / L, b: 1 / m}), 4 * kappa / (1 + kappa) ** 2),
          "a = 1/L and b = 1/m"),
    Lemma("in eps", equal(4 * kappa / (1 + kappa) ** 2, 1 - eps**2), "eps = (L - m)/(L + m)"),
    Lemma("two columns: frame", equal(frame, m * q_m * q_m.T + L * q_L * q_L.T),
          "the frame operator of the two columns"),
    Lemma("two columns: dual", equal(frame * dual_plus, plus), "its inverse on a column", given=[extremes]),
    Lemma("two columns: cosine", equal(squared_cosine(dual_plus, plus), 4 * m * L / (m + L) ** 2), "attains the bound",
          given=[extremes]),
    Lemma("X^T x vanishes only with x", implies(equal(X.T * x, 0), equal(x, 0)), "so rho = |X^T x|^2 is positive",
          given=[X_plus]),
    Lemma("X^+ x vanishes only with x", implies(equal(pinv(X) * x, 0), equal(x, 0)), "and so is x^T S^+ x = |X^+ x|^2",
          given=[X_plus]),
    Lemma("S^+ q = x - rho S^+ x", equal(Splus * residual, x - rho * Splus * x), "S^+ S x = x", given=[X_plus]),
    Lemma("residual", equal(rho**2 * SquaredNorm(P_perp * Splus * x), SquaredNorm(P_perp * Splus * residual)),
          "so the parts orthogonal to x are proportional", given=[X_plus, unit_x]),
    Lemma("rho x^T S^+ x >= 1", at_least(rho * inverse_rho, 1), "Cauchy-Schwarz", given=[X_plus, unit_x],
          certificate=rho * schwarz),
    Lemma("|P q'| <= |q'|", at_least(SquaredNorm(Splus * residual), across), "P_perp shortens", given=[unit_x],
          certificate=along),
    Lemma("local bound", at_least(SquaredNorm(Splus * residual), SquaredNorm(P_perp * Splus * x) / inverse_rho**2),
          "tan(angle) <= |S^+ q|", given=[X_plus, unit_x],
          certificate=along + across * rho * schwarz * (rho * inverse_rho + 1) / (rho * inverse_rho) ** 2),
    Lemma("size of the residual",
          at_least(b**2 * total(q[k] ** 2, (k, 1, D)), total(nu[k] ** 2 * q[k] ** 2, (k, 1, D))), "|S^+ q| <= |q|/m",
          given=[spectrum, positive_ends], certificate=total(halves * q[k] ** 2, (k, 1, D))),
)  # fmt: skip

example = {
    D: 2, N: 2, w: [Rational(1, 3), Rational(2, 3)], nu: [1, Rational(1, 2)], a: Rational(1, 2), b: 1, z: [1, 2],
    q: [1, 1], root_m: 1, root_L: 2, Q: eye(2), Lam: diag(1, 2), Nu: diag(1, Rational(1, 2)),
    zeta: ImmutableMatrix([1, 2]), q_m: ImmutableMatrix([1, 0]), q_L: ImmutableMatrix([0, 1]),
    e_i: ImmutableMatrix([1, 0]), X: ImmutableMatrix([[Rational(3, 5), 1], [Rational(4, 5), 0]]),
}  # fmt: skip
interior = {**example, a: Rational(1, 4), b: 2}
counterexamples = {
    weights: {**example, w: [-1, 2]},
    normalised: {**example, w: [Rational(1, 6), Rational(1, 3)]},
    spectrum: {**example, nu: [1, Rational(1, 100)]},
    positive_ends: {**example, a: 0, b: 0, nu: [0, 0]},
    eigenvectors: {**example, Q: ImmutableMatrix([[1, 1], [0, 1]])},
    inverses: {**example, Nu: diag(1, 2)},
    some_x: {**example, zeta: ImmutableMatrix([0, 0])},
    extremes: {**example, q_L: ImmutableMatrix([1, 1])},
    X_plus: {**example, pinv(X): eye(2)},
    unit_x: {**example, e_i: ImmutableMatrix([2, 0])},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("a larger constant", "Kantorovich", 5 * a * b / (a + b) ** 2),
        Control("another mean of a, b", "Kantorovich", 2 * a * b / (a**2 + b**2)),
        Control("eigenvalues outside [1/L, 1/m]", spectrum),
        Control("signed weights", weights),
        Control("local bound with half the residual", "local bound",
                4 * SquaredNorm(P_perp * Splus * x) / inverse_rho**2),
        Control("a pair that is not extremal", "two columns: cosine", 1),
    ),
    scope="general D", status="proved",
    functions=("svtheory.geometry.bounds.kantorovich_bound", "svtheory.geometry.bounds.alignment_bound",
               "svtheory.geometry.bounds.local_alignment_bound"),
    examples=(example, interior), counterexamples=counterexamples, references=("Kantorovich 1948", "Gustafson 1968"),
)  # fmt: skip
