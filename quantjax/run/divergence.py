"""Finds results of a `jax.pmap` step that would differ between devices, before it is compiled.

`pmap` returns one device's copy of a result that is declared equal on all devices. If the copies
differ, as batch statistics over each device's rows do, the other copies are lost without an error.
"""

import math
from typing import NamedTuple

from jax.extend.core import Jaxpr, Var, jaxprs_in_params

# Collectives whose result is the same on every device.
_EXCHANGES = {"all_gather", "psum", "pmax", "pmin"}
_LOOPS = {"scan", "while", "cond"}


class Divergence(NamedTuple):
    """Lists the device-dependent results of a traced function.

    Attributes:
      results: For each result, whether it depends on one device's values without a collective.
      num_drawn: Number of random numbers that are equal on every device.
    """

    results: list[bool]
    num_drawn: int


def find(jaxpr: Jaxpr, local: list[bool]) -> Divergence:
    """Finds the results of a traced function that depend on one device's own inputs.

    If any input of a loop or branch is device-dependent, all its results count as such. The body
    of a `while` loop counts once. Random numbers whose key depends on `jax.lax.axis_index` are not
    counted as equal.

    Args:
      jaxpr: The function, traced with the devices' axis.
      local: For each input, whether its values differ between devices.

    Returns:
      The device-dependent results, and the number of equal random numbers.
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
            # A loop's carry may become local in a later turn, so loops keep the coarse mark above.
            if name not in _LOOPS and len(found.results) == len(results):
                results = found.results
        marked.update(var for var, mark in zip(equation.outvars, results, strict=True) if mark)
    return Divergence([mark_of(atom) for atom in jaxpr.outvars], num_drawn)
