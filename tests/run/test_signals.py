"""The first signal asks, the second one acts."""

import os
import signal
import threading

import pytest

from quantjax.run import signals


def test_the_first_signal_is_held_and_the_second_acts():
    with signals.watch() as caught:
        assert caught() is None
        os.kill(os.getpid(), signal.SIGINT)
        assert caught() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", signals.POLITE)
def test_a_signal_of_a_scheduler_is_held_and_cuts_nothing_off_when_it_comes_again(number):
    with signals.watch() as caught:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert caught() == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_later_signal_does_not_cut_off_the_clean_up():
    def clean_up():
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(signals.Stopped) as stopped, signals.ending():
        clean_up()
    assert stopped.value.number == signal.SIGHUP


def test_a_lost_terminal_ends_no_run_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.ending(), signals.watch() as caught:
            os.kill(os.getpid(), signal.SIGHUP)
            assert caught() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), signals.watch():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_watches_nothing():
    out = []

    def run():
        with signals.watch() as caught:
            out.append(caught())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert out == [None]


def test_a_signal_that_nobody_asked_for_comes_again():
    def run():
        with signals.watch() as caught:
            assert caught() is None
            os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on")

    with signals.ending(), pytest.raises(signals.Stopped) as stopped:
        run()
    assert stopped.value.number == signal.SIGTERM


def test_one_that_was_told_of_does_not():
    with signals.ending(), signals.watch() as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught() == signal.SIGTERM


def test_what_another_thread_watches_hides_no_signal():
    def run():
        with signals.watch():
            pass

    with signals.watch() as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert caught() == signal.SIGTERM


def test_nor_does_one_that_comes_to_who_stops_anyway():
    with signals.ending(), signals.watch() as caught:
        caught(stops=True)
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_process_on_its_way_out_can_ignore_what_its_launcher_sends():
    before = {number: signal.getsignal(number) for number in (*signals.POLITE, signal.SIGINT)}
    try:
        with signals.ending() as ignore_later_ones:
            ignore_later_ones()
        for number in signals.POLITE:
            os.kill(os.getpid(), number)
        assert signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
