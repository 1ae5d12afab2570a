r"""T22. Balanced reading: alignment without isotropy.

Read each mode of :math:`A^{1/2}\Omega B^{1/2}`, A and B the token moments, as a pattern :math:`A^{1/2}\tilde u` beside
its probe :math:`A^{+1/2}\tilde u`. Under an invertible change of basis of the tokens values stay, patterns go with it
and probes with its inverse transpose. At the optimum, with uncorrelated activations, a matched feature is a pattern
exactly, on both sides, if no other matched feature shares its leverage; then

.. math:: \tilde\sigma = |t|\sqrt{c_i\,c_j\,L_{ii}\,L'_{jj}} .

Linearly independent features share none, whatever their angles and lengths.

Predicts: of two unit columns at :math:`\cos = 3/5` the leverages are 1 and patterns are the columns, where a raw
singular vector of a pair has :math:`\cos = 4/5` with its feature.

Why: any root of a moment serves; take :math:`Z = XC_r^{1/2} = XF` and :math:`Z_k = YG`, so that :math:`A = ZZ^T, B =
Z_kZ_k^T`. At the optimum (T5) the whitened head is :math:`Z^T\Omega^*Z_k = L\,F^TTG\,L'` with the leverages :math:`L =
Z^+Z`, a projection. Of :math:`T = te_ie_j^T + T_0` the rest :math:`T_0` does not meet :math:`L'e_j` if
:math:`T_0GL'e_j = 0`; then, with :math:`Fe_i = f_ie_i` and :math:`Ge_j = g_je_j`,

.. math:: (Z^T\Omega^*Z_k)\,L'e_j = t f_i g_j\,|L'e_j|^2\;Le_i ,

and the same for the transpose: a singular pair. Its pattern is :math:`Z\,Le_i = Ze_i = f_ix_i`. For independent
features and invertible F the leverage is the identity.
"""

from sympy import Identity as One
from sympy import ImmutableMatrix, Rational, Symbol, diag, eye, symbols

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices, norm, pinv, trace
from proofs.engine.polytopes import squared_cosine
from proofs.engine.statements import equal, implies, penrose
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem, pseudo_inverse
from proofs.theorems import t05_population_probes as t05

K = Symbol("K", integer=True, positive=True)
X, Y, T_0 = matrices("X", D, N), matrices("Y", D, M), matrices("T_0", N, M)
F, G, Z, W = matrices("F", N, N), matrices("G", M, M), matrices("Z", D, N), matrices("Z_k", D, M)
Omega, any_head, turn, back, turn_k, back_k = matrices("Omega Omega' Q Q^-1 P P^-1", D, D)
R, S = matrices("R", D, K), matrices("S", D, K)
e_i, e_j, probe = columns("e_i", N), columns("e_j", M), columns("p", D)
inverse_F = matrices("F_inverse", N, N)
t, f_i, g_j, sigma = symbols("t f_i g_j sigma", real=True)
T = t * e_i * e_j.T + T_0
L_r, L_s = pinv(Z) * Z, pinv(W) * W
whitened = Z.T * Omega * W
at_optimum = t05.optimum.xreplace({t05.T: T, t05.W: W})

root_Z = Hypothesis("Z = X C_r^(1/2)", equal(X * F, Z))
root_W = Hypothesis("Z_k = Y C_s^(1/2)", equal(Y * G, W))
Z_plus = pseudo_inverse(Z)
W_plus = pseudo_inverse(W)
uncorrelated = Hypothesis("activations are uncorrelated and centred", equal(F * e_i, f_i * e_i), equal(F.T, F),
                          equal(G * e_j, g_j * e_j), equal(G.T, G))  # fmt: skip
apart_s = Hypothesis("no other matched key shares the leverage of j", equal(T_0 * G * L_s * e_j, 0))
apart_r = Hypothesis("no other matched query shares the leverage of i", equal(T_0.T * F * L_r * e_i, 0))
basis = Hypothesis("a change of basis", equal(back * turn, One(D)), equal(turn * back, One(D)))
basis_k = Hypothesis("a change of basis of keys", equal(back_k * turn_k, One(D)), equal(turn_k * back_k, One(D)))
independent = [penrose(X), equal(pinv(X) * X, 1), equal(F * inverse_F, 1), equal(inverse_F * F, 1)]
moved = back.T * any_head * back_k
roots = [root_Z, root_W, Z_plus, W_plus]
leaning = ImmutableMatrix([[1, Rational(3, 5)], [0, Rational(4, 5)]])

lemmas = (
    Lemma("the whitened head stays", equal((turn * R).T * moved * (turn_k * S), R.T * any_head * S),
          "roots of the moments go with the basis, and the head against it", given=[basis, basis_k]),
    Lemma("the moment goes with the basis", equal(turn * R * (turn * R).T, turn * (R * R.T) * turn.T),
          "so values stay, and the pattern R u becomes Q R u"),
    Lemma("the probe goes against it", equal(turn * (R * R.T) * turn.T * (back.T * probe), turn * (R * R.T) * probe),
          "A probe = pattern, before and after", given=[basis]),
    Lemma("the squares of values are the moment of the logits",
          equal(SquaredNorm(R.T * any_head * S), trace(any_head.T * (R * R.T) * any_head * (S * S.T))),
          "tr(Omega^T A Omega B)"),
    Definition("optimum", equal(Omega, at_optimum)),
    Lemma("leverage is a projection", equal(L_r * L_r, L_r), "Z Z^+ Z = Z", given=[Z_plus]),
    Lemma("leverage is symmetric", equal(L_r.T, L_r), "as all that Penrose asks for", given=[Z_plus]),
    Lemma("the whitened optimum", equal(whitened, L_r * F.T * T * G * L_s), "X C_r = Z F^T and Z^T S_r^+ Z = Z^+ Z",
          given=roots, where=["optimum"]),
    Lemma("a singular pair, right to left",
          equal(whitened * L_s * e_j, t * f_i * g_j * SquaredNorm(L_s * e_j) * L_r * e_i),
          "T_0 does not meet L' e_j", given=[*roots, uncorrelated, apart_s], where=["optimum"]),
    Lemma("a singular pair, left to right",
          equal(whitened.T * L_r * e_i, t * f_i * g_j * SquaredNorm(L_r * e_i) * L_s * e_j),
          "T_0^T does not meet L e_i", given=[*roots, uncorrelated, apart_r], where=["optimum"]),
    Definition("value", equal(sigma, t * f_i * g_j * norm(L_r * e_i) * norm(L_s * e_j))),
    Lemma("the value", equal(Inner(L_r * e_i, whitened * L_s * e_j), sigma * norm(L_r * e_i) * norm(L_s * e_j)),
          "between the two as unit vectors", given=[*roots, uncorrelated, apart_s], where=["optimum", "value"]),
    Lemma("its pattern is the feature", equal(Z * L_r * e_i, f_i * X * e_i), "Z Z^+ Z = Z, and F e_i = f_i e_i",
          given=[root_Z, Z_plus, uncorrelated]),
    Lemma("its pattern is the feature, key side", equal(W * L_s * e_j, g_j * Y * e_j), "the same of W",
          given=[root_W, W_plus, uncorrelated]),
    Lemma("independent features share no leverage", implies(independent, equal(L_r, One(N))),
          "X^+ X = 1 and F is invertible, so Z has a left inverse", given=[root_Z, Z_plus]),
    Lemma("a raw vector does not show it",
          equal(squared_cosine(leaning.T.inv()[:, 0], leaning[:, 0]), Rational(16, 25)),
          "the dual of the first of two columns at cosine 3/5"),
)  # fmt: skip


def _example(x: ImmutableMatrix, y: ImmutableMatrix, rest: ImmutableMatrix, size: int = 2) -> dict:
    """The first pair matched, and `rest` asked for beside it; F = diag(2, 1, ...), G = diag(1, ..., 3)."""
    n, m = x.cols, y.cols
    root, other = diag(2, *[1] * (n - 1)), diag(*[1] * (m - 1), 3)
    z, w = x * root, y * other
    first, last = ImmutableMatrix([1] + [0] * (n - 1)), ImmutableMatrix([0] * (m - 1) + [1])
    target = size * first * last.T + rest
    shear = ImmutableMatrix(3, 3, [1, 1, 0, 0, 1, 2, 0, 0, 1])
    left, right = z.pinv() * z * first, w.pinv() * w * last
    return {
        D: 3, N: n, M: m, K: 2, X: x, Y: y, T_0: rest, F: root, G: other, Z: z, W: w,
        Omega: z.pinv().T * root * target * other * w.pinv(), any_head: ImmutableMatrix(3, 3, range(9)),
        turn: shear, back: shear.inv(), turn_k: shear.T, back_k: shear.T.inv(), probe: ImmutableMatrix([1, -1, 2]),
        R: ImmutableMatrix(3, 2, range(6)), S: ImmutableMatrix(3, 2, [1, 0, 2, 1, 0, 1]), e_i: first, e_j: last,
        inverse_F: root.inv(), t: size, f_i: 2, g_j: 3, sigma: size * 6 * left.norm() * right.norm(),
    }  # fmt: skip


independent_columns = ImmutableMatrix([[1, 1], [0, 1], [0, 1]])
crowded = ImmutableMatrix([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1]])  # the first shares no leverage with the others
example = _example(independent_columns, ImmutableMatrix([[1, 2], [0, 1], [1, 0]]), ImmutableMatrix([[0, 0], [5, 0]]))
examples = (example, _example(crowded, independent_columns, ImmutableMatrix(4, 2, [0, 0, 7, 0, 0, 0, 0, 0])))
alone = _example(independent_columns, example[Y], ImmutableMatrix([[0, 0], [0, 0]]))
shared = _example(independent_columns, example[Y], ImmutableMatrix([[0, 0], [0, 1]]))
counterexamples = {
    root_Z: {**example, Z: 2 * example[Z]},
    root_W: {**example, W: 2 * example[W]},
    Z_plus: {**alone, pinv(Z): ImmutableMatrix(2, 3, range(6))},
    W_plus: {**alone, pinv(W): ImmutableMatrix(2, 3, range(6))},
    uncorrelated: {**example, f_i: 5},
    apart_s: shared,
    apart_r: _example(independent_columns, example[Y], ImmutableMatrix([[1, 0], [0, 0]])),
    basis: {**example, back: eye(3)},
    basis_k: {**example, back_k: eye(3)},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("raw vectors stay under a change of basis", "the whitened head stays",
                equal(moved, any_head)),
        Control("probes go with the basis", "the probe goes against it",
                equal(turn * (R * R.T) * turn.T * (turn * probe), turn * (R * R.T) * probe)),
        Control("leverages left out of the value", "value", t * f_i * g_j),
        Control("the pattern is the dual", "its pattern is the feature", equal(Z * L_r * e_i, f_i * pinv(Z).T * e_i)),
        Control("any activations", uncorrelated),
        Control("leverage shared with another matched key", apart_s),
        Control("any features are independent", "independent features share no leverage", equal(L_r, One(N))),
    ),
    scope="general D, N, M; X, Y of any rank; C_r, C_s diagonal", status="proved",
    functions=("svtheory.spectra.balanced.balanced_spectrum",),
    examples=examples, counterexamples=counterexamples, references=("Moore 1981",),
)  # fmt: skip
