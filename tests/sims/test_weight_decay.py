import jax
import numpy as np
import pytest

from sims import weight_decay
from sims.lab.sweep import each
from svtheory import predict

SMALL = ["--dim", "4", "--decays", "5", "--seeds", "2", "--steps", "150", "--followed", "100"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    with jax.numpy_rank_promotion("raise"):
        return weight_decay.main([*SMALL, "--out", str(tmp_path_factory.mktemp("runs"))])


def test_heads_are_as_predicted_on_every_frame(outcome):
    summary = outcome.summary
    assert summary["rules"] == summary["rules_that_hold"] == 6
    assert summary["vanishing_point_holds"]
    assert summary["heads"] == (3 + 1 + 2) * 5 * 2
    assert summary["max_error_value_over_largest"] < 1e-4
    assert [row["prediction"] for row in outcome.rows] == ["T8", "T8", "T24", "T8", "T24", "T24"]


def test_the_tight_formula_fails_where_frames_are_not_tight(outcome):
    errors = [row["of the tight formula"] for row in outcome.rows]
    assert [error <= weight_decay.VALUE_TOLERANCE for error in errors] == [True, True, False, True, False, False]
    assert outcome.summary["turn_mean_error_cosine_of_the_dual"] > 20 * weight_decay.TURN


def test_one_pair_turns_from_its_dual_to_its_feature(outcome):
    alone = outcome.results.sel(head=outcome.results.kind == "one pair", mode=0)
    cosines = alone.seen.mean("side").groupby("share").mean().values
    assert (np.diff(cosines) > 0).all()
    assert cosines[0] < 0.6
    assert cosines[-1] > 0.99


def test_digons_lose_pair_after_pair_at_their_target_strengths():
    """By hand: alpha = beta = 2 and sigma* = t/4, so pair k has (t_k - g)/4 and is gone from g = t_k on."""
    with jax.enable_x64(True):
        config = weight_decay.Config(dim=4, decays=5, seeds=2)
        digons = weight_decay._heads(config, 4, {"antipodal": 1.0}, 1.1)
        values = each(predict, digons.given).values
        t, g = np.array(weight_decay.STRENGTHS), digons.labels["share"][:, None] * weight_decay.STRENGTHS[0]
        assert np.allclose(digons.given.weight_decay, g[:, 0])
        assert np.allclose(values, np.maximum(t - g, 0) / 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--condition", "1"], "--condition must be a finite number above 1, got 1.0"),
        (["--dim", "3"], "--dim must be a whole number of at least 4, got 3"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        weight_decay.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
