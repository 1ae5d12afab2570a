r"""T14. Robustness (Wedin).

Let :math:`\Omega = \Omega^* + E, e = |E|_2`, with singular values :math:`\sigma^*_j` and :math:`\sigma_j`, padded with
zeros to D, and let :math:`s_u, s_v` be the sines of the angles between the k-th vectors. Two theorems are cited:

- Wedin: :math:`s_u^2 + s_v^2 \le 2e^2/\delta_k^2`, with :math:`\delta_k = \min_{j\ne k}|\sigma^*_k - \sigma_j|`;
- Weyl: :math:`|\sigma_j - \sigma^*_j| \le e`.

From them follows the form with the gap g of :math:`\Omega^*` alone. At the j that attains the mixed gap,
:math:`\delta_k \ge |\sigma^*_k - \sigma^*_j| - e \ge g - e`, whether :math:`\sigma^*_j` lies below or above. Then for a
sine s, which is at most 1,

.. math:: g s \le \delta_k s + e s \le \sqrt2\,e + e.

A constant 1 in place of :math:`\sqrt2` fails for a middle vector. Take :math:`\Omega^* = \mathrm{diag}(2, 1, 0)` and E
with the columns :math:`\epsilon(0, 1, 0), \epsilon(p, 0, q), 0`, where :math:`p^2 + q^2 = 1`: its norm is
:math:`\epsilon`, and as :math:`\epsilon \to 0` the sine of the second left vector is :math:`\epsilon\sqrt{3/2 -
\frac89(p - \frac14)^2}`: up to 1.22 times the error over the gap, which is 1. At one :math:`\epsilon` everything is
rational.
"""

from __future__ import annotations

from typing import Any

from sympy import Add, ImmutableMatrix, Limit, Rational, S, diag, sqrt, symbols

from proofs.calculus import conclude
from proofs.examples import value
from proofs.notation import at_least, conjunction, equal, implies, more_than
from proofs.polytopes import squared_cosine
from proofs.verifier import Claim, Control, Inequality, Theorem

e, g, delta, s_u, s_v = symbols("e g delta s_u s_v", real=True)
own, other, moved = symbols("sigma*_k sigma*_j sigma_j", real=True)
p, eps = symbols("p epsilon", positive=True)
constant = 1 + sqrt(2)

hypotheses = {
    "Wedin's theorem (cited)": at_least(2 * e**2, (s_u**2 + s_v**2) * delta**2),
    "Weyl's inequality (cited)": conjunction(at_least(e, moved - other), at_least(e, other - moved)),
    "the nearest of the others": conjunction(at_least(delta, own - moved), at_least(delta, moved - own)),
    "sines of angles, and an error": conjunction(
        at_least(s_u, 0), at_least(s_v, 0), at_least(1 - s_u, 0), at_least(1 - s_v, 0), more_than(e, 0)
    ),
}


def second_left(epsilon, p, q):
    """The second right and left vectors of ``diag(2, 1, 0) + E``, not normalised, and their squared singular value."""
    mixing = epsilon * (1 + 2 * p)
    value = (5 + 2 * epsilon**2) / 2 - sqrt(Rational(9, 4) + mixing**2)
    right = ImmutableMatrix([-mixing / (4 + epsilon**2 - value), 1, 0])
    return right, perturbed(epsilon, p, q) * right, value


def perturbed(epsilon, p, q):
    """``diag(2, 1, 0) + E``."""
    return diag(2, 1, 0) + error(epsilon, p, q)


def error(epsilon, p, q) -> Any:
    """``E``, of spectral norm epsilon if ``p^2 + q^2 = 1``."""
    return epsilon * ImmutableMatrix([[0, p, 0], [1, 0, 0], [0, q, 0]])


size, parts = Rational(500, 5187), (Rational(7, 25), Rational(24, 25))
matrix, (right, left, squared_value) = perturbed(size, *parts), second_left(size, *parts)
middle = ImmutableMatrix([0, 1, 0])
sine_u, sine_v = 1 - squared_cosine(left, middle), 1 - squared_cosine(right, middle)
first, second, third = second_left(eps, p, sqrt(1 - p**2))[1]
family = (first**2 + third**2) / (eps**2 * (first**2 + second**2 + third**2))
below, above = at_least(own - other, g), at_least(other - own, g)

claim = {
    "the mixed gap from below": implies(below, at_least(delta, g - e)),
    "the mixed gap from above": implies(above, at_least(delta, g - e)),
    "u, with the own gap, from below": implies(below, at_least(constant * e, g * s_u)),
    "v, with the own gap, from below": implies(below, at_least(constant * e, g * s_v)),
    "u, with the own gap, from above": implies(above, at_least(constant * e, g * s_u)),
    "v, with the own gap, from above": implies(above, at_least(constant * e, g * s_v)),
    "middle vector: size of the error": equal(error(size, *parts).T * error(size, *parts), size**2 * diag(1, 1, 0)),
    "middle vector: right": equal(matrix.T * matrix * right, squared_value * right),
    "middle vector: left": equal(matrix * matrix.T * left, squared_value * left),
    "middle vector: the gap is 1": at_least((matrix.T * matrix).trace() - squared_value, 4),
    "middle vector: constant 1 fails": more_than(sine_u, size**2),
    "middle vector: by 1.22": more_than(sine_u, Rational(122, 100) ** 2 * size**2),
    "middle vector: constant sqrt(2) holds": at_least(2 * size**2, sine_u + sine_v),
    "middle vector: first order": equal(
        Limit(family, eps, 0), Rational(3, 2) - Rational(8, 9) * (p - Rational(1, 4)) ** 2
    ),
}


def proof(claim: Claim):
    """Weyl for the mixed gap, then Wedin, then the middle vector in exact arithmetic."""
    moved_up, moved_down = e - (moved - other), e - (other - moved)
    nearest_below, nearest_above = delta - (own - moved), delta - (moved - own)
    gaps = {"below": (nearest_below, own - other - g, moved_up), "above": (nearest_above, other - own - g, moved_down)}
    for side, terms in gaps.items():
        part = f"the mixed gap from {side}"
        yield from claim.conclude(part, "Weyl moves the nearest by at most e", certificate=_sum(*terms))
    distance = Inequality("delta >= 0", delta, S.Zero, _sum(nearest_below, nearest_above) / 2)
    yield distance
    for sine, rest, name in ((s_u, s_v, "u"), (s_v, s_u, "v")):
        wedin = _sum(2 * e**2 - (s_u**2 + s_v**2) * delta**2, rest**2 * delta**2) / (sqrt(2) * e + sine * delta)
        one_sine = Inequality("one sine: s delta <= sqrt(2) e", sqrt(2) * e, sine * delta, wedin, lemmas=(distance,))
        yield one_sine
        for side, terms in gaps.items():
            certificate = _sum(sqrt(2) * e - sine * delta, *(sine * term for term in terms), e * (1 - sine))
            part, why = f"{name}, with the own gap, from {side}", "g s <= delta s + e s, and s <= 1"
            yield from claim.conclude(part, why, certificate=certificate, lemmas=(one_sine,))
    for part in ("size of the error", "right", "left"):
        yield from claim.conclude(f"middle vector: {part}", "in exact coordinates")
    for part in ("the gap is 1", "constant 1 fails", "by 1.22", "constant sqrt(2) holds"):
        relation = claim[f"middle vector: {part}"]
        gap = value(relation.gts - relation.lts, {})
        yield from claim.conclude(f"middle vector: {part}", "in exact numbers", certificate=gap)
    yield from conclude(claim, "middle vector: first order", "3/2 at p = 1/4")


def _sum(*terms):
    """A sum that keeps its terms apart, so that their signs show."""
    return Add(*terms, evaluate=False)


example = {
    e: 1, g: 3, delta: 3, s_u: Rational(1, 4), s_v: Rational(1, 3), own: 5, other: 2, moved: 2, p: Rational(1, 4),
}  # fmt: skip
mirrored = {**example, other: 8, moved: 8}
counterexamples = {
    "Wedin's theorem (cited)": {**example, s_u: 1, s_v: 1},
    "Weyl's inequality (cited)": {**example, g: 9, other: -4},
    "the nearest of the others": {**example, delta: 1},
    "sines of angles, and an error": {**example, g: 1, delta: 0, s_u: 3, s_v: 3, own: 1, other: 0, moved: 1},
}

theorem = Theorem(
    id="T14",
    title="Robustness",
    statement=(
        "Omega = Omega* + E, singular values padded with zeros to D. Wedin: sqrt(sin^2 angle_u + sin^2 angle_v) <= "
        "sqrt(2)|E|_2/delta_k with the mixed gap delta_k = min over j of |sigma_k(Omega*) - sigma_j(Omega)|. With "
        "Omega*'s own gap each sine is at most (1 + sqrt(2))|E|_2/gap_k. A constant 1 does not hold for a middle "
        "singular vector, whose sine can be 1.22 times |E|_2/delta_k."
    ),
    hypotheses=hypotheses,
    claim=claim,
    proof=proof,
    controls=(
        Control("constant 1 for a middle vector", {"middle vector: constant 1 fails": at_least(size**2, sine_u)}),
        Control(
            "constant sqrt(2) with the own gap",
            {"u, with the own gap, from below": implies(below, at_least(sqrt(2) * e, g * s_u))},
        ),
        Control("without Wedin's theorem", without=("Wedin's theorem (cited)",)),
        Control("without Weyl's inequality", without=("Weyl's inequality (cited)",)),
        Control(
            "both sines together below e",
            {"middle vector: constant sqrt(2) holds": at_least(size**2, sine_u + sine_v)},
        ),
    ),
    scope="general D; the middle vector at D = 3 in exact arithmetic and to first order",
    status="cited",
    functions=(
        "svtheory.spectra.perturbation.wedin_bound",
        "svtheory.spectra.perturbation.wedin_own_bound",
        "svtheory.spectra.perturbation.nameable",
    ),
    experiment="ledger",
    examples=(example, mirrored, {**example, g: 10}),
    counterexamples=counterexamples,
    references=("Wedin 1972", "Weyl 1912"),
)
