r"""T9. When modes are learnt.

For tight frames the gradient is :math:`G = \alpha\beta(\Omega - \Omega^*)`. On balanced factors along the modes,
:math:`W_Q = bU^T, W_K = bV^T` with b diagonal, the flow is :math:`\dot W_Q = -W_KG^T = -\alpha\beta\,b(b^2 -
\Sigma)U^T`: it stays there, and :math:`a = b^2` obeys :math:`\dot a = 2\alpha\beta\,a(s - a)` in each mode, which
the closed form satisfies. It reaches s/2 at :math:`\ln(s/a_0 - 1)/(2\alpha\beta s) = \tau(x)/(2\alpha\beta a_0)`,
:math:`\tau(x) = \ln(x - 1)/x` with :math:`x = s/a_0`. Here :math:`\tau' = -h(x)/x^2` with :math:`h(x) = \ln(x - 1)
- x/(x - 1)`, and h increases, so that :math:`\tau` falls, and stronger modes are learnt first, beyond the one root
of :math:`\ln(x - 1) = x/(x - 1)`. With :math:`y = x - 1` the sign of h is that of :math:`y - e^{1 + 1/y}`, and
Taylor's formula with its remainder brackets the root between 4.591 and 4.592.
"""

from __future__ import annotations

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

from proofs.notation import D, M, N, at_least, conjunction, equal, matrices, more_than, symmetric
from proofs.verifier import Claim, Control, Identity, Inequality, Theorem

H, K = symbols("H K", integer=True, positive=True)
alpha, beta, a_0, s = symbols("alpha beta a_0 s", positive=True)
t, b, x, u = symbols("t b x u", real=True)
TERMS = 9
"""Order of the Taylor polynomials that bracket the threshold; odd, so that both remainders are positive."""
BELOW, ABOVE = Rational(4591, 1000), Rational(4592, 1000)

X, Y, T = matrices("X", D, N), matrices("Y", D, M), matrices("T", N, M)
Omega, Best, G = matrices("Omega Omega_star G", D, D)
U, V, W_Q, W_K, root, Sigma = *matrices("U V", D, K), *matrices("W_Q W_K", K, D), *matrices("b Sigma", K, K)

growth = exp(2 * alpha * beta * s * t)
size = s * growth / (growth - 1 + s / a_0)
idle_size = a_0 / (1 + 2 * alpha * beta * a_0 * t)
half_time = log(s / a_0 - 1) / (2 * alpha * beta * s)
tau, threshold = log(x - 1) / x, log(x - 1) - x / (x - 1)


def exponent(point):
    """``1 + 1/y`` at ``x = 1 + y``: the threshold function has the sign of ``y - exp`` of this."""
    return 1 + 1 / (point - 1)


hypotheses = {
    "tight frames": conjunction(equal(X * X.T, alpha * One(D)), equal(Y * Y.T, beta * One(D))),
    "modes of the optimum": conjunction(
        equal(Best, U * Sigma * V.T), equal(U.T * U, 1), equal(V.T * V, 1), symmetric(Sigma)
    ),
    "balanced and aligned": conjunction(equal(W_Q, root * U.T), equal(W_K, root * V.T), symmetric(root)),
    "the start is below the end": more_than(s / a_0 - 1, 0),
    "time is not negative": at_least(t, 0),
    "x is above 1": more_than(x - 1, 0),
}
claim = {
    "gradient": equal(X * (X.T * Omega * Y - T) * Y.T, alpha * beta * (Omega - X * T * Y.T / (alpha * beta))),
    "flow": equal(G, alpha * beta * (W_Q.T * W_K - Best)),
    "the factors stay on the modes": conjunction(
        equal(-W_K * G.T, -alpha * beta * root * (root * root - Sigma) * U.T),
        equal(-W_Q * G, -alpha * beta * root * (root * root - Sigma) * V.T),
    ),
    "size of a mode": equal(2 * b * (-alpha * beta * b * (b**2 - s)), 2 * alpha * beta * b**2 * (s - b**2)),
    "solution": equal(Derivative(size, t), 2 * alpha * beta * size * (s - size)),
    "start": equal(Subs(size, t, 0), a_0),
    "end": equal(Limit(size, t, oo), s),
    "solution without target": equal(Derivative(idle_size, t), -2 * alpha * beta * idle_size**2),
    "start without target": equal(Subs(idle_size, t, 0), a_0),
    "half-time": equal(Subs(size, t, half_time), s / 2),
    "half-time in units of the start": equal(2 * alpha * beta * a_0 * half_time, tau.subs(x, s / a_0)),
    "its slope": equal(Derivative(tau, x), -threshold / x**2),
    "the slope changes sign once": more_than(Derivative(threshold, x), 0),
    "the root is above 4.591": more_than(exp(exponent(BELOW)), BELOW - 1),
    "the root is below 4.592": more_than(exp(-exponent(ABOVE)), 1 / (ABOVE - 1)),
}


def proof(claim: Claim):
    """The flow on the modes, the closed form in its equation, the half-time and where its slope changes sign."""
    yield from claim.conclude("gradient", "tight frames make the gradient a difference")
    along = {G: claim["flow"].rhs}
    yield Identity("the gradient on the modes", along[G], alpha * beta * U * (root * root - Sigma) * V.T, "flow")
    yield from claim.conclude("the factors stay on the modes", "U^T U = V^T V = I", along)
    yield from claim.conclude("size of a mode", "a = b^2")
    yield from claim.conclude("solution", "the closed form in its equation")
    yield from claim.conclude("start", "at time 0")
    yield from claim.conclude("end", "at infinite time")
    yield from claim.conclude("solution without target", "the same for s = 0")
    yield from claim.conclude("start without target", "at time 0")
    yield from claim.conclude("half-time", "half-way")
    yield from claim.conclude("half-time in units of the start", "a function of s/a_0")
    yield from claim.conclude("its slope", "the derivative of ln(x - 1)/x")
    slope = 1 / (x - 1) + 1 / (x - 1) ** 2
    yield from claim.conclude("the slope changes sign once", "h increases", certificate=slope)
    yield from _bracket(claim, "the root is above 4.591", exponent(BELOW), BELOW - 1)
    yield from _bracket(claim, "the root is below 4.592", -exponent(ABOVE), 1 / (ABOVE - 1))


def _bracket(claim: Claim, part: str, power, bound):
    """``exp(q)`` exceeds its Taylor polynomial of odd order by an integral of positive terms."""
    polynomial = sum((power**n / factorial(n) for n in range(TERMS + 1)), 0 * power)
    length = abs(power)
    sign = 1 if power > 0 else -1
    remainder = Integral((length - u) ** TERMS * exp(sign * u) / factorial(TERMS), (u, 0, length))
    yield Inequality(f"Taylor's remainder: {part}", exp(power), polynomial, remainder)
    yield Inequality(f"in exact rationals: {part}", polynomial, bound, polynomial - bound, strict=True)
    yield from claim.conclude(part, part, certificate=remainder + (polynomial - bound))


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
    "tight frames": _values({Y: diag(2, 3)}),
    "modes of the optimum": _values({V: diag(1, 2)}),
    "balanced and aligned": _values({W_K: eye(2)}),
    "the start is below the end": _values({s: Rational(1, 2)}),
    "time is not negative": _values({t: -Rational(1, 8)}),
    "x is above 1": _values({x: 1}),
}

theorem = Theorem(
    id="T9",
    title="When modes are learnt",
    statement=(
        "Gradient flow on the factors (rate 1, no decay), tight frames, start balanced and aligned with the modes "
        "at size a_0: a(t) = s e^{2 alpha beta s t}/(e^{2 alpha beta s t} - 1 + s/a_0), and a_0/(1 + 2 alpha beta "
        "a_0 t) for s = 0. Half-way at ln(s/a_0 - 1)/(2 alpha beta s). Modes that start equal are learnt in order "
        "of strength where s/a_0 exceeds the root of ln(x - 1) = x/(x - 1), which lies between 4.591 and 4.592."
    ),
    hypotheses=hypotheses,
    claim=claim,
    proof=proof,
    controls=(
        Control("half the rate", {"solution": equal(Derivative(size, t), alpha * beta * size * (s - size))}),
        Control("a logistic that forgets the start", {"start": equal(Subs(s * growth / (growth + 1), t, 0), a_0)}),
        Control(
            "half-way at ln(s/a_0)/(2 alpha beta s)",
            {"half-time": equal(Subs(size, t, log(s / a_0) / (2 * alpha * beta * s)), s / 2)},
        ),
        Control("a root above 4.592", {"the root is above 4.591": more_than(exp(exponent(ABOVE)), ABOVE - 1)}),
        Control("frames that are not tight", without=("tight frames",)),
        Control("factors that are not aligned", without=("balanced and aligned",)),
    ),
    scope="general D, N, M and number of modes; the threshold bracketed in exact rationals",
    status="proved",
    functions=("svtheory.prediction.training_time.growth", "svtheory.prediction.training_time.half_times"),
    experiment="ledger",
    examples=(_values({}),),
    counterexamples=counterexamples,
    references=("Saxe, McClelland and Ganguli 2014",),
)
