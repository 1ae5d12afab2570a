from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims import sad_toy
from svtheory import BernoulliUniform, Head, decompose

SMALL = ["--members", "2", "--n-features", "12", "--dim", "8", "--head-dim", "8", "--pairs", "2"]
FAST = ["--steps", "800", "--snapshots", "2", "--decisions", "64", "--draws", "39", "--batch", "64", "--rate", "0.004"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with jax.numpy_rank_promotion("raise"):
        return sad_toy.main([*SMALL, *FAST, "--out", str(folder)]), folder / "sad_toy"


def test_sparseness_emerges_on_the_way_to_the_prediction(made):
    outcome, folder = made
    assert [row["step"] for row in outcome.rows] == [0, 400, 800]
    S, predicted = outcome.results.S.mean("member").values, outcome.results.predicted_S.mean("member").values
    assert S[0] > S[-1] + 0.05
    assert abs(S[-1] - predicted[-1]) < abs(S[0] - predicted[0])
    common = outcome.results.null_S.sel(null="common").mean("member").values
    assert (common > 0.3).all()
    assert S[-1] < common[-1]
    assert (folder / "figures" / "sad_toy.png").is_file()


def test_planted_pairs_meet():
    config = sad_toy.Config(pairs=3, n_features=10, decisions=50, n_keys=4)
    f = np.asarray(jax.jit(partial(sad_toy._planted, config, BernoulliUniform(0.1, 10)))(jax.random.key(0)))
    assert f.shape == (50, 5, 10)
    assert ((f[:, 0, :3] > 0) & (f[:, 1, 3:6] > 0)).any(axis=1).all()


def test_the_decomposed_scores_are_the_heads(made):
    rng = np.random.default_rng(0)
    W_Q, W_K = jnp.asarray(rng.normal(size=(2, 3, 4)))
    tokens = jnp.asarray(rng.normal(size=(5, 1 + 6, 4)))
    scores = jax.jit(lambda head, tokens: decompose(head, *sad_toy._planted_at(tokens)).scores)(Head(W_Q, W_K), tokens)
    expected = np.einsum("bd,hd,he,bje->bj", tokens[:, 0], W_Q, W_K, tokens[:, 1:])
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-features", "3", "--pairs", "2"], "--n-features must be a whole number of at least 4, got 3"),
        (["--steps", "7", "--snapshots", "2"], "--steps must be a multiple of --snapshots, got 7 and 2"),
        (["--rate", "0"], "--rate must be a finite number above 0, got 0.0"),
    ],
)
def test_bad_options_leave_nothing(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        sad_toy.main([*arguments, "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
