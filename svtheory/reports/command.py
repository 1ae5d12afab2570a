"""A command line whose options are the fields of a dataclass and whose errors are one sentence."""

import contextlib
import errno
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

from svtheory.checks import InputError
from svtheory.reports import memory, plotting, runs
from svtheory.reports.options import LARGEST_SEED
from svtheory.reports.page import prose, report
from svtheory.reports.runs import Outcome
from svtheory.stopping import handled

# what a disk answers that is full, over its quota, at its limit of a file's size, or not for this user
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
# what tyro draws its boxes with, in UTF-8 and elsewhere
BORDER, RULE = "│╰╯ ", "─-"


@contextlib.contextmanager
def sentence_errors() -> Iterator[None]:
    """Turn a user's error, or an interruption, into one sentence on stderr and an exit code; a bug keeps its traceback.

    2 for a wrong input or platform, 1 for numbers that are not finite, for a disk that is full or may not be used and
    for memory that is not there, 128 and the signal's number for Ctrl-C and SIGTERM.
    """
    try:
        with handled(_interrupt, signal.SIGTERM):  # as Ctrl-C does
            yield
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        sentence = "; ".join([f"stopped by {signal.Signals(number).name}", *getattr(stop, "__notes__", ())])
        print(sentence, file=sys.stderr)
        raise SystemExit(128 + number) from None
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        place = error.filename or "the run folder"
        print(f"error: {place} could not be read or written: {os.strerror(error.errno)}", file=sys.stderr)
        raise SystemExit(1) from None
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except (MemoryError, RuntimeError) as error:
        if not (found := _machine_error(error)):
            raise
        print(f"error: {found[1]}", file=sys.stderr)
        raise SystemExit(found[0]) from None


def _machine_error(error: Exception) -> tuple[int, str] | None:
    """Exit code and sentence for what this machine lacks, memory or the platform asked for; None for other errors."""
    text = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        return 1, f"this needs more memory than there is ({text or 'no more of it'}); ask for smaller sizes"
    try:
        jax.devices()
    except RuntimeError:
        return 2, f"JAX_PLATFORMS must name what jax can use here, got {os.environ.get('JAX_PLATFORMS')!r} ({text})"
    return None


def _interrupt(number: int, _: Any) -> None:
    raise KeyboardInterrupt(number)


def perform(name: str, folder: Path, config: Any, line: str, about: str, find: Callable[[Path], Outcome]) -> Outcome:
    """What `find(folder)` finds, left in its run folder with everything that a reader needs (svtheory.reports.runs).

    `line` is the command that asked for it, `about` the docstring that says what it is.
    """
    began = time.perf_counter()
    with memory.limited(), plotting.style(), runs.started(folder, name, config, line):
        outcome = find(folder)
        runs.finish(folder, outcome, time.perf_counter() - began)
        page = outcome.page or report(folder, about, outcome)
        with runs.atomic(folder / "report.html") as path:
            path.write_text(page, encoding="utf-8")
    return outcome


def parsed(options: Any, program: str, description: str, arguments: Sequence[str]) -> Any:
    """The dataclass `options` as `arguments` ask for it; raises InputError for what they may not be."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                options,
                prog=program,
                description=prose(description),
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code == 2:
            raise InputError(_sentence(printed.getvalue())) from None
        raise


def check_seed(options: Any) -> None:
    """Raise InputError for options whose seed, if they have one, is too small or too large."""
    if not 0 <= getattr(options, "seed", 0) <= LARGEST_SEED:
        raise InputError(f"--seed must be a whole number from 0 to {LARGEST_SEED}, got {options.seed}")


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
    for field in ("Error parsing ", "config: ", "machine: ", "source: ", "settings: "):
        sentence = sentence.removeprefix(field)
    return sentence.replace("Argument helptext:", "allowed:")
