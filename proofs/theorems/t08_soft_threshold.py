r"""T8. Weight decay is soft-thresholding.

With :math:`S_X = \alpha I, S_Y = \beta I` the objective :math:`\frac12|X^T\Omega Y - T|_F^2 + \frac g2(|W_Q|_F^2 +
|W_K|_F^2)` is least where

.. math:: \sigma_k = \max\left(\sigma_k^* - \frac{g}{\alpha\beta},\; 0\right)

on unchanged vectors; with H below the number of modes, the top H of these. Gradient flow conserves :math:`W_QW_Q^T -
W_KW_K^T` for any loss in :math:`\Omega`; with decay it shrinks as :math:`e^{-2gt}`.

Predicts: at :math:`\alpha = 2, \beta = 4, g = 8` the threshold is 1: values 3 and 1/2 become 2 and 0.

Why: for tight frames, :math:`S_X = \alpha I, S_Y = \beta I`, the loss is :math:`\alpha\beta` times

.. math:: F = \tfrac12|\Omega - \Omega^*|^2 + \tfrac\theta2(|A|^2 + |B|^2), \qquad \Omega = A^TB,\ \theta =
g/(\alpha\beta),

up to a constant, with :math:`A = W_Q, B = W_K`. Write :math:`\Omega^* = U\Sigma V^T` and split :math:`\Sigma = S +
\theta K` with :math:`0 \le K \le 1` and :math:`KS = S`: each mode has either s = 0, or k = 1 and :math:`s = \sigma^* -
\theta`, which is the soft threshold. With :math:`\Omega_0 = USV^T, \bar K = UKV^T` and :math:`J^2 = 1 - K^2`,

.. math:: F(A, B) - F_0 = \tfrac12|A^TB - \Omega_0|^2 + \tfrac\theta2\big(|A - B\bar K^T|^2 + |BVJ|^2 + |B(1 -
VV^T)|^2\big) \ge 0,

attained by :math:`A = S^{1/2}U^T, B = S^{1/2}V^T`. With fewer rows than modes, let :math:`\Omega = \sum_{k\le
H}\omega_ku_kv_k^T`. Then :math:`\frac12(|A|^2 + |B|^2) \ge \sum_k\omega_k`, and with :math:`c_k = u_k^T\Omega^*v_k`
each k contributes at least :math:`-\frac12m_k^2` for any :math:`m_k \ge \max(c_k - \theta, 0)`. Take :math:`m_k =
\sum_l\pi_ls_l`, where :math:`\pi_l = (a_l^2 + b_l^2)/2` for the overlaps :math:`a_l, b_l` of :math:`u_k, v_k` with the
modes: it is large enough, and :math:`m_k^2 \le \sum_l\pi_ls_l^2`. Summed over k, each mode has weight at most 1 and all
together at most H, so that the sum is at most that of the H largest :math:`s_l^2` (the three non-negative terms of T7).

Along gradient flow of any loss in :math:`\Omega`, with G its gradient, :math:`\dot A = -BG^T - gA`, :math:`\dot B = -AG
- gB`; the G terms of :math:`AA^T - BB^T` cancel.
"""

from sympy import Derivative, ImmutableMatrix, Ne, Rational, Symbol, diag, exp, eye, sqrt, symbols
from sympy import Identity as One

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, matrices, table, total, trace
from proofs.engine.statements import at_least, equal, implies, symmetric
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem

H, K, n = symbols("H K n", integer=True, positive=True)
l = Symbol("l", integer=True)
alpha, beta, g, theta, sigma, s, kept, omega, c, m, t, start = symbols(
    "alpha beta g theta sigma s k omega c m t C_0", real=True
)
X, Y, T = matrices("X", D, N), matrices("Y", D, M), matrices("T", N, M)
A, B, dA, dB, Z = matrices("W_Q W_K dW_Q dW_K Z", H, D)
Omega, Best, G = matrices("Omega Omega^* G", D, D)
U, V = matrices("U V", D, K)
Sigma, S, Keep, J, root = matrices("Sigma S K J S_root", K, K)
E, values_of = matrices("E", H, K), matrices("omega_k", K, K)
a, b, mode, shrunk = table("a"), table("b"), table("sigma_l"), table("s_l")
decay = SquaredNorm(A) + SquaredNorm(B)
Omega_0, K_bar = U * S * V.T, U * Keep * V.T
at_optimum = SquaredNorm(Omega_0 - U * Sigma * V.T) / 2 + theta * trace(S)
flow_A, flow_B = -B * G.T - g * A, -A * G - g * B
pi = (a[l] ** 2 + b[l] ** 2) / 2


def over_modes(function):
    """Sum over the modes of Omega*."""
    return total(function, (l, 1, n))


tight = Hypothesis("tight frames", equal(X * X.T, alpha * One(D)), equal(Y * Y.T, beta * One(D)))
some_frames = Hypothesis("frames are not zero", Ne(alpha, 0), Ne(beta, 0))
scaled_decay = Hypothesis("theta = g/(alpha beta)", equal(theta * alpha * beta, g))
some_decay = Hypothesis("theta is not negative", at_least(theta, 0))
orthonormal = Hypothesis("singular vectors are orthonormal", equal(U.T * U, 1), equal(V.T * V, 1))
split_sigma = Hypothesis("Sigma = S + theta K", equal(Sigma, S + theta * Keep))
keeps = Hypothesis("K keeps S", equal(Keep * S, S), equal(S * Keep, S), symmetric(S), symmetric(Keep))
at_most_1 = Hypothesis("K is at most 1", equal(J * J, One(K) - Keep * Keep), symmetric(J))
has_root = Hypothesis("S has a root", equal(root * root, S), symmetric(root))
embeds = Hypothesis("E embeds the modes in the rows", equal(E.T * E, 1))
some_values = Hypothesis("values are not negative", at_least(omega, 0), at_least(mode[l], 0))
large_m = Hypothesis("m is large enough", at_least(m, c - theta))
shrinks = Hypothesis("s is at least sigma - theta", at_least(shrunk[l], mode[l] - theta))
unit_overlaps = Hypothesis("overlaps are those of unit vectors", at_least(1, over_modes(pi)))
four_squares = (
    SquaredNorm(A.T * B - Omega_0) / 2
    + theta / 2 * SquaredNorm(A - B * K_bar.T)
    + theta / 2 * (SquaredNorm(B * V * J) + SquaredNorm(B * (One(D) - V * V.T)))
)
two_squares = SquaredNorm(A - B * V * U.T) / 2 + SquaredNorm(B * (One(D) - V * V.T)) / 2
room = 1 - over_modes(pi)
products = (
    over_modes(mode[l] * (a[l] - b[l]) ** 2 / 2) + over_modes(pi * (shrunk[l] - (mode[l] - theta))) + theta * room
)
mean = over_modes(pi * shrunk[l])
around_m = over_modes(pi * (shrunk[l] - m) ** 2) + m**2 * room

lemmas = (
    Definition("optimum without decay", equal(Best, X * T * Y.T / (alpha * beta))),
    Lemma("the gradient vanishes there", equal(X * (X.T * Best * Y - T) * Y.T, 0), "X X^T = alpha I and Y Y^T = beta I",
          given=[tight, some_frames], where=["optimum without decay"]),
    Definition("flow of W_Q", equal(dA, flow_A)),
    Definition("flow of W_K", equal(dB, flow_B)),
    Lemma("the loss",
          equal(SquaredNorm(X.T * Omega * Y - T) / 2 + g / 2 * decay,
                alpha * beta * (SquaredNorm(Omega - Best) / 2 + theta / 2 * decay)
                + SquaredNorm(X.T * Best * Y - T) / 2), "tight frames make it a distance",
          given=[tight, some_frames, scaled_decay], where=["optimum without decay"]),
    Lemma("soft threshold",
          implies([equal(sigma, s + theta * kept), equal(kept * s, s)], equal(s * (s - (sigma - theta)), 0)),
          "s is 0 or sigma - theta"),
    Lemma("Omega_0 - Omega* = -theta K", equal(Omega_0 - U * Sigma * V.T, -theta * K_bar), "Sigma = S + theta K",
          given=[split_sigma]),
    Lemma("optimum", at_least(SquaredNorm(A.T * B - U * Sigma * V.T) / 2 + theta / 2 * decay, at_optimum),
          "four squares", given=[some_decay, orthonormal, split_sigma, keeps, at_most_1], certificate=four_squares),
    Lemma("attained: product", equal((E * root * U.T).T * (E * root * V.T), Omega_0), "balanced factors of Omega_0",
          given=[has_root, embeds]),
    Lemma("attained: decay", equal(SquaredNorm(E * root * U.T) + SquaredNorm(E * root * V.T), 2 * trace(S)),
          "whose decay is the nuclear norm", given=[orthonormal, has_root, embeds]),
    Lemma("nuclear norm", implies(equal(A.T * B, U * values_of * V.T), at_least(decay / 2, trace(values_of))),
          "decay is at least the nuclear norm", given=[orthonormal], certificate=two_squares),
    Lemma("one mode", at_least(omega**2 / 2 - omega * (c - theta), -(m**2) / 2), "a square",
          given=[some_values, large_m], certificate=(omega - m) ** 2 / 2 + omega * (m - (c - theta))),
    Lemma("a mean of shrunk values is large enough",
          at_least(over_modes(pi * shrunk[l]), over_modes(mode[l] * a[l] * b[l]) - theta), "ab <= (a^2 + b^2)/2",
          given=[some_decay, some_values, shrinks, unit_overlaps], certificate=products),
    Lemma("for any m", at_least(over_modes(pi * shrunk[l] ** 2) - 2 * m * mean + m**2, 0),
          "a mean of squares, and room", given=[unit_overlaps], certificate=around_m),
    Lemma("the square of a mean", at_least(over_modes(pi * shrunk[l] ** 2), over_modes(pi * shrunk[l]) ** 2),
          "at m the mean", given=[unit_overlaps], certificate=around_m.xreplace({m: mean})),
    Lemma("minus the derivative along any change of W_Q", equal(Inner(dA, Z), -Inner(G, Z.T * B) - g * Inner(A, Z)),
          "the chain rule for A^T B", where=["flow of W_Q"]),
    Lemma("minus the derivative along any change of W_K", equal(Inner(dB, Z), -Inner(G, A.T * Z) - g * Inner(B, Z)),
          "the chain rule for A^T B", where=["flow of W_K"]),
    Lemma("conserved quantity", equal(dA * A.T + A * dA.T - dB * B.T - B * dB.T, -2 * g * (A * A.T - B * B.T)),
          "the terms in G cancel", where=["flow of W_Q", "flow of W_K"]),
    Lemma("its decay", equal(Derivative(exp(-2 * g * t) * start, t), -2 * g * exp(-2 * g * t) * start),
          "a linear equation"),
)  # fmt: skip


def _values(changes: dict) -> dict:
    """Exact values for every symbol: alpha = 2, beta = 4, one mode above the threshold and one below."""
    frame, best = ImmutableMatrix([[1, 0, -1, 0], [0, 1, 0, 1]]), diag(3, Rational(1, 2))
    values = {
        D: 2, N: 4, M: 2, H: 2, K: 2, n: 2, X: frame, Y: diag(2, 2), T: frame.T * best * 2, alpha: 2, beta: 4,
        g: 8, theta: 1, A: ImmutableMatrix([[1, 2], [0, 1]]), B: ImmutableMatrix([[1, 0], [3, 1]]),
        Omega: ImmutableMatrix([[1, 0], [5, 1]]), Best: best, G: ImmutableMatrix([[1, 2], [3, 4]]), Z: eye(2),
        U: eye(2), V: eye(2), Sigma: best, S: diag(2, 0), Keep: diag(1, Rational(1, 2)), J: diag(0, sqrt(3) / 2),
        root: diag(sqrt(2), 0), E: eye(2), values_of: ImmutableMatrix([[1, 0], [5, 1]]), sigma: 3, s: 2, kept: 1,
        omega: 1, c: 3, m: 4, t: 2, start: 5, a: [Rational(1, 2), 0], b: [0, Rational(1, 2)],
        mode: [3, Rational(1, 2)], shrunk: [2, 0], **changes,
    }  # fmt: skip
    along = {dA: -values[B] * values[G].T - values[g] * values[A], dB: -values[A] * values[G] - values[g] * values[B]}
    return {**values, **along}


half = Rational(1, 2)
counterexamples = {
    tight: _values({Y: diag(2, 3)}),
    some_frames: _values({X: 0 * _values({})[X], alpha: 0, g: 0}),
    scaled_decay: _values({g: 16}),
    some_decay: _values(
        {theta: -1, g: -8, S: diag(4, 3 * half), root: diag(2, sqrt(3 * half)), Keep: eye(2), J: diag(0, 0)}
        | {A: diag(4, 1), B: diag(1, Rational(3, 2)), s: 4, shrunk: [4, 3 * half]}
    ),
    orthonormal: _values({U: diag(2, 1)}),
    split_sigma: _values({Sigma: diag(5, half), A: diag(2, 0), B: diag(2, 0)}),
    keeps: _values(
        {S: diag(2, half / 2), root: diag(sqrt(2), half), Keep: diag(1, half / 2), J: diag(0, sqrt(15) / 4)}
        | {A: diag(sqrt(2), 0), B: diag(sqrt(2), 0)}
    ),
    at_most_1: _values({Sigma: diag(3, 5), Keep: diag(1, 5), A: diag(sqrt(2), 2), B: diag(sqrt(2), 2)}),
    has_root: _values({root: diag(1, 0)}),
    embeds: _values({E: diag(2, 1)}),
    some_values: _values({omega: -1, c: -10, m: 0}),
    large_m: _values({c: 10, m: 1, omega: 1}),
    shrinks: _values({shrunk: [0, 0], a: [1, 0], b: [1, 0]}),
    unit_overlaps: _values({a: [3, 0], b: [3, 0]}),
}
generic = {s: 5, kept: 2, values_of: diag(100, 1), omega: 10, a: [1, 0], b: [1, 0]}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("a threshold of g", "soft threshold",
                implies([equal(sigma, s + theta * kept), equal(kept * s, s)], equal(s * (s - (sigma - g)), 0))),
        Control("no shrinking", "optimum", theta * trace(Sigma)),
        Control("frames that are not tight", tight),
        Control("a threshold for values above it only", at_most_1),
        Control("the sum is conserved", "conserved quantity",
                equal(dA * A.T + A * dA.T + dB * B.T + B * dB.T, -2 * g * (A * A.T + B * B.T))),
        Control("decay at rate g", "its decay",
                equal(Derivative(exp(-g * t) * start, t), -2 * g * exp(-g * t) * start)),
    ),
    scope="general D, N, M, H; tight frames", status="proved",
    functions=("svtheory.prediction.optimum.predict", "svtheory.prediction.training_time.imbalance"),
    examples=(_values({}), _values(generic)), counterexamples=counterexamples,
    references=("Srebro, Rennie and Jaakkola 2004", "Saxe et al. 2014"),
)  # fmt: skip
