r"""T14. Robustness.

Let :math:`\Omega = \Omega^* + E`, singular values padded with zeros to D. With the mixed gap :math:`\delta_k = \min_{j
\ne k}|\sigma_k(\Omega^*) - \sigma_j(\Omega)|` (Wedin)

.. math:: \sqrt{\sin^2\angle_u + \sin^2\angle_v} \le \frac{\sqrt2\,|E|_2}{\delta_k} .

With the own gap of :math:`\Omega^*` each sine is at most :math:`(1 + \sqrt2)|E|_2/g_k`. A constant 1 does not hold for
a middle singular vector, whose sine can be 1.22 times :math:`|E|_2/\delta_k`.

Predicts: an error of a tenth of the gap turns a singular vector by at most 14 degrees.

Why: let :math:`\Omega = \Omega^* + E, e = |E|_2`, with singular values :math:`\sigma^*_j` and :math:`\sigma_j`, padded
with zeros to D, and let :math:`s_u, s_v` be the sines of the angles between the k-th vectors. Two theorems are cited:

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

from typing import Any

from sympy import Add, ImmutableMatrix, Limit, Rational, diag, sqrt, symbols

from proofs.engine.polytopes import squared_cosine
from proofs.engine.statements import at_least, equal, implies, more_than
from proofs.engine.verifier import Control, Hypothesis, Lemma, Theorem

e, g, delta, s_u, s_v = symbols("e g delta s_u s_v", real=True)
own, other, moved = symbols("sigma*_k sigma*_j sigma_j", real=True)
p, eps = symbols("p epsilon", positive=True)
constant = 1 + sqrt(2)

wedin = Hypothesis("Wedin's theorem (cited)", at_least(2 * e**2, (s_u**2 + s_v**2) * delta**2))
weyl = Hypothesis("Weyl's inequality (cited)", at_least(e, moved - other), at_least(e, other - moved))
nearest = Hypothesis("the nearest of the others", at_least(delta, own - moved), at_least(delta, moved - own))
sines = Hypothesis("sines of angles, and an error", at_least(s_u, 0), at_least(s_v, 0), at_least(1 - s_u, 0),
                   at_least(1 - s_v, 0), more_than(e, 0))  # fmt: skip


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


def terms(*summands):
    """A sum that keeps its terms apart, so that their signs show."""
    return Add(*summands, evaluate=False)


nearest_below, nearest_above = delta - (own - moved), delta - (moved - own)
gaps = {
    "below": (below, nearest_below, own - other - g, e - (moved - other)),
    "above": (above, nearest_above, other - own - g, e - (other - moved)),
}
sines_of = {"u": (s_u, s_v), "v": (s_v, s_u)}


def wedin_for(sine, rest):
    """What Wedin's theorem leaves for one sine."""
    return terms(2 * e**2 - (s_u**2 + s_v**2) * delta**2, rest**2 * delta**2) / (sqrt(2) * e + sine * delta)


def own_gap(sine, gap_terms):
    """Twice a distance and what a sine is below 1, each not negative."""
    return terms(sqrt(2) * e - sine * delta, *(sine * term for term in gap_terms), e * (1 - sine))


lemmas = (
    *(Lemma(f"the mixed gap from {side}", implies(where, at_least(delta, g - e)), "Weyl moves the nearest by at most e",
            given=[weyl, nearest], certificate=terms(*gap_terms)) for side, (where, *gap_terms) in gaps.items()),
    Lemma("delta >= 0", at_least(delta, 0), "a distance", given=[nearest],
          certificate=terms(nearest_below, nearest_above) / 2),
    *(Lemma(f"{name}: s delta <= sqrt(2) e", at_least(sqrt(2) * e, sine * delta), "Wedin's theorem for one sine",
            given=[wedin, sines], uses=["delta >= 0"], certificate=wedin_for(sine, rest))
      for name, (sine, rest) in sines_of.items()),
    *(Lemma(f"{name}, with the own gap, from {side}", implies(where, at_least(constant * e, g * sine)),
            "g s <= delta s + e s, and s <= 1", given=[weyl, nearest, sines], uses=[f"{name}: s delta <= sqrt(2) e"],
            certificate=own_gap(sine, gap_terms))
      for name, (sine, _) in sines_of.items() for side, (where, *gap_terms) in gaps.items()),
    Lemma("middle vector: size of the error",
          equal(error(size, *parts).T * error(size, *parts), size**2 * diag(1, 1, 0)), "in exact coordinates"),
    Lemma("middle vector: right", equal(matrix.T * matrix * right, squared_value * right), "in exact coordinates"),
    Lemma("middle vector: left", equal(matrix * matrix.T * left, squared_value * left), "in exact coordinates"),
    Lemma("middle vector: the gap is 1", at_least((matrix.T * matrix).trace() - squared_value, 4), "in exact numbers"),
    Lemma("middle vector: constant 1 fails", more_than(sine_u, size**2), "in exact numbers"),
    Lemma("middle vector: by 1.22", more_than(sine_u, Rational(122, 100) ** 2 * size**2), "in exact numbers"),
    Lemma("middle vector: constant sqrt(2) holds", at_least(2 * size**2, sine_u + sine_v), "in exact numbers"),
    Lemma("middle vector: first order",
          equal(Limit(family, eps, 0), Rational(3, 2) - Rational(8, 9) * (p - Rational(1, 4)) ** 2), "3/2 at p = 1/4"),
)  # fmt: skip


example = {
    e: 1, g: 3, delta: 3, s_u: Rational(1, 4), s_v: Rational(1, 3), own: 5, other: 2, moved: 2, p: Rational(1, 4),
}  # fmt: skip
mirrored = {**example, other: 8, moved: 8}
counterexamples = {
    wedin: {**example, s_u: 1, s_v: 1},
    weyl: {**example, g: 9, other: -4},
    nearest: {**example, delta: 1},
    sines: {**example, g: 1, delta: 0, s_u: 3, s_v: 3, own: 1, other: 0, moved: 1},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("constant 1 for a middle vector", "middle vector: constant 1 fails", at_least(size**2, sine_u)),
        Control("constant sqrt(2) with the own gap", "u, with the own gap, from below",
                implies(below, at_least(sqrt(2) * e, g * s_u))),
        Control("without Wedin's theorem", wedin),
        Control("without Weyl's inequality", weyl),
        Control("both sines together below e", "middle vector: constant sqrt(2) holds",
                at_least(size**2, sine_u + sine_v)),
    ),
    scope="general D; the middle vector at D = 3 in exact arithmetic and to first order", status="cited",
    functions=("svtheory.spectra.perturbation.wedin_bound", "svtheory.spectra.perturbation.wedin_own_bound",
               "svtheory.spectra.perturbation.nameable"),
    examples=(example, mirrored, {**example, g: 10}), counterexamples=counterexamples,
    references=("Wedin 1972", "Weyl 1912"),
)  # fmt: skip
