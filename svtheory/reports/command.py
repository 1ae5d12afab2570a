"""A command line whose options are the fields of a dataclass and whose errors are one sentence."""

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import tyro

from svtheory.checks import InputError

# what tyro draws its boxes with, in UTF-8 and elsewhere
BORDER, RULE = "│╰╯ ", "─-"


@contextlib.contextmanager
def sentence_errors() -> Iterator[None]:
    """Turn a user's error into one sentence on stderr and an exit code; a bug keeps its traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def parsed(options: Any, program: str, description: str, arguments: Sequence[str]) -> Any:
    """The dataclass `options` as `arguments` ask for it; raises InputError for what they may not be."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                options,
                prog=program,
                description=description,
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code == 2:
            raise InputError(_sentence(printed.getvalue())) from None
        raise


def _sentence(box: str) -> str:
    """What tyro prints in a box under a title, as one sentence without the pointer to --help."""
    paragraphs: list[list[str]] = [[]]
    for line in (line.strip(BORDER) for line in box.splitlines()[1:]):
        if line and set(line) <= set(RULE):
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    texts = [" ".join(" ".join(lines).split()).rstrip(".") for lines in paragraphs]
    sentence = "; ".join(text for text in texts if text and not text.startswith("For full helptext"))
    return sentence.removeprefix("Error parsing ").removeprefix("config: ").replace("Argument helptext:", "allowed:")
