"""`svtheory` lists the instruments; `svtheory NAME SOURCE ...` runs one on the heads of a model."""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from svtheory import instruments
from svtheory.instruments import INSTRUMENTS, first_line
from svtheory.stopping import at_once

USAGE = "usage: svtheory NAME SOURCE [--text FILE] [options] [--out DIR]; svtheory NAME --help; svtheory --version"


def main(argv: Sequence[str] | None = None) -> None:
    """List the instruments, or run the one that the first argument names with the arguments after it."""
    with at_once():
        arguments = list(sys.argv[1:] if argv is None else argv)
        if not arguments or arguments[0] in ("-h", "--help"):
            _list()
            return
        if arguments[0] == "--version":
            print(metadata.version("svtheory"))
            return
        # of heads the matrices are small: threads that wait for one another made factorisations up to 40 times slower
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # this loads jax, which a list of instruments does without
        run = importlib.import_module("svtheory.instruments.command").run
    run(arguments[0], arguments[1:])


def _list() -> None:
    width, folder = max(map(len, INSTRUMENTS)), Path(instruments.__file__).parent
    print(f"{USAGE}\n")
    print("\n".join(f"  {name:{width}}  {first_line(folder / f'{name}.py')}" for name in INSTRUMENTS))
    print("\nSOURCE: a bundle (a safetensors file, or its name in $SVTHEORY_REAL_MODELS) or the folder of a model.")


if __name__ == "__main__":
    main()
