"""Rows of the contract test for `quantjax.losses.proxy`."""

import math

import numpy as np

from quantjax import losses
from tests.losses.case import Case, coin, normal, sign


def _central_similarity(x, targets):
    result = []
    for row, target in zip(x, targets, strict=True):
        total = 0.0
        for value, side in zip(row, target, strict=True):
            # log h = -log(1 + exp(-2x)) and log(1 - h) = -log(1 + exp(2x)), h = sigmoid(2x).
            bit = (side + 1) / 2
            total += bit * np.logaddexp(0, -2 * value) + (1 - bit) * np.logaddexp(0, 2 * value)
        result.append(total / len(row))
    return np.array(result)


def _class_wise_margin(x, targets, margin=1.0):
    pairs = zip(x, targets, strict=True)
    return [sum(max(0.0, margin - a * b) for a, b in zip(*pair, strict=True)) for pair in pairs]


def _cross_entropy(logits, labels):
    total = np.logaddexp.reduce(logits)
    own = [total - logit for logit, label in zip(logits, labels, strict=True) if label]
    return sum(own) / len(own) if own else 0.0


def _cosine(a, b):
    lengths = math.sqrt(sum(u * u for u in a) * sum(v * v for v in b))
    return sum(u * v for u, v in zip(a, b, strict=True)) / lengths if lengths else 0.0


def _orthogonal_cosine(x, labels, centres, scale=8.0, margin=0.2):
    return [
        _cross_entropy(
            [
                scale * (_cosine(row, centre) - (margin if label else 0.0))
                for centre, label in zip(centres, own, strict=True)
            ],
            own,
        )
        for row, own in zip(x, labels, strict=True)
    ]


def _widened(cosine, margin):
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if angle + margin >= math.pi:
        return cosine - margin * math.sin(margin)
    if math.sin(angle) ** 2 > 1e-6:
        return math.cos(angle + margin)
    return cosine * math.cos(margin) - 1e-3 * math.sin(margin)


def _additive_angular_margin(x, labels, centres, scale=64.0, margin=0.5):
    result = []
    for row, own in zip(x, labels, strict=True):
        logits = [_cosine(row, centre) for centre in centres]
        pairs = zip(logits, own, strict=True)
        logits = [scale * (_widened(c, margin) if label else c) for c, label in pairs]
        result.append(_cross_entropy(logits, own))
    return np.array(result)


def _proxy_anchor(x, labels, proxies, scale=32.0, margin=0.1):
    present = sum(any(column) for column in labels.T)
    result = []
    for label, proxy in enumerate(proxies):
        pull = push = 0.0
        for row, own in zip(x, labels, strict=True):
            if own[label]:
                pull += math.exp(-scale * (_cosine(row, proxy) - margin))
            else:
                push += math.exp(scale * (_cosine(row, proxy) + margin))
        pull = math.log(1 + pull) * len(proxies) / max(present, 1)
        result.append(pull + math.log(1 + push))
    return np.array(result)


def _greedy_hash(x, labels, weights):
    return _greedy_hash_surrogate(x, labels, weights, at=(x, labels, weights))


def _greedy_hash_surrogate(x, labels, weights, at):
    signs = [[1.0 if value >= 0 else -1.0 for value in row] for row in at[0]]
    moved = np.array(signs) + (x - at[0])  # The sign stays, and moves as x does.
    return [
        _cross_entropy([sum(w * b for w, b in zip(v, row, strict=True)) for v in weights], own)
        for row, own in zip(moved, labels, strict=True)
    ]


CASES = (
    Case(
        losses.central_similarity,
        oracle=_central_similarity,
        arguments=(("BD", normal), ("BD", sign)),
        result="B",
    ),
    Case(
        losses.orthogonal_cosine,
        oracle=_orthogonal_cosine,
        arguments=(("BD", normal), ("BL", coin), ("LD", normal)),
        result="B",
        settings=({}, {"scale": 3.0, "margin": 0.5}),
        trained=(0, 2),
    ),
    Case(
        losses.additive_angular_margin,
        oracle=_additive_angular_margin,
        arguments=(("BD", normal), ("BL", coin), ("LD", normal)),
        result="B",
        settings=({}, {"scale": 8.0, "margin": 0.25}),
        trained=(0, 2),
    ),
    Case(
        losses.proxy_anchor,
        oracle=_proxy_anchor,
        arguments=(("BD", normal), ("BL", coin), ("LD", normal)),
        result="L",
        settings=({}, {"scale": 4.0, "margin": 0.3}),
        trained=(0, 2),
        local="",
    ),
    Case(
        losses.class_wise_margin,
        oracle=_class_wise_margin,
        arguments=(("BD", normal), ("BD", sign)),
        result="B",
        settings=({}, {"margin": 0.25}),
    ),
    Case(
        losses.greedy_hash,
        oracle=_greedy_hash,
        arguments=(("BD", normal), ("BL", coin), ("LD", normal)),
        result="B",
        trained=(0, 2),
        surrogate=_greedy_hash_surrogate,
    ),
)
