"""Finds what a step under `jax.pmap` would leave different on every device, before it is compiled.

`pmap` returns one device's copy of a result that all devices are said to share. Where the copies
differ, as batch statistics of each device's own rows do, the others are lost without an error.
"""

import math
from typing import NamedTuple

from jax.extend.core import Jaxpr, Var, jaxprs_in_params

# Collectives whose result is the same on every device.
_EXCHANGES = {"all_gather", "psum", "pmax", "pmin"}
_LOOPS = {"scan", "while", "cond"}


class Divergence(NamedTuple):
    """What is local to a device in a traced function.

    Attributes:
      results: Of each result, whether it follows a device's own values without an exchange.
      num_drawn: Random numbers that are drawn alike on every device.
    """

    results: list[bool]
    num_drawn: int


def find(jaxpr: Jaxpr, local: list[bool]) -> Divergence:
    """Follows local values through a function.

    A loop or branch with a local input counts as local whole. The turns of a `while` loop count
    once. Random numbers whose key follows `jax.lax.axis_index` are not alike.

    Args:
      jaxpr: The function, traced with the devices' axis.
      local: Of each input, whether every device has its own.

    Returns:
      What is local, and how many random numbers are drawn.
    """
    marked = {var for var, mark in zip(jaxpr.invars, local, strict=True) if mark}
    num_drawn = 0

    def mark_of(atom):
        return isinstance(atom, Var) and atom in marked

    for equation in jaxpr.eqns:
        name, marks = equation.primitive.name, [mark_of(atom) for atom in equation.invars]
        results = [any(marks) or name == "axis_index"] * len(equation.outvars)
        if name in _EXCHANGES:
            results = [False] * len(equation.outvars)
        elif name == "random_bits" and not marks[0]:
            num_drawn += math.prod(equation.params["shape"])
        for inner in jaxprs_in_params(equation.params):
            # A branch takes all inputs but the first, a loop's body the last ones, a call all.
            skipped = len(marks) - len(inner.invars)
            found = find(inner, marks[skipped:] if skipped >= 0 else [True] * len(inner.invars))
            num_drawn += found.num_drawn * equation.params.get("length", 1)
            if name not in _LOOPS and len(found.results) == len(results):
                results = found.results
        marked.update(var for var, mark in zip(equation.outvars, results, strict=True) if mark)
    return Divergence([mark_of(atom) for atom in jaxpr.outvars], num_drawn)
