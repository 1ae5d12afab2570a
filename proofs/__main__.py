"""``python -m proofs``: verify every theorem; exit 1 if a step fails or a control is not rejected."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from proofs import book, theorems
from proofs.engine.verifier import Report
from proofs.experiments import experiments_of


def as_record(report: Report) -> dict:
    """A report as plain data for machines."""
    theorem = report.theorem
    return {
        "id": theorem.id,
        "title": theorem.title,
        "statement": theorem.statement,
        "predicts": theorem.predicts,
        "hypotheses": {name: str(statement) for name, statement in theorem.hypotheses.items()},
        "claim": "; ".join(f"{name}: {statement}" for name, statement in theorem.claim.items()),
        "scope": theorem.scope,
        "status": theorem.status,
        "functions": list(theorem.functions),
        "experiments": experiments_of(theorem.id),
        "ok": report.ok,
        "steps": [asdict(step) for step in report.steps],
        "controls": [asdict(control) for control in report.controls],
        "seconds": round(report.seconds, 3),
    }


def as_table(reports: list[Report]) -> Table:
    """A report per row, for people."""
    table = Table(title="Theorems", caption="controls are false neighbours, which the same machinery must reject")
    for column in ("theorem", "scope", "tested by"):
        table.add_column(column, overflow="fold")
    for column in ("status", "steps", "controls", "s", "verdict"):
        table.add_column(column, justify="right" if column in {"steps", "controls", "s"} else "left", no_wrap=True)
    for report in reports:
        theorem, held = report.theorem, sum(step.ok for step in report.steps)
        rejected = sum(control.rejected for control in report.controls)
        table.add_row(
            f"{theorem.id} {theorem.title}", theorem.scope, ", ".join(experiments_of(theorem.id)) or "no experiment",
            theorem.status, f"{held}/{len(report.steps)}", f"{rejected}/{len(report.controls)}",
            f"{report.seconds:.1f}", "ok" if report.ok else "FAILS",
        )  # fmt: skip
    return table


def explain_failures(reports: list[Report], console: Console) -> None:
    """Print each step that failed and each control that was let through."""
    for report in reports:
        wrong = [f"step '{step.name}' left {step.residual or step.error}" for step in report.steps if not step.ok]
        wrong += [f"control '{c.name}' not rejected {c.residual}" for c in report.controls if not c.rejected]
        for line in wrong:
            console.print(f"{report.theorem.id}: {line}", markup=False)


def main(arguments: list[str] | None = None) -> int:
    """Verify the theorems named (all unless named) and report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m proofs", description="Verify the theorems of the project.")
    parser.add_argument(
        "names", nargs="*", metavar="ID", help="theorems to verify, T1 to T17; all of them unless named"
    )
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    parser.add_argument("--book", type=Path, metavar="FILE", help="also write the book: .md, .tex or .pdf")
    options = parser.parse_args(arguments)
    found = theorems()
    known = {theorem.id for theorem in found}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no theorem {', '.join(unknown)}; there are {', '.join(theorem.id for theorem in found)}")
    if options.book is not None:
        try:
            book.check_destination(options.book)
        except ValueError as error:
            parser.error(str(error))
    console = Console(stderr=True)
    reports = []
    with Progress(console=console, transient=True, disable=options.json) as progress:
        for theorem in progress.track(
            [t for t in found if not options.names or t.id in options.names], description="verifying"
        ):
            reports.append(theorem.verify())
    if options.json:
        print(json.dumps([as_record(report) for report in reports], indent=2))
    else:
        Console().print(as_table(reports))
        explain_failures(reports, console)
    if options.book is not None:
        console.print(f"{options.book}: {book.write(reports, options.book)}", markup=False)
    return 0 if all(report.ok for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
