"""The command line of an instrument: what `svtheory NAME SOURCE` does, and leaves behind."""

import importlib
import shlex
from collections.abc import Sequence
from dataclasses import asdict, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from svtheory.checks import InputError
from svtheory.instruments import INSTRUMENTS
from svtheory.instruments.survey import by_head
from svtheory.reports.command import check_seed, parsed, perform, sentence_errors
from svtheory.reports.runs import Exhibit, Outcome
from svtheory.reports.tables import show, tally


def run(name: str, arguments: Sequence[str]) -> Outcome:
    """Run an instrument as its command does; a wrong argument exits with code 2 after one sentence on stderr."""
    with sentence_errors():
        if name not in INSTRUMENTS:
            raise InputError(f"the instrument must be one of {', '.join(INSTRUMENTS)}, got {name!r}")
        instrument = importlib.import_module(f"svtheory.instruments.{name}")
        source, settings, out = asked(instrument, name, arguments)
        folder = out / name / "-".join(x for x in (source.label, getattr(settings, "label", "")) if x)
        line = shlex.join(["svtheory", name, *arguments])

        def survey(_: Path) -> Outcome:
            found = instrument.requested(source, settings)
            figures = {name: Exhibit(instrument.figure(found), instrument.caption(found))}
            rows = by_head(instrument.rows(found))
            summary = {**instrument.summary(found), **tally(rows)}
            answers = instrument.answers(found)
            if cut := found.attrs.get("sequences"):
                summary["sequences"] = cut
                answers.append(f"Read on {cut} sequences; --sequences takes more.")
            if left := found.attrs.get("tokens_left_over"):
                answers.append(
                    f"{left} tokens at the end of the text fill no sequence of --positions and are not read."
                )
            page = instrument.html(found, line) if hasattr(instrument, "html") else ""
            return Outcome(summary, found, figures, rows, answers, instrument.COLUMNS, page)

        outcome = perform(name, folder, {**asdict(source), **asdict(settings)}, line, str(instrument.__doc__), survey)
        page = f"{folder / 'report.html'}"
        show(instrument.brief(outcome.results), *outcome.answers, page, f"{folder / 'summary.json'}", page=page)
    return outcome


def asked(instrument: Any, name: str, arguments: Sequence[str]) -> tuple[Any, Any, Path]:
    """Source, settings and folder of runs that `arguments` ask for; raises InputError for what they may not be."""
    kinds = get_type_hints(instrument.requested)
    folder = Annotated[Path, tyro.conf.arg(help="Folder of the run folders.")]
    request = make_dataclass(
        "Request",
        [
            ("source", kinds["source"], field(default_factory=kinds["source"])),
            ("settings", kinds["settings"], field(default_factory=kinds["settings"])),
            ("out", folder, field(default=Path("runs"))),
        ],
    )
    chosen = parsed(request, f"svtheory {name}", str(instrument.__doc__), arguments)
    check_seed(chosen.settings)
    return chosen.source, chosen.settings, chosen.out
