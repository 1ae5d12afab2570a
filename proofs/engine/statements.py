"""What theorems say of their symbols: equations, inequalities and implications, each left as it is written."""

from __future__ import annotations

from typing import Any, cast

from sympy import And, Eq, Ge, Gt, Identity, Implies, ZeroMatrix
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

from proofs.engine.notation import pinv


def equal(left, right) -> Any:
    """``left = right``, left as it is written; 0 on the right of a matrix is the zero matrix."""
    if getattr(left, "is_Matrix", False) and not getattr(right, "is_Matrix", False):
        if right == 0:
            right = ZeroMatrix(*left.shape)
        elif right == 1:
            right = Identity(left.shape[0])
    return Eq(left, right, evaluate=False)


def at_least(left: Any, right: Any) -> Any:
    """``left >= right``, left as it is written."""
    return Ge(left, right, evaluate=False)


def more_than(left: Any, right: Any) -> Any:
    """``left > right``, left as it is written."""
    return Gt(left, right, evaluate=False)


def conjunction(*statements: Any) -> Any:
    """All of the statements, left as they are written."""
    first, *others = statements
    return cast(Any, And)(first, *others, evaluate=False) if others else first


def implies(antecedents: Any, consequent: Any) -> Any:
    """``antecedents => consequent``, left as it is written; antecedents is one relation or a list of them."""
    if isinstance(antecedents, Boolean):
        antecedents = [antecedents]
    return Implies(conjunction(*antecedents), consequent, evaluate=False)


def penrose(matrix: Any, inverse: Any = None) -> Any:
    """The four Penrose identities: what makes ``X^+``, or another matrix, the pseudo-inverse of X."""
    inverse = pinv(matrix) if inverse is None else inverse
    return conjunction(
        equal(matrix * inverse * matrix, matrix),
        equal(inverse * matrix * inverse, inverse),
        equal((matrix * inverse).T, matrix * inverse),
        equal((inverse * matrix).T, inverse * matrix),
    )


def symmetric(matrix: Any) -> Any:
    """``A^T = A``."""
    return equal(matrix.T, matrix)


def orthonormal(*vectors: Any) -> Any:
    """Columns of length 1, orthogonal to one another."""
    return conjunction(*(equal(one.T * other, int(one == other)) for one in vectors for other in vectors))


def parts_of(statement: Any) -> tuple[Any, ...]:
    """The conjuncts of a statement: itself, unless it is an And."""
    return (
        tuple(part for arg in statement.args for part in parts_of(arg)) if isinstance(statement, And) else (statement,)
    )


def split(statement: Any) -> tuple[tuple[Any, ...], Any]:
    """The antecedents of a statement, none unless it is an implication, and what it says under them."""
    if isinstance(statement, Implies):
        return parts_of(statement.args[0]), statement.args[1]
    return (), statement


def written_out(statement: Any, rules: Any) -> Any:
    """A statement with symbols replaced on every side, and not simplified."""
    rebuilt, parts = cast(Any, statement.func), statement.args
    if isinstance(statement, And | Implies):
        return rebuilt(*(written_out(part, rules) for part in parts), evaluate=False)
    if isinstance(statement, Relational):
        return rebuilt(*(side.xreplace(rules) for side in parts), evaluate=False)
    return statement


def with_right(statement: Any, right: Any) -> Any:
    """The statement with another right-hand side, under the same antecedents."""
    antecedents, relation = split(statement)
    changed = relation.func(relation.args[0], right, evaluate=False)
    return implies(antecedents, changed) if antecedents else changed
