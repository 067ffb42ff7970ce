"""How a module of another library is told whether it trains."""

import inspect
from collections.abc import Callable
from typing import Any

_TRAINS = {"train": True, "training": True, "is_training": True, "deterministic": False}
"""Names of arguments, and the value that each has in training."""


def training_options(call: Callable[..., Any], *, train: bool) -> dict[str, bool]:
    """Returns the arguments by which a function is told whether it trains.

    Args:
      call: A module's `__call__`, or a function.
      train: Whether it trains.

    Returns:
      Such as {"train": True} or {"deterministic": False}: the arguments of these names that the
      function has, and `train` where it takes any (`**options`). Empty for a function that
      computes the same in training and evaluation.
    """
    there = inspect.signature(call).parameters
    options = {name: train is trains for name, trains in _TRAINS.items() if name in there}
    return options or ({"train": train} if _takes_any(there) else {})


def takes(call: Callable[..., Any], name: str) -> bool:
    """Returns whether a function has an argument of a name, or takes any (`**options`)."""
    there = inspect.signature(call).parameters
    return name in there or _takes_any(there)


def _takes_any(parameters):
    return any(each.kind is each.VAR_KEYWORD for each in parameters.values())
