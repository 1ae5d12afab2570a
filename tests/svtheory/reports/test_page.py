import numpy as np
import xarray as xr

from svtheory.reports.page import paragraphs_html, report, table_html
from svtheory.reports.plotting import panels
from svtheory.reports.runs import (
    Exhibit,
    Outcome,
    finish,
    write_json,
)
from svtheory.reports.tables import show

ROWS = [
    {"law": "a < b", "cosine": np.float32(0.99912345), "holds": True},
    {"law": "c", "cosine": np.nan, "holds": None},
]
MANIFEST = {
    "device": "1 x cpu",
    "dtype": "float32",
    "git_commit": "abc",
    "command": "python -m x <y>",
}


def test_a_report_is_one_page_with_everything_in_it(tmp_path):
    outcome = Outcome({"heads": 3}, xr.Dataset(), {"a": Exhibit(panels()[0], "Points & lines.")}, ROWS)
    write_json(tmp_path / "manifest.json", MANIFEST)
    finish(tmp_path, outcome, 1.0)
    page = report(tmp_path, "Title > all.\n\nFirst paragraph\nof two lines.\n\nSecond.", outcome)
    for text in (
        "<h1>Title &gt; all.</h1>",
        "<p>First paragraph of two lines.</p>\n<p>Second.</p>",
        "a &lt; b",
        "0.9991",
        "Points &amp; lines.",
        "python -m x &lt;y&gt;",
        '<img src="data:image/png;base64,iVBOR',
        "heads",
    ):
        assert text in page
    assert not any(word in page for word in ("http", "<script", "<link"))


def test_whatever_a_page_is_given_is_text(tmp_path):
    hostile = """</p><script>alert("1")</script>'"><img onerror=alert(1)>"""
    rows = [{hostile: hostile, "list": [hostile]}]
    outcome = Outcome({hostile: hostile}, xr.Dataset(), {"a": Exhibit(panels()[0], hostile)}, rows)
    write_json(tmp_path / "manifest.json", dict.fromkeys(MANIFEST, hostile))
    finish(tmp_path, outcome, 1.0)
    page = report(tmp_path, f"{hostile}\n\n{hostile}", outcome)
    assert (
        page.count("&lt;script&gt;alert(&quot;1&quot;)") == 13
    )  # title, text, 3 in the table, 2 captions, 2 headlines, command, 3 facts
    assert "<script" not in page
    assert page.count("<img") == 1


def test_long_text_has_room_and_examples_are_left_out(tmp_path):
    rows = [{"name": "a", "value": 1}, {"name": "b", "value": "a sentence of more than thirty letters"}]
    page = table_html(rows)
    assert '<th class="text">name</th><th>value</th>' in page
    assert "<td>1</td>" in page
    assert '<td class="text long">a sentence' in page
    assert paragraphs_html("One.\n\n>>> survey(heads)\n3\n\nTwo.") == "<p>One.</p>\n<p>Two.</p>"


def test_a_page_opens_with_its_answers_and_ends_with_the_method(tmp_path):
    columns = {"cosine": "How near.", "absent": "Of no column."}
    outcome = Outcome({"rules": 0, "rules_that_hold": 0}, xr.Dataset(), {}, ROWS, ["Both hold."], columns)
    write_json(tmp_path / "manifest.json", MANIFEST | {"git_commit": None})
    finish(tmp_path, outcome, 1.0)
    page = report(tmp_path, "Title.\n\nMethod.\n\n    as it\n    stands\n\n>>> left_out()", outcome)
    places = [page.index(text) for text in ("Title.", "Both hold.", "a &lt; b", "How near.", "Method.", "python -m x")]
    assert places == sorted(places)
    assert "<pre>as it\nstands</pre>" in page
    assert not any(word in page for word in ("left_out", "None", "rules", "Of no column"))


def test_no_rows_no_table():
    assert table_html([]) == ""


def test_a_table_is_shown_in_full_where_there_is_no_terminal(capsys):
    wide = [{f"column number {n}": n / 7 for n in range(8)} | {"rule": "lowest >= 0.99"}]
    show(wide, "the/path [of] it")
    printed = capsys.readouterr().out
    assert all(f"column number {n}" in printed for n in range(8))
    assert "0.8571" in printed
    assert "lowest >= 0.99" in printed
    assert "the/path [of] it" in printed
