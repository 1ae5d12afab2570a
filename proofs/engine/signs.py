"""Signs read off the structure of an expression: squares, sums and products of what is declared non-negative."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Any

from sympy import (
    Abs,
    Add,
    I,
    Indexed,
    IndexedBase,
    Integral,
    Mul,
    NumberSymbol,
    Pow,
    Sum,
    Symbol,
    exp,
    gamma,
    log,
    preorder_traversal,
)

from proofs.engine.notation import SquaredNorm

if TYPE_CHECKING:
    from proofs.engine.given import Given


def _declared(value: Any, facts: list[Any]) -> bool:
    """Whether `value` is one of the facts, up to a positive number and to the name of an index."""
    _, value = value.primitive()
    return any(value == fact or _renamed(value, fact) for fact in (fact.primitive()[1] for fact in facts))


def _renamed(value: Any, fact: Any) -> bool:
    """Whether `value` is `fact` with its indices renamed: facts about ``w[k]`` hold for every k."""
    entries = fact.atoms(Indexed)
    if not entries or fact.atoms(IndexedBase) != value.atoms(IndexedBase):
        return False
    own, other = _indices(entries), _indices(value.atoms(Indexed))
    return any(value == fact.xreplace(dict(zip(own, names, strict=True))) for names in permutations(other, len(own)))


def _indices(entries: set[Any]) -> list[Any]:
    return sorted({index for entry in entries for index in entry.indices}, key=str)


def real(value: Any, given: Given) -> bool:
    """Whether every root and logarithm in the expression is of a non-negative quantity, so that it is real."""
    for node in value.atoms(Pow):
        if not node.exp.is_integer and not isinstance(node.base, exp) and not nonnegative(node.base, given):
            return False
    return all(positive(node.args[0], given) for node in value.atoms(log)) and not value.has(I)


def undefined(expression, given: Given) -> list[Any]:
    """Denominators not known to be non-zero, roots and logarithms not known to be real, anywhere in an expression."""
    nodes = {node for node in preorder_traversal(expression) if isinstance(node, Pow | log)}
    powers = [node for node in nodes if isinstance(node, Pow)]
    wrong = [node for node in powers if node.exp.could_extract_minus_sign() and not given.is_nonzero(node.base)]
    return wrong + [node for node in nodes if not real(node, given)]


def nonnegative(value: Any, given: Given) -> bool:
    """Whether an expression is non-negative by its structure, under the hypotheses given."""
    if value.is_Rational:
        return bool(value >= 0)
    if positive(value, given) or _declared(value, given.nonnegative):
        return True
    match value:
        case SquaredNorm() | Abs():
            return True
        case Symbol():
            return bool(value.is_nonnegative)
        case Add():
            return all(nonnegative(arg, given) for arg in value.args) or _above(value, given.nonnegative, given)
        case Mul():
            return all(nonnegative(arg, given) for arg in value.args)
        case Pow():
            even = value.exp.is_integer and value.exp.is_even
            return (bool(even) and real(value.base, given)) or nonnegative(value.base, given)
        case Sum():
            return nonnegative(value.function, given)
        case Integral():
            return _integral(value, given, nonnegative)
    return False


def positive(value: Any, given: Given) -> bool:
    """Whether an expression is positive by its structure, under the hypotheses given."""
    if value.is_Rational:
        return bool(value > 0)
    if _declared(value, given.positive):
        return True
    match value:
        case Symbol():
            return bool(value.is_positive) or _above(value, given.positive, given)
        case Add():
            terms = all(nonnegative(arg, given) for arg in value.args) and any(
                positive(arg, given) for arg in value.args
            )
            return terms or _above(value, given.positive, given)
        case Mul():
            return all(positive(arg, given) for arg in value.args)
        case exp():
            return real(value.args[0], given)
        case gamma():
            return positive(value.args[0], given)
        case NumberSymbol():
            return bool(value.is_positive)
        case Pow():
            even = value.exp.is_integer and value.exp.is_even
            return positive(value.base, given) or (
                bool(even) and real(value.base, given) and given.is_nonzero(value.base)
            )
        case Abs():
            return given.is_nonzero(value.args[0])
        case SquaredNorm():
            return value in given.nonzero
        case Integral():
            return _integral(value, given, positive)
        case Sum():
            occupied = all((high - low).is_nonnegative for _, low, high in map(tuple, value.limits))
            return occupied and positive(value.function, given)
    return False


def _above(value: Any, facts: list[Any], given: Given) -> bool:
    """Whether an expression is a declared sum plus something non-negative that is simpler than itself."""
    rests = (value - fact for fact in facts if isinstance(fact, Add))
    return any((rest.is_number or rest.count_ops() < value.count_ops()) and nonnegative(rest, given) for rest in rests)


def _integral(value: Any, given: Given, sign: Any) -> bool:
    """Whether an integral over an interval of that sign has an integrand of that sign."""
    (variable, low, high), *rest = [tuple(limits) for limits in value.limits]
    inside = given.with_(variable >= low, variable <= high) if not rest else given
    return not rest and sign(high - low, given) and sign(value.function, inside)
