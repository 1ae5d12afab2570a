r"""T16. A trained head, predicted from its activations: a definition, with the identities that make sense of it.

With eigenvalues :math:`\lambda_a, \mu_b` of the moments A and B of what queries and keys read, the prediction of a
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

from __future__ import annotations

from sympy import Derivative, ImmutableMatrix, Integral, Limit, Ne, exp, eye, oo, sqrt, symbols

from proofs.calculus import conclude
from proofs.notation import (
    D,
    Inner,
    M,
    N,
    SquaredNorm,
    at_least,
    columns,
    equal,
    implies,
    matrices,
    trace,
)
from proofs.verifier import Claim, Control, Identity, Theorem

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

hypotheses = {
    "the head acts on the data": Ne(SquaredNorm(measured), 0),
    "the prediction acts on the data": Ne(SquaredNorm(predicted), 0),
    "Q is orthogonal": equal(Q.T * Q, 1),
}
claim = {
    "value at 0": equal(Limit((1 - exp(-near * tau)) / near, near, 0), tau),
    "the filter is an average": equal(Integral(exp(-x * s), (s, 0, tau)), phi),
    "the filter solves the flow": equal(Derivative(phi, tau), 1 - x * phi),
    "long times": equal(Limit((1 - exp(-x * late)) / x, late, oo), 1 / x),
    "short times": equal(Limit((1 - exp(-x * early)) / (x * early), early, 0), 1),
    "units": equal(phi.xreplace({x: x / scale}), scale * phi.xreplace({tau: tau / scale})),
    "one pair of the template": equal(G_r * (t * e_i * e_j.T) * G_s.T, t * (G_r * e_i) * (G_s * e_j).T),
    "two logits at one draw": equal(Inner(r, O * k) * Inner(r, P * k), trace(r * r.T * O * k * k.T * P.T)),
    "their mean over draws": equal(trace(A * O * B * P.T), overlap),
    "any roots": equal(Inner((F * Q.T).T * O * G, (F * Q.T).T * P * G), overlap),
    "centred keys": equal(
        Inner(h, C_s * other) - Inner(h, mean) * Inner(other, mean), Inner(h, (C_s - mean * mean.T) * other)
    ),
    "the functional cosine is a correlation": equal(
        overlap / sqrt(SquaredNorm(measured) * SquaredNorm(predicted)),
        trace(A * O * B * P.T) / sqrt(trace(A * O * B * O.T) * trace(A * P * B * P.T)),
    ),
    "at most 1": at_least(SquaredNorm(measured) * SquaredNorm(predicted), overlap**2),
    "1 for a multiple of the head": implies(
        equal(P, size * O), equal(overlap**2, SquaredNorm(measured) * SquaredNorm(predicted))
    ),
    "what queries never visit": implies(equal(F.T * Z, 0), equal(F.T * (O + Z) * G, measured)),
    "what keys never visit": implies(equal(Z * G, 0), equal(F.T * (O + Z) * G, measured)),
    "the weight cosine sees it": implies(equal(O.T * Z, 0), equal(SquaredNorm(O + Z), SquaredNorm(O) + SquaredNorm(Z))),
}


def proof(claim: Claim):
    """The filter, then the functional cosine."""
    yield from conclude(claim, "value at 0", "the limit, for which expm1 is used")
    yield from conclude(claim, "the filter is an average", "so it is positive and falls with x")
    yield from claim.conclude("the filter solves the flow", "from 0, as T17 says")
    yield from conclude(claim, "long times", "the least-squares optimum of T5 and T6")
    yield from conclude(claim, "short times", "M itself, the features")
    yield from claim.conclude("units", "other units of A and B rescale tau and the prediction")
    yield from claim.conclude("one pair of the template", "G_r T G_s^T is a sum over pairs")
    yield from claim.conclude("two logits at one draw", "a trace, linear in r r^T and in k k^T")
    yield from claim.conclude("their mean over draws", "A = F F^T and B = G G^T")
    yield from claim.conclude("any roots", "another root F Q^T has the same product")
    yield from claim.conclude("centred keys", "the covariance of two logits over keys")
    yield Identity("its mean square is a norm", trace(A * O * B * O.T), SquaredNorm(measured))
    root = sqrt(SquaredNorm(measured) * SquaredNorm(predicted))
    traces = {trace(A * O * B * O.T) * trace(A * P * B * P.T): root**2}
    part = "the functional cosine is a correlation"
    left, right = (side.xreplace(traces) for side in claim[part].args)
    yield Identity("the mean squares under the root", trace(A * P * B * P.T), SquaredNorm(predicted), part)
    yield Identity("mean product over root mean squares", left, right, part)
    certificate = SquaredNorm(measured) * SquaredNorm(predicted - overlap / SquaredNorm(measured) * measured)
    yield from claim.conclude("at most 1", "Cauchy-Schwarz", certificate=certificate)
    yield from claim.conclude("1 for a multiple of the head", "the size of a prediction does not count")
    yield from claim.conclude("what queries never visit", "F^T Z = 0")
    yield from claim.conclude("what keys never visit", "Z G = 0")
    yield from claim.conclude("the weight cosine sees it", "the length of the weights grows")


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
    "the head acts on the data": {**example, O: nothing},
    "the prediction acts on the data": {**example, P: nothing},
    "Q is orthogonal": {**example, Q: 2 * eye(2)},
}

theorem = Theorem(
    id="T16",
    title="A trained head, predicted from its activations",
    statement=(
        "Definition: (Omega_P)_ab = M_ab (1 - e^{-lam_a mu_b tau})/(lam_a mu_b), value tau at 0, M = G_r T G_s^T. The "
        "functional cosine of two heads, the cosine after O -> A^{1/2} O B^{1/2}, is the correlation of their centred "
        "logits over independent draws of query and key; the weight cosine also sees directions that data never "
        "visits. Units of A and B go into tau."
    ),
    hypotheses=hypotheses,
    claim=claim,
    proof=proof,
    controls=(
        Control("value 0 at 0", {"value at 0": equal(claim["value at 0"].lhs, 0)}),
        Control("the cosine of weights", {"their mean over draws": equal(trace(A * O * B * P.T), Inner(O, P))}),
        Control("one moment only", {"their mean over draws": equal(trace(A * O * B * P.T), Inner(F.T * O, F.T * P))}),
        Control("keys not centred", {"centred keys": equal(claim["centred keys"].lhs, Inner(h, C_s * other))}),
        Control(
            "units that leave the size alone",
            {"units": equal(claim["units"].lhs, phi.xreplace({tau: tau / scale}))},
        ),
        Control("roots that are not roots of A", without=("Q is orthogonal",)),
    ),
    scope="general D, N, M",
    status="definition",
    functions=("svtheory.heads.hypothesis.explain",),
    experiment="heads",
    examples=(example, {**example, P: example[F], Z: example[G]}),
    counterexamples=counterexamples,
)
