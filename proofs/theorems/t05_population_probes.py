r"""T5. Singular vectors are least-squares probes.

The least-norm minimiser of :math:`\frac12 E(r^T\Omega s - f_r^TTf_s)^2` is

.. math:: \Omega^* = S_r^+\,(X C_r T C_s Y^T)\,S_s^+ .

For a single pair u is parallel to :math:`S_r^+E[r f_i]`, the best linear probe (without intercept) of feature i from
the token; likewise v. T1 is C proportional to I; a mean adds the direction :math:`X\mu` to :math:`S_r`; for linearly
independent features and invertible C the law drops out.

Predicts: :math:`\sigma = |t|\,|S_r^+E[r f_i]|\,|S_s^+E[s g_j]|`, the product of the lengths of two probes.

Why: with :math:`E = X^T\Omega Y - T`, the error at activations f, g is :math:`f^TEg`, and :math:`(f^TEg)^2 =
\mathrm{tr}(E^Tff^TEgg^T)`. Query and key are independent, so the expectation of the product is
:math:`\mathrm{tr}(E^TC_rEC_s)`. Write :math:`C_r = FF^T, C_s = GG^T` and :math:`Z = XF, W = YG`: the loss is
:math:`\frac12|Z^T\Omega W - F^TTG|^2`, which is T1 with X, Y, T replaced by Z, W, :math:`F^TTG`. Its solution
:math:`(Z^T)^+F^TTGW^+` is :math:`S_r^+(XC_rTC_sY^T)S_s^+`, because :math:`S_r = ZZ^T` and :math:`XC_r = ZF^T`. For one
pair it is the outer product of :math:`S_r^+XC_re_i`, the least-squares probe of :math:`f_i`, and the same on the key
side.
"""

from sympy import Identity as One
from sympy import ImmutableMatrix, Ne, Rational, eye, symbols

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices, pinv, trace
from proofs.engine.statements import equal, implies, penrose
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem, pseudo_inverse
from proofs.theorems import t01_dual_frame_optimum as t01

X, Y, T = matrices("X", D, N), matrices("Y", D, M), matrices("T", N, M)
F, G, Z, W = matrices("F", N, N), matrices("G", M, M), matrices("Z", D, N), matrices("W", D, M)
Omega, Delta, E = *matrices("Omega Delta", D, D), matrices("E", N, M)
(e_i, f, mu), (e_j, g) = columns("e_i f mu", N), columns("e_j g", M)
w, d = columns("w d", D)
V, unmixed = matrices("V", N, N), matrices("F_inverse", N, N)
t, r, s = symbols("t r s", real=True)
C_r, C_s = F * F.T, G * G.T
S_r_plus, S_s_plus = pinv(Z).T * pinv(Z), pinv(W).T * pinv(W)
optimum = S_r_plus * X * C_r * T * C_s * Y.T * S_s_plus
probe_i, probe_j = S_r_plus * X * C_r * e_i, S_s_plus * Y * C_s * e_j

root_Z = Hypothesis("Z = X C_r^(1/2)", equal(X * F, Z))
root_W = Hypothesis("W = Y C_s^(1/2)", equal(Y * G, W))
Z_plus = pseudo_inverse(Z)
W_plus = pseudo_inverse(W)
moments = [root_Z, root_W, Z_plus, W_plus]
scaled_identity = [equal(F, r * One(N)), equal(G, s * One(M)), Ne(r, 0), Ne(s, 0)]
X_plus = r * pinv(Z)
independent = [penrose(X), equal(pinv(X) * X, 1), equal(F * unmixed, 1), equal(unmixed * F, 1)]
whitened = {X: Z, Y: W, T: F.T * T * G, t01.Z: Delta}

lemmas = (
    Lemma("the loss sees second moments", equal(Inner(f, E * g) ** 2, trace(E.T * f * f.T * E * g * g.T)),
          "the squared error is linear in f f^T and in g g^T"),
    Lemma("the loss is a norm", equal(trace(E.T * C_r * E * C_s), SquaredNorm(F.T * E * G)),
          "so its expectation is |F^T E G|^2"),
    Definition("optimum", equal(Omega, optimum)),
    Lemma("the loss is T1's for whitened features",
          equal(F.T * (X.T * Omega * Y - T) * G, Z.T * Omega * W - F.T * T * G), "Z = X F and W = Y G",
          given=[root_Z, root_W]),
    t01.theorem.cite("normal equations", whitened, given=moments, where=["optimum"]),
    t01.theorem.cite("minimum", whitened, given=moments, where=["optimum"]),
    t01.theorem.cite("least norm", whitened, given=moments, where=["optimum"]),
    Definition("probe", equal(w, probe_i)),
    Lemma("single pair", equal(optimum.xreplace({T: t * e_i * e_j.T}), t * probe_i * probe_j.T),
          "an outer product of probes"),
    Lemma("the probe's normal equations", equal(Z * Z.T * w, X * C_r * e_i), "S_r = Z Z^T", given=[root_Z, Z_plus],
          where=["probe"]),
    Lemma("the probe is least squares",
          equal(SquaredNorm(F.T * (X.T * (w + d) - e_i)), SquaredNorm(F.T * (X.T * w - e_i)) + SquaredNorm(Z.T * d)),
          "Pythagoras for the probe", given=[root_Z, Z_plus], where=["probe"]),
    Lemma("C = cI: the pseudo-inverse of X", implies(scaled_identity, penrose(X, X_plus)), "Z = r X has Z^+ = X^+/r",
          given=[root_Z, Z_plus]),
    Lemma("C = cI: this is T1", implies(scaled_identity, equal(Omega, X_plus.T * T * (s * pinv(W)))),
          "and the moments cancel", given=moments, where=["optimum"]),
    Lemma("a mean adds one direction", equal(X * (V + mu * mu.T) * X.T, X * V * X.T + (X * mu) * (X * mu).T),
          "S_r = X V X^T + (X mu)(X mu)^T"),
    Lemma("independent features: the law drops out", implies(independent, equal(probe_i, pinv(X).T * e_i)),
          "F Z^+ = X^+ if X^+ X = I and F is invertible", given=[root_Z, Z_plus]),
)  # fmt: skip


def _example(x: ImmutableMatrix, root: ImmutableMatrix, change: ImmutableMatrix, size: int = 1) -> dict:
    y, shear = ImmutableMatrix([[1, 2], [0, 1], [1, 0]]), ImmutableMatrix([[1, 0], [1, 2]])
    other = size * eye(2) if size > 1 else shear
    z, target = x * root, ImmutableMatrix(x.cols, 2, range(2 * x.cols))
    unit, last = ImmutableMatrix([1] + [0] * (x.cols - 1)), ImmutableMatrix([0, 1])
    left, right = z.pinv().T * root.T, (y * other).pinv().T * other.T
    return {
        D: 3, N: x.cols, M: 2, X: x, Y: y, F: root, G: other, Z: z, W: y * other, T: target, E: target, V: root,
        e_i: unit, e_j: last, f: ImmutableMatrix(range(1, x.cols + 1)), g: ImmutableMatrix([2, -1]), mu: unit,
        Omega: left * target * right.T, Delta: change, w: left * unit, d: ImmutableMatrix([1, 2, 3]),
        unmixed: root.inv(), t: Rational(-3, 2), r: 2, s: size,
    }  # fmt: skip


few, many = ImmutableMatrix([[1, 0], [0, 1], [1, 1]]), ImmutableMatrix([[1, 0, 1, 2], [0, 1, 1, -1], [1, 1, 2, 1]])
mixing = ImmutableMatrix([[1, 0, 0, 0], [1, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 3]])
null = ImmutableMatrix([1, 1, -1]) * ImmutableMatrix([[2, 0, 1]])
examples = (
    _example(few, ImmutableMatrix([[1, 0], [1, 2]]), null),
    _example(many, mixing, ImmutableMatrix(3, 3, range(9))),
    _example(many, 2 * eye(4), null, 3),
)
counterexamples = {
    root_Z: {**examples[0], Z: 2 * examples[0][Z]},
    root_W: {**examples[0], W: 2 * examples[0][W]},
    Z_plus: {**examples[0], pinv(Z): ImmutableMatrix(2, 3, range(6))},
    W_plus: {**examples[0], pinv(W): ImmutableMatrix(2, 3, range(6))},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("T1's optimum whatever the law", "optimum", pinv(Z).T * T * pinv(W)),
        Control("moments left out of the middle", "optimum", S_r_plus * X * T * Y.T * S_s_plus),
        Control("probes are features", "probe", X * e_i),
        Control("the law drops out of any features", "independent features: the law drops out",
                implies(independent[2:], equal(probe_i, pinv(X).T * e_i))),
        Control("dependent draws of query and key", "the loss is a norm",
                equal(trace(E.T * C_r * E * C_s), trace(E.T * C_r * E) * trace(C_s))),
    ),
    scope="general D, N, M; X, Y, C_r, C_s of any rank", status="proved",
    functions=("svtheory.prediction.optimum.optimal_omega", "svtheory.prediction.whitened.probes"),
    examples=examples, counterexamples=counterexamples,
)  # fmt: skip
