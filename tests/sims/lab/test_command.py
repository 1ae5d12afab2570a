"""An experiment of three numbers stands in for the real ones."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro
import xarray as xr

from sims.__main__ import experiments
from sims.__main__ import main as list_or_run
from sims.lab.command import command
from svtheory.checks import InputError
from svtheory.reports.command import sentence_errors
from svtheory.reports.plotting import panels, predicted_against_measured
from svtheory.reports.runs import Exhibit, Outcome, read_manifest

NAME = "test_command"


@dataclass(frozen=True)
class Config:
    """Options of the stand-in."""

    targets: tyro.conf.Positional[tuple[float, ...]] = (1.0, 2.0)
    """Targets t."""
    seed: int = 0
    """Seed."""
    fails: Literal["no", "input", "number", "bug", "SIGINT", "SIGTERM", "disk"] = "no"
    """How the run fails."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number format."""

    def __post_init__(self):
        if self.seed < 0:
            raise InputError(f"--seed must be at least 0, got {self.seed}")


SCALES = {"quick": Config(), "paper": Config(targets=(1.0, 2.0, 3.0))}


def run(config: Config, folder: Path) -> Outcome:
    if config.fails == "input":
        raise InputError("the bundle must exist, got nothing")
    if config.fails == "number":
        raise FloatingPointError("loss is not finite at step 3 of member 1")
    if config.fails == "bug":
        raise ValueError("a bug")
    if config.fails.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[config.fails])
    if config.fails == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    t = np.asarray(config.targets, jnp.result_type(float))  # what is compiled would be written to a cache
    figure, axes = panels()
    predicted_against_measured(axes[0, 0], t, t + 0.1, yerr=0.1 * np.ones(t.shape))
    rows = [{"law": "uniform", "target": x, "measured": x + 0.1, "holds": x < 2} for x in config.targets]
    results = xr.Dataset({"target": ("member", t)}, attrs={"units": "logits"})
    summary = {"largest_target": t.max(), "dtype": str(t.dtype), "undefined": float("nan")}
    return Outcome(summary, results, {"plain": Exhibit(figure, "Points lie on the line.")}, rows)


main = command(run, SCALES)


def files(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_a_run_leaves_its_folder(tmp_path, capsys):
    outcome = main(["--out", str(tmp_path)])
    folder = tmp_path / NAME
    assert files(folder) == [
        *("figures/plain.pdf", "figures/plain.png", "manifest.json", "report.html", "results.nc", "summary.json")
    ]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["config"] == {"targets": [1.0, 2.0], "seed": 0, "fails": "no", "dtype": "float32"}
    assert {"seed", "dtype", "device", "versions", "git_commit", "wall_time_s", "command"} <= set(manifest)
    assert json.loads((folder / "summary.json").read_text()) == {
        "largest_target": 2.0,
        "dtype": "float32",
        "undefined": None,
        "rules": 2,
        "rules_that_hold": 1,
    }
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as stored:
        assert stored.target.values.tolist() == [1.0, 2.0]
    page = (folder / "report.html").read_text()
    assert "stands in for the real ones" in page
    assert "data:image/png;base64," in page
    assert "http" not in page
    assert f"python -m sims {NAME} --out" in page
    printed = capsys.readouterr().out
    assert "uniform" in printed
    assert "report.html" in printed
    assert outcome.rows[1]["measured"] == 2.1


def test_scale_sets_defaults_and_options_override_them(tmp_path):
    outcome = main(["--scale=paper", "--out", str(tmp_path), "--dtype", "float64"])
    assert outcome.results.target.values.tolist() == [1.0, 2.0, 3.0]
    assert outcome.summary["dtype"] == "float64"
    assert main(["5", "--scale", "paper", "--out", str(tmp_path / "b")]).results.target.values.tolist() == [5.0]


def test_the_same_command_repeats_a_finished_run(tmp_path):
    for _ in range(2):
        main(["--out", str(tmp_path)])
    assert json.loads((tmp_path / NAME / "manifest.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--scale", "huge"], "--scale must be one of quick, paper, got 'huge'"),
        (["--scale"], "--scale must be one of quick, paper, got None"),
        (
            ["--seed", "x"],
            "--seed: invalid literal for int() with base 10: 'x'; allowed: --seed INT Seed. (default: 0)",
        ),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--seed", str(2**32)], "--seed must be a whole number from 0 to 2147483647, got 4294967296"),
        (["--seed", str(2**31)], "--seed must be a whole number from 0 to 2147483647, got 2147483648"),
        (["--sed", "3"], "Unrecognized options: --sed"),
        (
            ["--dtype", "float16"],
            "invalid choice 'float16' for argument '--dtype'. Expected one of ('float32', 'float64')",
        ),
        (["--fails", "input"], "the bundle must exist, got nothing"),
    ],
)
@pytest.mark.parametrize("columns", ["40", "300"])
def test_a_wrong_argument_is_one_sentence_and_leaves_nothing(
    tmp_path, capsys, monkeypatch, arguments, sentence, columns
):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--out", str(tmp_path / "new" / "runs")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_configuration_is_refused(tmp_path, capsys):
    main(["--out", str(tmp_path)])
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path), "--seed", "7"])
    assert stopped.value.code == 2
    assert "another configuration (seed 0 there, 7 here); give another --out or remove it" in capsys.readouterr().err
    assert before == {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}


def test_a_number_that_is_not_finite_is_one_sentence_and_code_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--fails", "number", "--out", str(tmp_path)])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: loss is not finite at step 3 of member 1\n"
    assert files(tmp_path) == [f"{NAME}/manifest.json"]


def test_a_bug_keeps_its_traceback(tmp_path):
    with pytest.raises(ValueError, match="a bug"):
        main(["--fails", "bug", "--out", str(tmp_path)])
    assert read_manifest(tmp_path / NAME)["reason"] == "ValueError"


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_is_one_sentence_and_the_manifest_says_so(tmp_path, capsys, request, name, code):
    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # which what runs in the background ignores
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, ignored))
    with pytest.raises(SystemExit) as stopped:
        main(["--fails", name, "--out", str(tmp_path)])
    assert stopped.value.code == code
    assert capsys.readouterr().err == f"stopped by {name}; the same command takes the run up again\n"
    manifest = read_manifest(tmp_path / NAME)
    assert (manifest["status"], manifest["reason"]) == ("stopped", "KeyboardInterrupt")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_after_the_run_says_nothing_of_taking_it_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sims.lab.command.show", lambda *shown: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path)])
    assert stopped.value.code == 143
    assert capsys.readouterr().err == "stopped by SIGTERM\n"
    assert read_manifest(tmp_path / NAME)["status"] == "finished"


def test_a_disk_that_is_full_is_one_sentence_and_leaves_nothing_half_written(tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(SystemExit) as stopped:
            main(["--fails", "disk", "--out", str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert re.fullmatch("error: .* could not be read or written: File too large\n", said), said
    assert set(files(tmp_path)) <= {f"{NAME}/manifest.json", f"{NAME}/summary.json"}


def test_help_shows_options_of_the_scale(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help", "--scale", "paper"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("--scale", "--out", "--seed", "1.0 2.0 3.0"))


def test_the_list_has_every_experiment_and_its_first_line(capsys):
    list_or_run([])
    shown = capsys.readouterr().out
    here = {path.stem for path in Path("sims").glob("*.py") if not path.stem.startswith("_")}
    assert set(experiments()) == here
    assert all(f"  {name}" in shown and line and line in shown for name, line in experiments().items())


def test_an_unknown_experiment_is_one_sentence():
    done = subprocess.run([sys.executable, "-m", "sims", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the experiment must be one of ")
    assert done.stderr.endswith("got 'nothing'\n")


SLEEPER = """
import sys, time, pathlib
import xarray as xr
from dataclasses import dataclass
from sims.lab.command import command
from svtheory.reports.runs import Outcome
from svtheory.checks import InputError

@dataclass(frozen=True)
class Config:
    wrong: bool = False

def run(config, folder):
    gate = pathlib.Path(sys.argv[1])
    gate.with_suffix(".started").write_text("")
    while not gate.exists():
        time.sleep(0.01)
    if config.wrong:
        raise InputError("the bundle must exist, got nothing")
    return Outcome({"x": 1}, xr.Dataset(), {}, [{"x": 1}])

command(run, {"quick": Config()})(sys.argv[2:])
"""


def test_a_failing_command_leaves_the_results_of_one_started_beside_it(tmp_path):
    """Two processes with one new --out: the first, whose input is wrong, finds so after the second has finished."""
    gates, out = [tmp_path / name for name in ("first", "second")], tmp_path / "new" / "runs"
    processes = []
    for gate, name, arguments in zip(gates, ("failing", "working"), (["--wrong"], []), strict=True):
        (tmp_path / f"{name}.py").write_text(SLEEPER)
        script = [sys.executable, tmp_path / f"{name}.py", gate, "--out", out, *arguments]
        processes.append(subprocess.Popen(script, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        wait_for(gate.with_suffix(".started"), processes[-1])
    assert sorted(path.name for path in out.iterdir()) == ["failing", "working"]
    gates[1].write_text("")
    assert processes[1].communicate(timeout=60)[1] == ""
    gates[0].write_text("")
    assert processes[0].communicate(timeout=60)[1] == "error: the bundle must exist, got nothing\n"
    assert [process.returncode for process in processes] == [2, 0]
    assert [path.name for path in out.iterdir()] == ["working"]
    assert json.loads((out / "working" / "manifest.json").read_text())["status"] == "finished"


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def asks_for_too_much():
    jnp.zeros((10**6, 10**9)).block_until_ready()


def has_no_more():
    raise MemoryError


@pytest.mark.parametrize("lacks", [asks_for_too_much, has_no_more])
def test_memory_that_is_not_there_is_one_sentence(capsys, lacks):
    with pytest.raises(SystemExit) as stopped, sentence_errors():
        lacks()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: this needs more memory than there is \(.*\); ask for smaller sizes\n", said), said


@pytest.mark.parametrize("there", [True, False])
def test_a_platform_that_is_not_here_is_one_sentence_and_no_other_error_is_taken_for_it(capsys, monkeypatch, there):
    def devices():
        if not there:
            raise RuntimeError("unknown backend")

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(RuntimeError if there else SystemExit), sentence_errors():
        raise RuntimeError("Unable to initialize backend 'abacus': no\nmore")
    said = capsys.readouterr().err
    assert said == "" if there else re.fullmatch(r"error: JAX_PLATFORMS must name .* \(Unable [^\n]*\)\n", said)
