"""One public function as a row of the contract test: its arguments, its oracle, its settings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

SIZES = {"A": 16, "B": 16, "T": 16, "Q": 16, "N": 24, "D": 6, "L": 8, "M": 8, "J": 3}
"""What the letters in `Case.arguments` and `Case.result` stand for; eight devices divide the first
axis of what they share."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


class Case(NamedTuple):
    """One published equation, or one step towards it.

    Attributes:
      function: What is tested: the function itself, or one that draws its key from a seed or makes
        its result independent of how many rows a device has. Arrays first, hyper-parameters
        keyword-only.
      oracle: The same from the equation, in float64 numpy loops, a tuple for more than one result;
        it shares no code with `function`. Random draws alone are the same.
      arguments: One `(axes, draw)` per positional argument, such as `("QD", normal)`; equal letters
        must be equal sizes, and a size that breaks this must be refused.
      result: Axes of the result, "" for a scalar; of several, with commas between.
      settings: Keyword settings; every keyword-only parameter takes two values at least.
      trained: Positions of the arguments that get gradients, whose last axis is D.
      local: The letter whose axis is cut over devices; arguments that start with another letter
        are gathered. The result's first letter when None, and "" gathers everything.
      surrogate: For a straight-through function, the float64 numpy function
        `(*arguments, at, **settings)` whose derivative at `arguments == at` is due; `at` makes the
        hard decisions. None where the derivative due is the oracle's own.
      tolerance: Error allowed in float32 at the awkward points, as a share of the largest value;
        more than the default only where a small value is the difference of large ones.
      dtypes: Of each result, with commas between: a name of numpy's, or of the argument whose dtype
        it takes; "real" is float32, or float64 where an argument is.
      refused: Positions whose wrong shape is refused by name; all when None.
      of: The public function, where `function` only calls it.
      remark: What tells this row from another of the same function.
    """

    function: Callable[..., Any]
    oracle: Callable[..., Any]
    arguments: tuple[tuple[str, Draw], ...]
    result: str
    settings: tuple[dict[str, Any], ...] = ({},)
    trained: tuple[int, ...] = (0,)
    local: str | None = None
    surrogate: Callable[..., Any] | None = None
    tolerance: float = 1e-5
    dtypes: str = "real"
    refused: tuple[int, ...] | None = None
    of: Callable[..., Any] | None = None
    remark: str = ""


def shape_of(axes: str) -> tuple[int, ...]:
    return tuple(SIZES[letter] for letter in axes)


def draw(case: Case, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(draw_one(rng, shape_of(axes))) for axes, draw_one in case.arguments]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    # Rounded to float32, so that the oracle sees the very numbers that the loss sees.
    return np.float64(np.float32(rng.normal(size=shape)))


def coin(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(size=shape) < 0.3


def sign(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.where(rng.uniform(size=shape) < 0.5, -1.0, 1.0)


def seed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(2**31, size=shape)
