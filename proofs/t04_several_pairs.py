r"""T4. Several pairs.

For a matching :math:`T = E_x\tau E_y^T`, with :math:`\tau` diagonal, the optimum of T1 is :math:`\Omega = A\tau
B^T`, where the columns of A and B are the duals of the matched features. If they are orthogonal, :math:`A^TA = P^2,
B^TB = Q^2` with P, Q diagonal, then :math:`\Omega = (AP^{-1})(P|\tau|Q)(BQ^{-1}s)^T` is its singular decomposition,
s the signs of :math:`\tau`.

Split off one pair, :math:`\Omega = t xy^T + A_r\tau_rB_r^T`. If x and y are orthogonal to the others' duals it is a
singular pair. Conversely let :math:`\Omega y = cx`. Linearly independent duals have a left inverse R with :math:`RA
= I, Rx = 0`; hence :math:`\tau_rB_r^Ty = R\Omega y = cRx = 0`, and :math:`B_r^Ty = 0`. Likewise :math:`A_r^Tx = 0` from
:math:`\Omega^Tx = cy`.

Orthonormal features: :math:`\Omega = XTY^T`. A singular vector :math:`u = Xa` has :math:`TT^Ta = \sigma^2a`; for a
matching :math:`t_i^2a_i = \sigma^2a_i`, so that two non-zero entries need equal magnitudes. Conversely singular
vectors that are features say :math:`XTY^T = XE_x\Sigma E_y^TY^T`, whence :math:`T = E_x\Sigma E_y^T` is a matching;
and equal magnitudes allow mixtures.
"""

from __future__ import annotations

from sympy import ImmutableMatrix, Ne, Rational, Symbol, diag, eye, sqrt, symbols

from proofs.notation import (
    D,
    Inner,
    M,
    N,
    SquaredNorm,
    columns,
    conjunction,
    equal,
    implies,
    matrices,
)
from proofs.polytopes import squared_cosine
from proofs.verifier import Claim, Control, Identity, Theorem

K = Symbol("K", integer=True, positive=True)
A, B = matrices("A B", D, K)
U, V = matrices("U V", D, K)
tau, signs, P, P_inverse, Q, Q_inverse, Sigma = matrices("tau s P P_inverse Q Q_inverse Sigma", K, K)
A_r, B_r, tau_r, tau_r_inverse = *matrices("A_r B_r", D, K), *matrices("tau_r tau_r_inverse", K, K)
duals_x, duals_y, T = matrices("X_dual", D, N), matrices("Y_dual", D, M), matrices("T", N, M)
E_x, E_y = matrices("E_x", N, K), matrices("E_y", M, K)
R_x, R_y = matrices("R_x R_y", K, D)
x, y, u, v = columns("x y u v", D)
X, Y, a, t_row, e_j = matrices("X", D, N), matrices("Y", D, M), columns("a", N), *columns("t_row e_j", M)
x_1, x_2, y_1, y_2 = columns("x_1 x_2 y_1 y_2", D)
t, c, sigma, cosine, sine, a_i, a_j, t_i, t_j = symbols("t c sigma cos sin a_i a_j t_i t_j", real=True)

pair_and_rest = t * x * y.T + A_r * tau_r * B_r.T
orthogonal_to_rest = [equal(A_r.T * x, 0), equal(B_r.T * y, 0)]
orthonormal = [equal(X.T * X, 1), equal(Y.T * Y, 1)]
two_pairs = t * (x_1 * y_1.T + x_2 * y_2.T)
mixed_x, mixed_y = cosine * x_1 + sine * x_2, cosine * y_1 + sine * y_2

hypotheses = {
    "the duals are orthogonal": conjunction(equal(A.T * A, P * P), equal(B.T * B, Q * Q)),
    "their norms are not zero": conjunction(
        equal(P * P_inverse, 1), equal(P_inverse * P, 1), equal(Q * Q_inverse, 1), equal(Q_inverse * Q, 1)
    ),
    "P and Q are symmetric": conjunction(equal(P.T, P), equal(Q.T, Q)),
    "signs": conjunction(equal(signs * signs, 1), equal(signs.T, signs)),
    "signs commute with Q": equal(signs * Q, Q * signs),
    "the other targets are not zero": conjunction(equal(tau_r * tau_r_inverse, 1), equal(tau_r_inverse * tau_r, 1)),
    "the duals x are independent": conjunction(equal(R_x * A_r, 1), equal(R_x * x, 0)),
    "the duals y are independent": conjunction(equal(R_y * B_r, 1), equal(R_y * y, 0)),
    "orthonormal features": conjunction(*orthonormal),
    "two orthonormal pairs": conjunction(
        *(equal(left.T * right, int(left == right)) for left, right in [(x_1, x_1), (x_1, x_2), (x_2, x_2)]),
        *(equal(left.T * right, int(left == right)) for left, right in [(y_1, y_1), (y_1, y_2), (y_2, y_2)]),
    ),
    "a row of targets is not zero": Ne(SquaredNorm(t_row), 0),
    "e_j is a unit vector": equal(SquaredNorm(e_j), 1),
}
claim = {
    "optimum of a matching": implies(
        equal(T, E_x * tau * E_y.T), equal(duals_x * T * duals_y.T, (duals_x * E_x) * tau * (duals_y * E_y).T)
    ),
    "sigma": equal(Sigma, P * tau * signs * Q),
    "left": equal(U, A * P_inverse),
    "right": equal(V, B * Q_inverse * signs),
    "singular decomposition": equal(A * tau * B.T, U * Sigma * V.T),
    "orthonormal left vectors": equal(U.T * U, 1),
    "orthonormal right vectors": equal(V.T * V, 1),
    "orthogonal duals make a pair, right": implies(
        orthogonal_to_rest, equal(pair_and_rest * y, t * SquaredNorm(y) * x)
    ),
    "orthogonal duals make a pair, left": implies(
        orthogonal_to_rest, equal(pair_and_rest.T * x, t * SquaredNorm(x) * y)
    ),
    "a pair has orthogonal duals, right": implies(equal(pair_and_rest * y, c * x), equal(B_r.T * y, 0)),
    "a pair has orthogonal duals, left": implies(equal(pair_and_rest.T * x, c * y), equal(A_r.T * x, 0)),
    "orthonormal: eigenvectors of T T^T": implies(
        [equal(X * T * Y.T * v, sigma * X * a), equal(Y * T.T * a, sigma * v), Ne(sigma, 0)],
        equal(T * T.T * a, sigma**2 * a),
    ),
    "orthonormal: different magnitudes do not mix": implies(
        [equal(t_i**2 * a_i, sigma**2 * a_i), equal(t_j**2 * a_j, sigma**2 * a_j)],
        equal((t_i**2 - t_j**2) * a_i * a_j, 0),
    ),
    "orthonormal: features as singular vectors make a matching": implies(
        equal(X * T * Y.T, X * E_x * Sigma * E_y.T * Y.T), equal(T, E_x * Sigma * E_y.T)
    ),
    "orthonormal: equal magnitudes mix": conjunction(
        equal(two_pairs * mixed_y, t * mixed_x), equal(two_pairs.T * mixed_x, t * mixed_y)
    ),
    "one query feature, several keys: pair": conjunction(
        equal((x * t_row.T * Y.T) * (Y * t_row), SquaredNorm(t_row) * x),
        equal((x * t_row.T * Y.T).T * x, SquaredNorm(x) * (Y * t_row)),
    ),
    "one query feature, several keys: cosine": equal(
        squared_cosine(Y * t_row, Y * e_j), Inner(t_row, e_j) ** 2 / SquaredNorm(t_row)
    ),
}


def proof(claim: Claim):
    """The decomposition, the two directions of the condition, then orthonormal features."""
    yield from claim.conclude("optimum of a matching", "T1 for a matching is a sum over its pairs")
    svd = {symbol: claim[name].rhs for symbol, name in ((Sigma, "sigma"), (U, "left"), (V, "right"))}
    yield from claim.conclude("singular decomposition", "Omega = U Sigma V^T", svd)
    yield from claim.conclude("orthonormal left vectors", "A^T A = P^2", svd)
    yield from claim.conclude("orthonormal right vectors", "B^T B = Q^2 and s^2 = 1", svd)
    omega = A * tau * B.T
    yield Identity("Omega V = U Sigma", omega * svd[V], svd[U] * svd[Sigma], "right")
    yield Identity("Omega^T U = V Sigma", omega.T * svd[U], svd[V] * svd[Sigma].T, "left")
    yield Identity("Sigma = P |tau| Q, a product of diagonal matrices", svd[U].T * omega * svd[V], svd[Sigma], "sigma")
    for side in ("right", "left"):
        yield from claim.conclude(f"orthogonal duals make a pair, {side}", "the other pairs drop out")
        yield from claim.conclude(f"a pair has orthogonal duals, {side}", "the left inverse of the other duals")
    yield from claim.conclude("orthonormal: eigenvectors of T T^T", "u = X a with T T^T a = sigma^2 a")
    yield from claim.conclude("orthonormal: different magnitudes do not mix", "t_i^2 a_i = sigma^2 a_i for every i")
    part = "orthonormal: features as singular vectors make a matching"
    yield from claim.conclude(part, "multiply by X^T and Y")
    yield from claim.conclude("orthonormal: equal magnitudes mix", "any rotation of two equal pairs is a singular pair")
    yield from claim.conclude("one query feature, several keys: pair", "rank one, with v along sum t_j y_j")
    yield from claim.conclude("one query feature, several keys: cosine", "cos(v, y_j) = |t_j|/sqrt(sum t^2)")


def _values(changes: dict) -> dict:
    """Exact values for every symbol; the decomposition follows from its parts."""
    unit, frame = eye(4), ImmutableMatrix([[1, 0], [0, 1], [1, 0], [0, 0]])
    values = {
        D: 4, N: 2, M: 2, K: 2, A: frame, B: 3 * frame, P: diag(sqrt(2), 1), P_inverse: diag(1 / sqrt(2), 1),
        Q: 3 * diag(sqrt(2), 1), Q_inverse: diag(1 / sqrt(2), 1) / 3, tau: diag(2, -1), signs: diag(1, -1),
        A_r: frame, B_r: 3 * frame, tau_r: diag(2, -1), tau_r_inverse: diag(Rational(1, 2), -1),
        R_x: frame.pinv(), R_y: frame.pinv() / 3, x: unit[:, 3], y: 2 * unit[:, 3], t: 5, c: 20,
        duals_x: frame, duals_y: 3 * frame, T: diag(2, -1), E_x: eye(2), E_y: eye(2), X: unit[:, :2], Y: unit[:, 1:3],
        a: ImmutableMatrix([1, 0]), v: unit[:, 1], u: unit[:, 0], sigma: 2, t_i: 2, t_j: 3, a_i: 1, a_j: 0,
        t_row: ImmutableMatrix([3, 4]), e_j: ImmutableMatrix([1, 0]), cosine: Rational(3, 5), sine: Rational(4, 5),
        x_1: unit[:, 0], x_2: unit[:, 1], y_1: unit[:, 2], y_2: unit[:, 3], **changes,
    }  # fmt: skip
    decomposition = {
        Sigma: values[P] * values[tau] * values[signs] * values[Q],
        U: values[A] * values[P_inverse],
        V: values[B] * values[Q_inverse] * values[signs],
    }
    return {**values, **decomposition}


plane = eye(4)[:, :2]
twisted, swap = ImmutableMatrix([[1, 1], [0, -1]]), ImmutableMatrix([[0, 1], [1, 0]])
leaning = ImmutableMatrix([[1, 0], [0, 1], [1, 0], [1, 0]])
generic = {
    A_r: leaning, B_r: leaning, R_x: plane.T, R_y: plane.T, T: ImmutableMatrix([[1, 2], [3, 4]]), a_j: 1,
    v: ImmutableMatrix([1, 2, 3, 4]),
}  # fmt: skip
counterexamples = {
    "the duals are orthogonal": _values({A: ImmutableMatrix([[1, 1], [0, 1], [1, 0], [0, 0]])}),
    "their norms are not zero": _values({P_inverse: eye(2)}),
    "P and Q are symmetric": _values({A: plane, P: twisted, P_inverse: twisted}),
    "signs": _values({signs: diag(1, 2)}),
    "signs commute with Q": _values({signs: swap}),
    "the other targets are not zero": _values({B_r: leaning, R_y: plane.T, tau_r: diag(0, 1)}),
    "the duals x are independent": _values({A_r: eye(4)[:, [3, 0]], B_r: leaning, R_y: plane.T, c: 24}),
    "the duals y are independent": _values({B_r: eye(4)[:, [3, 0]], A_r: leaning, R_x: plane.T, t: 5, c: 6}),
    "orthonormal features": _values({Y: 2 * eye(4)[:, 1:3]}),
    "two orthonormal pairs": _values({y_2: ImmutableMatrix([0, 0, 1, 1])}),
    "a row of targets is not zero": _values({t_row: ImmutableMatrix([0, 0])}),
    "e_j is a unit vector": _values({e_j: ImmutableMatrix([0, 0])}),
}

theorem = Theorem(
    id="T4",
    title="Several pairs",
    statement=(
        "For a matching T = sum_k t_k e_{i_k} e_{j_k}^T with mutually orthogonal duals on either side, the SVD of "
        "Omega* is sigma_k = |t_k||x~_{i_k}||y~_{j_k}| on those duals. For linearly independent duals, pair k is a "
        "singular pair iff its x~ and y~ are orthogonal to the other pairs'. Orthonormal features: every SVD has "
        "feature vectors as singular vectors iff T has at most one non-zero in each row and column and their "
        "magnitudes differ. One query feature matched with several orthonormal keys makes one singular pair, "
        "cos(v, y_j) = |t_j|/sqrt(sum t^2)."
    ),
    hypotheses=hypotheses,
    claim=claim,
    proof=proof,
    controls=(
        Control("duals that are not orthogonal", without=("the duals are orthogonal",)),
        Control("singular values without the key norms", {"sigma": equal(Sigma, P * tau * signs)}),
        Control(
            "any matched pair is a singular pair",
            {"orthogonal duals make a pair, right": equal(pair_and_rest * y, t * SquaredNorm(y) * x)},
        ),
        Control("dependent duals", without=("the duals x are independent",)),
        Control(
            "two key features mixed in other proportions",
            {"orthonormal: equal magnitudes mix": equal(two_pairs * mixed_y, t * (sine * x_1 + cosine * x_2))},
        ),
        Control(
            "T that is not a matching has features as singular vectors",
            {"one query feature, several keys: cosine": equal(squared_cosine(Y * t_row, Y * e_j), 1)},
        ),
    ),
    scope="general D, N, M and number of pairs",
    status="proved",
    functions=("svtheory.prediction.optimum.predict", "svtheory.criteria.pairs.pair_structure"),
    experiment="ledger",
    examples=(_values({}), _values(generic), _values({T: diag(12, 3)})),
    counterexamples=counterexamples,
)
