r"""T6. Softmax: the key side sees the covariance.

For :math:`m \ge 2` independent keys the cross-entropy between the softmax of the logits and that of the target logits
:math:`l^T` is, to leading order in the logits and up to the entropy of the target,

.. math:: \frac12\left(1 - \frac1m\right) \mathrm{Var}_s(l - l^T \,|\, r) .

Without query bias :math:`\Omega^* = S_r^+(X C_r T V_s Y^T)K_s^+`; with a free key-only term :math:`\Omega^* = K_r^+(X
V_r T V_s Y^T)K_s^+`, V and K the covariances of activations and tokens.

Predicts: the loss is 1/4 of the variance with two keys and 7/16 with eight.

Why: for target logits :math:`\epsilon a_j` and logits :math:`\epsilon b_j` over m keys, the cross-entropy exceeds the
entropy of the target by the divergence

.. math:: K(\epsilon) = \sum_j p_j(\epsilon a)\,\epsilon(a_j - b_j) - \ln\sum_j e^{\epsilon a_j} + \ln\sum_j
e^{\epsilon b_j}.

K and K' vanish at 0 and :math:`K''(0) = \mathrm{var}_j(b - a)`, the variance over the keys at hand, for every m. Over
keys drawn independently, with variance v of :math:`l - l^T` given the query, its mean is :math:`(1 - 1/m)v`. Given f,
:math:`v = (E^Tf)^TV_sE^Tf` with :math:`E = X^T\Omega Y - T`: averaged over f it is :math:`|F^TEG|^2`, :math:`C_r =
FF^T, V_s = GG^T`, which is T5's loss with the key's second moment replaced by its covariance.

A free key-only term :math:`\beta^Ts` adds :math:`Y^T\beta` to :math:`E^Tf`. With :math:`C_r = V_r + \mu\mu^T` the loss
splits into :math:`|F_V^TEG|^2`, :math:`V_r = F_VF_V^T`, and :math:`|G^T(E^T\mu + Y^T\beta)|^2`; shifting :math:`\beta`
by :math:`-\Omega^TX\mu` rids the second of :math:`\Omega`, so that it minimises the first alone: the query side is
centred too.
"""

from sympy import Derivative, ImmutableMatrix, KroneckerDelta, Subs, diag, exp, eye, log, symbols

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices, pinv, table, total, trace
from proofs.engine.statements import equal
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem, pseudo_inverse
from proofs.theorems import t01_dual_frame_optimum as t01

H, m = symbols("H m", integer=True, positive=True)
i, j = symbols("i j", integer=True)
eps, v, nu, c = symbols("epsilon v nu c", real=True)
a, b = table("a"), table("b")


def over_keys(function, count=m):
    """Sum over the keys."""
    return total(function(j), (j, 1, count)) if count == m else sum(function(key) for key in range(1, count + 1))


def divergence(count=m):
    """Cross-entropy less the entropy of its target, at logits ``eps b`` and target logits ``eps a``."""
    weighted = over_keys(lambda j: exp(eps * a[j]) * eps * (a[j] - b[j]), count)
    partition = over_keys(lambda j: exp(eps * a[j]), count)
    return weighted / partition - log(partition) + log(over_keys(lambda j: exp(eps * b[j]), count))


def variance(count=m):
    """Variance of ``b - a`` over the keys at hand."""
    mean = over_keys(lambda j: b[j] - a[j], count) / count
    return over_keys(lambda j: (b[j] - a[j]) ** 2, count) / count - mean**2


def coefficient(order: int, count=m):
    """Derivative of the divergence at 0."""
    return Subs(Derivative(divergence(count), (eps, order)) if order else divergence(count), eps, 0)


def expected_variance(covariance):
    """Mean of the variance over m keys whose ``l - l^T`` have mean nu and this covariance of keys i and j."""
    squares = total((nu**2 + covariance(j, j)) / m, (j, 1, m))
    return squares - total((nu**2 + covariance(i, j)) / m**2, (i, 1, m), (j, 1, m))


X, Y, T, E = matrices("X", D, N), matrices("Y", D, M), *matrices("T E", N, M)
F, F_V, G = *matrices("F F_V", N, N), matrices("G", M, M)
Z, Z_V, W = *matrices("Z Z_V", D, N), matrices("W", D, M)
Omega, Centred, Delta, W_Q, W_K = *matrices("Omega Omega_b Delta", D, D), *matrices("W_Q W_K", H, D)
(f, mu), (h, mu_s), (r, s, beta, shifted), b_Q = (
    columns("f mu", N),
    columns("h mu_s", M),
    columns("r s beta beta_0", D),
    columns("b_Q", H),
)
C_s = matrices("C_s", M, M)
C_r, V_r, V_s = F * F.T, F_V * F_V.T, G * G.T
S_r_plus, K_r_plus, K_s_plus = (pinv(root).T * pinv(root) for root in (Z, Z_V, W))
plain = S_r_plus * X * C_r * T * V_s * Y.T * K_s_plus
centred = K_r_plus * X * V_r * T * V_s * Y.T * K_s_plus


root_Z = Hypothesis("Z = X C_r^(1/2)", equal(X * F, Z))
root_Z_V = Hypothesis("Z_V = X V_r^(1/2)", equal(X * F_V, Z_V))
root_W = Hypothesis("W = Y V_s^(1/2)", equal(Y * G, W))
Z_plus = pseudo_inverse(Z)
Z_V_plus = pseudo_inverse(Z_V)
W_plus = pseudo_inverse(W)
with_bias = E.T * (V_r + mu * mu.T) * E + E.T * mu * beta.T * Y + Y.T * beta * mu.T * E + Y.T * beta * beta.T * Y
whitened = {t01.X: Z, t01.Y: W, t01.T: F.T * T * G, t01.Z: Delta}
centred_too = {t01.X: Z_V, t01.Y: W, t01.T: F_V.T * T * G, t01.Z: Delta, t01.Omega: Centred}

lemmas = (
    Lemma("no constant term", equal(coefficient(0), 0), "the divergence vanishes where logits and targets agree"),
    Lemma("no linear term", equal(coefficient(1), 0), "and is stationary there"),
    Lemma("quadratic term", equal(coefficient(2) / 2, variance() / 2),
          "half its second derivative, any number of keys"),
    *(Lemma(f"quadratic term, m = {count}", equal(coefficient(2, count) / 2, variance(count) / 2),
            f"the same, {count} keys written out") for count in (2, 3, 4)),
    Lemma("independent keys", equal(expected_variance(lambda i, j: v * KroneckerDelta(i, j)), (1 - 1 / m) * v),
          "E[mean of squares] - E[square of mean]"),
    Lemma("variance is covariance", equal(Inner(h, C_s * h) - Inner(h, mu_s) ** 2, Inner(h, (C_s - mu_s * mu_s.T) * h)),
          "h^T (C - mu mu^T) h is the variance of h^T f_s"),
    Lemma("given the query", equal(Inner(E.T * f, V_s * E.T * f), trace(E.T * f * f.T * E * V_s)), "with h = E^T f_r"),
    Lemma("over queries", equal(trace(E.T * C_r * E * V_s), SquaredNorm(F.T * E * G)), "averaged over f_r"),
    Definition("optimum", equal(Omega, plain)),
    Lemma("the loss is T1's for whitened features",
          equal(F.T * (X.T * Omega * Y - T) * G, Z.T * Omega * W - F.T * T * G), "Z = X F and W = Y G",
          given=[root_Z, root_W]),
    t01.theorem.cite("minimum", whitened, given=[root_Z, root_W, Z_plus, W_plus], where=["optimum"]),
    t01.theorem.cite("least norm", whitened, given=[root_Z, root_W, Z_plus, W_plus], where=["optimum"]),
    Lemma("a query bias is a key-only term",
          equal((W_Q * r + b_Q).T * W_K * s, r.T * W_Q.T * W_K * s + (W_K.T * b_Q).T * s),
          "the bias reads the key alone"),
    Lemma("loss with a key-only term",
          equal(trace(with_bias * V_s), SquaredNorm(F_V.T * E * G) + SquaredNorm(G.T * (E.T * mu + Y.T * beta))),
          "splits by C_r = V_r + mu mu^T"),
    Lemma("the key-only term takes up the mean",
          equal((X.T * Omega * Y - T).T * mu + Y.T * (shifted - Omega.T * X * mu), Y.T * shifted - T.T * mu),
          "so that Omega leaves the second part"),
    Definition("optimum with a key-only term", equal(Centred, centred)),
    Lemma("the loss is T1's for centred features",
          equal(F_V.T * (X.T * Centred * Y - T) * G, Z_V.T * Centred * W - F_V.T * T * G), "Z_V = X F_V and W = Y G",
          given=[root_Z_V, root_W]),
    t01.theorem.cite("minimum", centred_too, given=[root_Z_V, root_W, Z_V_plus, W_plus],
                     where=["optimum with a key-only term"]),
)  # fmt: skip


def _values(y: ImmutableMatrix, change: ImmutableMatrix) -> dict:
    """Exact values for every symbol; the optima are computed from pseudo-inverses of Z, Z_V, W."""
    x, centre = ImmutableMatrix([[1, 0, 1], [0, 1, 1]]), diag(1, 2, 1)
    root = ImmutableMatrix([[1, 0, 0], [1, 2, 0], [0, 1, 1]])
    key, target = ImmutableMatrix([[1, 0], [1, 2]]), ImmutableMatrix([[1, 2], [0, 3], [-1, 1]])
    left, left_centred = (x * root).pinv().T * root.T, (x * centre).pinv().T * centre.T
    right = (y * key).pinv().T * key.T
    return {
        D: 2, N: 3, M: 2, H: 2, m: 3, a: [1, 2, 5, 0], b: [0, -1, 2, 1], v: 2, nu: 3, X: x, Y: y, T: target,
        E: target, F: root, F_V: centre, G: key, Z: x * root, Z_V: x * centre, W: y * key,
        Omega: left * target * right.T, Centred: left_centred * target * right.T, Delta: change, W_Q: eye(2),
        W_K: change, f: ImmutableMatrix([1, 2, 3]), mu: ImmutableMatrix([1, 0, 1]), C_s: eye(2),
        h: ImmutableMatrix([1, 2]), mu_s: ImmutableMatrix([3, 1]), r: ImmutableMatrix([1, 2]),
        s: ImmutableMatrix([2, 5]), beta: ImmutableMatrix([1, 4]), shifted: ImmutableMatrix([0, 1]),
        b_Q: ImmutableMatrix([1, 1]),
    }  # fmt: skip


example = _values(ImmutableMatrix([[1, 2], [0, 1]]), ImmutableMatrix([[1, -1], [2, 0]]))
deficient = _values(ImmutableMatrix([[1, 2], [1, 2]]), ImmutableMatrix([[1, -1], [2, -2]]))
counterexamples = {
    root_Z: {**example, Z: 2 * example[Z]},
    root_Z_V: {**example, Z_V: 2 * example[Z_V]},
    root_W: {**example, W: 2 * example[W]},
    Z_plus: {**example, pinv(Z): ImmutableMatrix(3, 2, range(6))},
    Z_V_plus: {**example, pinv(Z_V): ImmutableMatrix(3, 2, range(6))},
    W_plus: {**example, pinv(W): ImmutableMatrix(2, 2, range(4))},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("second moment in place of variance", "quadratic term",
                over_keys(lambda j: (b[j] - a[j]) ** 2) / (2 * m)),
        Control("no factor 1 - 1/m", "independent keys", v),
        Control("correlated keys", "independent keys",
                equal(expected_variance(lambda i, j: c + (v - c) * KroneckerDelta(i, j)), (1 - 1 / m) * v)),
        Control("the key's second moment", "optimum", S_r_plus * X * C_r * T * C_s * Y.T * K_s_plus),
        Control("centred without a key-only term", "optimum", centred),
        Control("a key-only term changes nothing", "optimum with a key-only term", plain),
    ),
    scope="every m; general D, N, M; leading order in the logits", status="limit",
    functions=("svtheory.prediction.optimum.optimal_omega", "svtheory.prediction.whitened.moment_roots"),
    examples=(example, deficient), counterexamples=counterexamples,
)  # fmt: skip
