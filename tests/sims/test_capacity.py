import jax
import numpy as np
import pytest

from sims import capacity
from svtheory import mode_strengths, predict

SMALL = ["--square-seeds", "2", "--square-steps", "150", "--softmax-seeds", "2", "--softmax-steps", "15"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    with jax.numpy_rank_promotion("raise"):
        return capacity.main([*SMALL, "--contexts", "1024", "--out", str(tmp_path_factory.mktemp("runs"))])


def test_shares_are_those_predicted_and_the_baselines_are_not(outcome):
    summary = outcome.summary
    assert summary["heads"] == 2 * 4 * 4 * 2
    assert summary["mean_absolute_error_share_square_theory"] < 1e-4
    assert summary["mean_absolute_error_share_square_chance"] > 0.3
    assert summary["mean_absolute_error_share_softmax_theory"] < 0.15
    assert summary["mean_absolute_error_share_softmax_theory_standard_error"] > 0
    assert len(outcome.rows) == 32
    assert summary["rules"] == sum(row["holds"] is not None for row in outcome.rows)


def test_a_head_keeps_as_many_orthogonal_pairs_as_it_has_room_for(outcome):
    square = outcome.results.sel(head=outcome.results.objective == "square")
    for kind in ("orthonormal", "polytopes", "equal targets"):
        heads = square.sel(head=square.kind == kind)
        assert np.allclose(heads.measured.sum("pair"), np.minimum(heads.pairs, 3), atol=1e-3)
    equal = [row for row in outcome.rows if row["features"] == "equal targets"]
    assert [row["holds"] for row in equal if row["objective"] == "square"] == [True] * 2 + [None] * 2


def test_pairs_of_polytopes_are_ranked_by_the_root_of_their_dimensionalities():
    """Naively: |t| sqrt(D_i D_j), with D of the lone features, digons, triangle and tetrahedron by hand."""
    D = np.array([1, 1, 1 / 2, 1 / 2, 2 / 3, 3 / 4])
    with jax.enable_x64(True):
        heads = capacity._heads(capacity.Config(square_seeds=2), 0, "square")
        (number, _) = np.flatnonzero((heads.labels["kind"] == "polytopes") & (heads.labels["pairs"] == 6))
        scenario = jax.tree.map(lambda leaf: leaf[number], heads.given)
        modes, kept = np.asarray(jax.jit(mode_strengths)(scenario))[:6], predict(scenario)
    _, first = capacity._blocks(1)
    t = np.asarray(scenario.target)[first, first]
    key_features = np.asarray(scenario.key_features)
    crowding = ((key_features[:, first].T @ key_features) ** 2).sum(axis=1)
    strength = t * np.sqrt(D / crowding)
    assert np.allclose(modes, np.sort(strength)[::-1])
    best = np.argsort(strength)[::-1][:3]
    assert np.allclose(np.sort(kept.values), np.sort(t[best] * D[best] / crowding[best]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--copies", "0"], "--copies must be a whole number of at least 1, got 0"),
        (["--softmax-seeds", "1"], "--softmax-seeds must be a whole number of at least 2, got 1"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        capacity.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
