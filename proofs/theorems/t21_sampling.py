r"""T21. Finite data: the standard error of a singular vector.

A head trained on n contexts is the optimum plus noise. To first order its covariance is the sandwich
:math:`H^{-1}JH^{-1}/n`, H the Hessian of the loss and J the covariance of a context's gradient; and noise
:math:`\mathcal N` turns the vectors of a single pair by :math:`P_\perp\mathcal Nv/\sigma`. Under the squared objective,
in whitened coordinates, H is the identity and a context's gradient :math:`-e\,rs^T`, e the residual:

.. math:: E\sin^2(\hat u, u) = \frac{E[e^2(v\cdot s)^2\,|P_\perp r|^2]}{n\,\sigma^2} .

With other modes the vector k turns towards l by :math:`(\sigma_k\mathcal N_{lk} + \sigma_l\mathcal
N_{kl})/(\sigma_k^2 - \sigma_l^2)`. Where e is independent of normal tokens, n is to be read as :math:`n - DD' - 1`.
Beside white noise of deviation :math:`\nu` (cited), with :math:`\theta^2 = \sigma^2/(\nu^2D')` and :math:`c = D/D'`,

.. math:: \cos^2_u = \frac{\theta^4 - c}{\theta^2(\theta^2 + c)}, \qquad \cos^2_v = \frac{\theta^4 - c}{\theta^2(
    \theta^2 + 1)} ,

above the threshold :math:`\sigma = \nu(DD')^{1/4}`, below which they are 0.

Predicts: for D = D' twice the contexts of the threshold show a mode at :math:`\cos^2 = 1/2` on both sides.

Why: the gradient of the mean loss vanishes at the head found, so :math:`H(\hat w - w) = -g` to first order, and n
independent gradients have a mean of covariance J/n. A singular pair moved by :math:`hP_\perp\mathcal Nv/\sigma` and
:math:`hP_\perp\mathcal N^Tu/\sigma` is one of :math:`\sigma uv^T + h\mathcal N` up to :math:`h^2`. The least-squares
estimate of one coefficient reads the answers with the row :math:`w = \bar z/|\bar z|^2`, :math:`\bar z` what the other
DD' - 1 columns of the n rows leave of its own; for normal rows :math:`|\bar z|^2` is a chi-square of :math:`m = n - DD'
+ 1` degrees, and the mean of its inverse is :math:`1/(m - 2)`, by parts. The law of white noise is that of
Benaych-Georges and Nadakuditi; its threshold is where its numerator vanishes, and its first order is the formula above.
"""

from sympy import Derivative, ImmutableMatrix, KroneckerDelta, Limit, Ne, Rational, Symbol, diag, exp, eye, oo, symbols
from sympy import Identity as One

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices, pinv, total
from proofs.engine.statements import at_least, equal, implies, orthonormal, symmetric
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem, pseudo_inverse

K = Symbol("K", integer=True, positive=True)
n = Symbol("n", integer=True, positive=True)
i, j = symbols("i j", integer=True)
h, answer, variance = symbols("h l J_0", real=True)
sigma, tau, c, nu, x, power = symbols("sigma tau c nu x a", positive=True)
d, d_k = symbols("d d'", positive=True)
value_k, value_l, left_turn, right_turn, noise_lk, noise_kl = symbols("sigma_k sigma_l x_l y_l N_lk N_kl", real=True)

H, H_inverse, J = matrices("H H^-1 J", K, K)
w, gradient = columns("w g", K)
u, r, v, s = columns("u r v s", D)
Omega, Delta, noise = matrices("Omega Delta E", D, D)
others, own = matrices("Z_o", N, M), columns("z", N)

hessian = Hypothesis("H is invertible and symmetric", equal(H * H_inverse, 1), equal(H_inverse * H, 1), symmetric(H),
                     symmetric(H_inverse))  # fmt: skip
found = Hypothesis("the gradient vanishes at the head found, to first order", equal(gradient + H * w, 0))
spread = Hypothesis("J is the second moment of the gradient", equal(gradient * gradient.T, J))
u_unit = Hypothesis("u is a unit vector", orthonormal(u))
v_unit = Hypothesis("v is a unit vector", orthonormal(v))
others_plus = pseudo_inverse(others)
left_over = (One(N) - others * pinv(others)) * own
independent = Hypothesis("the column is not in the span of the others", Ne(SquaredNorm(left_over), 0))

P_u, P_v = One(D) - u * u.T, One(D) - v * v.T
residual = answer - Inner(r, Omega * s)
u_turn, v_turn = P_u * noise * v / sigma, P_v * noise.T * u / sigma
size = Inner(u, noise * v)
head = sigma * u * v.T
one_draw = residual * r * s.T
row = left_over / SquaredNorm(left_over)
cos_u, cos_v = symbols("cos^2_u cos^2_v", real=True)
law_u = 1 - c * (1 + tau) / (tau * (tau + c))
law_v = 1 - (c + tau) / (tau * (tau + 1))
law = ("the law, query side", "the law, key side")

lemmas = (
    Lemma("independent contexts", equal(total(variance * KroneckerDelta(i, j) / n**2, (j, 1, n), (i, 1, n)),
                                        variance / n), "the mean of n gradients has the covariance J/n"),
    Lemma("the head found", equal(w, -H_inverse * gradient), "one step of Newton's, to first order",
          given=[hessian, found]),
    Lemma("sandwich", equal(w * w.T, H_inverse * J * H_inverse), "averaged over contexts",
          given=[hessian, found, spread]),
    Lemma("the squared loss along a change of the head",
          equal((answer - Inner(r, (Omega + h * Delta) * s)) ** 2 / 2,
                residual**2 / 2 - h * Inner(one_draw, Delta) + h**2 * Inner(r, Delta * s) ** 2 / 2),
          "the gradient is -e r s^T; the Hessian is the identity for whitened, independent tokens"),
    Lemma("a singular pair turns, left",
          equal((head + h * noise) * (v + h * v_turn) - (sigma + h * size) * (u + h * u_turn),
                h**2 * (noise * v_turn - size * u_turn)), "nothing is left at first order", given=[u_unit, v_unit]),
    Lemma("a singular pair turns, right",
          equal((head + h * noise).T * (u + h * u_turn) - (sigma + h * size) * (v + h * v_turn),
                h**2 * (noise.T * u_turn - size * v_turn)), "the same of the transpose", given=[u_unit, v_unit]),
    Lemma("the cosine stays", equal(Inner(u, u + h * u_turn), 1), "the turn is orthogonal to u", given=[u_unit]),
    Lemma("the length", equal(SquaredNorm(u + h * u_turn), 1 + h**2 * SquaredNorm(P_u * noise * v) / sigma**2),
          "so sin^2 is h^2 |P E v|^2/sigma^2 to first order", given=[u_unit]),
    Lemma("one context", equal(SquaredNorm(P_u * one_draw * v),
                               residual**2 * Inner(v, s) ** 2 * SquaredNorm(P_u * r)),
          "what e r s^T adds to the turn"),
    Lemma("beside other modes",
          implies([equal(value_k * left_turn, value_l * right_turn + noise_lk),
                   equal(value_k * right_turn, value_l * left_turn + noise_kl)],
                  equal((value_k**2 - value_l**2) * left_turn, value_k * noise_lk + value_l * noise_kl)),
          "the coefficients of u_l and v_l in both equations of a singular pair"),
    Lemma("the row of a coefficient", equal(row.T * own, One(1)), "it reads its own column as 1",
          given=[others_plus, independent]),
    Lemma("and no other column", equal(row.T * others, 0), "the others leave nothing of themselves",
          given=[others_plus, independent]),
    Lemma("its variance", equal(SquaredNorm(row), 1 / SquaredNorm(left_over)), "times that of the residual",
          given=[others_plus, independent]),
    Lemma("the mean of an inverse chi-square, by parts",
          equal(Derivative(x**power * exp(-x / 2), x),
                power * (x ** (power - 1) * exp(-x / 2)) - x**power * exp(-x / 2) / 2),
          "integrated from 0 on: E[1/x] = 1/(2a) = 1/(m - 2), a = m/2 - 1"),
    Lemma("nothing at infinity", equal(Limit(x**3 * exp(-x / 2), x, oo), 0), "where a = 3"),
    Definition(law[0], equal(cos_u, law_u)),
    Definition(law[1], equal(cos_v, law_v)),
    Lemma("its numerator, query side", equal(cos_u * tau * (tau + c), tau**2 - c), "over a common denominator",
          where=law[:1]),
    Lemma("its numerator, key side", equal(cos_v * tau * (tau + 1), tau**2 - c), "the same one", where=law[1:]),
    Lemma("positive above the threshold", implies(at_least(tau**2, c), at_least(cos_u, 0)), "its numerator is",
          where=law[:1], certificate=(tau**2 - c) / (tau * (tau + c))),
    Lemma("the threshold", implies(equal(sigma**4, nu**4 * d * d_k), equal((sigma**2 / (nu**2 * d_k)) ** 2, d / d_k)),
          "sigma = nu (D D')^(1/4) is theta^4 = c"),
    Lemma("the first order of the law", equal(Limit(tau * (1 - law_u), tau, oo), c),
          "1 - cos^2_u is nu^2 D/sigma^2 where noise is small"),
    Lemma("the sides change places", equal(law_u.xreplace({tau: tau / c, c: 1 / c}), cos_v),
          "D and D' exchanged: c becomes 1/c, theta^2 theta^2/c", where=law[1:]),
    Lemma("a square head", equal(law_u.xreplace({c: 1}), 1 - 1 / tau), "the first order is all of it"),
)  # fmt: skip

tall = ImmutableMatrix([[1], [2], [2]])
example = {
    D: 2, N: 3, M: 1, K: 2, n: 5, h: Rational(1, 3), answer: 4, variance: 3, sigma: 2, tau: 3, c: 2, nu: 1, x: 2,
    power: 3, d: 4, d_k: 4, value_k: 3, value_l: 1, left_turn: Rational(7, 8), right_turn: Rational(5, 8),
    noise_lk: 2, noise_kl: 1, H: diag(2, 1), H_inverse: diag(Rational(1, 2), 1),
    J: ImmutableMatrix([[4, 2], [2, 1]]), w: ImmutableMatrix([-1, -1]), gradient: ImmutableMatrix([2, 1]),
    u: ImmutableMatrix([Rational(3, 5), Rational(4, 5)]), v: ImmutableMatrix([0, 1]), r: ImmutableMatrix([1, 2]),
    s: ImmutableMatrix([3, 1]), Omega: ImmutableMatrix([[1, 0], [2, 1]]), Delta: ImmutableMatrix([[0, 1], [1, 3]]),
    noise: ImmutableMatrix([[1, 2], [0, -1]]), others: tall, own: ImmutableMatrix([1, 0, 1]),
    cos_u: law_u.subs({tau: 3, c: 2}), cos_v: law_v.subs({tau: 3, c: 2}),
}  # fmt: skip
elsewhere = {  # no antecedent holds
    **example, left_turn: 0, right_turn: 5, sigma: 1, tau: 1, cos_u: law_u.subs({tau: 1, c: 2}),
    cos_v: law_v.subs({tau: 1, c: 2}),
}  # fmt: skip
counterexamples = {
    hessian: {**example, H_inverse: eye(2)},
    found: {**example, w: ImmutableMatrix([1, 1])},
    spread: {**example, J: eye(2)},
    u_unit: {**example, u: ImmutableMatrix([3, 4])},
    v_unit: {**example, v: ImmutableMatrix([1, 1])},
    others_plus: {**example, pinv(others): ImmutableMatrix([[1, 0, 0]])},
    independent: {**example, own: tall},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("the inverse Hessian alone", "sandwich", H_inverse),
        Control("a vector that turns along itself", "one context",
                residual**2 * Inner(v, s) ** 2 * SquaredNorm(r)),
        Control("turned by the other side's noise too", "a singular pair turns, left",
                equal((head + h * noise) * (v + h * v_turn) - (sigma + h * size) * (u + h * P_u * noise.T * v / sigma),
                      h**2 * (noise * v_turn - size * u_turn))),
        Control("any length of u", u_unit),
        Control("the other mode's value left out", "beside other modes",
                value_k * noise_lk),
        Control("contexts that repeat one another", "independent contexts",
                equal(total(variance / n**2, (j, 1, n), (i, 1, n)), variance / n)),
        Control("an inverse chi-square of 1/m", "the mean of an inverse chi-square, by parts",
                (power + 1) * (x ** (power - 1) * exp(-x / 2)) - x**power * exp(-x / 2) / 2),
        Control("the threshold at theta^2 = c", "its numerator, query side", (tau - c) * (tau + c)),
        Control("one law for both sides", law[1], law_u),
    ),
    scope="general D, D'; first order in the noise; the law of white noise for large D, D' (cited)", status="cited",
    functions=("svtheory.prediction.sampling.sampling_error", "svtheory.prediction.white_noise.noise_deviation",
               "svtheory.prediction.white_noise.hiding_threshold", "svtheory.prediction.white_noise.cosines_in_noise"),
    examples=(example, elsewhere), counterexamples=counterexamples,
    references=("Huber 1967", "Benaych-Georges and Nadakuditi 2012"),
)  # fmt: skip
