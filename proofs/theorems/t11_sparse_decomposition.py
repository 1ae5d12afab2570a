r"""T11. Sparse attention decomposition.

Under T4 the terms of a logit are :math:`c_k = t_k(P_Xf_r)_i(P_Yf_s)_j`; they are :math:`t_kf_if_j` if and only if the
leverages are 1, that is, if and only if the features are outside the span of the others. The sparseness S lies in [1/n,
1]. Leading terms of the two nulls, for many directions n: under a common rotation, with :math:`\rho` the cosine of both
sides, and under independent rotations

.. math:: S \sim \frac{[\frac2\pi(\sqrt{1 - \rho^2} + \rho \arcsin\rho)]^2}{1 + 2\rho^2} , \qquad
          S \sim \frac{(\frac2\pi)^2(\sum\sigma)^2}{n\sum\sigma^2} .

Predicts: under a common rotation S falls from :math:`4/\pi^2 = 0.405` for orthogonal sides to 1/3 for equal ones; under
independent rotations of equal values it is 0.405.

Why: under T4 the terms are :math:`c_k = t_k (r^T\tilde x_{i_k})(\tilde y_{j_k}^Ts)`, and :math:`r^T\tilde x_i =
f^TX^T(X^+)^Te_i = (P_Xf)_i`. Since :math:`|P_Xe_i - e_i|^2 = 1 - (P_X)_{ii}`, the leverage is 1 iff :math:`P_Xe_i =
e_i`, iff the factor is :math:`f_i` for every f. The vector :math:`P_Xe_i - e_i` lies in the kernel of X and has the
entry :math:`(P_X)_{ii} - 1` at i: a leverage below 1 writes :math:`x_i` by the other columns. Conversely leverage 1
forces :math:`a_i = 0` wherever :math:`Xa = 0`.

Sparseness S lies in [1/n, 1]: a variance, and induction over the terms.

Common rotation. A row of a Haar rotation is a uniform unit vector; its projection on the plane of a and b has squared
length :math:`r^2` with the law Beta(1, (n-2)/2) (T12 with two directions) and a uniform angle :math:`\varphi`, so with
a at angle 0 and b at :math:`\theta`, both of length 1, :math:`c = r^2\cos\varphi\cos(\varphi - \theta)`, positive for
:math:`\theta - \pi/2 < \varphi < \pi/2`, negative up to :math:`\theta + \pi/2`, and so on. Exactly, at every n,

.. math:: n E|c| = \frac{2}{\pi}\left(\sin\theta + \left(\frac{\pi}{2} - \theta\right)\cos\theta\right), \qquad
          n(n + 2) E c^2 = 1 + 2\cos^2\theta,

and with :math:`\rho = \cos\theta` the squared mean size over the mean square tends to the leading term as n grows.

Independent rotations: both factors are entries of independent uniform unit vectors, with mean size :math:`c_n` of T12
and mean square 1/n. As :math:`c_nc_{n+1} = 2/(\pi n)` and :math:`c_n` falls with n, :math:`nc_n^2` lies between
:math:`2/\pi` and :math:`2n/(\pi(n-1))` and tends to :math:`2/\pi`.
"""

from sympy import Add, ImmutableMatrix, Integral, Limit, Rational, asin, cos, exp, gamma, oo, pi, sin, sqrt, symbols

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices, pinv, table, total
from proofs.engine.statements import at_least, conjunction, equal, implies, more_than
from proofs.engine.verifier import Control, Hypothesis, Lemma, Theorem, pseudo_inverse

X, Y = matrices("X", D, N), matrices("Y", D, M)
(e_i, f, kernel), (e_j, h) = columns("e_i f a", N), columns("e_j h", M)
P_X, P_Y = pinv(X) * X, pinv(Y) * Y
t, rho = symbols("t rho", real=True)
average, nu = symbols("c_mean", real=True), symbols("nu", positive=True)
n, count = symbols("n", positive=True), symbols("m", integer=True, positive=True)
k = symbols("k", integer=True)
c = table("c")
theta, phi, r, x = symbols("theta phi r x", positive=True)
A, B, a = symbols("A B a", real=True)
c_low, c_n, c_high = symbols("c_- c_n c_+", positive=True)
ANTIPODAL = ImmutableMatrix([[1, -1]])
projection = ANTIPODAL.pinv() * ANTIPODAL
present, absent = ImmutableMatrix([1, 0]), ImmutableMatrix([0, 1])


def term(query, key):
    """``4 (P f_r)_1 (P f_s)_1`` for an antipodal pair on either side, matched with t = 4."""
    return 4 * Inner(projection[:, 0], query) * Inner(projection[:, 0], key)


mean, mean_square = total(c[k], (k, 1, count)) / count, total(c[k] ** 2, (k, 1, count)) / count
product = cos(phi) * cos(phi - theta)
positive_arc, negative_arc = (phi, theta - pi / 2, pi / 2), (phi, pi / 2, theta + pi / 2)
mean_size = 2 * (Integral(product, positive_arc) - Integral(product, negative_arc)) / (2 * pi)
mean_of_square = Integral(product**2, (phi, 0, 2 * pi)) / (2 * pi)
size = 2 / pi * (sin(theta) + (pi / 2 - theta) * cos(theta))


def radial(power):
    """Mean of ``r^(2 power)`` under Beta(1, nu), nu = (n-2)/2, written with ``x = 1 - r^2``."""
    return Integral(nu * (1 - x) ** power * x ** (nu - 1), (x, 0, 1))


common = (2 / pi * (sqrt(1 - rho**2) + rho * asin(rho))) ** 2 / (1 + 2 * rho**2)
angle = [
    at_least(1 - rho**2, 0),
    equal(sqrt(1 - rho**2), sin(theta)),
    equal(asin(rho), pi / 2 - theta),
    equal(rho, cos(theta)),
]
sparseness_at = (size / n) ** 2 / ((1 + 2 * cos(theta) ** 2) / (n * (n + 2)))
chance = gamma(n / 2) / (sqrt(pi) * gamma((n + 1) / 2))
following = gamma((n + 1) / 2) / (sqrt(pi) * gamma(n / 2 + 1))
sigma = table("sigma")
sigmas, squares = total(sigma[k], (k, 1, count)), total(sigma[k] ** 2, (k, 1, count))

X_plus = pseudo_inverse(X)
Y_plus = pseudo_inverse(Y)
unit_e = Hypothesis("e_i is a unit vector", equal(SquaredNorm(e_i), 1))
directions = Hypothesis("more than one direction", more_than(n, 1))
falling = Hypothesis("the chance level falls with n", at_least(c_low, c_n), at_least(c_n, c_high))
neighbours = Hypothesis("neighbouring chance levels", equal(pi * n * c_n * c_high, 2),
                        equal(pi * (n - 1) * c_low * c_n, 2))  # fmt: skip
some_sigma = Hypothesis("some singular value is not zero", more_than(squares, 0))
pythagoras = {sin(theta) ** 2: 1 - cos(theta) ** 2}

lemmas = (
    Lemma("terms",
          equal(t * ((X * f).T * pinv(X).T * e_i) * ((Y * h).T * pinv(Y).T * e_j),
                t * (f.T * P_X * e_i) * (h.T * P_Y * e_j)), "r^T x~_i = (P_X f)_i, as P_X is symmetric",
          given=[X_plus, Y_plus]),
    Lemma("leverage", equal(SquaredNorm(P_X * e_i - e_i), 1 - Inner(e_i, P_X * e_i)), "P_X is a projection",
          given=[X_plus, unit_e]),
    Lemma("leverage 1: the factor is f_i", implies(equal(P_X * e_i, e_i), equal(e_i.T * P_X * f, e_i.T * f)),
          "e_i^T P_X = e_i^T", given=[X_plus]),
    Lemma("leverage below 1: x_i is in the span of the others",
          conjunction(equal(X * (P_X * e_i - e_i), 0), equal(Inner(e_i, P_X * e_i - e_i), Inner(e_i, P_X * e_i) - 1)),
          "a kernel vector with entry at i", given=[X_plus, unit_e]),
    Lemma("leverage 1: x_i is outside the span",
          implies([equal(P_X * e_i, e_i), equal(X * kernel, 0)], equal(e_i.T * kernel, 0)), "e_i^T a = e_i^T P_X a = 0",
          given=[X_plus]),
    Lemma("antipodal pairs: present", equal(term(present, present), 1), "in exact coordinates"),
    Lemma("antipodal pairs: absent", equal(term(absent, present), -1), "in exact coordinates"),
    Lemma("sparseness at most 1", implies(equal(average, mean), at_least(mean_square, average**2)), "a variance",
          certificate=total((c[k] - average) ** 2, (k, 1, count)) / count),
    Lemma("sparseness at least 1/n",
          implies([at_least(A, 0), at_least(a, 0), at_least(A**2, B)], at_least((A + a) ** 2, B + a**2)),
          "one more term keeps (sum |c|)^2 >= sum c^2", certificate=Add(A**2 - B, 2 * A * a, evaluate=False)),
    Lemma("common rotation: mean size over the circle", equal(mean_size, size / 2),
          "sign changes at pi/2 and theta + pi/2"),
    Lemma("common rotation: mean square over the circle", equal(mean_of_square, (1 + 2 * cos(theta) ** 2) / 8),
          "no sign to mind", rules=pythagoras),
    Lemma("common rotation: E r^2", equal(radial(1), (2 / n).xreplace({n: 2 * nu + 2})), "the law Beta(1, (n-2)/2)"),
    Lemma("common rotation: E r^4", equal(radial(2), (8 / (n * (n + 2))).xreplace({n: 2 * nu + 2})),
          "its second moment"),
    Lemma("common rotation: leading term", equal(Limit(sparseness_at, n, oo), size**2 / (1 + 2 * cos(theta) ** 2)),
          "n E|c| and n(n + 2) E c^2 are exact at every n"),
    Lemma("common rotation: in rho", implies(angle, equal(size**2 / (1 + 2 * cos(theta) ** 2), common)),
          "rho = cos(theta), arcsin(rho) = pi/2 - theta"),
    Lemma("correlated Gaussians: E|ab|", equal(Integral(r**3 * exp(-(r**2) / 2), (r, 0, oo)) * mean_size, size),
          "E r^2 = 2 in the plane"),
    Lemma("correlated Gaussians: E a^2 b^2",
          equal(Integral(r**5 * exp(-(r**2) / 2), (r, 0, oo)) * mean_of_square, 1 + 2 * cos(theta) ** 2),
          "E r^4 = 8 in the plane", rules=pythagoras),
    Lemma("independent rotations: neighbours", equal(chance * following, 2 / (pi * n)),
          "c_n c_(n+1) = 2/(pi n), by Gamma(z + 1) = z Gamma(z)", rules={gamma(n / 2 + 1): n / 2 * gamma(n / 2)}),
    Lemma("independent rotations: from below", at_least(n * c_n**2, 2 / pi), "c_n >= c_(n+1)",
          given=[falling, neighbours], certificate=n * c_n * (c_n - c_high)),
    Lemma("independent rotations: from above", at_least(2 * n / (pi * (n - 1)), n * c_n**2), "c_n <= c_(n-1)",
          given=[directions, falling, neighbours], certificate=n * c_n * (c_low - c_n)),
    Lemma("independent rotations: the ends meet", equal(Limit(2 * n / (pi * (n - 1)), n, oo), 2 / pi),
          "both ends tend to 2/pi"),
    Lemma("independent rotations: leading term",
          equal((2 / pi * sigmas / count) ** 2 / (squares / count), (2 / pi) ** 2 * sigmas**2 / (count * squares)),
          "mean sizes 2 sigma_k/pi, mean squares sigma_k^2", given=[some_sigma]),
)  # fmt: skip


def _example(features, other, angle, cosine):
    return {
        D: features.rows, N: features.cols, M: other.cols, X: features, Y: other,
        e_i: ImmutableMatrix([1] + [0] * (features.cols - 1)), f: ImmutableMatrix(range(1, features.cols + 1)),
        kernel: ImmutableMatrix([0] * features.cols), e_j: ImmutableMatrix([0] * (other.cols - 1) + [1]),
        h: ImmutableMatrix(range(2, other.cols + 2)), t: Rational(-3, 2), count: 3, c: [1, 2, 5], sigma: [3, 1, 2],
        theta: angle, rho: cosine, A: 3, B: 5, a: 2, n: 4, nu: 1, average: Rational(8, 3), **_CHANCE,
    }  # fmt: skip


_CHANCE = {c_n: 4 / (3 * pi), c_low: Rational(1, 2), c_high: Rational(3, 8)}
many, few = ImmutableMatrix([[1, 0, 1], [0, 1, 1]]), ImmutableMatrix([[1, 2], [0, 1]])
examples = (
    _example(many, few, pi / 3, Rational(1, 2)),
    _example(few, many, 2 * pi / 3, -Rational(1, 2)),
    {
        **_example(many, few, pi / 4, Rational(1, 2)),
        f: ImmutableMatrix([1, 0, 0]), kernel: ImmutableMatrix([1, 0, 0]), average: 10, A: 1, B: 7,
    },
)  # fmt: skip
counterexamples = {
    X_plus: {**examples[0], pinv(X): ImmutableMatrix(3, 2, range(6))},
    Y_plus: {**examples[1], pinv(Y): ImmutableMatrix(3, 2, range(6))},
    unit_e: {**examples[0], e_i: ImmutableMatrix([2, 0, 0])},
    directions: {**examples[0], n: Rational(1, 2), c_n: -1, c_low: 4 / pi, c_high: -4 / pi},
    falling: {**examples[0], c_n: 1, c_low: 2 / (3 * pi), c_high: 1 / (2 * pi)},
    neighbours: {**examples[0], c_n: 1, c_low: 1, c_high: 1},
    some_sigma: {**examples[0], sigma: [0, 0, 0]},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("only present features contribute", "terms", t * (f.T * e_i) * (h.T * e_j)),
        Control("any inverse, not the least-norm one", X_plus),
        Control("a mean square of 1 + rho^2", "correlated Gaussians: E a^2 b^2", 1 + cos(theta) ** 2),
        Control("the total does not matter", "common rotation: leading term", 4 / pi**2),
        Control("a factor 2/pi for independent rotations", "independent rotations: leading term",
                2 / pi * sigmas**2 / (count * squares)),
        Control("antipodal pairs leave absent features out", "antipodal pairs: absent", 0),
    ),
    scope="general D, N, M; exact moments at every n, then the limit of large n", status="limit",
    functions=("svtheory.heads.sparsity.leverage_terms",
               "svtheory.heads.sparsity.treves_rolls",
               "svtheory.heads.sparsity.common_rotation_sparseness",
               "svtheory.heads.sparsity.independent_rotation_sparseness"),
    examples=examples, counterexamples=counterexamples, references=("Treves and Rolls 1991",),
)  # fmt: skip
