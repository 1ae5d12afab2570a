"""Which experiments test a theorem: read from the experiments, never stated by the theorem."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

SIMS = Path(__file__).parents[1] / "sims"


@cache
def declared(folder: Path = SIMS) -> dict[str, tuple[str, ...]]:
    """The module-level ``THEOREMS = ("T5", ...)`` of each experiment that has one, read without importing any."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            match statement:
                case ast.Assign(targets=[ast.Name("THEOREMS")], value=value):
                    found[path.stem] = tuple(ast.literal_eval(value))
    return found


def experiments_of(theorem: str, folder: Path = SIMS) -> list[str]:
    """The experiments that declare a theorem."""
    return [name for name, theorems in declared(folder).items() if theorem in theorems]
