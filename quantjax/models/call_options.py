"""Finds the argument by which a module of another library learns whether it trains."""

import inspect
from collections.abc import Callable
from typing import Any

_TRAINS = {"train": True, "training": True, "is_training": True, "deterministic": False}
"""Value in training of each known argument."""


def training_options(call: Callable[..., Any], *, train: bool) -> dict[str, bool]:
    """Returns the keyword arguments that tell a function whether it runs in training.

    Args:
      call: A module's `__call__`, or a function.
      train: Whether the function runs in training.

    Returns:
      Such as {"train": True} or {"deterministic": False}: the arguments of these names that the
      function has, and `train` where it takes any (`**options`). Empty for a function that
      computes the same in training and evaluation.
    """
    there = inspect.signature(call).parameters
    options = {name: train is trains for name, trains in _TRAINS.items() if name in there}
    return options or ({"train": train} if _takes_any(there) else {})


def takes(call: Callable[..., Any], name: str) -> bool:
    """Returns whether a function takes an argument of a given name, or any (`**options`)."""
    there = inspect.signature(call).parameters
    return name in there or _takes_any(there)


def _takes_any(parameters):
    return any(each.kind is each.VAR_KEYWORD for each in parameters.values())
