r"""T15. Reading features back: unwhitening.

Write :math:`C = FF^T, V_r = F_VF_V^T, V_s = GG^T` and :math:`Z = XF, Z_V = XF_V, W = YG`, so that :math:`S_r =
ZZ^T, K_r = Z_VZ_V^T, K_s = WW^T`; :math:`\mu = E[f]` and :math:`m = E[r] = X\mu` are written E_f and E_r. The vectors
of the fully trained single pair (T5, T6) are :math:`v = K_s^+YV_se_j` and :math:`u = S_r^+XCe_i`, or :math:`u =
K_r^+XV_re_i` with a query bias.

:math:`K_sK_s^+` is the projection on the range of W, in which :math:`YV_se_j = WG^Te_j` lies; hence :math:`K_sv =
YV_se_j`, and for uncorrelated activations (:math:`V_se_j` a multiple of :math:`e_j`) this is a multiple of
:math:`y_j`. The query side with a bias is the same. Without it :math:`S_ru = XCe_i`, and with :math:`C = V_r +
\mu\mu^T`

.. math:: K_ru = (S_r - mm^T)u = XV_re_i + (\mu_i - m^Tu)\,m,

the feature plus a known direction, the mean token. The projection off m removes it from both; the removed share is the
squared cosine of :math:`K_ru` with m. At small training time :math:`v \propto YV_se_j` already (T17): then :math:`K_sv`
is a multiple of :math:`y_j` only if :math:`y_j` is an eigenvector of :math:`K_s`.
"""

from __future__ import annotations

from sympy import Identity as One
from sympy import ImmutableMatrix, Ne, Rational, Symbol, diag, eye, symbols

from proofs.notation import D, Inner, M, N, SquaredNorm, columns, equal, implies, matrices, penrose, pinv
from proofs.polytopes import squared_cosine
from proofs.verifier import Claim, Control, Identity, Theorem

X, Y = matrices("X", D, N), matrices("Y", D, M)
K = Symbol("K", integer=True, positive=True)
F, F_V, G = matrices("F", N, K), matrices("F_V", N, N), matrices("G", M, M)
Z, Z_V, W = matrices("Z", D, K), matrices("Z_V", D, N), matrices("W", D, M)
(e_i, mu), e_j = columns("e_i E_f", N), columns("e_j", M)
u_raw, u, v, mean = columns("u_raw u v E_r", D)
V_i, V_j, share = symbols("V_i V_j s", real=True)

C, V_r, V_s = F * F.T, F_V * F_V.T, G * G.T
S_r_plus, K_r_plus, K_s_plus = (pinv(root).T * pinv(root) for root in (Z, Z_V, W))
K_r, K_s = X * V_r * X.T, Y * V_s * Y.T
uncorrelated_r, uncorrelated_s = equal(V_r * e_i, V_i * e_i), equal(V_s * e_j, V_j * e_j)
P_mean = One(D) - mean * mean.T / SquaredNorm(mean)

hypotheses = {
    "Z = X C^(1/2)": equal(X * F, Z),
    "Z_V = X V_r^(1/2)": equal(X * F_V, Z_V),
    "W = Y V_s^(1/2)": equal(Y * G, W),
    "Z^+ is the pseudo-inverse of Z": penrose(Z),
    "Z_V^+ is the pseudo-inverse of Z_V": penrose(Z_V),
    "W^+ is the pseudo-inverse of W": penrose(W),
    "C = V + mu mu^T": equal(C, V_r + mu * mu.T),
    "the mean token": equal(X * mu, mean),
    "the mean token is not zero": Ne(SquaredNorm(mean), 0),
    "the pattern is not zero": Ne(SquaredNorm(K_r * u_raw), 0),
}

leaning = ImmutableMatrix([[1, 1], [0, 1]])
early = leaning * leaning.T * leaning[:, 1]
claim = {
    "v": equal(v, K_s_plus * Y * V_s * e_j),
    "key side": equal(K_s * v, Y * V_s * e_j),
    "key side, uncorrelated": implies(uncorrelated_s, equal(K_s * v, V_j * Y * e_j)),
    "u with a query bias": equal(u, K_r_plus * X * V_r * e_i),
    "query side with a bias": equal(K_r * u, X * V_r * e_i),
    "query side with a bias, uncorrelated": implies(uncorrelated_r, equal(K_r * u, V_i * X * e_i)),
    "u": equal(u_raw, S_r_plus * X * C * e_i),
    "query side": equal(K_r * u_raw, X * V_r * e_i + (Inner(mu, e_i) - Inner(mean, u_raw)) * mean),
    "query side, uncorrelated": implies(
        uncorrelated_r, equal(K_r * u_raw, V_i * X * e_i + (Inner(mu, e_i) - Inner(mean, u_raw)) * mean)
    ),
    "the mean token projected out": implies(uncorrelated_r, equal(P_mean * K_r * u_raw, V_i * P_mean * X * e_i)),
    "share": equal(share, squared_cosine(K_r * u_raw, mean)),
    "share removed": equal(SquaredNorm(P_mean * K_r * u_raw), (1 - share) * SquaredNorm(K_r * u_raw)),
    "early in training it over-corrects": equal(squared_cosine(early, leaning[:, 1]), Rational(25, 26)),
}


def proof(claim: Claim):
    """The key side, the query side with a bias and without, the mean token projected out."""
    at = {u_raw: claim["u"].rhs, u: claim["u with a query bias"].rhs, v: claim["v"].rhs, share: claim["share"].rhs}
    yield Identity("Y V_s e_j lies in the range of K_s", W * pinv(W) * Y * V_s * e_j, Y * V_s * e_j)
    yield Identity("v solves K_s v = Y V_s e_j", K_s * at[v], Y * V_s * e_j, "v")
    yield from claim.conclude("key side", "so unwhitening undoes the pseudo-inverse", at)
    yield from claim.conclude("key side, uncorrelated", "V_s e_j = V_j e_j leaves the feature", at)
    yield Identity("u solves K_r u = X V_r e_i", K_r * at[u], X * V_r * e_i, "u with a query bias")
    yield from claim.conclude("query side with a bias", "the query side is centred too", at)
    yield from claim.conclude("query side with a bias, uncorrelated", "V_r e_i = V_i e_i", at)
    yield Identity("u_raw solves S_r u = X C e_i", Z * Z.T * at[u_raw], X * C * e_i, "u")
    yield Identity("K_r = S_r - m m^T", K_r, Z * Z.T - mean * mean.T)
    yield from claim.conclude("query side", "the feature's covariances plus the mean token", at)
    yield from claim.conclude("query side, uncorrelated", "the feature plus the mean token", at)
    yield Identity("P m = 0", P_mean * mean, 0 * mean)
    yield from claim.conclude("the mean token projected out", "of the pattern and of the feature", at)
    yield Identity(
        "the part along m",
        Inner(mean, K_r * u_raw) ** 2 / SquaredNorm(mean),
        at[share] * SquaredNorm(K_r * u_raw),
        "share",
    )
    yield from claim.conclude("share removed", "Pythagoras", {share: at[share]})
    yield from claim.conclude("early in training it over-corrects", "columns e_1, e_1 + e_2, in exact coordinates")


def _example(x, spread, mean_activation) -> dict:
    y, key = ImmutableMatrix([[1, 2], [0, 1]]), diag(1, 2)
    size = x.cols
    root = spread.row_join(mean_activation)
    first = ImmutableMatrix([1] + [0] * (size - 1))
    values = {
        D: 2, N: size, M: 2, K: size + 1, X: x, Y: y, F: root, F_V: spread, G: key,
        Z: x * root, Z_V: x * spread, W: y * key,
        e_i: first, e_j: ImmutableMatrix([0, 1]), mu: mean_activation, mean: x * mean_activation,
        V_i: spread[0, 0] ** 2, V_j: 4,
    }  # fmt: skip
    left = (x * root).pinv().T * root.T * first
    pattern, token = x * spread * spread.T * x.T * left, x * mean_activation
    lengths = pattern.dot(pattern) * token.dot(token)
    return {
        **values,
        u_raw: left,
        u: (x * spread).pinv().T * spread.T * first,
        v: (y * key).pinv().T * key.T * ImmutableMatrix([0, 1]),
        share: pattern.dot(token) ** 2 / lengths if lengths else 0,
    }


example = _example(ImmutableMatrix([[1, 0, 1], [0, 1, 1]]), diag(2, 1, 1), ImmutableMatrix([1, 0, 2]))
wrong = ImmutableMatrix(3, 2, range(6))
counterexamples = {
    "Z = X C^(1/2)": {**example, Z: 2 * example[Z]},
    "Z_V = X V_r^(1/2)": {**example, Z_V: 2 * example[Z_V]},
    "W = Y V_s^(1/2)": {**example, W: 2 * example[W]},
    "Z^+ is the pseudo-inverse of Z": {**example, pinv(Z): ImmutableMatrix(4, 2, range(8))},
    "Z_V^+ is the pseudo-inverse of Z_V": {**example, pinv(Z_V): wrong},
    "W^+ is the pseudo-inverse of W": {**example, pinv(W): eye(2)},
    "C = V + mu mu^T": {**example, F_V: 2 * example[F_V], Z_V: 2 * example[Z_V], V_i: 16},
    "the mean token": {**example, mean: 2 * example[mean]},
    "the mean token is not zero": _example(example[X], diag(2, 1, 1), ImmutableMatrix([0, 0, 0])),
    "the pattern is not zero": _example(example[X], diag(0, 0, 0), ImmutableMatrix([1, 0, 2])),
}

theorem = Theorem(
    id="T15",
    title="Reading features back: unwhitening",
    statement=(
        "For the fully trained single pair and uncorrelated activations K_s v is parallel to y_j on softmax's key side "
        "and, with a query bias, K_r u to x_i. Without the bias, for u_raw = S_r^+ E[r f_i], K_r u_raw = V_i x_i + "
        "(mu_i - m^T u_raw) m: the feature plus a multiple of the mean token m = X mu, which can be projected out of "
        "both. Correlated activations return the mixture Y V_s e_j. Early in training unwhitening over-corrects."
    ),
    hypotheses=hypotheses,
    claim=claim,
    proof=proof,
    controls=(
        Control("any activations", {"key side, uncorrelated": equal(K_s * v, V_j * Y * e_j)}),
        Control("no mean token", {"query side": equal(K_r * u_raw, X * V_r * e_i)}),
        Control(
            "the mean activation alone",
            {"query side": equal(K_r * u_raw, X * V_r * e_i + Inner(mu, e_i) * mean)},
        ),
        Control("second moment in place of covariance", without=("C = V + mu mu^T",)),
        Control(
            "unwhitening early in training",
            {"early in training it over-corrects": equal(squared_cosine(early, leaning[:, 1]), 1)},
        ),
        Control("the singular vector is the feature", {"v": equal(v, Y * e_j)}),
    ),
    scope="general D, N, M; X, Y and the covariances of any rank",
    status="proved",
    functions=("svtheory.spectra.unwhitening.unwhiten",),
    experiment="ledger",
    examples=(example, {**example, V_i: 7, V_j: 7}),
    counterexamples=counterexamples,
    references=("Haufe et al. 2014",),
)
