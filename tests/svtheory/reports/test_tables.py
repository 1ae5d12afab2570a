"""Tables in a terminal and in a pipe: names and numbers whole at every width."""

import io

import pytest
from rich.console import Console

from svtheory.reports import tables

WIDE = {
    "head": "0.1",
    "verdict": "sparser than random heads of its spectrum, read raw and balanced",
    "S": "0.123 ± 0.004",
    "balanced: effective rank": 12.345,
    "directions named": "19 of 64",
    "p adj.": "≤ 0.049 (468 draws)",
}


@pytest.fixture
def printed(monkeypatch):
    """What a terminal, or a pipe, of some width is shown."""

    def at(width, terminal, *given, **options):
        file = io.StringIO()
        made = Console(file=file, width=width, force_terminal=terminal, color_system=None)
        monkeypatch.setattr(tables, "Console", lambda: made)
        tables.show(*given, **options)
        return file.getvalue()

    return at


@pytest.mark.parametrize(("width", "terminal"), [(60, True), (80, True), (80, False), (200, False)])
def test_names_and_numbers_are_whole(printed, width, terminal):
    text = printed(width, terminal, [WIDE, WIDE | {"verdict": "neither"}])
    words = {word for name, cell in WIDE.items() for word in (*name.split(), *str(cell).split())}
    assert words - set(text.split()) == {"12.345"}  # to 4 digits
    for together in ("19 of 64", "0.123 ± 0.004", "≤ 0.049 (468 draws)", "12.35"):
        assert text.count(together) == 2
    assert text.count("neither") == 1


def test_a_long_table_says_how_much_more_there_is(printed):
    rows = [{"head": f"head{i}"} for i in range(25)]
    text = printed(80, True, rows, "a line", page="runs/report.html")
    assert "head19" in text
    assert "head20" not in text
    assert text.splitlines()[-2:] == ["5 more in runs/report.html", "a line"]
    assert "head24" in printed(80, True, rows)
