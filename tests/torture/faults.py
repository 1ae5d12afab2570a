"""Faults: checkpoints that are damaged, folders that are taken, disks that are full, clocks and hosts that change.

Each must be answered by one sentence, or the run must go on to the results of one that was left alone, bit for bit;
after the fault is mended, the same command must end with these.
"""

import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from svtheory.checks import InputError
from svtheory.reports.runs import read_manifest
from tests.torture.commands import COMMANDS
from tests.torture.kills import PLACES, differences, doomed, trained_walk, unkilled
from tests.torture.processes import Child, Ended, command, said
from tests.torture.sound import write_bundle

CHEAP = ("phase", "rotary")  # commands of one or two trainings
DAMAGED = (*CHEAP, "share", "calibration")  # the trainer's checkpoints, trained models, draws in an .npz
DAMAGES, BYTES = 3, 100  # of the checkpoint of each command, of one of the trainer
SIZES = np.geomspace(200, 100_000, 8).astype(int)  # bytes, the largest file that may be written


class Tally:
    """How many faults there were, how many of them were refused, and what failed."""

    def __init__(self):
        self.faults = self.refused = 0
        self.failures: list[str] = []

    def judge(self, fault: str, name: str, folder: Path, ended: Ended, codes: tuple[int, ...] = (1, 2)) -> None:
        """One sentence and its exit code, or the results of the run that was left alone."""
        self.faults += 1
        if ended.code in codes:
            self.refused += 1
            sentences = [line for line in said(ended) if not line.startswith("stopped")]
            if len(sentences) != 1 or "Traceback" in sentences[0]:
                self.failures.append(f"{name}, {fault}: not one sentence but {ended.err[-500:]}")
        elif ended.code == 0:
            self.failures += [f"{fault}: {x}" for x in differences(name, folder, "fault")]
        else:
            self.failures.append(f"{name}, {fault}: ended with {ended.code}, {ended.err[-500:]}")

    def mended(self, fault: str, name: str, folder: Path) -> None:
        """Without the fault the same command ends with the same results."""
        ended = again(name, folder)
        if ended.code:
            self.failures.append(f"{name} after {fault}: ended with {ended.code}, {ended.err[-500:]}")
        else:
            self.failures += [f"after {fault}: {x}" for x in differences(name, folder, "fault")]

    def counts(self) -> dict[str, Any]:
        return {"faults": self.faults, "refused": self.refused, "failures": self.failures}


def again(name: str, folder: Path, limits: dict[int, int] | None = None) -> Ended:
    """How the command ends in `folder/fault`."""
    work = command(COMMANDS[name], folder / "fault")
    return Child(partial(uncached, work) if limits else work, folder / "child", limits).ended()


def uncached(work: Callable[[], None]) -> None:
    """Where files are cut short, nothing goes into jax's cache of compiled programs, which others read."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    work()


def half_done(name: str, folder: Path, rng: np.random.Generator) -> None:
    """A run in `folder/half` that was killed some time after its first save."""
    shutil.rmtree(folder / "half", ignore_errors=True)
    work = command(COMMANDS[name], folder / "half")
    Child(doomed(work, PLACES["saving"], 2, rng.uniform()), folder / "child").ended()


def fresh(folder: Path) -> None:
    """The half done run, copied to `folder/fault`."""
    shutil.rmtree(folder / "fault", ignore_errors=True)
    shutil.copytree(folder / "half", folder / "fault")


def checkpoint_files(out: Path) -> list[Path]:
    """The files in which a run keeps what it needs to go on."""
    folders = [path for pattern in ("*/checkpoints", "*/*.checkpoint") for path in out.glob(pattern)]
    kept = [path for folder in folders for path in folder.rglob("*")] + [*out.glob("transformers/*.safetensors")]
    return sorted(path for path in kept if path.is_file() and path.stat().st_size)


def damaged(tally: Tally, name: str, folder: Path, rng: np.random.Generator) -> None:
    """Checkpoints with a flipped bit, cut short or filled with zeros."""
    half_done(name, folder, rng)
    for number in range(DAMAGES):
        fresh(folder)
        files = checkpoint_files(folder / "fault")
        file = files[rng.integers(len(files))]
        how = damage(file, number, rng)
        tally.judge(f"{how} {file.relative_to(folder)}", name, folder, again(name, folder), (2,))


def damage(file: Path, number: int, rng: np.random.Generator) -> str:
    """Change a file, and say how."""
    content = bytearray(file.read_bytes())
    if number % 3 == 0:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    elif number % 3 == 1:
        content = content[: rng.integers(len(content))]
    else:
        first = rng.integers(len(content))
        content[first:] = bytes(len(content) - first)
    file.write_bytes(content)
    return ("flipped bit in", "cut", "zeros at the end of")[number % 3]


def trainer(folder: Path) -> dict[str, Any]:
    """Each file of a checkpoint of the trainer damaged again and again: refused, or the numbers of a whole run."""
    shutil.rmtree(folder, ignore_errors=True)
    report = folder / "report"
    ended = Child(partial(damage_trainer, folder / "sound", folder / "damaged", report), folder / "child").ended(1800)
    found = json.loads(report.read_text()) if report.exists() else {"faults": 0, "refused": 0, "failures": []}
    return found | {
        "failures": found["failures"] + ([f"ended with {ended.code}: {ended.err[-500:]}"] * (ended.code != 0))
    }


def damage_trainer(sound: Path, damaged: Path, report: Path) -> None:
    """In a process of its own."""
    whole, tally, rng = trained_walk(sound), Tally(), np.random.default_rng(0)
    files = [path.relative_to(sound) for path in sorted(sound.rglob("*")) if path.is_file() and path.stat().st_size]
    for number in range(BYTES):
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(sound, damaged)
        file = files[number % len(files)]
        how = damage(damaged / file, number, rng)
        tally.faults += 1
        try:
            tally.failures += [f"{how} {file}: other numbers"] * (trained_walk(damaged) != whole)
        except InputError as error:
            tally.refused += 1
            tally.failures += [f"{how} {file}: {error}"] * ("\n" in str(error) or str(damaged) not in str(error))
        except Exception as error:
            tally.failures.append(f"{how} {file}: {error!r:.300}")
    report.write_text(json.dumps(tally.counts()))


def started(name: str, folder: Path) -> tuple[Tally, np.random.Generator]:
    """What is counted, and the run that was left alone, made once for all faults of a command."""
    if read_manifest(folder / "whole" / name).get("status") != "finished":
        whole = unkilled(name, folder)
        assert whole.code == 0, whole.err
    return Tally(), np.random.default_rng([*name.encode(), 1])


def over(names: tuple[str, ...], fault: Callable[[Tally, str, Path, np.random.Generator], None]) -> Callable:
    """A unit that does the same to several commands."""

    def unit(folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = {"faults": 0, "refused": 0, "failures": []}
        for name in names:
            tally, rng = started(name, folder.parent / name)
            fault(tally, name, folder.parent / name, rng)
            found = {key: found[key] + value for key, value in tally.counts().items()}
        return found

    return unit


def two_runs(tally: Tally, name: str, folder: Path, _: np.random.Generator) -> None:
    """A second run in a folder is refused, and the first ends as if alone."""
    shutil.rmtree(folder / "fault", ignore_errors=True)
    first = Child(command(COMMANDS[name], folder / "fault"), folder / "first")
    while read_manifest(folder / "fault" / name).get("status") != "running":
        time.sleep(0.01)
    for _ in range(2):
        second = again(name, folder)
        tally.judge("second run", name, folder, second, (2,))
        if "must be free, got one in which another process runs" not in second.err:
            tally.failures.append(f"{name}, second run: not refused, {second.code}")
    tally.judge("first of two runs", name, folder, first.ended(), ())


def disk(tally: Tally, name: str, folder: Path, rng: np.random.Generator) -> None:
    """A disk on which no file may be longer than a limit, from the beginning and half way."""
    half_done(name, folder, rng)
    for number, size in enumerate(SIZES):
        fresh(folder) if number % 2 else shutil.rmtree(folder / "fault", ignore_errors=True)
        tally.judge(f"files up to {size} bytes", name, folder, again(name, folder, {resource.RLIMIT_FSIZE: int(size)}))
        whole_files(tally, f"files up to {size} bytes", folder / "fault" / name)
    tally.mended("a full disk", name, folder)


def whole_files(tally: Tally, fault: str, run: Path) -> None:
    """Nothing half-written: no leavings, and what lies there can be read."""
    parts = [path.name for path in run.rglob("*.part")] if run.exists() else []
    broken = [] if not run.exists() or not any(run.iterdir()) or read_manifest(run) else ["manifest.json"]
    tally.failures += [f"{run.name}, {fault}: {path} half-written" for path in parts + broken]


def small_disk(tally: Tally, name: str, folder: Path, rng: np.random.Generator) -> None:
    """A file system of its own that is full; where none may be mounted, nothing is counted."""
    place = folder / "fault"
    for pages in (1, 4, 16, 40):
        place.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={4 * pages}k", "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True).returncode:
            return
        try:
            tally.judge(f"disk of {4 * pages} kB", name, folder, again(name, folder))
            whole_files(tally, f"disk of {4 * pages} kB", place / name)
        finally:
            subprocess.run(["umount", str(place)], check=True)
    tally.mended("a small disk", name, folder)


def read_only(tally: Tally, name: str, folder: Path, rng: np.random.Generator) -> None:
    """Where nothing may be written: the folder of runs, the run folder, its checkpoints; not counted without mount."""
    half_done(name, folder, rng)
    for place in (".", name, f"{name}/checkpoints"):
        fresh(folder)
        held = str((folder / "fault" / place).resolve())
        if subprocess.run(["mount", "--bind", held, held], capture_output=True).returncode:
            return
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", held], check=True)
            tally.judge(f"read-only {place}", name, folder, again(name, folder))
        finally:
            subprocess.run(["umount", held], check=True)
    tally.mended("a read-only folder", name, folder)


def clock(tally: Tally, name: str, folder: Path, rng: np.random.Generator) -> None:
    """A clock that has jumped or runs backwards, times of files that are not, another host and another place."""
    half_done(name, folder, rng)
    now = time.time
    runs = {
        "clock a year ahead": {"time.time": lambda: now() + 3e7},
        "clock a year behind": {"time.time": lambda: now() - 3e7},
        "clock that runs backwards": {"time.time": lambda: 2e9 - now()},
        "another host": {
            "socket.gethostname": lambda: "elsewhere",
            "platform.node": lambda: "elsewhere",
            "platform.machine": lambda: "riscv64",
        },
        "files of 1970": {},
        "files of 2100": {},
    }
    for fault, changes in runs.items():
        fresh(folder)
        if fault.startswith("files of"):
            when = {"1970": 1.0, "2100": 4.1e9}[fault[-4:]]
            for path in (folder / "fault").rglob("*"):
                os.utime(path, (when, when))
        work = partial(with_changes, changes, command(COMMANDS[name], folder / "fault"))
        tally.judge(fault, name, folder, Child(work, folder / "child").ended(), ())


def with_changes(changes: dict[str, Callable], work: Callable[[], None]) -> None:
    """The work where functions of the standard library say something else."""
    modules = {"time": time, "socket": socket, "platform": platform}
    for place, function in changes.items():
        module, _, attribute = place.partition(".")
        setattr(modules[module], attribute, function)
    work()


def outside(folder: Path) -> dict[str, Any]:
    """Processes started from the shell: closed and full outputs, a strict ASCII locale, platforms that are not."""
    tally = Tally()
    shutil.rmtree(folder, ignore_errors=True)
    write_bundle(folder / "given")
    for (fault, shell, env, codes), (what, words) in outside_cases(folder / "given" / "heads.safetensors"):
        out = folder / f"{tally.faults}"
        line = f'{" ".join(words)} --out "{out}" {shell}'
        given = {**os.environ, **env, "PYTHON": sys.executable}
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=given, errors="replace")
        tally.faults += 1
        tally.refused += done.returncode != 0
        ended = Ended(done.returncode, done.stdout, done.stderr, 0)
        status = [read_manifest(path.parent).get("status") for path in out.rglob("manifest.json")]
        wrong = done.returncode not in codes or "Traceback" in done.stderr or "Exception ignored" in done.stderr
        if wrong or (done.returncode != 2 and status != ["finished"]) or len(said(ended)) > 1:
            tally.failures.append(f"{what}, {fault}: {done.returncode}, {status}, {done.stderr[-500:]}")
    return tally.counts()


def outside_cases(bundle: Path) -> Iterator[tuple[Any, Any]]:
    """What is done to a command, and the command; the exit codes that it may end with."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    commands = {
        "experiment": ['"$PYTHON"', "-m", "sims", *COMMANDS["single_pair"]],
        "instrument": ['"$PYTHON"', "-m", "svtheory", "spectra", f'"{bundle}"'],
    }
    done = [
        ("closed stdout", ">&-", {}, (0,)),
        ("closed stderr", "2>&-", {}, (0,)),
        ("both closed", ">&- 2>&-", {}, (0,)),
        ("full stdout", ">/dev/full", {}, (0, 1)),
        ("reader that has gone", "| true; exit ${PIPESTATUS[0]}", {}, (0, 1, 141)),
        ("ASCII locale", "", ascii_only, (0,)),
        ("ASCII locale, piped", "| cat; exit ${PIPESTATUS[0]}", ascii_only, (0,)),
        ("unknown platform", "", {"JAX_PLATFORMS": "abacus"}, (2,)),
        ("platform that is not here", "", {"JAX_PLATFORMS": "tpu"}, (2,)),
    ]
    yield from ((case, what) for case in done for what in commands.items())


UNITS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "checkpoint of the trainer": trainer,
    "two runs": over(CHEAP, two_runs),
    "full disk": over(CHEAP[:1], disk),
    "small disk": over(CHEAP[:1], small_disk),
    "read-only": over(CHEAP[:1], read_only),
    "clock and host": over(CHEAP[:1], clock),
    "outputs and locale": outside,
    **{f"checkpoint of {name}": over((name,), damaged) for name in DAMAGED},
}
