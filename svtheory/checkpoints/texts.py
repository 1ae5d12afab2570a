"""Texts: what a folder's tokenizer makes of them, as rows of tokens for its model.

Files of text are UTF-8, whatever the machine's own encoding is.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from svtheory.checks import InputError, flag, index


def read_text(path: Path) -> str:
    """The text of a file in UTF-8; raises InputError at the first byte that is none, OSError as opening a file does."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{path.name} must be UTF-8 text, got byte 0x{byte:02x} at {error.start}") from error


def tokenize(folder: str | Path, text: str) -> list[int]:
    """The tokens of a whole text by the folder's tokenizer.json, with the special tokens that it adds.

    Truncation, padding and dropout of merges, which a tokenizer.json may have kept from training, are left out.
    Raises InputError for a file that is no tokenizer and for a text that is not Unicode.
    """
    return read_tokenizer(folder).encode(checked_text(text)).ids


def read_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a folder's tokenizer.json, which reads texts whole and always in the same way."""
    path = Path(folder) / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(read_text(path))
    except InputError:
        raise
    except Exception as error:  # tokenizers raises nothing more special
        raise InputError(f"tokenizer.json must be a tokenizer's file, got {str(path)!r}: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if hasattr(tokenizer.model, "dropout"):
        tokenizer.model.dropout = None
    return tokenizer


def pieces(tokenizer: Tokenizer, tokens: Iterable[int]) -> list[str]:
    """The text of each token of a sequence, which joined are the text of all.

    A letter that takes several tokens stands with the last of them.
    """
    ids, stream = [int(token) for token in tokens], DecodeStream(skip_special_tokens=False)
    try:
        return [stream.step(tokenizer, token) or "" for token in ids]
    except Exception:  # of decoders that change what came before; tokenizers raises nothing more special
        return [tokenizer.decode([token], skip_special_tokens=False) for token in ids]


def checked_text(text: Any) -> str:
    """The text; raises InputError for what is no text, or holds what is no letter of Unicode."""
    try:
        text.encode()
    except (AttributeError, UnicodeError) as error:
        raise InputError(f"text must be Unicode text, got {text!r:.60}: {error}") from error
    return text


class Reader:
    """Texts as a model is to read them, in rows of tokens that begin alike.

    folder  of the model, with its tokenizer.json
    bos     True: each row begins with the special tokens that the tokenizer puts first, or where it puts none, with the
            given `bos_token`; False: with none; None: as the tokenizer has it

    What it puts behind a text is left out.
    Raises InputError for a file that is no tokenizer.
    """

    def __init__(self, folder: Path, bos: bool | None, bos_token: Any):
        self._tokenizer = read_tokenizer(folder)
        self._bos = None if bos is None else flag("bos", bos)
        self._bos_token = bos_token

    def prompt(self, text: str) -> list[int]:
        """The tokens of one prompt, and what comes before it."""
        before, tokens = self._read(text)
        return before + tokens

    def rows(self, text: str, positions: int) -> tuple[np.ndarray, int]:
        """A text cut into rows of `positions` tokens, shape (rows, positions), and how many tokens are left over."""
        before, tokens = self._read(text)
        if (step := positions - len(before)) < 1:
            raise InputError(f"positions must be more than {len(before)}, which each row begins with, got {positions}")
        body = np.array(tokens[: len(tokens) // step * step], int).reshape(-1, step)
        return np.concatenate([np.tile(np.array(before, int), (len(body), 1)), body], axis=1), len(tokens) - body.size

    def _read(self, text: str) -> tuple[list[int], list[int]]:
        """What a row begins with, and the tokens of the text itself."""
        found = self._tokenizer.encode(checked_text(text))
        own = np.flatnonzero(np.array(found.special_tokens_mask) == 0)  # what the text spells is not special
        first, last = (own[0], own[-1] + 1) if len(own) else (len(found.ids), len(found.ids))
        before = [] if self._bos is False else found.ids[:first]
        if self._bos and not before:
            before = [index("bos_token_id of config.json", self._bos_token, self._tokenizer.get_vocab_size())]
        return before, found.ids[first:last]


def padded(given: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of tokens as one array (sequences, positions), and where it holds tokens; None if all are of one length.

    Shorter rows are padded with their last token. Raises InputError for rows that are none, or empty.
    """
    rows = list(given) if np.iterable(given) else []
    if not rows or not all(np.ndim(row) == 1 and len(row) for row in rows):
        raise InputError(f"tokens must be rows of at least one token, got {given!r:.60}")
    lengths, held = np.array([len(row) for row in rows]), np.concatenate([np.asarray(row) for row in rows])
    mask = np.arange(lengths.max())[None] < lengths[:, None]
    # no token sees the padding behind it; the last one again adds none that is not there
    at = np.minimum(np.arange(lengths.max())[None], lengths[:, None] - 1) + (lengths.cumsum() - lengths)[:, None]
    return held[at], None if mask.all() else mask
