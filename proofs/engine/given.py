"""What a proof may use: the hypotheses in force, and normal forms modulo them.

`Given` sorts hypotheses into matrix equations (rewriting rules of `proofs.engine.words`), scalar equations (an ideal),
and facts about signs. `Given.normal` brings an identity to a normal form that is exactly 0 if the identity follows;
traces, norms and inner products of matrices become commuting atoms, one for each reduced word up to rotation and
transposition, and sums over an index become atoms free of constants.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any

import sympy as sp
from sympy.matrices.expressions.matexpr import MatrixExpr
from sympy.polys.polyerrors import NotAlgebraic

from proofs.engine.notation import Inner, SquaredNorm
from proofs.engine.signs import positive
from proofs.engine.statements import parts_of
from proofs.engine.words import Algebra, Polynomial, Word, add, flipped, plus, polynomial

BOUND = [sp.Symbol(f"_{letter}", integer=True) for letter in "abcdefgh"]


@lru_cache(maxsize=4096)
def carried_out(node: Any) -> Any:
    """The value of a derivative, an integral or a limit; the node itself where sympy finds none."""
    return node.doit()


def _symbols(expression: Any) -> set[Any]:
    """Matrices, tables and real scalars in an expression; sizes and indices connect nothing."""
    found = expression.atoms(sp.MatrixSymbol, sp.IndexedBase, sp.Symbol)
    return {symbol for symbol in found if not symbol.is_integer}


def _matrix(side) -> bool:
    return getattr(side, "is_Matrix", False)


class Given:
    """Hypotheses in force: equations to rewrite with, and signs to rely on.

    Args:
        hypotheses: relations, or conjunctions of them. Other statements (prose conditions) are carried but give
            nothing.
    """

    def __init__(self, hypotheses: Iterable[Any] = (), inverses_first: bool = False):
        self.facts = tuple(part for hypothesis in hypotheses for part in parts_of(hypothesis))
        equations: list[Any] = [fact for fact in self.facts if isinstance(fact, sp.Eq)]
        self.matrix_equations = [fact for fact in equations if _matrix(fact.lhs)]
        self.scalar_equations = [fact for fact in equations if not _matrix(fact.lhs)]
        different: list[Any] = [fact for fact in self.facts if isinstance(fact, sp.Ne) and not _matrix(fact.lhs)]
        self.nonzero = [fact.lhs - fact.rhs for fact in different]
        self.positive = [self._gap(fact) for fact in self.facts if isinstance(fact, sp.Gt | sp.Lt)]
        self.nonnegative = [self._gap(fact) for fact in self.facts if isinstance(fact, sp.Ge | sp.Le)]
        self.inverses_first = inverses_first

    @staticmethod
    def _gap(fact: Any) -> Any:
        return fact.gts - fact.lts

    def with_(self, *hypotheses: Any) -> Given:
        """The same with further hypotheses: the antecedents of an implication, or earlier results."""
        return under((*self.facts, *hypotheses), self.inverses_first) if hypotheses else self

    def about(self, *expressions: Any) -> Given:
        """The facts that can bear on the expressions: signs, and equations connected to them by shared symbols."""
        symbols = set().union(*(_symbols(expression) for expression in expressions))
        equations = {fact: _symbols(fact) for fact in (*self.matrix_equations, *self.scalar_equations)}
        bearing: set[Any] = set()
        while fresh := [fact for fact, own in equations.items() if fact not in bearing and own & symbols]:
            bearing.update(fresh)
            symbols = symbols.union(*(equations[fact] for fact in fresh))
        return under(
            tuple(fact for fact in self.facts if fact not in equations or fact in bearing), self.inverses_first
        )

    def reread(self) -> Given:
        """The same hypotheses with the other alphabet, which turns the rule ``x = c S^+ x`` the other way round."""
        return under(self.facts, not self.inverses_first)

    @cached_property
    def algebra(self) -> Algebra:
        """The matrix equations as a completed system of rewriting rules."""
        forms = [plus(polynomial(fact.lhs), polynomial(fact.rhs), sp.S.NegativeOne) for fact in self.matrix_equations]
        return Algebra(forms, self.is_nonzero, self.inverses_first)

    @cached_property
    def ideal(self) -> list[Any]:
        """The scalar equations as polynomials that vanish."""
        gaps = [self._atoms(fact.lhs) - self._atoms(fact.rhs) for fact in self.scalar_equations]
        return [sp.fraction(sp.together(gap))[0] for gap in gaps]

    def is_nonzero(self, value: Any) -> bool:
        """Whether a scalar is certainly not 0: a number, declared positive or non-zero, or a product of such."""
        if isinstance(value, SquaredNorm) and (isinstance(value.arg, sp.MatrixBase) or "algebra" in self.__dict__):
            value = self.scalar(value)
            if value in (self.scalar(known) for known in self.nonzero):
                return True
        if value.is_number:
            return value.is_zero is False
        if value in self.nonzero or -value in self.nonzero or positive(value, self) or positive(-value, self):
            return True
        if isinstance(value, sp.Mul):
            return all(self.is_nonzero(arg) for arg in value.args)
        if isinstance(value, sp.Pow):
            return self.is_nonzero(value.base)
        if isinstance(value, sp.Abs):
            return self.is_nonzero(value.args[0])
        factored = sp.factor_terms(value).factor() if value.is_Add else value
        return isinstance(factored, sp.Mul | sp.Pow) and self.is_nonzero(factored)

    def normal(self, expression):
        """Normal form: a polynomial in words for a matrix of symbols, entries of an explicit one, or a fraction."""
        if isinstance(expression, sp.MatrixBase):
            return expression.applyfunc(self.scalar)
        if isinstance(expression, MatrixExpr):
            return self.matrix(expression)
        return self.scalar(expression)

    def scalar(self, expression: Any) -> Any:
        """A scalar in normal form; 0 if the hypotheses make it so."""
        return self._reduced(self._atoms(expression))

    def matrix(self, expression: MatrixExpr) -> Polynomial:
        """A matrix in normal form: reduced words, inner products of columns taken out as scalars; {} if zero."""
        return self._words(polynomial(expression, self._atoms))

    def _words(self, form: Polynomial) -> Polynomial:
        todo, done = self.algebra.normal(form), {}
        while todo:
            word, coefficient = todo.popitem()
            start = next((i for i, letter in enumerate(word) if letter.rows == 1), None)
            stop = None if start is None else next((j for j in range(start, len(word)) if word[j].cols == 1), None)
            if start is None or stop is None:
                add(done, word, coefficient)
                continue
            value = coefficient * self._closed(word[start : stop + 1])
            for rest, factor in self.algebra.normal({word[:start] + word[stop + 1 :]: value}).items():
                add(todo, rest, factor)
        form = {word: self._reduced(value) for word, value in done.items()}
        form = {word: value for word, value in form.items() if value != 0}
        return {} if self.algebra.contains(form) else form

    def _trace(self, matrix: Any) -> Any:
        total, todo = sp.S.Zero, self.algebra.normal(polynomial(matrix, self._atoms))
        while todo:
            word, coefficient = todo.popitem()
            if not word:
                total += coefficient * matrix.shape[0]
                continue
            turns = (word[i:] + word[:i] for i in range(len(word)))
            rewritten = ((turn, self.algebra.rewrite(turn)) for turn in turns)
            turn, smaller = next(((turn, form) for turn, form in rewritten if form is not None), (word, None))
            if smaller is None:
                total += coefficient * self._closed(word)
                continue
            for rest, factor in self.algebra.normal(smaller).items():
                if rest:
                    add(todo, rest, coefficient * factor)
                else:
                    total += coefficient * factor * turn[0].rows
        return total

    def _closed(self, word: Word) -> Any:
        """The trace of a reduced word: a product of atoms, one for each stretch from a row to a column."""
        rows = [i for i, letter in enumerate(word) if letter.rows == 1]
        if not rows:
            turns = [word[i:] + word[:i] for i in range(len(word))]
            return _atom(min(turns + [flipped(turn) for turn in turns], key=_spelled))
        word = word[rows[0] :] + word[: rows[0]]
        starts = [i for i, letter in enumerate(word) if letter.rows == 1]
        stretches = [word[i:j] for i, j in zip(starts, [*starts[1:], len(word)], strict=True)]
        return sp.Mul(*[_atom(min(stretch, flipped(stretch), key=_spelled)) for stretch in stretches])

    def _atoms(self, expression: Any) -> Any:
        """Traces, norms, inner products and sums replaced by commuting atoms."""
        match expression:
            case sp.Trace():
                return self._trace(expression.args[0])
            case SquaredNorm(arg=sp.MatrixBase() as matrix):
                return self._atoms(sp.Add(*[entry**2 for entry in matrix.flat()]))
            case SquaredNorm(arg=matrix):
                return self._trace(matrix.T * matrix)
            case Inner(args=(sp.MatrixBase() as left, sp.MatrixBase() as right)):
                return self._atoms(left.dot(right))
            case Inner(args=(left, right)):
                return self._trace(sp.Transpose(left) * right)
            case sp.Subs() | sp.Derivative() | sp.Integral() | sp.Limit():
                done = carried_out(expression)
                return expression if isinstance(done, sp.Integral | sp.Limit) else self._atoms(done)
            case sp.Sum():
                return self._sum(expression)
            case sp.sign(args=(argument,)) if self.is_nonzero(argument):
                argument = self._atoms(argument)
                return argument / sp.Abs(argument)
        if not expression.args:
            return expression
        return expression.func(*[self._atoms(arg) if isinstance(arg, sp.Expr) else arg for arg in expression.args])

    def _sum(self, expression: Any) -> Any:
        summand, *limits = expression.args
        value = self._atoms(summand)
        for index, low, high in limits:
            value = _summed(value, index, low, high)
        return value

    def _reduced(self, expression: Any) -> Any:
        expression = sp.expand(expression)
        if expression == 0:
            return sp.S.Zero
        if expression.is_number:
            return _algebraic(expression)
        try:
            expression = sp.cancel(sp.together(expression))
        except sp.PolynomialError:
            expression = sp.together(expression)
        top, bottom = sp.fraction(expression)
        top = sp.expand(top)
        return sp.expand(self._remainder(top)) / bottom

    def _remainder(self, numerator: Any) -> Any:
        """A polynomial modulo the scalar equations."""
        if numerator == 0 or not self.ideal:
            return numerator
        gens = sorted(sp.parallel_poly_from_expr([numerator, *self.ideal])[1].gens, key=str)
        basis = sp.groebner(self.ideal, *gens, order="grevlex")
        return sp.reduced(numerator, list(basis.exprs), *gens, order="grevlex")[1]


@lru_cache(maxsize=1024)
def under(facts: tuple[Any, ...], inverses_first: bool = False) -> Given:
    """The hypotheses in force, with the rules completed once for all steps that share them."""
    return Given(facts, inverses_first)


def _summed(summand: Any, index: Any, low: Any, high: Any) -> Any:
    """Linear in the summand, constants outside, a Kronecker delta carried out (its indices run over one range)."""
    total = sp.S.Zero
    for term in sp.Add.make_args(sp.expand(summand)):
        inside, outside = [], []
        for factor in sp.Mul.make_args(term):
            (inside if index in factor.free_symbols else outside).append(factor)
        delta = next((factor for factor in inside if isinstance(factor, sp.KroneckerDelta)), None)
        if delta is not None:
            other = delta.args[0] if delta.args[1] == index else delta.args[1]
            inside = [factor.xreplace({index: other}) for factor in inside if factor is not delta]
            total += sp.Mul(*outside, *inside)
        elif not inside:
            total += sp.Mul(*outside) * (high - low + 1)
        else:
            taken = sp.Mul(*inside).atoms(sp.Symbol)
            bound = next(symbol for symbol in BOUND if symbol not in taken)
            total += sp.Mul(*outside) * sp.Sum(sp.Mul(*inside).xreplace({index: bound}), (bound, low, high))
    return total


def _spelled(word: Word) -> tuple[str, ...]:
    return tuple(letter.name for letter in word)


def _atom(word: Word) -> Any:
    half = len(word) // 2
    gram = len(word) % 2 == 0 and flipped(word[:half]) == word[half:]
    return sp.Symbol(f"tr({' '.join(_spelled(word))})", real=True, **({"nonnegative": True} if gram else {}))


def _algebraic(number: Any) -> Any:
    """Zero if an algebraic number is zero, decided by its minimal polynomial; of other numbers, what cancels."""
    if number.is_Rational:
        return number
    variable = sp.Symbol("x")
    try:
        return sp.S.Zero if sp.minimal_polynomial(number, variable) == variable else number
    except NotAlgebraic:
        return sp.S.Zero if sp.cancel(sp.together(number)) == 0 else number
