"""Rows of the contract test for `quantjax.losses.wrappers`."""

import numpy as np

from quantjax import losses
from quantjax.quantizers import ProductCodec
from tests.losses.case import SIZES, Case, coin, normal
from tests.losses.pairwise_cases import CASES as PAIRWISE

M, K = 3, 4
BOOKS = np.float32(np.random.default_rng(0).normal(size=(M, K, SIZES["D"] // M)))
_PAIRWISE_COSINE = PAIRWISE[0].oracle


def _coded(queries, database, similar):
    return losses.coded(losses.pairwise_cosine, ProductCodec(BOOKS))(queries, database, similar)


def _decoded(rows):
    result = []
    for row in rows:
        parts = zip(np.split(row, M), np.float64(BOOKS), strict=True)
        result.append(
            np.concatenate([book[np.argmin(((p - book) ** 2).sum(1))] for p, book in parts])
        )
    return np.array(result)


def _coded_surrogate(queries, database, similar, at):
    return _PAIRWISE_COSINE(queries, _decoded(at[1]) + database - at[1], similar)


def _nested(queries, database, similar, *, lengths, weights=None):
    loss = losses.nested(losses.pairwise_cosine, lengths, weights=weights)
    return loss(queries, database, similar)


def _summed(queries, database, similar, lengths, weights=None):
    result = np.zeros(similar.shape)
    for number, length in enumerate(lengths):
        part = _PAIRWISE_COSINE(queries[:, :length], database[:, :length], similar)
        result += part if weights is None else weights[number] * part
    return result


_PAIRS = (("QD", normal), ("ND", normal), ("QN", coin))
CASES = (
    Case(
        _coded,
        oracle=lambda *arguments: _coded_surrogate(*arguments, at=arguments),
        arguments=_PAIRS,
        result="QN",
        trained=(0, 1),
        surrogate=_coded_surrogate,
        of=losses.coded,
    ),
    Case(
        _nested,
        oracle=_summed,
        arguments=_PAIRS,
        result="QN",
        settings=({"lengths": (2, 6)}, {"lengths": (1, 3, 6), "weights": (0.5, 1.0, 2.0)}),
        trained=(0, 1),
        of=losses.nested,
    ),
)
