"""Rewriting words is sound: every rule follows from the hypotheses, and a reduced residual keeps its value."""

import pytest
from hypothesis import given as random
from hypothesis import strategies as st
from sympy import ImmutableMatrix, Rational

from proofs.engine.examples import holds, value
from proofs.engine.given import Given
from proofs.engine.notation import D, N, columns, matrices, pinv, trace
from proofs.engine.statements import equal, penrose, symmetric
from proofs.engine.words import polynomial, transposed

X, Y, A = matrices("X", D, N), matrices("Y", D, N), matrices("A", D, D)
x, y = columns("x y", D)
small = st.integers(-3, 3)


def explicit(rows: int, cols: int):
    return st.lists(small, min_size=rows * cols, max_size=rows * cols).map(lambda e: ImmutableMatrix(rows, cols, e))


def matrix_of(word, values):
    product = value(word[0].symbol, values)
    for letter in word[1:]:
        product = product * value(letter.symbol, values)
    return product


@random(frame=explicit(2, 3))
@pytest.mark.parametrize("inverses_first", [False, True])
def test_every_rule_of_a_pseudo_inverse_holds(frame, inverses_first):
    values = {D: 2, N: 3, X: frame}
    rules = Given([penrose(X)], inverses_first).algebra.rules
    assert len(rules) >= 6
    for lead, tail in rules.items():
        rest = matrix_of(lead, values)
        for word, coefficient in tail.items():
            rest = rest - coefficient * matrix_of(word, values)
        assert rest.is_zero_matrix


@pytest.mark.parametrize(
    "true",
    [
        equal(X * X.T * pinv(X).T, X),
        equal(pinv(X).T * pinv(X) * X, pinv(X).T),
        equal((X * pinv(X)) ** 2, X * pinv(X)),
        equal(pinv(X) * pinv(X).T * X.T * X, pinv(X) * X),
    ],
)
def test_consequences_of_penrose_reduce_to_nothing(true):
    assert Given([penrose(X)]).matrix(true.lhs - true.rhs) == {}
    assert Given().matrix(true.lhs - true.rhs) != {}


@pytest.mark.parametrize(
    "false",
    [
        equal(pinv(X) * X, 1),
        equal(X * pinv(X), 1),
        equal(X * X.T * pinv(X).T, 2 * X),
        equal(pinv(X) * pinv(X).T, pinv(X) * X),
    ],
)
def test_what_does_not_follow_leaves_a_residual(false):
    assert Given([penrose(X)]).matrix(false.lhs - false.rhs) != {}


def test_transposition_reverses():
    form = polynomial(2 * A * X * Y.T + A)
    assert transposed(transposed(form)) == form
    assert transposed(form) == polynomial((2 * A * X * Y.T + A).T)


def test_contradictory_hypotheses_are_refused():
    with pytest.raises(ValueError, match="contradict"):
        Given([equal(A, 0), equal(A, 1)]).algebra  # noqa: B018


def test_a_trace_keeps_the_size_of_the_identity():
    orthonormal = Given([equal(X.T * X, 1)])
    assert orthonormal.scalar(trace(X * X.T)) == N
    assert orthonormal.scalar(trace(X.T * X)) == N


def test_traces_turn_and_flip():
    assert Given().scalar(trace(X.T * A * Y) - trace(Y.T * A.T * X)) == 0
    assert Given().scalar(trace(A * A * A.T) - trace(A * A.T * A)) == 0
    assert Given().scalar(trace(A * A) - trace(A * A.T)) != 0
    assert Given([symmetric(A)]).scalar(trace(A * A) - trace(A * A.T)) == 0


def test_inner_products_leave_words_as_scalars():
    assert Given().matrix(x * (y.T * x) - x * (x.T * y)) == {}
    assert Given().matrix(x * y.T - y * x.T) != {}


@random(frame=explicit(2, 2), other=explicit(2, 2), scale=small)
def test_normal_forms_agree_with_exact_values(frame, other, scale):
    values = {D: 2, A: frame, x: other[:, 0], y: other[:, 1]}
    left = (scale * A.T * A + A) * x * (y.T * A * x)
    right = scale * A.T * A * x * (x.T * A.T * y) + A * x * (y.T * A * x)
    assert Given().matrix(left - right) == {}
    assert holds(equal(left, right), values)


def test_equations_with_scalars_divide_only_by_what_is_not_zero():
    scaled = equal(2 * A * x, x)
    assert Given([scaled]).matrix(A * x - Rational(1, 2) * x) == {}
