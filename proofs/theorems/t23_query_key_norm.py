r"""T23. Query-key normalisation: bilinear in rescaled tokens.

A head that normalises its queries and keys before it compares them, :math:`q = g_q * W_Qr/\mathrm{rms}(W_Qr)` and k
alike, computes with :math:`\Omega = (\mathrm{diag}(g_q)W_Q)^T\mathrm{diag}(g_k)W_K` the logit

.. math:: \left(\frac{r}{\mathrm{rms}(W_Qr)}\right)^T\Omega\,\frac{s}{\mathrm{rms}(W_Ks)} .

So what reads a given head, its terms and the modes that its data see, holds with the moments of rescaled tokens, each
term carries the two scalars, and rotary maps act after them.

Predicts: a token of twice the length makes the same query, for its scalar is half as large.

Why: a line. With :math:`a = 1/\mathrm{rms}(W_Qr)` and :math:`b = 1/\mathrm{rms}(W_Ks)`, of the head's own projections
or of all heads' together, :math:`(aGW_Qr)^T(bG_kW_Ks) = ab\,r^T\Omega s`; G and :math:`G_k` are the gains, diagonal.
The root mean square is one of what is projected, so no change of basis of the tokens changes a or b, and T22 stands.
What training makes of such a head does not follow: the scalars move with the weights.
"""

from sympy import Identity as One
from sympy import ImmutableMatrix, Rational, Symbol, diag, eye, symbols

from proofs.engine.notation import D, Inner, M, SquaredNorm, columns, matrices
from proofs.engine.statements import equal
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem

H, P = Symbol("H", integer=True, positive=True), Symbol("P", integer=True, positive=True)
W, V = matrices("W_Q", H, D), matrices("W_K", H, M)
U = matrices("W_all", P, D)
G, L, R, S = matrices("G G_k R_q R_k", H, H)
Omega, rest = matrices("Omega Omega_0", D, M)
turn, back = matrices("Q Q^-1", D, D)
(r, u, x), (s, v, y) = columns("r u x", D), columns("s v y", M)
q, k = columns("q k", H)
a, b, c, sigma = symbols("a b c sigma", real=True)

basis = Hypothesis("a change of basis", equal(back * turn, One(D)))

lemmas = (
    Definition("factors", equal(Omega, (G * W).T * L * V)),
    Definition("query", equal(q, a * G * W * r)),
    Definition("key", equal(k, b * L * V * s)),
    Definition("rest", equal(rest, Omega - sigma * u * v.T)),
    Definition("x", equal(x, a * r)),
    Definition("y", equal(y, b * s)),
    Lemma("bilinear in rescaled tokens", equal(Inner(q, k), Inner(x, Omega * y)), "two scalars of the tokens alone",
          where=["factors", "query", "key", "x", "y"]),
    Lemma("terms carry the two scalars",
          equal(Inner(x, Omega * y), a * b * sigma * Inner(u, r) * Inner(v, s) + Inner(x, rest * y)),
          "bilinearity", where=["rest", "x", "y"]),
    Lemma("rotary maps act after",
          equal(Inner(R * q, S * k), Inner(x, (G * W).T * R.T * S * L * V * y)),
          "they turn what is normalised", where=["query", "key", "x", "y"]),
    Lemma("no change of basis changes a scalar", equal(SquaredNorm(U * back * turn * r), SquaredNorm(U * r)),
          "it depends on what is projected, by the head itself or by all heads", given=[basis]),
    Lemma("the length of a token drops out", equal(SquaredNorm(U * (c * r)), c**2 * SquaredNorm(U * r)),
          "the scalar of c r is that of r over |c|"),
)  # fmt: skip

example = {
    D: 2, M: 3, H: 2, P: 3, W: ImmutableMatrix([[1, 2], [0, 1]]), V: ImmutableMatrix([[1, 0, 1], [2, 1, 0]]),
    U: ImmutableMatrix([[1, 2], [0, 1], [3, 0]]), G: diag(2, 1), L: diag(1, 3),
    R: ImmutableMatrix([[0, -1], [1, 0]]), S: eye(2), turn: ImmutableMatrix([[1, 1], [0, 1]]),
    back: ImmutableMatrix([[1, -1], [0, 1]]), r: ImmutableMatrix([1, 1]), s: ImmutableMatrix([1, 2, 0]),
    u: ImmutableMatrix([1, 1]), v: ImmutableMatrix([1, 0, 1]), sigma: 2, c: 2, a: Rational(1, 3), b: Rational(1, 4),
}  # fmt: skip
example |= {
    Omega: (example[G] * example[W]).T * example[L] * example[V],
    x: example[r] / 3, y: example[s] / 4,
    q: example[G] * example[W] * example[r] / 3, k: example[L] * example[V] * example[s] / 4,
}  # fmt: skip
example[rest] = example[Omega] - 2 * example[u] * example[v].T
counterexamples = {
    basis: {**example, back: eye(2)},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("gains left out of Omega", "factors", W.T * V),
        Control("the key's scalar left out", "y", s),
        Control("terms without the scalars", "terms carry the two scalars",
                equal(Inner(x, Omega * y), sigma * Inner(u, r) * Inner(v, s) + Inner(x, rest * y))),
        Control("rotary maps before the gains", "rotary maps act after",
                equal(Inner(R * q, S * k), Inner(x, W.T * R.T * G * L * S * V * y))),
    ),
    scope="any D, D', H; gains, biases apart; the mean square over any projections of the token", status="proved",
    functions=("svtheory.heads.weights.bilinear", "svtheory.heads.decomposition.decompose"),
    examples=(example,), counterexamples=counterexamples,
)  # fmt: skip
