r"""T3. Approximate alignment: the sharp bound (Kantorovich's inequality).

In the eigenbasis of S, x has weights :math:`w_k = z_k^2/|z|^2` on the eigenvalues, and with :math:`\nu_k =
1/\lambda_k`

.. math:: \cos^2(S^+x, x) = E[\nu]^2/E[\nu^2], \qquad E[f] = \sum_k w_k f(\nu_k).

If :math:`0 < a \le \nu_k \le b`, then :math:`E[(b-\nu)(\nu-a)] \ge 0`, that is :math:`E[\nu^2] \le (a+b)E[\nu] - ab`,
and

.. math:: (a+b)^2E[\nu]^2 - 4ab\,E[\nu^2] = 4ab\,E[(b-\nu)(\nu-a)] + ((a+b)E[\nu] - 2ab)^2 \ge 0.

With a = 1/L and b = 1/m this is :math:`\cos^2 \ge 4\kappa/(1+\kappa)^2 = 1 - \epsilon^2`. The two columns
:math:`(\sqrt m\,q_m \pm \sqrt L\,q_L)/\sqrt 2` attain it. Local bound: for a unit column x with :math:`\rho = x^TSx`
and :math:`q = Sx - \rho x`, :math:`S^+q = x - \rho S^+x`, so :math:`\rho P_\perp S^+x = -P_\perp S^+q`, and
:math:`\rho\,x^TS^+x \ge 1`.
"""

from __future__ import annotations

from sympy import Identity as One
from sympy import ImmutableMatrix, KroneckerDelta, Ne, Rational, S, diag, eye, sqrt, symbols

from proofs.notation import (
    D,
    Inner,
    N,
    SquaredNorm,
    at_least,
    columns,
    conjunction,
    equal,
    implies,
    matrices,
    more_than,
    penrose,
    pinv,
    table,
    total,
)
from proofs.polytopes import squared_cosine
from proofs.verifier import Claim, Control, Identity, Inequality, Theorem

k, l = symbols("k l", integer=True)
w, nu, z, q = (table(name) for name in ("w", "nu", "z", "q"))
a, b = symbols("a b", real=True)
root_m, root_L = symbols("r s", positive=True)
m, L = root_m**2, root_L**2
kappa, eps = L / m, (L - m) / (L + m)


def mean(function):
    """``E[f] = sum_k w_k f(nu_k)``."""
    return total(w[k] * function, (k, 1, D))


first, second = mean(nu[k]), mean(nu[k] ** 2)

Q, Lam, Nu, zeta = matrices("Q", D, N), *matrices("Lambda Nu", N, N), columns("zeta", N)
spectral, inverse = Q * Lam * Q.T, Q * Nu * Q.T

q_m, q_L = columns("q_m q_L", D)
plus, minus = (root_m * q_m + root_L * q_L) / sqrt(2), (root_m * q_m - root_L * q_L) / sqrt(2)
dual_plus = (q_m / root_m + q_L / root_L) / sqrt(2)
frame = plus * plus.T + minus * minus.T

X, e_i = matrices("X", D, N), columns("e_i", N)
x, Splus = X * e_i, pinv(X).T * pinv(X)
rho, inverse_rho = SquaredNorm(X.T * x), SquaredNorm(pinv(X) * x)
residual = X * X.T * x - rho * x
P_perp = One(D) - x * x.T

hypotheses = {
    "weights are not negative": at_least(w[k], 0),
    "weights sum to 1": equal(total(w[k], (k, 1, D)), 1),
    "the spectrum lies in [a, b]": conjunction(at_least(nu[k], a), at_least(b, nu[k])),
    "its ends are positive": conjunction(more_than(a, 0), more_than(b, 0)),
    "eigenvectors are orthonormal": equal(Q.T * Q, 1),
    "Nu inverts Lambda": conjunction(equal(Lam * Nu, 1), equal(Nu * Lam, 1)),
    "x is not zero": conjunction(
        *(Ne(SquaredNorm(vector), 0) for vector in (zeta, Q * zeta, Nu * zeta, inverse * Q * zeta))
    ),
    "q_m and q_L are orthonormal": conjunction(
        equal(q_m.T * q_m, 1), equal(q_L.T * q_L, 1), equal(q_m.T * q_L, 0), equal(q_L.T * q_m, 0)
    ),
    "X^+ is the pseudo-inverse of X": penrose(X),
    "x_i is a unit vector": conjunction(equal(SquaredNorm(x), 1), Ne(rho, 0), Ne(inverse_rho, 0)),
}
claim = {
    "cosine in the eigenbasis": equal(squared_cosine(inverse * Q * zeta, Q * zeta), squared_cosine(Nu * zeta, zeta)),
    "the inverse of the spectral form": conjunction(
        equal(spectral * inverse * spectral, spectral),
        equal(inverse * spectral * inverse, inverse),
        equal((spectral * inverse).T, spectral * inverse),
        equal((inverse * spectral).T, inverse * spectral),
    ),
    "a diagonal form is a sum": equal(
        total(z[k] * nu[k] * KroneckerDelta(k, l) * z[l], (l, 1, D), (k, 1, D)), total(nu[k] * z[k] ** 2, (k, 1, D))
    ),
    "Kantorovich": at_least(first**2 / second, 4 * a * b / (a + b) ** 2),
    "sine": at_least(((b - a) / (b + a)) ** 2, 1 - first**2 / second),
    "in kappa": equal((4 * a * b / (a + b) ** 2).xreplace({a: 1 / L, b: 1 / m}), 4 * kappa / (1 + kappa) ** 2),
    "in eps": equal(4 * kappa / (1 + kappa) ** 2, 1 - eps**2),
    "two columns: frame": equal(frame, m * q_m * q_m.T + L * q_L * q_L.T),
    "two columns: dual": equal(frame * dual_plus, plus),
    "two columns: cosine": equal(squared_cosine(dual_plus, plus), 4 * m * L / (m + L) ** 2),
    "X^T x vanishes only with x": implies(equal(X.T * x, 0), equal(x, 0)),
    "X^+ x vanishes only with x": implies(equal(pinv(X) * x, 0), equal(x, 0)),
    "residual": equal(rho**2 * SquaredNorm(P_perp * Splus * x), SquaredNorm(P_perp * Splus * residual)),
    "local bound": at_least(SquaredNorm(Splus * residual), SquaredNorm(P_perp * Splus * x) / inverse_rho**2),
    "size of the residual": at_least(b**2 * total(q[k] ** 2, (k, 1, D)), total(nu[k] ** 2 * q[k] ** 2, (k, 1, D))),
}


def proof(claim: Claim):
    """The spectral form, two non-negative terms, the extremal pair, the local bound."""
    yield from claim.conclude("the inverse of the spectral form", "S^+ = Q Nu Q^T satisfies Penrose's identities")
    yield from claim.conclude("cosine in the eigenbasis", "Q drops out of the cosine")
    yield from claim.conclude("a diagonal form is a sum", "and a diagonal form is the mean of nu under the weights")
    spread = mean((b - nu[k]) * (nu[k] - a))
    square = (a + b) * first - 2 * a * b
    yield Inequality("E[(b - nu)(nu - a)] >= 0", (a + b) * first - a * b, second, spread)
    squares = mean((nu[k] - a) ** 2) + 2 * a * mean(nu[k] - a) + a**2
    above = Inequality("E[nu^2] >= a^2 > 0", second, S.Zero, squares, strict=True)
    yield above
    certificate = (4 * a * b * spread + square**2) / ((a + b) ** 2 * second)
    yield from claim.conclude("Kantorovich", "and one perfect square", certificate=certificate, lemmas=(above,))
    yield from claim.conclude("sine", "1 - 4ab/(a+b)^2 = ((b-a)/(b+a))^2", certificate=certificate, lemmas=(above,))
    yield from claim.conclude("in kappa", "a = 1/L and b = 1/m")
    yield from claim.conclude("in eps", "eps = (L - m)/(L + m)")
    yield from claim.conclude("two columns: frame", "the frame operator of the two columns")
    yield from claim.conclude("two columns: dual", "its inverse on a column")
    yield from claim.conclude("two columns: cosine", "attains the bound")
    yield from _local(claim)


def _local(claim: Claim):
    yield from claim.conclude("X^T x vanishes only with x", "so rho = |X^T x|^2 is positive")
    yield from claim.conclude("X^+ x vanishes only with x", "and so is x^T S^+ x = |X^+ x|^2")
    yield Identity("S^+ q = x - rho S^+ x", Splus * residual, x - rho * Splus * x)
    yield from claim.conclude("residual", "so the parts orthogonal to x are proportional")
    schwarz = SquaredNorm(pinv(X) * x - X.T * x / rho)
    yield Inequality("rho x^T S^+ x >= 1", rho * inverse_rho, S.One, rho * schwarz)
    yield Inequality(
        "|P q'| <= |q'|",
        SquaredNorm(Splus * residual),
        SquaredNorm(P_perp * Splus * residual),
        Inner(x, Splus * residual) ** 2,
    )
    product = rho * inverse_rho
    certificate = (
        Inner(x, Splus * residual) ** 2
        + SquaredNorm(P_perp * Splus * residual) * rho * schwarz * (product + 1) / product**2
    )
    yield from claim.conclude("local bound", "tan(angle) <= |S^+ q|", certificate=certificate)
    halves = (b - nu[k]) ** 2 + 2 * (b - nu[k]) * (nu[k] - a) + 2 * a * (b - nu[k])
    certificate = total(halves * q[k] ** 2, (k, 1, D))
    yield from claim.conclude("size of the residual", "|S^+ q| <= |q|/m", certificate=certificate)


halved = at_least(claim["local bound"].lhs / 4, claim["local bound"].rhs)
example = {
    D: 2, N: 2, w: [Rational(1, 3), Rational(2, 3)], nu: [1, Rational(1, 2)], a: Rational(1, 2), b: 1, z: [1, 2],
    q: [1, 1], root_m: 1, root_L: 2, Q: eye(2), Lam: diag(1, 2), Nu: diag(1, Rational(1, 2)),
    zeta: ImmutableMatrix([1, 2]), q_m: ImmutableMatrix([1, 0]), q_L: ImmutableMatrix([0, 1]),
    e_i: ImmutableMatrix([1, 0]), X: ImmutableMatrix([[Rational(3, 5), 1], [Rational(4, 5), 0]]),
}  # fmt: skip
interior = {**example, a: Rational(1, 4), b: 2}
counterexamples = {
    "weights are not negative": {**example, w: [-1, 2]},
    "weights sum to 1": {**example, w: [Rational(1, 6), Rational(1, 3)]},
    "the spectrum lies in [a, b]": {**example, nu: [1, Rational(1, 100)]},
    "its ends are positive": {**example, a: 0, b: 0, nu: [0, 0]},
    "eigenvectors are orthonormal": {**example, Q: ImmutableMatrix([[1, 1], [0, 1]])},
    "Nu inverts Lambda": {**example, Nu: diag(1, 2)},
    "x is not zero": {**example, zeta: ImmutableMatrix([0, 0])},
    "q_m and q_L are orthonormal": {**example, q_L: ImmutableMatrix([1, 1])},
    "X^+ is the pseudo-inverse of X": {**example, pinv(X): eye(2)},
    "x_i is a unit vector": {**example, e_i: ImmutableMatrix([2, 0])},
}

theorem = Theorem(
    id="T3",
    title="Approximate alignment: the sharp bound",
    statement=(
        "For every non-zero feature cos(u, x_i) >= 2 sqrt(kappa)/(1 + kappa) = sqrt(1 - eps^2), so sin(angle) <= "
        "eps, with kappa = L/m the condition number of S_X on its range. Two columns with extreme eigenvalues m, L "
        "attain it. Locally, with rho = x^^T S x^ and q = S x^ - rho x^: tan(angle) = |P_perp S^+ q|/(rho x^^T S^+ "
        "x^) <= |S^+ q| <= |q|/m."
    ),
    hypotheses=hypotheses,
    claim=claim,
    proof=proof,
    controls=(
        Control("a larger constant", {"Kantorovich": at_least(first**2 / second, 5 * a * b / (a + b) ** 2)}),
        Control("another mean of a, b", {"Kantorovich": at_least(first**2 / second, 2 * a * b / (a**2 + b**2))}),
        Control("eigenvalues outside [1/L, 1/m]", without=("the spectrum lies in [a, b]",)),
        Control("signed weights", without=("weights are not negative",)),
        Control("local bound with half the residual", {"local bound": halved}),
        Control("a pair that is not extremal", {"two columns: cosine": equal(squared_cosine(dual_plus, plus), 1)}),
    ),
    scope="general D",
    status="proved",
    functions=(
        "svtheory.geometry.bounds.kantorovich_bound",
        "svtheory.geometry.bounds.alignment_bound",
        "svtheory.geometry.bounds.local_alignment_bound",
    ),
    experiment="anisotropy",
    examples=(example, interior),
    counterexamples=counterexamples,
    references=("Kantorovich 1948", "Gustafson 1968"),
)
