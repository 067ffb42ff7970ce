"""Times steps in a row, and a loop's steps in turns with the same steps alone."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import train
from quantjax.run import parallel

LEAD = 4  # steps of a loop after a turn by itself, in which input was read ahead


class Start(NamedTuple):
    """Input of a step: the train state, a batch on the devices, and the compiled step."""

    state: train.TrainState
    batch: dict[str, jax.Array]
    step: Callable[..., tuple[train.TrainState, dict[str, jax.Array]]]


def in_a_row(begun: Start, num_steps: int) -> Callable[[], Any]:
    """Returns a function that runs steps on one batch, waits for them, and returns their metrics.

    Args:
      begun: Where the first one begins; each call goes on from the one before.
      num_steps: Number of steps of a call.
    """
    state, batch, step = begun

    def run():
        nonlocal state
        for _ in range(num_steps):
            state, metrics = step(state, batch)
        return jax.block_until_ready((state, metrics))[1]

    return run


class Turns:
    """Times, in turns, steps of a loop, the same program alone, and its step alone.

    Attributes:
      inside: Seconds of each turn in the loop.
      bare: Seconds of the program by itself, augmentation included, one more: before and after
        each turn in the loop.
      step: The same of a step on a batch that is augmented already.
    """

    def __init__(self, turn: int):
        self.inside: list[float] = []
        self.bare: list[float] = []
        self.step: list[float] = []
        self._turn, self._calls = turn, 0

    def over(self, alone: Sequence[float]) -> np.ndarray:
        """Returns each turn's extra time over the mean of its neighbours, as a share of that mean.

        Args:
          alone: `bare` or `step`.
        """
        before, after = np.asarray(alone[:-1]), np.asarray(alone[1:])
        return 2 * np.asarray(self.inside) / (before + after) - 1

    def mean_over(self, alone: Sequence[float]) -> float:
        """Returns the extra time of all turns together over their neighbours, as a share.

        Args:
          alone: `bare` or `step`.
        """
        around = sum(alone[:-1]) + sum(alone[1:])
        return 2 * sum(self.inside) / around - 1

    def parallelize(
        self, step: parallel.Step, mesh: Any, prepare: parallel.Prepare
    ) -> Callable[..., Any]:
        """Builds the step of `train.fit` that times itself; pass this method as `parallelize`."""
        program = parallel.sharded_step(step, mesh, prepare)
        alone: list[tuple[list[float], Callable[[], Any]]] = []
        began = 0.0

        def call(state, batch):
            nonlocal began
            place = self._calls % (self._turn + LEAD)
            self._calls += 1
            if place == 0:
                jax.block_until_ready(state)
                if alone:
                    self.inside.append(time.perf_counter() - began)
                else:
                    there = parallel.put_rows(mesh, jax.tree.map(np.asarray, batch))
                    ready = jax.jit(prepare)(state, there)
                    for found, each, given in (
                        (self.bare, program, there),
                        (self.step, parallel.sharded_step(step, mesh), ready),
                    ):
                        begun = Start(jax.tree.map(jnp.copy, state), given, each)
                        alone.append((found, in_a_row(begun, self._turn)))
                        alone[-1][1]()
                for found, run in alone:
                    began = time.perf_counter()
                    run()
                    found.append(time.perf_counter() - began)
            elif place == LEAD:
                jax.block_until_ready(state)
                began = time.perf_counter()
            return program(state, batch)

        return call
