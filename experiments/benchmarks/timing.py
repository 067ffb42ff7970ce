"""Times functions side by side: in turns, in one process, with minima over repetitions."""

import argparse
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

_CALLS = 5  # in a row, while they fit in a turn
_TURN = 0.25  # seconds


def run_cases(
    about: str | None, cases: Mapping[str, Callable[[float], Iterable[object]]], *, peers: str
) -> None:
    """Runs the cases named on the command line, all by default, and prints a line for each.

    Args:
      about: Text for `--help`.
      cases: By name, from seconds to lines; each is run when its lines are asked for.
      peers: Versions of what is compared with.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("cases", nargs="*", default=[], help=f"of {', '.join(cases)}")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each case is timed")
    arguments = parser.parse_args()
    for name in arguments.cases:
        if name not in cases:
            parser.error(f"no case {name}; there are {', '.join(cases)}")
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {jax.devices()[0]}, jax {jax.__version__}, numpy {np.__version__}")
    print(peers)
    for name in arguments.cases or cases:
        for line in cases[name](arguments.seconds):
            print(line, flush=True)


class Timing(NamedTuple):
    """Measured times of a case.

    Attributes:
      name: Name of the computation, with its sizes.
      ours: Seconds, the minimum over repetitions.
      peer: The best peer's seconds, likewise.
      peer_name: Name of that peer.
      bar: The ratio peer / ours that was due.
      note: Further remark for the reader.
    """

    name: str
    ours: float
    peer: float
    peer_name: str
    bar: float
    note: str = ""

    @property
    def ratio(self) -> float:
        """Returns the peer's time divided by ours; above 1 quantjax is faster."""
        return self.peer / self.ours

    def __str__(self) -> str:
        met = "met" if self.ratio >= self.bar else "MISSED"
        return (
            f"{self.name:<44} ours {1e3 * self.ours:9.2f} ms   {self.peer_name:<14} "
            f"{1e3 * self.peer:9.2f} ms   ratio {self.ratio:5.2f}   bar {self.bar:.2f} {met}"
            + (f"   {self.note}" if self.note else "")
        )


def side_by_side(
    functions: Sequence[Callable[[], Any]], *, seconds: float = 4.0, at_least: int = 3
) -> list[float]:
    """Times functions in turns, so that other load of the machine affects all functions equally.

    A turn is some calls in a row: the threads of one library spin for a while after their work, and
    would hold a core of the next one's first call.

    Args:
      functions: Each runs once and returns when its result is there; warmed up here.
      seconds: How long to go on.
      at_least: Rounds, however long they take.

    Returns:
      The least time of each, in seconds.
    """
    for function in functions:
        function()
    best = [float("inf")] * len(functions)
    began, rounds = time.perf_counter(), 0
    while rounds < at_least or time.perf_counter() - began < seconds:
        for i, function in enumerate(functions):
            turn = time.perf_counter()
            for _ in range(_CALLS):
                start = time.perf_counter()
                function()
                best[i] = min(best[i], time.perf_counter() - start)
                if time.perf_counter() - turn > _TURN:
                    break
        rounds += 1
    return best
