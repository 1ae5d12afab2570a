from functools import partial

import jax
import numpy as np
import pytest

from sims import anisotropy
from sims.lab.courses import PROGRESS, by_progress
from svtheory import conditioned_frame, dual_frame, frame_operator, worst_case_frame

SMALL = ["--frames", "2", "--conditions", "3", "--largest", "100", "--followed", "3"]


built = jax.jit(partial(anisotropy._scenario, anisotropy.Config()))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    with jax.numpy_rank_promotion("raise"):
        return anisotropy.main([*SMALL, "--out", str(tmp_path_factory.mktemp("runs"))])


def test_prediction_and_bound_hold(outcome):
    assert outcome.summary["rules"] == outcome.summary["rules_that_hold"] == 5
    assert outcome.summary["heads"] == 3 * 3
    assert outcome.summary["mean_absolute_error_cosine"] < 1e-3
    cosines = [row for row in outcome.rows if not row["rule"]]
    assert [row["condition number"] for row in cosines] == pytest.approx([1, 10, 100])
    assert cosines[-1]["worst case"] == pytest.approx(20 / 101, abs=1e-4)


def test_heads_are_followed_from_features_to_duals(outcome):
    assert outcome.summary["mean_absolute_error_cosine_along_training"] < 0.01
    assert outcome.summary["mean_absolute_error_cosine_along_training_of_factors"] < 0.05
    course = outcome.results
    early, late = (course.cosine_predicted.isel(progress=place).mean("followed") for place in (0, -1))
    assert early > late
    assert float(early) > 0.99


def test_progress_is_read_along_the_way():
    """Omega that turns from the feature to the dual in two steps is read between them."""
    with jax.enable_x64(True):
        scenario = built(10.0, True, jax.random.key(0))
        X, Y = (np.asarray(F) for F in (scenario.query_features, scenario.key_features))
        start, end = np.outer(X[:, 0], Y[:, 0]), np.outer(*(dual_frame(F)[:, 0] for F in (X, Y)))
        size = np.linalg.norm(end)
        way = np.stack([0.5 * size * start / np.linalg.norm(start), end])
        found = jax.jit(by_progress)(scenario, way)
    cosine = np.mean([abs(F[:, 0] @ (d := dual_frame(F)[:, 0])) / np.linalg.norm(d) for F in (X, Y)])
    share = np.clip((PROGRESS - 0.5) / 0.5, 0, 1)
    np.testing.assert_allclose(found, 1 + share * (cosine - 1), atol=1e-6)


def test_prediction_by_hand():
    """The cosine between a dual vector and its feature is what a head's singular vectors show."""
    with jax.enable_x64(True):
        config = anisotropy.Config()
        key = jax.random.key(0)
        scenario = built(30.0, True, key)
        shape = config.dim, config.n_features, 30.0
        X = jax.jit(conditioned_frame, static_argnums=(1, 2))(jax.random.split(key)[0], *shape)
        assert np.allclose(scenario.query_features, X)
        x, dual = X[:, 0], np.linalg.solve(np.asarray(frame_operator(X)), X[:, 0])
        assert np.allclose(dual, dual_frame(X)[:, 0])
        constructed = built(30.0, False, key)
        Y = jax.jit(worst_case_frame, static_argnums=(1, 2))(jax.random.split(key)[1], *shape)
        assert np.allclose(constructed.key_features, Y)
        values = np.linalg.eigvalsh(frame_operator(X))
        assert np.isclose(anisotropy._anisotropy(scenario), np.abs(values - 2).max() / 2)
        assert x @ dual > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-features", "5"], "--n-features must be a whole number of at least 10, got 5"),
        (["--largest", "1"], "--largest must be a finite number above 1, got 1.0"),
        (["--followed", "0.5"], "--followed must be finite numbers of at least 1, got (0.5,)"),
        (["--scale", "huge"], "--scale must be one of quick, paper, full, got 'huge'"),
    ],
)
def test_bad_options_leave_nothing(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        anisotropy.main([*arguments, "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
