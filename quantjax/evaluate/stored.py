"""What is stored of a database: its distinct codes, and how evenly they are used."""

from typing import NamedTuple

import numpy as np


class DistinctCodes(NamedTuple):
    """Items of equal code, put together; made by `distinct_codes`.

    Attributes:
      first: An item that has each code, [U]; codes are in the order of their bytes.
      inverse: The code of each item, [N].
      items: Items of each code, [U] int64.
    """

    first: np.ndarray
    inverse: np.ndarray
    items: np.ndarray

    @property
    def entropy(self) -> float:
        """Bits that a code tells of its item, from 0 (all equal) to log2 N (all different)."""
        share = self.items / self.items.sum()
        return float(np.sum(share * np.log2(1 / share)))


def distinct_codes(codes: np.ndarray) -> DistinctCodes:
    """Finds the items of equal code.

    Args:
      codes: Codes [N, bytes] uint8.

    Returns:
      The distinct codes, in an order that storage has no part in.
    """
    if codes.shape[1] <= 8:
        padded = np.pad(codes, ((0, 0), (8 - codes.shape[1], 0)))
        scalars = padded.view(">u8").ravel().astype(np.uint64)
    else:
        codes = np.ascontiguousarray(codes)
        scalars = codes.view(np.dtype((np.void, codes.shape[1]))).ravel()
    _, first, inverse, items = np.unique(
        scalars, return_index=True, return_inverse=True, return_counts=True
    )
    return DistinctCodes(first, inverse, items)
