import json

import jax
import numpy as np
import pytest
import xarray as xr

from svtheory import HeadBundle, save_heads
from svtheory.instruments.command import run as command

LAYERS, HEADS, H, D, SEQUENCES, POSITIONS = 1, 2, 4, 4, 6, 10
RNG = np.random.default_rng(0)
ONE_HOT = np.eye(D, dtype=np.float32)[RNG.integers(0, D, size=(LAYERS, SEQUENCES, POSITIONS))]
DENSE = RNG.normal(size=ONE_HOT.shape).astype(np.float32)
SMALL = ["--draws", "39"]


def run(folder, *arguments):
    with jax.numpy_rank_promotion("raise"):
        return command("emergence", [*map(str, arguments), "--out", str(folder), *SMALL])


def stacked(W):
    return np.broadcast_to(W, (LAYERS, HEADS, *W.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A random head that reads dense tokens, then one that matches one-hot tokens, a singular pair each."""
    folder = tmp_path_factory.mktemp("emergence")
    W_Q, W_K = RNG.normal(size=(2, H, D))
    save_heads(folder / "step1.safetensors", HeadBundle(stacked(W_Q), stacked(W_K), attn_in=DENSE))
    diagonal = np.diag([4.0, 3.0, 2.5, 2.0])
    save_heads(folder / "step2.safetensors", HeadBundle(stacked(diagonal), stacked(np.eye(D)), attn_in=ONE_HOT))
    return (W_Q, W_K), run(folder, *(folder / f"step{i}.safetensors" for i in (1, 2))), folder


def naive_sparseness(W_Q, W_K, tokens):
    """S of each decision of a sequence, in float64."""
    U, sigma, Vt = np.linalg.svd(W_Q.T @ W_K)
    found = []
    for i in range(1, len(tokens)):
        terms = sigma * (tokens[i] @ U) * (tokens[: i + 1] @ Vt.T)
        j = terms.sum(axis=1).argmax()
        c = terms[j] - np.delete(terms, j, axis=0).mean(axis=0)
        found.append(np.abs(c).mean() ** 2 / (c**2).mean())
    return found


def test_sparseness_of_a_dense_head_by_hand(series):
    factors, outcome, _ = series
    expected = [naive_sparseness(*factors, tokens) for tokens in DENSE[0].astype(float)]
    assert outcome.results.sparseness.isel(checkpoint=0, head=1)[0].values == pytest.approx(
        np.array(expected), rel=1e-3
    )


def test_one_pair_a_decision_is_as_sparse_as_can_be(series):
    _, outcome, _ = series
    last = outcome.results.isel(checkpoint=1)
    S = last.sparseness.values
    assert S[np.isfinite(S)] == pytest.approx(1 / H, abs=1e-5)
    assert (last.null_mean.sel(null=["raw", "balanced"]) > 0.28).all()
    assert outcome.summary["last_heads_sparser_than_random_heads"] == HEADS
    assert outcome.summary["first_heads_sparser_than_random_heads"] == 0
    assert outcome.summary["last_sparseness_mean"] < outcome.summary["first_sparseness_mean"]
    assert [row["checkpoint"] for row in outcome.rows] == ["1: step1", "2: step2"]
    assert outcome.rows[1]["sparser than chance"] == "2 of 2"
    assert outcome.rows[1]["smallest p"] == pytest.approx(1 / 40)


def test_what_the_run_leaves(series):
    *_, folder = series
    stored = json.loads((folder / "emergence" / "step1-step2" / "summary.json").read_text())
    assert stored["checkpoints"] == 2
    assert stored["last_loss_nats"] is None
    with xr.open_dataset(folder / "emergence" / "step1-step2" / "results.nc", engine="h5netcdf") as results:
        assert results.sparseness.dims == ("checkpoint", "layer", "head", "sequence", "query")
    assert (folder / "emergence" / "step1-step2" / "figures" / "emergence.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["step1.safetensors"], "MODELS must be a series of at least 2 checkpoints, got only '"),
        (["step1.safetensors", "none.safetensors"], "MODELS must be a bundle's file, its name in"),
        (["step1.safetensors", "wide.safetensors"], "MODELS must be of one shape, got '2: wide' with (1, 1, 9)"),
        (["step1.safetensors", "blind.safetensors"], "bundle must hold attn_in, what its heads read, got '"),
    ],
)
def test_a_wrong_series_is_one_sentence(series, tmp_path, capsys, arguments, message):
    *_, folder = series
    W = RNG.normal(size=(1, 1, H, D)).astype(np.float32)
    save_heads(folder / "wide.safetensors", HeadBundle(W, W, attn_in=DENSE))
    save_heads(folder / "blind.safetensors", HeadBundle(W, W))
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "new", *(folder / name for name in arguments))
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()
