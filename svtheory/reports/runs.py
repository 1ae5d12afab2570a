"""The run folder: what an experiment leaves behind, and the rule by which it continues or is refused."""

import dataclasses
import fcntl
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from svtheory.checks import InputError

REMEDY = "give another --out or remove it"
CONTINUES = "the same command takes the run up again"
# what trains heads need not be there
PACKAGES = ("svtheory", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "xarray")
# attributes of netCDF's own
RESERVED = {"", "CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "coordinates", "_NCProperties", "_Netcdf4Dimid"}
RESERVED |= {"_Netcdf4Coordinates", "_nc3_strict", "_FillValue"}


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """A figure and the one sentence that says what to see in it."""

    figure: Figure
    caption: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    summary   headline figures, flat, with units in the names
    results   labelled arrays, of one dataset or a tree of several
    figures   exhibits by file name
    rows      the table that is reported, one dict a row
    answers   sentences that say what it amounts to
    columns   what columns of the table say
    page      the page that shows it, where it has one of its own
    """

    summary: Mapping[str, Any]
    results: xr.Dataset | xr.DataTree
    figures: Mapping[str, Exhibit]
    rows: list[dict[str, Any]]
    answers: Sequence[str] = ()
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    page: str = ""


@contextmanager
def started(folder: Path, name: str, config: Any, command: str) -> Iterator[Path]:
    """Open `folder` for a run of `name` with `config`, and keep other processes out of it until the block ends.

    A folder of the same configuration is taken up again, and one of another whose run left nothing but its manifest is
    taken over. Raises InputError, before anything is written, for a folder that holds another configuration or
    something that is no run, or in which another process runs. An InputError in the
    block takes back the manifest, if that is new and all there is, and the folders made for it that are then empty.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    with alone(folder):
        settings = as_json(config)
        _refuse_foreign(folder, name, settings)
        manifest, again = folder / "manifest.json", (folder / "manifest.json").exists()
        if read_manifest(folder).get("status") == "finished":
            _drop(checkpoints(folder))  # a kill may have come before they were
        content = {
            "experiment": name,
            "command": command,
            "status": "running",
            "continued": checkpoints(folder).exists(),
            "seed": settings.get("seed"),
            "dtype": settings.get("dtype", "float32"),
            "config": settings,
            **environment(),
        }
        write_json(manifest, content)
        try:
            yield folder
        except InputError:
            if not again and _only_manifest(folder):
                manifest.unlink()
                _remove_empty(created)
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                error.add_note(CONTINUES)
            with suppress(OSError):
                write_json(manifest, content | {"status": "stopped", "reason": type(error).__name__})
            raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make the folder and lock it; the lock ends with the block, and with the process however that ends.

    Raises InputError where it cannot be made, or another process has it.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} must be a folder, got a file; {REMEDY}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"--out must be a folder that can be written, got {folder.parent} ({error.strerror})"
        ) from error
    try:
        if not _locked(opened, folder):
            raise InputError(
                f"{folder} must be free, got one in which another process runs; give another --out or wait"
            )
        yield
    finally:
        os.close(opened)


def _locked(opened: int, folder: Path) -> bool:
    """Whether the opened folder is now this process's alone, and still there."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(opened), folder.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove_empty(folders: list[Path]) -> None:
    """Remove these folders, innermost first, up to one that holds something."""
    with suppress(OSError):
        for path in folders:
            path.rmdir()


def finish(folder: Path, outcome: Outcome, seconds: float) -> None:
    """Write summary, results and figures, then mark the run finished and drop its checkpoints."""
    write_json(folder / "summary.json", {name: _scalar(value) for name, value in outcome.summary.items()})
    with atomic(folder / "results.nc") as path:
        # through memory: HDF5 says more than one sentence where a disk is full
        path.write_bytes(storable(outcome.results).to_netcdf(engine="h5netcdf"))
    (folder / "figures").mkdir(exist_ok=True)
    for name, exhibit in outcome.figures.items():
        for kind in ("png", "pdf"):
            with atomic(folder / "figures" / f"{name}.{kind}") as path:
                exhibit.figure.savefig(path, format=kind)
            exhibit.figure.set_layout_engine("none")  # it has been laid out
    captions = {name: exhibit.caption for name, exhibit in outcome.figures.items()}
    manifest = read_manifest(folder) | {"status": "finished", "wall_time_s": round(seconds, 2), "captions": captions}
    write_json(folder / "manifest.json", manifest)
    _drop(checkpoints(folder))


def storable(results: xr.Dataset | xr.DataTree) -> xr.Dataset | xr.DataTree:
    """The same under names and with text that netCDF can hold, whatever metadata and names from outside are."""
    if isinstance(results, xr.DataTree):
        return xr.DataTree.from_dict({node.path: _storable(node.to_dataset(inherit=False)) for node in results.subtree})
    return _storable(results)


def _storable(results: xr.Dataset) -> xr.Dataset:
    kept = results.rename({name: str(name).replace("/", "|") for name in results.variables if "/" in str(name)})
    sound = np.vectorize(_stored, otypes="O")
    for arrays, assign in ((kept.coords, xr.Dataset.assign_coords), (kept.data_vars, xr.Dataset.assign)):
        texts = {name: x for name, x in arrays.items() if x.dtype.kind in "UO" and x.size}
        kept = assign(kept, {name: x.copy(data=sound(x.values)) for name, x in texts.items()})
    kept.attrs = {_stored(name) + "_" * (name in RESERVED): _stored(value) for name, value in kept.attrs.items()}
    return kept


def _stored(value: Any) -> Any:
    """A text without zero bytes and halves of letters; anything else as it is."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _drop(folder: Path) -> None:
    """Remove a folder: under another name first, so that a kill leaves nothing that looks whole."""
    discarded = folder.with_name(f".{folder.name}.discarded")
    shutil.rmtree(discarded, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(discarded)
    shutil.rmtree(discarded, ignore_errors=True)


def checkpoints(folder: Path) -> Path:
    """Where the run in `folder` keeps what it needs to continue; gone once it has finished."""
    return folder / "checkpoints"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder; empty where there is none that can be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _refuse_foreign(folder: Path, name: str, settings: dict[str, Any]) -> None:
    if not any(folder.iterdir()):
        return
    manifest = read_manifest(folder)
    if manifest.get("experiment") != name or not isinstance(manifest.get("config"), dict):
        raise InputError(f"{folder} must be empty or hold a run of {name}, got other files; {REMEDY}")
    theirs = manifest["config"]
    if theirs != settings and not _only_manifest(folder):
        names = [name for name in {**theirs, **settings} if theirs.get(name) != settings.get(name)]
        changes = ", ".join(f"{name} {theirs.get(name)!r} there, {settings.get(name)!r} here" for name in names)
        raise InputError(f"{folder} holds a run with another configuration ({changes}); {REMEDY}")


def _only_manifest(folder: Path) -> bool:
    """Whether a run has left nothing else: neither results nor checkpoints."""
    return [path.name for path in folder.iterdir()] == ["manifest.json"]


def environment() -> dict[str, Any]:
    """Device, versions and git commit of this process."""
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform}), {platform.machine()}",
        "versions": {"python": platform.python_version(), **_versions()},
        "git_commit": _git_commit(),
    }


def _versions() -> dict[str, str]:
    """The version of each of PACKAGES that is installed."""
    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _git_commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def as_json(config: Any) -> dict[str, Any]:
    """A dataclass, or a mapping, as the plain values that its manifest will hold."""
    plain = config if isinstance(config, Mapping) else dataclasses.asdict(config)
    return json.loads(json.dumps(plain, default=str))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # two processes may write the same file
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _scalar(value: Any) -> Any:
    """A Python scalar for JSON, which has no word for what is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
