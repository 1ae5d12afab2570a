"""Rendering: pages of a template that need no other file, ask no network, and show text as text."""

import base64
import hashlib
import json
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def rendered(template: str, data: Any, **given: Any) -> str:
    """The page of `templates/TEMPLATE.html`, with TEMPLATE.css and TEMPLATE.js inside, filled in with what is `given`.

    All of it is escaped. `data`, plain values without NaN, stand inside as JSON in which no text ends anything. The
    page's policy lets it run this one script and use this one style, by their digests, and load nothing.
    """
    style, script = _source(f"{template}.css"), _source(f"{template}.js")
    policy = f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    page = _environment().get_template(f"{template}.html")
    return page.render(policy=policy, style=Markup(style), script=Markup(script), data=embedded(data), **given)


def embedded(data: Any) -> Markup:
    r"""JSON that may stand in a script element: text in it is ASCII, and has no letter that HTML knows.

    >>> print(embedded({"text": "</script> & \u2028"}))
    {"text":"\u003c/script\u003e \u0026 \u2028"}
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


@cache
def _environment() -> Environment:
    # escapes whatever it is given
    return Environment(
        loader=PackageLoader("svtheory.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(file: str) -> str:
    """A file beside the template, as it stands in the page."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, file)[0]


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
