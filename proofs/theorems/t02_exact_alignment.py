r"""T2. Exact alignment, if and only if.

(a) The dual of :math:`x_i` is parallel to :math:`x_i` if and only if :math:`x_i` is an eigenvector of :math:`S_X =
XX^T`. (b) All features are aligned if and only if the non-zero ones split into mutually orthogonal groups, each a tight
frame of its span; orbits of irreducible groups are tight. (c) If both features of a pair are aligned,

.. math:: \sigma = \frac{|t|\,D_i D_j}{|x_i|\,|y_j|} , \qquad D_i = \frac{|x_i|^4}{|X^T x_i|^2} ,

quantised by the polytope: :math:`D_i = 1, 1/2, 2/3, 3/4, 2/5`; in general :math:`\sigma` is at least this, with
equality if and only if both are aligned. (d) A mean breaks this at population level, unless :math:`X\mu = 0`.

Predicts: unit features in antipodal pairs on either side give :math:`\sigma = |t|/4`, in triangles :math:`\frac49|t|`;
in a square antiprism, which is not tight, the cosine falls to 0.987.

Why: (a) With :math:`S = XX^T`, the dual of a column x is :math:`S^+x`. If :math:`Sx = \lambda x` then :math:`x = S^+Sx
= \lambda S^+x`; conversely :math:`x = \lambda S^+x` gives :math:`Sx = \lambda SS^+x = \lambda x`.

(b) Take the features of one eigenvalue as :math:`X_1` and all others as :math:`X_2`, so :math:`SX_1 = \lambda X_1` and
:math:`SX_2 = X_2 \Lambda`, where :math:`\lambda I - \Lambda` is invertible. As S is symmetric, :math:`X_1^TX_2(\lambda
I - \Lambda) = 0`, hence :math:`X_1^TX_2 = 0`; then :math:`\lambda X_1 = SX_1 = X_1X_1^TX_1`, so that the group is
tight. Conversely :math:`SX_1 = X_1X_1^TX_1 + X_2(X_1^TX_2)^T`. Orbits: if :math:`GX = X\Pi` with G orthogonal and
:math:`\Pi` a permutation, S commutes with G, so its eigenspaces are invariant under the group; for an irreducible group
an eigenspace is the whole space, and the frame is tight.

(c) Two uses of Cauchy-Schwarz, with :math:`a = |x|^2, b = x^TSx, c = x^TS^+x, d = |S^+x|^2`: :math:`ad \ge c^2` and
:math:`bc \ge a^2`. Hence :math:`|\tilde x|^2|x|^2 = ad \ge a^4/b^2 = D_i^2`, with equality only if :math:`S^+x
\parallel x`.

(d) With a mean, :math:`S_r = X(wI + \mu\mu^T)X^T`; a tight frame in exact coordinates shows the loss of alignment, and
:math:`X\mu = 0` restores it.
"""

from sympy import Identity as One
from sympy import ImmutableMatrix, Ne, Rational, diag, eye, ones, sqrt, symbols

from proofs.engine.notation import D, M, N, SquaredNorm, columns, matrices, pinv
from proofs.engine.polytopes import POLYTOPES, SQUARE_ANTIPRISM, TRIANGULAR_PRISM, dimensionality, dual, squared_cosine
from proofs.engine.statements import at_least, equal, implies
from proofs.engine.verifier import Control, Hypothesis, Lemma, Theorem, pseudo_inverse

X, Y = matrices("X", D, N), matrices("Y", D, M)
e_i, e_j, m = columns("e_i", N), columns("e_j", M), columns("mu", N)
lam, mu, t, w = symbols("lambda mu t w", real=True)
variance, mean = symbols("a b", positive=True)
X_1, X_2 = matrices("X_1", D, N), matrices("X_2", D, M)
Lam, R = matrices("Lambda R", M, M)
G, Pi, g = matrices("G", D, D), matrices("Pi", N, N), columns("g", D)
x, y, S = X * e_i, Y * e_j, X * X.T
dual_x, dual_y = pinv(X).T * e_i, pinv(Y).T * e_j
D_i, D_j = dimensionality(X, x), dimensionality(Y, y)
joint = X_1 * X_1.T + X_2 * X_2.T
groups = [equal(joint * X_1, lam * X_1), equal(joint * X_2, X_2 * Lam)]
tight_groups = [equal(X_1.T * X_2, 0), equal(X_1 * X_1.T * X_1, lam * X_1)]
eigenvectors = [equal(S * x, lam * x), equal(Y * Y.T * y, mu * y)]
aligned = [equal(lam * dual_x, x), equal(mu * dual_y, y)]
symmetry = [equal(G.T * G, 1), equal(G * G.T, 1), equal(Pi * Pi.T, 1), equal(G * X, X * Pi)]
law = w * One(N) + m * m.T
with_mean = ImmutableMatrix([[1, 0, -1, 0], [0, 1, 0, 1]])
moments = variance * eye(4) + mean**2 * ones(4, 4)
probe = (with_mean * moments * with_mean.T).inv() * with_mean * moments[:, 0]

X_plus = pseudo_inverse(X)
Y_plus = pseudo_inverse(Y)
some_x = Hypothesis("x_i is not zero", Ne(SquaredNorm(x), 0), Ne(SquaredNorm(X.T * x), 0))
some_y = Hypothesis("y_j is not zero", Ne(SquaredNorm(y), 0), Ne(SquaredNorm(Y.T * y), 0))
parted = Hypothesis("the group's eigenvalue differs from the others", equal((lam * One(M) - Lam) * R, 1))
squared_sigma = t**2 * SquaredNorm(dual_x) * SquaredNorm(dual_y)
quantised = (t * D_i * D_j) ** 2 / (SquaredNorm(x) * SquaredNorm(y))
excess = SquaredNorm(x) * SquaredNorm(dual_x) - D_i**2
misaligned = SquaredNorm(x) * SquaredNorm(dual_x - SquaredNorm(pinv(X) * x) / SquaredNorm(x) * x)


def gap(frame, column, its_dual):
    """``ad - a^4/b^2`` as ``(ad - c^2) + (bc - a^2)(bc + a^2)/b^2``, each a norm times non-negative numbers."""
    a, b, c = SquaredNorm(column), SquaredNorm(frame.T * column), SquaredNorm(pinv(frame) * column)
    return (
        a * SquaredNorm(its_dual - c / a * column),
        SquaredNorm(pinv(frame) * column - a / b * frame.T * column) * (c + a**2 / b),
    )


def to_first_column(frame):
    """``cos^2`` between the first column and its dual."""
    return squared_cosine(dual(frame, frame[:, 0]), frame[:, 0])


gap_x, gap_y = gap(X, x, dual_x), gap(Y, y, dual_y)
both_gaps = sum(gap_x) / SquaredNorm(x) * SquaredNorm(dual_y) + D_i**2 / SquaredNorm(x) * sum(gap_y) / SquaredNorm(y)

lemmas = (
    Lemma("an eigenvector is aligned", implies(eigenvectors[0], aligned[0]),
          "S x = lambda x gives x = S^+ S x = lambda S^+ x", given=[X_plus]),
    Lemma("an aligned feature is an eigenvector", implies(aligned[0], eigenvectors[0]),
          "x = lambda S^+ x gives S x = lambda x", given=[X_plus]),
    Lemma("X^T x_i vanishes only with x_i", implies(equal(X.T * x, 0), equal(x, 0)),
          "x = (X^T)^+ X^T x for a column x of X", given=[X_plus]),
    Lemma("eigenvalues make orthogonal groups", implies(groups, tight_groups[0]), "X_1^T X_2 (lambda - Lambda) = 0",
          given=[parted]),
    Lemma("each group is tight", implies(groups, tight_groups[1]), "the others drop out of S X_1", given=[parted]),
    Lemma("orthogonal tight groups are aligned", implies(tight_groups, groups[0]),
          "S acts on a group as its own frame operator"),
    Lemma("one feature orthogonal to all others",
          implies(equal(g.T * X_2, 0), equal((g * g.T + X_2 * X_2.T) * g, SquaredNorm(g) * g)),
          "a group of one member"),
    Lemma("a symmetry commutes with S", implies(symmetry, equal(G * S, S * G)), "G X X^T G^T = X Pi Pi^T X^T = S"),
    Lemma("a symmetry keeps eigenspaces", implies([*symmetry, equal(S * g, lam * g)], equal(S * G * g, lam * G * g)),
          "so the eigenspaces are invariant"),
    Lemma("sigma of an aligned pair", implies(eigenvectors, equal(squared_sigma, quantised)),
          "|x~| = |x|/lambda = D_i/|x|", given=[X_plus, Y_plus, some_x, some_y]),
    Lemma("|x~|^2|x|^2 >= D_i^2", at_least(excess + D_i**2, D_i**2), "Cauchy-Schwarz twice", given=[X_plus, some_x],
          certificate=sum(gap_x)),
    Lemma("sigma at least", at_least(squared_sigma, quantised), "both factors of sigma",
          given=[X_plus, Y_plus, some_x, some_y], certificate=t**2 * both_gaps),
    Lemma("what equality leaves", at_least(sum(gap_x), misaligned),
          "the first term of the gap is |x|^2 |S^+x - (c/a)x|^2", given=[some_x], certificate=gap_x[1]),
    Lemma("equality only if aligned", at_least(excess, misaligned), "the gap is at least |S^+x - (c/a)x|^2",
          given=[X_plus, some_x], certificate=gap_x[1]),
    *(Lemma(f"{name}: tight", equal(F * F.T, Rational(F.cols, F.rows) * eye(F.rows)), "in exact coordinates")
      for name, (F, _) in POLYTOPES.items()),
    *(Lemma(f"{name}: D_i", equal(dimensionality(F, F[:, 0]), value), "in exact coordinates")
      for name, (F, value) in POLYTOPES.items()),
    Lemma("square antiprism", equal(to_first_column(SQUARE_ANTIPRISM), 9 / (5 + 3 * sqrt(2))), "in exact coordinates"),
    Lemma("triangular prism", equal(to_first_column(TRIANGULAR_PRISM), Rational(27, 28)), "in exact coordinates"),
    Lemma("a mean misaligns a tight frame",
          equal(squared_cosine(probe, with_mean[:, 0]), 1 / (1 + (2 * mean**2 / (variance + 2 * mean**2)) ** 2)),
          "columns e_1, e_2, -e_1, e_2, in exact coordinates"),
    Lemma("no mean token: the probe target", implies(equal(X * m, 0), equal(X * law * e_i, w * x)),
          "X C e_i = w x_i when X mu = 0"),
    Lemma("no mean token: the second moment", implies(equal(X * m, 0), equal(X * law * X.T, w * S)),
          "and S_r = w S, so that T1 applies"),
)  # fmt: skip


def _values(changes: dict) -> dict:
    """Exact values for every symbol: an orthonormal frame taken twice, with one sign turned."""
    unit = eye(4)
    frame = unit[:, 0].row_join(unit[:, 1]).row_join(-unit[:, 0]).row_join(unit[:, 1])
    return {
        D: 4, N: 4, M: 3, X: frame, e_i: unit[:, 0], m: ImmutableMatrix([1, 0, 1, 0]), w: 2, t: 3, variance: 3,
        mean: 2, Y: ImmutableMatrix([[2, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]]),
        e_j: ImmutableMatrix([1, 0, 0]), lam: 2, mu: 4, X_1: frame,
        X_2: ImmutableMatrix([[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 2]]), Lam: diag(1, 5, 5),
        R: diag(1, -Rational(1, 3), -Rational(1, 3)), g: unit[:, 0], G: diag(-1, 1, 1, 1),
        Pi: ImmutableMatrix([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]), **changes,
    }  # fmt: skip


generic = {
    D: 2, N: 2, M: 2, X: ImmutableMatrix([[1, 1], [0, 1]]), e_i: ImmutableMatrix([1, 0]),
    m: ImmutableMatrix([1, 1]), Y: ImmutableMatrix([[1, 2], [0, 1]]), e_j: ImmutableMatrix([1, 0]),
    X_1: ImmutableMatrix([[1, 0], [1, 1]]), X_2: ImmutableMatrix([[1, 1], [0, 2]]), Lam: diag(1, 5),
    R: diag(1, -Rational(1, 3)), g: ImmutableMatrix([1, 2]), G: ImmutableMatrix([[0, 1], [1, 1]]),
    Pi: ImmutableMatrix([[0, 1], [1, 0]]),
}  # fmt: skip
examples = (_values({}), _values({e_j: ImmutableMatrix([1, 1, 0])}), _values(generic))
counterexamples = {
    X_plus: _values({pinv(X): eye(4)}),
    Y_plus: {**examples[1], pinv(Y): ones(3, 4) / 100},
    some_x: _values({e_i: ImmutableMatrix([0, 0, 0, 0])}),
    some_y: _values({e_j: ImmutableMatrix([0, 0, 0])}),
    parted: _values({X_1: diag(1, 0, 0, 0), X_2: ImmutableMatrix(4, 3, [1] + 11 * [0]), Lam: diag(2, 2, 2)}),
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("every uniform polytope is aligned: the square antiprism", "square antiprism",
                equal(dual(SQUARE_ANTIPRISM, SQUARE_ANTIPRISM[:, 0]), SQUARE_ANTIPRISM[:, 0] / 4)),
        Control("every uniform polytope is aligned: the triangular prism", "triangular prism", 1),
        Control("a pentagon has D_i = 1/2", "pentagon: D_i", Rational(1, 2)),
        Control("any feature is aligned", "an eigenvector is aligned", aligned[0]),
        Control("tight groups need not be orthogonal", "orthogonal tight groups are aligned",
                implies(tight_groups[1], groups[0])),
        Control("groups of one eigenvalue are orthogonal", parted),
        Control("a mean does no harm", "a mean misaligns a tight frame", 1),
    ),
    scope="general D, N, M; the polytopes and the example with a mean in exact coordinates", status="proved",
    functions=("svtheory.geometry.tightness.eigenvector_residual", "svtheory.geometry.tightness.tight_groups",
               "svtheory.geometry.tightness.quantised_values",
               "svtheory.geometry.frames.feature_dimensionality"),
    examples=examples, counterexamples=counterexamples, references=("Benedetto and Fickus 2003", "Elhage et al. 2022"),
)  # fmt: skip
