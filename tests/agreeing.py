"""Checks agreement between several processes; a test starts `python -m tests.agreeing`.

Each prints a line of JSON: what each thing led to.
"""

import argparse
import json
import math
import pathlib
import warnings

import jax
import numpy as np

from quantjax import data, errors, train
from quantjax.run import checkpoint, checkpoint_files, connection, parallel, processes, workdirs
from tests import programs, toy


def refusal(function):
    try:
        function()
    except (ValueError, OSError) as error:
        return str(error)
    return None


def from_first(error):
    """What an error of the first process is in each."""

    def fail():
        raise error

    try:
        processes.from_first(fail)
    except Exception as caught:
        return [type(caught).__name__, str(caught)]


def other_settings():
    train.fit(toy.experiment(toy.dqn_ste(), seed=processes.number()))


def other_workdir(folder):
    workdirs._PATIENCE = 0.5
    with workdirs.held_by_all(folder / str(processes.number())):
        pass


def states():
    mesh = parallel.data_mesh()
    found = [
        {"rows": parallel.put_rows(mesh, {"x": np.full((1, 999), n, np.float32)})["x"], "step": n}
        for n in map(np.int32, range(3))
    ]
    return [{**state, "step": parallel.put(mesh, state["step"])} for state in found]


def restored(folder):
    """Saves two steps, damages the later one, and restores the latest that is whole."""
    with checkpoint.opened(folder, {"run": 1}) as store:
        for number in (1, 2):
            store.save(number, states()[number])
    processes.from_first(lambda: programs.flip_a_byte(folder / "2"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with checkpoint.opened(folder, {"run": 1}) as store:
            found = store.restore(states()[0])
    mine = found["rows"].addressable_shards[0].data
    return [int(found["step"]), float(mine.min()), [str(each.message) for each in caught]]


def unreadable(folder):
    """Restores where the disk of the last process fails."""
    read = checkpoint_files._arrays

    def failing(*arguments):
        if not processes.is_first():
            raise OSError(5, "Input/output error")
        return read(*arguments)

    checkpoint_files._arrays = failing
    try:
        with checkpoint.opened(folder, {"run": 1}) as store:
            store.restore(states()[0])
    finally:
        checkpoint_files._arrays = read


class Counting:
    """A source that knows which rows were read."""

    def __init__(self, source, fails=False):
        self._source, self._fails, self.rows = source, fails, []
        self.labels, self.classes = source.labels, source.classes

    def __len__(self):
        return len(self._source)

    def __getitem__(self, rows):
        if self._fails:
            raise ValueError(f"image {rows[0]} cannot be decoded")
        self.rows += rows.tolist()
        return self._source[rows]


def unreadable_image():
    """Audits images of which the last process cannot read its own."""
    splits = toy.splits()
    source = Counting(splits.source, fails=not processes.is_first())
    data.audit(splits._replace(source=source))


def best(folder):
    """Restores the best where the last process does not see any records yet."""
    read = train.checkpoints.metric_log.read
    train.checkpoints.metric_log.read = lambda path: read(path) if processes.is_first() else []
    try:
        experiment = toy.experiment(toy.dqn_ste()._replace(refresh=None), num_epochs=2)
        return int(train.restore(experiment, folder, best=True).step)
    finally:
        train.checkpoints.metric_log.read = read


def after_epoch(train_state, epoch):
    """What the first process alone knows."""
    return {"validation": 1.0 - epoch} if processes.is_first() else {}


def read(folder):
    """Audits, trains for two epochs and embeds; returns the rows that each of them read.

    The first process finds its last checkpoint old after every epoch, the other never does.
    """
    experiment = toy.experiment(toy.dqn_ste()._replace(refresh=None), num_epochs=2)
    source = Counting(experiment.splits.source)
    splits = experiment.splits._replace(source=source)
    found = {}

    def note(name):
        found[name] = source.rows
        source.rows = []

    data.audit(splits)
    note("audit")
    train.loop._BETWEEN_SAVES = 0.0 if processes.is_first() else math.inf
    state = train.fit(
        experiment._replace(splits=splits), workdir=folder, after_epoch=after_epoch
    ).state
    note("train")
    train.embed(experiment._replace(splits=splits), state, splits.query)
    note("embed")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=pathlib.Path)
    parser.add_argument("--coordinator")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    arguments = vars(parser.parse_args())
    workdir = arguments.pop("workdir")
    jax.config.update("jax_num_cpu_devices", 1)
    connection.start(**arguments)
    told = {
        "on purpose": from_first(errors.MissingFileError("no folder x")),
        "by fault": from_first(KeyError("num_codewords")),
        "settings": refusal(other_settings),
        "workdir": refusal(lambda: other_workdir(workdir)),
        "restored": restored(workdir / "checkpoints"),
        "unreadable": refusal(lambda: unreadable(workdir / "checkpoints")),
        "read": read(workdir / "run"),
        "best": best(workdir / "run"),
        "unreadable image": refusal(unreadable_image),
    }
    print(json.dumps(told), flush=True)
