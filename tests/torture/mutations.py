"""Mutations of what readers are given: bundles, folders of models, tokenizers, dictionaries, files of hypotheses.

Each is either refused by one sentence (InputError), or read as what it says: as the same content written afresh is
read, by Python's own json and a few lines that know the layout of safetensors. A file that these cannot read has to be
refused. A worker that takes longer than LONGEST seconds or more than MEMORY bytes above its own counts as a failure.
"""

import json
import resource
import shutil
import signal
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.torture.mutators import mutators
from tests.torture.processes import Child
from tests.torture.sound import TARGETS, Target

LONGEST, MEMORY = 10, 2**30
NAME = "it"  # of the folder, which may be told
KINDS = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1"}
KINDS |= {"BOOL": "?", "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn}


def run(target: Target, number: int, folder: Path) -> dict[str, Any]:
    """So many mutations, in workers that each go on until one of them ends."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "log").mkdir(parents=True)
    target.write(folder / "sound" / NAME)
    log, failures = folder / "log" / "lines", []
    while (first := len(lines(log))) < number:
        ended = Child(partial(work, target, range(first, number), folder, log), folder / "worker").ended(3600)
        if ended.code or len(lines(log)) == first:
            told = f"mutation {len(lines(log))}: the worker ended with {ended.code}: {ended.err[-300:]}"
            with log.open("a") as file:
                file.write(json.dumps({"what": told, "how": "failed"}) + "\n")
    found = lines(log)
    failures = [x["what"] for x in found if x["how"] == "failed"]
    counts = {how: sum(x["how"] == how for x in found) for how in ("refused", "unchanged", "as written")}
    return {"mutations": len(found), **counts, "failures": failures}


def lines(log: Path) -> list[dict[str, Any]]:
    """What came of the mutations so far."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def work(target: Target, numbers: range, folder: Path, log: Path) -> None:
    """Mutations one after the other, a line each; the alarm ends the worker."""
    sound = target.read(folder / "sound" / NAME)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    for number in numbers:
        rng = np.random.default_rng([number, *str(folder.name).encode()])
        shutil.rmtree(folder / "mutated", ignore_errors=True)
        shutil.copytree(folder / "sound", folder / "mutated")
        files = sorted(path for path in (folder / "mutated").rglob("*") if path.is_file())
        file = files[rng.integers(len(files))]
        kinds = mutators(file)
        what = kinds[rng.integers(len(kinds))](file, rng)
        signal.alarm(LONGEST)
        how = judged(target, sound, folder, what)
        signal.alarm(0)
        with log.open("a") as stream:
            stream.write(json.dumps(how) + "\n")


def judged(target: Target, sound: dict[str, Any], folder: Path, what: str) -> dict[str, str]:
    """How a mutation was answered."""
    found = answer(target, folder / "mutated" / NAME)
    if isinstance(found, str):
        return {"what": f"{what}: {found}", "how": "refused" if found.startswith("InputError: ") else "failed"}
    if same(found, sound):
        return {"what": what, "how": "unchanged"}
    shutil.rmtree(folder / "afresh", ignore_errors=True)
    try:
        afresh(folder / "mutated", folder / "afresh")
    except Exception as error:
        return {"what": f"{what}: read, though it cannot be ({error!r:.200})", "how": "failed"}
    again = answer(target, folder / "afresh" / NAME)
    if isinstance(again, str) or not same(found, again):
        return {
            "what": f"{what}: read, though written afresh it is {again if isinstance(again, str) else 'another'}"[:400],
            "how": "failed",
        }
    return {"what": what, "how": "as written"}


def answer(target: Target, folder: Path) -> dict[str, Any] | str:
    """What was read, or the error in one line."""
    try:
        return target.read(folder)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return text if len(text.splitlines()) == 1 else f"several lines, {text!r}"


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two readings are equal in every bit."""
    return one.keys() == other.keys() and all(bits(one[name]) == bits(other[name]) for name in one)


def bits(x: Any) -> Any:
    return (x.dtype.str, x.shape, x.tobytes()) if isinstance(x, np.ndarray) else repr(x)


def afresh(source: Path, target: Path) -> None:
    """The files of a folder, each parsed by what Python itself has and written anew."""
    for path in sorted(source.rglob("*")):
        there = target / path.relative_to(source)
        there.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            continue
        if path.suffix == ".json":
            there.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
        elif path.suffix == ".safetensors":
            arrays, metadata = parsed(path)
            save_file(arrays, there, metadata)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                np.savez(there, **dict(file))
        elif path.suffix == ".npy":
            np.save(there, np.load(path, allow_pickle=False))
        else:
            there.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")


def parsed(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    """Tensors and metadata of a safetensors file, read in the plainest way."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header.pop("__metadata__", None)
    found = {}
    for name, told in header.items():
        first, last = told["data_offsets"]
        dtype = np.dtype(KINDS[told["dtype"]])
        found[name] = np.frombuffer(data[first:last], dtype).reshape(told["shape"])
    return found, metadata


UNITS: dict[str, Callable[[Path], dict[str, Any]]] = {
    name: partial(run, target, number) for name, (target, number) in TARGETS.items()
}
