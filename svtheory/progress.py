"""Progress: how far long work has come and how long it will still take, on stderr, for work that takes some seconds."""

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 2.0  # seconds before anything is shown
EVERY = 60.0  # seconds between lines where the output is no terminal
_shown: ContextVar[bool] = ContextVar("a bar of progress is shown", default=False)


def track(items: Iterable[T], doing: str, total: int | None = None) -> Iterator[T]:
    """The items, one after the other, while a bar (in a log, a line a minute) says how long they will still take.

    `total` is their number where they have no length. Work that ends within 2 seconds shows nothing, nor does what is
    tracked within something tracked.
    """
    number = total if total is not None else len(items) if isinstance(items, Sized) else None
    if _shown.get() or sys.stderr is None:  # as where it is closed
        yield from items
        return
    token = _shown.set(True)
    try:
        with contextlib.closing(_bar(doing, number) if sys.stderr.isatty() else _lines(doing, number)) as meter:
            next(meter)
            for done, item in enumerate(items, 1):
                yield item
                meter.send(done)
    finally:
        with contextlib.suppress(ValueError):  # the consumer let go of it in another context
            _shown.reset(token)


def rounds(doing: str, each: int, most: int) -> Generator[int, None, None]:
    """Rounds of `each` draws, up to the last of `most`, which may not be needed: a bar while they are asked for.

    What it says is left is therefore what there may be, at most.
    """
    number = -(-most // each)
    yield from track(range(number), f"{doing}, rounds of {each}, at most")


def _bar(doing: str, total: int | None):
    """A bar, erased at the end; sent how many items are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    began, bar, task = time.monotonic(), None, None
    done = yield
    try:
        while True:
            if bar is None and time.monotonic() - began > PATIENCE:
                bar = Progress(*columns, console=Console(stderr=True), transient=True)
                task = bar.add_task(doing, total=total)
                bar.start()
            if bar is not None and task is not None:
                bar.update(task, completed=done or 0)
            done = yield
    finally:
        if bar is not None:
            bar.stop()


def _lines(doing: str, total: int | None):
    """A line a minute; sent how many items are done."""
    began, say = time.monotonic(), logged()
    done = yield
    while True:
        if done:
            seconds = time.monotonic() - began
            of = f" of {total}, some {seconds * (total - done) / done:.0f} s left" if total else ""
            say(f"{doing}: {done}{of}")
        done = yield


def logged() -> Callable[[str], None]:
    """What prints a line on stderr, unless it printed one within a minute, or this work has just begun."""
    due = time.monotonic() + PATIENCE

    def say(line: str) -> None:
        nonlocal due
        if time.monotonic() > due:
            print(line, file=sys.stderr, flush=True)
            due = time.monotonic() + EVERY

    return say
