import json
import subprocess
import sys

import pytest
import xarray as xr

from sims import ledger

SMALL = [
    *("--square-seeds", "1", "--square-steps", "150"),
    *("--softmax-seeds", "1", "--softmax-steps", "25", "--contexts", "1024"),
]


SOME = ("T3", "T5", "T8", "T15", "T17", "T18")  # as many heads with laws as without, trained by one program


def some_rows():
    """The first row of some theorems: with and without laws, decayed, unwhitened, timed and of softmax heads."""
    return [next(row for row in ledger.ROWS if row.theorem == theorem) for theorem in SOME]


def test_rows_are_of_these_theorems():
    rows = {"T1", "T2", "T3", "T4", "T5", "T7", "T8", "T14", "T15", "T17", "T18"}
    assert {row.theorem for row in ledger.ROWS} == rows
    assert {*ledger.THEOREMS} == rows | {"T6", "T21"}  # the leading order beside, and the noise of what is sampled


def test_a_small_run(tmp_path, capsys, monkeypatch):
    """Of some rows: each compiles what builds its scenarios; the slow test runs all."""
    monkeypatch.setattr(ledger, "ROWS", some_rows())
    results = ledger.main([*SMALL, "--out", str(tmp_path)]).results
    folder, printed = tmp_path / "ledger", capsys.readouterr().out
    assert "holds" in printed
    assert str(folder / "report.html") in printed
    every_row_is_there(results)
    the_squared_objective_is_predicted_even_at_one_seed(folder, results)
    the_report_stands_alone(folder)
    a_wrong_prediction_fails_the_verdict(results)
    rows_start_satisfied_and_go_far(results)


def every_row_is_there(results):
    assert results.sizes["head"] == sum(len(row.values) for row in ledger.ROWS)
    assert results.cosine.dims == ("head", "side")


def the_squared_objective_is_predicted_even_at_one_seed(folder, results):
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["heads"] == results.sizes["head"]
    assert summary["rules"] == len(ledger.ROWS) >= summary["rules_that_hold"]
    assert summary["median_cosine_square"] > 0.999
    assert summary["p01_cosine_square"] > 0.99
    assert summary["median_cosine_softmax"] > 0.98
    for side in ("query", "key"):
        assert summary[f"mean_z_{side}"] < 1 + 5 * summary[f"mean_z_{side}_standard_error"]
    assert summary["alignment_min"] < 0.3
    assert summary["alignment_max"] > 0.999
    assert summary["alignment_r2"] > 0.95


def the_report_stands_alone(folder):
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page


def a_wrong_prediction_fails_the_verdict(results):
    index = SOME.index("T3")
    row, heads = ledger.ROWS[index], results.sel(head=results.row == index)
    assert ledger._verdict(row, heads)["holds"]
    assert ledger._verdict(row, heads)["theory expects"] == ""
    wrong = ledger._verdict(row, heads.assign(cosine=heads.cosine * 0.99))
    assert not wrong["holds"]
    assert wrong["theory expects"].startswith("median |cos| at least 0.999, 1st percentile")
    assert not ledger._verdict(row, heads.assign(cosine=heads.cosine * float("nan")))["holds"]
    row = next(row for row in ledger.ROWS if row.objective == "softmax")
    sampled = results.sel(head=results.objective == "softmax")
    assert ledger._verdict(row, sampled)["holds"]
    assert not ledger._verdict(row, sampled.assign(cosine=sampled.cosine - 0.05))["holds"]
    row, heads = ledger.ROWS[index], results.sel(head=results.row == index)
    shuffled = heads.assign(predicted_alignment=heads.predicted_alignment[::-1])
    assert not ledger._verdict(row, shuffled)["holds"]


def rows_start_satisfied_and_go_far(results):
    """T3 and T5 begin with a matched feature that is exactly aligned, and leave it."""
    for index, row in enumerate(ledger.ROWS):
        predicted = results.predicted_alignment.values[results.row == index]
        if row.theorem in ("T3", "T5"):
            assert predicted[0].min() > 1 - 1e-9
            assert predicted.min() < 0.95


@pytest.mark.slow
def test_every_row_holds_and_the_leading_order_does_not(tmp_path):
    """At quick scale; strong targets and dense activations turn the query vector of a head without a bias."""
    command = [sys.executable, "sims/ledger.py", "--out", str(tmp_path)]
    subprocess.run(command, check=True, timeout=1200)
    with xr.open_dataset(tmp_path / "ledger" / "results.nc", engine="h5netcdf") as stored:
        results = stored.load()
    verdicts = {}
    for index, row in enumerate(ledger.ROWS):
        heads = results.sel(head=results.row == index)
        assert ledger._verdict(row, heads)["holds"], row.knob
        verdicts[row.knob] = ledger._verdict(row, heads.assign(cosine=heads.leading_cosine))["holds"]
    assert not verdicts["target t at p = 0.9"]
    strong = results.sel(head=(results.knob == "target t at p = 0.9") & (results.value >= 20), side="query")
    leading, finite = (1 - strong[name].values for name in ("leading_cosine", "cosine"))
    assert leading.mean() > 2 * finite.mean()
