r"""T4. Several pairs.

For a matching :math:`T = \sum_k t_k e_{i_k} e_{j_k}^T` with mutually orthogonal duals on either side, the singular
decomposition of :math:`\Omega^*` is :math:`\sigma_k = |t_k|\,|\tilde x_{i_k}|\,|\tilde y_{j_k}|` on those duals. For
linearly independent duals, pair k is a singular pair if and only if its :math:`\tilde x` and :math:`\tilde y` are
orthogonal to the other pairs'. With orthonormal features every decomposition has feature vectors as singular vectors if
and only if T has at most one non-zero entry in each row and column and their magnitudes differ. One query feature
matched with several orthonormal keys makes one singular pair, :math:`\cos(v, y_j) = |t_j|/\sqrt{\sum t^2}`.

Predicts: one query feature matched alike with four orthonormal keys has :math:`\cos(v, y_j) = \frac12` with each of
them.

Why: for a matching :math:`T = E_x\tau E_y^T`, with :math:`\tau` diagonal, the optimum of T1 is :math:`\Omega = A\tau
B^T`, where the columns of A and B are the duals of the matched features. If they are orthogonal, :math:`A^TA = P^2,
B^TB = Q^2` with P, Q diagonal, then :math:`\Omega = (AP^{-1})(P|\tau|Q)(BQ^{-1}s)^T` is its singular decomposition, s
the signs of :math:`\tau`.

Split off one pair, :math:`\Omega = t xy^T + A_r\tau_rB_r^T`. If x and y are orthogonal to the others' duals it is a
singular pair. Conversely let :math:`\Omega y = cx`. Linearly independent duals have a left inverse R with :math:`RA =
I, Rx = 0`; hence :math:`\tau_rB_r^Ty = R\Omega y = cRx = 0`, and :math:`B_r^Ty = 0`. Likewise :math:`A_r^Tx = 0` from
:math:`\Omega^Tx = cy`.

Orthonormal features: :math:`\Omega = XTY^T`. A singular vector :math:`u = Xa` has :math:`TT^Ta = \sigma^2a`; for a
matching :math:`t_i^2a_i = \sigma^2a_i`, so that two non-zero entries need equal magnitudes. Conversely singular vectors
that are features say :math:`XTY^T = XE_x\Sigma E_y^TY^T`, whence :math:`T = E_x\Sigma E_y^T` is a matching; and equal
magnitudes allow mixtures.
"""

from sympy import ImmutableMatrix, Ne, Rational, Symbol, diag, eye, sqrt, symbols

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices
from proofs.engine.polytopes import squared_cosine
from proofs.engine.statements import conjunction, equal, implies, orthonormal
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem

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
two_pairs = t * (x_1 * y_1.T + x_2 * y_2.T)
mixed_x, mixed_y = cosine * x_1 + sine * x_2, cosine * y_1 + sine * y_2

orthogonal_duals = Hypothesis("the duals are orthogonal", equal(A.T * A, P * P), equal(B.T * B, Q * Q))
some_norms = Hypothesis("their norms are not zero", equal(P * P_inverse, 1), equal(P_inverse * P, 1),
                        equal(Q * Q_inverse, 1), equal(Q_inverse * Q, 1))  # fmt: skip
symmetric_norms = Hypothesis("P and Q are symmetric", equal(P.T, P), equal(Q.T, Q))
are_signs = Hypothesis("signs", equal(signs * signs, 1), equal(signs.T, signs))
commuting = Hypothesis("signs commute with Q", equal(signs * Q, Q * signs))
some_targets = Hypothesis("the other targets are not zero", equal(tau_r * tau_r_inverse, 1),
                          equal(tau_r_inverse * tau_r, 1))  # fmt: skip
independent_x = Hypothesis("the duals x are independent", equal(R_x * A_r, 1), equal(R_x * x, 0))
independent_y = Hypothesis("the duals y are independent", equal(R_y * B_r, 1), equal(R_y * y, 0))
orthonormal_features = Hypothesis("orthonormal features", equal(X.T * X, 1), equal(Y.T * Y, 1))
orthonormal_pairs = Hypothesis("two orthonormal pairs", orthonormal(x_1, x_2), orthonormal(y_1, y_2))
some_row = Hypothesis("a row of targets is not zero", Ne(SquaredNorm(t_row), 0))
unit_e = Hypothesis("e_j is a unit vector", equal(SquaredNorm(e_j), 1))
omega = A * tau * B.T

lemmas = (
    Lemma("optimum of a matching",
          implies(equal(T, E_x * tau * E_y.T),
                  equal(duals_x * T * duals_y.T, (duals_x * E_x) * tau * (duals_y * E_y).T)),
          "T1 for a matching is a sum over its pairs"),
    Definition("sigma", equal(Sigma, P * tau * signs * Q)),
    Definition("left", equal(U, A * P_inverse)),
    Definition("right", equal(V, B * Q_inverse * signs)),
    Lemma("singular decomposition", equal(A * tau * B.T, U * Sigma * V.T), "Omega = U Sigma V^T",
          given=[some_norms, symmetric_norms, are_signs, commuting], where=["sigma", "left", "right"]),
    Lemma("orthonormal left vectors", equal(U.T * U, 1), "A^T A = P^2",
          given=[orthogonal_duals, some_norms, symmetric_norms], where=["left"]),
    Lemma("orthonormal right vectors", equal(V.T * V, 1), "B^T B = Q^2 and s^2 = 1",
          given=[orthogonal_duals, some_norms, symmetric_norms, are_signs], where=["right"]),
    Lemma("Omega V = U Sigma", equal(omega * V, U * Sigma), "V has orthonormal columns",
          given=[orthogonal_duals, some_norms, commuting], where=["right", "left", "sigma"]),
    Lemma("Omega^T U = V Sigma", equal(omega.T * U, V * Sigma.T), "and so has U",
          given=[orthogonal_duals, some_norms, symmetric_norms, are_signs, commuting],
          where=["left", "right", "sigma"]),
    Lemma("Sigma = P |tau| Q, a product of diagonal matrices", equal(U.T * omega * V, Sigma),
          "the values are on the diagonal", given=[orthogonal_duals, some_norms, symmetric_norms, commuting],
          where=["left", "right", "sigma"]),
    Lemma("orthogonal duals make a pair, right",
          implies(orthogonal_to_rest, equal(pair_and_rest * y, t * SquaredNorm(y) * x)), "the other pairs drop out"),
    Lemma("a pair has orthogonal duals, right", implies(equal(pair_and_rest * y, c * x), equal(B_r.T * y, 0)),
          "the left inverse of the other duals", given=[some_targets, independent_x]),
    Lemma("orthogonal duals make a pair, left",
          implies(orthogonal_to_rest, equal(pair_and_rest.T * x, t * SquaredNorm(x) * y)), "the other pairs drop out"),
    Lemma("a pair has orthogonal duals, left", implies(equal(pair_and_rest.T * x, c * y), equal(A_r.T * x, 0)),
          "the left inverse of the other duals", given=[some_targets, independent_y]),
    Lemma("orthonormal: eigenvectors of T T^T",
          implies([equal(X * T * Y.T * v, sigma * X * a), equal(Y * T.T * a, sigma * v), Ne(sigma, 0)],
                  equal(T * T.T * a, sigma**2 * a)), "u = X a with T T^T a = sigma^2 a", given=[orthonormal_features]),
    Lemma("orthonormal: different magnitudes do not mix",
          implies([equal(t_i**2 * a_i, sigma**2 * a_i), equal(t_j**2 * a_j, sigma**2 * a_j)],
                  equal((t_i**2 - t_j**2) * a_i * a_j, 0)), "t_i^2 a_i = sigma^2 a_i for every i"),
    Lemma("orthonormal: features as singular vectors make a matching",
          implies(equal(X * T * Y.T, X * E_x * Sigma * E_y.T * Y.T), equal(T, E_x * Sigma * E_y.T)),
          "multiply by X^T and Y", given=[orthonormal_features]),
    Lemma("orthonormal: equal magnitudes mix",
          conjunction(equal(two_pairs * mixed_y, t * mixed_x), equal(two_pairs.T * mixed_x, t * mixed_y)),
          "any rotation of two equal pairs is a singular pair", given=[orthonormal_pairs]),
    Lemma("one query feature, several keys: pair",
          conjunction(equal((x * t_row.T * Y.T) * (Y * t_row), SquaredNorm(t_row) * x),
                      equal((x * t_row.T * Y.T).T * x, SquaredNorm(x) * (Y * t_row))),
          "rank one, with v along sum t_j y_j", given=[orthonormal_features]),
    Lemma("one query feature, several keys: cosine",
          equal(squared_cosine(Y * t_row, Y * e_j), Inner(t_row, e_j) ** 2 / SquaredNorm(t_row)),
          "cos(v, y_j) = |t_j|/sqrt(sum t^2)", given=[orthonormal_features, some_row, unit_e]),
)  # fmt: skip


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
    orthogonal_duals: _values({A: ImmutableMatrix([[1, 1], [0, 1], [1, 0], [0, 0]])}),
    some_norms: _values({P_inverse: eye(2)}),
    symmetric_norms: _values({A: plane, P: twisted, P_inverse: twisted}),
    are_signs: _values({signs: diag(1, 2)}),
    commuting: _values({signs: swap}),
    some_targets: _values({B_r: leaning, R_y: plane.T, tau_r: diag(0, 1)}),
    independent_x: _values({A_r: eye(4)[:, [3, 0]], B_r: leaning, R_y: plane.T, c: 24}),
    independent_y: _values({B_r: eye(4)[:, [3, 0]], A_r: leaning, R_x: plane.T, t: 5, c: 6}),
    orthonormal_features: _values({Y: 2 * eye(4)[:, 1:3]}),
    orthonormal_pairs: _values({y_2: ImmutableMatrix([0, 0, 1, 1])}),
    some_row: _values({t_row: ImmutableMatrix([0, 0])}),
    unit_e: _values({e_j: ImmutableMatrix([0, 0])}),
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("duals that are not orthogonal", orthogonal_duals),
        Control("singular values without the key norms", "sigma", P * tau * signs),
        Control("any matched pair is a singular pair", "orthogonal duals make a pair, right",
                equal(pair_and_rest * y, t * SquaredNorm(y) * x)),
        Control("dependent duals", independent_x),
        Control("two key features mixed in other proportions", "orthonormal: equal magnitudes mix",
                equal(two_pairs * mixed_y, t * (sine * x_1 + cosine * x_2))),
        Control("T that is not a matching has features as singular vectors", "one query feature, several keys: cosine",
                1),
    ),
    scope="general D, N, M and number of pairs", status="proved",
    functions=("svtheory.prediction.optimum.predict", "svtheory.criteria.pairs.pair_structure"),
    examples=(_values({}), _values(generic), _values({T: diag(12, 3)})), counterexamples=counterexamples,
)  # fmt: skip
