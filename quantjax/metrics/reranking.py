"""Hamming distance first, a finer distance among equals."""

import numpy as np

from quantjax.errors import InputError
from quantjax.metrics.checks import check_distances
from quantjax.metrics.harmonic import Array


def rerank(hamming: Array, distances: Array, *, bits: int) -> np.ndarray:
    """Orders items by Hamming distance, and items of one Hamming distance by another distance.

    thulab/DeepHash's re-ranking goes through the Hamming distances 0 to bits - 1, so an item that
    differs in every bit is never reached: it stands at infinity here.

    Args:
      hamming: Hamming distances [Q, N].
      distances: What settles equal Hamming distances, [Q, N]; the original's negative inner
        product of the real embeddings.
      bits: Code length.

    Returns:
      A distance for `mean_average_precision_as`, [Q, N] float64: 0, 1, ... along each ranking,
      equal only where both distances are, infinity for what is never reached.

    Raises:
      ValueError: if the shapes do not agree, a number is NaN, or `bits` is less than 1.
    """
    if bits < 1:
        raise InputError(f"bits must be at least 1, got {bits}")
    if np.shape(hamming) != np.shape(distances):
        raise InputError(
            f"distances must have the shape of hamming, {np.shape(hamming)}, "
            f"got {np.shape(distances)}"
        )
    anything = np.zeros(np.shape(hamming), bool)
    hamming, distances = (
        np.asarray(check_distances(both, anything)[0]) for both in (hamming, distances)
    )
    order = np.lexsort((distances, hamming), axis=-1)
    steps = np.zeros(order.shape, bool)
    for each in (hamming, distances):
        along = np.take_along_axis(each, order, axis=1)
        steps[:, 1:] |= along[:, 1:] != along[:, :-1]
    ranks = np.zeros(order.shape)
    np.put_along_axis(ranks, order, np.cumsum(steps, axis=1), axis=1)
    reached = (hamming >= 0) & (hamming < bits) & (hamming == np.floor(hamming))
    return np.where(reached, ranks, np.inf)
