"""Measures a search by the share of the true nearest neighbours that it finds."""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from quantjax import index as artefacts
from quantjax.arrays import check_shape
from quantjax.errors import InputError


def recall(
    index: artefacts.Index,
    queries: np.ndarray,
    true_neighbours: np.ndarray,
    *,
    at: Sequence[int] = (1, 10, 100),
    symmetric: bool = False,
    num_probes: int | None = None,
    rerank: int | None = None,
    mesh: Mesh | None = None,
    engine: str = "auto",
) -> dict[str, float]:
    """Measures how many of the true nearest neighbours a search of the codes finds.

    Two numbers go by the name of recall@k, and both are given:

    * `1-recall@k`: share of the queries whose nearest neighbour is among the first k found. Papers
      on quantization call it R@k.
    * `k-recall@k`: mean share of the k nearest neighbours that are among the first k found. Papers
      on search call it recall@k; it is lower, but equal for k = 1.

    Args:
      index: Index to search.
      queries: Embeddings [Q, D].
      true_neighbours: Ids of each query's nearest neighbours, nearest first, [Q, T]; rows from
        `index.true_neighbours` where ids are row numbers.
      at: Values of k. Above T only `1-recall@k` is given.
      symmetric: See `index.search`.
      num_probes: See `index.search`.
      rerank: See `index.search`; raised to the largest k where it is below.
      mesh: See `index.search`.
      engine: See `index.search`.

    Returns:
      The recalls, from 0 to 1, by name, such as "1-recall@10".

    Raises:
      ValueError: if there is no query or no k, or `index.search` refuses its arguments.

    Reference:
      Jegou, Douze, Schmid, Product Quantization for Nearest Neighbor Search, TPAMI 33(1), 2011.
    """
    truth = np.asarray(true_neighbours)
    check_shape("true_neighbours", truth, len(queries), "T")
    if not truth.size or not at:
        raise InputError(f"recall needs queries, neighbours and k, got {truth.shape} and at={at}")
    found = artefacts.search(
        index,
        queries,
        top_k=max(at),
        symmetric=symmetric,
        num_probes=num_probes,
        rerank=None if rerank is None else max(rerank, *at),
        mesh=mesh,
        engine=engine,
    ).ids
    recalls = {}
    for k in at:
        recalls[f"1-recall@{k}"] = float(np.mean((found[:, :k] == truth[:, :1]).any(axis=1)))
        if 1 < k <= truth.shape[1]:
            shares = [np.isin(a[:k], b[:k]).mean() for a, b in zip(found, truth, strict=True)]
            recalls[f"{k}-recall@{k}"] = float(np.mean(shares))
    return recalls
