"""One public function of the quantizers as a row of the contract test."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from quantjax.quantizers import product

M, K, WIDTH = 2, 4, 3
SIZES = {"N": 16, "Q": 8, "R": 2056, "M": M, "K": K, "d": WIDTH, "D": M * WIDTH}
SIZES |= {"T": 13, "C": 2, "B": 5, "P": 1, "F": 4 * M * WIDTH}
"""What the letters of axes stand for. N, Q and R are rows, which eight devices can share; R is
enough of them to be worked on in tiles. T bits make C bytes; B bits, or M numbers of at most 4
bits, make P; F bytes are D floats."""
ROWS = "NQR"

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


class Case(NamedTuple):
    """One public function, or a method of a codec.

    Attributes:
      name: Where it is found, `module.function` or `Class.method`; a remark may follow in brackets.
      function: What is tested: the function itself, or one that draws its key from a seed and makes
        its codec or state from arrays. Arrays first, hyper-parameters keyword-only.
      oracle: The same in float64 numpy from the definition, a tuple for more than one result; it
        shares no code with `function`. Random draws alone are the same.
      arguments: One `(axes, draw)` per array; equal letters are equal sizes.
      result: Axes of the result; of several, with commas between.
      dtypes: Of each result: a name of numpy's, or of the argument whose dtype it takes. What is
        named a dtype keeps it, and its digits, where embeddings come in bfloat16.
      settings: Keyword settings; every keyword-only parameter takes two values at least.
      trained: Positions of the arguments that get gradients.
      surrogate: Of a straight-through function, the float64 `(*arguments, at, **settings)` whose
        derivative at `arguments == at` is due; `at` makes the hard decisions.
      local: The letter of rows that devices work on alone, other rows being gathered; "" where the
        function is a statistic of the batch and every device needs all rows.
      gathers: XLA's types of what devices that share rows may send each other whole: what is sorted
        by rows, or searched by a running sum over them.
      refused: Positions whose wrong shape is refused by name; all when None.
      fixed: Letters whose size follows from the other arguments although none of them has it.
      unique: `(results, *arguments)` to what of them is due, where a decomposition leaves signs or
        a turn open.
      open_at_ties: Whether equal or zero vectors leave the result open; it is finite all the same.
      tolerance: Error allowed, as a share of the largest value.
      far_tolerance: The same where vectors are 1e4 long.
    """

    name: str
    function: Callable[..., Any]
    oracle: Callable[..., Any]
    arguments: tuple[tuple[str, Draw], ...]
    result: str
    dtypes: str = "float32"
    settings: tuple[dict[str, Any], ...] = ({},)
    trained: tuple[int, ...] = ()
    surrogate: Callable[..., Any] | None = None
    local: str = ""
    gathers: str = ""
    refused: tuple[int, ...] | None = None
    fixed: str = ""
    unique: Callable[..., Any] | None = None
    open_at_ties: bool = False
    tolerance: float = 1e-5
    far_tolerance: float = 1e-5


def shape_of(axes: str) -> tuple[int, ...]:
    return tuple(SIZES[letter] for letter in axes)


def draw(case: Case, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [draw_one(rng, shape_of(axes)) for axes, draw_one in case.arguments]


def normal(rng, shape):
    # Rounded to float32, so that the oracle sees the very numbers that the function sees.
    return np.float64(np.float32(rng.normal(size=shape)))


def kept(rng, shape):
    """What is float32 also where embeddings are not."""
    return normal(rng, shape)


def orthonormal(rng, shape):
    return np.float64(np.float32(np.linalg.qr(rng.normal(size=(shape[0],) * 2))[0][:, : shape[1]]))


def positive(rng, shape):
    return np.float64(np.float32(rng.uniform(0, 3, size=shape) * (rng.uniform(size=shape) < 0.8)))


def share(rng, shape):
    return np.float64(np.float32(rng.uniform(size=shape)))


def mask(rng, shape):
    mask = rng.uniform(size=shape) < 0.7
    mask[-K:] = True
    return mask


def seed(rng, shape):
    return np.uint32(rng.integers(2**31, size=shape))


def below(end):
    return lambda rng, shape: np.uint8(rng.integers(end, size=shape))


def counts(rng, shape):
    return np.int32(rng.integers(9, size=shape) * (rng.uniform(size=shape) < 0.7))


def float_bytes(rng, shape):
    return np.float32(rng.normal(size=(shape[0], shape[1] // 4))).view(np.uint8)


NEEDS_KEY = ("", seed)
BOOKS, X = ("MKd", normal), ("ND", normal)
QUERIES, NUMBERS = ("QD", normal), ("NM", below(K))
WIDE, ROW_MASK = ("MKD", normal), ("N", mask)
METRICS = tuple({"metric": metric} for metric in product.METRICS)
TEMPERATURES = ({"temperature": 0.5}, {"temperature": 3.0})
