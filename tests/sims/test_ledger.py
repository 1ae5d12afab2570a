import json
import os
import subprocess
import sys

import xarray as xr

from sims import ledger

SMALL = [
    *("--square-seeds", "1", "--square-steps", "400"),
    *("--softmax-seeds", "1", "--softmax-steps", "25", "--contexts", "2048"),
]


def test_a_small_run(tmp_path):
    folder = run(tmp_path)
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as stored:
        results = stored.load()
    every_row_is_there(results)
    the_squared_objective_is_predicted_even_at_one_seed(folder, results)
    the_report_stands_alone(folder)
    a_wrong_prediction_fails_the_verdict(results)
    rows_start_satisfied_and_go_far(results)


def run(out):
    command = [sys.executable, "sims/ledger.py", *SMALL, "--out", str(out)]
    strict = os.environ | {"JAX_NUMPY_RANK_PROMOTION": "raise"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=strict)
    assert done.returncode == 0, done.stderr
    assert "holds" in done.stdout
    assert str(out / "ledger" / "report.html") in done.stdout
    return out / "ledger"


def every_row_is_there(results):
    assert results.sizes["head"] == sum(len(row.values) for row in ledger.ROWS)
    assert {*ledger.THEOREMS} == {row.theorem for row in ledger.ROWS}
    assert {"T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8", "T14", "T15", "T17"} == {*ledger.THEOREMS}
    assert results.cosine.dims == ("head", "side")


def the_squared_objective_is_predicted_even_at_one_seed(folder, results):
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["heads"] == results.sizes["head"]
    assert summary["rules"] == len(ledger.ROWS) >= summary["rules_that_hold"]
    assert summary["median_cosine_square"] > 0.999
    assert summary["p01_cosine_square"] > 0.99
    assert summary["median_cosine_softmax"] > 0.98
    assert summary["alignment_min"] < 0.3
    assert summary["alignment_max"] > 0.999
    assert summary["alignment_r2"] > 0.95


def the_report_stands_alone(folder):
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page


def a_wrong_prediction_fails_the_verdict(results):
    row = ledger.ROWS[3]
    heads = results.sel(head=results.row == 3)
    assert ledger._verdict(row, heads)["holds"]
    assert not ledger._verdict(row, heads.assign(cosine=heads.cosine * 0.99))["holds"]
    shuffled = heads.assign(predicted_alignment=heads.predicted_alignment[::-1])
    assert not ledger._verdict(row, shuffled)["holds"]


def rows_start_satisfied_and_go_far(results):
    """T2, T3 and T5 begin with a matched feature that is exactly aligned, and leave it."""
    for index, row in enumerate(ledger.ROWS):
        predicted = results.predicted_alignment.values[results.row == index]
        if row.theorem in ("T2", "T3", "T5"):
            assert predicted[0].min() > 1 - 1e-9
            assert predicted.min() < 0.95
