import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims import weight_decay
from sims.engines.simulation import Training, simulate_ensemble
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", weight_decay.FOLLOWED)
def test_trained_factors_end_at_the_convex_solution(kind):
    """Condition numbers 1 to 100, decays from 0 to |M|_2: vectors to 0.9999, values to 1e-5, certificate to 1e-8."""
    config = weight_decay.Config(decays=7, seeds=3)
    errors, duals = [], []
    with jax.enable_x64(True):
        for condition in (1.0, 3.0, 10.0, 30.0, 100.0):
            heads = weight_decay._heads(config, config.dim, {kind: condition}, 1.0)
            keys = jax.random.split(heads.key, heads.labels["share"].size)
            trained = simulate_ensemble(heads.given, keys, Training(steps=1500))
            read = {name: np.asarray(x) for name, x in each(weight_decay._read, heads.given, trained).items()}
            present = read["predicted"] > weight_decay.VALUE_TOLERANCE
            found = np.where(present, read["cosine"], 1).min(), np.abs(read["predicted"] - read["measured"]).max()
            off = float(each(uncertified, heads.given).max())
            alone = present[:, 0]
            errors.append(np.abs(read["expected"] - read["seen"])[alone, 0].mean())
            duals.append(np.abs(read["dual"] - read["seen"])[alone, 0].mean())
            print(f"{kind}, {condition:g}: |cos| >= {found[0]}, values to {found[1]:.2g}, certificate to {off:.2g}")
            assert found[0] >= 0.9999
            assert found[1] <= 1e-5
            assert off <= 1e-8
    print(f"{kind}: cosines with features to {np.mean(errors):.2g}, those of duals to {np.mean(duals):.2g}")
    if kind == weight_decay.ALONE:
        assert np.mean(errors) <= weight_decay.TURN < np.mean(duals) / 10


def uncertified(scenario):
    """How far the predicted head is from optimal, over |M|_2 (T24)."""
    X, Y, found, g = scenario.query_features, scenario.key_features, predict(scenario), scenario.weight_decay
    pull = X @ scenario.target @ Y.T
    kept = (found.values > 1e-9 * jnp.linalg.norm(pull, 2))[None, :]
    rest = pull - X @ X.T @ (found.left * found.values[None, :]) @ found.right.T @ Y @ Y.T
    along = [
        jnp.where(kept, gap, 0) for gap in (rest @ found.right - g * found.left, rest.T @ found.left - g * found.right)
    ]
    beyond = jnp.linalg.norm(rest, 2) - g
    return jnp.maximum(beyond, jnp.maximum(*(jnp.abs(gap).max() for gap in along))) / jnp.linalg.norm(pull, 2)
