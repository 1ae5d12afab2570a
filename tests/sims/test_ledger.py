import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from sims import ledger
from svtheory import alignment, alignment_bound, condition_number, dual_frame, predict

SMALL = ["--square-seeds", "1", "--softmax-seeds", "1", "--softmax-steps", "25", "--contexts", "2048"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    with jax.numpy_rank_promotion("raise"):
        return ledger.main([*SMALL, "--out", str(tmp_path_factory.mktemp("runs"))])


def test_every_row_is_there(outcome):
    assert len(outcome.rows) == len(ledger.ROWS)
    assert outcome.summary["heads"] == sum(len(row.values) for row in ledger.ROWS)
    assert {"T1", "T2", "T3", "T5", "T6"} == {row.theorem for row in ledger.ROWS}


def test_the_squared_objective_is_predicted_even_at_one_seed(outcome):
    assert outcome.summary["median_cosine_square"] > 0.999
    assert outcome.summary["p01_cosine_square"] > 0.99
    assert outcome.summary["alignment_min"] < 0.3
    assert outcome.summary["alignment_max"] > 0.999
    assert outcome.summary["alignment_r2"] > 0.95


def test_a_wrong_prediction_fails_the_verdict(outcome):
    row = ledger.ROWS[3]
    heads = outcome.results.sel(head=outcome.results.row == 3)
    assert ledger._verdict(row, heads)["verdict"] == "holds"
    assert ledger._verdict(row, heads.assign(cosine=heads.cosine * 0.99))["verdict"] == "fails"
    shuffled = heads.assign(predicted_alignment=heads.predicted_alignment[::-1])
    assert ledger._verdict(row, shuffled)["verdict"] == "fails"


def test_rows_start_satisfied_and_end_violated(outcome):
    """T2, T3 and T5 begin with a matched feature that is exactly aligned."""
    results = outcome.results
    for index, row in enumerate(ledger.ROWS):
        heads = results.sel(head=results.row == index)
        if row.theorem in ("T2", "T3", "T5"):
            assert heads.predicted_alignment.values[0].min() > 1 - 1e-9
            assert heads.predicted_alignment.values[-1].min() < 0.9


def test_scenarios_have_what_their_knob_says():
    with jax.enable_x64(True):
        key = jax.random.key(1)
        assert jnp.linalg.matrix_rank(ledger._rank_deficient(4.0, key).query_features) == ledger.D - 4
        crowded = ledger._crowded(0.5, key).query_features
        assert (jnp.abs(crowded).sum(axis=0) > 0).sum() == 5
        assert np.isclose(condition_number(crowded), 10)
        worst = ledger._off_eigenvector(1.0, key)
        bound = alignment_bound(worst.query_features)
        assert np.isclose(condition_number(worst.query_features), ledger.KAPPA)
        assert np.isclose(alignment(dual_frame(worst.query_features)[:, :1], worst.query_features[:, :1])[0, 0], bound)
        assert np.isclose(alignment(predict(worst).right[:, :1], worst.key_features[:, :1])[0, 0], bound)


def test_it_runs_as_a_script(tmp_path):
    little = ["--square-steps", "5", "--softmax-steps", "2", "--contexts", "64", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "sims/ledger.py", *SMALL[:4], *little], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "verdict" in done.stdout
    assert "fails" in done.stdout  # five steps are not training
    summary = json.loads((tmp_path / "ledger" / "summary.json").read_text())
    wanted = {"heads", "median_cosine_square", "p01_cosine_square", "median_cosine_softmax", "alignment_r2"}
    assert wanted | {"alignment_min", "alignment_max"} <= set(summary)
    page = (tmp_path / "ledger" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.split("<body>")[1].replace("http-equiv", "")
    with xr.open_dataset(tmp_path / "ledger" / "results.nc", engine="h5netcdf") as stored:
        assert stored.cosine.dims == ("head", "side")
