"""`python -m tests.torture [PARTS]`: kills, faults and mutations, counted in a table.

Each unit of a part is kept in a folder when it is done: the same command goes on where it was stopped. Exits 1 where
anything failed.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # these compile more than they compute
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "/tmp/svtheory-torture-compiled")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from tests.torture import faults, kills, mutations
from tests.torture.commands import COMMANDS
from tests.torture.processes import load
from tests.torture.table import page

Unit = Callable[[Path], dict[str, Any]]
PARTS: dict[str, dict[str, Unit]] = {
    "kills": {"the trainer alone": kills.trainer}
    | {name: lambda folder, name=name: kills.tried(name, folder) for name in COMMANDS},
    "faults": faults.UNITS,
    "mutations": mutations.UNITS,
}


def main() -> None:
    """Run what has not been run, print what came of it and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}, or PART:UNIT; all without")
    parser.add_argument("--folder", type=Path, default=Path("runs/torture"))
    parser.add_argument("--table", type=Path, help="a file of Markdown for the counts")
    asked = parser.parse_args()
    load()
    for part, unit in chosen(asked.parts):
        record(asked.folder, part, unit)
    found = {part: kept(asked.folder, part) for part in PARTS}
    print(text := page(found))
    if asked.table:
        asked.table.write_text(text, encoding="utf-8")
    sys.exit(any(unit["failures"] for units in found.values() for unit in units.values()))


def chosen(asked: list[str]) -> Iterator[tuple[str, str]]:
    """Part and unit of what is asked for."""
    for part, units in PARTS.items():
        yield from ((part, unit) for unit in units if not asked or part in asked or f"{part}:{unit}" in asked)


def record(folder: Path, part: str, unit: str) -> None:
    """Run a unit, unless it has been, and keep what came of it."""
    file = folder / part / f"{unit}.json"
    if file.exists():
        return
    began = time.monotonic()
    found = PARTS[part][unit](folder / part / unit)
    found["wall_seconds"] = round(time.monotonic() - began, 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1))
    print(f"{part} {unit}: {json.dumps(found)}", file=sys.stderr, flush=True)


def kept(folder: Path, part: str) -> dict[str, dict[str, Any]]:
    """What has been kept of a part, by unit."""
    files = {unit: folder / part / f"{unit}.json" for unit in PARTS[part]}
    return {unit: json.loads(file.read_text()) for unit, file in files.items() if file.exists()}


if __name__ == "__main__":
    main()
