"""Scoring: what a bundle's metadata says of how its heads turn tokens into attention, every value checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svtheory.checks import InputError
from svtheory.prediction.rotary import PAIRINGS

VERSION = 3
POSITIONAL = ("rope", "rotary", "learned absolute", "learned", "absolute", "sinusoidal", "none")
"""Positional schemes whose score is `q^T k` of what W_Q and W_K read, rotated in the first two."""
NORMS = ("none", "per head", "all heads")
FLOATS = ("bfloat16", "float16", "float32", "float64")
ROPE = ("rope_pairing", "rope_dims", "rope_base")
KEYS = (
    *("bundle_version", "score_divisor", "score_cap", "window", "causal", "folded", "positional", *ROPE),
    *("query_key_norm", "query_key_epsilon", "weights_dtype"),
)


@dataclass(frozen=True, eq=False)
class Scoring:
    """How the heads of a bundle score.

    divisors        of the scores, one a layer
    windows         how many keys a query sees, one a layer; None is all
    cap             of what is softmaxed, or None
    causal, folded  as in Head
    frequencies     rotary angle a position, shape (layers, R/2), or None
    pairing         of the rotated rows
    query_key_norm  one of NORMS, with its epsilon
    weights_dtype   in which the weights were stored before they came here, or None
    """

    divisors: tuple[float, ...]
    windows: tuple[int | None, ...]
    cap: float | None
    causal: bool
    folded: bool
    frequencies: np.ndarray | None
    pairing: str
    query_key_norm: str
    query_key_epsilon: float | None
    weights_dtype: str | None


def read_scoring(metadata: Mapping[str, str], others: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Scoring:
    """What metadata and the arrays `rope_frequencies`, `q_gain` and `k_gain` say of W_Q of this shape.

    Words count in any case of letters, with blanks, hyphens or underscores.
    Raises InputError for a newer version, a known key that is spelled otherwise, a value that is not allowed, and for
    rotary or normalisation settings of heads that do not rotate or normalise.
    """
    layers, heads, d_head, _ = shape
    for key in metadata:
        if key not in KEYS and (known := key.strip().lower().replace("-", "_").replace(" ", "_")) in KEYS:
            raise InputError(f"metadata must spell {known!r} so, got {key!r}")
    check_version(metadata.get("bundle_version", "1"))
    causal = _flag(metadata, "causal", True)
    windows = _by_layer("window", metadata.get("window", "none"), layers, _window)
    if not causal and any(windows):
        raise InputError(f"window must be none for heads that are not causal, got {metadata['window']!r}")
    cap = metadata.get("score_cap", "none")
    norm, epsilon = _norm(metadata, others, (layers, heads, d_head))
    frequencies, pairing = _rotation(metadata, others, layers, d_head)
    return Scoring(
        divisors=_by_layer("score_divisor", metadata.get("score_divisor", repr(d_head**0.5)), layers, _number),
        windows=windows,
        cap=None if _plain(cap) == "none" else _number("score_cap", cap),
        causal=causal,
        folded=_flag(metadata, "folded", False),
        frequencies=frequencies,
        pairing=pairing,
        query_key_norm=norm,
        query_key_epsilon=epsilon,
        weights_dtype=_word(metadata, "weights_dtype", FLOATS) if "weights_dtype" in metadata else None,
    )


def check_version(text: str) -> None:
    """Raise InputError for a bundle_version that is not known here."""
    if _number("bundle_version", text, whole=True) > VERSION:
        raise InputError(f"bundle_version must be at most {VERSION}, the newest known here, got {text!r}")


def told_by_layer(values: Sequence[Any]) -> str:
    """Values of layers as metadata has them: one where all are alike, else one a layer; None is "none".

    >>> told_by_layer([8.0, 8.0]), told_by_layer([None, 16])
    ('8.0', 'none, 16')
    """
    words = ["none" if value is None else str(value) for value in values]
    return ", ".join(words[:1] if len(set(words)) == 1 else words)


def _rotation(
    metadata: Mapping[str, str], others: Mapping[str, np.ndarray], layers: int, d_head: int
) -> tuple[np.ndarray | None, str]:
    """Frequencies of each layer and the pairing of rows."""
    given = [name for name in ROPE if name in metadata]
    given += ["rope_frequencies"] if "rope_frequencies" in others else []
    if _word(metadata, "positional", POSITIONAL, "none") not in ("rope", "rotary"):
        if given:
            raise InputError(f'positional must be "rope" beside {given[0]}, got {metadata.get("positional")!r}')
        return None, PAIRINGS[-1]
    pairing = _word(metadata, "rope_pairing", PAIRINGS, "half-split")
    dims = _number("rope_dims", metadata.get("rope_dims", str(d_head)), whole=True)
    base = _number("rope_base", metadata.get("rope_base", "10000"))
    if "rope_frequencies" in others:
        theta = others["rope_frequencies"]
        if theta.dtype not in (np.float32, np.float64) or not np.isfinite(theta).all():
            raise InputError(f"rope_frequencies must be finite, in float32 or float64, got {theta.dtype}")
        if theta.ndim == 1:
            theta = np.broadcast_to(theta, (layers, *theta.shape))
        if theta.ndim != 2 or len(theta) != layers or not 0 < 2 * theta.shape[1] <= d_head:
            raise InputError(
                f"rope_frequencies must have shape (n,) or ({layers}, n), n from 1 to {d_head // 2} as heads have "
                f"{d_head} rows, got {others['rope_frequencies'].shape}"
            )
        if "rope_dims" in metadata and dims != 2 * theta.shape[1]:
            raise InputError(f"rope_dims must be {2 * theta.shape[1]}, as rope_frequencies say, got {dims}")
        return theta, pairing
    if dims % 2 or dims > d_head:
        raise InputError(f"rope_dims must be even and at most {d_head}, got {dims}")
    return np.broadcast_to(base ** -(np.arange(0, dims, 2) / dims), (layers, dims // 2)), pairing


def _norm(
    metadata: Mapping[str, str], others: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> tuple[str, float | None]:
    """The query-key norm and its epsilon, after a check of its gains."""
    kind = _word(metadata, "query_key_norm", NORMS, "none")
    gains = [name for name in ("q_gain", "k_gain") if name in others]
    if kind == "none":
        if given := [name for name in ("query_key_epsilon",) if name in metadata] + gains:
            raise InputError(
                f"query_key_norm must be 'per head' or 'all heads' beside {given[0]}, got "
                f"{metadata.get('query_key_norm')!r}"
            )
        return kind, None
    if "query_key_epsilon" not in metadata:
        raise InputError(f"query_key_epsilon must be given for query_key_norm {kind!r}, got none")
    for name in gains:
        if others[name].shape != shape or not np.isfinite(others[name]).all():
            raise InputError(f"{name} must be finite, of shape {shape}, got shape {others[name].shape}")
    return kind, _number("query_key_epsilon", metadata["query_key_epsilon"])


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("-", " ").replace("_", " ").split())


def _word(metadata: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    """The one of `allowed` that the metadata's `name` spells."""
    if name not in metadata and default is not None:
        return default
    for word in allowed:
        if _plain(metadata[name]) == _plain(word):
            return word
    raise InputError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {metadata[name]!r}")


def _flag(metadata: Mapping[str, str], name: str, default: bool) -> bool:
    return _word(metadata, name, ("True", "False"), str(default)) == "True"


def _number(name: str, text: str, whole: bool = False) -> Any:
    """A positive finite number, or whole number."""
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = 0
    if not 0 < number < np.inf:
        raise InputError(f"{name} must be a positive {'whole ' if whole else ''}number, got {text!r}")
    return number


def _window(name: str, text: str) -> int | None:
    return None if _plain(text) == "none" else _number(name, text, whole=True)


def _by_layer(name: str, text: str, layers: int, read: Callable[[str, str], Any]) -> tuple[Any, ...]:
    """One value for all layers, or one a layer, separated by commas."""
    values = [read(name, part) for part in text.split(",")]
    if len(values) not in (1, layers):
        raise InputError(f"{name} must be one value or {layers}, one a layer, got {len(values)}: {text!r}")
    return tuple(values) * (layers if len(values) == 1 else 1)
