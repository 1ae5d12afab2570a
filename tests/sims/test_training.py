import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from sims import training
from sims.lab.modes import crossing, read_modes
from sims.training import settled
from svtheory import Scenario, matching, predict

SMALL = [
    *("--members", "2", "--n-features", "8", "--dim", "4", "--head-dim", "8", "--modes", "3", "1"),
    *("--start", "1e-6", "--n-keys", "4", "--batch", "64", "--steps", "800", "--rate", "0.01"),
]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return training.main([*SMALL, "--out", str(tmp_path_factory.mktemp("runs"))])


def test_half_times_are_those_predicted(outcome):
    assert outcome.summary["half_time_over_predicted_lowest"] > 0.9
    assert outcome.summary["half_time_over_predicted_highest"] < 1.1
    assert outcome.summary["cosine_at_half_size_lowest"] > 0.9
    assert outcome.summary["vectors_first_share_of_seeds"] == 1


def test_sizes_follow_the_predicted_curves(outcome):
    error = abs(outcome.results["size"] - outcome.results.predicted_size) / outcome.results.final_size
    assert error.isel(mode=0).max() < 0.1  # the curve is steep: 10 % of its height are 2 % in time
    assert error.mean() < 0.03
    assert (outcome.results.half_time.isel(mode=0) < outcome.results.half_time.isel(mode=1)).all()


def test_modes_are_read_along_the_predicted_vectors():
    scenario = Scenario(jnp.eye(3), jnp.eye(3), matching(3, 3, [0, 1], [1, 2], [2.0, 1.0]))
    omega = jnp.zeros((3, 3)).at[0, 1].set(0.5).at[1, 2].set(0.7)
    sizes, left, right = jax.jit(lambda omega, scenario: read_modes(omega, predict(scenario)))(omega, scenario)
    np.testing.assert_allclose(sizes[:2], [0.5, 0.7], rtol=1e-6)
    np.testing.assert_allclose([left[:2], right[:2]], np.ones((2, 2)), rtol=1e-6)


def test_a_crossing_is_found_between_records():
    time = xr.DataArray([[0.0, 1.0, 2.0, 3.0]] * 2, dims=("member", "record"))
    excess = xr.DataArray([[-1.0, -0.5, 1.5, 2.0], [-3.0, -2.0, -2.0, -1.0]], dims=("member", "record"))
    found = crossing(time, excess, excess >= 0)
    assert found.values[0] == 1.25
    assert np.isnan(found.values[1])


def test_settled_is_the_step_from_which_on_it_holds():
    reached = xr.DataArray([[0, 1, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]], dims=("member", "step"))
    assert settled(reached.astype(bool), np.array([10, 20, 30, 40, 50])).tolist() == [40, 10, np.inf]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modes", "1", "2"], "--modes must be falling numbers above 0, at most D, H and N of them, got (1.0, 2.0)"),
        (["--start", "0"], "--start must be a finite number above 0, got 0.0"),
        (["--n-features", "5"], "--n-features must be a whole number of at least 10, got 5"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        training.main([*arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
