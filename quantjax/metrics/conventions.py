"""Mean average precision as other evaluators compute it, to reproduce their tables on purpose.

Each convention was read off the public code named in its source. Equal distances stand in the
order of storage; where the original leaves their order to an unstable sort, its number lies
somewhere between the bounds. Labels become `relevant` before anything here sees them: the habit of
thulab/DeepHash and its heirs to write -1 over the zeros of the caller's labels is not reproduced.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from quantjax.errors import InputError
from quantjax.metrics import cutoffs
from quantjax.metrics.checks import check_distances
from quantjax.metrics.harmonic import Array
from quantjax.metrics.identifiers import check_choice, write_id
from quantjax.metrics.left_out import bounds_of_mean, chance_of_a_hit
from quantjax.metrics.ranking import Bounds, average_precision_bounds
from quantjax.metrics.storage import count_levels, rank_as_stored, sum_precisions

_ENTRIES = 2**22


class Convention(NamedTuple):
    """How an evaluator turns rankings into one number.

    Attributes:
      name: What the metric id says behind "as=".
      cut: From the caller's top_k and the number of items to the cut.
      denominator: "hits", "capped" or "all", as in `average_precision`.
      zero: What becomes of a query without hits: "0", "excluded", or "trailing" (a query without
        relevant items is excluded if none with relevant items follows, and 0 otherwise).
      ties: "storage" (by position), "unspecified" (left to an unstable sort; we take the position)
        or "expected".
      distances: What the evaluator ranks by, out of the metric id's distances.
      source: Repository, file and function.
      reach: From the distances to the number of items that every ranking holds.
    """

    name: str
    cut: Callable[[int | None, int], cutoffs.Cut]
    denominator: str
    zero: str
    ties: str
    distances: tuple[str, ...]
    source: str
    reach: Callable[[np.ndarray], int] = lambda distances: distances.shape[1]


class ConventionResult(NamedTuple):
    """A mean average precision by a convention.

    Attributes:
      value: The number, with ties as the convention has them; NaN if every query is excluded.
      per_query: Average precision of every query, [Q]; NaN where excluded.
      excluded: Whether the query is left out of the mean, [Q] bool.
      worst: The least number that any order of ties gives.
      expected: The number on average over all orders of ties.
      best: The largest number that any order of ties gives.
      metric: Metric id.
    """

    value: float
    per_query: np.ndarray
    excluded: np.ndarray
    worst: float
    expected: float
    best: float
    metric: str


deephash_pytorch = Convention(
    name="deephash-pytorch",
    cut=cutoffs.as_slice,
    denominator="hits",
    zero="0",
    ties="unspecified",
    distances=("hamming",),
    source="swuxyj/DeepHash-pytorch, utils/tools.py, CalcTopMap",
)

thulab = Convention(
    name="thulab",
    cut=cutoffs.within,
    denominator="hits",
    zero="excluded",
    ties="unspecified",
    distances=("hamming", "float", "aqd", "sqd"),
    source="thulab/DeepHash, DeepHash/evaluation/__init__.py, get_mAPs",
)

# Takes the distances of `rerank`. The original fails unless top_k items are nearer than all bits.
thulab_rerank = thulab._replace(
    name="thulab-rerank",
    distances=("hamming",),
    source="thulab/DeepHash, DeepHash/evaluation/__init__.py, get_mAPs_rerank",
    reach=lambda distances: int(np.isfinite(distances).sum(axis=1).min()),
)

orthohash = Convention(
    name="orthohash",
    cut=cutoffs.within,
    denominator="hits",
    zero="0",
    ties="unspecified",
    distances=("hamming",),
    source="kamwoh/orthohash, functions/hashing.py, calculate_mAP",
)

fire = orthohash._replace(
    name="fire",
    cut=cutoffs.minus_one_is_all,
    distances=("hamming", "float"),
    source="CISiPLab/cisip-FIRe, functions/metrics.py, calculate_mAP",
)

# Distances are negative inner products of lookup tables; squared distances rank differently.
mecoq = Convention(
    name="mecoq",
    cut=cutoffs.none_is_all,
    denominator="hits",
    zero="0",
    ties="unspecified",
    distances=("aqd", "sqd", "float"),
    source="gimpong/AAAI22-MeCoQ, utils.py, Evaluator.MAP",
)

# Distances are sums of norms per subspace, not of squared norms.
spq = deephash_pytorch._replace(
    name="spq",
    distances=("aqd",),
    source="youngkyunJang/SPQ, Retrieval.py, Evaluate_mAP",
)

# Distances are sums of cosine distances per subspace.
gpq = orthohash._replace(
    name="gpq",
    distances=("aqd",),
    source="youngkyunJang/GPQ, utils/RetrievalTest.py, cat_apcal",
)

hashnet = thulab._replace(
    name="hashnet",
    distances=("hamming", "float"),
    source="thuml/HashNet, pytorch/src/test.py, mean_average_precision",
)

# TALR's other function, +eval/AP.m, is not here: a hit at rank 1 adds nothing to its sum.
talr = Convention(
    name="talr",
    cut=cutoffs.never,
    denominator="all",
    zero="trailing",
    ties="expected",
    distances=("hamming",),
    source="kunhe/TALR, +eval/tieAP.m",
)


def mean_average_precision_as(
    convention: Convention, distances: Array, relevant: Array, *, top_k: int | None, distance: str
) -> ConventionResult:
    """Computes mean average precision by another evaluator's convention, with its bounds.

    Runs on the host, in tiles of queries, by one sort a query.

    Args:
      convention: One of this module, or your own.
      distances: Smaller is nearer, [Q, N] real numbers; column order is storage order.
      relevant: Whether the item is relevant to the query, [Q, N] bool.
      top_k: The cut, as the original takes it.
      distance: What was ranked by, one of `convention.distances`.

    Returns:
      The number as the original defines it, and under the other orders of ties.

    Raises:
      ValueError: if shapes or types do not agree, there is no query, a distance is NaN, or the
        original has no number for this `top_k`.
    """
    check_choice("distance", distance, convention.distances)
    distances, relevant = (np.asarray(part) for part in check_distances(distances, relevant))
    if not len(distances):
        raise InputError(f"distances must have at least one row, got {distances.shape}")
    cut = convention.cut(top_k, convention.reach(distances))
    rows = max(1, _ENTRIES // distances.shape[1])
    tiles = [
        _score(distances[i : i + rows], relevant[i : i + rows], cut.ranks, convention.denominator)
        for i in range(0, len(distances), rows)
    ]
    queries = _Queries(*(np.concatenate(part) for part in zip(*tiles, strict=True)))
    kept, chances = _ZERO[convention.zero](queries)
    bounds = Bounds(queries.worst, queries.expected, queries.best)
    worst, expected, best = bounds_of_mean(bounds, chances, queries.least)
    per_query = queries.expected if convention.ties == "expected" else queries.stored
    value = per_query[kept].mean() if kept.any() else np.nan
    return ConventionResult(
        value=float(value),
        per_query=np.where(kept, per_query, np.nan),
        excluded=~kept,
        # Rounding is clipped, so that the numbers are in order.
        worst=float(np.fmin.reduce([worst, expected, value])),
        expected=float(expected),
        best=float(np.fmax.reduce([best, expected, value])),
        metric=write_id(
            cut.name,
            ties="expected" if convention.ties == "expected" else "storage",
            denominator=convention.denominator,
            zero=convention.zero,
            distance=distance,
            convention=convention.name,
        ),
    )


class _Queries(NamedTuple):
    stored: np.ndarray
    hits: np.ndarray
    relevant: np.ndarray
    worst: np.ndarray
    expected: np.ndarray
    best: np.ndarray
    chance: np.ndarray
    least: np.ndarray


def _score(distances, relevant, top_k, denominator):
    ranked = rank_as_stored(distances, relevant)
    (sums, hits), total = sum_precisions(ranked, top_k), np.count_nonzero(relevant, axis=1)
    due = {"hits": hits, "capped": np.minimum(total, top_k), "all": total}
    due_for_one = np.maximum(due[denominator], 1) if denominator != "hits" else 1
    counts = count_levels(ranked, top_k)
    return _Queries(
        sums / np.maximum(due[denominator], 1),
        hits,
        total,
        *map(np.asarray, average_precision_bounds(counts, top_k=top_k, denominator=denominator)),
        chance_of_a_hit(counts, top_k),
        # One hit, at the last rank.
        np.full(len(hits), 1 / top_k) / due_for_one,
    )


def _count_as_zero(queries):
    return np.ones(len(queries.hits), bool), np.ones(len(queries.hits))


def _leave_out(queries):
    return queries.hits > 0, queries.chance


def _leave_out_trailing(queries):
    kept = np.arange(len(queries.relevant)) <= np.flatnonzero(queries.relevant).max(initial=-1)
    return kept, kept.astype(np.float64)


_ZERO = {"0": _count_as_zero, "excluded": _leave_out, "trailing": _leave_out_trailing}
