"""Rows of the contract test for `quantjax.labels`."""

import math

import numpy as np

from quantjax import labels
from tests.losses.case import SIZES, Case, coin

L = SIZES["L"]


def _class_ids(rng, shape):
    return rng.integers(L // 2, size=shape)


def _ids_and_no_ids(rng, shape):
    return rng.integers(-1, L + 2, size=shape)


def _same_class(queries, database):
    return np.array([[q == d for d in database.tolist()] for q in queries.tolist()])


def _multi_hot(class_ids):
    return labels.multi_hot(class_ids, L)


def _marked(class_ids):
    own = [set(np.ravel(ids)) for ids in class_ids]
    return np.array([[int(label in ids) for label in range(L)] for ids in own])


def _each_pair(equation):
    def oracle(queries, database):
        one, other = ([set(np.flatnonzero(row)) for row in side] for side in (queries, database))
        return np.array([[equation(a, b) for b in other] for a in one])

    return oracle


def _jaccard(a, b):
    return len(a & b) / len(a | b) if a | b else 0.0


def _cosine(a, b):
    return len(a & b) / math.sqrt(len(a) * len(b)) if a and b else 0.0


def _pairs(function, equation, dtype):
    return Case(
        function,
        oracle=_each_pair(equation),
        arguments=(("QL", coin), ("NL", coin)),
        result="QN",
        dtypes=dtype,
        trained=(),
    )


def _marks(axes, remark):
    return Case(
        _multi_hot,
        of=labels.multi_hot,
        oracle=_marked,
        arguments=((axes, _ids_and_no_ids),),
        result="BL",
        dtypes="uint8",
        trained=(),
        refused=(),  # One axis or two are right; test_labels.py has the others.
        remark=remark,
    )


CASES = (
    Case(
        labels.same_class,
        oracle=_same_class,
        arguments=(("Q", _class_ids), ("N", _class_ids)),
        result="QN",
        dtypes="bool",
        trained=(),
    ),
    _marks("B", "of one class each"),
    _marks("BJ", "of several classes each"),
    _pairs(labels.share_label, lambda a, b: bool(a & b), "bool"),
    _pairs(labels.jaccard_similarity, _jaccard, "float32"),
    _pairs(labels.cosine_similarity, _cosine, "float32"),
)
