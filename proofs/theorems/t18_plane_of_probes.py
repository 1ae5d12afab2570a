r"""T18. At any logit strength: the plane of the probes.

Let a query token and its matched activations :math:`(r, f)` be jointly elliptical, and so each key :math:`(s, g)`; let
answers depend on f and the g alone, and let the loss be convex in the logits and unchanged by a common shift of all
keys' logits. With :math:`P = K_s^+\mathrm{Cov}(s, g)` and :math:`Q = K_r^+\mathrm{Cov}(r, f)`, where the query side is
centred or has a free key-only term, and :math:`Q = K_r^+[\mathrm{Cov}(r, f), Er]` otherwise, a head of the form

.. math:: \Omega = Q\,C\,P^T

is optimal, at any strength, for any number of keys, and of any rank allowed: no head is lost by reading

.. math:: \Omega \mapsto (QB^T)\,\Omega\,(B'P^T) .

For a single pair the key vector is along :math:`K_s^+\mathrm{Cov}(s, g_j)`, and T6 lies in the plane of the query side.

Predicts: u of a single pair without a query bias lies in the plane of :math:`K_r^+\mathrm{Cov}(r, f_i)` and
:math:`K_r^+Er` at every strength, and v never leaves its probe.

Why: let :math:`r = Er + Zx` with x white, so that :math:`K = ZZ^T`, and :math:`\mathrm{Cov}(r, f) = ZV` with :math:`V =
\mathrm{Cov}(x, f)`. With :math:`W = Z^TQ` take :math:`B^T = ZW^{+T}`. The rest :math:`r - B^TQ^Tr` is uncorrelated with
:math:`Q^Tr`, as :math:`W^TWW^+ = W^T`, and with f, as :math:`V` is seen through :math:`W = Z^+ZV`. The conditional mean
of elliptical variables is linear (cited), and every linear one that leaves such a rest is :math:`B^TQ^Tr` itself, up to
what has no variance: f adds nothing to it. Its constant is :math:`(1 - B^TQ^T)Er`, which vanishes if Er is in the span
of :math:`KQ`: so with Er among the columns. On the key side it stays, the same for all keys, and a loss that sees no
common shift does not see it. Given f, the g and what the head reads of them, the conditional mean of its logits is
that of the head above, and by Jensen's inequality (cited) its loss is no larger.

Moments see the same plane: :math:`S = K + mm^T, m = Er`, is inverted by Sherman and Morrison, and T6's direction is
:math:`K^{-1}c + aK^{-1}m`.
"""

from sympy import Add, ImmutableMatrix, Ne, Symbol, diag, eye, symbols

from proofs.engine.notation import D, Inner, M, N, columns, matrices, pinv
from proofs.engine.statements import at_least, equal, implies, symmetric
from proofs.engine.verifier import Control, Hypothesis, Lemma, Theorem, pseudo_inverse

L = Symbol("L", integer=True, positive=True)
K = Symbol("K", integer=True, positive=True)
Z, Z_k = matrices("Z", D, N), matrices("Z_k", D, M)
V, Phi = matrices("V", N, L), matrices("Phi", L, L)
Q, P = matrices("Q", D, L), matrices("P", D, K)
W, W_k = matrices("W", N, L), matrices("W_k", M, K)
change, share = matrices("A", D, L), matrices("F", D, L)
Omega = matrices("Omega", D, D)
a = columns("a", L)
r, s, mean, mean_s, m, correlation, c, p = columns("r s r_mean s_mean m c k p", D)
inverse = matrices("K^-1", D, D)
moment = matrices("K_r", D, D)
step, mu = symbols("alpha mu", real=True)
loss, of_mean, other_loss = symbols("loss loss_plane loss_other", real=True)

covariance, read = Z * Z.T, Z * pinv(W).T  # K, and B^T
read_k = Z_k * pinv(W_k).T
core = read.T * Omega * read_k
plane = Q * core * P.T
constant_k = mean_s - read_k * P.T * mean_s

Z_plus, W_plus = pseudo_inverse(Z), pseudo_inverse(W)
probe = Hypothesis("Q is the probe K^+ Cov(r, f)", equal(Q, pinv(Z).T * pinv(Z) * Z * V))
seen = Hypothesis("W = Z^T Q", equal(Z.T * Q, W))
among = Hypothesis("E r is in the span of K Q", equal(mean, Z * W * a))
positive = Hypothesis("K is symmetric and invertible", equal(moment * inverse, 1), equal(inverse * moment, 1),
                      symmetric(moment), symmetric(inverse))  # fmt: skip
definite = Hypothesis("1 + m^T K^-1 m is not 0", Ne(1 + Inner(m, inverse * m), 0))
amount = Hypothesis("T6's share of the mean",
                    equal(step * (1 + Inner(m, inverse * m)), mu - Inner(m, inverse * correlation)))  # fmt: skip
jensen = Hypothesis("Jensen's inequality (cited)", at_least(loss, of_mean))
optimal = Hypothesis("the head is optimal", at_least(other_loss, loss))

lemmas = (
    Lemma("the probe's share", equal(W, pinv(Z) * Z * V), "Z^T K^+ Z = Z^+ Z", given=[Z_plus, probe, seen]),
    Lemma("the rest is uncorrelated with what is read", equal(covariance * Q - read * Q.T * covariance * Q, 0),
          "W^+ W W^T = W^T", given=[W_plus, seen]),
    Lemma("and with the matched activations", equal(Z * V - read * Q.T * Z * V, 0), "Z V = Z W",
          given=[Z_plus, W_plus, probe, seen]),
    Lemma("a linear conditional mean is unique",
          implies([equal(change * W.T * W + share * V.T * W, 0), equal(change * W.T * V + share * Phi, 0)],
                  equal(change * W.T * W * change.T + change * W.T * V * share.T + share * V.T * W * change.T
                        + share * Phi * share.T, 0)),
          "two with uncorrelated rests differ by what has no variance"),
    Lemma("no constant", equal(mean - read * Q.T * mean, 0), "E r is among what is read",
          given=[W_plus, seen, among]),
    Lemma("the mean of logits is a head's",
          equal(Inner(read * Q.T * r, Omega * (read_k * P.T * s + constant_k)),
                Inner(r, plane * s) + Inner(r, Q * read.T * Omega * constant_k)),
          "and a term that is the same for all keys"),
    Lemma("it reads no more", equal(plane, (Q * read.T) * Omega * (read_k * P.T)),
          "so its rank is no larger"),
    Lemma("a head of the plane stays as it is", equal(Q * read.T * Q, Q), "Q W^+ W = Q",
          given=[Z_plus, W_plus, probe, seen]),
    Lemma("the key vector of a single pair", equal((Q * a * p.T).T * r, Inner(a, Q.T * r) * p),
          "whatever the head reads, it is along the probe"),
    Lemma("nothing is lost", at_least(other_loss, of_mean), "no head is better than the optimal one",
          given=[jensen, optimal], certificate=Add(other_loss - loss, loss - of_mean, evaluate=False)),
    Lemma("Sherman and Morrison",
          equal((moment + m * m.T) * (inverse * c - Inner(m, inverse * c) / (1 + Inner(m, inverse * m)) * inverse * m),
                c),
          "the inverse of K + m m^T", given=[positive, definite]),
    Lemma("T6 lies in the plane",
          equal((moment + m * m.T) * (inverse * correlation + step * inverse * m), correlation + mu * m),
          "S^+ E[r f_i] is a combination of K^-1 Cov(r, f_i) and K^-1 E r", given=[positive, amount]),
)  # fmt: skip


def _example(degenerate: bool) -> dict:
    """Three dimensions and two probes; f told by what is read, or not and a second mean that leaves another rest."""
    z, shown = ImmutableMatrix([[1, 0, 1], [0, 1, 1], [0, 0, 1]]), ImmutableMatrix([[1, 0], [0, 1], [1, 1]])
    probes = z.inv().T * shown
    white, key_probe, key = z.T * probes, ImmutableMatrix([1, -1, 2]), ImmutableMatrix([[1, 0], [2, 1], [0, 1]])
    other = ImmutableMatrix([[1, 2], [0, 1], [1, 0]])
    return {
        D: 3, N: 3, M: 2, L: 2, K: 1, Z: z, Z_k: key, V: shown, Q: probes, P: key_probe, W: white,
        W_k: key.T * key_probe, Phi: white.T * white if degenerate else eye(2), share: other,
        change: -other if degenerate else other, Omega: ImmutableMatrix(3, 3, [1, 2, 0, 0, 1, 1, 3, 0, 1]),
        a: ImmutableMatrix([1, 2]), r: ImmutableMatrix([1, 2, 1]), s: ImmutableMatrix([0, 1, 3]),
        mean: z * white * ImmutableMatrix([1, 2]), mean_s: ImmutableMatrix([2, 0, 1]), m: ImmutableMatrix([1, 1, 0]),
        correlation: ImmutableMatrix([0, 1, 1]), c: ImmutableMatrix([2, 1, 0]), p: key_probe, moment: diag(1, 1, 2),
        inverse: diag(2, 2, 1) / 2, step: 1, mu: 4, loss: 3, of_mean: 2, other_loss: 5,
    }  # fmt: skip


example = _example(True)
wrong = example[Z] * example[V]  # the probe of a Z^+ that is the identity
counterexamples = {
    Z_plus: {
        **example,
        pinv(Z): eye(3),
        Q: wrong,
        W: example[Z].T * wrong,
        mean: example[Z] * example[Z].T * wrong * example[a],
    },
    W_plus: {**example, pinv(W): ImmutableMatrix(2, 3, range(6))},
    probe: {**example, Q: 2 * example[Q], W: 2 * example[W], a: example[a] / 2},
    seen: {**example, W: 2 * example[W], a: example[a] / 2},
    among: {**example, mean: ImmutableMatrix([1, 0, 0])},
    positive: {**example, inverse: eye(3)},
    definite: {**example, moment: diag(-1, 1, 1), inverse: diag(-1, 1, 1), m: ImmutableMatrix([1, 0, 0]), mu: 0},
    amount: {**example, step: 2},
    jensen: {**example, of_mean: 7},
    optimal: {**example, other_loss: 1},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("a mean without its direction", among),
        Control("a query side that is not linear", "the mean of logits is a head's",
                equal(Inner(read * Q.T * r + Inner(m, r) ** 2 * m, Omega * (read_k * P.T * s + constant_k)),
                      Inner(r, plane * s) + Inner(r, Q * read.T * Omega * constant_k))),
        Control("a key constant under the squared loss", "the mean of logits is a head's", Inner(r, plane * s)),
        Control("the covariance itself in place of the probe", probe),
        Control("two conditional means", "a linear conditional mean is unique",
                equal(change * W.T * W * change.T + change * W.T * V * share.T + share * V.T * W * change.T
                      + share * Phi * share.T, 0)),
        Control("without Jensen's inequality", jensen),
        Control("T6 on the probe alone", "T6 lies in the plane",
                equal((moment + m * m.T) * (inverse * correlation), correlation + mu * m)),
    ),
    scope="general D, N, M, any numbers of pairs and keys; elliptical tokens, a loss convex in the logits",
    status="cited",
    functions=("svtheory.prediction.finite.predict_finite", "svtheory.prediction.finite.optimal_plane"),
    examples=(example, _example(False)), counterexamples=counterexamples,
    references=("Brillinger 1982", "Li and Duan 1989", "Jensen 1906"),
)  # fmt: skip
