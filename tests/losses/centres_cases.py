"""Rows of the contract test for `quantjax.losses.centres`."""

import jax
import numpy as np

from quantjax.losses import bernoulli_centres, class_centres, hadamard_centres
from tests.losses.case import SIZES, Case, coin, seed, sign

L, D, N = SIZES["L"], SIZES["D"], SIZES["N"]


def _class_ids(rng, shape):
    return rng.permutation(shape[0])  # Each of the 2 L rows once.


def _hadamard(class_ids, *, num_classes=2 * L):
    return hadamard_centres(num_classes, L)[class_ids % num_classes]


def _sylvester(class_ids, num_classes=2 * L):
    matrix = np.ones((1, 1))
    while len(matrix) < L:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.concatenate((matrix, -matrix))[class_ids % num_classes]


def _bernoulli(seed, *, num_candidates=20):
    key = jax.random.key(seed)
    return bernoulli_centres(key, L, N, num_candidates=num_candidates)


def _farthest(seed, num_candidates=20):
    balanced = np.repeat(np.float32([-1, 1]), N // 2)
    chosen = []
    for key in jax.random.split(jax.random.key(seed), L):
        draws = np.tile(balanced, (num_candidates, 1))
        draws = np.asarray(jax.random.permutation(key, draws, axis=1, independent=True))
        nearest = [
            min(
                (sum(a != b for a, b in zip(draw, other, strict=True)) for other in chosen),
                default=N,
            )
            for draw in draws
        ]
        chosen.append(draws[nearest.index(max(nearest))])
    return np.array(chosen)


def _class_centres(seed, labels, centres):
    return class_centres(jax.random.key(seed), labels, centres)


def _majority(seed, labels, centres):
    tie = np.asarray(jax.random.rademacher(jax.random.key(seed), (D,), np.float32))
    result = np.zeros((len(labels), D))
    for i, k in np.ndindex(result.shape):
        votes = sum(centre[k] for centre, own in zip(centres, labels[i], strict=True) if own)
        result[i, k] = tie[k] if votes == 0 else np.sign(votes)
    return result


CASES = (
    Case(
        _hadamard,
        of=hadamard_centres,
        oracle=_sylvester,
        arguments=(("B", _class_ids),),
        result="BL",  # L bits, for D is no power of two.
        dtypes="float32",
        settings=({}, {"num_classes": 11}),
        trained=(),
        refused=(),
    ),
    Case(
        _bernoulli,
        of=bernoulli_centres,
        oracle=_farthest,
        arguments=(("", seed),),
        result="LN",  # N bits: of fewer, more candidates are no better.
        dtypes="float32",
        settings=({}, {"num_candidates": 2}),
        trained=(),
        local="",
        refused=(),
    ),
    Case(
        _class_centres,
        of=class_centres,
        oracle=_majority,
        arguments=(("", seed), ("BL", coin), ("LD", sign)),
        result="BD",
        dtypes="centres",
        trained=(),
    ),
)
