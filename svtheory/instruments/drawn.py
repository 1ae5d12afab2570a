"""Drawn: what a page draws of one head, as plain values, from the dataset of one instrument each."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

SHARE = 0.9
ORDER = ("reading", "mode", "question", "side", "end", "context", "near")
Arrays = Mapping[str, np.ndarray]


def spectrum(here: xr.Dataset) -> dict[str, Any]:
    """By reading, a list for each of these, an entry a pair; and how many hold SHARE of the sum of squares."""
    names = {"value": "singular_value", "gap": "gap", "named": "named", "block": "block", "gaussian": "gaussian_value"}
    found = {}
    for i, reading in enumerate(here.reading.values):
        there = {name: here[variable].transpose("reading", "pair").values[i] for name, variable in names.items()}
        found[str(reading)] = {name: plain(x) for name, x in there.items()}
        found[str(reading)]["enough"] = modes_for(SHARE, there["value"])
    return found


def modes_for(share: float, values: np.ndarray) -> int:
    """How many singular values, the largest first, hold this share of the sum of their squares; 0 where all are 0.

    >>> modes_for(0.8, np.array([3.0, 1.0, 0.1])), modes_for(0.9, np.array([3.0, 1.0, 0.1]))
    (1, 2)
    """
    squares = np.cumsum(np.float64(values) ** 2)
    return int(np.searchsorted(squares, share * squares[-1])) + 1 if squares[-1] > 0 else 0


def weights(here: xr.Dataset) -> list[list[list[int]]]:
    """Attention in thousandths: sequences of rows, one a query, of their tokens alone, no zeros behind the last."""
    attention = here.attention.transpose("sequence", "query", "key").values
    found = []
    for rows, count in zip(attention, here["mask"].values.sum(axis=1), strict=True):
        thousandths = np.rint(1000 * rows[:count, :count]).astype(int)
        found.append([row[: 1 + int(np.flatnonzero(row).max(initial=0))].tolist() for row in thousandths])
    return found


def modes(here: xr.Dataset) -> dict[str, list[dict[str, Any]]]:
    """By reading, what moves each mode on either side: contexts, and the embeddings and features nearest to it."""
    x = _arrays(here)
    sides, ends = here.side.values, here.end.values

    def of(at: tuple[int, ...]) -> dict[str, Any]:
        told = {
            "pairs": [int(x["first_pair"][at]), int(x["last_pair"][at])],
            **{name: plain(x[name][at]) for name in ("value", "variance_share", "decision_share")},
        }
        for i, side in enumerate(sides):
            told[str(side)] = {str(end): _end(x, (*at, i, j), "") for j, end in enumerate(ends)}
            told[str(side)]["chance"] = {
                kind: plain(x[f"{kind}_chance"][(*at, i)]) for kind in ("embedding", "feature") if f"{kind}_chance" in x
            }
        return told

    readings = enumerate(here.reading.values)
    return {str(r): [of((i, k)) for k in range(here.sizes["mode"]) if x["first_pair"][i, k]] for i, r in readings}


def written(here: xr.Dataset) -> list[dict[str, Any]]:
    """What each mode of OV is moved by, and the tokens for and against which it writes."""
    if "ov_value" not in here:
        return []
    x = _arrays(here)
    ends = [str(end) for end in here.end.values]

    def of_ends(token: str, size: str, at: tuple[int, ...]) -> dict[str, Any]:
        return {end: _near(x, token, size, (*at, j)) for j, end in enumerate(ends)}

    def of(k: int) -> dict[str, Any]:
        return {
            "pairs": [int(x["ov_first_pair"][k]), int(x["ov_last_pair"][k])],
            "value": plain(x["ov_value"][k]),
            "variance_share": plain(x["ov_variance_share"][k]),
            "reads": {end: _end(x, (k, j), "ov_") for j, end in enumerate(ends)},
            "chance": {"embedding": plain(x["ov_embedding_chance"][k])},
            "writes": [
                {
                    "chance": plain(chance),
                    **{end: _near(x, "ov_written", "ov_logit", (k, q, j)) for j, end in enumerate(ends)},
                }
                for q, chance in enumerate(x["ov_logit_chance"][k])
            ],
        }

    return [of(k) for k in range(here.sizes["mode"]) if x["ov_first_pair"][k]]


def _end(x: Arrays, at: tuple[int, ...], of: str) -> dict[str, Any]:
    """The contexts of one end of a mode, (sequence, position, coordinate), and what lies nearest to it."""
    places = x[f"{of}context_sequence"][at], x[f"{of}context_position"][at]
    coordinate = x[f"{of}coordinate"][at]
    kept = places[0] >= 0
    found = {"contexts": [list(c) for c in zip(*(plain(a[kept]) for a in (*places, coordinate)), strict=True)]}
    if f"{of}embedding_token" in x:
        found["embedding"] = _near(x, f"{of}embedding", f"{of}embedding_cosine", at)
    if f"{of}feature_index" in x:
        kept = x[f"{of}feature_index"][at] >= 0
        indices, cosines = x[f"{of}feature_index"][at][kept], x[f"{of}feature_cosine"][at][kept]
        found["feature"] = [list(pair) for pair in zip(map(str, indices.tolist()), plain(cosines), strict=True)]
    return found


def _near(x: Arrays, token: str, size: str, at: tuple[int, ...]) -> list[list[Any]]:
    """Tokens by their text, or their number, and their cosine or logit."""
    kept = x[f"{token}_token"][at] >= 0
    names = x[f"{token}_piece"] if f"{token}_piece" in x else x[f"{token}_token"].astype(str)
    return [list(pair) for pair in zip(names[at][kept].tolist(), plain(x[size][at][kept]), strict=True)]


def _arrays(here: xr.Dataset) -> Arrays:
    """What is there, its axes in ORDER."""
    of = {name for name, x in here.data_vars.items() if set(x.dims) <= set(ORDER)}
    return {str(name): here[name].transpose(*ORDER, missing_dims="ignore").values for name in of}


def decisions(here: xr.Dataset) -> Iterator[dict[str, Any]]:
    """Each traced decision: its score, and what writers put into it on either side."""
    x = {str(name): variable.values for name, variable in here.variables.items()}
    for d in range(here.sizes["decision"]):
        told: dict[str, Any] = {name: int(x[name][d]) for name in ("layer", "head", "sequence", "query", "key")}
        told |= {name: plain(x[name][d]) for name in ("score", "weight", "gap")}
        told["sides"] = {str(side): _side(x, d, i) for i, side in enumerate(here.side.values)}
        told["table"] = plain(x["table"][d])
        told["modes"] = {
            str(reading): plain(of) for reading, of in zip(here.reading.values, x["score_of_mode"][d], strict=True)
        }
        yield told


def _side(x: Arrays, d: int, side: int) -> dict[str, Any]:
    at = d, side
    components = [
        [
            str(kind),
            *(int(x[name][at][c]) for name in ("writer_layer", "writer_head", "source")),
            plain(x["contribution"][at][c]),
        ]
        for c, kind in enumerate(x["kind"][at])
        if kind
    ]
    return {"components": components, "remainder": plain(x["remainder"][at]), "count": int(x["components"][at])}


def plain(x: Any) -> Any:
    """Numbers as JSON has them, to 4 significant digits; None where there is none.

    >>> plain(np.array([[1 / 3, np.nan], [2.0, 30000.4]]))
    [[0.3333, None], [2.0, 30000.0]]
    """
    values = np.asarray(x)
    if values.dtype.kind != "f":
        return values.tolist()
    return [plain(part) for part in values] if values.ndim else _number(float(values))


def _number(x: float) -> float | None:
    return float(f"{x:.4g}") if np.isfinite(x) else None
