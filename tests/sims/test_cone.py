import jax
import numpy as np
import pytest

from sims import cone
from sims.lab.sweep import each
from svtheory import predict

# of one size with test_unwhitening_run, so that both train by the same compiled programs
SMALL = cone.Config(dim=5, n_features=10, means=(0.0, 2.0), frames=2, steps=25, contexts=1024)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    with jax.numpy_rank_promotion("raise"):
        sizes = ["--dim", "5", "--n-features", "10", "--means", "0", "2", "--frames", "2", "--steps", "25"]
        return cone.main([*sizes, "--contexts", "1024", "--out", str(tmp_path_factory.mktemp("runs"))])


def test_the_cone_turns_the_sides_that_see_it(outcome):
    results = outcome.results
    assert outcome.summary["heads"] == 3 * 2 * 2
    assert outcome.summary["rules"] == len(outcome.rows) == 3 * 2 * 2
    raw = results.sel(head=results.cone == 2, reading=cone.READ[0])
    for setting in cone.SETTINGS:
        for side in cone.SIDES:
            heads = raw.sel(head=raw.setting == setting, side=side)
            assert ((heads.predicted < 1 - 1e-6) == ((setting, side) in cone.TURNS)).all()
    still = results.sel(head=results.cone == 0, reading=cone.READ[0])
    assert np.allclose(still.predicted, 1)
    assert np.abs(results.predicted - results.measured).sel(reading=list(cone.READ)).max() < 0.15


def test_removing_the_mean_token_gives_the_feature_back(outcome):
    cleaned = outcome.results.sel(reading=cone.READ[1])
    square = cleaned.sel(head=cleaned.setting == "square")
    assert np.allclose(cleaned.predicted, 1)
    assert (square.measured > 1 - 1e-3).all()


def test_prediction_by_hand():
    """`u || (X C X^T)^-1 X C e_0` with the second moment C = I + mean^2 under softmax, and V = I with a bias."""
    with jax.enable_x64(True):
        for number, setting, mean in ((0, "softmax", 2.0), (1, "softmax, query bias", 0.0)):
            scenarios = cone._heads(SMALL, number, setting).given
            turned = each(predict, scenarios).left[-1, :, 0]
            X = np.asarray(scenarios.query_features)[-1]
            C = np.eye(10) + mean**2
            u = np.linalg.solve(X @ C @ X.T, X @ C[:, 0])
            assert abs(u @ turned) / np.linalg.norm(u) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--means", "0", "-1"], "--means must be finite numbers of at least 0, got (0.0, -1.0)"),
        (["--frames", "1"], "--frames must be a whole number of at least 2, got 1"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        cone.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
