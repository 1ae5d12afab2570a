"""The table of what was counted, in Markdown."""

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from svtheory.reports.runs import environment

Found = Mapping[str, Mapping[str, Any]]
COLUMNS = {
    "kills": ("anywhere", "saving", "finishing", "SIGTERM", "SIGINT"),
    "faults": ("faults", "refused"),
    "mutations": ("mutations", "refused", "unchanged", "as written"),
}
TEXT = {
    "kills": """The trainer alone, and each experiment at a size of seconds, is killed by SIGKILL at random moments
(anywhere), while it saves and while it writes its results, and stopped by SIGTERM and Ctrl-C, which have to be answered
by one sentence and a manifest that says so. The same command takes the run up after each. Once it has ended, its
results, headline figures and images are those of a run that was left alone, bit for bit; otherwise it counts as
failed. Each is stopped seven to twelve times, long ones fewer.""",
    "faults": """Each fault is refused, in one sentence and before anything is lost, or the run goes on to the results
of one that was left alone, bit for bit. After what can be mended is mended, the same command ends with these too.""",
    "mutations": """Each mutation of a file is refused by one sentence (InputError), read as before (it says nothing
there), or read as what the file now says: as Python's own json and a few lines that know the layout of safetensors read
it. None may take more than 10 seconds or 1 GiB.""",
}


def page(found: Mapping[str, Found], left: Mapping[str, Sequence[str]]) -> str:
    """Kills, faults and mutations, each with its sum, what failed and what is left to be run."""
    made = environment()
    where = f"{platform.system()}, {made['device']}, {os.cpu_count()} cores, jax {made['versions']['jax']}"
    head = f"""# What it survives

`make torture` kills, damages and garbles, and counts what comes of it. This table was written by it on
{datetime.date.today()} ({where}; commit {made["git_commit"]}).
"""
    return "\n".join([head, *(section(part, units, left[part]) for part, units in found.items())])


def section(part: str, units: Found, left: Sequence[str]) -> str:
    """One part: what it does, a line for each unit, their sum, and those that have not been run."""
    columns = COLUMNS[part]
    rows = [[unit, *(found.get(name, 0) for name in columns), len(found["failures"])] for unit, found in units.items()]
    total = ["all", *(sum(row[i] for row in rows) for i in range(1, len(columns) + 2))]
    seconds = sum(found["wall_seconds"] for found in units.values())
    killed = sum(sum(row[1:4]) for row in rows)
    told = f"{killed} SIGKILLs in {len(rows)} rows. " if part == "kills" else ""
    told += f"Not run yet: {', '.join(left)}. " if left else ""
    failures = [f"- {' '.join(failure.split())[:300]}" for found in units.values() for failure in found["failures"]]
    return "\n".join(
        [
            f"## {part.capitalize()}\n\n{TEXT[part]}\n",
            *lines(("", *columns, "failed"), [*rows, total]),
            f"\n{told}It took {seconds / 60:.0f} minutes.\n",
            *failures,
        ]
    )


def lines(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A table in Markdown, numbers to the right."""
    written = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [f"| {' | '.join(map(str, row))} |" for row in written]
