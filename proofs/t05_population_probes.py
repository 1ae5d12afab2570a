r"""T5. Population objective: singular vectors are least-squares probes.

With :math:`E = X^T\Omega Y - T`, the error at activations f, g is :math:`f^TEg`, and
:math:`(f^TEg)^2 = \mathrm{tr}(E^Tff^TEgg^T)`. Query and key are independent, so the expectation of the
product is :math:`\mathrm{tr}(E^TC_rEC_s)`. Write :math:`C_r = FF^T, C_s = GG^T` and :math:`Z = XF, W = YG`:
the loss is :math:`\frac12|Z^T\Omega W - F^TTG|^2`, which is T1 with X, Y, T replaced by Z, W, :math:`F^TTG`.
Its solution :math:`(Z^T)^+F^TTGW^+` is :math:`S_r^+(XC_rTC_sY^T)S_s^+`, because :math:`S_r = ZZ^T` and
:math:`XC_r = ZF^T`. For one pair it is the outer product of :math:`S_r^+XC_re_i`, the least-squares probe of
:math:`f_i`, and the same on the key side.
"""

from __future__ import annotations

from sympy import Identity as One
from sympy import ImmutableMatrix, Ne, Rational, eye, symbols

from proofs.notation import (
    D,
    Inner,
    M,
    N,
    SquaredNorm,
    columns,
    conjunction,
    equal,
    implies,
    matrices,
    penrose,
    pinv,
    trace,
)
from proofs.verifier import Claim, Control, Identity, Theorem

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


def loss(omega):
    """``E (r^T Omega s - f_r^T T f_s)^2``."""
    return SquaredNorm(F.T * (X.T * omega * Y - T) * G)


hypotheses = {
    "Z = X C_r^(1/2)": equal(X * F, Z),
    "W = Y C_s^(1/2)": equal(Y * G, W),
    "Z^+ is the pseudo-inverse of Z": penrose(Z),
    "W^+ is the pseudo-inverse of W": penrose(W),
}
scaled_identity = [equal(F, r * One(N)), equal(G, s * One(M)), Ne(r, 0), Ne(s, 0)]
X_plus = r * pinv(Z)
independent = [penrose(X), equal(pinv(X) * X, 1), equal(F * unmixed, 1), equal(unmixed * F, 1)]
claim = {
    "the loss sees second moments": equal(Inner(f, E * g) ** 2, trace(E.T * f * f.T * E * g * g.T)),
    "the loss is a norm": equal(trace(E.T * C_r * E * C_s), SquaredNorm(F.T * E * G)),
    "optimum": equal(Omega, optimum),
    "normal equations": equal(X * C_r * (X.T * Omega * Y - T) * C_s * Y.T, 0),
    "minimum": equal(loss(Omega + Delta), loss(Omega) + SquaredNorm(Z.T * Delta * W)),
    "least norm": implies(
        equal(Z.T * Delta * W, 0), equal(SquaredNorm(Omega + Delta), SquaredNorm(Omega) + SquaredNorm(Delta))
    ),
    "single pair": equal(optimum.xreplace({T: t * e_i * e_j.T}), t * probe_i * probe_j.T),
    "probe": equal(w, probe_i),
    "the probe is least squares": equal(
        SquaredNorm(F.T * (X.T * (w + d) - e_i)), SquaredNorm(F.T * (X.T * w - e_i)) + SquaredNorm(Z.T * d)
    ),
    "C = cI: the pseudo-inverse of X": implies(
        scaled_identity,
        conjunction(
            equal(X * X_plus * X, X),
            equal(X_plus * X * X_plus, X_plus),
            equal((X * X_plus).T, X * X_plus),
            equal((X_plus * X).T, X_plus * X),
        ),
    ),
    "C = cI: this is T1": implies(scaled_identity, equal(Omega, X_plus.T * T * (s * pinv(W)))),
    "a mean adds one direction": equal(X * (V + mu * mu.T) * X.T, X * V * X.T + (X * mu) * (X * mu).T),
    "independent features: the law drops out": implies(independent, equal(probe_i, pinv(X).T * e_i)),
}


def proof(claim: Claim):
    """The loss as a norm, then T1 in whitened features."""
    yield from claim.conclude("the loss sees second moments", "the squared error is linear in f f^T and in g g^T")
    yield from claim.conclude("the loss is a norm", "so its expectation is |F^T E G|^2")
    at = {Omega: claim["optimum"].rhs}
    whitened = pinv(Z).T * F.T * T * G * pinv(W)
    yield Identity("the optimum is T1's in whitened features", at[Omega], whitened, "optimum")
    yield from claim.conclude("normal equations", "the gradient vanishes", at)
    yield from claim.conclude("minimum", "Pythagoras: any other Omega costs more", at)
    yield from claim.conclude("least norm", "Pythagoras: any other minimiser is longer", at)
    yield from claim.conclude("single pair", "an outer product of probes")
    probe = {w: claim["probe"].rhs}
    yield Identity("the probe's normal equations", Z * Z.T * probe[w], X * C_r * e_i, "probe")
    yield from claim.conclude("the probe is least squares", "Pythagoras for the probe", probe)
    yield from claim.conclude("C = cI: the pseudo-inverse of X", "Z = r X has Z^+ = X^+/r")
    yield from claim.conclude("C = cI: this is T1", "and the moments cancel", at)
    yield from claim.conclude("a mean adds one direction", "S_r = X V X^T + (X mu)(X mu)^T")
    yield from claim.conclude("independent features: the law drops out", "F Z^+ = X^+ if X^+ X = I and F is invertible")


def _example(x: ImmutableMatrix, root: ImmutableMatrix, change: ImmutableMatrix, size: int = 1) -> dict:
    y, other = (
        ImmutableMatrix([[1, 2], [0, 1], [1, 0]]),
        size * eye(2) if size > 1 else ImmutableMatrix([[1, 0], [1, 2]]),
    )
    z, target = x * root, ImmutableMatrix(x.cols, 2, range(2 * x.cols))
    unit, last = ImmutableMatrix([1] + [0] * (x.cols - 1)), ImmutableMatrix([0, 1])
    left, right = z.pinv().T * root.T, (y * other).pinv().T * other.T
    at_optimum = left * target * right.T
    return {
        D: 3,
        N: x.cols,
        M: 2,
        X: x,
        Y: y,
        F: root,
        G: other,
        Z: z,
        W: y * other,
        T: target,
        E: target,
        V: root,
        e_i: unit,
        e_j: last,
        f: ImmutableMatrix(range(1, x.cols + 1)),
        g: ImmutableMatrix([2, -1]),
        mu: unit,
        Omega: at_optimum,
        Delta: change,
        w: left * unit,
        d: ImmutableMatrix([1, 2, 3]),
        unmixed: root.inv(),
        t: Rational(-3, 2),
        r: 2,
        s: size,
    }


few, many = ImmutableMatrix([[1, 0], [0, 1], [1, 1]]), ImmutableMatrix([[1, 0, 1, 2], [0, 1, 1, -1], [1, 1, 2, 1]])
mixing = ImmutableMatrix([[1, 0, 0, 0], [1, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 3]])
null = ImmutableMatrix([1, 1, -1]) * ImmutableMatrix([[2, 0, 1]])
examples = (
    _example(few, ImmutableMatrix([[1, 0], [1, 2]]), ImmutableMatrix([1, 1, -1]) * ImmutableMatrix([[2, 0, 1]])),
    _example(many, mixing, ImmutableMatrix(3, 3, range(9))),
    _example(many, 2 * eye(4), null, 3),
)
counterexamples = {
    "Z = X C_r^(1/2)": {**examples[0], Z: 2 * examples[0][Z]},
    "W = Y C_s^(1/2)": {**examples[0], W: 2 * examples[0][W]},
    "Z^+ is the pseudo-inverse of Z": {**examples[0], pinv(Z): ImmutableMatrix(2, 3, range(6))},
    "W^+ is the pseudo-inverse of W": {**examples[0], pinv(W): ImmutableMatrix(2, 3, range(6))},
}

theorem = Theorem(
    id="T5",
    title="Singular vectors are least-squares probes",
    statement=(
        "argmin (1/2) E (r^T Omega s - f_r^T T f_s)^2 = S_r^+ (X C_r T C_s Y^T) S_s^+. For a single pair u "
        "is parallel to S_r^+ E[r f_i], the best linear probe (no intercept) of feature i from the token; "
        "likewise v. T1 is C proportional to I; a mean adds the direction X mu to S_r; for linearly "
        "independent features and invertible C the law drops out."
    ),
    hypotheses=hypotheses,
    claim=claim,
    proof=proof,
    controls=(
        Control("T1's optimum whatever the law", {"optimum": equal(Omega, pinv(Z).T * T * pinv(W))}),
        Control("moments left out of the middle", {"optimum": equal(Omega, S_r_plus * X * T * Y.T * S_s_plus)}),
        Control("probes are features", {"probe": equal(w, X * e_i)}),
        Control(
            "the law drops out of any features",
            {"independent features: the law drops out": implies(independent[2:], equal(probe_i, pinv(X).T * e_i))},
        ),
        Control(
            "dependent draws of query and key",
            {"the loss is a norm": equal(trace(E.T * C_r * E * C_s), trace(E.T * C_r * E) * trace(C_s))},
        ),
    ),
    scope="general D, N, M; X, Y, C_r, C_s of any rank",
    status="proved",
    functions=("svtheory.prediction.optimum.optimal_omega", "svtheory.prediction.whitened.probes"),
    experiment="ledger",
    examples=examples,
    counterexamples=counterexamples,
)
