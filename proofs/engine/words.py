"""Noncommutative algebra: matrix identities of general dimension, by rewriting words.

A matrix expression becomes a polynomial in words over the letters A, A^T, A^+, (A^+)^T. Hypotheses that are equations
between matrices become rewriting rules, oriented by length and then alphabet, and completed by overlaps (Knuth and
Bendix; Buchberger and Mora for polynomials) up to a fixed budget. Every rule follows from the hypotheses, so a
residual that vanishes is a proof for every dimension; one that does not vanish is only a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from heapq import heappop, heappush
from typing import Any

from sympy import Identity, MatAdd, MatMul, MatPow, S, Transpose, ZeroMatrix, cancel, expand
from sympy.matrices.expressions.matexpr import MatrixExpr

from proofs.engine.notation import PseudoInverse


class Letter:
    """A matrix symbol, its pseudo-inverse, or the transpose of either: one object for each, compared by identity."""

    __slots__ = ("cols", "inverse", "name", "rows", "symbol")

    def __init__(self, symbol: Any):
        self.symbol, self.name = symbol, str(symbol)
        self.rows, self.cols = symbol.shape
        self.inverse = symbol.has(PseudoInverse)

    @staticmethod
    @cache
    def of(symbol: Any) -> Letter:
        """The letter of a matrix symbol."""
        return Letter(symbol)

    @property
    def flipped(self) -> Letter:
        """The transpose."""
        return Letter.of(self.symbol.arg if isinstance(self.symbol, Transpose) else Transpose(self.symbol))

    def __repr__(self) -> str:
        return self.name


Word = tuple[Letter, ...]
Polynomial = dict[Word, Any]

LONGEST_RULE = 9
EFFORTS = (120, 300)
"""Numbers of overlaps after which a residual is looked at; completion need not end."""


def tidy(coefficient: Any) -> Any:
    """A coefficient brought to one fraction in lowest terms, so that a zero shows."""
    if coefficient.is_Number:
        return coefficient
    coefficient = expand(coefficient)
    polynomial_in_symbols = coefficient.is_Number or coefficient.is_polynomial(*coefficient.free_symbols)
    return coefficient if polynomial_in_symbols else cancel(coefficient)


def add(total: Polynomial, word: Word, coefficient: Any) -> None:
    """Add one term in place, dropping it where the sum is zero."""
    value = tidy(total.pop(word, S.Zero) + coefficient)
    if value != 0:
        total[word] = value


def plus(left: Polynomial, right: Polynomial, factor: Any = S.One) -> Polynomial:
    """``left + factor right``."""
    total = dict(left)
    for word, coefficient in right.items():
        add(total, word, factor * coefficient)
    return total


def times(left: Polynomial, right: Polynomial) -> Polynomial:
    """The product, words joined end to end."""
    total: Polynomial = {}
    for first, a in left.items():
        for second, b in right.items():
            add(total, first + second, a * b)
    return total


def flipped(word: Word) -> Word:
    """The transpose of a word: reversed, each letter transposed."""
    return tuple(letter.flipped for letter in reversed(word))


def transposed(polynomial: Polynomial) -> Polynomial:
    """The transpose of a polynomial."""
    return {flipped(word): coefficient for word, coefficient in polynomial.items()}


def polynomial(expression: Any, scalar: Callable[[Any], Any] = lambda value: value) -> Polynomial:
    """A matrix expression as a polynomial in words; `scalar` is applied to every scalar factor."""
    match expression:
        case Identity():
            return {(): S.One}
        case ZeroMatrix():
            return {}
        case MatAdd():
            total: Polynomial = {}
            for term in expression.args:
                total = plus(total, polynomial(term, scalar))
            return total
        case MatMul():
            product: Polynomial = {(): S.One}
            for factor in expression.args:
                is_matrix = getattr(factor, "is_Matrix", False)
                product = times(product, polynomial(factor, scalar) if is_matrix else {(): scalar(factor)})
            return product
        case MatPow(base=base, exp=power) if power.is_Integer and power.is_positive:
            return polynomial(MatMul(*[base] * int(str(power))), scalar)
        case Transpose():
            return transposed(polynomial(expression.arg, scalar))
        case MatrixExpr():
            return {(Letter.of(expression),): S.One}
    raise TypeError(f"{expression} is not a matrix expression")


def overlaps(left: Word, right: Word) -> Iterator[tuple[Word, Word]]:
    """Every (prefix, suffix) with ``left + suffix = prefix + right`` sharing at least one letter."""
    for shared in range(1, min(len(left), len(right)) + 1):
        if left[len(left) - shared :] == right[:shared]:
            yield left[: len(left) - shared], right[shared:]


def position(word: Word, part: Word) -> int | None:
    """Where `part` first occurs in `word`."""
    span = len(part)
    return next((i for i in range(len(word) - span + 1) if word[i : i + span] == part), None)


class Algebra:
    """Matrices subject to equations; `normal` reduces a polynomial by the completed rules.

    Args:
        equations: polynomials that are zero by hypothesis.
        invertible: whether a leading coefficient may be divided by (numbers always may).
        inverses_first: place of the pseudo-inverses in the alphabet. Words are ordered by length, then alphabetically.
    """

    def __init__(self, equations: Iterable[Polynomial], invertible: Callable[[Any], bool], inverses_first: bool):
        self._rules: dict[Letter, dict[Word, Polynomial]] = {}
        self._invertible, self._inverses_first = invertible, inverses_first
        self._unoriented: list[Polynomial] = []
        self._pending: list[tuple[Any, int, Polynomial]] = []
        self._count = 0
        for equation in equations:
            self._submit(equation)
            self._submit(transposed(equation))
        self.complete(EFFORTS[0])

    def complete(self, effort: int) -> None:
        """Follow overlaps of rules until none is left, or until so many have been seen."""
        while self._pending and self._count < effort:
            lead = self._adopt(self.normal(heappop(self._pending)[-1]))
            if lead is not None:
                for consequence in self._consequences(lead):
                    self._submit(consequence)

    @property
    def finished(self) -> bool:
        """Whether every overlap has been followed."""
        return not self._pending

    @property
    def rules(self) -> dict[Word, Polynomial]:
        """Each leading word with the polynomial that replaces it."""
        return {lead: tail for rules in self._rules.values() for lead, tail in rules.items()}

    def _order(self, word: Word) -> tuple:
        return len(word), tuple((letter.inverse != self._inverses_first, letter.name) for letter in word)

    def _submit(self, form: Polynomial) -> None:
        if form:
            self._count += 1
            heappush(self._pending, (max(map(self._order, form)), self._count, form))

    def _adopt(self, form: Polynomial) -> Word | None:
        if not form:
            return None
        lead = max(form, key=self._order)
        if not lead:
            raise ValueError("the hypotheses contradict one another: they give 1 = 0")
        factor = form[lead]
        if len(lead) > LONGEST_RULE or not (factor.is_Number or self._invertible(factor)):
            self._unoriented.append(form)
            return None
        for old in [word for word in self.rules if position(word, lead) is not None]:
            self._submit(plus({old: S.One}, self._rules[old[0]].pop(old), S.NegativeOne))
        tail = {word: tidy(-value / factor) for word, value in form.items() if word != lead}
        self._rules.setdefault(lead[0], {})[lead] = tail
        return lead

    def _consequences(self, lead: Word) -> Iterator[Polynomial]:
        rules = self.rules
        for other in rules:
            for first, second in {(lead, other), (other, lead)}:
                for prefix, suffix in overlaps(first, second):
                    one = times(rules[first], {suffix: S.One})
                    two = times({prefix: S.One}, rules[second])
                    yield self.normal(plus(one, two, S.NegativeOne))

    def rewrite(self, word: Word) -> Polynomial | None:
        """One rewriting step, or None where no rule applies."""
        for at, letter in enumerate(word):
            for lead, tail in self._rules.get(letter, {}).items():
                if word[at : at + len(lead)] == lead:
                    return {word[:at] + middle + word[at + len(lead) :]: value for middle, value in tail.items()}
        return None

    def normal(self, form: Polynomial) -> Polynomial:
        """The polynomial with every word reduced; ends, since each step lowers a word."""
        todo, done = dict(form), {}
        while todo:
            word, coefficient = todo.popitem()
            smaller = self.rewrite(word)
            if smaller is None:
                add(done, word, coefficient)
            else:
                for replacement, factor in smaller.items():
                    add(todo, replacement, coefficient * factor)
        return done

    def contains(self, form: Polynomial) -> bool:
        """Whether a reduced polynomial is 0, or a multiple of a consequence that could not be made a rule."""
        return not form or any(_proportional(form, self.normal(known)) for known in self._unoriented)


def _proportional(form: Polynomial, known: Polynomial) -> bool:
    if form.keys() != known.keys():
        return False
    word = next(iter(form))
    return all(tidy(form[word] * known[other] - form[other] * known[word]) == 0 for other in form)
