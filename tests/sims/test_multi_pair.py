import jax
import numpy as np
import pytest

from sims import multi_pair
from sims.multi_pair import Config, features_alone, grouped, strengths, template

SMALL = [
    *("--members", "2", "--n-features", "8", "--dim", "6", "--head-dim", "6", "--pairs", "2"),
    *("--n-keys", "4", "--batch", "64", "--steps", "1500", "--rate", "0.01"),
]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return multi_pair.main([*SMALL, "--out", str(tmp_path_factory.mktemp("runs"))])


def test_the_theory_knows_every_cosine(outcome):
    assert outcome.summary["pairs_matched_lowest"] == 2
    assert outcome.summary["pairs_missed_though_protected"] == 0
    assert outcome.summary["mean_absolute_error_cosine"] < 0.02
    assert outcome.summary["predicted_cosine_median"] > 0.99
    assert outcome.summary["sigma_error_over_sigma_1_root_mean_square"] < 0.05


def test_every_pair_has_a_line(outcome):
    assert [row["quantity"].split(",")[0] for row in outcome.rows[-2:]] == ["pair 0", "pair 1"]
    assert outcome.results.cosine_query.sizes == {"member": 2, "pair": 2}


def test_the_template_pairs_feature_k_with_feature_k_plus_K():
    config = Config(n_features=6, dim=6, head_dim=6, pairs=3, strongest=6.0)
    T = np.asarray(template(config))
    assert strengths(config).tolist() == [6, 4, 2]
    assert np.argwhere(T).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert T[T > 0].tolist() == [6, 4, 2]


def test_a_head_of_its_features_departs_by_what_is_added():
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    alone = 3 * np.outer(Q[:, 0], Q[:, 1]) + np.outer(Q[:, 1], Q[:, 2])
    spectrum, departure = jax.jit(features_alone)(alone + 0.5 * np.outer(Q[:, 3], Q[:, 3]), Q[:, :2], Q[:, 1:3])
    np.testing.assert_allclose(spectrum.values, [3, 1, 0, 0], atol=3e-6)
    np.testing.assert_allclose(departure, 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("sigma", "missed", "reach", "groups"),
    [
        ([3.0, 2.0, 1.0], [0, 0, 0], 0.5, [-1, -1, -1]),
        ([3.0, 2.9, 1.0], [1, 0, 0], 0.0, [0, 0, -1]),
        ([3.0, 2.9, 2.8, 1.0], [1, 0, 0, 0], 0.25, [0, 0, 0, -1]),
        ([3.0, 2.9, 1.0, 1.1], [1, 1, 1, 0], 0.2, [0, 0, 1, 1]),
    ],
)
def test_groups_are_the_missed_and_what_they_may_mix_with(sigma, missed, reach, groups):
    assert grouped(np.array(sigma), np.array(missed, bool), reach).tolist() == groups


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pairs", "1"], "--pairs must be a whole number of at least 2, got 1"),
        (["--pairs", "30"], "--pairs must be at most N/2, D and H, got 30"),
        (["--strongest", "-1"], "--strongest must be a finite number above 0, got -1.0"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        multi_pair.main([*arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
