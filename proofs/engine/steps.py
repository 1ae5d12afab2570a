"""The links of a proof: identities and inequalities. Each is data with a `check` that returns or refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sympy import MatrixBase

from proofs.engine.given import Given
from proofs.engine.signs import nonnegative, positive, undefined
from proofs.engine.words import EFFORTS


class Refused(Exception):
    """A step does not hold: the message is what was left over."""


@dataclass(frozen=True)
class Identity:
    """``left = right``: the normal form of the difference is exactly 0, and nothing in it divides by a possible 0.

    Args:
        name: why it holds, for people.
        left, right: scalars or matrices.
        assuming: antecedents, in force for this step only.
    """

    name: str
    left: Any
    right: Any
    assuming: tuple[Any, ...] = ()

    def check(self, given: Given) -> None:
        """Refuse if a residual is left, or if a denominator is not known to be non-zero."""
        rest = _left_over(self.left, self.right, given.with_(*self.assuming).about(self.left - self.right))
        if rest:
            raise Refused(rest)


@lru_cache(maxsize=8192)
def _left_over(left: Any, right: Any, given: Given) -> str:
    """What is left of ``left - right``, spelled out; "" if it is exactly 0 and defined."""
    given.algebra.complete(EFFORTS[0])
    for side in (left, right):
        for node in undefined(side, given):
            return f"not known to be defined: {node}"
    rest = given.normal(left - right)
    if _vanishes(rest) or any(_vanishes(reading.normal(left - right)) for reading in _efforts(given)):
        return ""
    return _spelled(rest)


def _efforts(given: Given) -> Iterator[Given]:
    """Further readings of the hypotheses: the other alphabet, then both with more overlaps followed."""
    if not given.matrix_equations:
        return
    other = given.reread()
    yield other
    for reading in (given, other):
        if not reading.algebra.finished:
            reading.algebra.complete(EFFORTS[1])
            yield reading


def _vanishes(rest: Any) -> bool:
    return rest.is_zero_matrix is True if isinstance(rest, MatrixBase) else rest in ({}, 0)


def _spelled(rest: Any) -> str:
    if isinstance(rest, dict):
        return " + ".join(f"({value}) {' '.join(map(str, word)) or '1'}" for word, value in rest.items())
    return str(rest.tolist() if isinstance(rest, MatrixBase) else rest)


@dataclass(frozen=True)
class Inequality:
    """``larger >= smaller`` (or >): the difference is identically the certificate, whose sign shows in its structure.

    Args:
        name, assuming: as for `Identity`.
        larger, smaller: real scalars.
        certificate: squares, norms, and sums and products of what is declared non-negative.
        strict: whether the certificate has to be positive.
    """

    name: str
    larger: Any
    smaller: Any
    certificate: Any
    assuming: tuple[Any, ...] = ()
    strict: bool = False

    def check(self, given: Given) -> None:
        """Refuse if the certificate differs from the gap, or is not structurally non-negative."""
        given = given.with_(*self.assuming)
        Identity(self.name, self.larger - self.smaller, self.certificate).check(given)
        if not (positive if self.strict else nonnegative)(self.certificate, given):
            raise Refused(f"not seen to be {'positive' if self.strict else 'non-negative'}: {self.certificate}")


Step = Identity | Inequality
"""One link of a proof: a name, what it compares, and a check."""
