"""Handles the signals that end a run: the training loop polls for them, other code is interrupted.

SIGTERM, SIGHUP (a lost terminal) and SIGUSR1 (which clusters send ahead of the end) ask a run to
save its state and end; so does a first Ctrl-C. A second Ctrl-C ends the process at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator

POLITE = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals after which a run saves its state and exits with "try again"."""

_held_back: list[int] = []


class Stopped(BaseException):
    """Reports a signal to end that arrived outside of `watch`.

    Attributes:
      number: Number of the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def watch() -> Generator[Callable[..., int | None]]:
    """Catches the signals to end, so that a loop can poll for them and stop cleanly.

    Later signals of `POLITE` change nothing, so that no save under way is cut off. A Ctrl-C after
    the first signal acts as it would without `watch`. Signals reach the main thread only; in
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
    ctrl_c = signal.getsignal(signal.SIGINT)

    def handle(number, frame):
        del frame
        _held_back.append(number)
        # The handler is restored at once, so that a later Ctrl-C acts as usual.
        signal.signal(signal.SIGINT, ctrl_c)

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
def ending() -> Generator[Callable[[], None]]:
    """Raises `Stopped` at the first signal to end outside of `watch`.

    A Ctrl-C after the first signal ends the process at once, with exit code 130; other signals
    after the first do nothing.

    Yields:
      A function after which signals of `POLITE` do nothing in the rest of the process: a launcher
      sends them to the processes that are still on their way out when the first has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    seen: list[int] = []

    def handle(number, frame):
        del frame
        # A signal that `watch` caught counts as the first.
        if seen or _held_back:
            if number == signal.SIGINT:
                os._exit(128 + number)
            return
        seen.append(number)
        raise Stopped(number)

    _held_back.clear()
    with _handling(handle) as later:
        yield lambda: later.update(dict.fromkeys(POLITE, signal.SIG_IGN))


@contextlib.contextmanager
def _handling(handle):
    before = {number: signal.getsignal(number) for number in (*POLITE, signal.SIGINT)}
    # `nohup` ignores SIGHUP, so that a run outlives its terminal.
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    try:
        for number in before:
            signal.signal(number, handle)
        yield before
    finally:
        for number in before:
            signal.signal(number, before[number])
