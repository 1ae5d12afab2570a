r"""T13. Rotary positions.

A head that turns plane h by :math:`\theta_h` is :math:`\Omega_d = \mathrm{Re}\sum_h e^{-i\theta_hd}z_hw_h^T`. For a
target :math:`g(d)\,T`, T a single pair, the optimum is

.. math:: \Omega_d = \hat g(d)\,\Omega^* ,

:math:`\hat g` the projection of g on the span of :math:`\cos\theta_hd, \sin\theta_hd`: the same singular vectors at
every offset, :math:`\sigma(d) = |\hat g(d)|\sigma^*`. Two equal pairs in one plane cost :math:`2t^2(1 - |E e^{i\theta
d}|^2)`, or one pair, :math:`t^2(2 - E\hat g(d)^2)` for g = 1, whichever is less.

Predicts: where :math:`|E e^{i\theta d}| = 0.9`, two pairs share a plane at the cost :math:`0.38\,t^2`.

Why: A plane turns queries and keys by :math:`\theta` times their positions. With rows a, b of W_Q and c, d of W_K,
offset d, :math:`C = \cos\theta d, S = \sin\theta d`, its part of :math:`\Omega_d` is :math:`C(ac^T + bd^T) + S(ad^T -
bc^T)`, the real part of :math:`e^{-i\theta d}zw^T` with :math:`z = a - ib, w = c + id`.

One pair. Write the profile as :math:`g = \hat g + h`, h orthogonal to cos and sin under the weights p of the offsets.
At any :math:`\Omega_d = \hat g(d)\Omega^* + Z_d`, by the normal equations of T1,

.. math:: |X^T\Omega_dY - gT|^2 = \hat g^2|X^T\Omega^*Y - T|^2 + |X^TZ_dY|^2 + h^2|T|^2 - 2h\langle\cdot, T\rangle,

where the last product combines cos and sin at every entry, so that its mean vanishes: :math:`Z_d = 0` is best. As
:math:`\Omega^*` has rank one, :math:`(\alpha C + \beta S)xy^T` needs one complex rank-one term a frequency.

Capacity. Two equal orthonormal pairs in one plane: A = :math:`ab^T` complex, target t times the identity on two
dimensions, :math:`E e^{i\theta d} = m e^{i\cdot 0}` after a shift of the origin. In an isotropic basis :math:`e_\pm`,
:math:`\mathrm{tr}A = P + Q, \sum A_{ij}^2 = 4PQ` and :math:`|A| \ge |P| + |Q|`. With :math:`|P| + |Q| = \sigma, |P| -
|Q| = \Delta, y = \Delta^2/\sigma^2`, mean phase :math:`\psi` and half difference :math:`\eta`, the cost is at least

.. math:: 2t^2 + \tfrac12\sigma^2(1 + \rho(1 - y)) - 2tm\sigma\sqrt{\cos^2\psi + y\sin^2\psi}
          \ge 2t^2 - 2t^2m^2\frac{\cos^2\psi + y\sin^2\psi}{1 + \rho(1 - y)} ,

:math:`\rho = \mathrm{Re}(E e^{-2i\theta d} e^{2i\psi})`. The fraction is monotone in y: its largest value is at y = 1,
where both pairs share a rotating term at the cost :math:`2t^2(1 - m^2)`, or at y = 0, where one pair is kept.
"""

from sympy import Add, I, ImmutableMatrix, Rational, cos, expand_trig, pi, sin, sqrt, symbols

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices, table, total
from proofs.engine.statements import at_least, equal, implies, more_than
from proofs.engine.verifier import Control, Hypothesis, Lemma, Theorem

a, b, c, d, left, right = columns("a b c d x y", D)
C, S, alpha, beta, turn_q, turn_k = symbols("C S alpha beta x_q x_k", real=True)
q_1, q_2, k_1, k_2 = symbols("q_1 q_2 k_1 k_2", real=True)
X, Y, T, Omega, Z = matrices("X", D, N), matrices("Y", D, M), matrices("T", N, M), *matrices("Omega Z", D, D)
g_hat, h = symbols("ghat h", real=True)
offsets, at = symbols("n", integer=True, positive=True), symbols("d", integer=True)
p, rest, cosine, sine = (table(name) for name in ("p", "h", "c", "s"))
fit = X.T * Omega * Y - T
e_plus, e_minus = columns("e_+ e_-", 2)
a_plus, a_minus, b_plus, b_minus = symbols("a_+ a_- b_+ b_-", real=True)
A, B = a_plus * e_plus + a_minus * e_minus, b_plus * e_minus + b_minus * e_plus
re, im, t, m = symbols("r_A i_A t m", real=True)
size, difference, y, rho, ratio, root = symbols("sigma Delta y rho R K", real=True)
c_psi, s_psi, c_eta, s_eta, psi, eta = symbols("c_psi s_psi c_eta s_eta psi eta", real=True)
stiffness = 1 + rho * (1 - y)
shared, kept = 2 * t**2 * (1 - m**2), {y: 0, root: c_psi}


def rotation(angle):
    """Rotation of a plane."""
    return ImmutableMatrix([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])


def real_part(factor, conjugate, term, conjugate_term):
    """``Re (factor term)``."""
    return (factor * term + conjugate * conjugate_term) / 2


def over(function):
    """Mean over offsets with weights p."""
    return total(p[at] * function, (at, 1, offsets))


logit = (rotation(turn_q) * ImmutableMatrix([q_1, q_2])).dot(rotation(turn_k) * ImmutableMatrix([k_1, k_2]))

normal_equations = Hypothesis("Omega solves the normal equations", equal(X * fit * Y.T, 0))
orthogonal_rest = Hypothesis("h is orthogonal to cos and sin", equal(over(rest[at] * cosine[at]), 0),
                             equal(over(rest[at] * sine[at]), 0))  # fmt: skip
circle = Hypothesis("C and S are a cosine and a sine", equal(C**2 + S**2, 1))
basis = (e_plus, e_minus)
isotropic = Hypothesis("isotropic basis", *(equal(one.T * two, int(one != two)) for one in basis for two in basis))
phases = Hypothesis("phases", equal(c_psi**2 + s_psi**2, 1), equal(c_eta**2 + s_eta**2, 1))
y_inside = Hypothesis("y lies in [0, 1]", at_least(y, 0), at_least(1 - y, 0))
has_norm = Hypothesis("a term has a norm, and R bounds both ends", more_than(stiffness, 0), more_than(1 + rho, 0),
                      at_least(ratio, 1), at_least(ratio * (1 + rho), c_psi**2))  # fmt: skip
angles = (turn_q - turn_k, turn_k - turn_q, psi + eta, psi - eta)
trigonometry = {f(angle): expand_trig(f(angle)) for f in (cos, sin) for angle in angles}
along_offset = cos(turn_q - turn_k) * (q_1 * k_1 + q_2 * k_2) + sin(turn_q - turn_k) * (q_1 * k_2 - q_2 * k_1)
turning = C * (a * c.T + b * d.T) + S * (a * d.T - b * c.T)
best_size = 2 * t**2 - 2 * t**2 * m**2 * root**2 / stiffness
lesser = Add((1 - y) * (ratio * (1 + rho) - c_psi**2), y * (ratio - 1), evaluate=False)

lemmas = (
    Lemma("a logit depends on the offset", equal(logit, along_offset), "R(x)^T R(y) = R(y - x)", rules=trigonometry),
    Lemma("complex rank one",
          equal(real_part(C - I * S, C + I * S, (a - I * b) * (c + I * d).T, (a + I * b) * (c - I * d).T), turning),
          "the real part of a product of complex numbers"),
    Lemma("one offset",
          equal(SquaredNorm(X.T * (g_hat * Omega + Z) * Y - (g_hat + h) * T),
                g_hat**2 * SquaredNorm(fit) + SquaredNorm(X.T * Z * Y) + h**2 * SquaredNorm(T)
                - 2 * h * Inner(g_hat * fit + X.T * Z * Y, T)), "Pythagoras, by the normal equations of T1",
          given=[normal_equations]),
    Lemma("over offsets", equal(over(rest[at] * (alpha * cosine[at] + beta * sine[at])), 0),
          "h is orthogonal to whatever a rotary head can make", given=[orthogonal_rest]),
    Lemma("one frequency holds one pair",
          equal(real_part(C - I * S, C + I * S, (alpha + I * beta) * left * right.T,
                          (alpha - I * beta) * left * right.T), (alpha * C + beta * S) * left * right.T),
          "the optimum needs one complex rank-one term a frequency"),
    Lemma("capacity: one entry",
          equal((C * re + S * im - t) ** 2,
                t**2 + (re**2 + im**2) / 2 + ((C**2 - S**2) * (re**2 - im**2) + 4 * C * S * re * im) / 2
                - 2 * t * (C * re + S * im)), "the mean square of Re(e^{-i theta d} A) by double angles",
          given=[circle]),
    Lemma("capacity: trace", equal(Inner(A, B), a_plus * b_plus + a_minus * b_minus), "tr A = P + Q",
          given=[isotropic]),
    Lemma("capacity: squares", equal(Inner(A, A) * Inner(B, B), 4 * (a_plus * b_plus) * (a_minus * b_minus)),
          "sum A_ij^2 = (a.a)(b.b) = 4PQ", given=[isotropic]),
    Lemma("capacity: norm",
          at_least((a_plus**2 + a_minus**2) * (b_plus**2 + b_minus**2), (a_plus * b_plus + a_minus * b_minus) ** 2),
          "Lagrange's identity, of moduli: |A| >= |P| + |Q|", certificate=(a_plus * b_minus - a_minus * b_plus) ** 2),
    Lemma("capacity: phases",
          equal((size + difference) / 2 * cos(psi + eta) + (size - difference) / 2 * cos(psi - eta),
                size * cos(psi) * cos(eta) - difference * sin(psi) * sin(eta)), "mean phase and half difference",
          rules=trigonometry),
    Lemma("capacity: the best half difference",
          at_least(size**2 * c_psi**2 + difference**2 * s_psi**2,
                   (size * c_psi * c_eta - difference * s_psi * s_eta) ** 2), "a projection of a vector",
          given=[phases], certificate=(size * c_psi * s_eta + difference * s_psi * c_eta) ** 2),
    Lemma("capacity: the best size", at_least(2 * t**2 + size**2 * stiffness / 2 - 2 * t * m * size * root, best_size),
          "completing the square", given=[has_norm],
          certificate=(size * stiffness - 2 * t * m * root) ** 2 / (2 * stiffness)),
    Lemma("capacity: whichever is less",
          implies(equal(root**2, c_psi**2 + y * s_psi**2), at_least(best_size, 2 * t**2 * (1 - m**2 * ratio))),
          "a ratio of linear functions of y", given=[phases, y_inside, has_norm],
          certificate=2 * t**2 * m**2 * lesser / stiffness),
    Lemma("capacity: a shared plane", equal(2 * (t * m) ** 2 - 4 * (t * m) * t * m + 2 * t**2, shared),
          "y = 1: a rotating term of size t m"),
    Lemma("capacity: one pair", equal(t**2 * (2 - (m * c_psi) ** 2 / ((1 + rho) / 2)), best_size.xreplace(kept)),
          "y = 0: the projection of 1 on cos(theta d - psi)", given=[has_norm]),
)  # fmt: skip

example = {
    D: 2, N: 2, M: 2, a: ImmutableMatrix([1, 2]), b: ImmutableMatrix([0, 3]), c: ImmutableMatrix([2, -1]),
    d: ImmutableMatrix([1, 1]), left: ImmutableMatrix([1, 3]), right: ImmutableMatrix([2, 1]), C: Rational(3, 5),
    S: Rational(4, 5), alpha: 2, beta: -3, q_1: 1, q_2: 2, k_1: 3, k_2: 5, X: ImmutableMatrix([[1, 0], [0, 0]]),
    Y: ImmutableMatrix([[1, 1], [0, 1]]), T: ImmutableMatrix([[1, 2], [3, 4]]), Z: ImmutableMatrix([[1, 2], [3, 5]]),
    Omega: ImmutableMatrix([[1, 1], [0, 0]]), g_hat: 2, h: 3, offsets: 3, p: [1, 1, 1], rest: [1, -2, 1],
    cosine: [1, 1, 1], sine: [1, 0, -1], e_plus: ImmutableMatrix([1, I]) / sqrt(2),
    e_minus: ImmutableMatrix([1, -I]) / sqrt(2),
    a_plus: 1, a_minus: 2, b_plus: 3, b_minus: 1, re: 2, im: 3, t: 2, m: Rational(1, 2), size: 3, difference: 1,
    y: Rational(1, 4), rho: Rational(1, 5), ratio: 1, c_psi: Rational(3, 5), s_psi: Rational(4, 5),
    c_eta: Rational(5, 13), s_eta: Rational(12, 13), root: sqrt(13) / 5,
    turn_q: pi / 3, turn_k: pi / 6, psi: pi / 4, eta: pi / 12,
}  # fmt: skip
counterexamples = {
    normal_equations: {**example, Omega: 2 * example[Omega]},
    orthogonal_rest: {**example, rest: [1, 1, 1]},
    circle: {**example, C: 1, S: 1},
    isotropic: {**example, e_plus: ImmutableMatrix([1, 0])},
    phases: {**example, c_psi: 3, s_psi: 4, ratio: 9, root: sqrt(13), c_eta: 5, s_eta: 12},
    y_inside: {**example, y: 4, rho: -Rational(1, 5), root: sqrt(73) / 5},
    has_norm: {**example, ratio: 0},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("z without the minus sign", "complex rank one",
                equal(real_part(C - I * S, C + I * S, (a + I * b) * (c + I * d).T, (a - I * b) * (c - I * d).T),
                      turning)),
        Control("a logit depends on the sum of positions", "a logit depends on the offset",
                along_offset.xreplace({turn_k: -turn_k})),
        Control("a profile that is not projected", orthogonal_rest),
        Control("any multiple of the optimum", normal_equations),
        Control("two pairs always fit a plane", "capacity: a shared plane", 0),
        Control("sharing is always best", "capacity: whichever is less", shared),
    ),
    scope="general D, N, M, number of offsets; one frequency at a time; capacity of one plane", status="proved",
    functions=("svtheory.prediction.rotary.projected_profile", "svtheory.prediction.rotary.rotary_spectra",
               "svtheory.prediction.rotary.plane_cost"),
    examples=(example, {**example, root: 5}), counterexamples=counterexamples, references=("Su et al. 2021",),
)  # fmt: skip
