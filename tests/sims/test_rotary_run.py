import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims import rotary

SMALL = ["--dim", "4", "--n-features", "6", "--n-offsets", "10", "--frames", "2", "--frequencies", "1.0", "0.4"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    arguments = [*SMALL, "--turns", "4", "--starts", "2", "--steps", "300"]
    with jax.numpy_rank_promotion("raise"):
        return rotary.main([*arguments, "--out", str(tmp_path_factory.mktemp("runs"))])


def test_vectors_stay_and_values_follow_the_projected_profile(outcome):
    summary = outcome.summary
    assert summary["max_error_sigma_over_optimum"] < 0.02
    assert summary["max_error_sigma_without_projection"] > 0.2
    assert summary["lowest_cosine"] > 0.999
    assert summary["second_over_optimum_singular_value_highest"] < 0.02
    assert summary["heads"] == 4 * 2 + 2 * 4 * 2
    assert len(outcome.rows) == 4 + 2


def test_capacity_falls_from_H_to_half_of_it_and_to_nothing(outcome):
    kept, predicted = outcome.results.kept.max("start"), outcome.results.kept_predicted
    assert np.abs(kept - predicted).max() < 0.02
    assert kept.sel(pairs=4)[0] == pytest.approx(4, abs=0.01)
    assert kept.sel(pairs=2)[-1] < 1


def test_loss_by_loops():
    """Scores of rows turned by hand, plane h being rows h and h + H/2; only the offset of query and key matters."""
    rng = np.random.default_rng(0)
    X, Y, targets = rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), rng.normal(size=(4, 5, 5))
    W = rng.normal(size=(2, 4, 3))
    theta, offsets = np.array([0.7, 0.2]), np.arange(4.0)

    def turned(rows, position):
        a, b, (c, s) = rows[:2], rows[2:], (f(theta * position)[:, None] for f in (np.cos, np.sin))
        return np.concatenate([c * a - s * b, s * a + c * b])

    total = 0
    for d, target in zip(offsets, targets, strict=True):
        logits = turned(W[0] @ X, 5 + d).T @ turned(W[1] @ Y, 5)
        total += ((logits - target) ** 2).sum() / 2 / len(offsets)
    with jax.enable_x64(True):
        weights = {"W_Q": jnp.asarray(W[0]), "W_K": jnp.asarray(W[1])}
        asked = tuple(map(jnp.asarray, (X, Y, targets)))
        found = jax.jit(rotary.rotary_loss)(weights, asked, jnp.asarray(offsets), jnp.asarray(theta))
    assert np.isclose(found, total, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frequencies", "inf"], "--frequencies must be finite numbers, got (inf,)"),
        (["--n-offsets", "1"], "--n-offsets must be a whole number of at least 2, got 1"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        rotary.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
