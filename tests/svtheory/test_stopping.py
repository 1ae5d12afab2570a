"""Ctrl-C and SIGTERM while modules are imported: one sentence, and no traceback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from svtheory.stopping import at_once, leave

# the signal comes when jax is looked for, the first of what takes long
PROGRAM = """
import os, signal, sys
class Stop:
    def find_spec(self, name, *_):
        if name == "jax":
            os.kill(os.getpid(), signal.{signal})
sys.meta_path.insert(0, Stop())
signal.signal(signal.SIGINT, signal.default_int_handler)
from {package}.__main__ import main
main({arguments})
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("package", "arguments"), [("svtheory", ["spectra", "nothing"]), ("sims", ["cone"])])
def test_stopped_while_modules_are_imported(package, arguments, number):
    found = stopped(signal=number.name, package=package, arguments=arguments)
    assert found.returncode == 128 + number
    assert found.stderr == f"stopped by {number.name}, before anything was computed\n"
    assert found.stdout == ""


def test_what_is_ignored_stays_so_and_all_is_as_before_after():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with at_once():
            caught = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught == (signal.SIG_IGN, leave)
    assert signal.getsignal(signal.SIGTERM) is not leave


def stopped(**told):
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-c", PROGRAM.format(**told)], capture_output=True, text=True, cwd=root)
