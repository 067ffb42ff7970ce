"""Reads ahead in a thread, so that devices do not wait for input."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

_PATIENCE = 0.25  # seconds between two looks at whether an item is still wanted
_NAME = "prefetch"  # of the threads


def abandoned() -> bool:
    """Tells whether something is being drawn that nobody waits for.

    Python waits for it at its own end where it is drawn by a pool of threads.
    """
    threads = [thread for thread in threading.enumerate() if thread.name == _NAME]
    for thread in threads:
        thread.join(_PATIENCE)  # most have their item soon, and see that it was the last
    return any(thread.is_alive() for thread in threads)


class GivenUpError(Exception):
    """Nobody waits for the item any more."""


@contextlib.contextmanager
def ahead(items: Iterator[Any], *, depth: int = 2) -> Generator[Callable[..., tuple[Any, float]]]:
    """Draws items in a thread of their own, up to `depth` ahead of who asks for them.

    Args:
      items: Drawn in order; what it raises is raised where its item would have been.
      depth: How many may wait.

    Yields:
      A function that returns the next item, and the seconds it was waited for. It raises
      LookupError after the last, and GivenUpError if `unless()`, when given, turns true before the
      item is there. Left after that, or by an exception, nothing waits for the item being drawn.
    """
    # Queues without locks of their own: a thread that loses its turn holds nobody up.
    ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    permits: queue.SimpleQueue[bool] = queue.SimpleQueue()
    for _ in range(depth):
        permits.put(True)

    def draw():
        try:
            while permits.get():
                ready.put((next(items), None))
        except StopIteration:
            ready.put((None, LookupError("there are no more items")))
        except BaseException as error:  # handed over to who asks
            ready.put((None, error))

    given_up = False

    def take(unless=None):
        nonlocal given_up
        began = time.perf_counter()
        while True:
            try:
                item, error = ready.get(timeout=_PATIENCE)
                break
            except queue.Empty:
                if unless is not None and unless():
                    given_up = True
                    raise GivenUpError from None
        waited = time.perf_counter() - began
        if error is not None:
            ready.put((None, error))
            raise error
        permits.put(True)  # from here on the other thread may take this one's core
        return item, waited

    thread = threading.Thread(target=draw, name=_NAME, daemon=True)
    thread.start()
    try:
        yield take
    finally:
        # Permits that are left come first, and are worth at most `depth` items nobody will take.
        with contextlib.suppress(queue.Empty):
            while True:
                permits.get_nowait()
        permits.put(False)
    if not given_up:
        thread.join()
