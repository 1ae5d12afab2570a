"""Noncommutative algebra: matrix identities of general dimension, by rewriting words.

A matrix expression becomes a polynomial in words over the letters A, A^T, A^+, (A^+)^T. Hypotheses that are equations
between matrices become rewriting rules, oriented by length and then alphabet, and completed by overlaps (Knuth and
Bendix; Buchberger and Mora for polynomials) up to a fixed budget. Every rule follows from the hypotheses, so a
residual that vanishes is a proof for every dimension; one that does not vanish is only a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sympy import Identity, MatAdd, MatMul, MatPow, S, Transpose, ZeroMatrix, cancel, expand
from sympy.matrices.expressions.matexpr import MatrixExpr

Word = tuple[Any, ...]
Polynomial = dict[Word, Any]

LONGEST_RULE = 9
MOST_RULES = 160
MOST_OVERLAPS = 6000


def tidy(coefficient: Any) -> Any:
    """A coefficient brought to one fraction in lowest terms, so that a zero shows."""
    if coefficient.is_Number:
        return coefficient
    coefficient = expand(coefficient)
    return coefficient if coefficient.is_Number else cancel(coefficient)


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
    return tuple(letter.arg if isinstance(letter, Transpose) else Transpose(letter) for letter in reversed(word))


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
            return {(expression,): S.One}
    raise TypeError(f"{expression} is not a matrix expression")


def order(word: Word) -> tuple:
    """Words are compared by length, then alphabetically."""
    return len(word), tuple(str(letter) for letter in word)


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
    """

    def __init__(self, equations: Iterable[Polynomial], invertible: Callable[[Any], bool] = lambda _: False):
        self.rules: dict[Word, Polynomial] = {}
        self._invertible = invertible
        pending = [form for equation in equations for form in (equation, transposed(equation))]
        budget = MOST_OVERLAPS
        while pending and budget > 0 and len(self.rules) < MOST_RULES:
            pending.sort(key=lambda form: max((order(word) for word in form), default=(0, ())), reverse=True)
            lead = self._adopt(self.normal(pending.pop()), pending)
            if lead is not None:
                fresh = list(self._consequences(lead))
                budget -= len(fresh)
                pending += fresh

    def _adopt(self, form: Polynomial, pending: list[Polynomial]) -> Word | None:
        if not form:
            return None
        lead = max(form, key=order)
        if not lead:
            raise ValueError("the hypotheses contradict one another: they give 1 = 0")
        factor = form[lead]
        if len(lead) > LONGEST_RULE or not (factor.is_Number or self._invertible(factor)):
            return None
        for old in [word for word in self.rules if position(word, lead) is not None]:
            pending.append(plus({old: S.One}, self.rules.pop(old), S.NegativeOne))
        self.rules[lead] = {word: tidy(-value / factor) for word, value in form.items() if word != lead}
        return lead

    def _consequences(self, lead: Word) -> Iterator[Polynomial]:
        for other in list(self.rules):
            for first, second in {(lead, other), (other, lead)}:
                for prefix, suffix in overlaps(first, second):
                    one = times(self.rules[first], {suffix: S.One})
                    two = times({prefix: S.One}, self.rules[second])
                    yield plus(one, two, S.NegativeOne)

    def rewrite(self, word: Word) -> Polynomial | None:
        """One rewriting step, or None where no rule applies."""
        for lead, tail in self.rules.items():
            at = position(word, lead)
            if at is not None:
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
                todo = plus(todo, smaller, coefficient)
        return done
