"""Spelled: the tokens that a dataset names as text, by a tokenizer, and a token in the text that stands around it."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from tokenizers import Tokenizer

from svtheory.checkpoints.texts import pieces, read_tokenizer
from svtheory.heads.bundles import HeadBundle

AROUND = 4
"""Tokens on either side of a marked one."""


def tokenizer_of(model: Any) -> Tokenizer | None:
    """The tokenizer in a model's folder, None where it has none."""
    folder = getattr(model, "folder", None)
    return read_tokenizer(folder) if folder is not None and (Path(folder) / "tokenizer.json").is_file() else None


def spelled(results: xr.Dataset, bundle: HeadBundle, tokenizer: Tokenizer | None) -> xr.Dataset:
    """The dataset with the bundle's tokens, -1 where there is padding, and all tokens that it names as text.

    A token of several symbols has an axis more. Nothing of a bundle without tokens, no text without a tokenizer.
    """
    tokens = bundle.others.get("tokens")
    if tokens is not None and tokens.shape[:2] == bundle.real.shape:
        real = bundle.real.reshape(*bundle.real.shape, *(1,) * (tokens.ndim - 2))
        results["token"] = ("sequence", "position", "symbol")[: tokens.ndim], np.where(real, tokens, -1)
    if tokenizer is None:
        return results
    if "token" in results and results.token.ndim == 2:
        rows = [list(map(_held, pieces(tokenizer, row[row >= 0]))) for row in results.token.values]
        width = results.sizes["position"]
        results["piece"] = results.token.dims, np.array([row + [""] * (width - len(row)) for row in rows])
    for name in [name for name in results if str(name).endswith("_token")]:
        ids, at = np.unique(results[name], return_inverse=True)
        words = np.array([_word(tokenizer, token) for token in ids.tolist()])
        results[str(name).replace("_token", "_piece")] = results[name].dims, words[at].reshape(results[name].shape)
    return results


def _word(tokenizer: Tokenizer, token: int) -> str:
    """A token by itself, "" of none."""
    return _held(tokenizer.decode([token], skip_special_tokens=False)) if token >= 0 else ""


def _held(text: str) -> str:
    """Text that arrays and files hold: of a NUL, at which text ends there, its picture."""
    return text.replace("\0", "␀")


def marked(results: xr.Dataset, sequence: int, position: int, around: int = AROUND) -> str:
    """A token in «», between those around it; without text by its id, without tokens by sequence and position.

    >>> some = xr.Dataset({"token": (("sequence", "position"), np.array([[7, 8, 9, -1]]))})
    >>> marked(some, 0, 1), marked(xr.Dataset(), 3, 5)
    ('7 «8» 9', '«sequence 3, position 5»')
    """
    if "token" not in results:
        return f"«sequence {sequence}, position {position}»"
    text = "piece" in results
    row = results["piece" if text else "token"].values[sequence]
    kept = range(max(0, position - around), min(len(row), position + around + 1))
    names = [str(row[i]) if text else _id(row[i]) for i in kept]
    names[position - kept.start] = f"«{names[position - kept.start]}»"
    return ("" if text else " ").join(name for name in names if name).replace("\n", "⏎")


def _id(token: Any) -> str:
    """A token's id, or those of its symbols; "" of padding."""
    return "+".join(str(symbol) for symbol in np.atleast_1d(token).tolist() if symbol >= 0)
