"""What other evaluators make of top_k, and which of its values they have no number for."""

from typing import NamedTuple

import numpy as np

from quantjax.errors import InputError


class Cut(NamedTuple):
    """Where a ranking is cut.

    Attributes:
      ranks: Ranks that are looked at, at least 1.
      name: What the metric id says.
    """

    ranks: int
    name: str


def as_slice(top_k: int | None, num_items: int) -> Cut:
    """Cuts as `[:top_k]` does: None is no cut, -1 drops the item that is ranked last.

    Args:
      top_k: The caller's cut, and likewise below.
      num_items: Items in the ranking, and likewise below.

    Returns:
      The cut, and likewise below.

    Raises:
      ValueError: if `top_k` is no integer or leaves no item.
    """
    if top_k is None:
        return Cut(num_items, "all")
    _check_whole(top_k)
    ranks = len(range(num_items)[:top_k])
    if ranks < 1:
        raise InputError(f"top_k must leave at least one of {num_items} items, got {top_k}")
    if top_k < 0:
        return Cut(ranks, f"all{top_k}")
    return Cut(ranks, f"{top_k}" if top_k <= num_items else f"all({top_k})")


def within(top_k: int | None, num_items: int) -> Cut:
    """Cuts at 1 to all items; for the rest the originals fail, or look at nothing.

    Raises:
      ValueError: for the rest.
    """
    if top_k is None:
        raise InputError(f"top_k must be from 1 to {num_items}, the items in a ranking, got None")
    _check_whole(top_k)
    if not 1 <= top_k <= num_items:
        raise InputError(
            f"top_k must be from 1 to {num_items}, the items in a ranking, got {top_k}"
        )
    return Cut(int(top_k), f"{top_k}")


def minus_one_is_all(top_k: int | None, num_items: int) -> Cut:
    """Cuts as `within`, and not at all for -1."""
    return Cut(num_items, "all") if top_k == -1 else within(top_k, num_items)


def none_is_all(top_k: int | None, num_items: int) -> Cut:
    """Cuts as `within`, and not at all for None or 0."""
    return Cut(num_items, "all") if top_k is None or top_k == 0 else within(top_k, num_items)


def never(top_k: int | None, num_items: int) -> Cut:
    """Refuses to cut: the original takes a cut-off and ignores it.

    Raises:
      ValueError: if `top_k` is not None.
    """
    if top_k is not None:
        raise InputError(f"top_k must be None, since the original ignores it, got {top_k}")
    return Cut(num_items, "all")


def _check_whole(top_k):
    if isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)):
        raise InputError(f"top_k must be an integer or None, got {top_k!r}")
