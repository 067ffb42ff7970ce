"""Reproduces the mean average precision of other evaluators, to compare with published tables.

Other evaluators know no ties: they rank equal distances by position in the database. `rerank` and
`rank_as_stored` rank so, and each convention then averages as the public code named in its source
does. Where the original leaves their order to an unstable sort, its number lies
between the bounds. The functions take `relevant`, not labels: thulab/DeepHash and code derived
from it overwrite the zeros of the caller's labels by -1, which is not reproduced.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from quantjax.errors import InputError
from quantjax.metrics.levels import dense_ranks, levels_from_counts
from quantjax.metrics.rank_sums import Array
from quantjax.metrics.ranking import Bounds, average_precision_bounds
from quantjax.metrics.running import check_choice, check_distances


class Ranked(NamedTuple):
    """Rankings of all queries, nearest item first, equal distances by position in the database.

    Rankings are concatenated: place q N + r holds the item of query q at rank r + 1.

    Attributes:
      hits: Places with a relevant item, ascending.
      ends: Places where a level of equal distance ends, ascending.
      shape: (Q, N).
    """

    hits: np.ndarray
    ends: np.ndarray
    shape: tuple[int, int]


def rank_as_stored(distances: np.ndarray, relevant: np.ndarray) -> Ranked:
    """Ranks the items of each query by distance, and equal distances by position in the database.

    Distance, position and relevance are packed into one integer, so that a plain sort is stable
    and carries everything along; with few distances (Hamming) the integer has only 32 bits.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers without NaN; float64 is not rounded.
      relevant: Whether the item is relevant to the query, [Q, N] bool.

    Returns:
      The rankings.
    """
    levels = _as_whole_numbers(distances)
    num_queries, num_items = levels.shape
    shift = (2 * num_items - 1).bit_length()
    narrow = (int(levels.max(initial=0)) + 1) << shift <= 2**31
    keys = levels.astype(np.int32 if narrow else np.int64)
    keys <<= shift
    keys |= np.arange(0, 2 * num_items, 2, dtype=keys.dtype)
    keys |= relevant
    keys.sort(axis=1)
    ends = np.ones(keys.shape, bool)
    # Neighbours differ at or above bit `shift` only if their distances differ.
    np.greater_equal(keys[:, 1:] ^ keys[:, :-1], 1 << shift, out=ends[:, :-1])
    hits = (keys & 1).astype(bool)
    return Ranked(np.flatnonzero(hits), np.flatnonzero(ends), (num_queries, num_items))


def sum_precisions(ranked: Ranked, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums, for each query, the precisions at the relevant ranks inside a cut.

    Args:
      ranked: The rankings.
      top_k: The cut.

    Returns:
      The sums [Q] float64, and the number of relevant ranks inside [Q].
    """
    num_queries, num_items = ranked.shape
    rows, ranks = np.divmod(ranked.hits, num_items)
    if top_k < num_items:
        inside = ranks < top_k
        rows, ranks = rows[inside], ranks[inside]
    found = np.bincount(rows, minlength=num_queries)
    hits_so_far = np.arange(1, len(rows) + 1) - np.repeat(np.cumsum(found) - found, found)
    return np.bincount(rows, weights=hits_so_far / (ranks + 1), minlength=num_queries), found


def count_levels(ranked: Ranked, top_k: int) -> np.ndarray:
    """Counts items and relevant items on every level of equal distance.

    Levels that no order of ties can distinguish are merged: all levels wholly beyond the cut, and
    neighbouring levels without relevant items, which are most levels if most distances differ.

    Args:
      ranked: The rankings.
      top_k: The cut.

    Returns:
      Counts [Q, levels, 2], nearest level first, zeros behind a query's last level.
    """
    num_queries, num_items = ranked.shape
    ends = ranked.ends
    is_last = ends % num_items == num_items - 1
    inside = np.concatenate([[0], ends[:-1] + 1]) % num_items < top_k
    some = np.diff(np.searchsorted(ranked.hits, ends, side="right"), prepend=0) > 0
    apart = some[:-1] | some[1:] | ~inside[1:]
    ends = ends[is_last | inside & np.append(apart, True)]
    items = np.diff(ends, prepend=-1)
    relevant = np.diff(np.searchsorted(ranked.hits, ends, side="right"), prepend=0)
    rows = ends // num_items
    num_levels = np.bincount(rows, minlength=num_queries)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(num_levels) - num_levels, num_levels)
    counts = np.zeros((num_queries, num_levels.max(), 2), np.int64)
    counts[rows, columns] = np.stack([items, relevant], axis=-1)
    return counts


def rerank(hamming: Array, distances: Array, *, bits: int) -> np.ndarray:
    """Returns distances that rank by Hamming distance, and equal Hamming distances by a second one.

    thulab/DeepHash's re-ranking goes through the Hamming distances 0 to bits - 1 and never reaches
    an item that differs in every bit. Such an item gets distance infinity here.

    Args:
      hamming: Hamming distances [Q, N].
      distances: Second distance, which orders equal Hamming distances, [Q, N]; in the original the
        negative inner product of the real embeddings.
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
    # lexsort takes its last key first: Hamming distance, then the second distance.
    order = np.lexsort((distances, hamming), axis=-1)
    steps = np.zeros(order.shape, bool)
    for each in (hamming, distances):
        along = np.take_along_axis(each, order, axis=1)
        steps[:, 1:] |= along[:, 1:] != along[:, :-1]
    ranks = np.zeros(order.shape)
    np.put_along_axis(ranks, order, np.cumsum(steps, axis=1), axis=1)
    reached = (hamming >= 0) & (hamming < bits) & (hamming == np.floor(hamming))
    return np.where(reached, ranks, np.inf)


def _as_whole_numbers(distances):
    # From 0 to less than 2^32, in the order of the distances and equal where they are equal.
    if np.issubdtype(distances.dtype, np.integer):
        low, high = int(distances.min(initial=0)), int(distances.max(initial=0))
        integer = np.int32 if high - low < 2**31 else np.int64
        return np.subtract(distances, low, dtype=integer, casting="same_kind")
    with np.errstate(over="ignore"):
        single = distances.astype(np.float32)
    if not np.array_equal(single, distances):
        return dense_ranks(distances)
    # The bits of a float grow with it, and fall with it below zero; + 0.0 makes -0.0 into 0.0.
    bits = (single + np.float32(0)).view(np.int32)
    return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64) + 2**31


_ENTRIES = 2**22  # distances that are sorted together, to bound the memory


class Cut(NamedTuple):
    """Number of ranks that a metric reads, and its name in the metric id.

    Attributes:
      ranks: Number of ranks inside the cut, at least 1.
      name: Text in the metric id.
    """

    ranks: int
    name: str


def as_slice(top_k: int | None, num_items: int) -> Cut:
    """Returns the cut of a slice `[:top_k]`: None is no cut, -1 drops the last item.

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
    """Returns the cut at `top_k`, which must be from 1 to the number of items.

    For other values the originals fail, or read no rank.

    Raises:
      ValueError: for other values.
    """
    if top_k is not None:
        _check_whole(top_k)
    if top_k is None or not 1 <= top_k <= num_items:
        raise InputError(
            f"top_k must be from 1 to {num_items}, the items in a ranking, got {top_k}"
        )
    return Cut(int(top_k), f"{top_k}")


def minus_one_is_all(top_k: int | None, num_items: int) -> Cut:
    """Returns the cut of `within`; -1 is no cut."""
    return Cut(num_items, "all") if top_k == -1 else within(top_k, num_items)


def none_is_all(top_k: int | None, num_items: int) -> Cut:
    """Returns the cut of `within`; None or 0 is no cut."""
    return Cut(num_items, "all") if top_k is None or top_k == 0 else within(top_k, num_items)


def never(top_k: int | None, num_items: int) -> Cut:
    """Returns no cut; raises ValueError for a `top_k`, which the original accepts but ignores.

    Raises:
      ValueError: if `top_k` is not None.
    """
    if top_k is not None:
        raise InputError(f"top_k must be None, since the original ignores it, got {top_k}")
    return Cut(num_items, "all")


def _check_whole(top_k):
    if isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)):
        raise InputError(f"top_k must be an integer or None, got {top_k!r}")


# The mean over queries without the queries that hit nothing inside the cut: if the cut divides a
# level of ties, the order of ties decides whether a query hits anything, and so the number of
# queries in the mean.


def chance_of_a_hit(counts: np.ndarray, top_k: int) -> np.ndarray:
    """Returns each query's probability of a relevant item inside the cut, over all orders of ties.

    The probability is 1 if a level wholly inside the cut holds a relevant item. Otherwise the level
    that crosses the cut has n items, p of them relevant, and r ranks inside, and the probability is
    1 - prod_{t<p} (1 - r / (n - t)).

    Args:
      counts: Items and relevant items at every level, [Q, levels, 2].
      top_k: The cut.

    Returns:
      The chances, [Q]; exactly 0 where no order hits anything.
    """
    levels = levels_from_counts(counts)
    inside = np.clip(top_k - levels.items_before, 0, levels.items)
    some = (inside > 0) & (levels.relevant > 0)
    first = np.argmax(some, axis=1)
    chances = np.where(some.any(axis=1), 1.0, 0.0)
    # A product of p factors, not `hit_rate`'s exponent: 1/2 is exactly 1/2, and divides AP exactly.
    for row in np.flatnonzero(chances):
        items, relevant = counts[row, first[row]]
        misses = 1 - inside[row, first[row]] / (items - np.arange(relevant))
        chances[row] = 1 - np.prod(misses)
    return chances


def bounds_of_mean(bounds: Bounds, chances: np.ndarray, least: np.ndarray) -> Bounds:
    """Returns worst, expected and best mean over the queries that hit something inside the cut.

    Orders of ties that exclude every query have no mean and do not count.

    Args:
      bounds: Average precision of every query, [Q] each, 0 where it hits nothing.
      chances: Probability that a query is not excluded, [Q]; ties of different queries are
        independent.
      least: The least average precision of a query that hits something, [Q]; read only where the
        chance is neither 0 nor 1.

    Returns:
      The least, the expected and the largest mean; NaN if every query is always left out.
    """
    sure, doubtful = chances == 1, (chances > 0) & (chances < 1)
    return Bounds(
        -_largest_mean(-bounds.worst[sure], -least[doubtful]),
        _expected_mean(bounds.expected[sure], bounds.expected[doubtful], chances[doubtful]),
        _largest_mean(bounds.best[sure], bounds.best[doubtful]),
    )


def _largest_mean(fixed, optional):
    # The best k of the optional queries are the k largest, so only prefixes need to be compared.
    largest_first = -np.sort(-optional)
    sums = fixed.sum() + np.concatenate([[0.0], np.cumsum(largest_first)])
    sizes = len(fixed) + np.arange(len(sums))
    return (sums[sizes > 0] / sizes[sizes > 0]).max() if sizes[-1] else np.nan


def _expected_mean(fixed, optional, chances):
    # One query after another: the chance that k optional ones are kept, and their sum in that case
    # weighted by it.
    weights, sums = np.zeros(len(optional) + 1), np.zeros(len(optional) + 1)
    weights[0] = 1
    for value, chance in zip(optional, chances, strict=True):
        kept = chance * sums[:-1] + value * weights[:-1]
        sums *= 1 - chance
        sums[1:] += kept
        kept = chance * weights[:-1]
        weights *= 1 - chance
        weights[1:] += kept
    sizes = len(fixed) + np.arange(len(sums))
    some = sizes > 0
    if not some.any():
        return np.nan
    return ((fixed.sum() * weights + sums)[some] / sizes[some]).sum() / weights[some].sum()


class Convention(NamedTuple):
    """Definition of an evaluator's mean average precision: its cut, denominator and ties.

    Attributes:
      name: Text after "as=" in the metric id.
      cut: From the caller's top_k and the number of items to the cut.
      denominator: "hits", "capped" or "all", as in `average_precision`.
      zero: Treatment of a query without hits: "0", "excluded", or "trailing" (a query without
        relevant items is excluded if none with relevant items follows, and 0 otherwise).
      ties: "storage" (by position), "unspecified" (left to an unstable sort; we take the position)
        or "expected".
      distances: Distances that the evaluator can rank by, in the metric id's names.
      source: Repository, file and function.
      reach: From the distances to the number of items that every ranking holds.
    """

    name: str
    cut: Callable[[int | None, int], Cut]
    denominator: str
    zero: str
    ties: str
    distances: tuple[str, ...]
    source: str
    reach: Callable[[np.ndarray], int] = lambda distances: distances.shape[1]


class ConventionResult(NamedTuple):
    """Mean average precision by one convention, with its bounds over all orders of ties.

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
    cut=as_slice,
    denominator="hits",
    zero="0",
    ties="unspecified",
    distances=("hamming",),
    source="swuxyj/DeepHash-pytorch, utils/tools.py, CalcTopMap",
)

thulab = Convention(
    name="thulab",
    cut=within,
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
    cut=within,
    denominator="hits",
    zero="0",
    ties="unspecified",
    distances=("hamming",),
    source="kamwoh/orthohash, functions/hashing.py, calculate_mAP",
)

fire = orthohash._replace(
    name="fire",
    cut=minus_one_is_all,
    distances=("hamming", "float"),
    source="CISiPLab/cisip-FIRe, functions/metrics.py, calculate_mAP",
)

# Distances are negative inner products of lookup tables; squared distances rank differently.
mecoq = Convention(
    name="mecoq",
    cut=none_is_all,
    denominator="hits",
    zero="0",
    ties="unspecified",
    distances=("aqd", "sqd", "float"),
    source="gimpong/AAAI22-MeCoQ, utils.py, Evaluator.MAP",
)

# Distances are sums of norms per subspace, not of squared norms.
spq = deephash_pytorch._replace(
    name="spq", distances=("aqd",), source="youngkyunJang/SPQ, Retrieval.py, Evaluate_mAP"
)

# Distances are sums of cosine distances per subspace.
gpq = orthohash._replace(
    name="gpq", distances=("aqd",), source="youngkyunJang/GPQ, utils/RetrievalTest.py, cat_apcal"
)

hashnet = thulab._replace(
    name="hashnet",
    distances=("hamming", "float"),
    source="thuml/HashNet, pytorch/src/test.py, mean_average_precision",
)

# TALR's other function, +eval/AP.m, is not here: a hit at rank 1 adds nothing to its sum.
talr = Convention(
    name="talr",
    cut=never,
    denominator="all",
    zero="trailing",
    ties="expected",
    distances=("hamming",),
    source="kunhe/TALR, +eval/tieAP.m",
)


def mean_average_precision_as(
    convention: Convention, distances: Array, relevant: Array, *, top_k: int | None, distance: str
) -> ConventionResult:
    """Returns mean average precision by another evaluator's convention, with bounds over ties.

    Runs on the host, in tiles of queries, by one sort a query.

    Args:
      convention: One of this module, or your own.
      distances: Smaller is nearer, [Q, N] real numbers; column order is storage order.
      relevant: Whether the item is relevant to the query, [Q, N] bool.
      top_k: The cut, as the original takes it.
      distance: Name of the distance, one of `convention.distances`.

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
    # Tiles of queries bound the memory of the sort keys.
    rows = max(1, _ENTRIES // distances.shape[1])
    tiles = [
        _score(distances[i : i + rows], relevant[i : i + rows], cut.ranks, convention.denominator)
        for i in range(0, len(distances), rows)
    ]
    stored, hits, relevant, chances, least, *bounds = (
        np.concatenate(part) for part in zip(*tiles, strict=True)
    )
    kept, chances = _ZERO[convention.zero](hits, relevant, chances)
    bounds = Bounds(*bounds)
    worst, expected, best = bounds_of_mean(bounds, chances, least)
    per_query = bounds.expected if convention.ties == "expected" else stored
    value = per_query[kept].mean() if kept.any() else np.nan
    ties = "expected" if convention.ties == "expected" else "storage"
    metric = f"map@{cut.name}|ties={ties}|den={convention.denominator}|zero={convention.zero}"
    return ConventionResult(
        value=float(value),
        per_query=np.where(kept, per_query, np.nan),
        excluded=~kept,
        # Rounding is clipped, so that the numbers are in order.
        worst=float(np.fmin.reduce([worst, expected, value])),
        expected=float(expected),
        best=float(np.fmax.reduce([best, expected, value])),
        metric=f"{metric}|dist={distance}|as={convention.name}",
    )


def _score(distances, relevant, top_k, denominator):
    """Returns average precision as stored, hits, relevant items, chance of a hit, least, bounds."""
    ranked = rank_as_stored(distances, relevant)
    (sums, hits), total = sum_precisions(ranked, top_k), np.count_nonzero(relevant, axis=1)
    due = {"hits": hits, "capped": np.minimum(total, top_k), "all": total}
    due_for_one = np.maximum(due[denominator], 1) if denominator != "hits" else 1
    counts = count_levels(ranked, top_k)
    return (
        sums / np.maximum(due[denominator], 1),
        hits,
        total,
        chance_of_a_hit(counts, top_k),
        # One hit, at the last rank.
        np.full(len(hits), 1 / top_k) / due_for_one,
        *average_precision_bounds(counts, top_k=top_k, denominator=denominator),
    )


def _count_as_zero(hits, relevant, chances):
    return np.ones(len(hits), bool), np.ones(len(hits))


def _leave_out(hits, relevant, chances):
    return hits > 0, chances


def _leave_out_trailing(hits, relevant, chances):
    kept = np.arange(len(relevant)) <= np.flatnonzero(relevant).max(initial=-1)
    return kept, kept.astype(np.float64)


_ZERO = {"0": _count_as_zero, "excluded": _leave_out, "trailing": _leave_out_trailing}
