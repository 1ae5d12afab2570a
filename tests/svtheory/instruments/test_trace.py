"""Traces of a model of weights written by hand, so that what wrote each feature is known, and of a public one."""

import dataclasses
import json

import numpy as np
import pytest
import xarray as xr

from svtheory import HeadBundle, read_bundle, save_heads
from svtheory.checkpoints import forward, network
from svtheory.checks import InputError
from svtheory.heads.bundles import MODELS
from svtheory.instruments import trace
from svtheory.instruments.command import run
from svtheory.reports import memory

V, N = 5, 6  # symbols and positions
TOKEN, POSITION, BEFORE = np.arange(V), V + np.arange(N), V + N + np.arange(V)
D, H = 2 * V + N, N
SEQUENCES = np.array([[0, 1, 2, 3, 4, 1], [3, 4, 1, 0, 2, 3], [2, 0, 4, 1, 3, 0]])
STRENGTH = 12.0


def selected(rows, size=STRENGTH):
    """(H, D) that reads the coordinates `rows`."""
    W = np.zeros((H, D))
    W[np.arange(len(rows)), rows] = size
    return W


def induction():
    """Layer 0 looks one position back and copies the token there; layer 1 finds the token that is asked for."""
    back = np.roll(selected(POSITION), 1, axis=0)  # of the key before: position j is looked for by j + 1
    W_Q = np.stack([selected(POSITION), selected(TOKEN)])[:, None]
    W_K = np.stack([back, selected(BEFORE)])[:, None]
    W_V = np.stack([selected(TOKEN, 1), selected(TOKEN, 1)])[:, None]
    W_O = np.stack([selected(BEFORE, 1).T, selected(TOKEN, 1).T])[:, None]
    E, P = np.eye(D)[:, TOKEN], np.eye(D)[:, POSITION]
    read = [E.T[SEQUENCES] + P.T[None]]
    scores = read[0] @ W_Q[0, 0].T @ (read[0] @ W_K[0, 0].T).swapaxes(1, 2) / np.sqrt(H)
    weights = np.exp(np.where(np.tri(N) > 0, scores, -np.inf))
    weights /= weights.sum(axis=2, keepdims=True)
    read.append(read[0] + weights @ read[0] @ W_V[0, 0].T @ W_O[0, 0].T)
    others = {"W_E": E, "W_pos": P, "W_V": W_V, "W_O": W_O, "tokens": SEQUENCES}
    others = {name: x if name == "tokens" else x.astype(np.float32) for name, x in others.items()}
    weights = [x.astype(np.float32) for x in (W_Q, W_K)]
    return HeadBundle(*weights, attn_in=np.stack(read).astype(np.float32), others=others)


RIGHT = [2, 1, 2]  # the position behind the token asked for


@pytest.fixture(scope="module")
def found():
    asked = [[1, 0, s, N - 1, k] for s, k in enumerate(RIGHT)]
    return trace.survey(induction(), None, trace.Settings(modes=H), np.array(asked))


def test_the_head_that_wrote_the_feature_is_first_and_its_own_decision_is_traced(found):
    roots = found.isel(decision=found.depth.values == 1)
    key, query = (roots.sel(side=side).isel(component=0) for side in ("key", "query"))
    assert (key.kind == "head").all()
    assert key.source.values.tolist() == [k - 1 for k in RIGHT]
    assert (query.kind == "embedding").all()
    np.testing.assert_allclose(key.contribution, STRENGTH**2 / np.sqrt(H), rtol=1e-3)
    for decision, k in zip(key.child.values, RIGHT, strict=True):
        child = found.isel(decision=int(decision))
        assert [int(child[name]) for name in ("layer", "head", "query", "key", "depth")] == [0, 0, k, k - 1, 2]
        assert (child.isel(component=0).kind == "position").all()
        assert (child.child == -1).all()


def test_everything_sums_to_the_score(found):
    scale = found.head_scale
    for sums in (
        found.table.sum(("query_part", "key_part")),
        found.contribution.sum("component") + found.remainder,
        found.contribution_of_writer.sum("writer"),
        found.score_of_mode.sel(reading="raw").sum("mode"),
    ):
        assert (abs(sums - found.score) <= 1e-5 * scale).all()
    of_modes = found.contribution_of_mode.sum("component") + found.remainder_of_mode
    assert (abs(of_modes - found.score_of_mode) <= 1e-5 * scale).all()
    np.testing.assert_allclose(found.table.isel(query_part=0).sum("key_part"), found.contribution[:, 0, 0], rtol=1e-6)
    assert float(found.gap.max()) <= 1e-5


def test_as_many_components_and_modes_as_there_are(found):
    settings = trace.Settings(top=10**6, modes=10**6, branches=10**6, depth=10**6)
    every = trace.survey(induction(), settings=settings, decisions=[[1, 0, 0, N - 1, RIGHT[0]]])
    assert every.sizes["component"] == 2 + N  # embedding, position and the head from each source; there are no biases
    assert every.components.isel(decision=0).values.tolist() == [2 + N, 2 + RIGHT[0] + 1]
    assert not every.remainder.any()
    assert every.sizes["mode"] == H
    assert every.writer.values.tolist() == ["embedding", "position", "0.0", "1.0"]
    named = every.sel(decision=0, side="key").contribution
    np.testing.assert_allclose(named[:3], found.sel(decision=0, side="key").contribution[:3])


def test_a_head_of_zeros_has_nothing(tmp_path):
    bundle = induction()
    W_Q = np.stack([bundle.W_Q[0], 0 * bundle.W_Q[1]])
    silent = trace.survey(dataclasses.replace(bundle, W_Q=W_Q), settings=trace.Settings(layer=1))
    assert len(silent.decision) == len(SEQUENCES)  # no decision stands behind these
    assert {row[side] for row in trace.rows(silent) for side in ("query", "key")} == {"nothing"}
    assert trace.answers(silent)[0] == "The strongest component at the query's position: nothing in 3 of 3 decisions."
    assert np.isfinite(list(trace.summary(silent).values())).all()


def test_tables_that_there_is_no_room_for(monkeypatch):
    """A table has a row and a column more than the 2 (6 + 3) + 3 components that there may be in this model."""
    monkeypatch.setattr(memory, "available", lambda: 1000)
    sentence = r"--depth must ask for at most 1e-06 GB of tables of decisions \(1\), got up to 3.87e-06 GB"
    with pytest.raises(InputError, match=sentence):
        trace.survey(induction(), settings=trace.Settings(top=10**6), decisions=[[1, 0, 0, 5, 2]])


def test_the_strongest_decisions_leave_out_the_first_position():
    settings = trace.Settings(layer=1, decisions=2, depth=1)
    found = trace.survey(induction(), settings=settings)
    assert found.sizes["decision"] == 2
    assert (found["query"] == N - 1).all()
    assert (found.weight > 0.99).all()
    (only,) = trace.rows(
        trace.survey(induction(), settings=trace.Settings(layer=0, sequence=1, query=3, key=0, depth=1))
    )
    assert only["decision"] == "1: 3 > 0"


def test_the_command(tmp_path):
    path = tmp_path / "by_hand.safetensors"
    save_heads(path, induction())
    outcome = run("trace", [str(path), "--layer", "1", "--out", str(tmp_path)])
    folder = tmp_path / "trace" / "by_hand"
    assert json.loads((folder / "summary.json").read_text())["decisions"] == 3
    assert (folder / "figures" / "trace.png").stat().st_size > 0
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as stored:
        xr.testing.assert_allclose(stored.contribution, outcome.results.contribution)
    assert outcome.rows[0]["key"].startswith("0.0 @ ")
    shares = trace.shares(outcome.results)
    np.testing.assert_allclose(shares.sum("writer"), 1)
    assert float(shares.sel(writer="0.0", side="key").min()) > 0.9


def test_a_sequence_that_is_not_read(tmp_path, capsys):
    save_heads(tmp_path / "by_hand.safetensors", induction())
    with pytest.raises(SystemExit):
        run("trace", [str(tmp_path / "by_hand.safetensors"), "--sequence", "3", "--out", str(tmp_path)])
    wanted = "--sequence must be a whole number from 0 to 2, of the 3 sequences that are read (--sequences), got 3"
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "decisions", "sentence"),
    [
        ({"layer": 2}, None, "--layer must"),
        ({"query": 2, "key": 3}, None, "--key must be a position that --query sees, got"),
        ({}, [[1, 0, 0, 5, 6]], r"decisions must lie from 0 to below \[2, 1, 3, 6, 6\], got \[1, 0, 0, 5, 6\]"),
        ({}, [[0, 0, 0, 1, 1], [1, 0, 0, 2, 3]], r"keys that their queries see, got \[1, 0, 0, 2, 3\]"),
        ({}, [[0.0, 0, 0, 1, 1]], r"whole numbers \(n, 5\), layer, head, sequence, query, key, got float64"),
        ({"query": 0}, None, r"--query must see a key behind position 0, which --key 0 asks for, got \[0\]"),
    ],
)
def test_decisions_that_are_not_there(settings, decisions, sentence):
    with pytest.raises(InputError, match=sentence):
        trace.survey(induction(), None, trace.Settings(**settings), decisions)


def test_a_bundle_needs_tokens():
    W = np.ones((1, 1, 2, 3), np.float32)
    with pytest.raises(InputError, match="bundle must hold tokens, which the model reads again"):
        trace.survey(HeadBundle(W, W, attn_in=np.ones((1, 1, 4, 3), np.float32)))


@pytest.mark.slow
@pytest.mark.skipif(not (MODELS / "induction_ft000.safetensors").is_file(), reason=f"no bundles in {MODELS}")
def test_the_public_induction_model():
    """The head of layer 0, from the token asked for, is first of all at the right key in 95 % of correct decisions.

    At other keys, which follow another token, it is first and positive in far fewer.
    """
    bundle = read_bundle("induction_ft000")
    tokens = bundle.others["tokens"]
    passed = forward(network(bundle), tokens)
    last = tokens.shape[1] - 1
    asked = (tokens[:, :last] == tokens[:, last:]).argmax(axis=1)
    alone = (tokens[:, :last] == tokens[:, last:]).sum(axis=1) == 1
    answered = passed.logits[:, last].argmax(axis=1) == tokens[np.arange(len(tokens)), asked + 1]
    attended = passed.attention[1, :, 0, last].argmax(axis=1) == asked + 1
    correct = np.flatnonzero(alone & answered & attended)
    assert len(correct) > 100

    def first(keys):
        decisions = np.array([[1, 0, s, last, k] for s, k in zip(correct, keys, strict=True)])
        here = trace.survey(bundle, None, trace.Settings(top=16, depth=1), decisions).sel(side="key")
        assert float(here.gap.max()) <= 1e-4
        one = here.isel(component=0)
        return float(((one.kind == "head") & (one.source == here.key - 1) & (one.contribution > 0)).mean())

    right = asked[correct] + 1
    assert first(right) >= 0.95
    assert first(1 + right % (last - 1)) <= 0.6
