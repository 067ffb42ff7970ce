"""metrics.jsonl has every step once."""

import json

import jax
import jax.numpy as jnp
import pytest

from quantjax import errors, records


def note(journal, step, loss, *, log=True):
    where = {"step": step, "epoch": 0, "phase": "joint"}
    records.note(journal, where, {"loss": jnp.float32(loss)}, log=log)


def test_records_lag_one_step_and_settle(tmp_path):
    seen = []
    path = tmp_path / "metrics.jsonl"
    journal = records.open_journal(path, [seen.append], 0)
    note(journal, 1, 0.5)
    assert seen == []
    note(journal, 2, 0.25, log=False)
    note(journal, 3, 0.125)
    assert [record["step"] for record in seen] == [1]
    records.settle(journal)
    assert [(record["step"], record["loss"]) for record in seen] == [(1, 0.5), (3, 0.125)]
    assert [json.loads(line) for line in path.read_text().splitlines()] == seen
    assert journal.history == seen


def test_a_step_that_is_not_logged_is_checked_all_the_same():
    journal = records.open_journal(None, [], 0)
    note(journal, 1, float("inf"), log=False)
    with pytest.raises(errors.NonFiniteError, match=r"loss is inf at step 1 \(epoch 0, phase"):
        records.settle(journal)


def test_short_steps_are_checked_with_the_next_that_is_logged(monkeypatch):
    monkeypatch.setattr(records, "_GLANCE", 60.0)
    journal = records.open_journal(None, [], 0)
    for step, loss in ((1, 0.5), (2, float("nan")), (3, 0.5)):
        note(journal, step, loss, log=step == 3)
    assert len(journal.pending) == 3
    with pytest.raises(errors.NonFiniteError, match="loss is nan at step 2 "):
        note(journal, 4, 0.5, log=False)


@pytest.mark.parametrize(("name", "value"), [("_AHEAD", 1), ("_GLANCE", 0.0)])
def test_steps_are_checked_after_some_of_them_or_some_time(name, value, monkeypatch):
    for key, large in (("_AHEAD", 100), ("_GLANCE", 60.0)):
        monkeypatch.setattr(records, key, value if key == name else large)
    journal = records.open_journal(None, [], 0)
    note(journal, 1, float("nan"), log=False)
    with pytest.raises(errors.NonFiniteError, match="at step 1 "):
        note(journal, 2, 0.5, log=False)


class Computing:
    def is_ready(self):
        return False


def test_waiting_for_input_counts_where_nothing_else_is_left_to_do():
    journal = records.open_journal(None, [], 0)
    records.awaited(journal, 1.0)
    note(journal, 1, 0.5)
    journal.pending[-1][1]["loss"].block_until_ready()
    records.awaited(journal, 2.0)
    journal.pending.append(({"step": 2}, {"loss": Computing()}, False))
    records.awaited(journal, 4.0)
    assert journal.clock.waited == 3.0


def test_rewind_drops_later_steps_and_a_cut_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) for step in (2, 4, 6, 8)]
    path.write_text("\n".join(lines)[:-3])
    assert records.rewind(path, 4) == [{"step": 2}, {"step": 4}]
    assert path.read_text().splitlines() == lines[:2]
    path.write_text("\n".join(lines)[:-3])
    assert [record["step"] for record in records.rewind(path, 8)] == [2, 4, 6]
    assert records.rewind(tmp_path / "none.jsonl", 8) == []


def test_a_device_that_tells_its_memory_has_it_recorded(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_in_use": 1, "peak_bytes_in_use": 12345}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    journal = records.open_journal(None, [], 0)
    note(journal, 1, 0.5)
    records.settle(journal)
    assert journal.history[0]["device_memory_peak"] == 12345
