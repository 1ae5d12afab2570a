"""A page in a real browser, Debian's chromium: it sorts, opens heads, follows pointer, keys and traces, asks nothing.

Where there is no chromium, or no playwright to drive it, these tests are skipped: the page's data are tested elsewhere.
"""

import contextlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from sims.models.trained import TransformerOptions, bundle, trained
from sims.models.trained_heads import run_on, unseen
from svtheory import HeadBundle, read_bundle
from svtheory.heads.bundles import MODELS
from svtheory.instruments import attended, page, readout, spectra, trace
from svtheory.instruments.sources import first_sequences

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
LAYERS, HEADS, H, D, SYMBOLS, SEQUENCES, T = 2, 3, 3, 8, 7, 5, 6
HOSTILE = "<script>alert(1)</script>\u2028&amp;"
WORDS = [HOSTILE, "cat", " dog", '"', "\n", "größer", "</script>"]


@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
    if not Path(CHROMIUM).exists():
        pytest.skip("needs Debian's chromium, /usr/bin/chromium")
    with driver.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def small_model():
    """The heads of an attention-only model of two layers, and all its weights."""
    rng = np.random.default_rng(0)
    stack = LAYERS, HEADS
    shapes = {"W_E": (SYMBOLS, D), "W_pos": (T, D), "W_V": (*stack, D, H), "W_O": (*stack, H, D), "W_U": (D, SYMBOLS)}
    w = {name: rng.normal(size=shape, scale=0.6).astype(np.float32) for name, shape in shapes.items()}
    W_Q, W_K = rng.normal(size=(2, *stack, H, D)).astype(np.float32)
    tokens = rng.integers(0, SYMBOLS, (SEQUENCES, T))
    x, reads = w["W_E"][tokens] + w["W_pos"], []
    for i in range(LAYERS):
        reads.append(x)
        scores = np.einsum("sqd,hkd,hke,sme->shqm", x, W_Q[i], W_K[i], x, optimize=True) / np.sqrt(H)
        weights = np.where(np.tri(T, dtype=bool), np.exp(scores), 0)
        weights /= weights.sum(axis=-1, keepdims=True)
        x = x + np.einsum("shqm,smd,hdk,hke->sqe", weights, x, w["W_V"][i], w["W_O"][i], optimize=True)
    return HeadBundle(W_Q, W_K, attn_in=np.stack(reads), others=w | {"tokens": tokens}, metadata={"norm": "none"})


@pytest.fixture(scope="module")
def tree():
    """A small model's heads, by the instruments that compile quickly, its tokens spelled as no page would like them."""
    heads = small_model()
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    attention = attended.survey(heads, 2)
    parts = {
        "spectra": spectra.survey(heads, spectra.Settings(gaussians=4, resamples=2)),
        "readout": readout.survey(heads, settings=readout.Settings(modes=2, contexts=3), tokenizer=tokenizer),
        "attention": attention,
        "trace": trace.survey(heads, decisions=attended.strongest(attention, 2)),
    }
    called = {name: part.assign_attrs(call=f"{name}.survey(bundle)") for name, part in parts.items()}
    found = xr.DataTree.from_dict(called)
    found.attrs = {"bundle": HOSTILE, "without_cause": f"bundle must hold W_V, got {HOSTILE}"}
    return found


@pytest.fixture(scope="module")
def made(tree, tmp_path_factory):
    return written(tree, tmp_path_factory.mktemp("page"))


def written(tree, folder):
    path = folder / "heads.html"
    path.write_text(page.html(tree, f"svtheory page {HOSTILE}"), encoding="utf-8")
    return path


@contextlib.contextmanager
def opened(browser, path, place="", **options):
    """The page at a path; raises for an error of its script, or a request that leaves the file."""
    context = browser.new_context(**options)
    tab, wrong = context.new_page(), []
    tab.set_default_timeout(20_000)
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: wrong.append(dialog.message))
    tab.on("request", lambda request: None if request.url.startswith(path.as_uri()) else wrong.append(request.url))
    tab.goto(path.as_uri() + place)
    yield tab
    context.close()
    assert not wrong


def heads_shown(tab):
    return tab.locator("#heads tbody th").all_inner_texts()


def heading(tab):
    return tab.locator("h1:visible").inner_text()


def point(tab, query, key):
    """Move the pointer to a cell of the attention."""
    drawing = tab.locator("svg.matrix")
    size = drawing.bounding_box()["width"] / int(drawing.get_attribute("viewBox").split()[-1])
    drawing.hover(position={"x": (key + 0.5) * size, "y": (query + 0.5) * size})


def sorts(tab, tree):
    """The table sorts by a column, both ways, and back."""
    rows = page.rows(tree)
    names = [f"{row['layer']}.{row['head']}" for row in rows]
    order = np.argsort([row["balanced: first gap"] for row in rows])
    assert heads_shown(tab) == names
    button = tab.get_by_role("button", name="balanced: first gap")
    for expected in (order, order[::-1]):
        button.press("Enter")
        assert heads_shown(tab) == [names[i] for i in expected]
    tab.get_by_role("button", name="head", exact=True).click()
    assert heads_shown(tab) == names


def follows(tab, tree, head, decisions):
    """A head opens by a click, and its attention says the weight under the pointer."""
    tab.get_by_role("link", name=head, exact=True).click()
    assert heading(tab) == f"Head {head}"
    layer, index = map(int, head.split("."))
    attention = tree["attention"].attention.sel(layer=layer, head=index)
    for query, key in decisions:
        point(tab, query, key)
        said = tab.locator("output.weight").inner_text()
        assert re.match(rf"query {query} .*, key {key} ", said, re.DOTALL)
        assert float(re.search(r"weight ([\d.]+)", said).group(1)) == pytest.approx(
            float(attention[0, query, key]), abs=6e-4
        )


def traces(tab, tree):
    """A traced decision is chosen by a click on its cell, and a head that wrote to it leads to that head's decision."""
    found = tree["trace"].to_dataset()
    children = found.child.max(("side", "component")).values >= 0
    d = int(np.flatnonzero(children & (found.sequence == 0).values & (found.depth == 1).values)[0])
    here = found.isel(decision=d)
    tab.goto(tab.url.partition("#")[0] + f"#{int(here.layer)}.{int(here['head'])}")
    point(tab, int(here["query"]), int(here["key"]))
    tab.mouse.down()
    tab.mouse.up()
    shown = tab.locator("#trace")
    assert f"score {float(here.score):.3g}"[:9] in shown.locator(".answer").inner_text()
    for side in ("query", "key"):
        told = shown.locator("table").nth(("query", "key").index(side)).locator("td:nth-child(2)").all_inner_texts()
        parts = [float(x) for x in told[:-1]]
        scale = np.abs(here.contribution.sel(side=side)).sum() + 1e-6
        assert sum(parts) == pytest.approx(float(here.score), abs=2e-2 * float(scale))
    child = found.isel(decision=int(here.child.max()))
    at = "/".join(str(int(child[name])) for name in ("sequence", "query", "key"))
    shown.locator(f'a[href="#{int(child.layer)}.{int(child["head"])}/{at}"]').first.click()
    assert heading(tab) == f"Head {int(child.layer)}.{int(child['head'])}"
    assert f"key {int(child['key'])} " in tab.locator("#trace .answer").inner_text()


def test_a_head_begins_with_sentences_and_columns_say_what_they_are(browser, made, tree):
    """Words of what is left of each part, spectra's numbers with what they say; all of it can be opened by keys."""
    here = tree["readout"].to_dataset().sel(layer=0, head=1)
    with opened(browser, made, "#0.1") as tab:
        assert tab.locator("#head > .answer").all_inner_texts() == [
            readout.writes(here).replace("\n", " "),
            readout.carries(here),
        ]
        fold = tab.locator("#spectra summary")
        fold.press("Enter")
        numbers = tab.locator("#spectra dl.facts")
        assert numbers.is_visible()
        assert spectra.COLUMNS["effective rank"] in numbers.inner_text()


def test_it_sorts_opens_and_follows(browser, made, tree):
    with opened(browser, made) as tab:
        sorts(tab, tree)
        follows(tab, tree, "1.2", ((4, 2), (5, 0), (1, 1)))
        traces(tab, tree)


def test_it_is_used_by_keyboard(browser, made, tree):
    attention = tree["attention"].attention.sel(layer=1, head=1)
    with opened(browser, made, "#1.1/0/3/1") as tab:
        drawing, said = tab.locator("svg.matrix"), tab.locator("output.weight")
        for key, (q, k) in {"ArrowDown": (4, 1), "ArrowLeft": (4, 0), "ArrowUp": (3, 0), "ArrowRight": (3, 1)}.items():
            drawing.press(key)
            assert f"weight {float(attention[0, q, k]):.3f}" in said.inner_text()
        drawing.press("Enter")
        assert tab.url.endswith("#1.1/0/3/1")
        tab.locator("svg.raw").press("ArrowRight")
        value = float(tree["spectra"].singular_value.sel(layer=1, head=1, reading="raw", pair=2))
        assert f"2 of {H}: {float(f'{value:.3g}'):g}," in tab.locator("#spectra output").first.inner_text()
        tab.get_by_role("link", name="← 1.0").press("Enter")
        assert heading(tab) == "Head 1.0"
        tab.go_back()
        assert heading(tab) == "Head 1.1"


def test_what_is_text_stays_text(browser, made, tree):
    pieces = tree["readout"].piece.values
    with opened(browser, made) as tab:
        assert heading(tab) == f"Heads of {HOSTILE}"
        tab.goto(f"{made.as_uri()}#0.0")
        assert HOSTILE.split("\u2028")[0] in tab.locator("#cause").inner_text()
        assert tab.locator(".token").all_text_contents() == [piece.replace("\n", "↵") for piece in pieces[0]]
        at = tree["readout"].sel(layer=0, head=0, reading="balanced", mode=1, side="query", end="top").isel(context=0)
        marked = pieces[int(at.context_sequence), int(at.context_position)]
        assert tab.locator("#readout mark").first.text_content() == marked.replace("\n", "↵")
        assert tab.locator("script").count() == 2


def test_what_does_not_pass_chance_is_grey(browser, made, tree):
    """Of the nearest embeddings; where none passes, that is said. And nothing stands there that is no text."""
    first = tree["readout"].sel(reading="balanced", mode=1, side="query", end="top")
    with opened(browser, made) as tab:
        for layer, head in np.ndindex(LAYERS, HEADS):
            tab.goto(f"{made.as_uri()}#{layer}.{head}")
            here = first.sel(layer=layer, head=head)
            passes = np.abs(here.embedding_cosine.values) > float(here.embedding_chance)
            shown = tab.locator("#readout .near").first
            assert shown.locator(".below").count() == (np.sum(~passes) if passes.any() else 0)
            assert ("none above chance" in shown.inner_text()) == (not passes.any())
            tab.locator("#trace .links a").first.click()
            assert "false" not in tab.locator("#head").text_content()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("0/abc/1", "Choose a decision"),
        ("0/1/1.5", "Choose a decision"),
        ("0/2/4", "Query 2 does not see key 4"),
        ("0/9/1", "Sequence 0 has no position 9"),
        ("7/1/0", "There is no sequence 7"),
    ],
)
def test_addresses_of_no_decision(browser, made, place, said):
    with opened(browser, made, f"#0.0/{place}") as tab:
        assert said in tab.inner_text("#trace")


def test_no_trace_is_advised_of_a_key_outside_the_window(browser, tree, tmp_path):
    """Where a layer's queries see two keys, of decisions that are not traced."""
    parts = {name: tree[name].to_dataset() for name in tree.children}
    found, window = parts["trace"], ("layer", [2, T])
    parts["attention"] = parts["attention"].assign(window=window)
    traced = {tuple(map(int, x)) for x in zip(*(found[name].values for name in trace.PLACE), strict=True)}
    parts["trace"] = found.assign_attrs(call="trace.survey(bundle, model=model)")
    path = written(xr.DataTree.from_dict(parts), tmp_path)
    for layer, said in enumerate(("lies outside its window of 2 positions", "]], model=model) does.")):
        query, key = next((q, k) for q in range(T) for k in range(q - 1) if (layer, 0, 0, q, k) not in traced)
        with opened(browser, path, f"#{layer}.0/0/{query}/{key}") as tab:
            assert said in tab.inner_text("#trace")


def test_without_tokens_positions_are_named(browser, tree, tmp_path):
    lacking = {"readout": ["token", "piece"], "attention": ["token"]}
    parts = {name: tree[name].to_dataset().drop_vars(lacking.get(name, [])) for name in tree.children}
    bare = xr.DataTree.from_dict(parts)
    with opened(browser, written(bare, tmp_path), "#1.0") as tab:
        assert tab.locator(".token").all_text_contents() == [f"position {i}" for i in range(T)]
        at = tree["readout"].sel(layer=1, head=0, reading="balanced", mode=1, side="query", end="top").isel(context=0)
        assert tab.locator("#readout mark").first.text_content() == f"position {int(at.context_position)}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes_and_a_narrow_window(browser, made, scheme):
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 27)"}
    other = {"light": "dark", "dark": "light"}[scheme]
    colour = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, made, color_scheme=scheme, viewport={"width": 390, "height": 800}) as tab:
        assert tab.evaluate(colour) == paper[scheme]
        while other not in tab.locator("#theme").inner_text():
            tab.locator("#theme").click()
        assert tab.evaluate(colour) == paper[other]
        for place in ("", "#1.2", "#1.2/0/3/1"):
            tab.goto(made.as_uri() + place)
            assert tab.evaluate("document.documentElement.scrollWidth") == 390
        whole = "[...document.querySelectorAll('.ids .token')].every((x) => x.getClientRects().length === 1)"
        assert tab.evaluate(whole)  # no token is broken over two lines
        tab.emulate_media(media="print")
        assert tab.evaluate(colour) == paper["light"]


QUICK = page.Settings(draws=39, resamples=4)


@pytest.mark.slow
def test_the_page_of_a_trained_model(browser, tmp_path):
    models = trained(TransformerOptions(tasks=("induction",)).recipe("induction"), tmp_path)
    member, sampled, _ = next(unseen(models, 7, 32))
    heads = bundle(models, member, run_on(models, member, sampled).reads, tokens=sampled.tokens)
    tree = page.survey(heads, settings=QUICK)
    assert not [name for name in tree.attrs if name.startswith("without")]
    with opened(browser, written(tree, tmp_path)) as tab:
        sorts(tab, tree)
        follows(tab, tree, "1.0", ((7, 3), (4, 4), (6, 0)))
        assert tab.locator("#cause > .wide tbody tr").count() == len(
            page.INSTRUMENTS["cause"].rows(tree["cause"].isel(layer=[1]))
        )
        traces(tab, tree)


@pytest.mark.slow
@pytest.mark.skipif(not (MODELS / "tinystories_260k.safetensors").is_file(), reason="needs the public tinystories_260k")
def test_the_page_of_a_model_without_text_or_values(browser, tmp_path):
    heads = first_sequences(read_bundle("tinystories_260k"), 12)
    tree = page.survey(heads, settings=QUICK)
    assert {name for name in tree.attrs if name.startswith("without")} == {
        f"without_{x}" for x in ("written", "trace", "cause")
    }
    with opened(browser, written(tree, tmp_path)) as tab:
        sorts(tab, tree)
        follows(tab, tree, "3.2", ((40, 7), (5, 5)))
        assert tab.locator("#trace").inner_text().startswith("Trace of a decision\n")
        assert "W_V" in tab.locator("#trace").inner_text()
        shown = tab.locator(".token").all_text_contents()
        assert shown == [str(token) for token in heads.others["tokens"][0]]
