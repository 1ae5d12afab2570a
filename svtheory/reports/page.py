"""A self-contained HTML page of a run: what it asks, its table, its figures, and how to make it again."""

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from textwrap import dedent
from typing import Any

from svtheory.reports.runs import Outcome, read_manifest
from svtheory.reports.tables import LONG, shown, tally

STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1b1b1b; max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem }
h1 { font-size: 1.6rem; margin-bottom: .3rem }
h2 { font-size: 1.15rem; margin-top: 2.2rem }
pre { background: #f4f4f2; padding: .7rem 1rem; border-radius: 6px; overflow-x: auto; font-size: .85rem }
.wide { overflow-x: auto; border: 1px solid #ddd; border-radius: 6px; padding: 0 .2rem .3rem }
.wide::-webkit-scrollbar { height: 10px }
.wide::-webkit-scrollbar-thumb { background: #aaa; border-radius: 5px }
.answer { font-size: 1.1rem; border-left: 4px solid #0072B2; padding-left: .8rem }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th.text, td.text { text-align: left }
.wide th:first-child, .wide td:first-child { position: sticky; left: 0; background: #fff; padding-left: .5rem }
td.long { min-width: 24rem; white-space: normal }
.facts td { white-space: normal; overflow-wrap: anywhere; text-align: left; min-width: 6rem }
dt { font-weight: 600; margin-top: .4rem }
dd { margin-left: 1.2rem }
dl { font-size: .92rem }
@media (max-width: 40rem) { td.long { min-width: 15rem } body { margin: 1rem auto } }
th { border-bottom: 2px solid #1b1b1b; vertical-align: bottom }
figure { margin: 1.5rem 0 }
img { max-width: 100%; height: auto }
figcaption, .made { color: #555; font-size: .92rem }
"""


def report(folder: Path, about: str, outcome: Outcome) -> str:
    """The page of the finished run in `folder`: its answers first, then the docstring `about`, its title apart."""
    title, _, text = about.partition("\n")
    manifest = read_manifest(folder)
    figures = figures_html(folder, manifest["captions"])
    commit = f", commit {manifest['git_commit']}" if manifest["git_commit"] else ""
    facts = f"{manifest['device']}, {manifest['dtype']}, {manifest['wall_time_s']} s{commit}"
    ruled = outcome.summary.get("rules")
    summary = {name: x for name, x in outcome.summary.items() if ruled or name not in tally([])}
    answers = "\n".join(f'<p class="answer">{escape(answer)}</p>' for answer in outcome.answers)
    body = f"""<h1>{escape(title)}</h1>
{answers}
<h2>Results</h2>
<div class="wide">{table_html(outcome.rows)}</div>
{figures}
{columns_html(outcome)}
<h2>Headline figures</h2>
{summary_html(summary)}
<h2>What this is, and how it is found</h2>
{paragraphs_html(text)}
<h2>Made by</h2>
<pre>{escape(str(manifest["command"]))}</pre>
<p class="made">{escape(facts)}</p>"""
    name = str(manifest.get("experiment", folder.name))
    return page_html(name if folder.name == name else f"{name}: {folder.name}", body)


def page_html(title: str, body: str) -> str:
    """A page that needs no other file."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head><body>
{body}
</body></html>
"""


def figures_html(folder: Path, captions: Mapping[str, str]) -> str:
    """The figures of the run in `folder`, each with its sentence, the images inside the page."""
    return "\n".join(
        figure_html((folder / "figures" / f"{name}.png").read_bytes(), caption) for name, caption in captions.items()
    )


def figure_html(image: bytes, caption: str) -> str:
    """One figure."""
    data, caption = base64.b64encode(image).decode(), escape(str(caption))
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )


def summary_html(summary: Mapping[str, Any]) -> str:
    """Headline figures, a line each."""
    table = table_html([{"name": key, "value": value} for key, value in summary.items()])
    return f'<div class="facts">{table}</div>'


def columns_html(outcome: Outcome) -> str:
    """What the columns of the table say, those that are explained."""
    names = list(outcome.rows[0]) if outcome.rows else []
    shown = {*names, *(name.rpartition(": ")[2] for name in names)}
    told = {name: text for name, text in outcome.columns.items() if name in shown}
    if not told:
        return ""
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in told.items())
    return f"<h2>Columns</h2>\n<dl>{listed}</dl>"


def table_html(rows: list[dict[str, Any]]) -> str:
    """The rows as an HTML table; columns are the keys of the first row, text to the left."""
    if not rows:
        return ""
    head = "".join(f"<th{_kind(value)}>{escape(name)}</th>" for name, value in rows[0].items())
    body = "".join("<tr>" + "".join(_cell(row[name]) for name in rows[0]) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    return f"<td{_kind(value)}>{escape(shown(value))}</td>"


def _kind(value: Any) -> str:
    """The class of a cell: text stands on the left, and long text in lines of some width."""
    if not isinstance(value, str):
        return ""
    return ' class="text long"' if len(value) > LONG else ' class="text"'


def paragraphs_html(text: str) -> str:
    """Docstring text as paragraphs, what is indented as it stands."""
    return "\n".join(_block(block) for block in prose(text).split("\n\n") if block.strip())


def _block(block: str) -> str:
    if all(line.startswith("    ") for line in block.splitlines()):
        return f"<pre>{escape(dedent(block))}</pre>"
    return f"<p>{escape(' '.join(block.split()))}</p>"


def prose(text: str) -> str:
    """A docstring without its examples, which are for readers of code.

    >>> prose("One.\\n\\n>>> 1 + 1\\n2\\n\\nTwo.")
    'One.\\n\\nTwo.'
    """
    return "\n\n".join(block for block in text.split("\n\n") if not block.lstrip().startswith(">>>"))
