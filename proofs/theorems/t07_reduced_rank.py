r"""T7. Reduced-rank regression.

With moments A, B and middle matrix M, the best :math:`\Omega` of rank H is

.. math:: A^{+1/2}\,[A^{+1/2} M B^{+1/2}]_H\,B^{+1/2} ,

where :math:`[\cdot]_H` is the truncated singular decomposition; it is unique if and only if the bracket has
:math:`\sigma_H > \sigma_{H+1}`. With aligned orthogonal features the surviving pairs are those with the largest
:math:`|t_k|\sqrt{D_iD_j}`, not the largest :math:`\sigma_k` of :math:`\Omega^*`. With a query bias to train it is the
same for (r; 1) instead of r.

Predicts: of a lone pair with t = 1 and a pair with t = 3 among antipodal features a head of rank 1 learns the second,
although its :math:`\sigma^* = 3/4` is below 1: it costs 1, and the first 9/4.

Why: write :math:`A = R^2, B = Q^2`. As M has its columns in the range of A and its rows in that of B, the loss of T5
and T6 is

.. math:: \mathrm{tr}(\Omega^TA\Omega B) - 2\langle M, \Omega\rangle = |R\Omega Q - \Gamma|^2 - |\Gamma|^2,
          \qquad \Gamma = R^+MQ^+,

so the best :math:`\Omega` of rank H comes from the best :math:`\Theta = R\Omega Q` of rank H (Eckart and Young), proved
here. Let P project on the column space of :math:`\Theta`; then :math:`|\Gamma - \Theta|^2 = |\Gamma|^2 - |P\Gamma|^2 +
|P\Gamma - \Theta|^2`. With :math:`\Gamma = U\Sigma V^T`, :math:`|P\Gamma|^2 = \sum_k\sigma_k^2p_k`, where :math:`p_k =
u_k^TPu_k` lies in [0, 1] and :math:`\sum_kp_k \le \mathrm{tr}P = H`. For any c between the H largest :math:`\sigma_k^2`
and the others,

.. math:: \sum_{k\le H}\sigma_k^2 - \sum_k\sigma_k^2p_k = \sum_{k\le H}(\sigma_k^2 - c)(1 - p_k)
          + \sum_{k>H}(c - \sigma_k^2)p_k + c\,(H - \sum_kp_k) \ge 0,

and if c exceeds the others by :math:`\delta > 0`, only :math:`p_k = 0` for k > H attains it. For an aligned orthogonal
pair, :math:`R^+x = x/\ell` with :math:`\ell^2` the eigenvalue, so its singular value in :math:`\Gamma` is
:math:`|t|\sqrt{D_iD_j}`.

A real query bias adds :math:`\beta^Ts` to the logits, :math:`\beta = W_K^Tb_Q`, a row of :math:`(\Omega; \beta^T) =
(W_Q, b_Q)^TW_K`, which has rank H too. Its loss is that of the tokens (r; 1), with moments :math:`(S_r, \bar r; \bar
r^T, 1)` and :math:`S_s` and middle matrix :math:`(XCTC'Y^T; \mu^TTC'Y^T)`: the same theorem holds.
"""

from sympy import Identity as One
from sympy import ImmutableMatrix, KroneckerDelta, Ne, Rational, diag, eye, symbols

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices, pinv, table, total, trace
from proofs.engine.statements import at_least, equal, implies, penrose, symmetric
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem

H, K, n = symbols("H K n", integer=True, positive=True)
k, l = symbols("k l", integer=True)
t, ell, m, c, delta = symbols("t ell m c delta", real=True)
R, Q, Mid, Omega, Omega_H = matrices("R Q M Omega Omega_H", D, D)
P, Theta, left, right = matrices("P Theta P_left P_right", D, D)
U, V, Sigma = *matrices("U V", D, K), matrices("Sigma", K, K)
X, Y, T, F, G = (
    matrices("X", D, N),
    matrices("Y", D, M),
    matrices("T", N, M),
    matrices("F", N, N),
    matrices("G", M, M),
)
x, y, other, u, beta = columns("x y z u beta", D)
E, a = matrices("E", N, K), columns("a", K)
S_r, S_s, r_mean = X * E * E.T * X.T, Y * G * G.T * Y.T, X * E * a
Gamma = pinv(R) * Mid * pinv(Q)
svd = U * Sigma * V.T
top, bottom, p, q, s, w = (table(name) for name in ("s", "r", "p", "q", "sigma2", "w"))
kept, lost = total(top[k] * p[k], (k, 1, H)), total(bottom[k] * q[k], (k, 1, n))
weights = total(p[k], (k, 1, H)) + total(q[k], (k, 1, n))
aligned = [equal(R * x, ell * x), equal(Q * y, m * y), Ne(ell, 0), Ne(m, 0)]
D_i, D_j = (SquaredNorm(v) ** 2 / SquaredNorm(root * v) for v, root in ((x, R), (y, Q)))
middle = diag(1, 3)
whitener = diag(1, 1 / 2 ** Rational(1, 2))


def example_loss(omega):
    """``|A^(1/2) Omega B^(1/2) - Gamma|^2`` for columns e_1, e_2, -e_2 and targets 1 and 3."""
    root = whitener.inv()
    return SquaredNorm((root * omega * root - whitener * middle * whitener).as_immutable())


R_plus = Hypothesis("R^+ is the pseudo-inverse of R", penrose(R), symmetric(R))
Q_plus = Hypothesis("Q^+ is the pseudo-inverse of Q", penrose(Q), symmetric(Q))
in_range = Hypothesis("M lies in the ranges", equal(R * pinv(R) * Mid, Mid), equal(Mid * pinv(Q) * Q, Mid))
projection = Hypothesis("P projects on the columns of Theta", equal(P * P, P), symmetric(P), equal(P * Theta, Theta))
orthonormal = Hypothesis("singular vectors are orthonormal", equal(U.T * U, 1), equal(V.T * V, 1), symmetric(Sigma))
truncation = Hypothesis("the truncation is a projection on either side", equal(left * Gamma, Gamma * right))
are_weights = Hypothesis("weights lie in [0, 1]", at_least(p[k], 0), at_least(1, p[k]), at_least(q[k], 0))
weight_at_most_H = Hypothesis("weights sum to at most H", at_least(H, weights))
parted = Hypothesis("c parts the values with room delta", at_least(top[k], c), at_least(c - delta, bottom[k]),
                    at_least(c, 0), at_least(delta, 0))  # fmt: skip
some_xy = Hypothesis("x and y are not zero", *(Ne(SquaredNorm(v), 0) for v in (x, y, R * x, Q * y)))
biased_loss = (
    trace(Omega.T * S_r * Omega * S_s)
    + 2 * Inner(r_mean * beta.T * S_s, Omega)
    + Inner(a, a) * Inner(beta, S_s * beta)
    - 2 * Inner(X * E * E.T * T * G * G.T * Y.T, Omega)
    - 2 * Inner(Y * G * G.T * T.T * E * a, beta)
    + SquaredNorm(E.T * T * G)
)
room = delta * total(q[k], (k, 1, n))
# what the H largest values exceed any weighted sum by, less the room: three non-negative terms
excess = (
    total((top[k] - c) * (1 - p[k]), (k, 1, H)) + total((c - delta - bottom[k]) * q[k], (k, 1, n)) + c * (H - weights)
)

lemmas = (
    Lemma("the loss of T5",
          equal(SquaredNorm(F.T * (X.T * Omega * Y - T) * G),
                trace(Omega.T * (X * F * F.T * X.T) * Omega * (Y * G * G.T * Y.T))
                - 2 * Inner(X * F * F.T * T * G * G.T * Y.T, Omega) + SquaredNorm(F.T * T * G)),
          "the loss is quadratic with A = S_r, B = S_s"),
    Lemma("a real query bias", equal(SquaredNorm((E.T * X.T * Omega + a * beta.T) * Y * G - E.T * T * G), biased_loss),
          "with (r; 1) for r, rank H for (Omega; b^T W_K) = (W_Q, b_Q)^T W_K"),
    Lemma("completing the square",
          equal(trace(Omega.T * R * R * Omega * Q * Q) - 2 * Inner(Mid, Omega),
                SquaredNorm(R * Omega * Q - Gamma) - SquaredNorm(Gamma)),
          "in whitened coordinates it is a distance from Gamma", given=[R_plus, Q_plus, in_range]),
    Lemma("R^+ is symmetric and commutes with R", equal(R * pinv(R) * pinv(R), pinv(R)), "R is symmetric",
          given=[R_plus]),
    Definition("optimum", equal(Omega_H, pinv(R) * left * Gamma * pinv(Q))),
    Lemma("the optimum attains the truncation", equal(R * Omega_H * Q, left * Gamma), "R Omega_H Q = Gamma_H",
          given=[R_plus, Q_plus, truncation], where=["optimum"]),
    Lemma("its loss is that of the truncation",
          equal(SquaredNorm(R * Omega_H * Q - Gamma), SquaredNorm(left * Gamma - Gamma)),
          "R Omega_H Q is the truncation", given=[R_plus, Q_plus, truncation], where=["optimum"]),
    Lemma("a projection splits the loss",
          equal(SquaredNorm(Gamma - Theta),
                SquaredNorm(Gamma) - SquaredNorm(P * Gamma) + SquaredNorm(P * Gamma - Theta)),
          "the best Theta in a given column space is P Gamma", given=[projection]),
    Lemma("what a projection keeps", equal(SquaredNorm(P * svd), trace(U.T * P * U * Sigma * Sigma)),
          "|P Gamma|^2 = tr(U^T P U Sigma^2)", given=[projection, orthonormal]),
    Lemma("a diagonal picks the weights",
          equal(total(w[k, l] * KroneckerDelta(l, k) * s[k], (l, 1, K), (k, 1, K)), total(w[k, k] * s[k], (k, 1, K))),
          "= sum_k sigma_k^2 u_k^T P u_k"),
    Lemma("weights are not negative", equal(Inner(u, P * u), SquaredNorm(P * u)), "p_k = |P u_k|^2",
          given=[projection]),
    Lemma("weights are at most 1", at_least(SquaredNorm(u), Inner(u, P * u)), "P shortens", given=[projection],
          certificate=SquaredNorm((One(D) - P) * u)),
    Lemma("the sum of weights", at_least(trace(P), trace(U.T * P * U)), "sum_k p_k <= tr P",
          given=[projection, orthonormal], certificate=SquaredNorm(P * (One(D) - U * U.T))),
    Lemma("Eckart-Young", at_least(total(top[k], (k, 1, H)), kept + lost), "no projection of rank H keeps more",
          given=[are_weights, weight_at_most_H, parted], certificate=excess + room),
    Lemma("unique if there is room", at_least(total(top[k], (k, 1, H)) - kept - lost, delta * total(q[k], (k, 1, n))),
          "three non-negative terms, so that none keeps as much with q > 0",
          given=[are_weights, weight_at_most_H, parted], certificate=excess),
    Lemma("survivors", implies(aligned, equal(SquaredNorm(t * pinv(R) * x * y.T * pinv(Q)), t**2 * D_i * D_j)),
          "R^+ x = x/ell, Q^+ y = y/m", given=[R_plus, Q_plus, some_xy]),
    Lemma("orthogonal pairs stay orthogonal",
          implies([equal(R * x, ell * x), Ne(ell, 0), equal(x.T * other, 0)],
                  equal((pinv(R) * x).T * pinv(R) * other, 0)), "so they are singular pairs of Gamma", given=[R_plus]),
    Lemma("example: keeping the larger t sqrt(D_i D_j)", equal(example_loss(diag(0, Rational(3, 4))), 1),
          "in exact numbers"),
    Lemma("example: keeping the larger sigma of Omega*", equal(example_loss(diag(1, 0)), Rational(9, 4)),
          "in exact numbers"),
)  # fmt: skip


def _values(changes: dict) -> dict:
    """Exact values for every symbol: a singular R, a projection on one axis."""
    axis = diag(1, 0)
    values = {
        D: 2, N: 2, M: 2, K: 2, H: 1, n: 2, R: diag(2, 0), Q: diag(1, 3), Mid: ImmutableMatrix([[2, 1], [0, 0]]),
        Omega: ImmutableMatrix([[1, 2], [3, 4]]), P: axis, Theta: ImmutableMatrix([[5, 7], [0, 0]]), left: axis,
        right: eye(2), U: eye(2), V: eye(2), Sigma: diag(3, 2), X: eye(2), Y: diag(1, 2),
        T: ImmutableMatrix([[1, 2], [0, 1]]), F: diag(1, 2), G: ImmutableMatrix([[1, 1], [0, 1]]),
        x: ImmutableMatrix([3, 0]), y: ImmutableMatrix([0, 2]), other: ImmutableMatrix([0, 1]),
        u: ImmutableMatrix([1, 2]), beta: ImmutableMatrix([2, 1]), E: ImmutableMatrix([[1, 2], [0, 1]]),
        a: ImmutableMatrix([1, 0]), t: 5, ell: 2, m: 3, c: 4, delta: 1, top: [9], bottom: [2, 1],
        p: [Rational(1, 2)], q: [Rational(1, 4), Rational(1, 4)], s: [9, 4],
        w: ImmutableMatrix([[1, 2], [3, 4]]),
        **changes,
    }  # fmt: skip
    root, key = values[R].pinv(), values[Q].pinv()
    return {Omega_H: root * values[left] * root * values[Mid] * key * key, **values}


generic = {
    x: ImmutableMatrix([3, 1]), R: diag(1, 2), ell: 5, other: ImmutableMatrix([1, 1]), Mid: diag(1, 3),
    left: diag(1, 0), right: diag(1, 0), K: 1, E: ImmutableMatrix([1, 2]), a: ImmutableMatrix([1]),
    U: ImmutableMatrix([0, 1]), V: ImmutableMatrix([0, 1]),
    Sigma: diag(3),
}  # fmt: skip
counterexamples = {
    R_plus: _values({pinv(R): ImmutableMatrix([[Rational(1, 2), 0], [1, 0]]), left: eye(2)}),
    Q_plus: _values({pinv(Q): ImmutableMatrix([[2, 0], [-2, Rational(1, 3)]])}),
    in_range: _values({Mid: ImmutableMatrix([[2, 1], [1, 0]]), left: eye(2)}),
    projection: _values({P: diag(0, 1)}),
    orthonormal: _values({V: diag(2, 1)}),
    truncation: _values({left: ImmutableMatrix([[1, 0], [1, 0]])}),
    are_weights: _values({p: [2], q: [-1, 0]}),
    weight_at_most_H: _values({p: [1], q: [1, 1]}),
    parted: _values({bottom: [100, 1]}),
    some_xy: _values({x: ImmutableMatrix([0, 0])}),
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("truncating Omega* itself is as good", "example: keeping the larger sigma of Omega*",
                example_loss(diag(0, Rational(3, 4)))),
        Control("survivors by sigma_k of Omega*", "survivors",
                (t * D_i * D_j) ** 2 / (SquaredNorm(x) * SquaredNorm(y))),
        Control("the optimum not unwhitened", "optimum", left * Gamma),
        Control("a bias is asked for nothing: M without its last row", "a real query bias",
                biased_loss + 2 * Inner(Y * G * G.T * T.T * E * a, beta)),
        Control("values not parted by c", parted),
        Control("more directions than H", weight_at_most_H),
    ),
    scope="general D and H, moments of any rank; the example of truncating Omega* in exact numbers at D = 2",
    status="proved",
    functions=("svtheory.prediction.optimum.optimal_omega",),
    examples=(_values({}), _values(generic)), counterexamples=counterexamples,
    references=("Eckart and Young 1936", "Mirsky 1960", "Izenman 1975"),
)  # fmt: skip
