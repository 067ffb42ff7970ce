"""Prefetches items in a background thread, so that devices do not wait for input."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

_PATIENCE = 0.25  # seconds between two checks of `unless`
_NAME = "prefetch"  # name of the threads


def abandoned() -> bool:
    """Returns whether a prefetch thread is still blocked on its source after the consumer left.

    Python itself waits for such a thread at exit if the source reads by a pool of threads.
    """
    threads = [thread for thread in threading.enumerate() if thread.name == _NAME]
    for thread in threads:
        thread.join(_PATIENCE)  # most have their item soon, and see that it was the last
    return any(thread.is_alive() for thread in threads)


class GivenUpError(Exception):
    """Reports that the consumer stopped waiting for the next item."""


@contextlib.contextmanager
def prefetched(
    items: Iterator[Any], *, depth: int = 2
) -> Generator[Callable[..., tuple[Any, float]]]:
    """Prefetches up to `depth` items of an iterator in a background thread.

    Args:
      items: Iterator, read in order. An exception that it raises reaches the consumer in place of
        the item.
      depth: Number of items that may be ready before the consumer asks for them.

    Yields:
      A function that returns the next item and the seconds of waiting for it. It raises LookupError
      after the last item. It raises GivenUpError if the optional function `unless()` returns True
      before the item is ready; on exit the context then does not wait for the thread.
    """
    # SimpleQueue takes no Python lock, so a thread that loses the CPU blocks no other thread.
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
        except BaseException as error:  # handed over to the consumer
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
