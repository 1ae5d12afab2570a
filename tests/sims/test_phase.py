import jax
import numpy as np
import pytest

from sims import phase
from sims.models import followed
from svtheory.geometry import ARRANGEMENTS

SMALL = ["--dim", "4", "--crowding", "1.5", "3", "--couplings", "4", "--starts", "2", "--steps", "120"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    with jax.numpy_rank_promotion("raise"):
        return phase.main([*SMALL, "--out", str(tmp_path_factory.mktemp("runs"))])


def test_descents_end_in_listed_phases(outcome):
    summary, results = outcome.summary, outcome.results
    assert summary["linear_in_a_listed_phase_share"] > 0.9
    assert any(row["holds"] for row in outcome.rows[:2])
    assert summary["descents"] == 2 * 4 * 2 + 2 * 4 * 2
    assert (results.plane_energy > results.plane_lowest_energy * (1 - 1e-3)).all()
    found = {ARRANGEMENTS[int(k)] for k in results.plane_phase.values}
    assert {"orthogonalised", "superposed"} <= found


def test_every_model_has_its_row(outcome):
    models = [row["model"] for row in outcome.rows]
    assert models == ["linear, N/D = 1.5", "linear, N/D = 3", "adaptive head, N/D = 2"]
    assert outcome.summary["adaptive_head_right_share"] == 1


def test_energies_by_loops():
    W = np.random.default_rng(0).normal(size=(3, 6))
    W /= np.linalg.norm(W, axis=0)
    present = np.array([1.0, 1, 1, 1, 0, 0])
    crowding = [sum((W[:, i] @ W[:, j]) ** 2 for j in range(4)) for i in range(4)]
    energy = jax.jit(followed.energy)
    with jax.enable_x64(True):
        fixed, adaptive = (energy(2 * W, present, 1.5, flag) for flag in (False, True))
        found = jax.jit(followed.order)(W[:, :4])
    assert np.isclose(fixed, sum(crowding) + 1.5 * crowding[0] * crowding[1])
    assert np.isclose(adaptive, sum(crowding) + 1.5 * (1 - 1 / (crowding[0] * crowding[1])))
    assert np.allclose([found["s_0"], found["s_1"]], sorted(crowding[:2]))
    assert np.isclose(found["cosine"], abs(W[:, 0] @ W[:, 1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crowding", "1"], "--crowding must be finite numbers above 1 and at most 1e+06, got (1.0,)"),
        (["--dim", "3"], "--dim must be a whole number of at least 4, got 3"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        phase.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
