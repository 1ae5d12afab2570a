"""The reference shows every public name, and each says what it does and which theorem it computes."""

import re
from pathlib import Path

import pytest

from docs import pages

ROOT = Path(__file__).parents[1]
PUBLIC = {name.path: name for folder in (pages.PACKAGE, *pages.wings()) for name in pages.public(folder)}
IN_FULL = re.compile(r"^\.\. auto\w+:: (\S+)$", re.MULTILINE)


def test_every_public_name_has_a_docstring():
    assert not [path for path, name in PUBLIC.items() if not name.docstring]


def test_the_reference_shows_each_public_name_once():
    text = "\n".join([pages.contract_page(), *map(pages.wing_page, pages.wings())])
    shown = sorted(path.rpartition(".")[2] for path in IN_FULL.findall(text))
    assert shown == sorted(name.name for name in PUBLIC.values())


def test_what_computes_a_theorem_names_it():
    docstrings = {name.name: name.docstring for name in PUBLIC.values()}
    rows = re.findall(r"^\| T\d+ \|.*", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(list((ROOT / "proofs" / "theorems").glob("t*.py")))
    for row in rows:
        theorem, _, functions, *_ = row.strip("| ").split(" | ")
        for name in re.findall(r"(?<!with )`(\w+)`", functions):
            assert re.search(rf"\b{theorem}\b", docstrings[name]), f"{name} does not say that it computes {theorem}"


@pytest.mark.parametrize(
    ("docstring", "shown"),
    [
        ("`Omega* = X^+`, |x_i| (T22)", "\\ ``Omega* = X^+``\\ , \\|x\\_i\\| (:ref:`T22 <t22>`)"),
        ("A sum.\n\n>>> 1 + 1\n2", "A sum.\n\n>>> 1 + 1\n2"),
        ("left u_k, of\n length 1", "left u\\_k, of\n length 1"),
        ("a    A\nbb   B,\n     C", ".. code-block:: text\n\n    a    A\n    bb   B,\n         C"),
        ("Reads.\nRaises InputError.", "Reads.\n\nRaises InputError."),
    ],
)
def test_a_docstring_becomes_text_that_sphinx_reads(docstring, shown):
    assert pages.restructured(docstring) == shown
