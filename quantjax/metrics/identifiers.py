"""The name of a number: everything that two mean average precisions must share to be compared."""

from collections.abc import Collection

import numpy as np

from quantjax.errors import InputError

TIES = ("expected", "best", "worst")
DENOMINATORS = ("hits", "capped", "all")
DISTANCES = ("aqd", "sqd", "float", "hamming", "own")


def metric_id(
    *,
    top_k: int | None = None,
    ties: str = "expected",
    denominator: str = "capped",
    zero: int = 0,
    distance: str,
) -> str:
    """Names a mean average precision.

    >>> metric_id(top_k=5000, distance="aqd")
    'map@5000|ties=expected|den=capped|zero=0|dist=aqd'

    Args:
      top_k: The cut, or None for the whole ranking.
      ties: "expected", "best" or "worst".
      denominator: "hits", "capped" or "all", as in `average_precision`.
      zero: What a query without relevant items counts as; 0 is the only convention so far.
      distance: What was ranked by: "aqd" (real query, coded database), "sqd" (both coded),
        "float" (both real), "hamming", or "own" for distances from elsewhere.

    Returns:
      The id, for example `map@all|ties=expected|den=capped|zero=0|dist=aqd`.

    Raises:
      ValueError: if an argument is none of the above.
    """
    check_cut(top_k)
    check_choice("ties", ties, TIES)
    check_choice("denominator", denominator, DENOMINATORS)
    check_choice("distance", distance, DISTANCES)
    check_choice("zero", zero, (0,))
    cut = "all" if top_k is None else int(top_k)
    return write_id(cut, ties=ties, denominator=denominator, zero=zero, distance=distance)


def write_id(
    cut: object,
    *,
    ties: str,
    denominator: str,
    zero: int | str,
    distance: str,
    convention: str | None = None,
) -> str:
    """Writes an id whose parts have been checked.

    Args:
      cut: What stands behind "map@".
      ties: As in `metric_id`, or "storage" (by position in the database).
      denominator: As in `metric_id`.
      zero: 0, or another fate of queries, see `Convention`.
      distance: As in `metric_id`.
      convention: Name of the evaluator that is reproduced, if one is.

    Returns:
      The id, for example `map@all-1|ties=storage|den=hits|zero=0|dist=hamming|as=deephash-pytorch`.
    """
    metric = f"map@{cut}|ties={ties}|den={denominator}|zero={zero}|dist={distance}"
    return metric if convention is None else f"{metric}|as={convention}"


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Refuses a value that is none of the choices.

    Args:
      name: The argument's name, for the message.
      value: What came.
      choices: What was due.

    Raises:
      ValueError: naming the argument, what came and the choices.
    """
    if type(value) not in map(type, choices) or value not in choices:
        due = ", ".join(map(repr, choices))
        raise InputError(f"{name} must be one of {due}, got {value!r}")


def check_cut(top_k: object) -> None:
    """Refuses a cut that is neither None nor an integer of at least 1.

    Args:
      top_k: The cut.

    Raises:
      ValueError: saying what came.
    """
    whole = isinstance(top_k, (int, np.integer)) and not isinstance(top_k, bool)
    if top_k is not None and not (whole and top_k >= 1):
        raise InputError(
            f"top_k must be an integer of at least 1, or None for all items, got {top_k!r}"
        )
