"""Progress and tables on a terminal read well; tests of the launcher cover plain lines."""

import io
import os
import re
import sys

import pytest
from rich.console import Console

from quantjax.run import console
from tests import toy

STEPS = [
    {"step": 4, "epoch": 0, "phase": "joint", "loss": 0.75, "data_wait": 0.0},
    {"step": 4, "epoch": 0, "after_epoch": 0, "dead_codewords": 3, "validation": 0.8125},
    {"step": 6, "epoch": 1, "phase": "joint", "loss": 0.03125, "data_wait": 0.25},
]


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal of 120 characters has shown, without what moves its cursor."""
    file = io.StringIO()
    shown = Console(file=file, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(console, "_console", lambda: shown)
    return lambda: re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())


def last_frame(text):
    return text[text.rindex("training") :]


def test_a_terminal_has_a_bar_and_the_latest_numbers(terminal):
    with console.progress(toy.experiment(toy.dqn(), num_epochs=3)) as report:
        for record in STEPS:
            report(record)
    frame = last_frame(terminal())
    assert "6/12 steps" in frame
    names, numbers = (re.split(r"\s{2,}", line.strip()) for line in frame.splitlines()[1:3])
    assert dict(zip(names, numbers, strict=True)) == {
        "epoch": "1",  # the step's own, not the one that ended
        "loss": "0.03125",
        "data wait": "0.25",
        "dead codewords": "3",
        "validation": "0.8125",
    }


def test_a_number_that_is_not_finite_is_shown_as_such(terminal):
    with console.progress(toy.experiment(toy.dqn(), num_epochs=3)) as report:
        report({"step": 5, "epoch": 1, "phase": "joint", "loss": None, "skipped": "loss"})
    assert "not finite" in last_frame(terminal())


def test_what_is_counted_has_a_bar(terminal):
    with console.counter("photos") as report:
        for done in (1, 3):
            report(done, 3)
    assert "3/3" in terminal().splitlines()[-1]


def test_a_pipe_gets_the_rate_and_the_time_left_of_what_is_counted(monkeypatch, capsys):
    with console.counter("photos") as report:
        # The first 100 were done before this program started.
        for seconds, done in ((0, 100), (10, 200), (11, 220), (300, 400), (330, 1000)):
            monkeypatch.setattr(console.time, "monotonic", lambda seconds=seconds: float(seconds))
            report(done, 1000)
    assert capsys.readouterr().out.splitlines() == [
        "photos: 100/1000",
        "photos: 200/1000, 10/s, 80 s left",
        "photos: 400/1000, 1/s, 10 min left",
        "photos: 1000/1000, 3/s",
    ]


def test_a_pipe_gets_plain_lines_even_where_colour_is_forced(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with console.progress(toy.experiment(toy.dqn(), num_epochs=3)) as report:
        report({"step": 12, "epoch": 2, "loss": 0.5, "steps_per_second": 1.0})
    console.say("word " * 30)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["step 12/12  epoch 3/3  loss 0.5000  1.0 steps/s", "word " * 30]


def test_output_that_nobody_reads_is_dropped(monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with console.surviving_output():
            console.say("read")
            assert os.read(reader, 100) == b"read\n"
            os.close(reader)
            for _ in range(3):
                console.say("not read")
            print("nor this", flush=True)
            os.write(writer, b"nor what a library writes")
        assert sys.stdout is stream
