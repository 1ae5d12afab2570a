"""Description: what a bundle of heads holds, for a person, on one screen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svtheory.heads.scoring import KEYS

if TYPE_CHECKING:
    from svtheory.heads.bundles import HeadBundle

WIDTH, COLUMN = 100, 17


def described(bundle: HeadBundle) -> str:
    """A line for each thing that a bundle says of itself, its name first; a long one runs on below."""
    lines = {
        "sizes": "layers {}, heads {}, d_head {}, d_model {}".format(*bundle.W_Q.shape),
        "biases": _biases(bundle),
        "positions": _positions(bundle),
        "scores": "; ".join(_scores(bundle)),
        "normalisation": "folded into the weights" if bundle.scoring.folded else "",
        "weights": _weights(bundle),
        "attn_in": _tokens(bundle),
        "others": ", ".join(f"{name} {array.shape}" for name, array in bundle.others.items()),
    }
    said = [(name, " ".join(text.split())) for name, text in bundle.metadata.items() if name not in KEYS]
    return "\n".join(["HeadBundle", *(_line(name, words) for name, words in (*lines.items(), *said) if words)])


def _line(name: str, words: str) -> str:
    first = f"  {name} ".ljust(COLUMN)
    return textwrap.fill(words, WIDTH, initial_indent=first, subsequent_indent=" " * COLUMN)


def _biases(bundle: HeadBundle) -> str:
    sides = {"queries": bundle.b_Q, "keys": bundle.b_K}
    return " and ".join(name for name, b in sides.items() if b is not None and b.any()) or "none"


def _positions(bundle: HeadBundle) -> str:
    theta, said = bundle.scoring.frequencies, bundle.metadata.get("positional")
    if theta is None:
        return said or "not rotated"
    of_layer = np.count_nonzero(theta, axis=1) * 2
    return f"rotary, rows turned: {_by_layer(of_layer.tolist())} of {bundle.W_Q.shape[2]}, {bundle.scoring.pairing}"


def _scores(bundle: HeadBundle) -> Iterator[str]:
    found = bundle.scoring
    yield f"divided by {_by_layer([f'{divisor:.6g}' for divisor in found.divisors])}"
    yield "causal" if found.causal else "every position sees every other"
    if any(found.windows):
        yield f"keys seen: {_by_layer([window or 'all' for window in found.windows])}"
    if found.cap is not None:
        yield f"capped at {found.cap:g}"
    if found.query_key_norm != "none":
        yield f"queries and keys normalised: {found.query_key_norm}"


def _weights(bundle: HeadBundle) -> str:
    stored, dtype = bundle.scoring.weights_dtype, str(bundle.W_Q.dtype)
    return f"{dtype}, from {stored}" if stored not in (None, dtype) else dtype


def _tokens(bundle: HeadBundle) -> str:
    if bundle.attn_in is None:
        return "none: what heads read is not here"
    _, sequences, positions, _ = bundle.attn_in.shape
    held = f"{sequences} sequences of {positions} positions"
    return held if bundle.mask is None else f"{held}, padded: {int(bundle.mask.sum())} tokens"


def _by_layer(values: Sequence[Any]) -> str:
    """One value where layers agree, else one a layer."""
    return str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))
