"""Reads ahead in a thread, so that devices do not wait for input."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

_END = object()


@contextlib.contextmanager
def ahead(items: Iterator[Any], *, depth: int = 2) -> Generator[Callable[[], tuple[Any, float]]]:
    """Draws items in a thread of their own, up to `depth` ahead of who asks for them.

    Args:
      items: Drawn in order; what it raises is raised where its item would have been.
      depth: How many may wait.

    Yields:
      A function that returns the next item, and the seconds it was waited for. It raises
      LookupError after the last. Left by an exception, nothing waits for the item being drawn.
    """
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item, error=None):
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((item, error), timeout=0.1)
                return

    def draw():
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(_END)
        except BaseException as error:  # handed over to who asks
            put(_END, error)

    def take():
        began = time.perf_counter()
        item, error = ready.get()
        if error is not None:
            raise error
        if item is _END:
            raise LookupError("there are no more items")
        return item, time.perf_counter() - began

    thread = threading.Thread(target=draw, name="prefetch", daemon=True)
    thread.start()
    try:
        yield take
    except BaseException:
        stopped.set()
        raise
    stopped.set()
    thread.join()
