"""Tables of rows, for the terminal and for the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH, WIDEST = 200, 10_000
LONG = 30  # letters of a cell that stands on one line
MOST = 20  # rows in a terminal, of a table that stands in full on a page


def show(rows: Sequence[Mapping[str, Any]], *lines: str, page: str = "") -> None:
    """Print the rows as a table, and lines below it; in full, or the first rows of a table that a `page` has in full.

    Where the output is narrower than the table's words and numbers, lines are longer than it: nothing is cut.
    """
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    if rows:
        shown = table(rows[:MOST] if page else rows)
        console.width = max(console.width, console.measure(shown, options=console.options.update(width=WIDEST)).minimum)
        console.print(shown)
    if page and len(rows) > MOST:
        lines = (f"{len(rows) - MOST} more in {page}", *lines)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows as a terminal table; columns are the keys of the first row, numbers to the right, words whole."""
    result = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, value in rows[0].items():
        cells = [shown(row[name]) for row in rows]
        wraps = any(len(cell) > LONG for cell in cells) or not any(" " in cell for cell in cells)
        least = max(len(part) for cell in (name, *cells) for part in (cell.split() if wraps else [cell]))
        text = isinstance(value, str)
        result.add_column(name, justify="left" if text else "right", no_wrap=not wraps, min_width=least)
    for row in rows:
        result.add_row(*(Text(shown(row[name])) for name in rows[0]))
    return result


def picked(rows: Sequence[Mapping[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Of each row the columns of these names, of those that it has.

    >>> picked([{"head": "0.1", "S": 0.2, "p": 1.0}], "head", "p", "loss")
    [{'head': '0.1', 'p': 1.0}]
    """
    return [{name: row[name] for name in names if name in row} for row in rows]


def at_most(p: float, least: float, draws: int) -> str:
    """A p-value of so many draws, with a sign where they ended at a verdict and p may be as little as `least`.

    >>> at_most(0.04853, 0.002, 468), at_most(0.3125, 0.3125, 32), at_most(1.0, 0.3, 198)
    ('≤ 0.049 (468 draws)', '0.31 (32 draws)', '1 (198 draws)')
    """
    told = f"{p:.2g}"  # of 1 "at most" says nothing
    return f"{'≤ ' if least < p and told != '1' else ''}{told} ({draws} draws)" if math.isfinite(p) else "-"


def tally(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows of a table were held to rules and how many hold, for a summary; "holds" says it, None of no rule.

    >>> tally([{"holds": True}, {"holds": False}, {"holds": None}])
    {'rules': 2, 'rules_that_hold': 1}
    """
    held = [bool(row["holds"]) for row in rows if row.get("holds") is not None]
    return {"rules": len(held), "rules_that_hold": sum(held)}


def shown(value: Any) -> str:
    """A table cell: text as it is, whole numbers whole, other numbers to 4 significant digits.

    >>> [shown(x) for x in ("softmax", 16, 0.123456, True, float("nan"))]
    ['softmax', '16', '0.1235', 'yes', '-']
    """
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "-"
    return "-" if value is None else str(value)
