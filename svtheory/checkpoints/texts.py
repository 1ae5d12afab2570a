"""Texts: files of text are UTF-8, whatever the machine's own encoding is."""

from pathlib import Path

from svtheory.checks import InputError


def read_text(path: Path) -> str:
    """The text of a file in UTF-8; raises InputError at the first byte that is none, OSError as opening a file does."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{path.name} must be UTF-8 text, got byte 0x{byte:02x} at {error.start}") from error
