"""SIGTERM and Ctrl-C as a question the loop asks, so that a run ends between two steps."""

import contextlib
import signal
import threading
from collections.abc import Callable, Generator


@contextlib.contextmanager
def watch() -> Generator[Callable[[], int | None]]:
    """Holds back the first SIGTERM or SIGINT; a second one acts at once, as if nobody watched.

    Signals reach the main thread alone; watched from another, nothing is ever caught.

    Yields:
      A function that returns the number of the caught signal, or None.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def handle(number, frame):
        del frame
        caught.append(number)
        for each in numbers:
            signal.signal(each, before[each])

    try:
        for number in numbers:
            signal.signal(number, handle)
        yield lambda: caught[0] if caught else None
    finally:
        for number in numbers:
            signal.signal(number, before[number])
