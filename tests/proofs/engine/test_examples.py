"""Statements at exact values."""

import pytest
from sympy import Derivative, ImmutableMatrix, Integral, Rational, Trace, exp, sqrt, symbols

from proofs.engine.examples import failures, holds, value
from proofs.engine.notation import D, Inner, N, SquaredNorm, matrices, pinv, table, total
from proofs.engine.statements import at_least, equal, implies, more_than

a, b, t = symbols("a b t", real=True)
k, l = symbols("k l", integer=True)
X, A = matrices("X", D, N), matrices("A", D, D)
w, K = table("w"), table("K")
VALUES = {
    D: 2, N: 3, X: ImmutableMatrix([[1, 2, 3], [2, 4, 6]]), A: ImmutableMatrix([[0, 1], [2, 0]]), a: 2,
    b: Rational(1, 2), w: [1, 0, 3], K: ImmutableMatrix([[1, 2], [3, 4]]), t: 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (Trace(A * A), 4),
        (SquaredNorm(X), 70),
        (Inner(A, A.T), 4),
        (total(w[k] * k, (k, 1, N)), 10),
        (total(K[k, l] * w[k], (l, 1, D), (k, 1, D)), 3),
        (Derivative(t**3, t), 3),
        (Integral(t, (t, 0, a)), 2),
        (a * b, 1),
    ],
)
def test_value(expression, expected):
    assert value(expression, VALUES) == expected


def test_pseudo_inverses_are_computed_or_given():
    assert value(X * pinv(X) * X, VALUES) == VALUES[X]
    assert value(pinv(A), {**VALUES, pinv(A): VALUES[A]}) == VALUES[A]


@pytest.mark.parametrize(
    "true",
    [equal(a * b, 1), equal(A * A, 2 * a * b * VALUES[A] ** 0), at_least(w[k], 0), more_than(a, b),
     implies(equal(a, 3), equal(a, 4)), equal(sqrt(a) ** 2, a), more_than(exp(b), a * b)],
)  # fmt: skip
def test_true(true):
    assert holds(true, VALUES)


@pytest.mark.parametrize(
    "false",
    [equal(a, b), more_than(w[k], 0), implies(equal(a, 2), equal(a, 3)), equal(1 / (a - 2), 1 / (a - 2)),
     at_least(1 / (a - 2), 0), equal(A, 0), more_than(a, 2)],
)  # fmt: skip
def test_false(false):
    assert not holds(false, VALUES)


def test_failures_are_named():
    assert failures({"good": equal(a, 2), "bad": equal(a, 3)}, VALUES) == ["bad"]


def test_a_missing_value_is_named():
    with pytest.raises(ValueError, match="A"):
        value(A, {D: 2})
