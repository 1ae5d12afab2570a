import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from sims import single_pair
from sims.lab.sweep import each
from sims.models.toys import problems
from sims.single_pair import Config, read, template

SIZES = {"members": 2, "n_features": 4, "dim": 4, "head_dim": 4, "batch": 16, "steps": 20}
TINY = ["--strengths", "1", "20", "--probabilities", "0.1"]
TINY += [text for name, size in SIZES.items() for text in (f"--{name.replace('_', '-')}", str(size))]


def test_running_it_leaves_everything(tmp_path, capsys):
    single_pair.main([*TINY, "--out", str(tmp_path)])
    assert "report.html" in capsys.readouterr().out
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
    config = Config(**SIZES)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    weights = {"W": rotation, "b": np.zeros(4), "W_Q": 5 * np.eye(4)[:, :1] * rotation[:, 0]}
    weights["W_K"] = np.eye(4)[:, :1] * rotation[:, 1]
    # as many as the run reads, so that the program is the same
    copies = {name: jnp.asarray(np.tile(x, (4, *[1] * x.ndim)), jnp.float32) for name, x in weights.items()}
    asked = problems(config, template(config, jnp.array(5.0)), jnp.full(4, 0.1))
    found = each(partial(read, config), copies, asked, jax.random.split(jax.random.key(1), 4))
    ones = (
        "cosine_query",
        "cosine_key",
        "predicted_cosine_key",
        "dimensionality_query",
        "dimensionality_key",
        "norm_key",
    )
    assert all(np.allclose(found[name], 1, atol=1e-5) for name in ones)
    assert all(np.allclose(found[name], 5, atol=1e-4) for name in ("sigma_1", "t_D0_D1", "aligned_sigma"))
    assert (abs(found["predicted_sigma"] - 5) < 4 * found["predicted_sigma_error"] + 1e-3).all()
    assert (found["sigma_2_over_sigma_1"] < 1e-6).all()


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
