import jax
import numpy as np
import pytest
import xarray as xr
from scipy.stats import binom

from sims import calibration
from sims.lab import worlds

LABEL = {"p-value": "p", "asked": "8 matched", "tokens": "zipf", "heads": "raw"}


def test_rates_are_judged_over_the_whole_table():
    """Uniform p-values hold, ones that are half as large do not, and the intervals are those of a binomial."""
    p = np.linspace(0, 1, 501)[1:]
    results = calibration.labelled([LABEL, {**LABEL, "tokens": "one-hot"}], np.stack([p, p / 2]))
    assert results.rate.values.tolist() == [[0.05, 0.01], [0.1, 0.02]]
    assert [calibration.holds(results.isel(case=i)) for i in range(2)] == [True, False]
    tail = 0.01 / 2 / 4  # 99 % for two cases at two levels, two-sided
    for low, high, count in zip(results.low.values.ravel(), results.high.values.ravel(), (25, 5, 50, 10), strict=True):
        assert binom.sf(count - 1, 500, low) == pytest.approx(tail)
        assert binom.cdf(count, 500, high) == pytest.approx(tail)


def test_planted_heads_must_be_found():
    p_value, heads = next(iter(calibration.FOUND))
    shown = {"p-value": p_value, "heads": "planted, 10 % noise"}
    results = calibration.labelled(
        [{**LABEL, "p-value": p_value, "heads": heads}, {**LABEL, **shown}], np.full((2, 50), 0.01)
    )
    assert calibration.holds(results.isel(case=0))
    assert calibration.holds(results.isel(case=1)) is None
    assert not calibration.holds((results.assign(rate=results.rate * 0.7)).isel(case=0))


def test_undefined_p_values_are_no_rejections():
    results = calibration.labelled([LABEL], np.full((1, 20), np.nan))
    assert results.rate.values.tolist() == [[0, 0]]
    assert results.low.values.tolist() == [[0, 0]]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The groups that compile quickly; the whole table is the slow test's."""
    folder = tmp_path_factory.mktemp("calibration")
    some = calibration.groups

    def few(config):
        made = some(config)
        return {name: made[name] for name in ("rotations", "cosines")}

    with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion("raise"):
        patch.setattr(calibration, "groups", few)
        arguments = ["--repetitions", "60", "--out", str(folder), "--table", str(folder / "table.md")]
        return calibration.main(arguments), folder


def test_the_run(outcome):
    found, folder = outcome
    assert found.summary["rules_that_hold"] == found.summary["rules"] == len(found.rows) == 2 * 6 + 2
    assert found.summary["p_values_undefined"] == 0
    with xr.open_dataset(folder / "calibration" / "results.nc", engine="h5netcdf") as stored:
        assert stored.p.shape == (14, 60)
    table = (folder / "table.md").read_text()
    assert table.count("\n| ") == 2 + len(found.rows)
    assert f"--table {folder / 'table.md'}" in table


@pytest.mark.slow
def test_no_verdict_exceeds_its_level(tmp_path):
    with jax.numpy_rank_promotion("raise"):
        found = calibration.main(["--scale", "paper", "--out", str(tmp_path)])
    assert [row for row in found.rows if not row["holds"]] == []
    assert found.summary["repetitions"] == 500


def test_bad_options_are_one_sentence(tmp_path, capsys):
    for arguments, sentence in {
        ("--repetitions", "5"): "--repetitions must be a whole number of at least 20, got 5",
        ("--table", str(tmp_path / "none" / "table.md")): "--table must be a file in a folder that exists",
    }.items():
        with pytest.raises(SystemExit) as stop:
            calibration.main([*arguments, "--out", str(tmp_path / "out")])
        assert stop.value.code == 2
        assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", worlds.TOKENS)
def test_tokens_have_the_moments_that_are_said(kind):
    dim, n_features, n = 6, 4, 20_000
    world = worlds.world(kind, dim, n_features, jax.random.key(0))
    x, f = (np.asarray(a) for a in worlds.tokens(world, jax.random.key(1), n))
    values = np.linalg.eigvalsh(np.cov(x.T))
    if kind == "isotropic":
        np.testing.assert_allclose(values, 1, atol=0.05)
    elif kind == "anisotropic":
        np.testing.assert_allclose(values[-1] / values[0], worlds.CONDITION, rtol=0.1)
        assert np.linalg.norm(x.mean(axis=0)) == pytest.approx(1, abs=0.05)
    else:
        assert (np.sort(f, axis=1) == np.eye(n_features)[-1]).all()
        share = np.ones(n_features) if kind == "one-hot" else 1 / np.arange(1, n_features + 1)
        np.testing.assert_allclose(f.mean(axis=0), share / share.sum(), atol=5 * 0.5 / np.sqrt(n))
        np.testing.assert_allclose(x, f @ np.asarray(world.features).T, atol=1e-6)


def test_random_heads_keep_the_values_that_are_said():
    world = worlds.world("anisotropic", 6, 4, jax.random.key(0))
    x, y = (worlds.tokens(world, jax.random.key(i), 50)[0] for i in (1, 2))
    values = 1 / np.arange(1, 4)
    for kind in ("raw", "balanced"):
        weights = worlds.random_head(worlds.HEADS.index(kind), x, y, values, jax.random.key(3))
        W_Q, W_K = (np.asarray(W, float) for W in weights)
        omega = W_Q.T @ W_K
        if kind == "balanced":
            read = [np.asarray(a, float) for a in (x, y)]
            roots = [np.linalg.svd(a - a.mean(axis=0), full_matrices=False) for a in read]
            A, B = ((Vt.T * s) @ Vt for _, s, Vt in roots)
            omega = A @ omega @ B / np.sqrt(len(x) * len(y))
        found = np.linalg.svd(omega)[1]
        np.testing.assert_allclose(found[:3] / found[0], values, rtol=2e-4)
