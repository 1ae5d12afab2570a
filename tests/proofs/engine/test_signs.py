"""Signs are read off structure only: what is not declared is not assumed."""

import pytest
from sympy import Integral, Symbol, exp, log, sqrt, symbols

from proofs.engine.given import Given
from proofs.engine.notation import D, N, SquaredNorm, matrices, table, total
from proofs.engine.signs import nonnegative, positive, undefined
from proofs.engine.statements import at_least, more_than

a, b, c, u = symbols("a b c u", real=True)
k = Symbol("k", integer=True)
w = table("w")
X = matrices("X", D, N)
GIVEN = Given([more_than(a, 0), at_least(b, 0), at_least(a, c), at_least(w[k], 0)])


@pytest.mark.parametrize(
    "expression",
    [
        b, a * b, a + b, c**2, (a - c) * b, a - c + b, sqrt(a) * b, SquaredNorm(X), 3 * SquaredNorm(X) * b, exp(c) * b,
        total(w[k] * (k - a) ** 2, (k, 1, D)), Integral((a - u) * u**2, (u, 0, a)), b / a, (2 * a - 2 * c) * w[k],
    ],
)  # fmt: skip
def test_non_negative(expression):
    assert nonnegative(expression, GIVEN)


@pytest.mark.parametrize(
    "expression",
    [
        c, -b, a - b, b - a, c * b, c**3, c - a, sqrt(c) ** 2 * sqrt(c), exp(c) - 1, total(w[k] * c, (k, 1, D)),
        Integral(u, (u, 0, c)), Integral(u - a, (u, 0, a)), b / c, w[k] - a,
    ],
)  # fmt: skip
def test_not_seen_to_be_non_negative(expression):
    assert not nonnegative(expression, GIVEN)


@pytest.mark.parametrize("expression", [a, a + b, a * exp(c), 1 + b, a**2, total(exp(w[k]), (k, 1, D)), a / 2])
def test_positive(expression):
    assert positive(expression, GIVEN)


@pytest.mark.parametrize("expression", [b, c**2, a * b, SquaredNorm(X), total(w[k], (k, 1, D))])
def test_not_seen_to_be_positive(expression):
    assert not positive(expression, GIVEN)


@pytest.mark.parametrize("expression", [1 / c, 1 / (a - b), sqrt(c), log(b), log(c), a / SquaredNorm(X)])
def test_undefined(expression):
    assert undefined(expression, GIVEN)


@pytest.mark.parametrize("expression", [1 / a, 1 / (a + b), sqrt(b), log(a), 1 / exp(c), 1 / (1 + SquaredNorm(X))])
def test_defined(expression):
    assert not undefined(expression, GIVEN)
