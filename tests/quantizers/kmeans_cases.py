"""Rows of the contract test for `quantjax.quantizers.kmeans`."""

import jax
import numpy as np

from quantjax.quantizers import kmeans
from tests.quantizers import oracles
from tests.quantizers.case import (
    NEEDS_KEY,
    ROW_MASK,
    SIZES,
    Case,
    K,
    counts,
    mask,
    normal,
    positive,
    share,
)


def _squared_distances(x, centroids):
    return [[c @ c - 2 * row @ c for c in centroids] for row in x]


def _plus_plus(seed, x, mask):
    return kmeans.plus_plus(jax.random.key(seed), x, num_centroids=K, mask=mask)


def _fit(centroids, x, mask):
    return kmeans.fit(centroids, x, mask=mask, num_iterations=3)


def _fit_oracle(centroids, x, mask):
    return oracles.fit(centroids, x, mask, 3)


def _spread(key, mask, count):
    """One of each of `count` equal parts of the rows that count."""
    parts = np.arange(count) + np.float64(jax.random.uniform(key, (count,), np.float32))
    counting = np.flatnonzero(mask)
    return counting[np.int64(parts * len(counting) / count)]


def _plus_plus_of_some(seed, x, mask):
    key, spread = jax.random.split(jax.random.key(seed))
    some = _spread(spread, mask, 32 * K)
    return oracles.plus_plus_of_key(key, x[some], mask[some], K)


_POINTS, _CENTROIDS = ("Nd", normal), ("Kd", normal)

CASES = (
    Case(
        "kmeans.relative_distances",
        kmeans.relative_distances,
        oracle=_squared_distances,
        arguments=(_POINTS, _CENTROIDS),
        result="NK",
        trained=(0, 1),
        local="N",
    ),
    Case(
        "kmeans.relative_distances_by_centroid",
        kmeans.relative_distances_by_centroid,
        oracle=lambda x, centroids: np.transpose(_squared_distances(x, centroids)),
        arguments=(_POINTS, _CENTROIDS),
        result="KN",
        trained=(0, 1),
        local="N",
    ),
    Case(
        "kmeans.nearest",
        kmeans.nearest,
        oracle=lambda distances: np.argmin(distances, axis=0),
        arguments=(("KN", normal),),
        result="N",
        dtypes="int32",
        local="N",
    ),
    *(
        Case(
            name,
            kmeans.assign,
            oracle=lambda x, centroids: oracles.encode(centroids[None], x)[:, 0],
            arguments=((letter + "d", normal), _CENTROIDS),
            result=letter,
            dtypes="int32",
            gathers=gathers,
            local=letter,
        )
        for name, letter, gathers in (
            ("kmeans.assign", "N", ""),
            # Numbers of the rows that fill no tile, beside those of the tiles.
            ("kmeans.assign (in tiles)", "R", "s32"),
        )
    ),
    Case(
        "kmeans.plus_plus",
        _plus_plus,
        oracle=lambda seed, x, mask: oracles.plus_plus_of_key(jax.random.key(seed), x, mask, K),
        arguments=(NEEDS_KEY, _POINTS, ROW_MASK),
        gathers="f32",
        result="Kd",
    ),
    Case(
        "kmeans.plus_plus (of some rows)",
        _plus_plus,
        oracle=_plus_plus_of_some,
        arguments=(NEEDS_KEY, ("Rd", normal), ("R", mask)),
        gathers="s32",
        result="Kd",
    ),
    Case(
        "kmeans.spread_rows",
        lambda seed, mask: kmeans.spread_rows(jax.random.key(seed), mask, num_rows=SIZES["B"]),
        oracle=lambda seed, mask: _spread(jax.random.key(seed), mask, SIZES["B"]),
        arguments=(NEEDS_KEY, ROW_MASK),
        gathers="s32",
        result="B",
        dtypes="int32",
    ),
    Case(
        "kmeans.draw_row",
        kmeans.draw_row,
        oracle=oracles.draw_row,
        arguments=(("N", positive), ("", share)),
        gathers="f32",
        result="",
        dtypes="int32",
    ),
    Case(
        "kmeans.lloyd",
        lambda centroids, x, mask, **settings: kmeans.lloyd(centroids, x, mask=mask, **settings),
        oracle=oracles.lloyd,
        arguments=(_CENTROIDS, _POINTS, ROW_MASK),
        result="Kd",
        settings=(
            {"num_iterations": 1},
            {"num_iterations": 3},
            {"num_iterations": 4, "momentum": 0.9},
        ),
        open_at_ties=True,
    ),
    Case(
        "kmeans.fit",
        _fit,
        oracle=_fit_oracle,
        arguments=(_CENTROIDS, _POINTS, ROW_MASK),
        result="Kd",
        open_at_ties=True,
    ),
    Case(
        "kmeans.fit (of some rows first)",
        _fit,
        oracle=_fit_oracle,
        arguments=(_CENTROIDS, ("Rd", normal), ("R", mask)),
        gathers="s32",
        result="Kd",
        open_at_ties=True,
    ),
    Case(
        "kmeans.repair_empty",
        kmeans.repair_empty,
        oracle=oracles.repair_empty,
        arguments=(_CENTROIDS, ("K", counts)),
        result="Kd",
    ),
)
