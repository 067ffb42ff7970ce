"""Rows of the contract test for `quantjax.quantizers.ema`."""

import functools

import jax
import numpy as np

from quantjax.quantizers import ema
from tests.quantizers import oracles
from tests.quantizers.case import BOOKS, NEEDS_KEY, NUMBERS, ROW_MASK, Case, K, M, X, kept, positive


def _ema_init(codebooks, assignments, mask):
    rows = np.eye(K)[assignments] * mask[:, None, None]
    return codebooks, rows.sum(axis=0)


def _revive(seed, codebooks, counts, x, threshold):
    codebooks, counts = codebooks.copy(), counts.copy()
    draws = np.asarray(jax.random.uniform(jax.random.key(seed), (M, len(x)), np.float32))
    for m, part in enumerate(oracles.split(x, M)):
        dead = np.flatnonzero(counts[m] < threshold)
        fresh = max(np.mean(counts[m]), 2 * threshold)
        codebooks[m, dead] = part[np.argsort(draws[m])[: len(dead)]]
        counts[m, dead] = fresh
    return codebooks, counts


def _update(codebooks, counts, x, assignments, mask=None, *, decay):
    return ema.ema_update(ema.EmaState(codebooks, counts), x, assignments, decay=decay, mask=mask)


def _update_oracle(codebooks, counts, x, assignments, mask=None, *, decay):
    return oracles.running_sums(codebooks, counts, x, assignments, decay, mask)


_update_case = functools.partial(
    Case,
    function=_update,
    oracle=_update_oracle,
    result="MKd,MK",
    dtypes="float32,float32",
    settings=({"decay": 0.5}, {"decay": 0.99}),
    fixed="dD",
    refused=(0, 1, 2, 3),
)
_state = (("MKd", kept), ("MK", positive))
CASES = (
    Case(
        "ema.ema_init",
        lambda codebooks, assignments, mask: ema.ema_init(codebooks, assignments, mask),
        oracle=_ema_init,
        arguments=(BOOKS, NUMBERS, ROW_MASK),
        result="MKd,MK",
        dtypes="float32,float32",
    ),
    _update_case("ema.ema_update", arguments=(*_state, X, NUMBERS)),
    _update_case(
        "ema.ema_update (masked)",
        arguments=(*_state, X, NUMBERS, ROW_MASK),
        refused=(0, 1, 2, 3, 4),
    ),
    Case(
        "ema.revive",
        lambda seed, codebooks, counts, x, *, threshold: ema.revive(
            jax.random.key(seed), ema.EmaState(codebooks, counts), x, threshold=threshold
        ),
        oracle=_revive,
        arguments=(NEEDS_KEY, *_state, X),
        result="MKd,MK",
        dtypes="float32,float32",
        settings=({"threshold": 0.4}, {"threshold": 1.5}),
        refused=(1, 2, 3),
        fixed="dD",
    ),
)
