import json
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from sims import single_pair
from sims.models.toy import Problem
from sims.single_pair import Config, read, template
from svtheory import BernoulliUniform

TINY = ["--strengths", "1", "20", "--probabilities", "0.1", "--members", "2", "--batch", "16", "--steps", "20"]


def test_running_it_leaves_everything(tmp_path):
    way = [sys.executable, "sims/single_pair.py", *TINY, "--out", str(tmp_path)]
    done = subprocess.run(way, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    folder = tmp_path / "single_pair"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("figures", "manifest.json", "report.html", "results.nc", "summary.json")
    ]
    assert sorted(path.name for path in (folder / "figures").iterdir()) == [
        f"{name}.{kind}" for name in ("alignment", "size") for kind in ("pdf", "png")
    ]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["heads"] == 4
    assert {f"cosine_{side}_lowest_t{t}_p0.1" for side in ("query", "key") for t in (1, 20)} <= set(summary)
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as stored:
        assert stored.sigma_1.sizes == {"member": 4}
        assert stored.attention_loss.sizes == {"step": 20, "member": 4}
        assert np.isfinite(stored.to_array()).all()


def test_reading_a_head_that_is_the_optimum():
    """Two orthogonal features among others: an aligned head of size t must be read as such."""
    config = Config(n_features=4, dim=4, head_dim=4)
    rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (4, 4)))[0]
    W_Q = jnp.zeros((4, 4)).at[0].set(5 * rotation[:, 0])
    W_K = jnp.zeros((4, 4)).at[0].set(rotation[:, 1])
    weights, problem = (
        {"W": rotation, "W_Q": W_Q, "W_K": W_K},
        Problem(BernoulliUniform(0.1, 4), template(config, 5.0), 1.0),
    )
    found = jax.jit(partial(read, config))(weights, problem, jax.random.key(1))
    ones = (
        "cosine_query",
        "cosine_key",
        "predicted_cosine_key",
        "dimensionality_query",
        "dimensionality_key",
        "norm_key",
    )
    assert all(np.isclose(found[name], 1, atol=1e-5) for name in ones)
    assert all(np.isclose(found[name], 5, atol=1e-4) for name in ("sigma_1", "t_D0_D1", "aligned_sigma"))
    assert abs(found["predicted_sigma"] - 5) < 4 * found["predicted_sigma_error"] + 1e-3
    assert found["sigma_2_over_sigma_1"] < 1e-6


def test_the_template_matches_feature_0_with_feature_1():
    T = template(Config(n_features=3), jnp.array(7.0))
    assert T.tolist() == [[0, 7, 0], [0, 0, 0], [0, 0, 0]]


WRONG = {
    "strengths": ("nan", "0"),
    "members": ("1",),
    "dim": ("0",),
    "n-keys": ("1",),
    "probability": ("0", "1.5"),
    "probabilities": ("2",),
    "coupling": ("-1",),
    "rate": ("inf",),
    "batch": ("0",),
    "steps": ("0", "x"),
}


@pytest.mark.parametrize(("option", "value"), [(option, value) for option in WRONG for value in WRONG[option]])
def test_wrong_options(tmp_path, capsys, option, value):
    with pytest.raises(SystemExit) as stopped:
        single_pair.main([f"--{option}", value, "--out", str(tmp_path / "runs")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert f"--{option}" in error
    assert value in error
    assert list(tmp_path.iterdir()) == []
