"""The command line of an experiment: options are the fields of its Config, errors are one sentence."""

import contextlib
import inspect
import shlex
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from sims.engines.devices import ALL, Machine, every_core, leads, using
from svtheory.checks import InputError
from svtheory.reports.command import check_seed, parsed, perform, sentence_errors
from svtheory.reports.memory import check_arrays
from svtheory.reports.runs import Outcome
from svtheory.reports.tables import show, tally


def command(run: Callable[[Any, Path], Outcome], scales: Mapping[str, Any]) -> Callable[..., Outcome]:
    """The `main` of the experiment module that defines `run(config, folder)`.

    `scales` gives the Config of each scale, the default first. A Config has a `seed`, and may have a `dtype`
    ("float32" or "float64") under which the run then happens. `main(argv)` returns the Outcome, its summary
    with the tally of the rules in its table; a wrong argument exits with code 2, numbers that stop being finite with
    code 1, each after one sentence on stderr.
    """
    name = Path(inspect.getfile(run)).stem

    def main(argv: Sequence[str] | None = None) -> Outcome:
        if argv is None:
            every_core()
        arguments = list(sys.argv[1:] if argv is None else argv)
        with sentence_errors():
            config, out, machine = parse(name, scales, arguments, str(run.__globals__["__doc__"]))
            with using(machine), _written(out) as folder:
                return _perform(name, run, config, folder, arguments)

    return main


@contextlib.contextmanager
def _written(out: Path) -> Iterator[Path]:
    """The folder for the run; of several processes the first writes it, the others write what nobody keeps."""
    if leads():
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def parse(name: str, scales: Mapping[str, Any], arguments: list[str], description: str) -> tuple[Any, Path, Machine]:
    """The Config, output folder and machine that `arguments` ask for; raises InputError for what they may not be."""
    scale = scale_of(scales, arguments)
    options = make_dataclass(
        "Options",
        [
            ("config", type(scales[scale]), field(default=scales[scale])),
            ("scale", _documented(Literal[tuple(scales)], "Size of the run."), field(default=scale)),
            ("out", _documented(Path, "Folder of the run folder."), field(default=Path("runs"))),
            ("machine", Machine, field(default=ALL)),
        ],
    )
    chosen = parsed(options, f"python -m sims {name}", description, arguments)
    check_seed(chosen.config)
    check_arrays(chosen.config)
    return chosen.config, chosen.out, chosen.machine


def scale_of(scales: Mapping[str, Any], arguments: list[str]) -> str:
    """The scale is read first, because the other options take their defaults from it."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--scale", nargs="?", default=next(iter(scales)))
    scale = parser.parse_known_args(arguments)[0].scale
    if scale not in scales:
        raise InputError(f"--scale must be one of {', '.join(scales)}, got {scale!r}")
    return scale


def _documented(kind: Any, text: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=text)]


def _perform(name: str, run: Callable[[Any, Path], Outcome], config: Any, out: Path, arguments: list[str]) -> Outcome:
    line = shlex.join(["python", "-m", "sims", name, *arguments])
    double = getattr(config, "dtype", "float32") == "float64"

    def tallied(folder: Path) -> Outcome:
        found = run(config, folder)
        return replace(found, summary={**found.summary, **tally(found.rows)})

    folder = out / name
    with jax.enable_x64(double):
        outcome = perform(name, folder, config, line, str(run.__globals__["__doc__"]), tallied)
    if leads():
        show(outcome.rows, f"{folder / 'report.html'}", f"{folder / 'summary.json'}")
    return outcome
