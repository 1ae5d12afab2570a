"""The symbols of the theorems: matrices of symbolic shape, pseudo-inverses, norms and inner products.

Everything is real. A pseudo-inverse is a name only; what it means enters through `penrose`, as a hypothesis.
"""

from __future__ import annotations

from typing import Any

from sympy import Expr, IndexedBase, MatrixSymbol, Sum, Symbol, Trace, sqrt
from sympy.matrices.expressions.matexpr import MatrixExpr
from sympy.printing.precedence import PRECEDENCE

D = Symbol("D", integer=True, positive=True)
"""Dimension of the space in which features live."""
N = Symbol("N", integer=True, positive=True)
"""Number of features on the query side."""
M = Symbol("M", integer=True, positive=True)
"""Number of features on the key side."""


class PseudoInverse(MatrixExpr):
    """``X^+``, a formal symbol for one matrix symbol; give it meaning with `penrose`."""

    def __new__(cls, matrix: MatrixSymbol):  # noqa: D102
        if not isinstance(matrix, MatrixSymbol):
            raise TypeError(f"a pseudo-inverse is taken of a matrix symbol, not of {matrix}; name the product first")
        return super().__new__(cls, matrix)

    @property
    def arg(self) -> MatrixSymbol:
        """The matrix of which this is the pseudo-inverse."""
        return self.args[0]  # type: ignore[return-value]

    @property
    def shape(self):
        """Shape of the transpose."""
        return self.arg.shape[::-1]

    def _sympystr(self, printer) -> str:
        return f"{printer._print(self.arg)}^+"

    def _latex(self, printer, **_) -> str:
        return f"{{{printer._print(self.arg)}}}^{{+}}"

    def _numpycode(self, printer) -> str:
        return f"numpy.linalg.pinv({printer._print(self.arg)})"


class SquaredNorm(Expr):
    """``|A|^2 = tr A^T A``, of a matrix or a column: non-negative by construction."""

    is_commutative = True
    is_real = True
    is_extended_real = True
    is_nonnegative = True
    precedence = PRECEDENCE["Pow"]

    @property
    def arg(self) -> Any:
        """The matrix whose entries are squared and summed."""
        return self.args[0]  # type: ignore[return-value]

    def _sympystr(self, printer) -> str:
        return f"|{printer._print(self.arg)}|^2"

    def _latex(self, printer, exp=None, **_) -> str:
        text = rf"\left|{printer._print(self.arg)}\right|^{{2}}"
        return text if exp is None else rf"\left({text}\right)^{{{exp}}}"

    def _numpycode(self, printer) -> str:
        return f"numpy.sum(({printer._print(self.arg)})**2)"


class Inner(Expr):
    """``<A, B> = tr A^T B``, the inner product of two matrices or columns of one shape."""

    is_commutative = True
    is_real = True

    def _sympystr(self, printer) -> str:
        return f"<{printer._print(self.args[0])}, {printer._print(self.args[1])}>"

    def _latex(self, printer, exp=None, **_) -> str:
        text = rf"\left\langle {printer._print(self.args[0])}, {printer._print(self.args[1])}\right\rangle"
        return text if exp is None else rf"{text}^{{{exp}}}"

    def _numpycode(self, printer) -> str:
        return f"numpy.sum(({printer._print(self.args[0])})*({printer._print(self.args[1])}))"


def table(name: str) -> Any:
    """Real numbers with an index, ``w[k]``, as many as a sum runs over."""
    return IndexedBase(name, real=True)


def total(function: Any, *limits: Any) -> Any:
    """A sum over an index, ``(k, 1, D)``; the first of several limits is the innermost."""
    return Sum(function, *limits)


def norm(matrix: Any) -> Any:
    """Frobenius (or Euclidean) norm ``|A|``."""
    return sqrt(SquaredNorm(matrix))


def matrices(names: str, rows: Any, cols: Any) -> Any:
    """Matrix symbols of one shape: one symbol for one name, else a list."""
    symbols = [MatrixSymbol(name, rows, cols) for name in names.split()]
    return symbols[0] if len(symbols) == 1 else symbols


def columns(names: str, rows: Any) -> Any:
    """Column vectors of one length: one symbol for one name, else a list."""
    return matrices(names, rows, 1)


def pinv(matrix: Any) -> Any:
    """``X^+`` of a matrix symbol, a formal symbol until `penrose` is a hypothesis."""
    return PseudoInverse(matrix)


def trace(matrix: Any) -> Any:
    """``tr A``."""
    return Trace(matrix)
