"""What torture would not see, it could not count: runs and readers that are wrong in one bit."""

import json
import time

import numpy as np
import pytest
import xarray as xr

from sims.lab.command import parse
from svtheory.checks import InputError
from svtheory.reports.runs import CONTINUES, write_json
from tests.torture import kills, mutations
from tests.torture.commands import COMMANDS
from tests.torture.processes import Ended
from tests.torture.sound import Target


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_take_their_small_sizes(name):
    module = __import__(f"sims.{name}", fromlist=["SCALES"])
    config, _, _ = parse(name, module.SCALES, COMMANDS[name][1:], "")
    assert config != next(iter(module.SCALES.values()))


def run(folder, x, cosine=0.5):
    folder.mkdir(parents=True)
    (folder / "results.nc").write_bytes(xr.Dataset({"crowding_s": ("n", x)}).to_netcdf(engine="h5netcdf"))
    (folder / "summary.json").write_text(json.dumps({"cosine": cosine, "training_wall_s_of_2": time.perf_counter()}))


def test_another_bit_of_a_result_is_seen_and_what_was_timed_is_not_compared(tmp_path):
    x = np.array([1.0, 0.0], np.float32)
    for name, y, cosine in (("whole", x, 0.5), ("same", x, 0.5), ("summary", x, 0.6)):
        run(tmp_path / name / "demo", y, cosine)
    run(tmp_path / "other" / "demo", np.array([1.0, -0.0], np.float32))
    assert kills.differences("demo", tmp_path, "same") == []
    assert len(kills.differences("demo", tmp_path, "other")) == 1
    assert len(kills.differences("demo", tmp_path, "summary")) == 1


@pytest.mark.parametrize(
    ("kind", "code", "err", "wrong"),
    [
        ("anywhere", -9, "", 0),
        ("anywhere", 70, "Traceback", 1),
        ("SIGTERM", 143, "stopped by SIGTERM; the same command takes the run up again\n", 1),  # and no manifest
        ("SIGINT", 1, "Traceback (most recent call last)\n", 3),
    ],
)
def test_how_a_run_was_stopped_is_judged(tmp_path, kind, code, err, wrong):
    assert len(kills.wrongly(kind, Ended(code, "", err, 1.0), tmp_path, "demo")) == wrong


@pytest.mark.parametrize(("err", "wrong"), [("stopped by SIGTERM\n", 0), (f"stopped by SIGTERM; {CONTINUES}\n", 1)])
def test_a_finished_run_does_not_go_on(tmp_path, err, wrong):
    folder = tmp_path / "killed" / "demo"
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", {"status": "finished"})
    assert len(kills.wrongly("SIGTERM", Ended(143, "", err, 1.0), tmp_path, "demo")) == wrong


def fails(error):
    raise error


@pytest.mark.parametrize(
    ("read", "how"),
    [
        (lambda x: {"a": x["a"]}, "as written"),
        (lambda x: {"a": 1}, "unchanged"),
        (lambda x: {"a": time.perf_counter()}, "failed"),  # another answer each time
        (lambda x: fails(InputError("a must be 1, got 2")), "refused"),
        (lambda x: fails(InputError("a must be 1,\ngot 2")), "failed"),
        (lambda x: fails(KeyError("a")), "failed"),
    ],
)
def test_how_a_mutation_was_read_is_judged(tmp_path, read, how):
    folder = tmp_path / "mutated" / mutations.NAME
    folder.mkdir(parents=True)
    (folder / "a.json").write_text('{"a": 2}')
    target = Target(lambda folder: None, lambda folder: read(json.loads((folder / "a.json").read_text())))
    assert mutations.judged(target, {"a": 1}, tmp_path, "a changed")["how"] == how


def test_what_cannot_be_parsed_must_not_be_read(tmp_path):
    folder = tmp_path / "mutated" / mutations.NAME
    folder.mkdir(parents=True)
    (folder / "a.json").write_text('{"a": 2')
    lenient = Target(lambda folder: None, lambda folder: {"a": 2})
    assert mutations.judged(lenient, {"a": 1}, tmp_path, "cut")["how"] == "failed"
