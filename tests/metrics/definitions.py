"""Oracles: every metric of one ranking, grades (or relevant or not) nearest first, as defined."""

import math


def precision(ranking, top_k):
    return sum(ranking[:top_k]) / len(ranking[:top_k])


def recall(ranking, top_k):
    return sum(ranking[:top_k]) / max(sum(ranking), 1)


def hit_rate(ranking, top_k):
    return float(any(ranking[:top_k]))


def reciprocal_rank(ranking, top_k):
    return next((1 / rank for rank, hit in enumerate(ranking[:top_k], start=1) if hit), 0.0)


def r_precision(ranking):
    return sum(ranking[: sum(ranking)]) / max(sum(ranking), 1)


def average_precision_at_r(ranking):
    inside = ranking[: sum(ranking)]
    total = sum(sum(inside[:rank]) / rank for rank, hit in enumerate(inside, start=1) if hit)
    return total / max(sum(ranking), 1)


def dcg(ranking, top_k):
    gains = enumerate(ranking[:top_k], start=1)
    return sum((2**grade - 1) / math.log2(rank + 1) for rank, grade in gains)


def ndcg(ranking, top_k):
    ideal = dcg(sorted(ranking, reverse=True), top_k)
    return dcg(ranking, top_k) / ideal if ideal else 0.0


def acg(ranking, top_k):
    return sum(ranking[:top_k]) / len(ranking[:top_k])


def wap(ranking, top_k, denominator):
    inside = ranking[:top_k]
    relevant_ranks = [rank for rank, grade in enumerate(inside, start=1) if grade]
    num_relevant = sum(grade > 0 for grade in ranking)
    due = {
        "hits": len(relevant_ranks),
        "capped": min(len(inside), num_relevant),
        "all": num_relevant,
    }[denominator]
    return sum(acg(ranking, rank) for rank in relevant_ranks) / max(due, 1)
