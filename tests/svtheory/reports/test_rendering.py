"""A page of a template: text stays text, and its policy allows its own script and style alone."""

import base64
import hashlib
import html
import json
import re

import pytest

from svtheory.reports.rendering import embedded, rendered

HOSTILE = "</script><script>alert(1)</script><!-- & \u2028 \u2029 'quotes' \" \x00 \ud800"


def page(**changes):
    given = {"name": HOSTILE, "read": [HOSTILE], "answers": [HOSTILE], "made": [HOSTILE], "columns": {}}
    given["rows"] = [{"head": "0.0", HOSTILE: HOSTILE}]
    return rendered("heads", {"name": HOSTILE}, **{**given, "calls": [], "command": HOSTILE, "shown": str, **changes})


def test_data_cannot_end_their_element_and_come_back_whole():
    text = embedded({"text": HOSTILE, "numbers": [1, None, 0.5]})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"text": HOSTILE, "numbers": [1, None, 0.5]}
    with pytest.raises(ValueError, match="JSON"):
        embedded([float("nan")])


def test_whatever_is_given_is_text():
    made = page()
    assert made.count("<script") == 2  # the data and the page's own
    assert "alert(1)</script>" not in made
    # title, home, heading, what was read, answer, column, cell, what made it, command
    assert made.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 9


def test_the_policy_names_what_the_page_holds():
    made = page()
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', made)
    parts = dict(part.strip().split(" ", 1) for part in html.unescape(policy).split(";"))
    assert parts["default-src"] == "'none'"
    for source, element in (("style-src", "style"), ("script-src", "script")):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", made, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert parts[source] == f"'sha256-{digest}'"


def test_a_page_names_no_other_file():
    assert not re.findall(r"""(?:src|href|url|import)\s*[=(]\s*["']?(?!#)[^"'\s>]+""", page(name="x", command=""))
