"""Pages without a TeX installation: the blocks of the book set by matplotlib, formulas by its mathtext."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from proofs.book.chapters import Block, Formula, Heading, Paragraph

WIDTH, HEIGHT, MARGIN = 595, 842, 62
"""A4 and its margins, in points."""
STYLE: Any = {"font.family": "STIXGeneral", "mathtext.fontset": "stix", "pdf.fonttype": 42}
SIZES = {1: 20, 2: 16, 3: 11.5}
TEXT = 10.5
LINE = WIDTH - 2 * MARGIN
UNKNOWN = {
    r"\limits": "", r"\tfrac": r"\frac", r"\dfrac": r"\frac", r"\mathbb": r"\mathbf", r"\middle": "",
    r"\text{as the difference is }": r"\mathrm{difference:}", r"\bigg": "", r"\big": "",
}  # fmt: skip
"""LaTeX that mathtext does not know, and what says the same."""
SAME = {"ge": r"\geq", "le": r"\leq", "ne": r"\neq", "to": r"\rightarrow"}
MATRIX = r"\\begin\{(?:small)?matrix\}(.*?)\\end\{(?:small)?matrix\}"


def known(source: str) -> str:
    """LaTeX in the vocabulary of mathtext; matrices by rows, with semicolons between them."""
    source = re.sub(r"\\substack\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}", lambda m: m[1].replace(r"\\", r",\;"), source)
    source = re.sub(MATRIX, lambda m: m[1].replace(r"\\", r";\;\;").replace("&", r",\;"), source, flags=re.DOTALL)
    for old, new in UNKNOWN.items():
        source = source.replace(old, new)
    source = re.sub(r"\\(ge|le|ne|to)(?![a-zA-Z])", lambda m: SAME[m[1]], source)
    source = re.sub(r"\\sqrt\s*(\\[a-z]+|\w)(?![a-zA-Z])", r"\\sqrt{\1}", source)
    return re.sub(r"\\frac\s*(\\[a-z]+|\w)\s*(\\[a-z]+|\w)", r"\\frac{\1}{\2}", source)


def large(source: str) -> str:
    """Fractions that stand in no other are set in full size."""
    depth, parts = 0, re.split(r"(\\frac|[{}])", source)
    for place, part in enumerate(parts):
        depth += (part == "{") - (part == "}")
        if part == r"\frac" and depth == 0:
            parts[place] = r"\dfrac"
    return "".join(parts)


def prose(text: str) -> str:
    """Relations and roots in prose as characters."""
    return text.replace(">=", "≥").replace("<=", "≤").replace("sqrt(", "√(").replace("`", "")


@lru_cache(maxsize=100_000)
def extent(text: str, size: float, bold: bool = False) -> tuple[float, float, float] | None:
    """Width, height and depth of a line in points, or None where mathtext cannot set it."""
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    try:
        return text_to_path.get_text_width_height_descent(text, font, "$" in text)
    except (ValueError, RuntimeError):
        return None


def width(text: str, size: float, bold: bool = False) -> float:
    """Width of a line in points; infinite where it cannot be set."""
    found = extent(text, size, bold)
    return found[0] if found else float("inf")


def tokens(paragraph: Paragraph) -> Iterator[str]:
    """Words and formulas, in order; a formula keeps what touches it, and stays as text where it cannot be set."""
    current = ""
    for is_math, piece in paragraph.pieces:
        if is_math:
            formula = f"${known(piece)}$"
            current += formula if extent(formula, TEXT) else prose(piece)
            continue
        *complete, last = re.split(r"\s+", prose(piece))
        for word in complete:
            if current + word:
                yield current + word
            current = ""
        current += last
    if current:
        yield current


def wrapped(paragraph: Paragraph, size: float, room: float, bold: bool = False) -> list[str]:
    """A paragraph in lines that fit the room."""
    lines, space = [""], width("a b", size) - width("ab", size)
    used = 0.0
    for token in tokens(paragraph):
        own = width(token, size, bold)
        if used and used + space + own > room:
            lines.append("")
            used = 0.0
        lines[-1] += (" " if lines[-1] else "") + token
        used += (space if used else 0) + own
    return lines


def pieces(source: str) -> list[str]:
    """A formula cut before every relation, plus and minus that no bracket encloses."""
    parts, depth, start = [], 0, 0
    pattern = r"\\left|\\right|[{}]|\\(?:Rightarrow|wedge|geq|neq|leq)(?![a-zA-Z])|[=<>+]|(?<=\s)-"
    for found in re.finditer(pattern, source):
        token = found[0]
        if token in {"{", r"\left"}:
            depth += 1
        elif token in {"}", r"\right"}:
            depth -= 1
        elif depth == 0 and found.start() > start and source[found.start() - 1] not in "^_":
            parts.append(source[start : found.start()])
            start = found.start()
    return [*parts, source[start:]]


def displayed(formula: Formula, room: float) -> tuple[list[str], float] | None:
    """The lines of a formula and their size: whole if it fits, else cut, else smaller; None if it cannot be set."""
    source = large(known(formula.latex))
    for size in (TEXT, 9, 7.5, 6):
        if width(f"${source}$", size) <= room:
            return [f"${source}$"], size
        lines = [""]
        for piece in pieces(source):
            if lines[-1].strip() and width(f"${lines[-1] + piece}$", size) > room:
                lines.append(r"\quad ")
            lines[-1] += piece
        lines = [f"${line}$" for line in lines]
        if all(width(line, size) <= room for line in lines):
            return lines, size
    return None


class Pages:
    """Lines set from top to bottom, on as many pages as it takes; nothing is drawn without a file."""

    def __init__(self, pdf: PdfPages | None = None):
        self._pdf, self.count = pdf, 0
        self._figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
        self._y = 0.0

    def turn(self) -> None:
        """Finish a page and start the next."""
        self.finish()
        self._figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
        self.count += 1
        self._y = HEIGHT - MARGIN
        self._figure.text(0.5, 30 / HEIGHT, str(self.count), size=9, ha="center", color="0.4")

    def finish(self) -> None:
        """Write the page at hand."""
        if self._pdf is not None and self.count:
            self._pdf.savefig(self._figure)

    def need(self, height: float) -> None:
        """Turn the page unless so much room is left."""
        if self._y - height < MARGIN:
            self.turn()

    def skip(self, height: float) -> None:
        """Leave room, except at the top of a page."""
        if self._y < HEIGHT - MARGIN:
            self._y -= height

    def line(self, text: str, size: float, x: float = MARGIN, end: str = "", **style: Any) -> None:
        """Set one line below the last, and what stands at its end."""
        _, height, depth = extent(text, size, style.get("weight") == "bold") or (0, size, 0)
        ascent, depth = max(height - depth, 0.75 * size), max(depth, 0.25 * size)
        self.need(ascent + depth)
        self._y -= ascent
        if self._pdf is not None:
            self._figure.text(x / WIDTH, self._y / HEIGHT, text, size=size, va="baseline", **style)
            self._figure.text(1 - MARGIN / WIDTH, self._y / HEIGHT, end, size=size, ha="right", va="baseline")
        self._y -= depth + 0.18 * size


def _set(pages: Pages, block: Block) -> None:
    match block:
        case Heading(text, level):
            if level == 2:
                pages.turn()
            pages.skip(10 if level == 3 else 0)
            pages.need(90)
            for line in wrapped(Paragraph(text), SIZES[level], LINE, bold=True):
                pages.line(line, SIZES[level], weight="bold", color="0.1" if level < 3 else "#1f4e79")
            pages.skip(10 if level < 3 else 2)
        case Paragraph():
            pages.skip(3)
            pages.need((6 if block.text.startswith("(") else 2.5) * TEXT)
            for line in wrapped(block, TEXT, LINE):
                pages.line(line, TEXT)
        case Formula(plain=plain):
            found = displayed(block, LINE - 30)
            lines, size = found or (wrapped(Paragraph(f"`{plain}`"), 8, LINE - 30), 8)
            pages.skip(2)
            for line in lines:
                pages.line(line, size, MARGIN + 24, color="0.1" if found else "0.35")
            pages.skip(3)


def _lay(pages: Pages, book: Sequence[Block], contents: dict[str, int]) -> dict[str, int]:
    """Set the book with its contents before the first chapter; returns the page of each chapter."""
    starts: dict[str, int] = {}
    for block in book:
        if isinstance(block, Heading) and block.level == 2:
            if not starts:
                pages.skip(10)
                for title, page in contents.items():
                    pages.line(prose(title), TEXT, end=str(page))
            starts[block.text] = pages.count + 1
        _set(pages, block)
    pages.finish()
    return starts


def write_pdf(book: Sequence[Block], path: Path) -> int:
    """Set the book, first to know its pages and then to write it; returns their number."""
    with matplotlib.rc_context(STYLE), PdfPages(path, metadata={"Title": "Theorems"}) as pdf:
        titles = {block.text: 0 for block in book if isinstance(block, Heading) and block.level == 2}
        pages = Pages(pdf)
        _lay(pages, book, _lay(Pages(), book, titles))
    return pages.count
