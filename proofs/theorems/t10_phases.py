r"""T10. Why matched features leave superposition.

The frame potential :math:`FP = |XX^T|^2` is at least :math:`(\sum|x_i|^2)^2/D`, with equality if and only if the frame
is tight. With energy :math:`E = FP + g s_0s_1` of N unit features in :math:`D \ge 3` dimensions the orthogonalised
arrangement has :math:`E = 2 + (N-2)^2/(D-2) + g`, is critical for every g, a strict saddle below

.. math:: g_c = \frac{2(N - D)}{D - 2} ,

and meets the first-order conditions of the relaxed problem if and only if :math:`g \ge g_c`. The one-sided, the
collapsed and (for :math:`w_0 \cdot w_1 = 0`) the superposed arrangement are stationary with the listed s; one-sided
meets the orthogonalised at :math:`g_c`, collapsed crosses it at :math:`g^* = ((N-2)^2/((D-1)(D-2)) - 2)/3`. That the
orthogonalised one is the global minimum if and only if :math:`g \ge \max(g_c, g^*)` was seen to 0.5 %, not proved.

Predicts: twenty features in ten dimensions: :math:`g_c = 5/2` and :math:`g^* = 5/6`.

Why: N unit features W in D >= 3 dimensions, :math:`S = WW^T`, energy :math:`E = \mathrm{tr}S^2 + g s_0s_1` with
:math:`s_i = w_i^TSw_i`. On a subspace of n dimensions with trace c, :math:`\mathrm{tr}S^2 \ge c^2/n` (the frame
potential), which splits E exactly into a block on the plane of :math:`w_0, w_1` and a tight rest.

Orthogonalised, :math:`S = w_0w_0^T + w_1w_1^T + \lambda\Pi, \lambda = (N-2)/(D-2)`. The gradient on the other features
is :math:`G = 2S + g(w_0w_0^T + w_1w_1^T)`, a multiple of each; on the pair it is a multiple too. Along :math:`w_j \to
w_j + \epsilon\theta_jw_0`, kept at unit length to second order, with :math:`\sum\theta_jw_j = 0`, the first order of S
vanishes and the second is :math:`|\theta|^2w_0w_0^T - \sum\theta_j^2w_jw_j^T`, on which E has the slope :math:`(2 + g -
2\lambda)|\theta|^2 = (g - g_c)|\theta|^2`. The multiplier of the relaxed problem, S free above :math:`w_0w_0^T +
w_1w_1^T` with trace N, is :math:`G - 2\lambda I = (g - g_c)(w_0w_0^T + w_1w_1^T)`: non-negative iff :math:`g \ge g_c`.

The other arrangements are stationary points of their own one-parameter energies. The one-sided one meets the
orthogonalised one at :math:`g_c` and lies below it before; its multiplier on :math:`w_0` is :math:`(g - 2)(s - 1)`. The
collapsed and the orthogonalised energies cross at :math:`g^*`. That no arrangement outside the list is lower, so that
the orthogonalised one is the global minimum from :math:`\max(g_c, g^*)` on, was seen and is not proved here.
"""

from sympy import Derivative, ImmutableMatrix, MatrixSymbol, Rational, Subs, Symbol, diag, eye, sqrt, symbols
from sympy import Identity as One

from proofs.engine.notation import D, Inner, N, SquaredNorm, columns, matrices, trace
from proofs.engine.statements import at_least, equal, implies, more_than, orthonormal
from proofs.engine.verifier import Control, Hypothesis, Lemma, Theorem

n = Symbol("n", integer=True, positive=True)
X, W, theta = matrices("X", D, N), matrices("w_r", D, n), columns("theta", n)
squares = matrices("Theta", n, n)
block, across, remainder = MatrixSymbol("A", 2, 2), MatrixSymbol("B", 2, n), MatrixSymbol("C", n, n)
w_0, w_1, x = columns("w_0 w_1 x", D)
dS = matrices("dS", D, D)
(g, lam, s, s_one, eps), z = symbols("g lambda s s_1 epsilon", real=True), Symbol("z", positive=True)
g_c = 2 * (N - D) / (D - 2)
pair = w_0 * w_0.T + w_1 * w_1.T
S = pair + W * W.T
slope = 2 * S + g * pair
multiplier = slope - 2 * lam * One(D)
moved = W + eps * w_0 * theta.T
second = SquaredNorm(theta) * w_0 * w_0.T - W * squares * W.T
third = W * squares * theta * w_0.T + w_0 * theta.T * squares * W.T
fourth = Inner(theta, squares * theta) * w_0 * w_0.T


def energy(operator):
    """``tr S^2 + g s_0 s_1``."""
    return SquaredNorm(operator) + g * Inner(w_0, operator * w_0) * Inner(w_1, operator * w_1)


def one_sided(s):
    """Energy with eigenvalues 1, s and a tight rest of D - 2 dimensions."""
    return 1 + s**2 + (N - 1 - s) ** 2 / (D - 2) + g * s


def collapsed(s):
    """Energy with eigenvalue s on ``w_0 = w_1`` and a tight rest of D - 1 dimensions."""
    return s**2 + (N - s) ** 2 / (D - 1) + g * s**2


def superposed(s):
    """Energy with eigenvalue s on orthogonal w_0 and w_1 and a tight rest of D - 2 dimensions."""
    return 2 * s**2 + (N - 2 * s) ** 2 / (D - 2) + g * s**2


orthogonalised = 2 + (N - 2) ** 2 / (D - 2) + g

dimensions = Hypothesis("at least three dimensions", more_than(D, 2), more_than(D, 1))
orthonormal_pair = Hypothesis("w_0 and w_1 are orthonormal", orthonormal(w_0, w_1))
tight_rest = Hypothesis("the others are tight and orthogonal to the pair", equal(W.T * w_0, 0), equal(W.T * w_1, 0),
                        equal(W * W.T, lam * One(D) - lam * w_0 * w_0.T - lam * w_1 * w_1.T))  # fmt: skip
number = Hypothesis("N - 2 of them", equal(lam * (D - 2), N - 2))
units = Hypothesis("they are unit vectors", equal(trace(W * squares * W.T), SquaredNorm(theta)))
balance = Hypothesis("the changes balance", equal(W * theta, 0))
s_1_given = Hypothesis("s_1 of the one-sided arrangement", equal(s_one * (D - 1), N - 1 - g * (D - 2) / 2))
slack = 2 * SquaredNorm(across) + SquaredNorm(remainder - trace(remainder) / n * One(n))

lemmas = (
    Lemma("frame potential", at_least(SquaredNorm(X * X.T), SquaredNorm(X) ** 2 / D), "equality iff tight",
          certificate=SquaredNorm(X * X.T - SquaredNorm(X) / D * One(D))),
    Lemma("exact reduction",
          at_least(SquaredNorm(block) + 2 * SquaredNorm(across) + SquaredNorm(remainder),
                   SquaredNorm(block) + trace(remainder) ** 2 / n), "a tight rest costs least", certificate=slack),
    Lemma("s_0 = 1", equal(Inner(w_0, S * w_0), 1), "w_0 is orthogonal to all others",
          given=[orthonormal_pair, tight_rest]),
    Lemma("orthogonalised: energy", equal(energy(S), orthogonalised), "eigenvalues 1, 1 and lambda",
          given=[dimensions, orthonormal_pair, tight_rest, number]),
    Lemma("orthogonalised: critical, the others", equal(slope * W, 2 * lam * W), "the gradient is along each feature",
          given=[tight_rest]),
    Lemma("orthogonalised: critical, the pair", equal(2 * slope * w_0 + 2 * g * S * w_0, (4 + 4 * g) * w_0),
          "and along w_0, w_1", given=[orthonormal_pair, tight_rest]),
    Lemma("perturbed",
          equal(moved * (One(n) - eps**2 * squares) * moved.T - W * W.T,
                eps**2 * second - eps**3 * third - eps**4 * fourth), "no first order, as sum theta_j w_j = 0",
          given=[balance]),
    Lemma("energy along a change of S",
          equal(energy(S + dS),
                energy(S) + Inner(slope, dS) + SquaredNorm(dS) + g * Inner(w_0, dS * w_0) * Inner(w_1, dS * w_1)),
          "so E changes by <G, dS> to leading order", given=[orthonormal_pair, tight_rest]),
    Lemma("energy along theta", equal(Inner(slope, second), (2 + g - 2 * (N - 2) / (D - 2)) * SquaredNorm(theta)),
          "on |theta|^2 w_0 w_0^T - sum theta_j^2 w_j w_j^T",
          given=[dimensions, orthonormal_pair, tight_rest, number, units]),
    Lemma("threshold", equal(2 + g - 2 * lam, g - g_c), "a strict saddle below g_c", given=[dimensions, number]),
    Lemma("relaxed problem: multiplier", equal(multiplier, (g - g_c) * pair),
          "the multiplier of S >= w_0 w_0^T + w_1 w_1^T", given=[dimensions, tight_rest, number]),
    Lemma("relaxed problem: not negative", implies(at_least(g, g_c), at_least(Inner(x, multiplier * x), 0)),
          "from g_c on", given=[dimensions, tight_rest, number],
          certificate=(g - g_c) * (Inner(w_0, x) ** 2 + Inner(w_1, x) ** 2)),
    Lemma("relaxed problem: negative below", equal(Inner(w_0, multiplier * w_0), g - g_c), "and not below g_c",
          given=[dimensions, orthonormal_pair, tight_rest, number]),
    Lemma("relaxed problem: slackness", equal(multiplier * (S - pair), 0), "complementary slackness",
          given=[tight_rest]),
    Lemma("relaxed problem: stationary in the pair", equal(g * S * w_0 + multiplier * w_0, (2 * g - g_c) * w_0),
          "along w_0, so at fixed length", given=[dimensions, orthonormal_pair, tight_rest, number]),
    Lemma("one-sided: stationary", equal(Subs(Derivative(one_sided(z), z), z, s_one), 0),
          "the slope of its energy vanishes", given=[dimensions, s_1_given]),
    Lemma("one-sided: range", equal(s_one - 1, (g_c - g) * (D - 2) / (2 * (D - 1))), "s_1 >= 1 iff g <= g_c",
          given=[dimensions, s_1_given]),
    Lemma("one-sided: tight outside w_0", equal(2 * (N - 1 - s_one) / (D - 2), 2 * s_one + g),
          "one multiplier for all other directions", given=[dimensions, s_1_given]),
    Lemma("one-sided: multiplier", equal(2 + g * s_one - (2 * s_one + g), (g - 2) * (s_one - 1)),
          "not negative on w_0 iff g >= 2"),
    Lemma("one-sided: meets the orthogonalised", equal(one_sided(1), orthogonalised), "at s_1 = 1, that is at g_c",
          given=[dimensions]),
    Lemma("one-sided: lies below", equal(orthogonalised - one_sided(s_one), (D - 1) / (D - 2) * (1 - s_one) ** 2),
          "a quadratic at its minimum", given=[dimensions, s_1_given]),
    Lemma("collapsed: stationary",
          implies(equal(s * (D + g * (D - 1)), N), equal(Subs(Derivative(collapsed(z), z), z, s), 0)),
          "the slope of its energy vanishes", given=[dimensions]),
    Lemma("collapsed: crosses the orthogonalised",
          equal((collapsed(2) - orthogonalised) / 3, g - ((N - 2) ** 2 / ((D - 1) * (D - 2)) - 2) / 3),
          "at s = 2, at g*", given=[dimensions]),
    Lemma("superposed: stationary",
          implies(equal(s * (2 * D + g * (D - 2)), 2 * N), equal(Subs(Derivative(superposed(z), z), z, s), 0)),
          "with w_0 . w_1 = 0 imposed", given=[dimensions]),
    Lemma("adaptive strength: the same slope",
          equal(Subs(Derivative(g * (1 - 1 / z), z), z, 1), Subs(Derivative(g * (z - 1), z), z, 1)),
          "so that g_c is the same locally"),
)  # fmt: skip


def _example(changes: dict) -> dict:
    """Three unit features at 120 degrees beside an orthonormal pair: N = 5, D = 4, g_c = 1."""
    triangle = ImmutableMatrix(
        [[0, 0, 0], [0, 0, 0], [1, -Rational(1, 2), -Rational(1, 2)], [0, sqrt(3) / 2, -sqrt(3) / 2]]
    )
    values = {
        D: 4, N: 5, n: 3, X: ImmutableMatrix(4, 5, range(20)), W: triangle, theta: ImmutableMatrix([2, 2, 2]),
        squares: 4 * eye(3), block: diag(1, 2), across: ImmutableMatrix([[1, 2, 0], [0, 1, 1]]),
        remainder: diag(1, 2, 4), w_0: eye(4)[:, 0], w_1: eye(4)[:, 1], x: ImmutableMatrix([1, 2, 3, 4]),
        dS: diag(1, 2, 0, 1), g: 3, lam: Rational(3, 2), s: Rational(5, 13), eps: Rational(1, 2), **changes,
    }  # fmt: skip
    one = changes.get(s_one, 0) or (values[N] - 1 - values[g] * Rational(values[D] - 2, 2)) / (values[D] - 1)
    return {s_one: one, **values}


examples = (_example({}), _example({g: 1, s: 1}), _example({g: Rational(1, 2), s: Rational(10, 9)}))
no_others = {N: 2, lam: 0, W: ImmutableMatrix.zeros(4, 3), theta: ImmutableMatrix([0, 0, 0]), X: eye(4)[:, :2]}
flat = {D: 2, X: eye(2), W: ImmutableMatrix.zeros(2, 3), w_0: eye(2)[:, 0], w_1: eye(2)[:, 1], dS: eye(2)}
lopsided = ImmutableMatrix([[0, 0, 0], [0, 0, 0], [1, -1, 0], [0, 0, 1]])
counterexamples = {
    dimensions: _example({**no_others, **flat, x: ImmutableMatrix([1, 2]), s_one: 1}),
    orthonormal_pair: _example({**no_others, w_0: 2 * eye(4)[:, 0]}),
    tight_rest: _example({W: lopsided, theta: ImmutableMatrix([2, 2, 0]), squares: diag(4, 4, 0)}),
    number: _example({N: 6, X: ImmutableMatrix(4, 6, range(24))}),
    units: _example({squares: eye(3)}),
    balance: _example({theta: ImmutableMatrix([2, 2, -2])}),
    s_1_given: _example({s_one: 7}),
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("twice the threshold", "threshold", g - 2 * g_c),
        Control("stable at every g", "relaxed problem: not negative", at_least(Inner(x, multiplier * x), 0)),
        Control("changes that do not balance", balance),
        Control("others that are not tight", tight_rest),
        Control("one-sided without leakage", "one-sided: stationary",
                equal(Subs(Derivative(one_sided(z) - g * z, z), z, s_one), 0)),
        Control("collapsed crosses at g_c", "collapsed: crosses the orthogonalised", g - g_c),
    ),
    scope="general D >= 3 and N >= D; listed arrangements; the global threshold g* is seen, not proved",
    status="proved",
    functions=("svtheory.geometry.phases.orthogonalization_threshold",
               "svtheory.geometry.phases.collapse_threshold", "svtheory.geometry.phases.stationary_arrangements",
               "svtheory.geometry.phases.exact_minimum"),
    examples=examples, counterexamples=counterexamples, references=("Benedetto and Fickus 2003",),
)  # fmt: skip
