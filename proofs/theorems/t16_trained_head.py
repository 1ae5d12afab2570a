r"""T16. A trained head, predicted from its activations.

Definition: in the eigenbases of the moments A and B the prediction of a hypothesis T is

.. math:: (\Omega_P)_{ab} = M_{ab}\,\frac{1 - e^{-\lambda_a\mu_b\tau}}{\lambda_a\mu_b} , \qquad M = G_rTG_s^T ,

with the value :math:`\tau` of the filter at 0. The functional cosine of two heads, the cosine after :math:`O \to
A^{1/2}OB^{1/2}`, is the correlation of their centred logits over independent draws of query and key; the weight cosine
also sees directions that data never visits. Units of A and B go into :math:`\tau`.

Predicts: a direction with :math:`\lambda\mu\tau = 1` has reached 63 % of its least-squares value.

Why: with eigenvalues :math:`\lambda_a, \mu_b` of the moments A and B of what queries and keys read, the prediction of a
hypothesis T is :math:`(\Omega_P)_{ab} = M_{ab}\varphi(\lambda_a\mu_b), M = G_rTG_s^T`, with the filter

.. math:: \varphi_\tau(x) = \frac{1 - e^{-x\tau}}{x} = \int_0^\tau e^{-xs}ds .

Its value :math:`\tau` at x = 0 is the limit; it is what the flow :math:`\varphi' = 1 - x\varphi` from 0 has reached at
:math:`\tau` (T17), tends to :math:`1/x` for long times and to :math:`\tau` for short ones. Other units for A and B
change :math:`\tau` and the size of the prediction only, so dividing eigenvalues by their mean loses nothing.

The functional cosine of two heads O and P is the cosine of :math:`A^{1/2}OB^{1/2}` and :math:`A^{1/2}PB^{1/2}`. For
independent draws of query r and key s, the mean of the product of their logits :math:`(r^TOs)(r^TPs)` is
:math:`\mathrm{tr}(AOBP^T)`, which is the inner product of these two matrices, whatever roots are taken. With keys (and
queries, under a bias) centred, logits have mean 0, and the cosine is the correlation. It is at most 1, is 1 for a
multiple of the head, and does not see what the data never visits, which the weight cosine does.
"""

from sympy import Derivative, ImmutableMatrix, Integral, Limit, Ne, exp, eye, oo, sqrt, symbols

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices, trace
from proofs.engine.statements import at_least, equal, implies
from proofs.engine.verifier import Control, Hypothesis, Lemma, Theorem

x, tau, s, scale = symbols("x tau s c", positive=True)
phi = (1 - exp(-x * tau)) / x
near, late, early = symbols("xi", positive=True), symbols("T", positive=True), symbols("t", positive=True)
O, P, Z = matrices("O P Z", D, D)
F, G, Q = matrices("F G Q", D, D)
(r, k, mean, h, other), C_s = columns("r k m h h_P", D), matrices("C_s", D, D)
G_r, G_s = matrices("G_r", D, N), matrices("G_s", D, M)
e_i, e_j, t, size = columns("e_i", N), columns("e_j", M), *symbols("t_ij a", real=True)
A, B = F * F.T, G * G.T
measured, predicted = F.T * O * G, F.T * P * G
overlap = Inner(measured, predicted)

head_acts = Hypothesis("the head acts on the data", Ne(SquaredNorm(measured), 0))
prediction_acts = Hypothesis("the prediction acts on the data", Ne(SquaredNorm(predicted), 0))
orthogonal_Q = Hypothesis("Q is orthogonal", equal(Q.T * Q, 1))
root = sqrt(SquaredNorm(measured) * SquaredNorm(predicted))
mean_squares = trace(A * O * B * O.T) * trace(A * P * B * P.T)

lemmas = (
    Lemma("value at 0", equal(Limit((1 - exp(-near * tau)) / near, near, 0), tau),
          "the limit, for which expm1 is used"),
    Lemma("the filter is an average", equal(Integral(exp(-x * s), (s, 0, tau)), phi),
          "so it is positive and falls with x"),
    Lemma("the filter solves the flow", equal(Derivative(phi, tau), 1 - x * phi), "from 0, as T17 says"),
    Lemma("long times", equal(Limit((1 - exp(-x * late)) / x, late, oo), 1 / x),
          "the least-squares optimum of T5 and T6"),
    Lemma("short times", equal(Limit((1 - exp(-x * early)) / (x * early), early, 0), 1), "M itself, the features"),
    Lemma("units", equal(phi.xreplace({x: x / scale}), scale * phi.xreplace({tau: tau / scale})),
          "other units of A and B rescale tau and the prediction"),
    Lemma("one pair of the template", equal(G_r * (t * e_i * e_j.T) * G_s.T, t * (G_r * e_i) * (G_s * e_j).T),
          "G_r T G_s^T is a sum over pairs"),
    Lemma("two logits at one draw", equal(Inner(r, O * k) * Inner(r, P * k), trace(r * r.T * O * k * k.T * P.T)),
          "a trace, linear in r r^T and in k k^T"),
    Lemma("their mean over draws", equal(trace(A * O * B * P.T), overlap), "A = F F^T and B = G G^T"),
    Lemma("any roots", equal(Inner((F * Q.T).T * O * G, (F * Q.T).T * P * G), overlap),
          "another root F Q^T has the same product", given=[orthogonal_Q]),
    Lemma("centred keys",
          equal(Inner(h, C_s * other) - Inner(h, mean) * Inner(other, mean), Inner(h, (C_s - mean * mean.T) * other)),
          "the covariance of two logits over keys"),
    Lemma("its mean square is a norm", equal(trace(A * O * B * O.T), SquaredNorm(measured)), "with P = O"),
    Lemma("the mean squares under the root", equal(trace(A * P * B * P.T), SquaredNorm(predicted)), "and with O = P"),
    Lemma("the functional cosine is a correlation", equal(overlap / root, trace(A * O * B * P.T) / sqrt(mean_squares)),
          "mean product over root mean squares", given=[head_acts, prediction_acts], rules={mean_squares: root**2}),
    Lemma("at most 1", at_least(SquaredNorm(measured) * SquaredNorm(predicted), overlap**2), "Cauchy-Schwarz",
          given=[head_acts],
          certificate=SquaredNorm(measured) * SquaredNorm(predicted - overlap / SquaredNorm(measured) * measured)),
    Lemma("1 for a multiple of the head",
          implies(equal(P, size * O), equal(overlap**2, SquaredNorm(measured) * SquaredNorm(predicted))),
          "the size of a prediction does not count"),
    Lemma("what queries never visit", implies(equal(F.T * Z, 0), equal(F.T * (O + Z) * G, measured)), "F^T Z = 0"),
    Lemma("what keys never visit", implies(equal(Z * G, 0), equal(F.T * (O + Z) * G, measured)), "Z G = 0"),
    Lemma("the weight cosine sees it",
          implies(equal(O.T * Z, 0), equal(SquaredNorm(O + Z), SquaredNorm(O) + SquaredNorm(Z))),
          "the length of the weights grows"),
)  # fmt: skip

nothing = ImmutableMatrix([[0, 0], [0, 0]])
example = {
    D: 2, N: 2, M: 2, x: 2, tau: 3, s: 1, scale: 5, O: ImmutableMatrix([[1, 2], [0, 1]]),
    P: ImmutableMatrix([[2, 4], [0, 2]]), Z: nothing, F: ImmutableMatrix([[1, 0], [1, 2]]),
    G: ImmutableMatrix([[2, 1], [0, 1]]), Q: ImmutableMatrix([[3, 4], [-4, 3]]) / 5, r: ImmutableMatrix([1, 2]),
    k: ImmutableMatrix([3, 1]), mean: ImmutableMatrix([1, 1]), h: ImmutableMatrix([1, -2]),
    other: ImmutableMatrix([2, 1]), C_s: 2 * eye(2), G_r: ImmutableMatrix([[1, 2], [3, 4]]),
    G_s: ImmutableMatrix([[0, 1], [1, 1]]), e_i: ImmutableMatrix([1, 0]),
    e_j: ImmutableMatrix([0, 1]), t: 3, size: 2,
}  # fmt: skip
counterexamples = {
    head_acts: {**example, O: nothing},
    prediction_acts: {**example, P: nothing},
    orthogonal_Q: {**example, Q: 2 * eye(2)},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("value 0 at 0", "value at 0", 0),
        Control("the cosine of weights", "their mean over draws", Inner(O, P)),
        Control("one moment only", "their mean over draws", Inner(F.T * O, F.T * P)),
        Control("keys not centred", "centred keys", Inner(h, C_s * other)),
        Control("units that leave the size alone", "units", phi.xreplace({tau: tau / scale})),
        Control("roots that are not roots of A", orthogonal_Q),
    ),
    scope="general D, N, M", status="definition",
    functions=("svtheory.heads.explanation.explain",),
    examples=(example, {**example, P: example[F], Z: example[G]}), counterexamples=counterexamples,
)  # fmt: skip
