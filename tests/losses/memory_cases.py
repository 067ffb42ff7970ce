"""Rows of the contract test for `quantjax.losses.memory`."""

import numpy as np

from quantjax.losses import memory
from tests.losses.case import SIZES, Case, coin, normal


def _init(x, labels):
    return memory.init(x, labels, num_rows=SIZES["N"])


def _empty(x, labels):
    size = SIZES["N"]
    return np.zeros((size, x.shape[1])), np.zeros((size, labels.shape[1])), [False] * size


def _push(old, old_labels, mask, x, labels):
    return memory.push(memory.Memory(old, old_labels, mask > 0), x, labels)


def _queued(old, old_labels, mask, x, labels):
    rows = [*zip(old, old_labels, mask, strict=True)]
    for new in zip(x, labels, strict=True):
        rows = [*rows[1:], (*new, True)]
    return tuple(map(np.array, zip(*rows, strict=True)))


_BATCH = (("BD", normal), ("BL", normal))
CASES = (
    Case(
        _init,
        oracle=_empty,
        arguments=_BATCH,
        result="ND,NL,N",
        trained=(),
        local="",
        dtypes="x,labels,bool",
        of=memory.init,
    ),
    Case(
        _push,
        oracle=_queued,
        arguments=(("ND", normal), ("NL", normal), ("N", coin), *_BATCH),
        result="ND,NL,N",
        trained=(),
        local="",
        dtypes="old,old_labels,bool",
        refused=(),  # the memory is made by `init`; what is pushed: test_memory.py
        of=memory.push,
    ),
)
