"""The run folder: what an experiment leaves behind, and the rule by which it continues or is refused."""

import dataclasses
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import xarray as xr
from matplotlib.figure import Figure

from svtheory.checks import InputError

PACKAGES = ("svtheory", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "xarray")


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """A figure and the one sentence that says what to see in it."""

    figure: Figure
    caption: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    summary   headline figures, flat, with units in the names
    results   labelled arrays
    figures   exhibits by file name
    rows      the table that is printed and reported, one dict a row
    """

    summary: Mapping[str, Any]
    results: xr.Dataset
    figures: Mapping[str, Exhibit]
    rows: list[dict[str, Any]]


def start(out: Path, name: str, config: Any, command: str) -> tuple[Path, list[Path]]:
    """Open `out/name/` for a run with `config`; returns it and the folders made for it, outermost first.

    A folder of the same configuration is taken up again. Raises InputError, before anything is written, for a folder
    that holds another configuration or something that is no run.
    """
    folder = out / name
    settings = as_json(config)
    _refuse_foreign(folder, settings)
    created = [path for path in (*reversed(folder.parents), folder) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out must be a folder that can be written, got {out} ({error.strerror})") from error
    manifest = {
        "experiment": name,
        "command": command,
        "status": "running",
        "continued": checkpoints(folder).exists(),
        "seed": settings.get("seed"),
        "dtype": settings.get("dtype", "float32"),
        "config": settings,
        **environment(),
    }
    write_json(folder / "manifest.json", manifest)
    return folder, created


def finish(folder: Path, outcome: Outcome, seconds: float) -> None:
    """Write summary, results and figures, then mark the run finished and drop its checkpoints."""
    write_json(folder / "summary.json", {name: _scalar(value) for name, value in outcome.summary.items()})
    with atomic(folder / "results.nc") as path:
        outcome.results.to_netcdf(path, engine="h5netcdf")
    (folder / "figures").mkdir(exist_ok=True)
    for name, exhibit in outcome.figures.items():
        for kind in ("png", "pdf"):
            with atomic(folder / "figures" / f"{name}.{kind}") as path:
                exhibit.figure.savefig(path, format=kind)
            exhibit.figure.set_layout_engine("none")  # it has been laid out
    captions = {name: exhibit.caption for name, exhibit in outcome.figures.items()}
    manifest = read_manifest(folder) | {"status": "finished", "wall_time_s": round(seconds, 2), "captions": captions}
    write_json(folder / "manifest.json", manifest)
    shutil.rmtree(checkpoints(folder), ignore_errors=True)


def checkpoints(folder: Path) -> Path:
    """Where the run in `folder` keeps what it needs to continue; gone once it has finished."""
    return folder / "checkpoints"


def discard(created: list[Path]) -> None:
    """Remove the folders that `start` made for a run whose input turned out to be wrong."""
    for path in created[:1]:
        shutil.rmtree(path)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder; empty where there is none that can be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _refuse_foreign(folder: Path, settings: dict[str, Any]) -> None:
    remedy = "give another --out or remove it"
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} must be a folder, got a file; {remedy}")
    if not any(folder.iterdir()):
        return
    manifest = read_manifest(folder)
    if manifest.get("experiment") != folder.name or not isinstance(manifest.get("config"), dict):
        raise InputError(f"{folder} must be empty or hold a run of {folder.name}, got other files; {remedy}")
    theirs = manifest["config"]
    if theirs != settings:
        names = [name for name in {**theirs, **settings} if theirs.get(name) != settings.get(name)]
        changes = ", ".join(f"{name} {theirs.get(name)} there, {settings.get(name)} here" for name in names)
        raise InputError(f"{folder} holds a run with another configuration ({changes}); {remedy}")


def environment() -> dict[str, Any]:
    """Device, versions and git commit of this process."""
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform}), {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def as_json(config: Any) -> dict[str, Any]:
    """A dataclass as the plain values that its manifest will hold."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _scalar(value: Any) -> Any:
    """A Python scalar for JSON, which has no word for what is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
