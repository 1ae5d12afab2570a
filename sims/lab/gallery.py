"""All experiments on toy heads, one after the other, and one page of their figures and numbers: gallery.html."""

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import jax

from sims.lab.command import parse, scale_of
from svtheory.reports import runs
from svtheory.reports.command import sentence_errors
from svtheory.reports.options import Options
from svtheory.reports.page import (
    figures_html,
    page_html,
    paragraphs_html,
    summary_html,
)

EXPERIMENTS = (
    *("superposition", "single_pair", "multi_pair", "training", "anisotropy", "robustness", "cone", "rotary"),
    *("capacity", "phase", "relu_phase", "weight_decay", "unwhitening", "reading", "sampling", "templates", "ledger"),
)


@dataclass(frozen=True)
class Config(Options):
    """Options of all experiments."""

    seed: int = 0
    """Seed of all random numbers."""


SCALES = {"quick": Config(), "paper": Config(), "full": Config()}


def main(argv: Sequence[str]) -> Path:
    """Run what has not been run yet, write the page, return its path."""
    arguments = list(argv)
    with sentence_errors():
        config, out, _ = parse("all", SCALES, arguments, str(__doc__))
        scale = scale_of(SCALES, arguments)
    for name in EXPERIMENTS:
        experiment = importlib.import_module(f"sims.{name}")
        if not finished(out / name, replace(experiment.SCALES[scale], seed=config.seed)):
            experiment.main(arguments)
            jax.clear_caches()
    with runs.atomic(out / "gallery.html") as path:
        path.write_text(gallery(out), encoding="utf-8")
    print(out / "gallery.html")
    return out / "gallery.html"


def finished(folder: Path, config: Any) -> bool:
    """Whether `folder` holds a finished run of `config`."""
    manifest = runs.read_manifest(folder)
    return manifest.get("status") == "finished" and manifest.get("config") == runs.as_json(config)


def gallery(out: Path) -> str:
    """The page of the runs in `out`: every figure with its claim, the numbers, and the command that made them."""
    sections = [section(out / name) for name in EXPERIMENTS]
    return page_html("svtheory", "<h1>Singular vectors predicted, and measured</h1>\n" + "\n".join(sections))


def section(folder: Path) -> str:
    """One experiment."""
    manifest = runs.read_manifest(folder)
    about = str(importlib.import_module(f"sims.{folder.name}").__doc__)
    title, _, text = about.partition("\n")
    figures = figures_html(folder, manifest["captions"])
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return f"""<h2 id="{folder.name}">{escape(title)}</h2>
{paragraphs_html(text)}
{figures}
<div class="wide">{summary_html(summary)}</div>
<pre>{escape(str(manifest["command"]))}</pre>
<p class="made">{escape(str(manifest["wall_time_s"]))} s, <a href="{folder.name}/report.html">full report</a></p>"""
