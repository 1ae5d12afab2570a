"""The book of theorems: what `python -m proofs --book FILE` writes, as markdown, LaTeX or PDF.

A book is a list of blocks: headings, paragraphs with inline formulas between dollars, and displayed formulas. The
explanation of a proof is the docstring of its module; its steps and formulas are printed by sympy from the objects that
were verified.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sympy import latex

from proofs.steps import Inequality, Step
from proofs.verifier import Claim, Report, Theorem

ENDINGS = (".md", ".tex", ".pdf")
STATUS = {
    "proved": "proved",
    "limit": "proved as a limit, taken symbolically",
    "cited": "rests on a cited theorem, which is a hypothesis here",
    "definition": "a definition, with the identities that make sense of it",
}
GREEK = "Omega Theta sigma lambda kappa theta gamma delta alpha beta psi eta rho mu nu tau phi pi"
LETTER = re.compile(
    rf"(?<![\w.])(?P<base>{GREEK.replace(' ', '|')}|[A-Za-z])(?P<tilde>~)?"
    r"(?P<index>_(?:\{[^}]*\}|[A-Za-z0-9]+))?(?P<power>\^(?:\{[^}]*\}|[A-Za-z0-9]+|[+*]))?(?![A-Za-z])"
)
"""A letter of the theory in prose, as in ``x~_i``, ``S_r^+`` or ``W_Q^T``."""
PREAMBLE = r"""\documentclass[11pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,margin=25mm]{geometry}
\usepackage{amsmath,amssymb,adjustbox,hyperref}
\setlength{\parindent}{0pt}\setlength{\parskip}{4pt}
\begin{document}
"""


@dataclass(frozen=True)
class Heading:
    """A title; level 1 for the book, 2 for a theorem, 3 for its parts."""

    text: str
    level: int


@dataclass(frozen=True)
class Paragraph:
    """Prose, with formulas between dollars; a bullet stands before an item."""

    text: str
    bullet: bool = False

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


def blocks(reports: list[Report]) -> Iterator[Block]:
    """The whole book."""
    yield Heading("When singular vectors are features: the theorems", 1)
    yield Paragraph(
        "Each theorem is stated in sympy and verified by `python -m proofs`: every step leaves the residual 0, and "
        "every control, a false neighbour of the statement, is refused by the same machinery. Features are columns "
        "of X (query side) and Y (key side); a head is Omega = W_Q^T W_K, with singular values sigma_k and vectors "
        "u_k, v_k. X^+ is the pseudo-inverse, |.| the Frobenius or Euclidean norm."
    )
    for report in reports:
        yield Paragraph(f"{report.theorem.id}. {report.theorem.title} ({report.theorem.status})", bullet=True)
    for report in reports:
        yield from chapter(report)


def chapter(report: Report) -> Iterator[Block]:
    """One theorem: statement, explanation, hypotheses, claim, proof, controls and where to find it in the code."""
    theorem = report.theorem
    yield Heading(f"{theorem.id}. {theorem.title}", 2)
    yield Paragraph(theorem.statement)
    held = sum(step.ok for step in report.steps)
    yield Paragraph(
        f"Status: {STATUS[theorem.status]}. Scope: {theorem.scope}. Steps that hold: {held} of {len(report.steps)}."
    )
    yield Heading("Why", 3)
    yield from explanation(theorem)
    yield from _statements("Hypotheses", theorem.hypotheses)
    yield from _statements("Claim", theorem.claim)
    yield Heading("Proof", 3)
    for number, step in enumerate(theorem.proof(Claim(theorem.claim)), 1):
        yield Paragraph(f"({number}) {step.name}:")
        yield from _step(step)
    yield Heading("Controls", 3)
    for control in report.controls:
        verdict = f"refused at '{control.step}'" if control.rejected else "not refused"
        yield Paragraph(f"{control.name}: {verdict}.", bullet=True)
    yield Heading("In the code", 3)
    yield Paragraph(f"Computed by {', '.join(f'`{name}`' for name in theorem.functions)}.")
    yield Paragraph(f"Tested by `python -m sims {theorem.experiment}`.")
    if theorem.references:
        yield Paragraph(f"References: {'; '.join(theorem.references)}.")


def explanation(theorem: Theorem) -> Iterator[Block]:
    """The docstring of the theorem's module, its first line left out."""
    text = sys.modules[theorem.proof.__module__].__doc__ or ""
    for part in re.split(r"\n\s*\n", text.strip())[1:]:
        if part.startswith(".. math::"):
            source = _joined(part.removeprefix(".. math::"))
            yield Formula(source, source)
        else:
            first, *items = re.split(r"\n?^- ", part, flags=re.MULTILINE)
            yield from (
                Paragraph(_inline(item), bullet)
                for item, bullet in [(first, False), *((i, True) for i in items)]
                if item
            )


def _joined(text: str) -> str:
    return " ".join(text.split())


def _inline(text: str) -> str:
    return re.sub(r":math:`([^`]*)`", r"$\1$", _joined(text).replace("``", "`"))


def _statements(title: str, statements: Any) -> Iterator[Block]:
    yield Heading(title, 3)
    for name, statement in statements.items():
        yield Paragraph(f"{name}:", bullet=True)
        yield _formula(statement)


def _step(step: Step) -> Iterator[Block]:
    if assuming := getattr(step, "assuming", ()):
        yield Formula(r"\text{if }\; " + r",\; ".join(map(latex, assuming)), f"if {', '.join(map(str, assuming))}")
    yield _formula(step.formula)
    if isinstance(step, Inequality):
        certificate = step.certificate
        yield Formula(rf"\text{{as the difference is }}\; {latex(certificate)}", f"as the difference is {certificate}")


def _formula(expression: Any) -> Formula:
    return Formula(latex(expression), str(expression))


def _spelled_out(text: str) -> list[tuple[bool, str]]:
    """Prose in pieces: letters with a tilde, an index or a power become formulas, except between backticks."""
    pieces, end = [], 0
    for found in re.finditer(LETTER, text):
        if text.count("`", 0, found.start()) % 2 or not any(found.group("tilde", "index", "power")):
            continue
        base, tilde, index, power = found.group("base", "tilde", "index", "power")
        base = f"\\{base}" if len(base) > 1 else base
        marks = "".join(f"{mark[0]}{{{mark[1:].strip('{}')}}}" for mark in (index, power) if mark)
        pieces += [(False, text[end : found.start()]), (True, (f"\\tilde{{{base}}}" if tilde else base) + marks)]
        end = found.end()
    return [*pieces, (False, text[end:])]


def as_markdown(book: list[Block]) -> str:
    """The book as markdown with LaTeX between dollars."""
    lines = []
    for block in book:
        match block:
            case Heading(text, level):
                lines.append(f"{'#' * level} {text}")
            case Paragraph(bullet=bullet):
                prose = "".join(f"${piece}$" if is_math else piece for is_math, piece in block.pieces)
                lines.append(f"- {prose}" if bullet else prose)
            case Formula(source):
                lines.append(f"$$\n{source}\n$$")
    return "\n\n".join(lines) + "\n"


def as_tex(book: list[Block]) -> str:
    """The book as a LaTeX article; formulas too wide for a line are made smaller."""
    lines = [PREAMBLE]
    for block in book:
        match block:
            case Heading(text, 1):
                lines.append(rf"\begin{{center}}\LARGE {_escaped(text)}\end{{center}}\tableofcontents")
            case Heading(text, level):
                command = {2: r"\clearpage\section*", 3: r"\subsection*"}[level]
                entry = rf"\addcontentsline{{toc}}{{section}}{{{_escaped(text)}}}" if level == 2 else ""
                lines.append(f"{command}{{{_escaped(text)}}}{entry}")
            case Paragraph(bullet=bullet):
                prose = "".join(f"${piece}$" if is_math else _escaped(piece) for is_math, piece in block.pieces)
                lines.append((r"\textbullet\ " if bullet else "") + prose)
            case Formula(source):
                lines.append(
                    rf"\begin{{center}}\adjustbox{{max width=\linewidth}}{{$\displaystyle {source}$}}\end{{center}}"
                )
    return "\n\n".join([*lines, r"\end{document}"]) + "\n"


def _escaped(text: str) -> str:
    text = re.sub(r"([&%#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
    text = re.sub(r"`([^`]*)`", r"\\texttt{\1}", text).replace("^", r"\^{}").replace("~", r"\~{}")
    return re.sub(
        rf"\b({GREEK.replace(' ', '|')})(?![a-z])", r"$\\\1$", text.replace(">=", r"$\ge$").replace("<=", r"$\le$")
    )


def write(reports: list[Report], path: Path) -> str:
    """Write the book in the format that the ending of the path names; returns how it was set.

    Raises ValueError for another ending.
    """
    check_destination(path)
    book = list(blocks(reports))
    if path.suffix == ".md":
        path.write_text(as_markdown(book), encoding="utf-8")
        return "markdown"
    if path.suffix == ".tex":
        path.write_text(as_tex(book), encoding="utf-8")
        return "LaTeX"
    if _compiled(as_tex(book), path):
        return "TeX"
    from proofs.typeset import write_pdf

    return f"matplotlib, {write_pdf(book, path)} pages"


def check_destination(path: Path) -> None:
    """Raise ValueError if a book cannot be written there: another ending, or no such folder."""
    if path.suffix not in ENDINGS:
        raise ValueError(f"FILE must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, got {path.name!r}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"FILE must lie in a folder that exists, got {str(path)!r}")


def _compiled(source: str, path: Path) -> bool:
    """Whether a TeX installation made the PDF."""
    if shutil.which("pdflatex") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "book.tex").write_text(source, encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "book.tex"]
        # twice, for the table of contents
        done = [subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode for _ in range(2)]
        if any(done):
            return False
        shutil.copyfile(Path(folder) / "book.pdf", path)
    return True
