"""Reads ahead in a thread, so that devices do not wait for input."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

_PATIENCE = 0.25  # seconds between two looks at whether an item is still wanted


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

    abandoned = False

    def take(unless=None):
        nonlocal abandoned
        began = time.perf_counter()
        while True:
            try:
                item, error = ready.get(timeout=_PATIENCE)
                break
            except queue.Empty:
                if unless is not None and unless():
                    abandoned = True
                    raise GivenUpError from None
        waited = time.perf_counter() - began
        if error is not None:
            ready.put((None, error))
            raise error
        permits.put(True)  # from here on the other thread may take this one's core
        return item, waited

    thread = threading.Thread(target=draw, name="prefetch", daemon=True)
    thread.start()
    try:
        yield take
    finally:
        # Permits that are left come first, and are worth at most `depth` items nobody will take.
        with contextlib.suppress(queue.Empty):
            while True:
                permits.get_nowait()
        permits.put(False)
    if not abandoned:
        thread.join()
