"""What processes must agree on, in one start of them: `python -m tests.agreeing`, by a test.

Each prints a line of JSON: what each thing led to.
"""

import argparse
import json
import pathlib
import warnings

import jax
import numpy as np

from quantjax import checkpoint, folders, parallel, processes, train
from tests import programs, toy


def refusal(function):
    try:
        function()
    except ValueError as error:
        return str(error)
    return None


def other_settings():
    train.fit(toy.experiment(toy.dqn_ste(), seed=processes.number()))


def other_workdir(folder):
    folders._PATIENCE = 0.5
    with folders.held_by_all(folder / str(processes.number())):
        pass


def restored(folder):
    """Saves two steps, damages the later one, and restores the latest that is whole."""
    mesh = parallel.data_mesh()
    states = [
        {"rows": parallel.put_rows(mesh, {"x": np.full((1, 999), n, np.float32)})["x"], "step": n}
        for n in map(np.int32, range(3))
    ]
    states = [{**state, "step": parallel.put(mesh, state["step"])} for state in states]
    with checkpoint.opened(folder, {"run": 1}) as store:
        for number in (1, 2):
            store.save(number, states[number])
    processes.from_first(lambda: programs.flip_a_byte(folder / "2"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with checkpoint.opened(folder, {"run": 1}) as store:
            found = store.restore(states[0])
    mine = found["rows"].addressable_shards[0].data
    return [int(found["step"]), float(mine.min()), [str(each.message) for each in caught]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=pathlib.Path)
    parser.add_argument("--coordinator")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    arguments = vars(parser.parse_args())
    workdir = arguments.pop("workdir")
    jax.config.update("jax_num_cpu_devices", 1)
    processes.start(**arguments)
    told = {
        "settings": refusal(other_settings),
        "workdir": refusal(lambda: other_workdir(workdir)),
        "restored": restored(workdir / "checkpoints"),
    }
    print(json.dumps(told), flush=True)
