r"""T15. Reading features back: unwhitening.

For the fully trained single pair and uncorrelated activations :math:`K_sv` is parallel to :math:`y_j` on softmax's key
side and, with a query bias, :math:`K_ru` to :math:`x_i`. Without the bias, for :math:`u_0 = S_r^+E[r f_i]`,

.. math:: K_ru_0 = V_i x_i + (\mu_i - m^Tu_0)\,m ,

the feature plus a multiple of the mean token :math:`m = X\mu`, which can be projected out of both. Correlated
activations return the mixture :math:`YV_se_j`. Early in training unwhitening over-corrects.

Predicts: unwhitening a head that has not trained misses: for columns :math:`e_1, e_1 + e_2` it returns the second at
:math:`\cos^2 = 25/26`.

Why: write :math:`C = FF^T, V_r = F_VF_V^T, V_s = GG^T` and :math:`Z = XF, Z_V = XF_V, W = YG`, so that :math:`S_r =
ZZ^T, K_r = Z_VZ_V^T, K_s = WW^T`; :math:`\mu = E[f]` and :math:`m = E[r] = X\mu` are written E_f and E_r. The vectors
of the fully trained single pair (T5, T6) are :math:`v = K_s^+YV_se_j` and :math:`u = S_r^+XCe_i`, or :math:`u =
K_r^+XV_re_i` with a query bias.

:math:`K_sK_s^+` is the projection on the range of W, in which :math:`YV_se_j = WG^Te_j` lies; hence :math:`K_sv =
YV_se_j`, and for uncorrelated activations (:math:`V_se_j` a multiple of :math:`e_j`) this is a multiple of :math:`y_j`.
The query side with a bias is the same. Without it :math:`S_ru = XCe_i`, and with :math:`C = V_r + \mu\mu^T`

.. math:: K_ru = (S_r - mm^T)u = XV_re_i + (\mu_i - m^Tu)\,m,

the feature plus a known direction, the mean token. The projection off m removes it from both; the removed share is the
squared cosine of :math:`K_ru` with m. At small training time :math:`v \propto YV_se_j` already (T17): then :math:`K_sv`
is a multiple of :math:`y_j` only if :math:`y_j` is an eigenvector of :math:`K_s`.
"""

from sympy import Identity as One
from sympy import ImmutableMatrix, Ne, Rational, Symbol, diag, eye, symbols

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices, pinv
from proofs.engine.polytopes import squared_cosine
from proofs.engine.statements import equal, implies
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem, pseudo_inverse

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

root_Z = Hypothesis("Z = X C^(1/2)", equal(X * F, Z))
root_Z_V = Hypothesis("Z_V = X V_r^(1/2)", equal(X * F_V, Z_V))
root_W = Hypothesis("W = Y V_s^(1/2)", equal(Y * G, W))
Z_plus = pseudo_inverse(Z)
Z_V_plus = pseudo_inverse(Z_V)
W_plus = pseudo_inverse(W)
moments = Hypothesis("C = V + mu mu^T", equal(C, V_r + mu * mu.T))
mean_token = Hypothesis("the mean token", equal(X * mu, mean))
some_mean = Hypothesis("the mean token is not zero", Ne(SquaredNorm(mean), 0))
some_pattern = Hypothesis("the pattern is not zero", Ne(SquaredNorm(K_r * u_raw), 0))
leaning = ImmutableMatrix([[1, 1], [0, 1]])
early = leaning * leaning.T * leaning[:, 1]

lemmas = (
    Lemma("Y V_s e_j lies in the range of K_s", equal(W * pinv(W) * Y * V_s * e_j, Y * V_s * e_j), "Y V_s = W G^T",
          given=[root_W, W_plus]),
    Definition("v", equal(v, K_s_plus * Y * V_s * e_j)),
    Definition("u", equal(u_raw, S_r_plus * X * C * e_i)),
    Definition("u with a query bias", equal(u, K_r_plus * X * V_r * e_i)),
    Definition("share", equal(share, squared_cosine(K_r * u_raw, mean))),
    Lemma("key side", equal(K_s * v, Y * V_s * e_j), "so unwhitening undoes the pseudo-inverse", given=[root_W, W_plus],
          where=["v"]),
    Lemma("key side, uncorrelated", implies(uncorrelated_s, equal(K_s * v, V_j * Y * e_j)),
          "V_s e_j = V_j e_j leaves the feature", given=[root_W, W_plus], where=["v"]),
    Lemma("query side with a bias", equal(K_r * u, X * V_r * e_i), "the query side is centred too",
          given=[root_Z_V, Z_V_plus], where=["u with a query bias"]),
    Lemma("query side with a bias, uncorrelated", implies(uncorrelated_r, equal(K_r * u, V_i * X * e_i)),
          "V_r e_i = V_i e_i", given=[root_Z_V, Z_V_plus], where=["u with a query bias"]),
    Lemma("u_raw solves S_r u = X C e_i", equal(Z * Z.T * u_raw, X * C * e_i), "X C = Z F^T", given=[root_Z, Z_plus],
          where=["u"]),
    Lemma("K_r = S_r - m m^T", equal(K_r, Z * Z.T - mean * mean.T), "C = V + mu mu^T",
          given=[root_Z, moments, mean_token]),
    Lemma("query side", equal(K_r * u_raw, X * V_r * e_i + (Inner(mu, e_i) - Inner(mean, u_raw)) * mean),
          "the feature's covariances plus the mean token", given=[root_Z, Z_plus, moments, mean_token], where=["u"]),
    Lemma("query side, uncorrelated",
          implies(uncorrelated_r, equal(K_r * u_raw, V_i * X * e_i + (Inner(mu, e_i) - Inner(mean, u_raw)) * mean)),
          "the feature plus the mean token", given=[root_Z, Z_plus, moments, mean_token], where=["u"]),
    Lemma("P m = 0", equal(P_mean * mean, 0), "a projection off m", given=[some_mean]),
    Lemma("the mean token projected out", implies(uncorrelated_r, equal(P_mean * K_r * u_raw, V_i * P_mean * X * e_i)),
          "of the pattern and of the feature", given=[root_Z, Z_plus, moments, mean_token, some_mean], where=["u"]),
    Lemma("the part along m",
          equal(Inner(mean, K_r * u_raw) ** 2 / SquaredNorm(mean), share * SquaredNorm(K_r * u_raw)),
          "a squared cosine", given=[some_mean], where=["share"]),
    Lemma("share removed", equal(SquaredNorm(P_mean * K_r * u_raw), (1 - share) * SquaredNorm(K_r * u_raw)),
          "Pythagoras", given=[some_mean, some_pattern], where=["share"]),
    Lemma("early in training it over-corrects", equal(squared_cosine(early, leaning[:, 1]), Rational(25, 26)),
          "columns e_1, e_1 + e_2, in exact coordinates"),
)  # fmt: skip


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
    root_Z: {**example, Z: 2 * example[Z]},
    root_Z_V: {**example, Z_V: 2 * example[Z_V]},
    root_W: {**example, W: 2 * example[W]},
    Z_plus: {**example, pinv(Z): ImmutableMatrix(4, 2, range(8))},
    Z_V_plus: {**example, pinv(Z_V): wrong},
    W_plus: {**example, pinv(W): eye(2)},
    moments: {**example, F_V: 2 * example[F_V], Z_V: 2 * example[Z_V], V_i: 16},
    mean_token: {**example, mean: 2 * example[mean]},
    some_mean: _example(example[X], diag(2, 1, 1), ImmutableMatrix([0, 0, 0])),
    some_pattern: _example(example[X], diag(0, 0, 0), ImmutableMatrix([1, 0, 2])),
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("any activations", "key side, uncorrelated", equal(K_s * v, V_j * Y * e_j)),
        Control("no mean token", "query side", X * V_r * e_i),
        Control("the mean activation alone", "query side", X * V_r * e_i + Inner(mu, e_i) * mean),
        Control("second moment in place of covariance", moments),
        Control("unwhitening early in training", "early in training it over-corrects", 1),
        Control("the singular vector is the feature", "v", Y * e_j),
    ),
    scope="general D, N, M; X, Y and the covariances of any rank", status="proved",
    functions=("svtheory.spectra.unwhitening.unwhiten",),
    examples=(example, {**example, V_i: 7, V_j: 7}), counterexamples=counterexamples, references=("Haufe et al. 2014",),
)  # fmt: skip
