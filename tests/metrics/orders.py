"""Oracles: rankings as plain lists, every order of ties written out one by one."""

import itertools

import numpy as np


def average_precision_of(ranking, top_k, denominator):
    """AP of one ranking (relevant or not, nearest first), by the definition."""
    total, hits = 0.0, 0
    for rank, is_relevant in enumerate(ranking[:top_k], start=1):
        if is_relevant:
            hits += 1
            total += hits / rank
    num_relevant = sum(ranking)
    capped = num_relevant if top_k is None else min(top_k, num_relevant)
    due = {"hits": hits, "capped": capped, "all": num_relevant}[denominator]
    return total / due if due else 0.0


def tie_orders(counts):
    """Every ranking that the counts [levels, 2] of one query allow; all are equally likely."""
    patterns = []
    for items, relevant in counts:
        places = itertools.combinations(range(items), relevant)
        patterns.append([[rank in chosen for rank in range(items)] for chosen in places])
    for choice in itertools.product(*patterns):
        yield list(itertools.chain.from_iterable(choice))


def graded_tie_orders(counts):
    """Every ranking of grades that the counts [levels, G] of one query allow, equally likely."""
    patterns = []
    for numbers in counts:
        grades = [grade for grade, number in enumerate(numbers) for _ in range(number)]
        patterns.append(sorted(set(itertools.permutations(grades))))
    for choice in itertools.product(*patterns):
        yield list(itertools.chain.from_iterable(choice))


def bounds_over(rankings, value):
    """(worst, expected, best) of a value of rankings."""
    values = [value(ranking) for ranking in rankings]
    return min(values), sum(values) / len(values), max(values)


def by_enumeration(counts, top_k, denominator):
    """(worst, expected, best) AP of one query over all orders of ties."""
    return bounds_over(
        tie_orders(counts), lambda order: average_precision_of(order, top_k, denominator)
    )


def random_counts(rng, *, queries, levels, most):
    """Counts [Q, levels, 2] with empty levels and queries without relevant items among them."""
    items = rng.integers(0, most + 1, (queries, levels))
    share = rng.choice([0.0, 0.3, 0.6, 1.0], (queries, 1))
    return np.stack([items, rng.binomial(items, share)], axis=-1)


def random_graded_counts(rng, *, queries, levels, most):
    """Counts [Q, levels, 3] with empty levels and queries without relevant items among them."""
    items = rng.integers(0, most + 1, (queries, levels))
    shares = rng.choice([[1.0, 0, 0], [0.4, 0.3, 0.3], [0.2, 0.6, 0.2], [0, 0.5, 0.5]], queries)
    return rng.multinomial(items, shares[:, None])


def distances_from_counts(rng, counts):
    """Distances and relevance of one query [1, N] that have these counts, in shuffled order."""
    levels = np.repeat(np.arange(len(counts)), counts[:, 0])
    relevant = [np.arange(items) < hits for items, hits in counts]
    order = rng.permutation(len(levels))
    return 0.5 * levels[None, order] - 1, np.concatenate(relevant)[None, order]
