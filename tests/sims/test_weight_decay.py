import jax
import numpy as np
import pytest

from sims import weight_decay
from sims.lab.sweep import each
from svtheory import InputError, predict

SMALL = ["--dim", "4", "--decays", "5", "--seeds", "2", "--steps", "150"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    with jax.numpy_rank_promotion("raise"):
        return weight_decay.main([*SMALL, "--out", str(tmp_path_factory.mktemp("runs"))])


def test_the_threshold_holds_on_tight_frames_only(outcome):
    summary = outcome.summary
    assert summary["rules"] == summary["rules_that_hold"] == 4
    assert summary["vanishing_point_holds"]
    assert summary["heads"] == (3 + 1) * 5 * 2
    assert summary["max_error_value_over_largest"] < 1e-4
    assert summary["not_tight_max_error_value_over_largest"] > 0.1
    assert [row["prediction"] for row in outcome.rows] == ["T8", "T8", "refused; the tight formula", "T8"]
    errors = [row["largest |error| / sigma*_1"] for row in outcome.rows]
    assert [error <= weight_decay.VALUE_TOLERANCE for error in errors] == [True, True, False, True]


def test_nothing_is_predicted_where_the_theory_refuses(outcome):
    refused = outcome.results.sel(head=outcome.results.kind == "not tight")
    assert np.isnan(refused.predicted.sel(head=refused.share > 0)).all()
    assert np.isfinite(refused.measured).all()


def test_digons_lose_pair_after_pair_at_their_target_strengths():
    """By hand: alpha = beta = 2 and sigma* = t/4, so pair k has (t_k - g)/4 and is gone from g = t_k on."""
    with jax.enable_x64(True):
        heads = weight_decay._heads(weight_decay.Config(dim=4, decays=5, seeds=2), 4, weight_decay.KINDS)
        digons = heads.labels["kind"] == "antipodal"
        shares = heads.labels["share"][digons]  # between them all pairs disappear, one after the other
        values = each(predict, heads.given).values[digons]
        t, g = np.array(weight_decay.STRENGTHS), shares[:, None] * weight_decay.STRENGTHS[0]
        assert np.allclose(heads.given.weight_decay[digons], g[:, 0])
        assert np.allclose(values, np.maximum(t - g, 0) / 4)
        crooked = jax.tree.map(lambda leaf: leaf[-3], heads.given)
        with pytest.raises(InputError, match="tight token moments"):
            predict(crooked)


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
