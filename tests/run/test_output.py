"""The output of a run outlives its reader, has times, and is kept in a log."""

import os
import re
import sys

import pytest

from quantjax.run import console, output

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


def test_output_that_nobody_reads_is_dropped(monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with output.kept():
            console.say("read")
            assert re.fullmatch(rb"\d\d:\d\d:\d\d read\n", os.read(reader, 100))
            os.close(reader)
            for _ in range(3):
                console.say("not read")
            print("nor this", flush=True)
            os.write(writer, b"nor what a library writes")
        assert sys.stdout is stream


def test_lines_of_a_run_have_times_and_go_into_its_log(tmp_path, capsys):
    path = tmp_path / "logs" / "process-0.log"
    with output.kept():
        console.say("ahead of the file")
        output.log_into(path)
        console.say("and after\nit")
        sys.stderr.write("er")
        sys.stderr.write("ror\n")
        output.log("for the log alone")
    console.say("outside")
    due = ["ahead of the file", "and after", "it", "error", "for the log alone"]
    lines = path.read_text().splitlines()
    assert [re.sub(f"^{TIME}", "", line) for line in lines] == due
    assert all(re.match(TIME, line) for line in lines)
    shown = capsys.readouterr()
    assert re.fullmatch(r"(\d\d:){2}\d\d ahead of the file\n.* and after\nit\noutside\n", shown.out)
    assert shown.err == "error\n"


def test_a_second_start_goes_on_in_the_log(tmp_path):
    for _ in range(2):
        with output.kept():
            output.log_into(tmp_path / "logs" / "process-0.log")
            console.say("started")
    assert len((tmp_path / "logs" / "process-0.log").read_text().splitlines()) == 2


def test_a_silent_process_has_its_lines_in_its_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(console, "_silent", True)
    with output.kept():
        output.log_into(tmp_path / "logs" / "process-1.log")
        console.say("a line")
    assert (tmp_path / "logs" / "process-1.log").read_text().endswith(" a line\n")
    assert capsys.readouterr().out == ""


def test_a_log_is_not_written_through_a_link(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "key").write_text("secret")
    (tmp_path / "logs" / "process-0.log").symlink_to(tmp_path / "key")
    with output.kept(), pytest.raises(ValueError, match="must be a plain file"):
        output.log_into(tmp_path / "logs" / "process-0.log")
    assert (tmp_path / "key").read_text() == "secret"


def test_a_full_disk_under_the_log_ends_nothing(capsys):
    with output.kept():
        output._log._file = output._log.stack.enter_context(open("/dev/full", "w"))  # noqa: SIM115
        console.say("shown and lost")
    assert "shown and lost" in capsys.readouterr().out
