"""Computes measures, their intervals and their controls from counts of items by distance."""

import importlib.metadata
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from quantjax import metrics
from quantjax.errors import InputError
from quantjax.evaluate.intervals import mean_interval
from quantjax.evaluate.relevance import Relevance, items_and_relevant
from quantjax.evaluate.results import Number, Results
from quantjax.run import processes

_CONTROLS = 256  # queries that see shuffled labels
_PACKAGES = ("quantjax", "jax", "jaxlib", "numpy")
_MOST_SHARED = 63  # labels that graded metrics tell apart


def summarize(
    count: Callable[..., Iterator[np.ndarray]],
    labels: Relevance,
    measures: Sequence[metrics.Measure],
    *,
    order: np.ndarray,
    shared: bool,
    leave_self_out: bool,
    task: str,
    distance: str,
    began: float,
    about: dict[str, Any],
) -> Results:
    """Computes all measures from counts, with bootstrap intervals and controls.

    Args:
      count: `(labels, rows, own, num_grades) -> tiles of counts [q, levels, G]` of those queries;
        own is the item that each of them is, or None.
      labels: Labels of both sides.
      measures: Measures from `metrics.measures`.
      order: Key that sorts the items for the control, [N], independent of storage order.
      shared: Whether several processes share the queries out.
      leave_self_out: Whether query i is item i, and not in its own ranking.
      task: Text that identifies queries and items beyond their labels.
      distance: Distance that ranked.
      began: Start time of the evaluation, seconds of `time.perf_counter`.
      about: Further fields of `Results`: name, codes, codec and device.

    Raises:
      ValueError: if a measure is not possible for the codes or labels, or a set that searches
        itself has labels of its own on each side.
    """
    _check_sides(leave_self_out, labels)
    measures = _as_measures(measures, about["metric_of_codec"] == "hamming", labels)
    num_queries, num_items = len(labels.queries), len(labels.database)
    # Binary counts are smaller and faster; grades are told apart only for graded measures.
    num_grades = labels.num_grades if any(measure.graded for measure in measures) else 2

    def measured(labels, rows, orders):
        own = rows if leave_self_out else None
        return _measured(measures, count(labels, rows, own, num_grades), orders)

    totals, values = _shared_out(measured, labels, shared)
    # The control measures a sample of queries only, because it repeats all the counting.
    rows = np.unique(np.linspace(0, num_queries - 1, _CONTROLS).astype(int))
    shuffled = _shuffled(labels.database, order)
    control = labels._replace(queries=labels.queries[rows], database=shuffled)
    _, controls = measured(control, rows, ("expected",))
    # A query that is not in its own ranking searches one item less.
    searched = num_items - 1 if leave_self_out else num_items
    left_out = "|self=out" if leave_self_out else ""
    ids = [f"{each.id(distance=distance, num_items=searched)}{left_out}" for each in measures]
    return Results(
        numbers=tuple(
            _number(*arguments, totals)
            for arguments in zip(ids, measures, values, controls, strict=True)
        ),
        per_query={metric: bounds["expected"] for metric, bounds in zip(ids, values, strict=True)},
        distance=distance,
        num_queries=num_queries,
        num_database=num_items,
        zero_queries=int(np.sum(totals[:, 1:].sum(axis=1) == 0)),
        task_digest=labels.digest(task),
        seconds=round(time.perf_counter() - began, 3),
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        **about,
    )


def _shared_out(measured, labels, shared):
    """Measures all queries, each process its share; returns totals and values of all."""
    num_queries = len(labels.queries)
    # A process without a query would have nothing to join.
    shared = shared and num_queries >= jax.process_count()
    mine = processes.share(num_queries) if shared else slice(None)
    of_mine = labels._replace(queries=labels.queries[mine])
    found = measured(of_mine, np.arange(num_queries)[mine], ("worst", "expected", "best"))
    if not shared:
        return found
    return jax.tree.map(lambda part: processes.join(part, num_queries), found)


def _measured(measures, tiles, orders):
    """Returns database items by grade [Q, G], and {tie order: values [Q]} for each measure."""
    totals, values = [], [{ties: [] for ties in orders} for _ in measures]
    for counts in tiles:
        totals.append(counts.sum(axis=1))
        # Once for all measures without grades: the tiles are large.
        binary = items_and_relevant(counts)
        for measure, found in zip(measures, values, strict=True):
            for ties in orders:
                found[ties].append(measure.of(counts if measure.graded else binary, ties=ties))
    joined = [{ties: np.concatenate(parts) for ties, parts in each.items()} for each in values]
    return np.concatenate(totals), joined


def _number(metric, measure, bounds, control, totals):
    expected = bounds["expected"]
    items, relevant = totals.sum(axis=1), totals[:, 1:].sum(axis=1)
    # Of each query, because a query with more relevant items has more by chance.
    chance = measure.chance(totals if measure.graded else np.stack([items, relevant], axis=1))
    low, high = mean_interval(expected)
    return Number(
        metric=metric,
        value=float(expected.mean()),
        # Clipped by the expected values, because rounding could put them out of order.
        worst=float(np.minimum(bounds["worst"], expected).mean()),
        best=float(np.maximum(bounds["best"], expected).mean()),
        low=low,
        high=high,
        chance=float(chance.mean()),
        shuffled=float(control["expected"].mean()),
        zeros=int(np.sum(expected == 0)),
    )


def _shuffled(patterns, order):
    """Shuffles the items' labels, sorted first, so that the order of storage does not matter."""
    order = np.lexsort((patterns, order))
    shuffled = np.empty_like(patterns)
    shuffled[order] = np.random.default_rng(0).permutation(patterns[order])
    return shuffled


def _check_sides(leave_self_out: bool, labels: Relevance) -> None:
    """Raises ValueError if `leave_self_out` is set and queries and items are not one set."""
    if not leave_self_out:
        return
    items = labels.patterns[labels.database]
    if labels.queries.shape != items.shape or (labels.queries != items).any():
        raise InputError(
            "leave_self_out is for a set that searches itself, but queries and items differ in "
            f"labels or number, {len(labels.queries)} and {len(items)}; hand in one set twice"
        )
    if len(items) < 2:
        raise InputError("leave_self_out leaves nothing to search in a set of one item")


def _as_measures(
    measures: Sequence[metrics.Measure], hamming: bool, labels: Relevance
) -> tuple[metrics.Measure, ...]:
    """Returns the measures; raises ValueError if they are none, repeated, or not possible here."""
    measures = (measures,) if isinstance(measures, metrics.Measure) else tuple(measures)
    if not measures:
        raise InputError("there is nothing to measure: measures is empty")
    for measure in measures:
        if not isinstance(measure, metrics.Measure):
            raise InputError(f"measures must be of metrics.measures, got {measure!r}")
        if not measure.ranked and not hamming:
            raise InputError(
                f"{measure.name} is of a set within a Hamming distance; it takes binary codes"
            )
        if measure.graded and labels.num_grades > _MOST_SHARED + 1:
            raise InputError(
                f"{measure.name} tells up to {_MOST_SHARED} shared labels apart, "
                f"these may share {labels.num_grades - 1}"
            )
    # Compared by id: equal measures may be two objects.
    ids = [measure.id(distance="aqd", num_items=1) for measure in measures]
    if len(set(ids)) < len(ids):
        raise InputError("measures must differ, got one twice")
    return measures
