"""Finds a database's distinct codes, and the entropy of their use."""

from typing import NamedTuple

import numpy as np


class DistinctCodes(NamedTuple):
    """Distinct codes of a database and the items of each; made by `distinct_codes`.

    Attributes:
      first: First item of each code, [U]; codes are in the order of their bytes.
      inverse: Number of each item's code, [N].
      items: Number of items of each code, [U] int64.
    """

    first: np.ndarray
    inverse: np.ndarray
    items: np.ndarray

    @property
    def entropy(self) -> float:
        """Returns the codes' entropy in bits, from 0 (all equal) to log2 N (all different)."""
        share = self.items / self.items.sum()
        return float(np.sum(share * np.log2(1 / share)))


def distinct_codes(codes: np.ndarray) -> DistinctCodes:
    """Groups the items of a database by equal code.

    Args:
      codes: Codes [N, bytes] uint8.

    Returns:
      The distinct codes, sorted by their bytes, so that the order of storage does not matter.
    """
    if codes.shape[1] <= 8:
        # Up to 8 bytes become big-endian integers, which sort like the bytes and much faster.
        padded = np.pad(codes, ((0, 0), (8 - codes.shape[1], 0)))
        scalars = padded.view(">u8").ravel().astype(np.uint64)
    else:
        codes = np.ascontiguousarray(codes)
        scalars = codes.view(np.dtype((np.void, codes.shape[1]))).ravel()
    _, first, inverse, items = np.unique(
        scalars, return_index=True, return_inverse=True, return_counts=True
    )
    return DistinctCodes(first, inverse, items)
