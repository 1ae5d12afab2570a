import numpy as np
import pytest
import scipy.stats

from sims import robustness
from sims.robustness import SCALES, Config, half_width

SMALL = [
    *("--members", "2", "--n-features", "8", "--dim", "5", "--head-dim", "5", "--n-keys", "4"),
    *("--batch", "64", "--steps", "800", "--rate", "0.01", "--couplings", "1", "3", "--features", "--contexts"),
    *("--head-dims", "2", "--probabilities", "0.3"),
]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return robustness.main([*SMALL, "--out", str(tmp_path_factory.mktemp("runs"))])


def test_alignment_is_robust_and_foreseen(outcome):
    assert outcome.summary["settings"] == 4
    assert outcome.summary["heads"] == 8
    assert outcome.summary["alignment_mean_lowest_setting"] > 0.9
    assert outcome.summary["mean_absolute_error_cosine"] < 0.02


def test_every_setting_has_its_rows(outcome):
    assert [(row["knob"], row["setting"]) for row in outcome.rows[::2]] == [
        ("weight of the attention loss", 1),
        ("weight of the attention loss", 3),
        ("head dimension H", 2),
        ("probability p of a feature", 0.3),
    ]
    assert outcome.results.trained.sizes == {"setting": 4, "seed": 2}


def test_one_knob_at_a_time_is_turned():
    config = Config(couplings=(0.5,), features=(30,), contexts=(), head_dims=(), probabilities=())
    (_, _, first), (_, _, second) = config.settings()
    assert (first.coupling, first.n_features) == (0.5, config.n_features)
    assert (second.coupling, second.n_features) == (config.coupling, 30)
    assert len(SCALES["paper"].settings()) == 22


def test_the_interval_is_students():
    x = np.array([1.0, 2.0, 4.0])
    low, high = scipy.stats.t.interval(0.95, 2, x.mean(), x.std(ddof=1) / 3**0.5)
    assert half_width(x) == pytest.approx((high - low) / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--probabilities", "2"], "--probability must be a finite number above 0 and at most 1, got 2.0"),
        (["--contexts", "1"], "--n-keys must be a whole number of at least 2, got 1"),
        (["--strength", "0"], "--strength must be a finite number above 0, got 0.0"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        robustness.main([*arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
