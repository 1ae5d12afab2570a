r"""T17. Training time interpolates between features and duals.

In the eigenbases of A and B the flow :math:`\dot\Omega = M - A\Omega B` is solved by

.. math:: \Omega_{ab} = M_{ab}\,\frac{1 - e^{-\lambda_a\mu_bt}}{\lambda_a\mu_b} + e^{-\lambda_a\mu_bt}\,\Omega_{ab}(0) :

tM at small t, whose singular vectors are the features where activations are uncorrelated and centred; the whitened
duals at large t. From zero, with one side isotropic, T3 holds with :math:`\kappa_t = \kappa(1 - e^{-mt})/(1 -
e^{-Lt})`, rising from 1 to :math:`\kappa`; with both sides anisotropic the leading u obeys it with :math:`\kappa' =
\kappa_r(1 - e^{-m_rL_st})/(1 - e^{-L_rL_st})`.

Predicts: at :math:`\kappa = 4` and Lt = 1, :math:`\kappa_t = 1.40`: cosines stay above 0.986, not just 0.8.

Why: in the eigenbases of A and B the flow :math:`\dot\Omega = M - A\Omega B` is one linear equation for each entry,
with rate :math:`\lambda_a\mu_b`; the filter :math:`(1 - e^{-\lambda\mu t})/(\lambda\mu)` solves it, tends to t where
the rate vanishes, to M at small t and to :math:`A^+MB^+` at large t.

Bounds. The filter :math:`\varphi(\lambda) = (1 - e^{-\lambda\tau})/\lambda` falls with :math:`\lambda`, since
:math:`e^z - 1 - z = \int_0^z(z - u)e^udu \ge 0`. With one side isotropic :math:`u \propto \varphi(A)x`, which is T3's
situation with :math:`\nu_k = \varphi(\lambda_k)` between :math:`\varphi(L)` and :math:`\varphi(m)`, so :math:`\kappa_t
= \varphi(m)/\varphi(L)`. It rises, as

.. math:: m(e^{L\tau} - 1) - L(e^{m\tau} - 1) = mL\int_0^\tau e^{mu}\int_0^{(L-m)u}e^w\,dw\,du \ge 0.

With both sides anisotropic choose the signs of the eigenvectors so that x, y have no negative coordinates. Then
:math:`\Omega_{ab} = x_aK_{ab}y_b` has none, and taking moduli never lowers :math:`u^T\Omega v`: the leading pair has
none (Perron). So :math:`u_a \propto x_a\psi_a`, :math:`\psi_a = \sum_bK_{ab}y_bv_b`, and :math:`K_{ab} \le
\kappa'K_{a'b}` for all b gives :math:`\psi_a \le \kappa'\psi_{a'}`: T3 again. The ratio of filters is :math:`\kappa_t`
at time :math:`\mu_bt`, largest at :math:`\mu_b = L_s`.
"""

from sympy import (
    Derivative,
    ImmutableMatrix,
    Integral,
    KroneckerDelta,
    Limit,
    Ne,
    Rational,
    Subs,
    diag,
    exp,
    oo,
    symbols,
)

from proofs.engine.notation import D, N, columns, matrices, table, total
from proofs.engine.statements import at_least, equal, implies, more_than
from proofs.engine.verifier import Control, Hypothesis, Lemma, Theorem
from proofs.theorems import t03_kantorovich as t03

a, b, k, l = symbols("a b k l", integer=True)
target, start, rate, gamma, u, z = symbols("M_ab omega_0 r gamma u z", real=True)
time, m, L, tau, L_s, lam = symbols("t m L tau L_s lambda", positive=True)
below, above, kappa_prime, v_i = symbols("phi_L phi_m kappaprime v_i", real=True)
P, Q, Lam, Nu, Omega, Mid = matrices("P Q Lambda Nu Omega M", D, D)
X, C, e_i = matrices("X", D, N), matrices("C", N, N), columns("e_i", N)
lambdas, mus, entry = table("lambda"), table("mu"), table("W")
w, nu, y, v, filters = (table(name) for name in ("w", "nu", "y", "v", "K"))
more, less, more_v, less_v, gram = (table(name) for name in ("p", "n", "p_v", "n_v", "G"))
solution = target * (1 - exp(-rate * time)) / rate + exp(-rate * time) * start


def phi(value, duration=tau):
    """The filter ``(1 - e^{-lambda tau})/lambda``."""
    return (1 - exp(-value * duration)) / value


kappa_t = L / m * (1 - exp(-m * tau)) / (1 - exp(-L * tau))
first, second = total(w[k] * nu[k], (k, 1, D)), total(w[k] * nu[k] ** 2, (k, 1, D))
bound = 4 * (above / below) / (1 + above / below) ** 2


def response(row):
    """``psi_a = sum_b K_ab y_b v_b``."""
    return total(filters[row, b] * y[b] * v[b], (b, 1, D))


def form(left, right):
    """``u^T G v`` for u, v given by their entries."""
    return total(gram[a, b] * left(a) * right(b), (b, 1, D), (a, 1, D))


orthonormal = Hypothesis("eigenvectors are orthonormal", equal(P.T * P, 1), equal(Q.T * Q, 1))
some_rate = Hypothesis("the rate is not zero", Ne(rate, 0))
some_decay = Hypothesis("decay adds to the rate", Ne(rate + gamma, 0))
ordered = Hypothesis("m <= L", at_least(L, m))
weights = Hypothesis("weights are not negative", at_least(w[k], 0))
normalised = Hypothesis("weights sum to 1", equal(total(w[k], (k, 1, D)), 1))
filter_range = Hypothesis("the filter lies in [phi_L, phi_m]", at_least(nu[k], below), at_least(above, nu[k]))
positive_ends = Hypothesis("its ends are positive", more_than(below, 0), more_than(above, 0))
coordinates = Hypothesis("coordinates are not negative", at_least(y[b], 0), at_least(v[b], 0))
filter_ratio = Hypothesis("filters differ by at most kappa'", at_least(kappa_prime * filters[l, b], filters[k, b]))
parts_given = Hypothesis("parts and matrix are not negative", at_least(gram[a, b], 0),
                         *(at_least(part[a], 0) for part in (more, less, more_v, less_v)))  # fmt: skip
t3_holds = [weights, normalised, filter_range, positive_ends]
mean_square = t03.theorem.cite("E[nu^2] > 0", {t03.a: below, t03.b: above}, given=t3_holds)
kantorovich = t03.theorem.cite("Kantorovich", {t03.a: below, t03.b: above}, given=t3_holds)
exponential = Integral((lam * tau - u) * exp(u), (u, 0, lam * tau))
convex = Integral(exp(m * u) * Integral(exp(z), (z, 0, (L - m) * u)), (u, 0, tau))
crossed = form(lambda a: 2 * more[a], lambda b: less_v[b]) + form(lambda a: 2 * less[a], lambda b: more_v[b])

lemmas = (
    Lemma("flow in the eigenbases",
          equal(P.T * (Mid - (P * Lam * P.T) * Omega * (Q * Nu * Q.T)) * Q,
                P.T * Mid * Q - Lam * (P.T * Omega * Q) * Nu), "P^T P = Q^T Q = I", given=[orthonormal]),
    Lemma("flow of an entry",
          equal(total(lambdas[a] * KroneckerDelta(a, k) * entry[k, l] * mus[l] * KroneckerDelta(l, b), (k, 1, D),
                      (l, 1, D)), lambdas[a] * mus[b] * entry[a, b]), "diagonal matrices act entry by entry"),
    Lemma("solution", equal(Derivative(solution, time), target - rate * solution), "the filter in its equation",
          given=[some_rate]),
    Lemma("start", equal(Subs(solution, time, 0), start), "at time 0", given=[some_rate]),
    Lemma("no rate: filter", equal(Limit(phi(rate, time), rate, 0), time), "the filter where the rate vanishes"),
    Lemma("no rate: flow", equal(Derivative(target * time + start, time), target), "grows without end"),
    Lemma("small times", equal(Limit(phi(lam, time) / time, time, 0), 1), "Omega ~ t M"),
    Lemma("features first", implies(equal(C * e_i, v_i * e_i), equal(X * C * e_i, v_i * X * e_i)),
          "M has the features as singular vectors"),
    Lemma("large times", equal(Limit(phi(lam, time), time, oo), 1 / lam), "Omega -> A^+ M B^+"),
    Lemma("decay on Omega", equal(target - rate * (target / (rate + gamma)) - gamma * (target / (rate + gamma)), 0),
          "stationary with L2 decay", given=[some_decay]),
    Lemma("e^z >= 1 + z", at_least(exp(lam * tau), 1 + lam * tau), "Taylor's remainder", certificate=exponential),
    Lemma("the filter falls", at_least(0, Derivative(phi(lam), lam)), "by e^z >= 1 + z",
          certificate=exp(-lam * tau) / lam**2 * exponential),
    Lemma("e^{-L tau} < 1", more_than(1, exp(-L * tau)), "an integral of positive terms",
          certificate=Integral(exp(-u), (u, 0, L * tau))),
    Lemma("convexity", at_least(m * (exp(L * tau) - 1), L * (exp(m * tau) - 1)), "an integral of positive terms",
          given=[ordered], certificate=m * L * convex),
    Lemma("kappa_t", equal(phi(m) / phi(L), kappa_t), "the ratio of the filter's ends", uses=["e^{-L tau} < 1"]),
    Lemma("kappa_t rises", at_least(Derivative(kappa_t, tau), 0), "by convexity", given=[ordered],
          uses=["e^{-L tau} < 1"], certificate=L**2 * exp(-(m + L) * tau) * convex / (1 - exp(-L * tau)) ** 2),
    Lemma("kappa_t from 1", equal(Limit(kappa_t, tau, 0), 1), "at small times"),
    Lemma("kappa_t to kappa", equal(Limit(kappa_t, tau, oo), L / m), "at large times"),
    Lemma("e^{-L L_s tau} < 1", more_than(1, exp(-L * L_s * tau)), "an integral of positive terms",
          certificate=Integral(exp(-u), (u, 0, L * L_s * tau))),
    Lemma("kappa' is kappa_t at L_s t", equal(phi(m * L_s) / phi(L * L_s), Subs(kappa_t, tau, L_s * tau)),
          "the largest ratio", uses=["e^{-L tau} < 1", "e^{-L L_s tau} < 1"]),
    mean_square,
    kantorovich,
    Lemma("bound", at_least(first**2 / second, bound), "T3 for the filter's values", given=[positive_ends],
          uses=[mean_square.name, kantorovich.name],
          certificate=first**2 / second - 4 * below * above / (below + above) ** 2),
    Lemma("Perron",
          at_least(form(lambda a: more[a] + less[a], lambda b: more_v[b] + less_v[b]),
                   form(lambda a: more[a] - less[a], lambda b: more_v[b] - less_v[b])), "moduli never lower u^T G v",
          given=[parts_given], certificate=crossed),
    Lemma("both sides", at_least(kappa_prime * response(l), response(k)), "psi_a <= kappa' psi_a'",
          given=[coordinates, filter_ratio],
          certificate=total((kappa_prime * filters[l, b] - filters[k, b]) * y[b] * v[b], (b, 1, D))),
)  # fmt: skip


def _values(changes: dict) -> dict:
    """Exact values for every symbol; the symmetric example of T3 with room on either side."""
    turn = ImmutableMatrix([[Rational(3, 5), -Rational(4, 5)], [Rational(4, 5), Rational(3, 5)]])
    return {
        D: 2, N: 2, P: turn, Q: turn.T, Lam: diag(1, 2), Nu: diag(3, 1),
        Omega: ImmutableMatrix([[1, 2], [3, 4]]), Mid: ImmutableMatrix([[2, 1], [0, 5]]),
        X: ImmutableMatrix([[1, 2], [0, 1]]), C: diag(2, 3), e_i: ImmutableMatrix([1, 0]), v_i: 2,
        lambdas: [1, 2], mus: [3, 1], entry: ImmutableMatrix([[1, 2], [3, 4]]), target: 3, start: 1, rate: 2,
        gamma: 1, time: 1, m: 1, L: 2, tau: 1, L_s: 3, lam: 2, w: [Rational(1, 3), Rational(2, 3)],
        nu: [1, Rational(1, 2)], below: Rational(1, 4), above: 2, kappa_prime: 3,
        filters: ImmutableMatrix([[2, 1], [1, 2]]), y: [1, 2], v: [2, 1], more: [1, 0], less: [0, 2],
        more_v: [0, 1], less_v: [3, 0], gram: ImmutableMatrix([[1, 2], [3, 1]]), **changes,
    }  # fmt: skip


counterexamples = {
    orthonormal: _values({P: ImmutableMatrix([[1, 1], [0, 1]])}),
    some_rate: _values({rate: 0}),
    some_decay: _values({gamma: -2}),
    ordered: _values({m: 3}),
    weights: _values({w: [-1, 2]}),
    normalised: _values({w: [Rational(1, 60), Rational(2, 60)]}),
    filter_range: _values({nu: [1, Rational(1, 1000)]}),
    positive_ends: _values({below: 0, above: 0, nu: [0, 0]}),
    coordinates: _values({y: [-1, 0]}),
    filter_ratio: _values({filters: ImmutableMatrix([[9, 9], [1, 1]])}),
    parts_given: _values({less: [0, -2], more_v: [1, 1], less_v: [0, 0]}),
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("half the rate", "solution", target - rate * solution / 2),
        Control("duals at small times", "small times", 1 / lam),
        Control("kappa_t is kappa", "kappa_t", L / m),
        Control("kappa_t with m and L exchanged", ordered),
        Control("kappa' at m_s", "kappa' is kappa_t at L_s t", kappa_t),
        Control("signed coordinates", coordinates),
        Control("a stronger bound", "bound", 2 * bound),
    ),
    scope="general D", status="proved",
    functions=("svtheory.prediction.training_time.filtered_optimum",
               "svtheory.prediction.training_time.training_condition_number",
               "svtheory.prediction.training_time.training_condition_numbers"),
    examples=(_values({}), _values({e_i: ImmutableMatrix([1, 1])})), counterexamples=counterexamples,
    references=("Saxe, McClelland and Ganguli 2014", "Kantorovich 1948", "Perron 1907"),
)  # fmt: skip
