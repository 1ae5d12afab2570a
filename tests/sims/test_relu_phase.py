import jax
import numpy as np
import pytest

from sims import relu_phase
from svtheory.geometry import STATES, ReluStates

SMALL = ["--probabilities", "0.1", "0.03", "0.01", "--couplings", "6", "--searches", "2", "--steps", "200"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    with jax.numpy_rank_promotion("raise"):
        return relu_phase.main([*SMALL, "--out", str(tmp_path_factory.mktemp("runs"))])


def test_toys_change_where_theory_says(outcome):
    """Even of small toys: both thresholds, and a pair that is alone at N = 2D - 2; the linear law says 4."""
    leaves, arrives, kinds, free = outcome.rows
    assert leaves["holds"]
    assert arrives["holds"]
    assert free["holds"]
    assert leaves["p = 0.1"] > leaves["p = 0.03"] > leaves["p = 0.01"] > leaves["T19"]
    assert kinds["states"].startswith(", ".join(name[:3] for name in STATES) + "; at p = 0.01 sup")
    assert outcome.summary["toys"] == 2 * 3 * 6 * 5


def test_toys_start_from_the_lowest_state_of_each_kind():
    """Two searches of two kinds: lines of the first cross at 1, those of the second are apart."""
    known = [
        ReluStates(np.full((2, 1, 3), k), np.array([1.0 - k, 5.0 + k]), np.array([[1.0, 1.0 + k], [1.0, 2.0]]))
        for k in (0.0, 1.0)
    ]
    near = relu_phase.lowest_of_each(known, np.array([0.5, 2.0]))
    assert near.shape == (2, 2, 1, 3)
    assert near[:, :, 0, 0].tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dims", "3"], "--dims must be whole numbers of at least 4, got (3,)"),
        (["--probabilities", "1"], "--probabilities must be finite numbers above 0 and below 1, got (1.0,)"),
        (["--probabilities", "0.1", "0.03"], "--probabilities must be at least three, got (0.1, 0.03)"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        relu_phase.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
