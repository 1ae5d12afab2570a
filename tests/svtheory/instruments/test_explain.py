import dataclasses

import jax
import numpy as np
import pytest

from svtheory import HeadBundle, load_heads, save_heads
from svtheory import explain as explain_head
from svtheory.instruments import explain
from svtheory.instruments.command import run as command
from svtheory.instruments.sources import MODELS

D, N, SAMPLES = 6, 4, 200
FEW = "--draws", "99", "--resamples", "9"


def run(out, *arguments):
    with jax.numpy_rank_promotion("raise"):
        return command("explain", [*map(str, arguments), "--out", str(out)])


def arrays(rng, mixing):
    """Tokens that carry one of N one-hot features."""
    q, k = (np.eye(N)[rng.integers(0, N, SAMPLES)] for _ in range(2))
    inputs = {"query_inputs": q @ mixing.T, "key_inputs": k @ mixing.T}
    return {**inputs, "query_features": q, "key_features": k, "template.same": np.eye(N)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A head that matches equal features exactly, and as a rival the family of asking one or two features further."""
    folder, rng = tmp_path_factory.mktemp("explain"), np.random.default_rng(0)
    mixing = np.linalg.qr(rng.normal(size=(D, N)))[0]
    W = np.stack([np.zeros((N, D)), mixing.T])[:, None].astype(np.float32)
    save_heads(folder / "heads.safetensors", HeadBundle(W, W))
    turns = np.array([2, 1])
    given = arrays(rng, mixing) | {"template.next": np.stack([np.roll(np.eye(N), by, axis=1) for by in turns])}
    given["member.next"] = turns
    given["key_features.next"] = given["key_features"]
    np.savez(folder / "given.npz", **given)
    outcome = run(
        folder,
        folder / "heads.safetensors",
        folder / "given.npz",
        "--centre-query",
        "True",
        "--draws",
        "99",
        "--resamples",
        "9",
    )
    return outcome, given, folder


def test_the_hypothesis_that_made_the_head_explains_it(made):
    outcome, _, folder = made
    assert outcome.summary["best_hypothesis"] == "same"
    assert outcome.summary["functional_cosine"] > 0.99
    same, other = outcome.rows
    assert (same["hypothesis"], other["hypothesis"]) == ("same", "next")
    assert other["explains the head"] == "no"
    assert other["margin"] < 0 < same["margin"]
    assert same["member"] == "-"
    assert same["functional cosine"].startswith("1 (")
    assert float(other["member"].split()[0]) in (1, 2)
    assert outcome.results.members_next.member_next.values.tolist() == [2, 1]
    assert outcome.summary["functional_cosine_lowest"] > 0.99
    for side in ("query", "key"):
        # equal values of a head that matches all features alike: its first modes are any of them
        assert outcome.summary[f"{side}_mode_1_pattern_chance_cosine"] < 0.7
    # two hypotheses at a level of 0.01 need 199 random heads, whatever --draws
    assert outcome.results.sizes["draw"] == 199
    assert same["p"] == pytest.approx(1 / 200)
    assert same["p, all hypotheses"] == pytest.approx(2 / 200)
    assert same["explains the head"] == "yes"
    # of four features there are nine derangements
    assert same["rank"] == "1 of 10"
    assert (folder / "explain" / "heads-given" / "figures" / "explain.png").is_file()
    assert "weights never exercised" in (folder / "explain" / "heads-given" / "report.html").read_text()


@pytest.mark.skipif(not MODELS.is_dir(), reason=f"no trained heads in {MODELS} (set SVTHEORY_REAL_MODELS)")
def test_the_public_induction_head(tmp_path):
    summary = run(tmp_path, "induction_ft000", "--samples", "1000", "--draws", "199").summary
    assert summary["best_hypothesis"] == "previous"
    assert summary["functional_cosine"] >= 0.97  # its bias is zero, its queries uncentred: centred ones give 0.995
    assert summary["p_value"] == pytest.approx(1 / 200)
    assert summary["rank"] == 1
    assert summary["margin_functional_cosine"] >= 0.2
    assert 0 < summary["weights_never_exercised_share"] < 0.05
    assert summary["explained"]


@pytest.mark.slow
@pytest.mark.skipif(not MODELS.is_dir(), reason=f"no trained heads in {MODELS} (set SVTHEORY_REAL_MODELS)")
def test_the_public_sorting_head_looks_for_the_next_larger_number(tmp_path):
    """A family of orders, and its first two modes; a product of sizes is the only rival that comes near."""
    outcome = run(tmp_path, "sort5")
    best, cosine = outcome.summary, outcome.results.functional_cosine
    assert best["best_hypothesis"] == "decaying"
    assert best["functional_cosine"] >= 0.9
    assert best["functional_cosine"] >= 0.2 + best["highest_permuted_functional_cosine"]
    assert best["functional_cosine"] >= 0.2 + cosine.sel(hypothesis="equal")
    assert best["functional_cosine"] > cosine.sel(hypothesis="sizes")
    assert best["p_value_for_all_hypotheses"] <= 0.01
    for side in ("query", "key"):
        for k in (1, 2):
            assert best[f"{side}_mode_{k}_pattern_cosine"] > 0.3 + best[f"{side}_mode_{k}_pattern_chance_cosine"]
    # the key's size alone: nothing is left of it where queries are centred, so both are held against the head as it is
    bundle = load_heads(MODELS / "sort5.safetensors")
    given = explain.PUBLIC["sort5"].arrays(bundle, jax.random.key(0), 200)
    size = np.tile(np.arange(64) / 64, (64, 1))
    decaying, alone = (
        explain_head(
            *(bundle.W_Q[0, 0], bundle.W_K[0, 0]),
            *(given[f"{side}_{what}"] for side in ("query", "key") for what in ("inputs", "features")),
            *(template.astype(np.float32), jax.random.key(0)),
            centre_query=False,
            draws=1,
        )
        for template in (given["template.decaying"], size)
    )
    assert decaying.functional_cosine >= 0.9
    assert decaying.functional_cosine >= 0.2 + alone.functional_cosine


def test_queries_are_centred_where_the_head_itself_has_a_bias(made, tmp_path):
    """A bias of zeros is none; one head's bias is not another's."""
    _, _, folder = made
    bundle = load_heads(folder / "heads.safetensors")
    b_Q = np.zeros(bundle.W_Q.shape[:3], np.float32)
    b_Q[1, 0, 2] = 0.1
    save_heads(tmp_path / "heads.safetensors", dataclasses.replace(bundle, b_Q=b_Q))
    given = [tmp_path / "heads.safetensors", folder / "given.npz", *FEW]
    unbiased, biased = (run(tmp_path / layer, *given, "--layer", layer) for layer in "01")
    assert (unbiased.results.attrs["centre_query"], biased.results.attrs["centre_query"]) == (0, 1)


def test_sequences_end_in_a_token_seen_before():
    tokens = explain.induction.sequences(jax.random.key(0), 300)
    assert tokens.shape == (300, 8)
    assert (tokens[:, :6] == tokens[:, 7:]).any(axis=1).all()
    assert tokens.min() == 0
    assert tokens.max() == 25


def test_bad_input_leaves_nothing(made, tmp_path, capsys):
    _, given, folder = made
    heads = folder / "heads.safetensors"
    for i, (change, message) in enumerate(
        (
            ({"key_inputs": None}, "FILE must hold query_inputs, key_inputs, got one without key_inputs"),
            ({"template.same": None, "template.next": None}, "FILE must hold a hypothesis, template.NAME, got only"),
            ({"query_features": None}, "FILE must hold query_features or query_features.same, got one without"),
            ({"member.next": np.ones(3)}, "member.next must have shape (2,), a number for each member, got (3,)"),
            ({"template.same": np.ones((N, N + 1))}, "template must have shape (4, 4), query by key features"),
        )
    ):
        path = tmp_path / f"{i}.npz"
        np.savez(path, **{name: x for name, x in (given | change).items() if x is not None})
        with pytest.raises(SystemExit) as stop:
            run(tmp_path / "out", heads, path)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    for arguments, message in (
        ([heads], "FILE must be given for any bundle but induction_ft000 and sort5"),
        ([heads, folder / "given.npz", "--layer", "2"], "layer must be a whole number from 0 to 1, got 2"),
        ([heads, folder / "none.npz"], "FILE must be an existing .npz or .safetensors file"),
        (["absent"], "bundle must be a safetensors file, got 'absent', which is no file"),
    ):
        with pytest.raises(SystemExit):
            run(tmp_path / "out", *arguments)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
