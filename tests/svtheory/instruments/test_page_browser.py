"""A page in a real browser, Debian's chromium: it sorts, opens heads, follows the pointer and the keys, asks nothing.

Where there is no chromium, or no playwright to drive it, these tests are skipped: the page's data are tested elsewhere.
"""

import contextlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from svtheory import HeadBundle
from svtheory.instruments import attended, page, spectra

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
LAYERS, HEADS, H, D, SEQUENCES, T = 3, 4, 2, 6, 5, 6
HOSTILE = "<script>alert(1)</script>\u2028&amp;"


@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
    if not Path(CHROMIUM).exists():
        pytest.skip("needs Debian's chromium, /usr/bin/chromium")
    with driver.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def tree():
    """A small model's heads, as instruments that compile quickly read them."""
    rng = np.random.default_rng(0)
    W_Q, W_K = rng.normal(size=(2, LAYERS, HEADS, H, D)).astype(np.float32)
    read = rng.normal(size=(LAYERS, SEQUENCES, T, D)).astype(np.float32)
    tokens = rng.integers(0, 9, (SEQUENCES, T))
    bundle = HeadBundle(W_Q, W_K, attn_in=read, others={"tokens": tokens})
    parts = {
        "spectra": spectra.survey(bundle, spectra.Settings(gaussians=4, resamples=2)),
        "attention": attended.survey(bundle, 2),
    }
    found = xr.DataTree.from_dict(
        {name: part.assign_attrs(call=f"{name}.survey(bundle)") for name, part in parts.items()}
    )
    found.attrs = {"bundle": HOSTILE, "without_trace": f"bundle must hold W_V, got {HOSTILE}"}
    return found


@contextlib.contextmanager
def opened(browser, path, **options):
    """The page at a path; raises for an error of its script, or a request that leaves the file."""
    context = browser.new_context(**options)
    tab, wrong = context.new_page(), []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(path.as_uri()) else wrong.append(request.url))
    tab.goto(path.as_uri())
    yield tab
    context.close()
    assert not wrong


@pytest.fixture(scope="module")
def made(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "heads.html"
    path.write_text(page.html(tree, f"svtheory page {HOSTILE}"), encoding="utf-8")
    return path


def heads_shown(tab):
    return tab.locator("#heads tbody th").all_inner_texts()


def point(tab, n, query, key):
    """Move the pointer to a cell of the attention."""
    drawing = tab.locator("svg.matrix")
    size = drawing.bounding_box()["width"] / n
    drawing.hover(position={"x": (key + 0.5) * size, "y": (query + 0.5) * size})


def test_columns_sort_both_ways(browser, made, tree):
    rows = page.rows(tree)
    names = [f"{row['layer']}.{row['head']}" for row in rows]
    values = [row["balanced: gap_1/sigma_1"] for row in rows]
    with opened(browser, made) as tab:
        assert heads_shown(tab) == names
        button = tab.get_by_role("button", name="balanced: gap_1/sigma_1")
        button.click()
        assert heads_shown(tab) == [names[i] for i in np.argsort(values)]
        button.press("Enter")
        assert heads_shown(tab) == [names[i] for i in np.argsort(values)[::-1]]
        tab.get_by_role("button", name="head", exact=True).click()
        assert heads_shown(tab) == names


def test_a_head_opens_and_its_attention_follows_pointer_and_keys(browser, made, tree):
    attention = tree["attention"].attention
    said = lambda i, q, k: f": weight {float(attention[2, 1, i, q, k]):.3f}"  # noqa: E731
    with opened(browser, made) as tab:
        tab.get_by_role("link", name="2.1", exact=True).click()
        assert tab.locator("h1:visible").inner_text() == "Head 2.1"
        weight = tab.locator("output.weight")
        for query, key in ((4, 2), (5, 0), (1, 1)):
            point(tab, T, query, key)
            assert said(0, query, key) in weight.inner_text()
        tab.locator("svg.matrix").press("ArrowDown")
        assert said(0, 2, 1) in weight.inner_text()
        tab.locator("svg.matrix").press("ArrowLeft")
        assert weight.inner_text().startswith("query 2 ")
        assert said(0, 2, 0) in weight.inner_text()
        tab.get_by_role("button", name="sequence 1").click()
        tab.locator(".token").nth(3).hover()
        assert said(1, 3, int(attention[2, 1, 1, 3].values.argmax())) in weight.inner_text()
        tab.get_by_role("link", name="→ 2.2").click()
        assert tab.locator("h1:visible").inner_text() == "Head 2.2"
        tab.go_back()
        assert tab.locator("h1:visible").inner_text() == "Head 2.1"


def test_the_spectrum_tells_each_value(browser, made, tree):
    values = tree["spectra"].singular_value.sel(layer=0, head=3, reading="raw").values
    with opened(browser, made) as tab:
        tab.goto(f"{made.as_uri()}#0.3")
        drawing = tab.locator("svg.raw")
        drawing.press("ArrowRight")
        told = tab.locator("#spectra output").first.inner_text()
        assert float(re.search(r"2 of \d+: ([\d.e-]+),", told).group(1)) == pytest.approx(values[1], rel=5e-3)


def test_what_is_text_stays_text(browser, made):
    with opened(browser, made) as tab:
        tab.on("dialog", lambda dialog: pytest.fail(f"a script of the text ran: {dialog.message}"))
        assert tab.locator("h1:visible").inner_text() == f"Heads of {HOSTILE}"
        tab.goto(f"{made.as_uri()}#0.0")
        assert HOSTILE.split("\u2028")[0] in tab.locator("#trace").inner_text()
        assert tab.locator("script").count() == 2


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
        for place in ("", "#1.2"):
            tab.goto(made.as_uri() + place)
            assert tab.evaluate("document.documentElement.scrollWidth") == 390
