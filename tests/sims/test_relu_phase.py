import jax
import numpy as np
import pytest
import xarray as xr

from sims import relu_phase
from svtheory.geometry import STATES

SMALL = ["--probabilities", "0.1", "0.03", "0.01", "--couplings", "8", "--searches", "2", "--steps", "200"]


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
    assert kinds["T19"] == ", ".join(name[:3] for name in STATES)
    assert outcome.summary["toys"] == 2 * 3 * 8 * 5


def test_the_lowest_state_of_lines():
    """Two toys, of reconstruction 0 and 1 and leakage 3 and 0: they cross at 1/3."""
    table = relu_phase._lowest(np.geomspace(0.1, 1, 200), np.array([[0.0], [1.0]]), np.array([3.0, 0.0]), CROWDING)
    assert np.allclose(table.threshold, 1 / 3, rtol=0.02)
    assert np.allclose(table.energy, np.minimum(3 * table.coupling, 1))
    assert np.allclose(table.s.sel(coupling=1), 1)


CROWDING = np.array([[2.0, 2.0], [1.0, 1.0]])


def test_a_parabola_is_carried_to_its_value_at_zero():
    p = [0.3, 0.1, 0.02]
    values = np.array([[2 + 3 * q - 5 * q**2, 1 - q] for q in p])
    table = xr.Dataset({"threshold": (("probability", "change"), values)}, {"probability": p})
    assert np.allclose(relu_phase.carried(table, "threshold", p), [2, 1])


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
