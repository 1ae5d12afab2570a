from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from sims import sampling
from sims.lab.streams import sines, trained
from svtheory import optimal_omega

SIZES = {
    "dim": 3, "contexts": (0.5, 32.0), "frames": 1, "heads": 3, "steps": 15, "limit": 3000, "samples": 256,
    "noisy-contexts": (0.5, 2.0), "noisy-heads": 2, "noise": 2.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Of one law and one shape; the programs of the others are the same."""
    sizes = [
        word
        for name, value in SIZES.items()
        for word in (f"--{name}", *map(str, value if isinstance(value, tuple) else (value,)))
    ]
    with jax.numpy_rank_promotion("raise"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "LAWS", ("sparse",))
        patch.setattr(sampling, "SHAPES", ((6, 12),))
        return sampling.main([*sizes, "--out", str(tmp_path_factory.mktemp("runs"))])


def test_rows_and_rules(outcome):
    """Below 8 D D' no rule is set; with noisy answers everywhere, and on the threshold."""
    judged = [row["holds"] is not None for row in outcome.rows]
    assert judged == [False, True] * 2 + [True] * 3
    assert outcome.summary["rules"] == sum(judged)
    assert outcome.summary["heads"] == 2 * 3 + 2


def test_more_contexts_are_nearer(outcome):
    few, many = (outcome.results.measured.isel(count=i).mean(("head", "side")).item() for i in (0, 1))
    assert many < few / 2


def test_predictions(outcome):
    """None where contexts determine no head; beside white noise the law's, and matrices of it near the law."""
    results = outcome.results
    square = results.sel(head=results.kind == "square, sparse")
    assert np.isnan(square.predicted.isel(count=0)).all()
    assert (square.predicted.isel(count=1) > 0).all()
    assert np.allclose(results.noisy_predicted.isel(noisy_head=0).values[0], 1)
    assert np.abs(results.noisy_predicted - results.noisy_rival).isel(noisy_count=1).max() < 0.1


def test_threshold_is_found_where_heads_follow_the_law():
    """Heads that follow the law of another threshold are found out."""
    at = np.array([0.5, 2.0, 4.0])
    for share in (1.0, 1.4):
        deviations = np.sqrt(share / at) / sampling.hiding_threshold(1.0, (16, 16)).item()
        law = 1 - np.stack(sampling.cosines_in_noise(1.0, deviations, (16, 16)), axis=1)
        seen = np.clip(law[None] + np.random.default_rng(0).normal(size=(30, 3, 2)) / 100, 0, 1)
        heads = sampling.xr.Dataset({"measured": (("head", "count", "side"), seen)}, {"count": at})
        found, error = sampling.threshold(sampling.Part("", (16, 16), heads, True))
        assert abs(found / share - 1) < 4 * error + 1e-3


def test_bad_options(tmp_path, capsys):
    with pytest.raises(SystemExit):
        sampling.main(["--probability", "0", "--out", str(tmp_path)])
    assert "--probability must be a finite number above 0 and at most 1, got 0.0" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("law", sampling.LAWS)
@pytest.mark.parametrize("objective", sampling.OBJECTIVES)
def test_within_a_tenth(objective, law, tmp_path):
    """From 8 D D' contexts on, to a standard error of 3 %."""
    config = replace(sampling.SCALES["paper"], contexts=(8.0, 16.0, 32.0))
    with jax.enable_x64(True):
        batch = sampling._superposed(config, jax.random.key(1), objective, law, tmp_path / "limit")
        part = sampling._part(config, "", (6, 6), batch, tmp_path, np.array(config.contexts))
        for n in config.contexts:
            ratio, error = sampling.over(part.heads.sel(count=n))
            assert error <= 0.03
            assert abs(ratio - 1) <= 0.1


@pytest.mark.slow
def test_least_squares_of_answers_without_noise_or_superposition():
    """The head itself from D D' contexts on, and nothing of it outside what fewer contexts show."""
    with jax.enable_x64(True):
        config = sampling.Config(noise=1e-9, noisy_heads=2, noisy_contexts=(1.0,))
        stream = sampling._noisy(config, jax.random.key(0), (2, 3)).given
        counts = (3, 7)
        silent = replace(stream, noise=0 * stream.noise, counts=counts)
        heads = trained(silent, jax.random.split(jax.random.key(1), 2), 1, Path(), "")
        assert np.allclose(heads[:, 1], optimal_omega(jax.tree.map(lambda x: x[0], stream.scenario)), atol=1e-9)
        assert (np.linalg.norm(heads[:, 0], axis=(1, 2)) < 1).all()
        assert sines((silent.moments, silent.limit), heads)[:, 1].max() < 1e-9
