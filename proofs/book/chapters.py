"""The book of theorems as a list of blocks: headings, paragraphs with inline formulas between dollars, and formulas.

What a chapter says first, its statement, its prediction and why it holds, is the docstring of the theorem's module; its
lemmas are printed by sympy from the objects that were verified.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sympy.printing.latex import LatexPrinter

from proofs.engine.lemmas import Definition, Lemma, Part
from proofs.engine.notation import PseudoInverse, SquaredNorm
from proofs.engine.statements import parts_of, split
from proofs.engine.verifier import Report
from proofs.experiments import experiments_of

STATUS = {
    "proved": "Proved",
    "limit": "Proved as a limit, taken symbolically",
    "cited": "Rests on a cited theorem, which is a hypothesis here",
    "definition": "A definition, with the identities that make sense of it",
}
GREEK = "Omega|Pi|Theta|Lambda|Sigma|sigma|lambda|kappa|theta|gamma|delta|alpha|beta|psi|eta|rho|mu|nu|tau|phi|pi"
LETTER = re.compile(
    rf"(?<![\w.])(?P<base>{GREEK}|[A-Za-z])(?P<tilde>~)?"
    r"(?P<index>_(?:\{[^}]*\}|[A-Za-z0-9]+))?(?P<power>\^(?:\{[^}]*\}|[A-Za-z0-9]+|[+*]))?(?![A-Za-z])"
)
"""A letter of the theory in prose, as in ``x~_i``, ``S_r^+`` or ``W_Q^T``."""


@dataclass(frozen=True)
class Heading:
    """A title; level 1 for the book, 2 for a theorem, 3 for its parts."""

    text: str
    level: int


@dataclass(frozen=True)
class Paragraph:
    """Prose, with formulas between dollars."""

    text: str

    @property
    def pieces(self) -> list[tuple[bool, str]]:
        """The text in pieces, each with whether it is a formula; what is spelled like ``x_i`` or ``S_r^+`` is one."""
        pieces = enumerate(self.text.split("$"))
        spread = ([(True, piece)] if place % 2 else _spelled_out(piece) for place, piece in pieces)
        return [(is_math, piece) for part in spread for is_math, piece in part if piece]


@dataclass(frozen=True)
class Formula:
    """A displayed formula: LaTeX, and the plain text that stands in where a renderer cannot set it."""

    latex: str
    plain: str


Block = Heading | Paragraph | Formula


def blocks(reports: Sequence[Report]) -> Iterator[Block]:
    """The whole book."""
    yield Heading("When singular vectors are features: the theorems", 1)
    yield Paragraph(
        "Each theorem is stated in sympy and verified by `python -m proofs`: every step leaves the residual 0, and "
        "every control, a false neighbour of the statement, is refused by the same machinery. Features are columns "
        "of X (query side) and Y (key side); a head is Omega = W_Q^T W_K, with singular values sigma_k and vectors "
        "u_k, v_k. X^+ is the pseudo-inverse, |.| the Frobenius or Euclidean norm."
    )
    for report in reports:
        yield from chapter(report)


def chapter(report: Report) -> Iterator[Block]:
    """One theorem: what it says, what it predicts, why it holds, the checked steps, and where it is in the code."""
    theorem = report.theorem
    yield Heading(f"{theorem.id}. {theorem.title}", 2)
    yield from prose(theorem.statement)
    yield Heading("What it predicts", 3)
    yield from prose(_capital(theorem.predicts))
    yield Heading("Why it holds", 3)
    yield from prose(_capital(theorem.why))
    yield Heading("Checked steps", 3)
    held = sum(step.ok for step in report.steps)
    yield Paragraph(
        f"{STATUS[theorem.status]}; {held} of {len(report.steps)} steps hold. Scope: {theorem.scope}. "
        "Each step names what it needs."
    )
    labels = {name: f"H{number}" for number, name in enumerate(theorem.hypotheses, 1)}
    labels |= {part.name: str(number) for number, part in enumerate(theorem.lemmas, 1)}
    for name, statement in theorem.hypotheses.items():
        yield Paragraph(f"({labels[name]}) {_capital(name)}: ${_inline(*parts_of(statement))}$.")
    for part in theorem.lemmas:
        yield from step(part, labels)
    refused = [control.name for control in report.controls if control.rejected]
    yield Paragraph(f"Refused, as they are false: {'; '.join(refused)}.")
    yield Paragraph(f"Computed by {', '.join(f'`{name}`' for name in theorem.functions)}. {where_tested(theorem.id)}")
    if theorem.references:
        yield Paragraph(f"References: {'; '.join(theorem.references)}.")


def where_tested(theorem: str) -> str:
    """A sentence about the experiments that test a theorem."""
    found = experiments_of(theorem)
    return f"Tested by {', '.join(f'`python -m sims {name}`' for name in found)}." if found else "No experiment."


def step(part: Part, labels: dict[str, str]) -> Iterator[Block]:
    """One definition or lemma: its name, the reason and what it needs, its statement, and its certificate."""
    antecedents, consequent = split(part.statement)
    needs = [labels[name] for name in (*(hypothesis.name for hypothesis in part.given), *part.where, *part.uses)]
    sentence = f"({labels[part.name]}) {'Let' if isinstance(part, Definition) else _capital(part.name)}"
    sentence += f". {_capital(part.why)}" if isinstance(part, Lemma) else ""
    sentence += f" [{', '.join(needs)}]" if needs else ""
    yield Paragraph(sentence + (f". If ${_inline(*antecedents)}$, then" if antecedents else ""))
    for relation in parts_of(consequent):
        yield Formula(_latex(relation), str(relation))
    if isinstance(part, Lemma) and part.certificate is not None:
        words = "as the difference is"
        yield Formula(rf"\text{{{words} }}\; {_latex(part.certificate)}", f"{words} {part.certificate}")


def prose(text: str) -> Iterator[Block]:
    """Paragraphs as Sphinx reads them: inline and displayed formulas, items with a dash."""
    for part in re.split(r"\n\s*\n", text.strip()):
        if part.startswith(".. math::"):
            source = " ".join(part.removeprefix(".. math::").split())
            yield Formula(source, source)
        else:
            for item in re.split(r"^- ", part, flags=re.MULTILINE) if part.startswith("- ") else [part]:
                if item.strip():
                    line = " ".join(item.split()).replace("``", "`")
                    yield Paragraph(re.sub(r":math:`([^`]*)`", r"$\1$", line))


class _Printer(LatexPrinter):
    """Norms as norms, and the transpose of a pseudo-inverse with both marks above."""

    def _print_Pow(self, expr: Any) -> str:
        if isinstance(expr.base, SquaredNorm) and expr.exp.is_Rational:
            size, power = rf"\left|{self._print(expr.base.arg)}\right|", 2 * abs(expr.exp)
            size += f"^{{{power}}}" if power != 1 else ""
            return size if expr.exp > 0 else rf"\frac{{1}}{{{size}}}"
        return super()._print_Pow(expr)

    def _print_Transpose(self, expr: Any) -> str:
        if isinstance(expr.arg, PseudoInverse):
            return f"{{{self._print(expr.arg.arg)}}}^{{+T}}"
        return super()._print_Transpose(expr)

    def _print_Identity(self, expr: Any) -> str:
        return "1" if expr.shape == (1, 1) else super()._print_Identity(expr)


def _latex(expression: Any) -> str:
    return _Printer().doprint(expression)


def _inline(*relations: Any) -> str:
    return r",\; ".join(map(_latex, relations))


def _capital(text: str) -> str:
    """The text with a capital, unless it begins with a symbol."""
    symbol = rf"\W|(?!a )\w\b|\w[_~^']|(?:tr|{GREEK})(?![a-z])"
    return text if re.match(symbol, text) else text[0].upper() + text[1:]


def _spelled_out(text: str) -> list[tuple[bool, str]]:
    """Prose in pieces: Greek letters, and letters with a tilde, an index or a power, become formulas."""
    pieces, end = [], 0
    for found in re.finditer(LETTER, text):
        base, tilde, index, power = found.group("base", "tilde", "index", "power")
        if text.count("`", 0, found.start()) % 2 or not (len(base) > 1 or tilde or index or power):
            continue
        marks = "".join(f"{mark[0]}{{{mark[1:].strip('{}')}}}" for mark in (index, power) if mark)
        spelled = (f"\\tilde{{{base}}}" if tilde else base) + marks
        formula = re.sub(rf"(?<![A-Za-z\\])({GREEK})(?![a-z])", r"\\\1", spelled)
        pieces += [(False, text[end : found.start()]), (True, formula)]
        end = found.end()
    return [*pieces, (False, text[end:])]
