"""Paged: what a page of heads shows, as plain values for its template, from the datasets of instruments alone."""

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr

from svtheory.heads.random_heads import NULLS
from svtheory.instruments import cause, drawn, explain, readout, sad, sparser, spectra, trace
from svtheory.instruments.grades import best, sentence
from svtheory.instruments.survey import PLACE, called
from svtheory.reports.tables import picked, shown

INSTRUMENTS: Mapping[str, ModuleType] = {
    "spectra": spectra,
    "sad": sad,
    "explain": explain,
    "readout": readout,
    "trace": trace,
    "cause": cause,
}
"""The instruments that a page shows."""
ANSWERING = ("explain", "cause", "sad", "spectra")
"""Those whose answers it opens with."""
TABLES = ("spectra", "sad", "explain", "cause")
"""Those whose rows stand in the view of a head."""
FOREMOST: Mapping[str, tuple[str, ...]] = {
    "explain": ("hypothesis", "grade", "functional cosine", "margin", "best rival", "p"),
    "cause": ("direction", "attention, intact", "attention lost", "x same variance", "x isotropic", "loss gained"),
}
"""Columns of a table that stand open; the others are folded."""
BALANCED = "balanced: "
COLUMNS = {
    "verdict": "Sparser than random heads of its spectrum, of low rank only, or neither (sad).",
    "hypothesis": "Of those asked the one that explains the head best (explain).",
    "grade": "How far it does.",
    "cosine": "Correlation of the logits that the hypothesis predicts with the head's own.",
    "modes for 90 %": "How many singular values, the largest first, hold 90 % of the sum of all squares.",
    "S": "Mean sparseness over decisions: 1/K if one term is all, 1 if all are equal (sad).",
    "chance S": "The same of random heads on the same tokens, the lower of two kinds.",
    "first gap": "The distance of the first singular value to the next, relative to it (spectra).",
}

Parts = Mapping[str, xr.Dataset]


def parts_of(results: xr.DataTree) -> Parts:
    """The datasets of a page by the names of their instruments."""
    return {name: node.to_dataset() for name, node in results.children.items()}


def named(results: xr.DataTree) -> str:
    """What the model is called."""
    return str(results.attrs.get("bundle") or results.attrs.get("source", "a bundle"))


def heads_of(parts: Parts) -> Iterator[Parts]:
    """What is said of each head."""
    sizes = parts["spectra"].sizes
    by_head = {name: part for name, part in parts.items() if set(PLACE) <= set(part.dims)}
    for i, j in np.ndindex(sizes["layer"], sizes["head"]):
        yield {name: part.isel(layer=[i], head=[j]) for name, part in by_head.items()}


def row(here: Parts) -> dict[str, Any]:
    """One head in the table of all: what it is in words, then, by reading, in numbers."""
    of = {name: part.squeeze(PLACE) for name, part in here.items()}
    found: dict[str, Any] = {name: int(of["spectra"][name]) for name in PLACE}
    if "sad" in of:
        found["verdict"] = sparser.in_short(str(of["sad"].verdict.values))
    if "explain" in of:
        held = best(of["explain"])
        found |= {"hypothesis": held.hypothesis.item(), "grade": held.grade.item()}
        found["cosine"] = float(held.functional_cosine)
    for reading in of["spectra"].reading.values:
        called, spectrum = "" if reading == "raw" else BALANCED, of["spectra"].sel(reading=reading)
        values = spectrum.singular_value.values
        found[f"{called}modes for 90 %"] = drawn.modes_for(drawn.SHARE, values)
        if "sad" in of:
            tests = of["sad"].sel(reading=reading)
            found[f"{called}S"] = float(tests.sparseness.mean())
            found[f"{called}chance S"] = float(tests.null_mean.sel(null=list(NULLS)).min())
        found[f"{called}first gap"] = float(spectrum.gap[0]) / float(values[0]) if values[0] else np.nan
    return found


def short(value: float) -> str:
    """A number in the table of all heads, to 3 digits.

    >>> short(0.12345), short(12), short(float("nan"))
    ('0.123', '12', '-')
    """
    return f"{value:.3g}" if np.isfinite(value) else "-"


def plain_page(results: xr.DataTree) -> dict[str, Any]:
    """All that the page's script draws."""
    parts = parts_of(results)
    return {
        "name": named(results),
        "calls": {name: str(part.attrs["call"]) for name, part in parts.items()},
        "without": _said(results, "without_"),
        "asked": _said(results, "asked_"),
        "caveats": {"cause": cause.caveat(parts["cause"])} if "cause" in parts else {},
        "columns": {name: INSTRUMENTS[name].COLUMNS for name in TABLES if name in parts},
        "text": "readout" in parts and "piece" in parts["readout"],
        "sequences": _sequences(parts),
        "decisions": list(drawn.decisions(parts["trace"])) if "trace" in parts else [],
        "heads": {called(here["spectra"].squeeze(PLACE)): _head(here) for here in heads_of(parts)},
    }


def read_on(results: xr.DataTree) -> list[str]:
    """Which sequences were read, if not all, and at which positions hypotheses are asked, if not at all."""
    cut, where = results.attrs.get("sequences"), results.attrs.get("asked_explain")
    said = [f"Read on {cut} sequences; --sequences takes more."] if cut else []
    some = str(where).removeprefix("Asked ")
    return [*said, f"Hypotheses are asked {some} All else is asked at all positions."] if where else said


def _said(results: xr.DataTree, before: str) -> dict[str, str]:
    """What the page says of its parts, by their names."""
    said = {str(name): str(value) for name, value in results.attrs.items()}
    return {name.removeprefix(before): value for name, value in said.items() if name.startswith(before)}


def _sequences(parts: Parts) -> list[list[str]]:
    """What each token of each sequence is called: its text, else its number, else its position."""
    read = parts.get("readout", parts.get("attention", xr.Dataset()))
    if "token" in read:
        tokens = read["token"].values.reshape(*read["token"].shape[:2], -1)
        named = np.array([[".".join(map(str, token[token >= 0])) for token in row] for row in tokens])
        called, kept = read["piece"].values if "piece" in read else named, np.any(tokens >= 0, axis=-1).tolist()
        return [row[np.array(here)].tolist() for row, here in zip(called, kept, strict=True)]
    lengths = parts["attention"]["length"].values if "attention" in parts else []
    return [[f"position {i}" for i in range(length)] for length in lengths]


def _head(here: Parts) -> dict[str, Any]:
    """One head: what is said of it, what is drawn, and the tables of instruments."""
    of = {name: part.squeeze(PLACE) for name, part in here.items() if set(PLACE) <= set(part.dims)}
    found: dict[str, Any] = {"verdicts": list(_verdicts(of)), "spectrum": drawn.spectrum(of["spectra"])}
    found["tables"] = {name: _table(name, INSTRUMENTS[name].rows(here[name])) for name in TABLES if name in here}
    if "attention" in of:
        found |= {"attention": drawn.weights(of["attention"]), "window": int(of["attention"]["window"])}
    if "readout" in of:
        found |= {"modes": drawn.modes(of["readout"]), "written": drawn.written(of["readout"])}
    return found


def _table(name: str, rows: list[dict[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """A head's rows of an instrument, as text: the columns that stand open, and those that are folded."""
    lines = [{key: shown(x) for key, x in row.items() if key not in (*PLACE, "head", "verdict")} for row in rows]
    if name in FOREMOST:
        return {"open": picked(lines, *FOREMOST[name]), "folded": picked(lines, *_folded(name, lines))}
    return _by_reading(lines[0]) if name == "sad" else {"open": [], "folded": lines}


def _by_reading(line: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """One row as a row for each reading; what is of neither is folded."""
    twice = [key.removeprefix(BALANCED) for key in line if key.startswith(BALANCED)]
    both = {"raw": "", "balanced": BALANCED}
    rest = [key for key in line if key.removeprefix(BALANCED) not in twice]
    rows = [{"reading": reading, **{key: line[of + key] for key in twice}} for reading, of in both.items()]
    return {"open": rows, "folded": picked([line], *rest)}


def _folded(name: str, lines: list[dict[str, str]]) -> list[str]:
    """The columns that are folded, after the first, which says what a row is of."""
    first, *others = lines[0] if lines else FOREMOST[name]
    return [first, *(key for key in others if key not in FOREMOST[name])]


def _verdicts(of: Parts) -> Iterator[str]:
    """What is said of a head in sentences: what explains it, what it does, what it writes and reads, how it is made."""
    if "explain" in of:
        yield f"It is {sentence(best(of['explain']))}."
    if "cause" in of and of["cause"].intact.notnull():
        yield cause.sentence(of["cause"])
    if "readout" in of and "ov_written_token" in of["readout"]:
        yield readout.writes(of["readout"])
    if "readout" in of:
        yield readout.carries(of["readout"])
    if "sad" in of:
        yield f"It is {of['sad'].verdict.item()}."
