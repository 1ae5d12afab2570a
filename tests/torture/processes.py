"""Processes forked from one that has imported everything and started nothing, so that each costs no import."""

import importlib
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BUG = 70  # exit code of a process that ended with a traceback


def load() -> None:
    """Import every experiment; nothing is computed, so that jax has no threads that a fork would lose."""
    from sims.__main__ import experiments

    for name in experiments():
        importlib.import_module(f"sims.{name}")
    assert len(os.listdir("/proc/self/task")) == 1, "a module starts threads at import"


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, below 0 for a signal, what it wrote, and its seconds of processor time."""

    code: int
    out: str
    err: str
    seconds: float


class Child:
    """A forked process that runs `work()`, its output in files of `folder`."""

    def __init__(self, work: Callable[[], Any], folder: Path, limits: dict[int, int] | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.files, self.last = (folder / "stdout", folder / "stderr"), None
        sys.stdout.flush(), sys.stderr.flush()
        # through a pipe: what is said is no file whose size is limited
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            os._exit(_run(work, (self.files[0], write), limits or {}))
        os.close(write)
        with self.files[1].open("w") as file:
            self.reader = subprocess.Popen(["cat"], stdin=read, stdout=file)
        os.close(read)

    def send(self, number: int) -> None:
        """A signal."""
        os.kill(self.pid, number)

    def worked(self) -> float:
        """Seconds of processor time so far; the last that can be known, once it has ended."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return np.inf
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait(self, seconds: float = 600) -> Ended | None:
        """How it ended, or None where it still runs after so many seconds."""
        until = time.monotonic() + seconds
        while self.last is None:
            found, status, used = os.wait4(self.pid, os.WNOHANG)
            if found:
                self.reader.wait()
                texts = [file.read_text(errors="replace") for file in self.files]
                self.last = Ended(os.waitstatus_to_exitcode(status), *texts, used.ru_utime + used.ru_stime)
            elif time.monotonic() > until:
                return None
            else:
                time.sleep(0.005)
        return self.last

    def ended(self, seconds: float = 600) -> Ended:
        """How it ended; what runs longer is killed, and has code -9."""
        return self.wait(seconds) or self.killed()

    def killed(self) -> Ended:
        """How it ended, having been killed if it had not."""
        if self.last is None:
            self.send(signal.SIGKILL)
        found = self.wait()
        assert found is not None
        return found


def _run(work: Callable[[], Any], outputs: tuple[Path, int], limits: dict[int, int]) -> int:
    """The exit code of `work`, in the forked process."""
    code = 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
    try:
        os.dup2(os.open(outputs[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(outputs[1], 2)
        for limit, size in limits.items():
            resource.setrlimit(limit, (size, resource.getrlimit(limit)[1]))
        work()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else BUG
    except BaseException:
        traceback.print_exc()
        code = BUG
    try:
        sys.stdout.flush(), sys.stderr.flush()
    except OSError:
        code = code or BUG
    return code


def command(arguments: list[str], out: Path) -> Callable[[], None]:
    """What `python -m sims` does with these arguments."""

    def work() -> None:
        from sims.__main__ import main

        main([*arguments, "--out", str(out)])

    return work


def said(ended: Ended) -> list[str]:
    """The sentences of a process on stderr, without bars and lines of progress."""
    lines = ended.err.replace("\r", "\n").splitlines()
    return [line for line in lines if line.startswith(("error: ", "stopped by ", "Traceback"))]
