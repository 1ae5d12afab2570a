r"""T7. Head dimension smaller than the number of pairs: reduced-rank regression.

Write :math:`A = R^2, B = Q^2`. As M has its columns in the range of A and its rows in that of B, the loss of T5 and
T6 is

.. math:: \mathrm{tr}(\Omega^TA\Omega B) - 2\langle M, \Omega\rangle = |R\Omega Q - \Gamma|^2 - |\Gamma|^2,
          \qquad \Gamma = R^+MQ^+,

so the best :math:`\Omega` of rank H comes from the best :math:`\Theta = R\Omega Q` of rank H (Eckart and Young),
proved here. Let P project on the column space of :math:`\Theta`; then :math:`|\Gamma - \Theta|^2 = |\Gamma|^2 -
|P\Gamma|^2 + |P\Gamma - \Theta|^2`. With :math:`\Gamma = U\Sigma V^T`, :math:`|P\Gamma|^2 = \sum_k\sigma_k^2p_k`,
where :math:`p_k = u_k^TPu_k` lies in [0, 1] and :math:`\sum_kp_k \le \mathrm{tr}P = H`. For any c between the H
largest :math:`\sigma_k^2` and the others,

.. math:: \sum_{k\le H}\sigma_k^2 - \sum_k\sigma_k^2p_k = \sum_{k\le H}(\sigma_k^2 - c)(1 - p_k)
          + \sum_{k>H}(c - \sigma_k^2)p_k + c\,(H - \sum_kp_k) \ge 0,

and if c exceeds the others by :math:`\delta > 0`, only :math:`p_k = 0` for k > H attains it. For an aligned
orthogonal pair, :math:`R^+x = x/\ell` with :math:`\ell^2` the eigenvalue, so its singular value in :math:`\Gamma`
is :math:`|t|\sqrt{D_iD_j}`.

A real query bias adds :math:`\beta^Ts` to the logits, :math:`\beta = W_K^Tb_Q`, a row of :math:`(\Omega; \beta^T) =
(W_Q, b_Q)^TW_K`, which has rank H too. Its loss is that of the tokens (r; 1), with moments :math:`(S_r, \bar r;
\bar r^T, 1)` and :math:`S_s` and middle matrix :math:`(XCTC'Y^T; \mu^TTC'Y^T)`: the same theorem holds.
"""

from __future__ import annotations

from sympy import Identity as One
from sympy import ImmutableMatrix, KroneckerDelta, Ne, Rational, diag, eye, symbols

from proofs.notation import (
    D,
    Inner,
    M,
    N,
    SquaredNorm,
    at_least,
    columns,
    conjunction,
    equal,
    implies,
    matrices,
    penrose,
    pinv,
    symmetric,
    table,
    total,
    trace,
)
from proofs.verifier import Claim, Control, Identity, Inequality, Theorem

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
# a root of the moment of (f; 1): C = E E^T, mu = E a, 1 = a^T a
E, a = matrices("E", N, K), columns("a", K)
S_r, S_s, r_mean = X * E * E.T * X.T, Y * G * G.T * Y.T, X * E * a
Gamma = pinv(R) * Mid * pinv(Q)
svd = U * Sigma * V.T
top, bottom, p, q, s, w = (table(name) for name in ("s", "r", "p", "q", "sigma2", "w"))
kept, lost = total(top[k] * p[k], (k, 1, H)), total(bottom[k] * q[k], (k, 1, n))
weights = total(p[k], (k, 1, H)) + total(q[k], (k, 1, n))

aligned = [equal(R * x, ell * x), equal(Q * y, m * y), Ne(ell, 0), Ne(m, 0)]
D_i, D_j = (SquaredNorm(v) ** 2 / SquaredNorm(root * v) for v, root in ((x, R), (y, Q)))

eigenvalues, middle = diag(1, 2), diag(1, 3)
whitener = diag(1, 1 / 2 ** Rational(1, 2))


def example_loss(omega):
    """``|A^(1/2) Omega B^(1/2) - Gamma|^2`` for columns e_1, e_2, -e_2 and targets 1 and 3."""
    root = whitener.inv()
    return SquaredNorm((root * omega * root - whitener * middle * whitener).as_immutable())


hypotheses = {
    "R^+ is the pseudo-inverse of R": conjunction(penrose(R), symmetric(R)),
    "Q^+ is the pseudo-inverse of Q": conjunction(penrose(Q), symmetric(Q)),
    "M lies in the ranges": conjunction(equal(R * pinv(R) * Mid, Mid), equal(Mid * pinv(Q) * Q, Mid)),
    "P projects on the columns of Theta": conjunction(equal(P * P, P), symmetric(P), equal(P * Theta, Theta)),
    "singular vectors are orthonormal": conjunction(equal(U.T * U, 1), equal(V.T * V, 1), symmetric(Sigma)),
    "the truncation is a projection on either side": equal(left * Gamma, Gamma * right),
    "weights lie in [0, 1]": conjunction(at_least(p[k], 0), at_least(1, p[k]), at_least(q[k], 0)),
    "weights sum to at most H": at_least(H, weights),
    "c parts the values with room delta": conjunction(
        at_least(top[k], c), at_least(c - delta, bottom[k]), at_least(c, 0), at_least(delta, 0)
    ),
    "x and y are not zero": conjunction(*(Ne(SquaredNorm(v), 0) for v in (x, y, R * x, Q * y))),
}
claim = {
    "the loss of T5": equal(
        SquaredNorm(F.T * (X.T * Omega * Y - T) * G),
        trace(Omega.T * (X * F * F.T * X.T) * Omega * (Y * G * G.T * Y.T))
        - 2 * Inner(X * F * F.T * T * G * G.T * Y.T, Omega)
        + SquaredNorm(F.T * T * G),
    ),
    "a real query bias": equal(
        SquaredNorm((E.T * X.T * Omega + a * beta.T) * Y * G - E.T * T * G),
        trace(Omega.T * S_r * Omega * S_s)
        + 2 * Inner(r_mean * beta.T * S_s, Omega)
        + Inner(a, a) * Inner(beta, S_s * beta)
        - 2 * Inner(X * E * E.T * T * G * G.T * Y.T, Omega)
        - 2 * Inner(Y * G * G.T * T.T * E * a, beta)
        + SquaredNorm(E.T * T * G),
    ),
    "completing the square": equal(
        trace(Omega.T * R * R * Omega * Q * Q) - 2 * Inner(Mid, Omega),
        SquaredNorm(R * Omega * Q - Gamma) - SquaredNorm(Gamma),
    ),
    "optimum": equal(Omega_H, pinv(R) * left * Gamma * pinv(Q)),
    "the optimum attains the truncation": equal(R * Omega_H * Q, left * Gamma),
    "a projection splits the loss": equal(
        SquaredNorm(Gamma - Theta), SquaredNorm(Gamma) - SquaredNorm(P * Gamma) + SquaredNorm(P * Gamma - Theta)
    ),
    "what a projection keeps": equal(SquaredNorm(P * svd), trace(U.T * P * U * Sigma * Sigma)),
    "a diagonal picks the weights": equal(
        total(w[k, l] * KroneckerDelta(l, k) * s[k], (l, 1, K), (k, 1, K)), total(w[k, k] * s[k], (k, 1, K))
    ),
    "weights are not negative": equal(Inner(u, P * u), SquaredNorm(P * u)),
    "weights are at most 1": at_least(SquaredNorm(u), Inner(u, P * u)),
    "the sum of weights": at_least(trace(P), trace(U.T * P * U)),
    "Eckart-Young": at_least(total(top[k], (k, 1, H)), kept + lost),
    "unique if there is room": at_least(total(top[k], (k, 1, H)) - kept - lost, delta * total(q[k], (k, 1, n))),
    "survivors": implies(aligned, equal(SquaredNorm(t * pinv(R) * x * y.T * pinv(Q)), t**2 * D_i * D_j)),
    "orthogonal pairs stay orthogonal": implies(
        [equal(R * x, ell * x), Ne(ell, 0), equal(x.T * other, 0)], equal((pinv(R) * x).T * pinv(R) * other, 0)
    ),
    "example: keeping the larger t sqrt(D_i D_j)": equal(example_loss(diag(0, Rational(3, 4))), 1),
    "example: keeping the larger sigma of Omega*": equal(example_loss(diag(1, 0)), Rational(9, 4)),
}


def proof(claim: Claim):
    """Whitening, then Eckart and Young by projections, then which pairs survive."""
    yield from claim.conclude("the loss of T5", "the loss is quadratic with A = S_r, B = S_s")
    yield from claim.conclude("a real query bias", "with (r; 1) for r, rank H for (Omega; b^T W_K) = (W_Q, b_Q)^T W_K")
    yield from claim.conclude("completing the square", "in whitened coordinates it is a distance from Gamma")
    at = {Omega_H: claim["optimum"].rhs}
    yield Identity("R^+ is symmetric and commutes with R", R * pinv(R) * pinv(R), pinv(R))
    yield from claim.conclude("the optimum attains the truncation", "R Omega_H Q = Gamma_H", at)
    gap = SquaredNorm(R * at[Omega_H] * Q - Gamma)
    yield Identity("so its loss is that of the truncation", gap, SquaredNorm(left * Gamma - Gamma), "optimum")
    yield from claim.conclude("a projection splits the loss", "the best Theta in a given column space is P Gamma")
    yield from claim.conclude("what a projection keeps", "|P Gamma|^2 = tr(U^T P U Sigma^2)")
    yield from claim.conclude("a diagonal picks the weights", "= sum_k sigma_k^2 u_k^T P u_k")
    yield from claim.conclude("weights are not negative", "p_k = |P u_k|^2")
    yield from claim.conclude("weights are at most 1", "P shortens", certificate=SquaredNorm((One(D) - P) * u))
    outside = SquaredNorm(P * (One(D) - U * U.T))
    yield from claim.conclude("the sum of weights", "sum_k p_k <= tr P", certificate=outside)
    room = delta * total(q[k], (k, 1, n))
    parted = (
        total((top[k] - c) * (1 - p[k]), (k, 1, H))
        + total((c - delta - bottom[k]) * q[k], (k, 1, n))
        + c * (H - weights)
    )
    yield Inequality("three non-negative terms", total(top[k], (k, 1, H)), kept + lost + room, parted)
    yield from claim.conclude("Eckart-Young", "no projection of rank H keeps more", certificate=parted + room)
    yield from claim.conclude("unique if there is room", "and none as much with q > 0", certificate=parted)
    yield from claim.conclude("survivors", "R^+ x = x/ell, Q^+ y = y/m")
    yield from claim.conclude("orthogonal pairs stay orthogonal", "so they are singular pairs of Gamma")
    for part in claim:
        if part.startswith("example"):
            yield from claim.conclude(part, part)


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
    x: ImmutableMatrix([3, 1]), R: diag(1, 2), ell: 5, other: ImmutableMatrix([1, 1]), Mid: diag(1, 3), left: eye(2),
    K: 1, E: ImmutableMatrix([1, 2]), a: ImmutableMatrix([1]), U: ImmutableMatrix([0, 1]), V: ImmutableMatrix([0, 1]),
    Sigma: diag(3),
}  # fmt: skip
counterexamples = {
    "R^+ is the pseudo-inverse of R": _values({pinv(R): ImmutableMatrix([[Rational(1, 2), 0], [1, 0]]), left: eye(2)}),
    "Q^+ is the pseudo-inverse of Q": _values({pinv(Q): ImmutableMatrix([[2, 0], [-2, Rational(1, 3)]])}),
    "M lies in the ranges": _values({Mid: ImmutableMatrix([[2, 1], [1, 0]]), left: eye(2)}),
    "P projects on the columns of Theta": _values({P: diag(0, 1)}),
    "singular vectors are orthonormal": _values({V: diag(2, 1)}),
    "the truncation is a projection on either side": _values({left: ImmutableMatrix([[1, 0], [1, 0]])}),
    "weights lie in [0, 1]": _values({p: [2], q: [-1, 0]}),
    "weights sum to at most H": _values({p: [1], q: [1, 1]}),
    "c parts the values with room delta": _values({bottom: [100, 1]}),
    "x and y are not zero": _values({x: ImmutableMatrix([0, 0])}),
}

theorem = Theorem(
    id="T7",
    title="Reduced-rank regression",
    statement=(
        "With moments A, B and middle matrix M, the best Omega of rank H is A^{+1/2} [A^{+1/2} M B^{+1/2}]_H "
        "B^{+1/2}, [.]_H the truncated SVD; it is unique iff the bracket's sigma_H > sigma_{H+1}. With aligned "
        "orthogonal features the surviving pairs are those with the largest |t_k| sqrt(D_i D_j), not the largest "
        "sigma_k of Omega*. With a query bias to train it is the same for (r; 1) instead of r."
    ),
    hypotheses=hypotheses,
    claim=claim,
    proof=proof,
    controls=(
        Control(
            "truncating Omega* itself is as good",
            {
                "example: keeping the larger sigma of Omega*": equal(
                    example_loss(diag(1, 0)), example_loss(diag(0, Rational(3, 4)))
                )
            },
        ),
        Control(
            "survivors by sigma_k of Omega*",
            {
                "survivors": implies(
                    aligned,
                    equal(
                        SquaredNorm(t * pinv(R) * x * y.T * pinv(Q)),
                        (t * D_i * D_j) ** 2 / (SquaredNorm(x) * SquaredNorm(y)),
                    ),
                )
            },
        ),
        Control("the optimum not unwhitened", {"optimum": equal(Omega_H, left * Gamma)}),
        Control(
            "a bias is asked for nothing: M without its last row",
            {
                "a real query bias": equal(
                    claim["a real query bias"].lhs,
                    claim["a real query bias"].rhs + 2 * Inner(Y * G * G.T * T.T * E * a, beta),
                )
            },
        ),
        Control("values not parted by c", without=("c parts the values with room delta",)),
        Control("more directions than H", without=("weights sum to at most H",)),
    ),
    scope="general D and H, moments of any rank; the example of truncating Omega* in exact numbers at D = 2",
    status="proved",
    functions=("svtheory.prediction.optimum.optimal_omega",),
    experiment="ledger",
    examples=(_values({}), _values(generic)),
    counterexamples=counterexamples,
    references=("Eckart and Young 1936", "Mirsky 1960", "Izenman 1975"),
)
