import dataclasses
import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from svtheory.checks import InputError
from svtheory.reports import runs
from svtheory.reports.runs import Outcome


@dataclass(frozen=True)
class Config:
    seed: int = 0
    rates: tuple[float, ...] = (0.1, 1 / 3)
    bundle: Path = Path("somewhere/bundle")


OUTCOME = Outcome({"count": np.int64(3), "cos": np.float32(0.5)}, xr.Dataset({"x": ("n", [1.0])}), {}, [])


def started(out, config=None):
    return runs.started(out / "demo", "demo", config or Config(), "python -m sims demo")


def start(out, config=None):
    with started(out, config) as folder:
        return folder


def test_start_and_finish(tmp_path):
    with started(tmp_path / "a" / "b") as folder:
        assert folder == tmp_path / "a" / "b" / "demo"
        assert runs.read_manifest(folder)["status"] == "running"
        runs.checkpoints(folder).mkdir()
        runs.finish(folder, OUTCOME, 1.234)
    manifest = runs.read_manifest(folder)
    assert (manifest["status"], manifest["wall_time_s"], manifest["continued"]) == ("finished", 1.23, False)
    assert json.loads((folder / "summary.json").read_text()) == {"count": 3, "cos": 0.5}
    assert not runs.checkpoints(folder).exists()
    assert not [path for path in folder.rglob("*") if "part" in path.name]


def test_the_same_configuration_is_taken_up_again(tmp_path):
    folder = start(tmp_path)
    runs.checkpoints(folder).mkdir()
    assert start(tmp_path) == folder
    assert runs.read_manifest(folder)["continued"]


def test_a_finished_run_ignores_checkpoints_whose_removal_was_killed(tmp_path):
    with started(tmp_path) as folder:
        runs.finish(folder, OUTCOME, 1.0)
    (runs.checkpoints(folder) / "half").mkdir(parents=True)
    with started(tmp_path) as folder:
        assert not runs.checkpoints(folder).exists()
    assert not runs.read_manifest(folder)["continued"]


def test_an_empty_folder_may_be_used(tmp_path):
    (tmp_path / "demo").mkdir()
    assert start(tmp_path) == tmp_path / "demo"


@contextmanager
def refused():
    with pytest.raises(InputError, match="the bundle must exist"):
        yield


def fail(out, meanwhile=lambda folder: None):
    with refused(), started(out) as folder:
        meanwhile(folder)
        raise InputError("the bundle must exist")


def everything(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def test_a_wrong_input_leaves_nothing(tmp_path):
    fail(tmp_path / "a" / "b")
    assert everything(tmp_path) == []
    (tmp_path / "mine" / "demo").mkdir(parents=True)
    fail(tmp_path / "mine")
    assert everything(tmp_path) == ["mine", "mine/demo"]  # they were there before


@pytest.mark.parametrize("place", ["a/other/results.nc", "a/b/other/summary.json", "a/b/demo/thesis.txt", "a/note"])
def test_a_wrong_input_leaves_what_others_put_there(tmp_path, place):
    def others(_):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("precious")

    fail(tmp_path / "a" / "b", others)
    assert (tmp_path / place).read_text() == "precious"
    if "demo" not in place:
        assert not (tmp_path / "a" / "b" / "demo").exists()
        assert (tmp_path / "a" / "b").exists() == ("b" in place)


def test_a_wrong_input_leaves_the_run_that_it_was_to_continue(tmp_path):
    folder = start(tmp_path)
    runs.finish(folder, OUTCOME, 1.0)
    before = everything(tmp_path)
    fail(tmp_path)
    assert everything(tmp_path) == before


def test_one_process_at_a_time(tmp_path):
    """Another process holds the folder, and then is killed."""
    holder = (
        "import sys, pathlib, tests.svtheory.reports.test_runs as t\n"
        "with t.started(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", holder, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "held\n"
        before = (tmp_path / "demo" / "manifest.json").read_text()
        with pytest.raises(InputError, match="demo must be free, got one in which another process runs"):
            start(tmp_path)
        assert (tmp_path / "demo" / "manifest.json").read_text() == before
        other.kill()
    start(tmp_path)


def test_another_configuration_is_refused_before_anything_is_written(tmp_path):
    folder = start(tmp_path)
    runs.checkpoints(folder).mkdir()
    before = (folder / "manifest.json").read_text()
    with pytest.raises(InputError, match=r"another configuration \(rates \[0.1, 0.33.*\] there, \[0.1\] here\)"):
        start(tmp_path, Config(rates=(0.1,)))
    assert (folder / "manifest.json").read_text() == before
    with pytest.raises(InputError, match=r"\(bundle 'somewhere/bundle' there, '' here\); give another --out"):
        start(tmp_path, {**dataclasses.asdict(Config()), "bundle": ""})


def test_a_run_that_left_nothing_but_its_manifest_gives_way_to_another_configuration(tmp_path):
    with pytest.raises(ZeroDivisionError), started(tmp_path) as folder:
        raise ZeroDivisionError
    assert runs.read_manifest(folder)["status"] == "stopped"
    with started(tmp_path, Config(seed=1)):
        runs.finish(folder, OUTCOME, 1.0)
    assert runs.read_manifest(folder)["seed"] == 1
    with pytest.raises(InputError, match=r"another configuration \(seed 1 there, 0 here\)"):
        start(tmp_path)


@pytest.mark.parametrize("manifest", [None, "not json", "[1]", "{}", '{"experiment": "other", "config": {}}'])
def test_a_folder_that_is_no_run_is_refused(tmp_path, manifest):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("precious")
    if manifest is not None:
        (tmp_path / "demo" / "manifest.json").write_text(manifest)
    with pytest.raises(InputError, match="must be empty or hold a run of demo"):
        start(tmp_path)
    assert (tmp_path / "demo" / "thesis.txt").read_text() == "precious"


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "demo").write_text("")
    with pytest.raises(InputError, match="must be a folder, got a file"):
        start(tmp_path)
    with pytest.raises(InputError, match="--out must be a folder"):
        start(tmp_path / "demo")


def test_a_broken_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "summary.json"
    runs.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        runs.write_json(path, {"a": object()})

    def interrupted():
        with runs.atomic(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_tree_is_stored_as_its_datasets_are(tmp_path):
    folder = start(tmp_path)
    one = xr.Dataset({"x": ("n", [1.0])}, attrs={"coordinates": "a"})
    runs.finish(folder, dataclasses.replace(OUTCOME, results=xr.DataTree.from_dict({"/": one, "/part": one})), 1.0)
    with xr.open_datatree(folder / "results.nc", engine="h5netcdf") as kept:
        assert kept["part"].attrs == kept.attrs == {"coordinates_": "a"}


def test_whatever_metadata_says_is_stored(tmp_path):
    """What netCDF cannot hold fails after hours of work, if it is not put otherwise."""
    said = {"": "none", "CLASS": "x", "coordinates": "y", "nul\0": "a\0b", "half": "\ud800", "a/b": "ü" * 70_000}
    names = xr.DataArray(["a$\0b$", "\udc80"], dims="name")
    results = xr.Dataset({"members_a/b": ("name", np.arange(2.0))}, {"name": names}, attrs={**said, "n": 3})
    folder = start(tmp_path)
    runs.finish(folder, dataclasses.replace(OUTCOME, results=results), 1.0)
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as kept:
        assert kept["members_a|b"].values.tolist() == [0, 1]
        assert kept.name.values.tolist() == ["a$\ufffdb$", "?"]
        assert kept.attrs == {
            "_": "none",
            "CLASS_": "x",
            "coordinates_": "y",
            "nul\ufffd": "a\ufffdb",
            "half": "?",
            "a/b": said["a/b"],
            "n": 3,
        }
