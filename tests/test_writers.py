"""Curves are there for those who have the tools, and nothing is sent to those who did not ask."""

import struct
import sys
import types

import pytest

from quantjax import writers


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


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboardX")
    with writers.opened(tmp_path, "toy", {}) as (write,):
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
        with writers.opened(tmp_path, "toy", {}) as (write,):
            write({"step": step, "loss": 1.0})
    _, purged = events(tmp_path / "tensorboard")
    assert 15 in purged


class FakeRun:
    def __init__(self, **options):
        self.options, self.logged, self.finished = options, [], False

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A module in wandb's place, as it need not be installed."""
    runs = []
    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace(name="wandb")
    module.init = lambda **options: runs.append(FakeRun(**options)) or runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    return runs


def test_wandb_gets_the_run_where_a_project_is_named(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "codes")
    with writers.opened(tmp_path, "toy", {"bits": 8}) as (write,):
        for record in RECORDS:
            write(record)
    (run,) = wandb
    assert run.options["config"] == {"bits": 8}
    assert len(run.options["id"]) == 12
    assert run.options["resume"] == "allow"
    assert run.logged == [
        {"step/epoch": 0, "step/loss": 0.5, "step": 10},
        {"epoch/epoch": 0, "epoch/validation": 0.75, "epoch/dead_codewords": 3, "step": 10},
    ]
    assert run.finished
    with writers.opened(tmp_path, "toy", {}), writers.opened(tmp_path.parent, "toy", {}):
        ids = [each.options["id"] for each in wandb]
    assert ids[0] == ids[1] != ids[2]


def test_wandb_gets_nothing_unasked(tmp_path, wandb, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    with writers.opened(tmp_path, "toy", {}) as found:
        assert found == []
    assert wandb == []
