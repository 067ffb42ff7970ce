"""The toy set as an experiment file: `python -m tests.run_toy`, for tests of whole processes."""

import os
import sys
import threading
import time
from concurrent import futures

import jax
import numpy as np
from ml_collections import ConfigDict, config_dict

from experiments.baselines import baselines
from quantjax import data, launch, train
from quantjax.run import processes
from tests import toy


def get_config() -> ConfigDict:
    return config_dict.create(
        seed=0, bits=8, num_codewords=16, num_epochs=5, method="dqn_ste", nan_at=0, nan_steps=1,
        baselines=False, batch_size=64, pause=0.0, reading=0.0, refreshing=0.0, measuring=0.0,
    )  # fmt: skip


def build(config: ConfigDict) -> train.Experiment:
    time.sleep(config.reading)
    method = toy.METHODS[config.method]()
    if config.nan_at:
        method = method._replace(
            phases=tuple(
                phase._replace(loss=exploding(phase.loss, config.nan_at, config.nan_steps))
                for phase in method.phases
            )
        )
    experiment = toy.experiment(
        method,
        num_epochs=config.num_epochs,
        seed=config.seed,
        batch_size=config.batch_size,
        sampler=data.shuffled(len(toy.splits().train), config.batch_size),
    )

    source = Stalling(experiment.splits.source, config.refreshing)

    def sampler(seed, epoch):
        source.trains = threading.current_thread() is not threading.main_thread()
        with futures.ThreadPoolExecutor(1) as pool:  # as readers of records have
            pool.submit(time.sleep, config.pause if epoch == 1 else 0).result()
        return experiment.sampler(seed, epoch)

    splits = experiment.splits._replace(source=source)
    return experiment._replace(sampler=sampler, splits=splits)


class Stalling:
    """A source whose rows take `seconds` to come for a refresh, when training has begun."""

    def __init__(self, source, seconds):
        self.labels, self.classes = source.labels, source.classes
        self.trains = False
        self._source, self._seconds = source, seconds

    def __len__(self):
        return len(self._source)

    def __getitem__(self, rows):
        if self.trains and threading.current_thread() is threading.main_thread():
            time.sleep(self._seconds)
        return self._source[rows]


def measured(experiment, mesh, trained):
    """Baselines, which take the first process `measuring` seconds more."""
    time.sleep(experiment.config["measuring"] if processes.is_first() else 0)
    return baselines(experiment, mesh, trained) if experiment.config["baselines"] else {}


def exploding(loss, at_step, num_steps):
    """The loss is NaN at some steps, the first of which is `at_step`."""

    def exploded(params, state, batch, context):
        value, rest = loss(params, state, batch, context)
        taken = context.step + 1
        wrong = (taken >= at_step) & (taken < at_step + num_steps)
        return value * jax.numpy.where(wrong, np.nan, 1.0), rest

    return exploded


CHANGES = "open", "os.mkdir", "os.rename", "os.remove", "os.truncate"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def tell_writes(folder):
    """Says on stderr, once, that a path below a folder is written, made, moved or removed."""
    told = set()

    def tell(event, arguments):
        if event not in CHANGES or (event == "open" and not arguments[2] & WRITING):
            return
        for path in arguments[: 2 if event == "os.rename" else 1]:
            path = "." if isinstance(path, int) else os.path.relpath(os.fsdecode(path), folder)
            if path != "." and path[:2] != ".." and path not in told:
                told.add(path)
                sys.stderr.write(f"writes {path}\n")

    sys.addaudithook(tell)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(os.environ.get("TOY_DEVICES", "1")))
    if "TOY_TELLS_WRITES" in os.environ:
        tell_writes(os.environ["TOY_TELLS_WRITES"])
    if "TOY_EXPORTS_NOTHING" in os.environ:
        train.save_encoder = lambda *_: None
    launch.main(get_config, build, measured, title="toy")
