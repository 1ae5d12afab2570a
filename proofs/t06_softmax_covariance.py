r"""T6. Softmax: the key side sees the covariance.

For target logits :math:`\epsilon a_j` and logits :math:`\epsilon b_j` over m keys, the cross-entropy exceeds
the entropy of the target by the divergence

.. math:: K(\epsilon) = \sum_j p_j(\epsilon a)\,\epsilon(a_j - b_j) - \ln\sum_j e^{\epsilon a_j} + \ln\sum_j
e^{\epsilon b_j}.

K and K' vanish at 0 and :math:`K''(0) = \mathrm{var}_j(b - a)`, the variance over the keys at hand, for every
m. Over keys drawn independently, with variance v of :math:`l - l^T` given the query, its mean is :math:`(1 -
1/m)v`. Given f, :math:`v = (E^Tf)^TV_sE^Tf` with :math:`E = X^T\Omega Y - T`: averaged over f it is
:math:`|F^TEG|^2`, :math:`C_r = FF^T, V_s = GG^T`, which is T5's loss with the key's second moment replaced by
its covariance.

A free key-only term :math:`\beta^Ts` adds :math:`Y^T\beta` to :math:`E^Tf`. With :math:`C_r = V_r + \mu\mu^T`
the loss splits into :math:`|F_V^TEG|^2`, :math:`V_r = F_VF_V^T`, and :math:`|G^T(E^T\mu + Y^T\beta)|^2`;
shifting :math:`\beta` by :math:`-\Omega^TX\mu` rids the second of :math:`\Omega`, so that it minimises the
first alone: the query side is centred too.
"""

from __future__ import annotations

from sympy import (
    Derivative,
    ImmutableMatrix,
    KroneckerDelta,
    Subs,
    diag,
    exp,
    eye,
    log,
    symbols,
)

from proofs.notation import (
    D,
    Inner,
    M,
    N,
    SquaredNorm,
    columns,
    equal,
    implies,
    matrices,
    penrose,
    pinv,
    table,
    total,
    trace,
)
from proofs.verifier import Claim, Control, Identity, Theorem

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
    """Mean of the variance over m keys whose ``l - l^T`` have mean nu and the given covariance of keys i and
    j.
    """
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


def loss(root, omega):
    """Mean over queries of the variance over keys, ``|F^T (X^T Omega Y - T) G|^2``."""
    return SquaredNorm(root.T * (X.T * omega * Y - T) * G)


hypotheses = {
    "Z = X C_r^(1/2)": equal(X * F, Z),
    "Z_V = X V_r^(1/2)": equal(X * F_V, Z_V),
    "W = Y V_s^(1/2)": equal(Y * G, W),
    "Z^+ is the pseudo-inverse of Z": penrose(Z),
    "Z_V^+ is the pseudo-inverse of Z_V": penrose(Z_V),
    "W^+ is the pseudo-inverse of W": penrose(W),
}
with_bias = E.T * (V_r + mu * mu.T) * E + E.T * mu * beta.T * Y + Y.T * beta * mu.T * E + Y.T * beta * beta.T * Y
claim = {
    "no constant term": equal(coefficient(0), 0),
    "no linear term": equal(coefficient(1), 0),
    "quadratic term": equal(coefficient(2) / 2, variance() / 2),
    **{f"quadratic term, m = {count}": equal(coefficient(2, count) / 2, variance(count) / 2) for count in (2, 3, 4)},
    "independent keys": equal(expected_variance(lambda i, j: v * KroneckerDelta(i, j)), (1 - 1 / m) * v),
    "variance is covariance": equal(Inner(h, C_s * h) - Inner(h, mu_s) ** 2, Inner(h, (C_s - mu_s * mu_s.T) * h)),
    "given the query": equal(Inner(E.T * f, V_s * E.T * f), trace(E.T * f * f.T * E * V_s)),
    "over queries": equal(trace(E.T * C_r * E * V_s), SquaredNorm(F.T * E * G)),
    "optimum": equal(Omega, plain),
    "minimum": equal(loss(F, Omega + Delta), loss(F, Omega) + SquaredNorm(Z.T * Delta * W)),
    "least norm": implies(
        equal(Z.T * Delta * W, 0), equal(SquaredNorm(Omega + Delta), SquaredNorm(Omega) + SquaredNorm(Delta))
    ),
    "a query bias is a key-only term": equal((W_Q * r + b_Q).T * W_K * s, r.T * W_Q.T * W_K * s + (W_K.T * b_Q).T * s),
    "loss with a key-only term": equal(
        trace(with_bias * V_s), SquaredNorm(F_V.T * E * G) + SquaredNorm(G.T * (E.T * mu + Y.T * beta))
    ),
    "the key-only term takes up the mean": equal(
        (X.T * Omega * Y - T).T * mu + Y.T * (shifted - Omega.T * X * mu), Y.T * shifted - T.T * mu
    ),
    "optimum with a key-only term": equal(Centred, centred),
    "minimum with a key-only term": equal(
        loss(F_V, Centred + Delta), loss(F_V, Centred) + SquaredNorm(Z_V.T * Delta * W)
    ),
}


def proof(claim: Claim):
    """The expansion for every m, the factor of independent keys, then T5 with the key's covariance."""
    yield from claim.conclude("no constant term", "the divergence vanishes where logits and targets agree")
    yield from claim.conclude("no linear term", "and is stationary there")
    yield from claim.conclude("quadratic term", "half its second derivative, any number of keys")
    for count in (2, 3, 4):
        yield from claim.conclude(f"quadratic term, m = {count}", f"the same, {count} keys written out")
    yield from claim.conclude("independent keys", "E[mean of squares] - E[square of mean]")
    yield from claim.conclude("variance is covariance", "h^T (C - mu mu^T) h is the variance of h^T f_s")
    yield from claim.conclude("given the query", "with h = E^T f_r")
    yield from claim.conclude("over queries", "averaged over f_r")
    at = {Omega: claim["optimum"].rhs, Centred: claim["optimum with a key-only term"].rhs}
    whitened = pinv(Z).T * F.T * T * G * pinv(W)
    yield Identity("T1 in whitened features", at[Omega], whitened, "optimum")
    yield from claim.conclude("minimum", "any other Omega costs more", at)
    yield from claim.conclude("least norm", "any other minimiser is longer", at)
    yield from claim.conclude("a query bias is a key-only term", "the bias reads the key alone")
    yield from claim.conclude("loss with a key-only term", "splits by C_r = V_r + mu mu^T")
    yield from claim.conclude("the key-only term takes up the mean", "so that Omega leaves the second part")
    whitened = pinv(Z_V).T * F_V.T * T * G * pinv(W)
    yield Identity("T1 in centred features", at[Centred], whitened, "optimum with a key-only term")
    yield from claim.conclude("minimum with a key-only term", "any other Omega costs more", at)


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
    "Z = X C_r^(1/2)": {**example, Z: 2 * example[Z]},
    "Z_V = X V_r^(1/2)": {**example, Z_V: 2 * example[Z_V]},
    "W = Y V_s^(1/2)": {**example, W: 2 * example[W]},
    "Z^+ is the pseudo-inverse of Z": {**example, pinv(Z): ImmutableMatrix(3, 2, range(6))},
    "Z_V^+ is the pseudo-inverse of Z_V": {**example, pinv(Z_V): ImmutableMatrix(3, 2, range(6))},
    "W^+ is the pseudo-inverse of W": {**example, pinv(W): ImmutableMatrix(2, 2, range(4))},
}

theorem = Theorem(
    id="T6",
    title="Softmax: the key side sees the covariance",
    statement=(
        "For m >= 2 independent keys the cross-entropy between softmax_j(l^T) and softmax_j(l) is, to "
        "leading order in the logits and up to the entropy of the target, (1/2)(1 - 1/m) Var_s(l - l^T | r). "
        "Without query bias Omega* = S_r^+ (X C_r T V_s Y^T) K_s^+; with a free key-only term Omega* = K_r^+ "
        "(X V_r T V_s Y^T) K_s^+."
    ),
    hypotheses=hypotheses,
    claim=claim,
    proof=proof,
    controls=(
        Control(
            "second moment in place of variance",
            {"quadratic term": equal(coefficient(2) / 2, over_keys(lambda j: (b[j] - a[j]) ** 2) / (2 * m))},
        ),
        Control(
            "no factor 1 - 1/m",
            {"independent keys": equal(expected_variance(lambda i, j: v * KroneckerDelta(i, j)), v)},
        ),
        Control(
            "correlated keys",
            {
                "independent keys": equal(
                    expected_variance(lambda i, j: c + (v - c) * KroneckerDelta(i, j)), (1 - 1 / m) * v
                )
            },
        ),
        Control("the key's second moment", {"optimum": equal(Omega, S_r_plus * X * C_r * T * C_s * Y.T * K_s_plus)}),
        Control("centred without a key-only term", {"optimum": equal(Omega, centred)}),
        Control("a key-only term changes nothing", {"optimum with a key-only term": equal(Centred, plain)}),
    ),
    scope="every m; general D, N, M; leading order in the logits",
    status="limit",
    functions=("svtheory.prediction.optimum.optimal_omega", "svtheory.prediction.whitened.moment_roots"),
    experiment="ledger",
    examples=(example, deficient),
    counterexamples=counterexamples,
)
