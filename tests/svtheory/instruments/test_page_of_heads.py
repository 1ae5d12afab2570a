"""A page of heads: every number on it is one of an instrument's, found again by the call that stands beside it."""

import html
import json
import re

import numpy as np
import pytest
import xarray as xr

import svtheory
from svtheory import HeadBundle, save_heads
from svtheory.checks import InputError
from svtheory.instruments import attended, drawn, page, paged, sources
from svtheory.instruments.command import run as command
from svtheory.instruments.paged import INSTRUMENTS, heads_of, parts_of

LAYERS, HEADS, H, D, SYMBOLS, SEQUENCES, T = 2, 2, 3, 6, 5, 6, 7
RNG = np.random.default_rng(0)
QUICK = page.Settings(draws=19, resamples=1, shown=2, asked=4, queries="2:")


def heads(reads=True):
    W_Q, W_K = RNG.normal(size=(2, LAYERS, HEADS, H, D)).astype(np.float32)
    if not reads:
        return HeadBundle(W_Q, W_K)
    embedding, before = RNG.normal(size=(2, SYMBOLS, D)).astype(np.float32)
    tokens = RNG.integers(0, SYMBOLS, (SEQUENCES, T))
    read = embedding[tokens] + before[np.roll(tokens, 1, axis=1)]
    mask = np.arange(T) < np.full((SEQUENCES, 1), T)
    mask[1, 5:] = False
    return HeadBundle(W_Q, W_K, attn_in=np.stack([read] * LAYERS), mask=mask, others={"tokens": tokens})


def data_of(text):
    """What a page's script reads."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)


@pytest.fixture(scope="module")
def weights_alone(tmp_path_factory):
    """A bundle of weights, what the command leaves of it, and the folder of that."""
    bundle, folder = heads(reads=False), tmp_path_factory.mktemp("weights")
    save_heads(folder / "heads.safetensors", bundle)
    command("page", [str(folder / "heads.safetensors"), "--out", str(folder)])
    left = folder / "page" / "heads"
    return bundle, xr.open_datatree(left / "results.nc", engine="h5netcdf").load(), left


def test_of_weights_alone_there_are_spectra_and_a_sentence_for_the_rest(weights_alone):
    bundle, tree, _ = weights_alone
    assert list(tree.children) == ["spectra"]
    data = data_of(page.html(tree))
    assert set(data["without"]) == {"sad", "readout", "attention", "trace", "cause", "explain"}
    assert all("bundle must hold" in why for why in data["without"].values())
    assert list(data["heads"]) == ["0.0", "0.1", "1.0", "1.1"]
    shown = data["heads"]["1.0"]["spectrum"]["raw"]
    values = np.linalg.svd(bundle.W_Q[1, 0].T @ bundle.W_K[1, 0], compute_uv=False)[:H]
    np.testing.assert_allclose(shown["value"], values, rtol=6e-4)
    assert shown["enough"] == 1 + np.flatnonzero(np.cumsum(values**2) >= 0.9 * (values**2).sum())[0]


def test_the_table_of_all_heads_has_a_row_a_head(weights_alone):
    _, tree, _ = weights_alone
    rows = page.rows(tree)
    assert [(row["layer"], row["head"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for row, here in zip(rows, heads_of(parts_of(tree)), strict=True):
        first = here["spectra"].sel(reading="raw").squeeze()
        assert row["first gap"] == pytest.approx(float(first.gap[0] / first.singular_value[0]))
    assert page.html(tree).count('<th scope="row">') == LAYERS * HEADS


def test_the_command_leaves_the_page_of_what_it_keeps(weights_alone):
    bundle, tree, folder = weights_alone
    assert tree["spectra"].attrs["call"] == "spectra.survey(bundle, settings=spectra.Settings())"
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "svtheory page" in text
    made = {"svtheory": svtheory}
    exec(tree.attrs["made"], made)
    assert np.array_equal(made["bundle"].W_Q, bundle.W_Q)
    assert tree.attrs["made"] in html.unescape(text)
    assert data_of(text) == data_of(page.html(tree))


def test_the_page_says_what_was_read_and_where_hypotheses_ask(weights_alone):
    tree = weights_alone[1].copy()
    assert "Read on" not in page.html(tree)
    where = "Asked at queries 2:3 and keys : of each sequence alone."
    tree.attrs |= {"sequences": "4 of 9", "asked_explain": where}
    text = page.html(tree)
    assert "Read on 4 of 9 sequences" in text
    assert "Hypotheses are asked at queries 2:3 and keys : of each sequence alone." in text
    assert data_of(text)["asked"] == {"explain": where}


def test_columns_that_stand_open_are_those_of_the_instrument():
    for name, columns in paged.FOREMOST.items():
        assert set(columns) < set(INSTRUMENTS[name].COLUMNS)


def test_attention_is_the_heads_own_where_there_are_tokens():
    bundle = heads()
    found = attended.survey(bundle, 2)
    assert found.attention.shape == (LAYERS, HEADS, 2, T, T)
    read, real = bundle.attn_in[1, :2], bundle.mask[:2]
    scores = read @ bundle.W_Q[1, 1].T @ bundle.W_K[1, 1] @ read.swapaxes(1, 2) / np.sqrt(H)
    expected = np.where(np.tri(T, dtype=bool), np.exp(scores), 0)
    expected /= expected.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found.attention[1, 1].values[real], expected[real], atol=1e-5)
    assert np.isnan(found.attention[1, 1].values[~real]).all()
    drawn_ = drawn.weights(found.isel(layer=1, head=1))
    assert [len(rows) for rows in drawn_] == [T, 5]
    for rows, weights in zip(drawn_, expected, strict=True):
        for row, own in zip(rows, weights, strict=False):
            np.testing.assert_allclose(row, 1000 * own[: len(row)], atol=0.51)
            assert (own[len(row) :] <= 5e-4).all()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"causes": ("0.9",)}, r"--causes must be among 0.0 to 1.1, as LAYER.HEAD, got '0.9'"),
        ({"queries": "x"}, "queries must be positions first:end"),
    ],
)
def test_what_is_asked_wrongly_is_said_before_anything_is_compiled(given, sentence):
    with pytest.raises(InputError, match=sentence):
        page.survey(heads(), settings=page.Settings(**given))


@pytest.mark.slow
def test_every_part_is_found_by_the_call_beside_it():
    heads_ = heads()
    tree = page.survey(heads_, settings=QUICK)
    assert set(tree.children) == {"spectra", "sad", "readout", "attention", "explain"}
    asked = {name for name in tree.attrs if name.startswith("asked_")}
    assert asked == {f"asked_{name}" for name in ("sad", "readout", "attention", "cause", "explain")}
    assert "Asked at queries 2: and keys : of each sequence alone." in page.html(tree)
    names = {"attended": attended, "sources": sources, "bundle": heads_, **INSTRUMENTS}
    for name, part in parts_of(tree).items():
        call = part.attrs.pop("call")
        xr.testing.assert_identical(eval(call, names), part)
        assert call in html.unescape(page.html(tree)), name
    shown = data_of(page.html(tree))["heads"]["0.0"]
    assert shown["verdicts"][0].startswith("It is ")
    raw, balanced = shown["tables"]["sad"]["open"]
    assert [raw["reading"], balanced["reading"]] == ["raw", "balanced"]
    assert "vectors needed (sad2024)" in shown["tables"]["sad"]["folded"][0]
    opened, folded = (shown["tables"]["explain"][name][0] for name in ("open", "folded"))
    assert {*opened, *folded} == {*INSTRUMENTS["explain"].COLUMNS}
    for row, here in zip(page.rows(tree), heads_of(parts_of(tree)), strict=True):
        tested = here["sad"].squeeze()
        assert row["balanced: S"] == pytest.approx(float(tested.sparseness.sel(reading="balanced").mean()))
        assert row["hypothesis"] in here["explain"].hypothesis.values


def test_decisions_are_where_attention_is_most_above_an_even_share():
    weights = np.zeros((1, 1, 1, 4, 4))
    weights[0, 0, 0] = [[1, 0, 0, 0], [0.2, 0.8, 0, 0], [0.9, 0.05, 0.05, 0], [0, 0, 0.9, 0.1]]
    found = xr.Dataset({"attention": (("layer", "head", "sequence", "query", "key"), weights)})
    # of the third query most is on position 0
    assert attended.strongest(found, 3).tolist() == [[0, 0, 0, 3, 2], [0, 0, 0, 1, 1]]
    assert attended.strongest(found, 1).tolist() == [[0, 0, 0, 3, 2]]


def test_what_is_left_out_is_not_said_by_a_bundle():
    W_Q, W_K = RNG.normal(size=(2, 1, 1, H, D)).astype(np.float32)
    tree = page.survey(HeadBundle(W_Q, W_K, metadata={"without_spectra": "gone", "without_sad": "gone"}))
    without = data_of(page.html(tree))["without"]
    assert "spectra" not in without
    assert without["sad"].startswith("bundle must hold attn_in")
