"""Asking: at which positions hypotheses about tokens are asked, and what heads read there."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from svtheory.checks import InputError, index
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.hypotheses import Hypothesis, read_at, token_hypotheses
from svtheory.instruments.hypothesis_files import Inputs
from svtheory.instruments.survey import read_inputs
from svtheory.reports.options import Options, at_least

# what the queries of the public heads are, and their keys: see the README beside their bundles
INDUCTION = {"queries": "7:8", "keys": "1:7"}
PUBLIC = {
    **{f"induction_ft{steps}": INDUCTION for steps in ("000", "100", "300")},
    "sort5": {"queries": "7:11", "keys": "1:6", "numbers": 64},
}


@dataclass(frozen=True)
class Where(Options):
    """At which positions hypotheses about tokens are asked, and of which tokens."""

    queries: str | None = None
    """Positions of queries, first:end, of each sequence's own tokens; none is all but the first."""
    keys: str | None = None
    """Positions of keys; none is all."""
    numbers: Annotated[int | None, at_least(2)] = None
    """How many tokens, from 0, are the numbers that they are called; none means that tokens are no numbers."""


@dataclass(frozen=True)
class Asking(Where):
    """Where hypotheses about tokens are asked, and of which heads."""

    layer: int | None = None
    """Layer of the heads."""


def read_as(label: str, settings: Where) -> dict[str, Any]:
    """What the settings leave open and is known of a public head."""
    return {name: x for name, x in PUBLIC.get(label, {}).items() if getattr(settings, name) is None}


def of_tokens(bundle: HeadBundle, settings: Asking, largest: int) -> list[Hypothesis]:
    """What can be asked of a bundle's tokens, with so many features at most; raises InputError for one without."""
    tokens = _tokens(bundle)
    numbers = _numbers(tokens, settings.numbers)
    return token_hypotheses(tokens, *positions(settings), numbers, largest, bundle.mask)


def samples_of(bundle: HeadBundle, layer: int, settings: Asking) -> Inputs:
    """What the heads of a layer read at queries and at keys, (n, D) and (n', D)."""
    queries, keys = (read_at(read_inputs(bundle)[layer], at, bundle.mask) for at in positions(settings))
    return queries, keys


def positions(settings: Where) -> tuple[slice, slice]:
    """Where queries and keys are; raises InputError for what says no positions."""
    return span("queries", settings.queries, "1:"), span("keys", settings.keys, ":")


def chosen_layer(bundle: HeadBundle, settings: Asking) -> int:
    """The layer asked about, by default the last."""
    count = len(bundle.W_Q)
    return index("layer", count - 1 if settings.layer is None else settings.layer, count)


def span(name: str, given: str | None, default: str) -> slice:
    """The positions that `given` says, first:end, or by default; raises InputError for what says none."""
    parts = (default if given is None else given).split(":")
    try:
        first, end = (int(part) if part.strip() else None for part in parts)
    except ValueError:
        raise InputError(f"{name} must be positions first:end, such as 1: or 7:11, got {given!r}") from None
    return slice(first, end)


def _tokens(bundle: HeadBundle) -> np.ndarray:
    """The tokens of the sequences that attn_in has."""
    shape, tokens = read_inputs(bundle).shape[1:3], bundle.others.get("tokens")
    if tokens is None:
        raise InputError("bundle must hold tokens for hypotheses about them, got one without: give hypotheses")
    if tokens.shape != shape:
        raise InputError(f"tokens must have shape {shape}, as attn_in has positions, got {tokens.shape}")
    return tokens


def _numbers(tokens: np.ndarray, count: int | None) -> np.ndarray | None:
    """The number that each token stands for: of the first `count` itself, of others NaN."""
    if count is None:
        return None
    token = np.arange(max(count, int(tokens.max()) + 1), dtype=float)
    return np.where(token < count, token, np.nan)
