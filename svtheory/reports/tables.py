"""Tables of rows, for the terminal and for the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 200


def show(rows: list[dict[str, Any]], *lines: str) -> None:
    """Print the rows as a table, and lines below it; in full where the output is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    if rows:
        console.print(table(rows))
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows as a terminal table; columns are the keys of the first row, numbers to the right."""
    result = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, value in rows[0].items():
        text = isinstance(value, str)
        result.add_column(name, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for row in rows:
        result.add_row(*(Text(shown(row[name])) for name in rows[0]))
    return result


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
