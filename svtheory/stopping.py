"""Stopping: Ctrl-C and SIGTERM end a command with one sentence, whenever they come."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def handled(handler: Callable[[int, Any], None], *numbers: int) -> Iterator[None]:
    """Let the handler answer these signals in this block, unless they are ignored, or this is not the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in caught}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def leave(number: int, _: Any) -> None:
    """A handler for while modules are imported, when nothing is to be kept: end the process, at once."""
    os.write(2, f"stopped by {signal.Signals(number).name}, before anything was computed\n".encode())
    os._exit(128 + number)


def at_once() -> contextlib.AbstractContextManager[None]:
    """Let Ctrl-C and SIGTERM end the process at once in this block."""
    return handled(leave, signal.SIGINT, signal.SIGTERM)
