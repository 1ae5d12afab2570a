r"""T9. When modes are learnt.

Under gradient flow on the factors (rate 1, no decay), for tight frames and from a start that is balanced and aligned
with the modes at size :math:`a_0`, a mode of strength s has the size

.. math:: a(t) = \frac{s\,e^{2\alpha\beta st}}{e^{2\alpha\beta st} - 1 + s/a_0} ,

and :math:`a_0/(1 + 2\alpha\beta a_0t)` for s = 0. It is half-way at :math:`\ln(s/a_0 - 1)/(2\alpha\beta s)`. Modes that
start equal are learnt in order of strength where :math:`s/a_0` exceeds the root of :math:`\ln(x - 1) = x/(x - 1)`,
which lies between 4.591 and 4.592.

Predicts: at :math:`\alpha\beta = 8`, from :math:`a_0 = 1/2`, a mode of strength 3 is half-way at :math:`\ln 5/48 =
0.034`; of modes that start equal, one of strength :math:`4.59\,a_0` is last.

Why: for tight frames the gradient is :math:`G = \alpha\beta(\Omega - \Omega^*)`. On balanced factors along the modes,
:math:`W_Q = bU^T, W_K = bV^T` with b diagonal, the flow is :math:`\dot W_Q = -W_KG^T = -\alpha\beta\,b(b^2 -
\Sigma)U^T`: it stays there, and :math:`a = b^2` obeys :math:`\dot a = 2\alpha\beta\,a(s - a)` in each mode, which the
closed form satisfies. It reaches s/2 at :math:`\ln(s/a_0 - 1)/(2\alpha\beta s) = \tau(x)/(2\alpha\beta a_0)`,
:math:`\tau(x) = \ln(x - 1)/x` with :math:`x = s/a_0`. Here :math:`\tau' = -h(x)/x^2` with :math:`h(x) = \ln(x - 1) -
x/(x - 1)`, and h increases, so that :math:`\tau` falls, and stronger modes are learnt first, beyond the one root of
:math:`\ln(x - 1) = x/(x - 1)`. With :math:`y = x - 1` the sign of h is that of :math:`y - e^{1 + 1/y}`, and Taylor's
formula with its remainder brackets the root between 4.591 and 4.592.
"""

from sympy import (
    Derivative,
    ImmutableMatrix,
    Integral,
    Limit,
    Rational,
    Subs,
    diag,
    exp,
    eye,
    factorial,
    log,
    oo,
    symbols,
)
from sympy import Identity as One

from proofs.engine.notation import D, M, N, matrices
from proofs.engine.statements import at_least, conjunction, equal, more_than, symmetric
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem

K = symbols("K", integer=True, positive=True)
alpha, beta, a_0, s = symbols("alpha beta a_0 s", positive=True)
t, b, x, u = symbols("t b x u", real=True)
TERMS = 9
"""Order of the Taylor polynomials that bracket the threshold; odd, so that both remainders are positive."""
BELOW, ABOVE = Rational(4591, 1000), Rational(4592, 1000)
X, Y, T = matrices("X", D, N), matrices("Y", D, M), matrices("T", N, M)
Omega, Best, G = matrices("Omega Omega^* G", D, D)
U, V, W_Q, W_K, root, Sigma = *matrices("U V", D, K), *matrices("W_Q W_K", K, D), *matrices("b Sigma", K, K)
growth = exp(2 * alpha * beta * s * t)
size = s * growth / (growth - 1 + s / a_0)
idle_size = a_0 / (1 + 2 * alpha * beta * a_0 * t)
half_time = log(s / a_0 - 1) / (2 * alpha * beta * s)
tau, threshold = log(x - 1) / x, log(x - 1) - x / (x - 1)


def exponent(point):
    """``1 + 1/y`` at ``x = 1 + y``: the threshold function has the sign of ``y - exp`` of this."""
    return 1 + 1 / (point - 1)


tight = Hypothesis("tight frames", equal(X * X.T, alpha * One(D)), equal(Y * Y.T, beta * One(D)))
modes = Hypothesis("modes of the optimum", equal(Best, U * Sigma * V.T), equal(U.T * U, 1), equal(V.T * V, 1),
                   symmetric(Sigma))  # fmt: skip
balanced = Hypothesis("balanced and aligned", equal(W_Q, root * U.T), equal(W_K, root * V.T), symmetric(root))
small_start = Hypothesis("the start is below the end", more_than(s / a_0 - 1, 0))
later = Hypothesis("time is not negative", at_least(t, 0))
above_1 = Hypothesis("x is above 1", more_than(x - 1, 0))


def taylor(power):
    """The Taylor polynomial of ``exp(q)`` of odd order, and what it leaves out: an integral of positive terms."""
    length, sign = abs(power), 1 if power > 0 else -1
    remainder = Integral((length - u) ** TERMS * exp(sign * u) / factorial(TERMS), (u, 0, length))
    return sum((power**n / factorial(n) for n in range(TERMS + 1)), 0 * power), remainder


(taylor_below, rest_below), (taylor_above, rest_above) = taylor(exponent(BELOW)), taylor(-exponent(ABOVE))

lemmas = (
    Lemma("gradient", equal(X * (X.T * Omega * Y - T) * Y.T, alpha * beta * (Omega - X * T * Y.T / (alpha * beta))),
          "tight frames make the gradient a difference", given=[tight]),
    Definition("flow", equal(G, alpha * beta * (W_Q.T * W_K - Best))),
    Lemma("the gradient on the modes", equal(G, alpha * beta * U * (root * root - Sigma) * V.T),
          "W_Q^T W_K = U b^2 V^T", given=[modes, balanced], where=["flow"]),
    Lemma("the factors stay on the modes",
          conjunction(equal(-W_K * G.T, -alpha * beta * root * (root * root - Sigma) * U.T),
                      equal(-W_Q * G, -alpha * beta * root * (root * root - Sigma) * V.T)), "U^T U = V^T V = I",
          given=[modes, balanced], where=["flow"]),
    Lemma("size of a mode", equal(2 * b * (-alpha * beta * b * (b**2 - s)), 2 * alpha * beta * b**2 * (s - b**2)),
          "a = b^2"),
    Lemma("solution", equal(Derivative(size, t), 2 * alpha * beta * size * (s - size)),
          "the closed form in its equation", given=[small_start]),
    Lemma("start", equal(Subs(size, t, 0), a_0), "at time 0", given=[small_start]),
    Lemma("end", equal(Limit(size, t, oo), s), "at infinite time"),
    Lemma("solution without target", equal(Derivative(idle_size, t), -2 * alpha * beta * idle_size**2),
          "the same for s = 0", given=[later]),
    Lemma("start without target", equal(Subs(idle_size, t, 0), a_0), "at time 0", given=[later]),
    Lemma("half-time", equal(Subs(size, t, half_time), s / 2), "half-way", given=[small_start]),
    Lemma("half-time in units of the start", equal(2 * alpha * beta * a_0 * half_time, tau.subs(x, s / a_0)),
          "a function of s/a_0", given=[small_start]),
    Lemma("its slope", equal(Derivative(tau, x), -threshold / x**2), "the derivative of ln(x - 1)/x", given=[above_1]),
    Lemma("the slope changes sign once", more_than(Derivative(threshold, x), 0), "h increases", given=[above_1],
          certificate=1 / (x - 1) + 1 / (x - 1) ** 2),
    Lemma("Taylor's remainder above 4.591", at_least(exp(exponent(BELOW)), taylor_below),
          "an integral of positive terms", certificate=rest_below),
    Lemma("the root is above 4.591", more_than(exp(exponent(BELOW)), BELOW - 1),
          "by the polynomial, in exact rationals", certificate=rest_below + (taylor_below - (BELOW - 1))),
    Lemma("Taylor's remainder below 4.592", at_least(exp(-exponent(ABOVE)), taylor_above),
          "an integral of positive terms", certificate=rest_above),
    Lemma("the root is below 4.592", more_than(exp(-exponent(ABOVE)), 1 / (ABOVE - 1)),
          "by the polynomial, in exact rationals", certificate=rest_above + (taylor_above - 1 / (ABOVE - 1))),
)  # fmt: skip


def _values(changes: dict) -> dict:
    """Exact values for every symbol: alpha = 2, beta = 4, two modes on their way to 3 and 1/2."""
    frame, best = ImmutableMatrix([[1, 0, -1, 0], [0, 1, 0, 1]]), diag(3, Rational(1, 2))
    values = {
        D: 2, N: 4, M: 2, K: 2, X: frame, Y: diag(2, 2), T: frame.T * best * 2, alpha: 2, beta: 4, a_0: Rational(1, 2),
        s: 3, t: Rational(1, 7), b: 2, x: 5, Omega: ImmutableMatrix([[1, 2], [0, 1]]), Best: best, U: eye(2), V: eye(2),
        root: diag(2, 3), Sigma: best, **changes,
    }  # fmt: skip
    factors = {W_Q: values[root] * values[U].T, W_K: values[root] * values[V].T, **values}
    return {G: values[alpha] * values[beta] * (factors[W_Q].T * factors[W_K] - values[Best]), **factors}


counterexamples = {
    tight: _values({Y: diag(2, 3)}),
    modes: _values({V: diag(1, 2)}),
    balanced: _values({W_K: eye(2)}),
    small_start: _values({s: Rational(1, 2)}),
    later: _values({t: -Rational(1, 8)}),
    above_1: _values({x: 1}),
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("half the rate", "solution", alpha * beta * size * (s - size)),
        Control("a logistic that forgets the start", "start", equal(Subs(s * growth / (growth + 1), t, 0), a_0)),
        Control("half-way at ln(s/a_0)/(2 alpha beta s)", "half-time",
                equal(Subs(size, t, log(s / a_0) / (2 * alpha * beta * s)), s / 2)),
        Control("a root above 4.592", "the root is above 4.591", more_than(exp(exponent(ABOVE)), ABOVE - 1)),
        Control("frames that are not tight", tight),
        Control("factors that are not aligned", balanced),
    ),
    scope="general D, N, M and number of modes; the threshold bracketed in exact rationals", status="proved",
    functions=("svtheory.prediction.training_time.growth", "svtheory.prediction.training_time.half_times"),
    examples=(_values({}),), counterexamples=counterexamples, references=("Saxe, McClelland and Ganguli 2014",),
)  # fmt: skip
