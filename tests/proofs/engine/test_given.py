"""Scalars in normal form: sums, ideals, exact numbers; and which facts bear on an identity."""

import pytest
from sympy import Abs, KroneckerDelta, Rational, cos, exp, pi, sign, sqrt, symbols

from proofs.engine.examples import value
from proofs.engine.given import Given
from proofs.engine.notation import D, M, N, SquaredNorm, matrices, table, total
from proofs.engine.statements import equal, more_than, penrose

k, l, j = symbols("k l j", integer=True)
a, b = symbols("a b", real=True)
w, v, K = table("w"), table("v"), table("K")
X, Y = matrices("X", D, N), matrices("Y", D, M)


@pytest.mark.parametrize(
    "zero",
    [
        total(a * w[k] + b, (k, 1, D)) - a * total(w[k], (k, 1, D)) - b * D,
        total(w[k], (k, 1, D)) - total(w[l], (l, 1, D)),
        total(w[k] * v[l], (k, 1, D), (l, 1, D)) - total(w[k], (k, 1, D)) * total(v[k], (k, 1, D)),
        total(w[k] * KroneckerDelta(k, l) * v[l], (l, 1, D), (k, 1, D)) - total(w[k] * v[k], (k, 1, D)),
        total((w[k] - a) ** 2, (k, 1, D)) - total(w[k] ** 2, (k, 1, D)) + 2 * a * total(w[k], (k, 1, D)) - a**2 * D,
    ],
)
def test_sums_are_linear(zero):
    assert Given().scalar(zero) == 0
    values = {D: 3, w: [1, 2, 5], v: [3, 0, -1], a: 2, b: Rational(1, 3)}
    assert value(zero, values) == 0


@pytest.mark.parametrize(
    "not_zero",
    [
        total(w[k], (k, 1, D)) - total(v[k], (k, 1, D)),
        total(w[k], (k, 1, D)) - total(w[k], (k, 1, N)),
        total(w[k] ** 2, (k, 1, D)) - total(w[k], (k, 1, D)) ** 2,
        total(K[k, l], (l, 1, D), (k, 1, D)) - total(K[k, k], (k, 1, D)) * D,
    ],
)
def test_different_sums_stay_apart(not_zero):
    assert Given().scalar(not_zero) != 0


def test_a_bound_index_is_never_captured():
    inner = total(K[k, l], (l, 1, D))
    assert Given().scalar(total(inner, (k, 1, D)) - total(K[k, k], (k, 1, D))) != 0


def test_scalar_equations_are_an_ideal():
    circle = Given([equal(a**2 + b**2, 1)])
    assert circle.scalar((1 - a**2) * (1 + b**2) - b**2 * (2 - a**2)) == 0
    assert circle.scalar(a**2 - b**2) != 0


def test_exact_numbers_are_decided():
    assert Given().scalar(4 * cos(2 * pi / 5) - sqrt(5) + 1) == 0
    assert Given().scalar(sqrt(2 + sqrt(3)) - (sqrt(6) + sqrt(2)) / 2) == 0
    assert Given().scalar(sqrt(2) - Rational(141421356, 100000000)) != 0
    assert Given().scalar(exp(1) * exp(-1) - 1) == 0


def test_signs_of_what_may_vanish_stay():
    assert Given([more_than(a, 0)]).scalar(Abs(a) * sign(a) - a) == 0
    assert Given().scalar(sign(a) ** 2 - 1) != 0


def test_only_bearing_facts_are_used():
    given = Given([penrose(X), penrose(Y), equal(a, 2 * b), more_than(b, 0)])
    about = given.about(SquaredNorm(X))
    assert {symbol.name for fact in about.matrix_equations for symbol in fact.atoms(type(X))} == {"X"}
    assert about.scalar_equations == []
    assert about.positive == [b]
