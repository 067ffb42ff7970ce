"""metrics.jsonl has every step once."""

import datetime
import json

import jax
import jax.numpy as jnp
import pytest

from quantjax import errors
from quantjax.run import metric_log


def note(journal, step, loss, *, log=True):
    where = {"step": step, "epoch": 0, "phase": "joint"}
    metric_log.queue(journal, where, {"loss": jnp.float32(loss)}, log=log)


def test_records_lag_one_step_until_they_are_flushed(tmp_path):
    seen = []
    path = tmp_path / "metrics.jsonl"
    journal = metric_log.open_journal(path, [seen.append], 0)
    note(journal, 1, 0.5)
    assert seen == []
    note(journal, 2, 0.25, log=False)
    note(journal, 3, 0.125)
    assert [record["step"] for record in seen] == [1]
    metric_log.flush(journal)
    assert [(record["step"], record["loss"]) for record in seen] == [(1, 0.5), (3, 0.125)]
    assert [json.loads(line) for line in path.read_text().splitlines()] == seen
    assert journal.history == seen


def test_a_step_that_is_not_logged_is_checked_all_the_same():
    journal = metric_log.open_journal(None, [], 0)
    note(journal, 1, float("inf"), log=False)
    with pytest.raises(errors.NonFiniteError, match=r"loss is inf at step 1 \(epoch 0, phase"):
        metric_log.flush(journal)


def test_short_steps_are_checked_with_the_next_that_is_logged(monkeypatch):
    monkeypatch.setattr(metric_log, "_CHECK_AFTER", 60.0)
    journal = metric_log.open_journal(None, [], 0)
    for step, loss in ((1, 0.5), (2, float("nan")), (3, 0.5)):
        note(journal, step, loss, log=step == 3)
    assert len(journal.pending) == 3
    with pytest.raises(errors.NonFiniteError, match="loss is nan at step 2 "):
        note(journal, 4, 0.5, log=False)


LEAVES = {"joint": ["the gradient of net/kernel", "state mean"], "other": ["params net"]}


@pytest.mark.parametrize(
    ("leaf", "skipped", "loss", "due"),
    [
        (0, 0.0, float("nan"), r"loss is nan .*joint\); the first .*: the gradient of net/kernel$"),
        (-1, 0.0, float("nan"), r"loss is nan .*joint\)$"),
        (7, 0.0, float("nan"), r"loss is nan .*joint\)$"),
        (
            1,
            1.0,
            0.5,
            r"1 steps in a row were skipped, state mean not being finite, .*: state mean$",
        ),
    ],
)
def test_the_first_array_that_is_not_finite_is_named(leaf, skipped, loss, due, monkeypatch):
    monkeypatch.setattr(metric_log, "_MOST_SKIPPED", 1)
    journal = metric_log.open_journal(None, [], 0, leaves=LEAVES)
    metrics = {"loss": jnp.float32(loss), "leaf": jnp.int32(leaf), "skipped": jnp.float32(skipped)}
    where = {"step": 1, "epoch": 0, "phase": "joint"}
    metric_log.queue(journal, where, metrics, log=True)
    with pytest.raises(errors.NonFiniteError, match=due):
        metric_log.flush(journal)


def test_records_have_the_time_and_rates_without_what_is_left_out(monkeypatch):
    now = 0.0
    monkeypatch.setattr(metric_log.time, "perf_counter", lambda: now)
    journal = metric_log.open_journal(None, [], 0, batch_size=8)
    for seconds in (10.0, 20.0):
        with metric_log.left_out(journal, "compile_seconds"):
            now += seconds
    metric_log.note(journal, "first_step_seconds", 31.0)
    now += 2.0
    note(journal, 1, 0.5)
    metric_log.flush(journal)
    now += 4.0
    note(journal, 2, 0.5)
    metric_log.flush(journal)
    first, second = journal.history
    assert (first["compile_seconds"], first["first_step_seconds"]) == (30.0, 31.0)
    assert (first["steps_per_second"], second["steps_per_second"]) == (0.5, 0.25)
    assert "compile_seconds" not in second
    moment = datetime.datetime.fromisoformat(first["time"])
    assert abs(datetime.datetime.now(datetime.UTC) - moment).total_seconds() < 60


def test_the_number_of_an_array_is_no_metric():
    journal = metric_log.open_journal(None, [], 0, leaves=LEAVES)
    where = {"step": 1, "epoch": 0, "phase": "joint"}
    metric_log.queue(journal, where, {"loss": jnp.float32(1), "leaf": jnp.int32(-1)}, log=True)
    metric_log.flush(journal)
    assert "leaf" not in journal.history[0]


@pytest.mark.parametrize(("name", "value"), [("_MOST_QUEUED", 1), ("_CHECK_AFTER", 0.0)])
def test_steps_are_checked_after_some_of_them_or_some_time(name, value, monkeypatch):
    for key, large in (("_MOST_QUEUED", 100), ("_CHECK_AFTER", 60.0)):
        monkeypatch.setattr(metric_log, key, value if key == name else large)
    journal = metric_log.open_journal(None, [], 0)
    note(journal, 1, float("nan"), log=False)
    with pytest.raises(errors.NonFiniteError, match="at step 1 "):
        note(journal, 2, 0.5, log=False)


class Computing:
    def is_ready(self):
        return False


def test_waiting_for_input_counts_where_nothing_else_is_left_to_do():
    journal = metric_log.open_journal(None, [], 0)
    metric_log.record_wait(journal, 1.0)
    note(journal, 1, 0.5)
    journal.pending[-1][1]["loss"].block_until_ready()
    metric_log.record_wait(journal, 2.0)
    journal.pending.append(({"step": 2}, {"loss": Computing()}, False))
    metric_log.record_wait(journal, 4.0)
    assert journal.clock.waited == 3.0


def test_rewind_drops_later_steps_and_a_cut_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) for step in (2, 4, 6, 8)]
    path.write_text("\n".join(lines)[:-3])
    assert metric_log.rewind(path, 4) == [{"step": 2}, {"step": 4}]
    assert path.read_text().splitlines() == lines[:2]
    path.write_text("\n".join(lines)[:-3])
    assert [record["step"] for record in metric_log.rewind(path, 8)] == [2, 4, 6]
    assert metric_log.rewind(tmp_path / "none.jsonl", 8) == []


def test_a_bad_line_is_moved_aside_and_later_ones_stay(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step}) for step in (2, 4, 6)]
    bad = '{"step": 3, "lo\x00', '["step"]', '{"step": "4"}'
    path.write_text("\n".join([good[0], bad[0], good[1], *bad[1:], good[2], '{"st']))
    with pytest.warns(UserWarning, match=r"3 lines could not be read and were moved to metrics"):
        assert metric_log.rewind(path, 8) == [{"step": 2}, {"step": 4}, {"step": 6}]
    assert path.read_text().splitlines() == good
    assert (tmp_path / "metrics.jsonl.unreadable").read_text().splitlines() == list(bad)
    assert metric_log.rewind(path, 4) == metric_log.read(path) == [{"step": 2}, {"step": 4}]


def test_of_devices_that_tell_their_memory_the_fullest_is_recorded(monkeypatch):
    class Device:
        def __init__(self, stats):
            self._stats = stats

        def memory_stats(self):
            return self._stats

    told = [{"bytes_in_use": 1, "peak_bytes_in_use": peak} for peak in (7, 12345, 9)]
    monkeypatch.setattr(jax, "local_devices", lambda: [*map(Device, [None, {}, *told])])
    journal = metric_log.open_journal(None, [], 0)
    note(journal, 1, 0.5)
    metric_log.flush(journal)
    assert journal.history[0]["device_memory_peak"] == 12345
