"""The kill matrix: each command is killed at random moments, during saves and while it writes its results.

A killed run is taken up by the same command and killed again; once it has ended, its results and figures must be those
of a run that nobody killed, bit for bit. SIGTERM and Ctrl-C come in between.
"""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from svtheory.reports.runs import CONTINUES, read_manifest
from tests.torture.commands import COMMANDS
from tests.torture.processes import Child, Ended, command, said

KINDS = ("anywhere",) * 3 + ("saving",) * 6 + ("finishing", "SIGTERM", "SIGINT")
FEWER = ("anywhere", "anywhere", "saving", "saving", "finishing", "SIGTERM", "SIGINT")
LONG = 5  # seconds of processor time from which on a run is stopped fewer times
PLACES = {
    "saving": ("sims.engines.ensemble._save", "sims.models.trained._keep", "sims.calibration.atomic"),
    "finishing": ("svtheory.reports.runs.finish", "svtheory.reports.runs._drop"),
}
SHORTEST = 0.02  # seconds after the start of a save within which a kill comes, at least
OF_TRAINER = 120  # kills of the trainer alone
ATTEMPTS = 4  # at a kill: a run may end before it
TIMED = "seconds", "wall_s", "processor_s"  # in names
SENTENCE = f"stopped by {{}}; {CONTINUES}"


def tried(name: str, folder: Path) -> dict[str, Any]:
    """Kills and stops of one command: how many there were of each kind, and what went wrong, in sentences."""
    whole = unkilled(name, folder)
    if whole.code:
        return {"failures": [f"{name} failed unkilled: {whole.err[-500:]}"]}
    rng, counts, failures = np.random.default_rng([*name.encode()]), dict.fromkeys(KINDS, 0), []
    for kind in rng.permutation(FEWER if whole.seconds > LONG else KINDS):
        ended = stopped(name, folder, kind, whole.seconds, rng)
        counts[kind] += ended is not None
        failures += [f"{name}, {kind}: {wrong}" for wrong in wrongly(kind, ended, folder, name)]
    last = Child(command(COMMANDS[name], folder / "killed"), folder / "last").ended()
    failures += [f"{name} did not go on: {last.err[-500:]}"] if last.code else differences(name, folder, "killed")
    return counts | {"seconds": round(whole.seconds, 1), "failures": failures}


def trainer(folder: Path) -> dict[str, Any]:
    """The trainer alone, killed many times: each time that it comes to an end, its numbers are those of a whole run."""
    shutil.rmtree(folder, ignore_errors=True)
    rng, failures, ends = np.random.default_rng(0), [], 0
    counts = dict.fromkeys(KINDS, 0)
    whole = Child(partial(write_walk, folder / "sound", folder / "whole"), folder / "child").ended()
    while sum(counts.values()) < OF_TRAINER:
        kind = ("anywhere", "saving")[rng.integers(2)]
        work = partial(write_walk, folder / "checkpoint", folder / "end")
        if kind == "saving":
            work = doomed(work, PLACES["saving"][:1], int(rng.integers(1, 4)), rng.uniform())
        child, until = Child(work, folder / "child"), rng.uniform(0.1, 1) * whole.seconds
        while kind == "anywhere" and child.wait(0.001) is None and child.worked() < until:
            pass
        ended = child.killed() if kind == "anywhere" else child.ended()
        counts[kind] += ended.code == -signal.SIGKILL
        if ended.code == 0:
            ends += 1
            other = (folder / "end").read_bytes() != (folder / "whole").read_bytes()
            failures += [f"other numbers after {counts}"] * other
            shutil.rmtree(folder / "checkpoint")
        elif ended.code != -signal.SIGKILL:
            failures.append(f"ended with {ended.code}: {ended.err[-500:]}")
    return counts | {"ends": ends, "failures": failures}


def write_walk(checkpoint: Path, file: Path) -> None:
    file.write_bytes(b"".join(trained_walk(checkpoint)))


def trained_walk(checkpoint: Path) -> list[bytes]:
    """Random walks, as the trainer trains members: where they end, and how far they were on the way."""
    from sims.engines.ensemble import train

    keys = jax.random.split(jax.random.key(0), 3)
    trained, history = train(walk, jnp.zeros((3, 5)), keys, 40, chunk=4, checkpoint=checkpoint)
    return [np.asarray(x).tobytes() for x in (trained, history["length"])]


def walk(x: Any, key: Any) -> tuple[Any, dict[str, Any]]:
    """A step of a random walk."""
    x = x + jax.random.normal(key, x.shape)
    return x, {"length": jnp.sum(x**2)}


def unkilled(name: str, folder: Path) -> Ended:
    """The run that all others must equal, in `folder/whole`."""
    shutil.rmtree(folder, ignore_errors=True)
    return Child(command(COMMANDS[name], folder / "whole"), folder).ended(3600)


def stopped(name: str, folder: Path, kind: str, seconds: float, rng: np.random.Generator) -> Ended | None:
    """How the run in `folder/killed` ended that was stopped; None where it always ended before."""
    work, manifest = command(COMMANDS[name], folder / "killed"), folder / "killed" / name / "manifest.json"
    for attempt in range(ATTEMPTS):
        if attempt:  # it has ended: from the beginning
            shutil.rmtree(folder / "killed", ignore_errors=True)
        if kind in PLACES:
            number = 1 if attempt else int(rng.integers(1, 3))
            child = Child(doomed(work, PLACES[kind], number, rng.uniform()), folder / "child")
        else:
            child = Child(work, folder / "child")
            # what comes before a run begins has nothing to keep
            while kind != "anywhere" and read_manifest(manifest.parent).get("status") != "running":
                if (ended := child.wait(0.01)) is not None:
                    return ended
            # of processor time, whatever else the machine does; the run that was left alone compiled, these need not
            until = child.worked() * (kind != "anywhere") + rng.uniform(0, 0.8) * seconds * 0.6**attempt
            while (ended := child.wait(0.01)) is None and child.worked() < until:
                pass
            if ended is not None:
                continue
            child.send(signal.SIGKILL if kind == "anywhere" else signal.Signals[kind])
        ended = child.ended()
        if ended.code != 0:
            return ended
    return None


def doomed(work: Callable[[], None], places: tuple[str, ...], number: int, share: float) -> Callable[[], None]:
    """The work of a process that kills itself a share of a save's length after its `number`-th save has begun."""

    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def watched(function: Callable[..., Any], calls: list[float]) -> Callable[..., Any]:
        @wraps(function)
        def called(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            if len(calls) == number - 1:
                threading.Timer(share * max([SHORTEST, *calls]), killed).start()
            result = function(*arguments, **options)
            calls.append(time.perf_counter() - began)
            return result

        return called

    def run() -> None:
        calls: list[float] = []
        for module, _, function in (place.rpartition(".") for place in places):
            setattr(import_module(module), function, watched(getattr(import_module(module), function), calls))
        work()

    return run


def wrongly(kind: str, ended: Ended | None, folder: Path, name: str) -> list[str]:
    """What is wrong about how a run was stopped."""
    if ended is None:
        return []
    if kind not in ("SIGTERM", "SIGINT"):
        return [] if ended.code == -signal.SIGKILL else [f"ended with {ended.code}: {ended.err[-500:]}"]
    manifest = read_manifest(folder / "killed" / name)
    # a signal may also come when the run has just been finished, and the process has not
    finished = manifest.get("status") == "finished"
    wrong = {
        "its exit code": ended.code != 128 + signal.Signals[kind],
        "its sentence": said(ended) != [SENTENCE.format(kind).removesuffix(f"; {CONTINUES}" * finished)],
        "its manifest": not finished
        and (manifest.get("status"), manifest.get("reason")) != ("stopped", "KeyboardInterrupt"),
    }
    return [f"{what}: {ended.code}, {ended.err[-500:]}, {manifest.get('status')}" for what in wrong if wrong[what]]


def differences(name: str, folder: Path, other: str) -> list[str]:
    """In what the runs `folder/whole` and `folder/other` differ, results, headline figures and images, bit for bit."""
    here, there = (folder / run / name for run in ("whole", other))
    with xr.open_dataset(here / "results.nc") as a, xr.open_dataset(there / "results.nc") as b:
        kept = {"results": arrays(a)}, {"results": arrays(b)}
    for run, found in zip((here, there), kept, strict=True):
        found["headline figures"] = json.loads((run / "summary.json").read_text())
        found["images"] = {path.name: path.read_bytes() for path in run.glob("figures/*.png")}
    return [
        f"{name} has another {x} among its {kind} than the run that was left alone"
        for kind in kept[0]
        for x in different(kept[0][kind], kept[1][kind])
    ]


def arrays(data: xr.Dataset) -> dict[str, tuple[Any, ...]]:
    """Each array of a dataset as its bits."""
    return {str(x): (data[x].dtype.str, data[x].shape, bits(data[x].values)) for x in data.variables}


def bits(x: np.ndarray) -> bytes:
    """Those of numbers, or what text says."""
    return repr(x.tolist()).encode() if x.dtype.kind in "OUT" else x.tobytes()


def different(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of what is not the same, or not there; what was timed differs."""
    return [x for x in one.keys() | other.keys() if one.get(x) != other.get(x) and not any(y in x for y in TIMED)]
