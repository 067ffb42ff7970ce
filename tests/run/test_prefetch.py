"""Items come in order, ahead of time, and errors where they belong."""

import threading
import time

import pytest

from quantjax.run import prefetch


def test_items_come_in_order_and_ahead():
    drawn = []

    def items():
        for number in range(10):
            drawn.append(number)
            yield number

    with prefetch.prefetched(items(), depth=3) as take:
        deadline = time.monotonic() + 5
        while len(drawn) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert drawn == [0, 1, 2]
        taken = [take() for _ in range(10)]
        assert [item for item, _ in taken] == list(range(10))
        with pytest.raises(LookupError, match="no more"):
            take()


def test_waiting_is_measured():
    def items():
        time.sleep(0.2)
        yield 0

    with prefetch.prefetched(items()) as take:
        _, waited = take()
    assert 0.1 < waited < 2


def test_an_error_comes_where_its_item_would_have():
    def items():
        yield 0
        raise RuntimeError("no more")

    with prefetch.prefetched(items()) as take:
        assert take()[0] == 0
        with pytest.raises(RuntimeError, match="no more"):
            take()


def test_leaving_early_ends_the_thread():
    def endless():
        while True:
            yield 0

    before = threading.active_count()
    with prefetch.prefetched(endless()) as take:
        take()
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_an_item_that_nobody_wants_any_more_is_not_waited_for():
    stalled = threading.Event()

    def items():
        yield 0
        stalled.wait(60)
        yield 1

    began = time.monotonic()
    asked = []
    with prefetch.prefetched(items()) as take:
        assert take(lambda: True)[0] == 0  # what is there is given
        with pytest.raises(prefetch.GivenUpError):
            take(lambda: asked.append(1) or len(asked) == 2)
    assert len(asked) == 2
    assert time.monotonic() - began < 10
    stalled.set()
