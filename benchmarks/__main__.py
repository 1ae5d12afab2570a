"""`python -m benchmarks [NAME] [--json FILE]`: speed beside its peers; never part of the tests."""

import argparse
import datetime
import importlib
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import jax

from sims.engines.devices import every_core
from svtheory.reports.runs import environment
from svtheory.reports.tables import show

NAMES = ("training", "decomposition", "reading", "predict", "scaling")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure one benchmark or all, print the figures and, with --json, write them with device, versions and date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES, help="which one; all of them without a name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures, flat")
    arguments = parser.parse_args(argv)
    every_core()  # as `python -m sims` does
    figures = {}
    for name in [arguments.name] if arguments.name else NAMES:
        print(f"{name} ...", flush=True)
        found = importlib.import_module(f"benchmarks.{name}").measure()
        show([{"figure": key, "value": value} for key, value in found.items()])
        figures |= found
    if arguments.json is not None:
        record = {"date": datetime.date.today().isoformat(), **environment(), **figures}
        record["versions"]["torch"] = metadata.version("torch")
        record["accelerator"] = "none was there" if jax.default_backend() == "cpu" else "the device"
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
