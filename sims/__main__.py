"""`python -m sims` lists the experiments; `python -m sims NAME ...` runs one, `python -m sims all` those on toys."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from svtheory.instruments import first_line

# readings of other people's heads have become instruments
MOVED = {"heads": "spectra", "sad": "sad", "explain": "explain", "align": "align", "conditions": "conditions"}


def experiments() -> dict[str, str]:
    """Every experiment of this folder and the first line of its docstring, read without importing it."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    return {path.stem: first_line(path) for path in files}


def main(argv: Sequence[str] | None = None) -> None:
    """List the experiments, or run the one that the first argument names with the arguments after it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = experiments()
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, known), default=0)
        print("usage: python -m sims NAME [--scale quick|paper|full] [--seed N] [--out DIR] [options]\n")
        print("\n".join(f"  {name:{width}}  {line}" for name, line in known.items()))
        print(f"\n  {'all':{width}}  {first_line(Path(__file__).parent / 'lab' / 'gallery.py')}")
        return
    # these load jax, which a list of experiments does without
    from sims.engines.devices import every_core
    from sims.lab import gallery
    from svtheory.checks import InputError
    from svtheory.reports.command import sentence_errors

    if argv is None:
        every_core()
    if arguments[0] == "all":
        gallery.main(arguments[1:])
        return
    with sentence_errors():
        if arguments[0] in MOVED:
            raise InputError(f"{arguments[0]} is an instrument: svtheory {MOVED[arguments[0]]} SOURCE")
        if arguments[0] not in known:
            raise InputError(f"the experiment must be one of {', '.join(known)} or all, got {arguments[0]!r}")
    importlib.import_module(f"sims.{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    main()
