"""Oracles: other evaluators, query by query, written from what their code does.

Each takes distances [Q, N], relevant [Q, N] and top_k, with ties in storage order.
"""

import math

import numpy as np


def nearest_first(distances, relevant):
    """Relevance along the ranking of one query; Python's sort is stable."""
    order = sorted(range(len(distances)), key=lambda item: float(distances[item]))
    return [bool(relevant[item]) for item in order]


def mean_of_precisions(ranking):
    """Mean of the precisions at the hits of a ranking that is cut already; None without hits."""
    precisions = []
    for rank, is_relevant in enumerate(ranking, start=1):
        if is_relevant:
            precisions.append((len(precisions) + 1) / rank)
    return sum(precisions) / len(precisions) if precisions else None


def sliced(distances, relevant, top_k):
    """DeepHash-pytorch, SPQ: adds up over the queries that hit, divides by all queries."""
    total = 0.0
    for near, is_relevant in zip(distances, relevant, strict=True):
        value = mean_of_precisions(nearest_first(near, is_relevant)[0:top_k])
        if value is None:
            continue
        total += value
    return total / len(distances)


def skipping(distances, relevant, top_k):
    """thulab/DeepHash, HashNet: a list of the queries that hit, and its mean."""
    values = []
    for near, is_relevant in zip(distances, relevant, strict=True):
        matches = np.array(nearest_first(near, is_relevant)[:top_k])
        precisions = np.cumsum(matches) / np.arange(1, top_k + 1)
        if matches.any():
            values.append((precisions * matches).sum() / matches.sum())
    return sum(values) / len(values) if values else math.nan


def in_buckets(hamming, distances, relevant, top_k, bits):
    """thulab/DeepHash with re-ranking: Hamming distances 0 to bits - 1, each sorted finely."""
    values = []
    for near, fine, is_relevant in zip(hamming, distances, relevant, strict=True):
        matches = []
        for radius in range(bits):
            bucket = [item for item in range(len(near)) if near[item] == radius]
            bucket.sort(key=lambda item, fine=fine: fine[item])
            matches += [bool(is_relevant[item]) for item in bucket]
            if len(matches) > top_k:
                break
        value = mean_of_precisions(matches[:top_k])
        if value is not None:
            values.append(value)
    return sum(values) / len(values) if values else math.nan


def padding(distances, relevant, top_k):
    """orthohash, FIRe, GPQ: as `skipping`, but a query without hits appends a zero."""
    num_items = distances.shape[1]
    top_k = num_items if top_k == -1 else top_k
    values = []
    for near, is_relevant in zip(distances, relevant, strict=True):
        hits, total = 0, 0.0
        ranking = nearest_first(near, is_relevant)
        for rank in range(top_k):
            if ranking[rank]:
                hits += 1
                total += hits / (rank + 1)
        values.append(total / hits if hits else 0.0)
    return sum(values) / len(values)


def in_one_matrix(distances, relevant, top_k):
    """MeCoQ: all queries at once, the number of hits replaced by 1 where it is 0."""
    rankings = [nearest_first(*query) for query in zip(distances, relevant, strict=True)]
    hits = np.array(rankings, float)[:, : top_k or None]
    precisions = hits.cumsum(axis=1) / (np.arange(hits.shape[1]) + 1)
    num_hits = hits.sum(axis=1)
    num_hits[num_hits == 0] = 1
    return np.mean((precisions * hits).sum(axis=1) / num_hits)


def tie_aware(distances, relevant, top_k):
    """TALR's tieAP: an array that grows as it is written to, at the queries with relevant items."""
    assert top_k is None
    values = []
    for row, (near, is_relevant) in enumerate(zip(distances, relevant, strict=True)):
        if not is_relevant.any():
            continue
        total, items_before, relevant_before = 0.0, 0, 0
        for value in np.unique(near):
            items, hits = np.sum(near == value), np.sum(is_relevant[near == value])
            share = (hits - 1) / (items - 1) if items > 1 else 0.0
            terms = [
                (relevant_before + 1 + t * share) / (items_before + 1 + t) for t in range(items)
            ]
            total += hits * np.mean(terms)
            items_before, relevant_before = items_before + items, relevant_before + hits
        values += [0.0] * (row - len(values))
        values.append(total / is_relevant.sum())
    return sum(values) / len(values) if values else math.nan
