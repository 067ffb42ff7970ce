"""Times training steps and `train.fit`: `python -m experiments.benchmarks.training`.

A step is DQN's: forward, backward and SGD with momentum, float32, on a batch that is there
already. The peer is the fastest of torch's forms, the same network with the same loss: as torch
lays images out or channels last, eager or compiled. On a graphics card the bar is 1.1; on a CPU
0.3 is a guard and no claim. A loop is `train.fit` on images in memory: some of its steps are
timed, then as many of the same program by itself on a batch that is there, and as many of the step
alone on a batch that is augmented already, in turns within one run.

What our networks' convolutions gain on CPUs, layer by layer, is in
`experiments/benchmarks/convolutions.py`.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from quantjax import data, methods, models, train
from quantjax.run import parallel
from quantjax.train import loop as training_loop

from . import timing, torch_networks, turns

DIM = 48
_CLASSES = 10
_OVERHEAD, _WAIT = 0.03, 0.02
_BETWEEN_SAVES = training_loop._BETWEEN_SAVES
_LOGGED = 10  # steps between two records of a loop
_CONVNET = {"channels": (16, 32, 64), "kernel_sizes": (5, 3, 3), "hidden": 128, "dim": DIM}


class Case(NamedTuple):
    """Benchmark case: a network and its batch.

    Attributes:
      shape: (H, W, C) of the images.
      batch_size: B.
      steps: Steps of an epoch of the loop.
      turn: Steps that are timed together.
      ours: (H, W, C) -> network.
      torchs: The same in torch.
    """

    shape: tuple[int, int, int]
    batch_size: int
    steps: int
    turn: int
    ours: Callable[..., models.Network]
    torchs: Callable[..., Any]


CASES = {
    "convnet": Case(
        (28, 28, 1),
        128,
        200,
        40,
        functools.partial(models.convnet, **_CONVNET),
        functools.partial(torch_networks.convnet, **_CONVNET),
    ),
    "cifar_resnet18": Case(
        (32, 32, 3),
        128,
        35,  # as 4,500 images have
        3,
        functools.partial(models.cifar_resnet18, dim=DIM),
        functools.partial(torch_networks.cifar_resnet18, dim=DIM),
    ),
    "alexnet_224": Case(
        (224, 224, 3),
        32,
        60,
        5,
        functools.partial(models.alexnet_torchvision, dim=DIM),
        functools.partial(torch_networks.alexnet, dim=DIM),
    ),
}
FORMS = {
    "torch eager": {"channels_last": False, "compiled": False},
    "torch channels last": {"channels_last": True, "compiled": False},
    "torch compiled": {"channels_last": False, "compiled": True},
    "torch compiled, channels last": {"channels_last": True, "compiled": True},
}


def quick(case: Case) -> Case:
    """Returns a small copy of a case, to test that it runs and not its speed."""
    height, width, depth = case.shape
    small = min(height, 64), min(width, 64), depth
    return case._replace(shape=small, batch_size=8, steps=8, turn=3)


def experiment(case: Case, num_epochs: int = 2) -> train.Experiment:
    """Returns an experiment: DQN on random images in memory, without refits."""
    rng = np.random.default_rng(0)
    num_train = case.steps * case.batch_size
    rows = np.arange(num_train + 4)
    image = rng.integers(256, size=(len(rows), *case.shape), dtype=np.uint8)
    source = data.from_arrays(image, rng.permutation(rows % _CLASSES))
    validation, query, database = np.split(rows[num_train:], (1, 2))
    method = methods.dqn(case.ours(case.shape), dim=DIM, num_codebooks=4)
    return train.Experiment(
        name="benchmark",
        method=method._replace(refresh=None),
        splits=data.make_splits(
            source,
            train=rows[:num_train],
            validation=validation,
            query=query,
            database=database,
        ),
        sampler=data.batches.shuffled(num_train, case.batch_size),
        preprocess=_centred,
        optimizers={"net": optax.sgd(torch_networks.RATE, momentum=torch_networks.MOMENTUM)},
        num_epochs=num_epochs,
        batch_size=case.batch_size,
        seed=0,
    )


def _centred(batch):
    return {**batch, "image": batch["image"].astype(jnp.float32) / 128 - 1}


def start(run: train.Experiment) -> turns.Start:
    """Returns the start of an experiment, with random codebooks."""
    mesh, rng = parallel.data_mesh(), np.random.default_rng(1)
    state = train.initialize(run, mesh)
    books = np.float32(0.5 * rng.normal(size=state.state["codebooks"].shape))
    fitted = {**state.state, "codebooks": books, "fitted": np.asarray(True)}
    state = jax.device_put(state._replace(state=fitted), parallel.replicated(mesh))
    rows = run.splits.train[: run.batch_size]
    batch = {**run.splits.source[rows], "index": np.arange(run.batch_size, dtype=np.int32)}
    batch = jax.jit(run.preprocess)(parallel.put_rows(mesh, batch))
    return turns.Start(
        state, batch, parallel.sharded_step(train.make_step(run, run.method.phases[0]), mesh)
    )


def speed(case: Case, name: str, seconds: float) -> Iterator[object]:
    """Times a training step of quantjax and of torch.

    Args:
      case: Network and batch.
      name: Name of the case.
      seconds: How long.

    Yields:
      A line of the comparison, ahead of it one of every form that cannot run here.
    """
    on_card = jax.default_backend() != "cpu"
    num_steps = 10 if on_card else 1
    begun = start(experiment(case))
    images, label, books = (
        np.array(a)
        for a in (begun.batch["image"], begun.batch["label"], begun.state.state["codebooks"])
    )
    runs = {"ours": turns.in_a_row(begun, num_steps)}
    for form, options in FORMS.items():
        network = case.torchs(case.shape)
        try:
            step, wait = torch_networks.stepper(network, images, label.argmax(1), books, **options)
            step()
        except Exception as error:  # the compiler's own kinds
            yield f"{name}: no {form}, {type(error).__name__}: {str(error).splitlines()[0]:.120}"
            continue
        runs[form] = functools.partial(_torch_in_a_row, step, wait, num_steps)
    ours, *others = (
        s / num_steps for s in timing.side_by_side(list(runs.values()), seconds=seconds)
    )
    best = int(np.argmin(others))
    rates = (
        f"{form} {case.batch_size / s:.0f}" for form, s in zip(runs, (ours, *others), strict=True)
    )
    yield timing.Timing(
        f"{name} {'x'.join(map(str, case.shape))} B={case.batch_size}",
        ours,
        others[best],
        list(runs)[1 + best],
        1.1 if on_card else 0.3,
        "images/s: " + ", ".join(rates),
    )


def _torch_in_a_row(step, wait, num_steps):
    for _ in range(num_steps):
        step()
    wait()


def loop(case: Case, name: str, seconds: float) -> Iterator[str]:
    """Times steps inside `train.fit` relative to the same steps alone.

    Args:
      case: Network and batch.
      name: Name of the case.
      seconds: How long the turns of steps are to take, without a workdir and with one.

    Yields:
      A line without a workdir and one with.
    """
    run = experiment(case)
    bare = turns.in_a_row(start(run), case.turn)
    bare()
    began = time.perf_counter()
    bare()
    rounds = max(2, round(seconds / (3 * (time.perf_counter() - began))))
    num_epochs = -(-(rounds * (case.turn + turns.LEAD) + 1) // case.steps)
    for what in ("no workdir", "a workdir"):
        with tempfile.TemporaryDirectory() as folder:
            taken = turns.Turns(case.turn)
            timed, plain = (
                None if what == "no workdir" else f"{folder}/{part}" for part in ("timed", "plain")
            )
            # The loop has a third of the seconds; saves are to come as often as in a whole run.
            with mock.patch.object(training_loop, "_BETWEEN_SAVES", 3 * _BETWEEN_SAVES):
                train.fit(
                    run._replace(num_epochs=num_epochs),
                    workdir=timed,
                    parallelize=taken.parallelize,
                    log_every=_LOGGED,
                )
            # Turns by themselves let input get ahead: waits are those of a run without.
            short = run._replace(num_epochs=1)
            history = train.fit(short, workdir=plain, log_every=_LOGGED).history
        wait = float(np.mean([entry["data_wait"] for entry in history[1:] or history]))
        inside = 1e3 * np.median(taken.inside) / case.turn
        told = []
        for of, by_itself in (("program", taken.bare), ("step alone", taken.step)):
            low, middle, high = 100 * np.percentile(taken.over(by_itself), (25, 50, 75))
            each = 1e3 * np.median(by_itself) / case.turn
            mean = taken.mean_over(by_itself)
            told.append(
                f"{_judged(middle / 100, _OVERHEAD)} over the {of} of {each:.2f} ms, "
                f"quartiles {low:+.1f} and {high:+.1f} %, mean {_judged(mean, _OVERHEAD)}"
            )
        yield (
            f"{name} B={case.batch_size} in the loop, {what}: {inside:.2f} ms, medians of "
            f"{len(taken.inside)} turns: {'; '.join(told)}; data wait {_judged(wait, _WAIT)}"
        )


def _judged(share, bar):
    return f"{100 * share:+.2f} % (bar {100 * bar:.0f} %, {'met' if share <= bar else 'MISSED'})"


def main() -> None:
    """Runs the cases named on the command line, all by default, and prints a line for each."""
    known = {name: functools.partial(speed, name=name) for name in CASES}
    known |= {f"{name}_loop": functools.partial(loop, name=name) for name in CASES}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=[], help=f"of {', '.join(known)}")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each case is timed")
    parser.add_argument("--quick", action="store_true", help="few and small images")
    arguments = parser.parse_args()
    for name in arguments.cases:
        if name not in known:
            parser.error(f"no case {name}; there are {', '.join(known)}")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {torch_networks.describe()}")
    for name in arguments.cases or known:
        case = CASES[name.removesuffix("_loop")]
        for line in known[name](
            quick(case) if arguments.quick else case, seconds=arguments.seconds
        ):
            print(line, flush=True)


if __name__ == "__main__":
    main()
