"""Progress and tables on a terminal read well; tests of the launcher cover plain lines."""

import io
import re

import pytest
from rich.console import Console

from quantjax import evaluate
from quantjax.run import console
from tests import toy

STEPS = [
    {
        "step": 4,
        "epoch": 0,
        "phase": "joint",
        "loss": 0.75,
        "data_wait": 0.0,
        "steps_per_second": 2.0,
    },
    {"step": 4, "epoch": 0, "after_epoch": 0, "dead_codewords": 3, "validation": 0.8125},
    {
        "step": 6,
        "epoch": 1,
        "phase": "joint",
        "loss": 0.03125,
        "data_wait": 0.25,
        "steps_per_second": 2.5,
    },
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
        "steps per second": "2.5",
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


def test_a_pipe_gets_the_time_left_and_what_the_first_step_took(monkeypatch, capsys):
    with console.progress(toy.experiment(toy.dqn(), num_epochs=3)) as report:
        for seconds, step in ((0, 2), (300, 5)):
            monkeypatch.setattr(console.time, "monotonic", lambda seconds=seconds: float(seconds))
            record = {"step": step, "epoch": 0, "loss": 0.5, "steps_per_second": 0.01}
            times = {"first_step_seconds": 12.34, "compile_seconds": 8.1} if step == 2 else {}
            report({**record, **times})
    assert capsys.readouterr().out.splitlines() == [
        "first step after 12.3 s, 8.1 s of it compiling",
        "step 2/12  epoch 1/3  loss 0.5000  0.0 steps/s",
        "step 5/12  epoch 1/3  loss 0.5000  0.0 steps/s  12 min left",
    ]


LONG = "triplet_quantization validation"


def results(name, distance, value=0.9736):
    number = evaluate.Number(
        metric=f"map@5000|ties=expected|den=capped|zero=0|dist={distance}",
        value=value, worst=value - 0.002, best=value, low=0.964, high=0.983, chance=0.105,
        shuffled=0.1, zeros=0,
    )  # fmt: skip
    blank = dict.fromkeys(evaluate.Results._fields)
    return evaluate.Results(
        **{**blank, "name": name, "distance": distance, "numbers": (number,), "bits": 1536}
    )


@pytest.mark.parametrize("columns", ["80", "200"])
def test_a_table_fits_80_columns_whatever_the_names(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    console.table([results(LONG, "aqd"), results(LONG, "sqd"), results("pq on pixels", "float")])
    assert (
        capsys.readouterr().out
        == """\
                      bits metric   value (95 % interval)  ties           chance
triplet_quantization validation
  real query, codes   1536 mAP@5000 0.974 (0.964 to 0.983) 0.972 to 0.974  0.105
  codes on both sides 1536 mAP@5000 0.974 (0.964 to 0.983) 0.972 to 0.974  0.105
pq on pixels
  no codes            1536 mAP@5000 0.974 (0.964 to 0.983) 0.972 to 0.974  0.105
metrics:
  map@5000|ties=expected|den=capped|zero=0|dist=aqd
  map@5000|ties=expected|den=capped|zero=0|dist=sqd
  map@5000|ties=expected|den=capped|zero=0|dist=float
"""
    )


def test_numbers_of_a_narrow_terminal_are_not_cut(monkeypatch):
    file = io.StringIO()
    shown = Console(file=file, force_terminal=True, width=40, color_system=None)
    monkeypatch.setattr(console, "_console", lambda: shown)
    names = "loss", "grad_norm", "quantization_loss", "steps_per_second"
    with console.progress(toy.experiment(toy.dqn(), num_epochs=3)) as report:
        report({"step": 5, "epoch": 1, **dict.fromkeys(names, 1234.5)})
    frame = last_frame(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue()))
    numbers = frame.splitlines()[1:]
    assert " ".join(numbers).count("1234") == len(names)
    assert "…" not in " ".join(numbers)
    assert max(map(len, numbers)) <= 40
