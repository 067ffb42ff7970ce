"""Handles SIGTERM and Ctrl-C: the training loop polls for them, other code gets an exception."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_held_back: list[int] = []


class Stopped(BaseException):
    """Reports a SIGTERM or SIGINT that arrived outside of `watch`.

    Attributes:
      number: Number of the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def watch() -> Generator[Callable[..., int | None]]:
    """Catches the first SIGTERM or SIGINT, so that a loop can poll for it and stop cleanly.

    A second signal acts as it would without `watch`. Signals reach the main thread only; in
    another thread no signal is caught. A caught signal that the loop never polled is sent again on
    exit, unless the loop stops anyway.

    Yields:
      A function that returns the number of the caught signal, or None. `stops=True` says that the
      loop stops anyway, so that a later signal is not sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda stops=False: None
        return
    _held_back.clear()
    told = False
    before = {number: signal.getsignal(number) for number in _NUMBERS}

    def handle(number, frame):
        del frame
        _held_back.append(number)
        # Handlers are restored at once, so that a second signal acts as usual.
        for each in _NUMBERS:
            signal.signal(each, before[each])

    def caught(stops=False):
        nonlocal told
        number = _held_back[0] if _held_back else None
        told = told or stops or number is not None
        return number

    with _handling(handle):
        yield caught
    if _held_back and not told:
        os.kill(os.getpid(), _held_back.pop())


@contextlib.contextmanager
def ending() -> Generator[None]:
    """Raises `Stopped` at the first SIGTERM or SIGINT outside of `watch`.

    A second signal ends the process at once, with exit code 128 + the signal's number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def handle(number, frame):
        del frame
        # A signal that `watch` caught counts as the first.
        if seen or _held_back:
            os._exit(128 + number)
        seen.append(number)
        raise Stopped(number)

    _held_back.clear()
    with _handling(handle):
        yield


@contextlib.contextmanager
def _handling(handle):
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    try:
        for number in _NUMBERS:
            signal.signal(number, handle)
        yield
    finally:
        for number in _NUMBERS:
            signal.signal(number, before[number])
