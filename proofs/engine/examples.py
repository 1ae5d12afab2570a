"""Statements evaluated at exact values: the check that hypotheses are consistent, and that false neighbours are
false.

Values are a mapping from symbols to exact numbers and matrices: ``{D: 2, X: Matrix(...), t: Rational(1, 2), w:
[..]}``. An `IndexedBase` takes a list (indices start at 1) or an explicit matrix. A `PseudoInverse` is computed,
unless given.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, reduce
from operator import mul
from typing import Any

import sympy as sp

from proofs.engine.given import Given, carried_out
from proofs.engine.notation import Inner, PseudoInverse, SquaredNorm

Values = Mapping[Any, Any]


def value(expression: Any, values: Values) -> Any:
    """An expression at the values: an exact number or an explicit matrix."""

    def at(part):
        return value(part, values)

    if expression in values:
        return sp.sympify(values[expression])
    match expression:
        case sp.MatrixBase():
            return expression.applyfunc(at)
        case sp.MatrixSymbol():
            raise ValueError(f"no value is given for {expression}")
        case PseudoInverse():
            return _pinv(at(expression.arg).as_immutable())
        case sp.Transpose():
            return at(expression.arg).T
        case sp.Identity():
            return sp.eye(int(at(expression.shape[0])))
        case sp.ZeroMatrix():
            return sp.zeros(*[int(at(size)) for size in expression.shape])
        case sp.MatAdd():
            first, *rest = [at(arg) for arg in expression.args]
            return sum(rest, first)
        case sp.MatMul():
            factors = [at(arg) for arg in expression.args]
            scalar = sp.Mul(*[factor for factor in factors if not isinstance(factor, sp.MatrixBase)])
            first, *rest = [factor for factor in factors if isinstance(factor, sp.MatrixBase)]
            return reduce(mul, rest, first).applyfunc(lambda entry: scalar * entry)
        case sp.MatPow():
            return at(expression.base) ** int(str(expression.exp))
        case sp.Trace():
            return at(expression.arg).trace()
        case SquaredNorm():
            return sp.Add(*[entry**2 for entry in at(expression.args[0])])
        case Inner():
            left, right = (at(arg) for arg in expression.args)
            return sp.Add(*[a * b for a, b in zip(left, right, strict=True)])
        case sp.Sum():
            return _sum(expression, values)
        case sp.Indexed():
            return _entry(expression, values)
        case sp.Subs() | sp.Derivative():
            return at(carried_out(expression))
        case sp.Limit() | sp.Integral():
            return carried_out(expression.subs({k: v for k, v in values.items() if k in expression.free_symbols}))
    if not expression.args:
        return expression
    return expression.func(*[at(arg) for arg in expression.args])


@lru_cache(maxsize=4096)
def _pinv(matrix: sp.ImmutableMatrix) -> sp.ImmutableMatrix:
    return matrix.pinv()


def _sum(expression: sp.Sum, values: Values) -> Any:
    summand, *limits = expression.args
    inner = sp.Sum(summand, *limits[:-1]) if len(limits) > 1 else summand
    index, low, high = tuple(limits[-1].args)
    span = range(int(value(low, values)), int(value(high, values)) + 1)
    return sp.Add(*[value(inner, {**values, index: position}) for position in span])


def _entry(expression: sp.Indexed, values: Values) -> Any:
    table = values[expression.base]
    places = [int(value(index, values)) - 1 for index in expression.indices]
    return sp.sympify(table[tuple(places)] if isinstance(table, sp.MatrixBase) else table[places[0]])


def _free_index(statement: Any, values: Values) -> tuple[Any, int] | None:
    """An index that no sum binds, with the number of its values."""
    for entry in statement.atoms(sp.Indexed):
        for axis, index in enumerate(entry.indices):
            if index in statement.free_symbols and index not in values:
                table = values[entry.base]
                return index, table.shape[axis] if isinstance(table, sp.MatrixBase) else len(table)
    return None


def _defined(number: Any) -> bool:
    return not number.has(sp.S.NaN, sp.S.ComplexInfinity)


def holds(statement: Any, values: Values) -> bool:
    """Whether a statement is true at the values, for every free index; what is not defined (0/0) is not true."""
    if isinstance(statement, sp.And):
        return all(holds(part, values) for part in statement.args)
    free = _free_index(statement, values)
    if free is not None:
        index, size = free
        return all(holds(statement, {**values, index: position}) for position in range(1, size + 1))
    match statement:
        case sp.Implies():
            return not holds(statement.args[0], values) or holds(statement.args[1], values)
        case sp.Eq() | sp.Ne():
            difference = value(statement.lhs, values) - value(statement.rhs, values)
            entries = list(difference.flat()) if isinstance(difference, sp.MatrixBase) else [difference]
            if not all(map(_defined, entries)):
                return False
            return all(Given().scalar(entry) == 0 for entry in entries) == isinstance(statement, sp.Eq)
        case sp.Ge() | sp.Gt() | sp.Le() | sp.Lt():
            gap = value(statement.gts, values) - value(statement.lts, values)
            gap = Given().scalar(gap) if _defined(gap) else gap
            return bool(gap.is_positive if isinstance(statement, sp.Gt | sp.Lt) else gap.is_nonnegative)
    return bool(statement)


def failures(statements: Mapping[str, Any], values: Values) -> list[str]:
    """Names of the statements that are not true at the values."""
    return [name for name, statement in statements.items() if not holds(statement, values)]
