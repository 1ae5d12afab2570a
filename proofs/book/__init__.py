"""The book of theorems, as markdown, LaTeX or PDF: what `python -m proofs --book FILE` writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from proofs.book.chapters import Block, Formula, Heading, Paragraph, blocks
from proofs.engine.verifier import Report

ENDINGS = (".md", ".tex", ".pdf")
PREAMBLE = r"""\documentclass[11pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,margin=25mm]{geometry}
\usepackage{amsmath,amssymb,adjustbox,hyperref}
\setlength{\parindent}{0pt}\setlength{\parskip}{4pt}
\begin{document}
"""


def as_markdown(book: Sequence[Block]) -> str:
    """The book as markdown with LaTeX between dollars."""
    lines = []
    for block in book:
        match block:
            case Heading(text, level):
                lines.append(f"{'#' * level} {text}")
            case Paragraph():
                lines.append("".join(f"${piece}$" if is_math else piece for is_math, piece in block.pieces))
            case Formula(source):
                lines.append(f"$${source}$$")
    return "\n\n".join(lines) + "\n"


def as_tex(book: Sequence[Block]) -> str:
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
            case Paragraph():
                lines.append("".join(f"${piece}$" if is_math else _escaped(piece) for is_math, piece in block.pieces))
            case Formula(source):
                lines.append(
                    rf"\begin{{center}}\adjustbox{{max width=\linewidth}}{{$\displaystyle {source}$}}\end{{center}}"
                )
    return "\n\n".join([*lines, r"\end{document}"]) + "\n"


def _escaped(text: str) -> str:
    text = re.sub(r"([&%#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
    text = re.sub(r"`([^`]*)`", r"\\texttt{\1}", text).replace("^", r"\^{}").replace("~", r"\~{}")
    return text.replace(">=", r"$\ge$").replace("<=", r"$\le$")


def write(reports: Sequence[Report], path: Path) -> str:
    """Write the book in the format that the ending of the path names; returns how it was set.

    Raises ValueError for another ending.
    """
    check_destination(path)
    book = list(blocks(reports))
    if path.suffix == ".pdf":
        from proofs.book.typeset import write_pdf

        return f"{write_pdf(book, path)} pages"
    path.write_text((as_markdown if path.suffix == ".md" else as_tex)(book), encoding="utf-8")
    return {".md": "markdown", ".tex": "LaTeX"}[path.suffix]


def check_destination(path: Path) -> None:
    """Raise ValueError if a book cannot be written there: another ending, or no such folder."""
    if path.suffix not in ENDINGS:
        raise ValueError(f"FILE must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, got {path.name!r}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"FILE must lie in a folder that exists, got {str(path)!r}")
