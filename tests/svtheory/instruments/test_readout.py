"""Readout against loops in float64: modes, contexts, decisions, embeddings, what is written; blocks, padding, text."""

import dataclasses
import json
from itertools import product

import numpy as np
import pytest
import xarray as xr
from tokenizers import Tokenizer, models

from svtheory import HeadBundle, chance_alignment, save_heads
from svtheory.checks import InputError
from svtheory.instruments import nearest, readout
from svtheory.instruments.command import run as command
from svtheory.instruments.spelled import marked, spelled
from svtheory.reports import memory

HEADS, H, D, V, S, T = 2, 3, 10, 7, 6, 8
RNG = np.random.default_rng(5)
TOKENS = RNG.integers(0, V, (S, T))
EMBEDDING = RNG.normal(size=(V, D)).astype(np.float32)
READ = EMBEDDING[TOKENS]
MASK = np.arange(T)[None] < np.where(np.arange(S) % 2, T, T - 3)[:, None]
W_Q, W_K, W_V = RNG.normal(size=(3, 1, HEADS, H, D)).astype(np.float32)
W_O = RNG.normal(size=(1, HEADS, D, H)).astype(np.float32)
W_U = RNG.normal(size=(V, D)).astype(np.float32)
W_Q[0, 1] = W_K[0, 1] = np.linalg.qr(W_Q[0, 1].T)[0].T  # of three equal values
SETTINGS = readout.Settings(modes=2, contexts=4, nearest=3)


def planted(read=READ[None], **changed):
    weights = {"W_Q": W_Q, "W_K": W_K} | {name: changed.pop(name) for name in ("W_Q", "W_K") if name in changed}
    others = {"tokens": TOKENS, "W_E": EMBEDDING.T, "W_V": W_V, "W_O": W_O, "W_U": W_U} | changed
    said = {"source": "planted", "orientation": "out, in"}
    return HeadBundle(**weights, attn_in=read, mask=MASK, others=others, metadata=said)


@pytest.fixture(scope="module")
def found():
    return readout.survey(planted(), settings=SETTINGS)


def root(moment):
    values, axes = np.linalg.eigh(moment)
    return axes @ np.diag(np.sqrt(np.maximum(values, 0))) @ axes.T


def exact(head):
    """Values, and by side patterns and coordinates (S, T, K), of a head's balanced modes; signs as the readout's."""
    Omega, x = W_Q[0, head].T.astype(float) @ W_K[0, head], READ.astype(float)
    rows = x[MASK]
    A, B = rows.T @ rows / len(rows), np.cov(rows.T, bias=True)
    U, values, Vt = np.linalg.svd(root(A) @ Omega @ root(B))
    U, values, Vt = U[:, :H], values[:H], Vt[:H]
    probes = np.linalg.pinv(root(A), 1e-6) @ U, np.linalg.pinv(root(B), 1e-6) @ Vt.T
    along = [x @ probes[0], (x - rows.mean(axis=0)) @ probes[1]]
    inside = along[1][MASK]
    sign = np.sign(np.take_along_axis(inside, np.abs(inside).argmax(axis=0)[None], axis=0)[0])
    return values, (root(A) @ U * sign, root(B) @ Vt.T * sign), [a * sign for a in along]


def seen_scores(head):
    """Scores of the queries that decide, -inf where a key is not seen; which positions decide."""
    x = READ.astype(float)
    scores = (x @ W_Q[0, head].T) @ (x @ W_K[0, head].T).swapaxes(1, 2)
    return np.where(np.tri(T, dtype=bool), scores, -np.inf), MASK & (np.arange(T) > 0)


def cosines(rows, vector):
    return rows @ vector / np.linalg.norm(rows, axis=1) / np.linalg.norm(vector)


def test_modes_and_their_contexts(found):
    assert found.mode.values.tolist() == [1, 2]
    for head in range(HEADS):
        values, _, along = exact(head)
        here = found.sel(layer=0, head=head, reading="balanced")
        np.testing.assert_allclose(here.value, values[:2], rtol=1e-4)
        np.testing.assert_allclose(here.variance_share, values[:2] ** 2 / (values**2).sum(), rtol=1e-4)
        for (i, side), k, end in product(enumerate(("query", "key")), range(2), ("top", "bottom")):
            there, sign = here.sel(side=side, end=end, mode=k + 1), 1 if end == "top" else -1
            coordinates = np.where(MASK, sign * along[i][..., k], -np.inf)
            at = there.context_sequence.values, there.context_position.values
            np.testing.assert_allclose(coordinates[at], np.sort(coordinates, axis=None)[::-1][:4], rtol=1e-3)
            np.testing.assert_allclose(sign * there.coordinate, coordinates[at], rtol=1e-3)


def test_decisions_that_a_mode_carries(found):
    for head in range(HEADS):
        values, patterns, _ = exact(head)
        Omega, (scores, decides) = W_Q[0, head].T.astype(float) @ W_K[0, head], seen_scores(head)
        x, here = READ.astype(float), found.sel(layer=0, head=head)
        assert int(here.decisions) == decides.sum()
        for k in range(2):
            term = (x @ Omega @ patterns[1][:, k])[..., None] * (x @ Omega.T @ patterns[0][:, k])[:, None] / values[k]
            changed = (scores - term).argmax(axis=-1) != scores.argmax(axis=-1)
            share = here.decision_share.sel(reading="balanced", mode=k + 1)
            np.testing.assert_allclose(share, changed[decides].mean(), rtol=1e-5)


def test_embeddings_near_a_pattern(found):
    for head in range(HEADS):
        _, patterns, _ = exact(head)
        for i, (side, rows) in enumerate((("query", EMBEDDING), ("key", EMBEDDING - EMBEDDING.mean(axis=0)))):
            here = found.sel(layer=0, head=head, reading="balanced", side=side, mode=1)
            near = cosines(rows, patterns[i][:, 0])
            assert here.embedding_token.sel(end="top").values.tolist() == np.argsort(-near)[:3].tolist()
            assert here.embedding_token.sel(end="bottom").values.tolist() == np.argsort(near)[:3].tolist()
            np.testing.assert_allclose(here.embedding_cosine.sel(end="top"), np.sort(near)[::-1][:3], atol=1e-4)


def test_what_a_head_writes(found):
    x = READ.astype(float)
    for head in range(HEADS):
        scores, decides = seen_scores(head)
        paid = np.exp(scores / H**0.5 - (scores / H**0.5).max(axis=-1, keepdims=True))
        paid /= paid.sum(axis=-1, keepdims=True)
        weight = np.einsum("sij,si->sj", paid, decides.astype(float))
        weight /= weight.sum()
        y = (x - np.einsum("sj,sjd->d", weight, x)) @ (W_O[0, head] @ W_V[0, head]).T.astype(float)
        values, axes = np.linalg.eigh(np.einsum("sj,sjd,sje->de", weight, y, y))
        here = found.sel(layer=0, head=head)
        np.testing.assert_allclose(here.ov_value, np.sqrt(values[::-1][:2]), rtol=1e-4)
        np.testing.assert_allclose(here.ov_variance_share, values[::-1][:2] / values.sum(), rtol=1e-4)
        attended = np.zeros((S, T), bool)
        for s, i in np.argwhere(decides):
            attended[s, scores[s, i].argmax()] = True
        along = y @ axes[:, -1] / np.sqrt(values[-1])
        inside = along[attended]
        sign = np.sign(inside[np.abs(inside).argmax()])
        top = here.sel(mode=1, end="top")
        best = np.sort(sign * inside)[::-1][:4]
        np.testing.assert_allclose(top.ov_coordinate[: len(best)], best, rtol=1e-3)
        at = top.ov_context_sequence.values[: len(best)], top.ov_context_position.values[: len(best)]
        np.testing.assert_allclose(sign * along[at], best, rtol=1e-3)
        logits = (W_U - W_U.mean(axis=0)).astype(float) @ axes[:, -1] * sign * np.sqrt(values[-1])
        assert top.ov_written_token.values.tolist() == [np.argsort(-logits)[:3].tolist()]
        np.testing.assert_allclose(top.ov_logit[0], np.sort(logits)[::-1][:3], rtol=1e-3)
        away = np.einsum("sj,sjd->sjd", weight, x - np.einsum("sj,sjd->d", weight, x))
        near = cosines(EMBEDDING - EMBEDDING.mean(axis=0), sign * np.einsum("sjd,sj->d", away, along))
        np.testing.assert_allclose(top.ov_embedding_cosine, np.sort(near)[::-1][:3], atol=1e-4)


def test_what_is_said_of_a_head(found):
    here = found.sel(layer=0, head=0)
    first = here.sel(mode=1, end="top", question=0)
    above = first.ov_written_token.values[first.ov_logit.values > float(first.ov_logit_chance)]
    assert readout.writes(here).endswith(f"the logits of {', '.join(map(str, above))} most.")
    below = here.assign(ov_logit_chance=np.inf * here.ov_logit_chance)
    assert readout.writes(below).endswith("% of the variance, raises no token's logit above chance.")
    rows = readout.rows(found.assign(ov_logit_chance=np.inf * found.ov_logit_chance))
    assert {row[name] for row in rows for name in ("writes", "writes least")} == {"-"}
    share = here.decision_share.sel(reading="balanced", mode=1)
    assert readout.carries(here).endswith(f"{float(share):.0%} of decisions are another key without it.")


def test_equal_values_are_read_as_one(found):
    here = found.sel(layer=0, head=1, reading="raw")
    assert here.first_pair.values.tolist() == [1, 0]
    assert here.last_pair.values.tolist() == [3, 0]
    assert float(here.value[0]) == pytest.approx(3**0.5, rel=1e-5)
    assert np.isnan(here.value[1])
    assert (here.context_sequence.sel(end="bottom") == -1).all()
    assert here.probe.isnull().all()
    lengths = np.linalg.norm(READ @ W_Q[0, 1].T, axis=-1)[MASK]
    there = here.sel(side="query", end="top", mode=1)
    np.testing.assert_allclose(there.coordinate, np.sort(lengths)[::-1][:4], rtol=1e-4)
    spans = np.linalg.norm(EMBEDDING @ W_Q[0, 1].T, axis=-1) / np.linalg.norm(EMBEDDING, axis=1)
    np.testing.assert_allclose(there.embedding_cosine, np.sort(spans)[::-1][:3], rtol=1e-4)


def test_no_basis_of_head_space_matters(found):
    turned = np.linalg.qr(RNG.normal(size=(H, H)))[0].astype(np.float32)
    again = readout.survey(planted(W_Q=turned @ W_Q, W_K=turned @ W_K), settings=SETTINGS)
    for name in ("coordinate", "embedding_cosine", "decision_share", "value", "ov_logit"):
        np.testing.assert_allclose(again[name], found[name], atol=2e-3)
    xr.testing.assert_equal(again.embedding_token, found.embedding_token)


def test_tokens_at_some_positions(found):
    settings = readout.Settings(modes=2, contexts=4, nearest=3, queries="-1:", keys=":2")
    some = readout.survey(planted(), settings=settings)
    query, key = (some.context_position.sel(side=side, end="top", reading="balanced") for side in ("query", "key"))
    sequence = some.context_sequence.sel(side="query", end="top", reading="balanced")
    assert (query.values == MASK.sum(axis=1)[sequence.values] - 1).all()
    assert set(np.unique(key)) <= {0, 1}
    assert int(some.decisions[0, 0]) == S
    with pytest.raises(InputError, match=r"queries must be positions that some sequence has, got '30:'"):
        readout.survey(planted(), settings=readout.Settings(queries="30:"))


def test_some_heads_alone():
    """Of three layers those asked for, each with what a reading of all finds; nothing where there is none."""
    layers = {name: np.concatenate([x, -x, x[:, ::-1]]) for name, x in (("W_Q", W_Q), ("W_V", W_V), ("W_O", W_O))}
    bundle = planted(**layers, W_K=np.concatenate([W_K] * 3), read=np.stack([READ, READ[..., ::-1], 2 * READ]))
    every, some = (
        readout.survey(bundle, settings=dataclasses.replace(SETTINGS, heads=heads)) for heads in ((), ("0.1,2.0",))
    )
    assert [(row["layer"], row["head"]) for row in readout.rows(some)] == [(0, 1), (2, 0)]
    assert some.layer.values.tolist() == [0, 2]
    for layer, head in ((0, 1), (2, 0)):
        asked, whole = (found.sel(layer=layer, head=head) for found in (some, every))
        xr.testing.assert_allclose(asked, whole, rtol=1e-4)
        assert {name: asked[name].dtype for name in asked} == {name: whole[name].dtype for name in whole}
    nothing = some.sel(layer=0, head=0)
    assert nothing.value.isnull().all()
    assert (nothing.context_sequence == -1).all()
    assert int(nothing.decisions) == -1
    assert readout.summary(some)["heads"] == 2
    axis = readout.figure(some).axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0.0", "0.1", "2.0", "2.1"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"heads": ("0.0", "0.2")}, r"--heads must be among 0.0 to 0.1, as LAYER.HEAD, got '0.2'"),
        ({"contexts": 10**8}, r"--contexts must ask for at most 16 GB of contexts at 48 ends, got up to 115 GB"),
        ({"nearest": 10**8}, r"--nearest must ask for at most 16 GB"),
    ],
)
def test_what_there_is_no_room_for_is_one_sentence(asked, sentence, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 16e9)
    with pytest.raises(InputError, match=sentence):
        readout.survey(planted(), settings=readout.Settings(**asked))


def test_text_stands_beside_tokens(found):
    words = {f"w{i}": i for i in range(V)}
    spelled = readout.survey(planted(), settings=SETTINGS, tokenizer=Tokenizer(models.WordLevel(words, unk_token="w0")))
    assert [name.strip() for name in spelled.piece.values[0]] == [f"w{t}" for t in TOKENS[0, : T - 3]] + [""] * 3
    shown, ids = spelled.embedding_piece.values, spelled.embedding_token.values
    assert {shown[i] for i in zip(*np.nonzero(ids == 4), strict=True)} == {"w4"}
    assert set(shown[ids < 0].tolist()) == {""}
    a, b, c = TOKENS[0, :3]
    assert marked(spelled, 0, 1, around=1) == f"w{a}« w{b}» w{c}"
    assert marked(found, 0, 4, around=2) == f"{TOKENS[0, 2]} {TOKENS[0, 3]} «{TOKENS[0, 4]}»"


def test_features_of_a_dictionary_and_chance(found):
    features = RNG.normal(size=(D, 50)).astype(np.float32)
    with_features = readout.survey(planted(), settings=SETTINGS, features=features)
    _, patterns, _ = exact(0)
    near = cosines(features.T, patterns[1][:, 0])
    here = with_features.sel(layer=0, head=0, reading="balanced", side="key", mode=1)
    assert here.feature_index.sel(end="top").values.tolist() == np.argsort(-near)[:3].tolist()
    with pytest.raises(InputError, match=r"features must have 10 rows, as heads have inputs, got \(50, 10\)"):
        readout.survey(planted(), settings=SETTINGS, features=features.T)
    with pytest.raises(InputError, match=r"bundle must hold attn_in"):
        readout.survey(HeadBundle(W_Q, W_K))


@pytest.mark.parametrize("size", [1, 3])
def test_chance_is_that_of_random_subspaces(size):
    drawn, rows = RNG.normal(size=(16, 3000)), RNG.normal(size=(200, 16))
    level = nearest.chance(nearest.table(rows).cosines, drawn, False, size)
    units = rows / np.linalg.norm(rows, axis=1)[:, None]
    some = [np.linalg.norm(units @ np.linalg.qr(x)[0], axis=1).max() for x in RNG.normal(size=(1000, 16, size))]
    assert abs(level - np.mean(some)) < 4 * np.std(some) * (1 / 1000 + size / 3000) ** 0.5
    if size == 1:
        assert level == pytest.approx(chance_alignment(16, 200), abs=4 * np.std(some) / 3000**0.5 + 0.005)
    assert np.isnan(nearest.chance(nearest.table(rows).cosines, drawn[:, :2], False, 3))


def test_the_command(tmp_path):
    save_heads(tmp_path / "planted.safetensors", planted())
    options = ["--modes", "2", "--contexts", "4", "--nearest", "3", "--features", "W_E"]
    outcome = command("readout", [str(tmp_path / "planted.safetensors"), *options, "--out", str(tmp_path)])
    assert [row["head"] for row in outcome.rows] == ["0.0", "0.1"]
    assert all("«" in row["query"] for row in outcome.rows)
    assert f"The {V} features of --features W_E are taken for directions of what heads read." in outcome.answers
    summary = json.loads((tmp_path / "readout" / "planted-W_E" / "summary.json").read_text())
    assert summary["heads"] == HEADS
    assert summary["patterns_near_embeddings"] <= 4
    assert "of 4 patterns of first modes" in outcome.answers[1]
    assert outcome.answers[1].endswith("(about 2 by chance).")


def test_many_directions_are_held_against_all_rows():
    rows, directions = RNG.normal(size=(50, 9)), RNG.normal(size=(150, 9))
    bases = [nearest.orthonormal(x[:, None]) for x in directions]
    found = nearest.nearest(nearest.table(rows).cosines, bases, np.zeros(150, bool), [RNG.normal(size=(9, 2))] * 150, 1)
    exact = (directions / np.linalg.norm(directions, axis=1)[:, None]) @ (
        rows / np.linalg.norm(rows, axis=1)[:, None]
    ).T
    assert found.index[:, 0, 0].tolist() == exact.argmax(axis=1).tolist()
    np.testing.assert_allclose(found.value[:, 1, 0], exact.min(axis=1))
    assert len(set(found.chance)) == 1


def test_heads_of_zeros_have_no_modes_and_a_bundle_does_not_say_what_is_left_out():
    bundle = planted(W_Q=np.zeros_like(W_Q))
    said = {"left_out": "everything", "taken_for": "The features are the file's."}
    bundle = dataclasses.replace(bundle, metadata={**bundle.metadata, **said})
    assert readout.answers(readout.survey(bundle)) == ["None of the 2 heads has a mode: all are numerically zero."]


def test_a_nul_is_shown_and_stored(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a\0b": 0, "\0": 1, "u": 2}, unk_token="u"))
    found = spelled(xr.Dataset({"near_token": ("near", [0, 1])}), planted(tokens=TOKENS % 2), tokenizer)
    assert found.near_piece.values.tolist() == ["a␀b", "␀"]
    assert "".join(found.piece.values[0]).count("␀") == MASK[0].sum()
    found.to_netcdf(tmp_path / "found.nc", engine="h5netcdf")
