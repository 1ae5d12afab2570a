import jax
import numpy as np
import pytest

from sims import sad_training
from sims.__main__ import main


def test_a_series_is_trained_and_read(tmp_path):
    options = ["--steps", "100", "--snapshots", "2", "--sequences", "3", "--draws", "39"]
    with jax.numpy_rank_promotion("raise"):
        outcome = sad_training.main([*options, "--out", str(tmp_path)])
    assert [row["checkpoint"] for row in outcome.rows] == ["0", "14", "100"]
    assert outcome.summary["last_loss_nats"] < outcome.summary["first_loss_nats"]
    assert outcome.results.sizes["head"] == sad_training.HEADS
    assert np.isfinite(outcome.results.null_mean).all()
    assert not (tmp_path / "sad_training" / "checkpoints").exists()
    assert (tmp_path / "sad_training" / "figures" / "sad_training.png").is_file()


@pytest.mark.parametrize(("name", "now"), [("heads", "spectra"), ("sad", "sad"), ("conditions", "conditions")])
def test_what_became_an_instrument_says_so(name, now, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {name} is an instrument: svtheory {now} SOURCE\n"
