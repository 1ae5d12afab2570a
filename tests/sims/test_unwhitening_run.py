import jax
import numpy as np
import pytest

from sims import unwhitening

# of one size with test_cone, so that both train by the same compiled programs
SMALL = ["--dim", "5", "--n-features", "10", "--conditions", "10", "--frames", "4", "--steps", "25"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    with jax.numpy_rank_promotion("raise"):
        return unwhitening.main([*SMALL, "--contexts", "1024", "--out", str(tmp_path_factory.mktemp("runs"))])


def test_features_come_back_unless_activations_are_correlated(outcome):
    summary, results = outcome.summary, outcome.results
    assert summary["heads"] == 3 * 4
    assert summary["rules"] == len(outcome.rows) == 3 * 2
    uncorrelated = [row for row in outcome.rows if row["setting"] != "correlated"]
    assert all(row["after"] == pytest.approx(1, abs=1e-9) for row in uncorrelated)
    assert all(float(row["after, measured"].split()[0]) > 0.95 for row in uncorrelated)
    assert all(row["after"] < 0.95 for row in outcome.rows if row["setting"] == "correlated")
    assert np.abs(results.predicted - results.measured).max() < 0.2


def test_the_mean_token_is_mixed_in_on_the_query_side_without_a_bias_only(outcome):
    query = outcome.results.sel(side="query")
    bare, biased = (query.sel(head=query.setting == name) for name in ("no query bias", "query bias"))
    assert (bare.predicted.sel(reading="after") < 1 - 1e-6).all()
    assert np.allclose(bare.predicted.sel(reading="mean token removed"), 1)
    assert np.allclose(biased.predicted.sel(reading="after"), 1)
    assert (bare.removed > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--conditions", "0.5"], "--conditions must be finite numbers of at least 1, got (0.5,)"),
        (["--n-features", "3"], "--n-features must be a whole number of at least 10, got 3"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        unwhitening.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
