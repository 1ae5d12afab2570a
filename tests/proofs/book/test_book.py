"""The book: complete in every format, set without a TeX installation, and a wrong ending refused in one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest

from proofs import book, theorems
from proofs.__main__ import main
from proofs.book import chapters, typeset
from proofs.engine.verifier import Report

THEOREMS = {theorem.id: theorem for theorem in theorems()}


@pytest.fixture(scope="module")
def reports():
    return [THEOREMS[name].verify() for name in ("T12", "T14")]


@pytest.fixture(scope="module")
def blocks(reports):
    return list(chapters.blocks(reports))


@pytest.mark.parametrize("render", [book.as_markdown, book.as_tex])
def test_everything_is_in_the_book(reports, blocks, render):
    text = render(blocks)
    for report in reports:
        theorem = report.theorem
        assert f"{theorem.id}. {theorem.title}" in text
        for part in ("What it predicts", "Why it holds", "Checked steps", "Refused, as they are false", "Computed by"):
            assert text.count(part) >= len(reports)
        for name in theorem.functions:
            assert name.replace("_", r"\_" if render is book.as_tex else "_") in text
        assert theorem.references[0] in text
        sentence = next(
            block.text
            for block in blocks
            if getattr(block, "text", "").startswith("Refused") and theorem.controls[0].name in block.text
        )
        assert all(control.name in sentence for control in report.controls)


def test_every_step_has_its_formula(reports):
    theorem = reports[0].theorem
    chapter = list(chapters.chapter(reports[0]))
    steps = [
        (block.text, chapter[place + 1])
        for place, block in enumerate(chapter)
        if isinstance(block, chapters.Paragraph) and re.match(r"\(\d", block.text)
    ]
    assert [text.split(")")[0] for text, _ in steps] == [f"({n}" for n in range(1, len(theorem.lemmas) + 1)]
    assert all(isinstance(formula, chapters.Formula) for _, formula in steps)


def test_tex_is_balanced(blocks):
    text = book.as_tex(blocks)
    assert text.count(r"\begin{") == text.count(r"\end{")
    unescaped = re.sub(r"\\[{}$]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    assert unescaped.count("$") % 2 == 0


@pytest.mark.slow
def test_pdf_without_tex(reports, tmp_path):
    path = tmp_path / "book.pdf"
    how = book.write(reports, path)
    assert path.read_bytes().startswith(b"%PDF")
    pages = int(re.findall(r"\d+", how)[0])
    assert len(re.findall(rb"/Type /Page\b", path.read_bytes())) == pages >= len(reports)


def test_mathtext_sets_the_formulas(blocks):
    formulas = [block for block in blocks if isinstance(block, chapters.Formula)]
    with matplotlib.rc_context(typeset.STYLE):
        for formula in formulas:
            found = typeset.displayed(formula, typeset.LINE)
            assert found is not None, formula.latex
            lines, size = found
            assert all(typeset.width(line, size) <= typeset.LINE for line in lines)


def test_lines_fit_the_page(blocks):
    with matplotlib.rc_context(typeset.STYLE):
        for block in blocks:
            if isinstance(block, chapters.Paragraph):
                for line in typeset.wrapped(block, typeset.TEXT, typeset.LINE):
                    assert typeset.width(line, typeset.TEXT) <= typeset.LINE + typeset.TEXT


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("u || x~_i/|x~_i|", [r"\tilde{x}_{i}", r"\tilde{x}_{i}"]),
        ("S_r^+ E[r f_i]", ["S_{r}^{+}", "f_{i}"]),
        ("sigma_k of `chance_alignment`", [r"\sigma_{k}"]),
        ("no letters with marks, x or y", []),
        (r"given $x_i$ and y_j", ["x_i", "y_{j}"]),
    ],
)
def test_letters_in_prose_become_formulas(text, pieces):
    assert [piece for is_math, piece in chapters.Paragraph(text).pieces if is_math] == pieces


def test_a_formula_that_cannot_be_set_is_left_to_plain_text():
    assert typeset.displayed(chapters.Formula(r"\unknownmacro{x}", "x"), 400) is None


@pytest.mark.parametrize("name", ["book.docx", "book", "book.PDF"])
def test_another_ending_is_refused(name, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        main(["T12", "--book", str(tmp_path / name)])
    assert refused.value.code == 2
    *_, sentence = capsys.readouterr().err.strip().splitlines()
    assert "FILE must end in .md, .tex or .pdf" in sentence
    assert not (tmp_path / name).exists()


def test_command_writes_the_book(tmp_path, capsys):
    path = tmp_path / "book.md"
    assert main(["T12", "--book", str(path)]) == 0
    assert "T12. Chance" in path.read_text()
    assert "book.md" in capsys.readouterr().err.replace("\n", "")


def test_the_book_in_the_docs_is_current():
    """Its chapters are those of the theorems; only the counts of a verification, made anew, are not compared."""
    kept = (Path(__file__).parents[3] / "docs" / "theorems.md").read_text(encoding="utf-8")
    place = 0
    for theorem in THEOREMS.values():
        for block in chapters.chapter(Report(theorem, (), (), 0)):
            text = book.as_markdown([block]).rstrip()
            if "0 of 0 steps hold" in text:
                continue
            text = text.removesuffix(".") if text.startswith("Refused") else text
            assert kept.find(text, place) >= 0, text
            place = kept.find(text, place) + len(text)
        assert all(book.as_markdown([chapters.Paragraph(control.name)]).strip() in kept for control in theorem.controls)
