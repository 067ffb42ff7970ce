"""SIGTERM and Ctrl-C: a question that the loop asks, and an exception elsewhere."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_held_back: list[int] = []


class Stopped(BaseException):
    """A signal outside of `watch`.

    Attributes:
      number: Of the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def watch() -> Generator[Callable[..., int | None]]:
    """Holds back the first SIGTERM or SIGINT; a second one acts at once, as if nobody watched.

    Signals reach the main thread alone; watched from another, nothing is ever caught. One that was
    caught and not asked for is sent again when all is over, unless the watcher stops anyway.

    Yields:
      A function that returns the number of the caught signal, or None; with `stops=True` it takes
      one that nobody asked for as told, as the watcher stops anyway.
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
    """Ends a program by `Stopped` at the first SIGTERM or SIGINT that nobody watches.

    One that follows another ends the process at once, whatever it is doing, with 128 + its number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def handle(number, frame):
        del frame
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
