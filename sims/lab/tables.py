"""Tables of rows, for the terminal and for the report."""

import math
from typing import Any

from rich.table import Table


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows as a terminal table; columns are the keys of the first row, numbers to the right."""
    columns = list(rows[0]) if rows else []
    result = Table(*columns)
    for column in result.columns:
        column.justify = "left" if isinstance(rows[0][str(column.header)], str) else "right"
    for row in rows:
        result.add_row(*(shown(row[name]) for name in columns))
    return result


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
