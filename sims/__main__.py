"""`python -m sims` lists the experiments; `python -m sims NAME ...` runs one, `python -m sims all` those on toys."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from svtheory.instruments import first_line
from svtheory.stopping import at_once

# readings of other people's heads have become instruments
MOVED = {"heads": "spectra", "sad": "sad", "explain": "explain", "align": "align", "conditions": "conditions"}


def experiments() -> dict[str, str]:
    """Every experiment of this folder and the first line of its docstring, read without importing it."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    return {path.stem: first_line(path) for path in files}


def main(argv: Sequence[str] | None = None) -> None:
    """List the experiments, or run the one that the first argument names with the arguments after it."""
    with at_once():
        arguments = list(sys.argv[1:] if argv is None else argv)
        known = experiments()
        if not arguments or arguments[0] in ("-h", "--help"):
            _list(known)
            return
        run = _loaded(arguments[0], known, every_core=argv is None)
    run(arguments[1:])


def _list(known: Mapping[str, str]) -> None:
    width = max(map(len, known), default=0)
    print("usage: python -m sims NAME [--scale quick|paper|full] [--seed N] [--out DIR] [options]\n")
    print("\n".join(f"  {name:{width}}  {line}" for name, line in known.items()))
    print(f"\n  {'all':{width}}  {first_line(Path(__file__).parent / 'lab' / 'gallery.py')}")


def _loaded(name: str, known: Mapping[str, str], every_core: bool) -> Callable[[Sequence[str]], Any]:
    """The `main` of an experiment; this loads jax, which a list of experiments does without."""
    from sims.engines import devices
    from svtheory.checks import InputError
    from svtheory.reports.command import sentence_errors

    if every_core:
        devices.every_core()
    with sentence_errors():
        if name in MOVED:
            raise InputError(f"{name} is an instrument: svtheory {MOVED[name]} SOURCE")
        if name not in (*known, "all"):
            raise InputError(f"the experiment must be one of {', '.join(known)} or all, got {name!r}")
    return importlib.import_module("sims.lab.gallery" if name == "all" else f"sims.{name}").main


if __name__ == "__main__":
    main()
