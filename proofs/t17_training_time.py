r"""T17. Training time interpolates between features and duals.

In the eigenbases of A and B the flow :math:`\dot\Omega = M - A\Omega B` is one linear equation for each entry, with
rate :math:`\lambda_a\mu_b`; the filter :math:`(1 - e^{-\lambda\mu t})/(\lambda\mu)` solves it, tends to t where the
rate vanishes, to M at small t and to :math:`A^+MB^+` at large t.

Bounds. The filter :math:`\varphi(\lambda) = (1 - e^{-\lambda\tau})/\lambda` falls with :math:`\lambda`, since
:math:`e^z - 1 - z = \int_0^z(z - u)e^udu \ge 0`. With one side isotropic :math:`u \propto \varphi(A)x`, which is
T3's situation with :math:`\nu_k = \varphi(\lambda_k)` between :math:`\varphi(L)` and :math:`\varphi(m)`, so
:math:`\kappa_t = \varphi(m)/\varphi(L)`. It rises, as

.. math:: m(e^{L\tau} - 1) - L(e^{m\tau} - 1) = mL\int_0^\tau e^{mu}\int_0^{(L-m)u}e^w\,dw\,du \ge 0.

With both sides anisotropic choose the signs of the eigenvectors so that x, y have no negative coordinates. Then
:math:`\Omega_{ab} = x_aK_{ab}y_b` has none, and taking moduli never lowers :math:`u^T\Omega v`: the leading pair
has none (Perron). So :math:`u_a \propto x_a\psi_a`, :math:`\psi_a = \sum_bK_{ab}y_bv_b`, and :math:`K_{ab} \le
\kappa'K_{a'b}` for all b gives :math:`\psi_a \le \kappa'\psi_{a'}`: T3 again. The ratio of filters is
:math:`\kappa_t` at time :math:`\mu_bt`, largest at :math:`\mu_b = L_s`.
"""

from __future__ import annotations

from sympy import (
    Derivative,
    ImmutableMatrix,
    Integral,
    KroneckerDelta,
    Limit,
    Ne,
    Rational,
    S,
    Subs,
    diag,
    exp,
    oo,
    symbols,
)

from proofs.notation import (
    D,
    N,
    at_least,
    columns,
    conjunction,
    equal,
    implies,
    matrices,
    more_than,
    table,
    total,
)
from proofs.verifier import Claim, Control, Inequality, Theorem

a, b, k, l = symbols("a b k l", integer=True)
target, start, rate, gamma, u, z = symbols("M_ab omega_0 r gamma u z", real=True)
time, m, L, tau, L_s, lam = symbols("t m L tau L_s lambda", positive=True)
below, above, kappa_prime, v_i = symbols("phi_L phi_m kappa_prime v_i", real=True)

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


hypotheses = {
    "eigenvectors are orthonormal": conjunction(equal(P.T * P, 1), equal(Q.T * Q, 1)),
    "the rate is not zero": Ne(rate, 0),
    "decay adds to the rate": Ne(rate + gamma, 0),
    "m <= L": at_least(L, m),
    "weights are not negative": at_least(w[k], 0),
    "weights sum to 1": equal(total(w[k], (k, 1, D)), 1),
    "the filter lies in [phi_L, phi_m]": conjunction(at_least(nu[k], below), at_least(above, nu[k])),
    "its ends are positive": conjunction(more_than(below, 0), more_than(above, 0)),
    "coordinates are not negative": conjunction(at_least(y[b], 0), at_least(v[b], 0)),
    "filters differ by at most kappa'": at_least(kappa_prime * filters[l, b], filters[k, b]),
    "parts and matrix are not negative": conjunction(
        *(at_least(part[a], 0) for part in (more, less, more_v, less_v)), at_least(gram[a, b], 0)
    ),
}
claim = {
    "flow in the eigenbases": equal(
        P.T * (Mid - (P * Lam * P.T) * Omega * (Q * Nu * Q.T)) * Q, P.T * Mid * Q - Lam * (P.T * Omega * Q) * Nu
    ),
    "flow of an entry": equal(
        total(lambdas[a] * KroneckerDelta(a, k) * entry[k, l] * mus[l] * KroneckerDelta(l, b), (k, 1, D), (l, 1, D)),
        lambdas[a] * mus[b] * entry[a, b],
    ),
    "solution": equal(Derivative(solution, time), target - rate * solution),
    "start": equal(Subs(solution, time, 0), start),
    "no rate: filter": equal(Limit(phi(rate, time), rate, 0), time),
    "no rate: flow": equal(Derivative(target * time + start, time), target),
    "small times": equal(Limit(phi(lam, time) / time, time, 0), 1),
    "large times": equal(Limit(phi(lam, time), time, oo), 1 / lam),
    "features first": implies(equal(C * e_i, v_i * e_i), equal(X * C * e_i, v_i * X * e_i)),
    "decay on Omega": equal(target - rate * (target / (rate + gamma)) - gamma * (target / (rate + gamma)), 0),
    "the filter falls": at_least(0, Derivative(phi(lam), lam)),
    "kappa_t": equal(phi(m) / phi(L), kappa_t),
    "kappa_t rises": at_least(Derivative(kappa_t, tau), 0),
    "kappa_t from 1": equal(Limit(kappa_t, tau, 0), 1),
    "kappa_t to kappa": equal(Limit(kappa_t, tau, oo), L / m),
    "bound": at_least(first**2 / second, bound),
    "Perron": at_least(
        form(lambda a: more[a] + less[a], lambda b: more_v[b] + less_v[b]),
        form(lambda a: more[a] - less[a], lambda b: more_v[b] - less_v[b]),
    ),
    "both sides": at_least(kappa_prime * response(l), response(k)),
    "kappa' is kappa_t at L_s t": equal(phi(m * L_s) / phi(L * L_s), Subs(kappa_t, tau, L_s * tau)),
}


def proof(claim: Claim):
    """The linear flow entry by entry, its limits, and T3 with the filter's values."""
    yield from claim.conclude("flow in the eigenbases", "P^T P = Q^T Q = I")
    yield from claim.conclude("flow of an entry", "diagonal matrices act entry by entry")
    yield from claim.conclude("solution", "the filter in its equation")
    yield from claim.conclude("start", "at time 0")
    yield from claim.conclude("no rate: filter", "the filter where the rate vanishes")
    yield from claim.conclude("no rate: flow", "grows without end")
    yield from claim.conclude("small times", "Omega ~ t M")
    yield from claim.conclude("features first", "M has the features as singular vectors")
    yield from claim.conclude("large times", "Omega -> A^+ M B^+")
    yield from claim.conclude("decay on Omega", "stationary with L2 decay")
    exponential = Integral((lam * tau - u) * exp(u), (u, 0, lam * tau))
    yield Inequality("e^z >= 1 + z", exp(lam * tau), 1 + lam * tau, exponential)
    falling = exp(-lam * tau) / lam**2 * exponential
    yield from claim.conclude("the filter falls", "by e^z >= 1 + z", certificate=falling)
    yield from _kappa(claim)
    squares = total(w[k] * (nu[k] - below) ** 2, (k, 1, D)) + 2 * below * total(w[k] * (nu[k] - below), (k, 1, D))
    nonzero = Inequality("E[phi^2] > 0", second, S.Zero, squares + below**2, strict=True)
    spread = total(w[k] * (above - nu[k]) * (nu[k] - below), (k, 1, D))
    square = ((above + below) * first - 2 * above * below) ** 2
    certificate = (4 * above * below * spread + square) / ((above + below) ** 2 * second)
    yield nonzero
    yield from claim.conclude("bound", "T3 for the filter's values", certificate=certificate, lemmas=(nonzero,))
    parts = form(lambda a: 2 * more[a], lambda b: less_v[b]) + form(lambda a: 2 * less[a], lambda b: more_v[b])
    yield from claim.conclude("Perron", "moduli never lower u^T G v", certificate=parts)
    gap = total((kappa_prime * filters[l, b] - filters[k, b]) * y[b] * v[b], (b, 1, D))
    yield from claim.conclude("both sides", "psi_a <= kappa' psi_a'", certificate=gap)


def _kappa(claim: Claim):
    filled = Inequality("e^{-z} < 1", S.One, exp(-L * tau), Integral(exp(-u), (u, 0, L * tau)), strict=True)
    convex = Integral(exp(m * u) * Integral(exp(z), (z, 0, (L - m) * u)), (u, 0, tau))
    yield filled
    yield Inequality("convexity", m * (exp(L * tau) - 1), L * (exp(m * tau) - 1), m * L * convex)
    yield from claim.conclude("kappa_t", "the ratio of the filter's ends", lemmas=(filled,))
    slope = L**2 * exp(-(m + L) * tau) * convex / (1 - exp(-L * tau)) ** 2
    yield from claim.conclude("kappa_t rises", "by convexity", certificate=slope, lemmas=(filled,))
    yield from claim.conclude("kappa_t from 1", "at small times", lemmas=(filled,))
    yield from claim.conclude("kappa_t to kappa", "at large times", lemmas=(filled,))
    further = Inequality(
        "e^{-z} < 1", S.One, exp(-L * L_s * tau), Integral(exp(-u), (u, 0, L * L_s * tau)), strict=True
    )
    yield from claim.conclude("kappa' is kappa_t at L_s t", "the largest ratio", lemmas=(filled, further))


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
    "eigenvectors are orthonormal": _values({P: ImmutableMatrix([[1, 1], [0, 1]])}),
    "the rate is not zero": _values({rate: 0}),
    "decay adds to the rate": _values({gamma: -2}),
    "m <= L": _values({m: 3}),
    "weights are not negative": _values({w: [-1, 2]}),
    "weights sum to 1": _values({w: [Rational(1, 60), Rational(2, 60)]}),
    "the filter lies in [phi_L, phi_m]": _values({nu: [1, Rational(1, 1000)]}),
    "its ends are positive": _values({below: 0, above: 0, nu: [0, 0]}),
    "coordinates are not negative": _values({y: [-1, 0]}),
    "filters differ by at most kappa'": _values({filters: ImmutableMatrix([[9, 9], [1, 1]])}),
    "parts and matrix are not negative": _values({less: [0, -2], more_v: [1, 1], less_v: [0, 0]}),
}

theorem = Theorem(
    id="T17",
    title="Training time interpolates between features and duals",
    statement=(
        "dOmega/dt = M - A Omega B is solved, in the eigenbases of A and B, by Omega_ab = M_ab (1 - e^{-lambda_a "
        "mu_b t})/(lambda_a mu_b) + e^{-lambda_a mu_b t} Omega_ab(0): t M at small t, whose singular vectors are "
        "the features where activations are uncorrelated and centred; the whitened duals at large t. From zero, "
        "with one side isotropic, T3 holds with kappa_t = kappa (1 - e^{-mt})/(1 - e^{-Lt}), rising from 1 to "
        "kappa; with both sides anisotropic the leading u obeys it with kappa' = kappa_r (1 - e^{-m_r L_s t})/(1 - "
        "e^{-L_r L_s t})."
    ),
    hypotheses=hypotheses,
    claim=claim,
    proof=proof,
    controls=(
        Control("half the rate", {"solution": equal(Derivative(solution, time), target - rate * solution / 2)}),
        Control("duals at small times", {"small times": equal(Limit(phi(lam, time) / time, time, 0), 1 / lam)}),
        Control("kappa_t is kappa", {"kappa_t": equal(phi(m) / phi(L), L / m)}),
        Control("kappa_t with m and L exchanged", without=("m <= L",)),
        Control("kappa' at m_s", {"kappa' is kappa_t at L_s t": equal(phi(m * L_s) / phi(L * L_s), kappa_t)}),
        Control("signed coordinates", without=("coordinates are not negative",)),
        Control("a stronger bound", {"bound": at_least(first**2 / second, 2 * bound)}),
    ),
    scope="general D",
    status="proved",
    functions=(
        "svtheory.prediction.training_time.filtered_optimum",
        "svtheory.prediction.training_time.training_condition_number",
        "svtheory.prediction.training_time.training_condition_numbers",
    ),
    experiment="ledger",
    examples=(_values({}), _values({e_i: ImmutableMatrix([1, 1])})),
    counterexamples=counterexamples,
    references=("Saxe, McClelland and Ganguli 2014", "Kantorovich 1948", "Perron 1907"),
)
