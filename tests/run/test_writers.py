"""Curves are written where the user asked, and nothing is uploaded unasked."""

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import types

import pytest

from quantjax.launch import running
from quantjax.run import console, writers
from tests.run import wandb_server


def events(folder):
    """Reads (tag, value, step) and the steps from which earlier files are purged."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found, purged = [], []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
            place += 16 + length
            if event.session_log.status:
                purged.append(event.step)
            found += [(each.tag, each.simple_value, event.step) for each in event.summary.value]
    return found, purged


RECORDS = [
    {"step": 10, "epoch": 0, "phase": "joint", "loss": 0.5, "skipped": "loss", "grad_norm": None},
    {"step": 10, "epoch": 0, "after_epoch": 0, "validation": 0.75, "dead_codewords": 3},
]

LOGGED = [
    {"step/epoch": 0, "step/loss": 0.5, "step": 10},
    {"epoch/epoch": 0, "epoch/validation": 0.75, "epoch/dead_codewords": 3, "step": 10},
]


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboardX")
    with writers.opened(tmp_path, "toy", {}, tensorboard=True) as (write,):
        for record in RECORDS:
            write(record)
    found, _ = events(tmp_path / "tensorboard")
    assert set(found) == {
        ("step/epoch", 0, 10),
        ("step/loss", 0.5, 10),
        ("epoch/epoch", 0, 10),
        ("epoch/validation", 0.75, 10),
        ("epoch/dead_codewords", 3, 10),
    }


def test_tensorboard_drops_what_a_resumed_run_does_again(tmp_path):
    pytest.importorskip("tensorboardX")
    for step in (20, 15):
        with writers.opened(tmp_path, "toy", {}, tensorboard=True) as (write,):
            write({"step": step, "loss": 1.0})
    _, purged = events(tmp_path / "tensorboard")
    assert 15 in purged


def logged_by_wandb(folder):
    """Reads what the real package has kept of a run: its settings and the steps of its history.

    Its files are those of LevelDB's log: blocks of 32 KiB, records with checksum, length and kind.
    """
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content = path.read_bytes()
    settings, history, place = None, [], 7
    while place + 7 <= len(content):
        _, length, kind = struct.unpack_from("<IHB", content, place)
        assert kind in (0, 1)  # no record of these few goes over the end of a block
        record = pb.Record.FromString(content[place + 7 : place + 7 + length])
        place += 7 + length
        if record.WhichOneof("record_type") == "run":
            settings = settings or record.run
        if record.WhichOneof("record_type") == "history":
            values = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            history.append({key: value for key, value in values.items() if key[0] != "_"})
    return settings, history


def test_wandb_has_every_number_in_the_workdir(tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    workdir = tmp_path / "run"
    workdir.mkdir()
    with writers.opened(workdir, "toy", {"bits": 8}) as (write,):
        for record in RECORDS:
            write(record)
    deadline = time.monotonic() + 30
    settings, history = logged_by_wandb(workdir)
    while history != LOGGED and time.monotonic() < deadline:  # a process of its own writes the file
        time.sleep(0.1)
        settings, history = logged_by_wandb(workdir)
    assert history == LOGGED
    assert (settings.project, settings.display_name, settings.run_group) == (
        "quantjax",
        "run",
        "toy",
    )
    (config,) = (item for item in settings.config.update if item.key == "bits")
    assert config.value_json == "8"
    assert settings.host == "unnamed"
    capfd.readouterr()  # the package says where it keeps the run


class Error(Exception):
    """In place of wandb's own."""


class FakeRun:
    def __init__(self, **options):
        self.options, self.logged, self.finished = options, [], False

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A module in wandb's place: the real one would send what it gets."""
    runs = []
    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace(name="wandb", origin="here")
    module.init = lambda **options: runs.append(FakeRun(**options)) or runs[-1]
    module.Settings, module.Error, module.runs = dict, Error, runs
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def test_wandb_is_sent_the_run_where_a_project_is_named(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "codes")
    with writers.opened(tmp_path, "toy", {"bits": 8}) as (write,):
        for record in RECORDS:
            write(record)
    (run,) = wandb.runs
    assert run.options["project"] == "codes"
    assert run.options["config"] == {"bits": 8}
    assert len(run.options["id"]) == 12
    assert run.options["resume"] == "allow"
    assert "mode" not in run.options
    assert run.logged == LOGGED
    assert run.finished
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "wandb", copy / "wandb")
    for workdir in (tmp_path, copy, tmp_path / "other"):
        with writers.opened(workdir, "toy", {}, wandb=True):
            pass
    first, again, *others = (each.options["id"] for each in wandb.runs)
    assert first == again
    assert len({first, *others}) == 3


def test_another_machines_run_of_the_same_path_is_another(tmp_path, wandb):
    for _ in range(2):
        with writers.opened(tmp_path, "toy", {}, wandb=True):
            pass
        shutil.rmtree(tmp_path / "wandb")
    a, b = (each.options["id"] for each in wandb.runs)
    assert a != b


@pytest.mark.parametrize(
    ("asked", "mode", "found"),
    [
        (False, None, 0),
        (True, None, 1),
        (False, "online", 1),
        (False, "offline", 1),
        (True, "disabled", 0),
    ],
)
def test_nothing_is_recorded_or_sent_unasked(tmp_path, wandb, monkeypatch, asked, mode, found):
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    with writers.opened(tmp_path, "toy", {}, wandb=asked) as written:
        assert len(written) == found
    assert len(wandb.runs) == found
    # The mode is wandb's own business: it reads the variable.
    assert all("mode" not in run.options for run in wandb.runs)


def test_wandb_tells_nothing_of_the_machine(tmp_path, wandb, monkeypatch):
    monkeypatch.delenv("WANDB_ERROR_REPORTING", raising=False)
    with writers.opened(tmp_path, "toy", {}, wandb=True):
        assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    settings = wandb.runs[0].options["settings"]
    assert settings["x_disable_meta"]
    assert settings["x_disable_machine_info"]
    pytest.importorskip("wandb.sdk").wandb_settings.Settings(**settings)  # its names are known


def test_a_server_that_is_down_stops_no_run(tmp_path, wandb, monkeypatch):
    class CommError(Error):
        pass

    begin, tried = wandb.init, []

    def init(**options):
        tried.append("init")
        if options.get("mode") != "offline":
            raise CommError("Run initialization has timed out after 90.0 sec.")
        return begin(**options)

    wandb.init, wandb.teardown = init, lambda: tried.append("teardown")
    with (
        pytest.warns(UserWarning, match=r"cannot be reached, the run is kept offline: Run init"),
        writers.opened(tmp_path, "toy", {}, wandb=True) as (write,),
    ):
        write(RECORDS[0])
    assert wandb.runs[0].logged == LOGGED[:1]
    # The real package takes the same id only after the end of its own process.
    assert tried == ["init", "teardown", "init"]


SENDING = """
import pathlib, sys
from quantjax.run import writers
writers._PATIENCE = 3
with writers.opened(pathlib.Path(sys.argv[1]), "toy", {}, wandb=True) as (write,):
    print("opened", flush=True)
    sys.stdin.readline()
    write({"step": 1, "loss": 0.5})
print("closed")
"""


def sending(workdir, port):
    """Starts a process that sends a record, after a line of its input, to a server on loopback."""
    pytest.importorskip("wandb")
    asked = {"WANDB_MODE": "online", "WANDB_BASE_URL": f"http://127.0.0.1:{port}"}
    return subprocess.Popen(
        [sys.executable, "-c", SENDING, str(workdir)],
        env={**os.environ, **asked, "WANDB_API_KEY": "a" * 40},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_the_real_package_keeps_a_run_offline_where_no_server_answers(tmp_path):
    with sending(tmp_path, 9) as process:
        said, errors = process.communicate("\n", timeout=100)
    assert process.returncode == 0, errors
    assert "closed" in said
    assert errors.count("UserWarning: Weights & Biases cannot be reached, the run is kept") == 1
    assert logged_by_wandb(tmp_path)[1] == [{"step/loss": 0.5, "step": 1}]


@pytest.mark.slow
def test_a_server_that_goes_away_holds_no_run_at_its_end(tmp_path):
    with wandb_server.serving() as server:
        process = sending(tmp_path, server.server_port)
        assert any(line == "opened\n" for line in process.stdout)
    assert "/graphql" in server.asked
    with process:
        said, errors = process.communicate("\n", timeout=100)
    assert (process.returncode, "closed" in said) == (0, True), errors
    assert list(tmp_path.glob("wandb/run-*/*.wandb"))  # for `wandb sync`


def test_a_run_that_cannot_be_sent_is_refused_in_one_line(tmp_path, wandb, monkeypatch):
    def init(**options):
        raise Error("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setenv("WANDB_PROJECT", "codes")
    wandb.init = init
    with (
        pytest.raises(ValueError, match=r"No API key configured.*log in; or set WANDB_MODE to"),
        writers.opened(tmp_path, "toy", {}),
    ):
        pass


@pytest.mark.parametrize("package", ["tensorboardX", "wandb"])
def test_a_package_that_is_asked_for_and_missing_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    asked = {"tensorboardX": "tensorboard", "wandb": "wandb"}[package]
    monkeypatch.setenv("WANDB_MODE", "offline" if package == "wandb" else "disabled")
    with (
        pytest.raises(ImportError, match=rf"not installed: pip install 'quantjax\[{asked}\]'"),
        writers.opened(tmp_path, "toy", {}, tensorboard=asked == "tensorboard"),
    ):
        pass


def test_a_disk_that_is_full_for_a_moment_keeps_no_process_from_its_end(tmp_path):
    pytest.importorskip("tensorboardX")
    program = f"""
import pathlib
from tensorboardX import event_file_writer, record_writer
from quantjax.run import writers

flush = record_writer.RecordWriter.flush
def fail(self):
    record_writer.RecordWriter.flush = flush
    raise OSError(28, "No space left on device")

folder = pathlib.Path({str(tmp_path)!r})
with writers.opened(folder, "toy", {{}}, tensorboard=True) as (write,):
    record_writer.RecordWriter.flush = fail
    for step in range(5000):
        write({{"step": step, "loss": 0.5}})
print("left")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (0, "left\n"), ended.stderr
    assert ended.stderr.count("No space left on device") == 1


def test_no_run_is_lost_for_a_curve(tmp_path, wandb, monkeypatch):
    tried = []

    def fail(self, *args):
        tried.append(args)
        raise OSError("disk full")

    def run():
        with writers.opened(tmp_path, "toy", {}, wandb=True) as (write,):
            for record in RECORDS:
                write(record)

    monkeypatch.setattr(FakeRun, "log", fail)
    monkeypatch.setattr(FakeRun, "finish", fail)
    with pytest.warns(UserWarning, match="no more curves are written, OSError: disk full") as told:
        run()
    assert [len(args) for args in tried] == [1, 0]  # one record, and the end
    assert len(told) == 2


def test_services_open_before_the_bar_and_close_after_it(tmp_path, monkeypatch):
    said = []

    @contextlib.contextmanager
    def noted(name, value):
        said.append(f"{name} begins")
        yield value
        said.append(f"{name} ends")

    monkeypatch.setattr(writers, "opened", lambda *_, **__: noted("service", []))
    monkeypatch.setattr(console, "progress", lambda _: noted("bar", print))
    about = {"experiment": "toy", "config": {}}
    with running._callbacks(None, tmp_path, about, {}) as callbacks:
        assert callbacks == [print]
    assert said == ["service begins", "bar begins", "bar ends", "service ends"]
