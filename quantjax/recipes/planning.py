"""Plans an index: measures codes, lists and re-ranking on a sample, from small codes to large ones.

The sweep is pruned. A longer code is tried only while shorter ones miss the target, and the least
depth and the fewest lists that reach it are found before any search is timed.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence

import numpy as np

from quantjax import index as indexing
from quantjax.arrays import check_finite
from quantjax.errors import InputError
from quantjax.quantizers import Codec
from quantjax.recipes.codes import itq, opq, pq, rq, sample
from quantjax.recipes.trials import (
    Problem,
    Setting,
    Trial,
    least_depth,
    measure_lists,
    measure_reranking,
    measure_scan,
)

LEAST_ROWS = 1000
"""Rows beside the queries below which a measured recall would say nothing about codes."""

_SIZES = (4, 8, 16, 32, 64, 128)  # bytes of a code
_FITTED = 8_192  # rows of a fit: a plan takes them many times, and all codecs lose alike
_MOST_RESIDUAL = 16  # codebooks of residual codes, whose encoding takes all of D for each

# OPQ of most codewords comes first, as the others are compared with it.
_FITS: tuple[tuple[str, Callable[..., Codec], int | None], ...] = (
    ("opq", functools.partial(opq, num_codewords=256), 256),
    ("pq", functools.partial(pq, num_codewords=256), 256),
    ("rq", functools.partial(rq, num_codewords=256), 256),
    ("opq", functools.partial(opq, num_codewords=16), 16),
    ("itq", itq, None),
)


def plan(
    x: np.ndarray,
    *,
    k: int,
    recall: float,
    ram: float,
    num_queries: int = 200,
    most_rows: int = 100_000,
    seed: int = 0,
    report: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Measures settings on a sample of vectors until codes alone reach a recall.

    Args:
      x: Vectors [N, D], compared by squared Euclid; of a mapped file the sample alone is read.
      k: Neighbours to find.
      recall: Target, the mean share of the k nearest neighbours among the first k found.
      ram: Bytes that all N items may take.
      num_queries: Rows that search; they are not in the database.
      most_rows: Largest number of rows of the database. In a larger one recall is lower.
      seed: Seed of the draw and of all fits.
      report: Called with each trial as soon as it is measured.

    Returns:
      The trials, in the order in which they were measured; at least one.

    Raises:
      ValueError: if there are too few rows, NaN, or too little memory for the shortest codes.
    """
    problem = _drawn(x, k, recall, ram, num_queries, most_rows, seed)
    trials: list[Trial] = []
    dropped: set[str] = set()
    reranked = False

    def keep(trial):
        # Codebooks and rotations count too, which only a fitted codec knows.
        if trial.num_bytes <= problem.most_bytes:
            trials.append(trial)
            report(trial)

    # One codeword of 256 for each number is the longest code that makes sense.
    widest = max(x.shape[1], _SIZES[0])
    sizes = [size for size in _SIZES if size <= widest and size + 8 < problem.most_bytes]
    for size in sizes:
        best = None
        for trial, index in _scans(problem, size, dropped):
            keep(trial)
            if best is None or trial.recall > best[0].recall:
                best = trial, index
        assert best is not None, "OPQ is always tried"
        # Where codes alone do, longer codes are dearer in bytes and in time.
        done = best[0].recall >= recall or size == sizes[-1]
        for trial in _further(problem, *best, done, reranked):
            keep(trial)
            reranked |= bool(trial.setting.rerank) and trial.recall >= recall
        if done:
            break
    if not trials:
        raise InputError(
            f"ram must hold codes of 4 bytes and ids of 8, got {ram:,.0f} bytes for {len(x):,} rows"
        )
    return trials


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials that no other beats in recall, bytes and speed at once, by bytes."""
    marks = [(t.recall, -t.num_bytes, t.queries_per_second) for t in trials]
    kept = [
        trial
        for trial, mark in zip(trials, marks, strict=True)
        if not any(o != mark and all(map(operator.ge, o, mark)) for o in marks)
    ]
    return sorted(kept, key=lambda trial: (trial.num_bytes, trial.recall))


def choose(trials: Sequence[Trial], recall: float) -> Trial:
    """Returns the trial of fewest bytes that reaches a recall, or that of the highest recall."""
    enough = [trial for trial in trials if trial.recall >= recall]
    if not enough:
        return max(trials, key=lambda trial: trial.recall)
    # Of equal bytes the faster.
    return min(enough, key=lambda trial: (round(trial.num_bytes, 1), -trial.queries_per_second))


def _drawn(x, k, recall, ram, num_queries, most_rows, seed):
    """Draws queries and database, and finds the true neighbours."""
    if x.ndim != 2 or len(x) < LEAST_ROWS + num_queries or most_rows < LEAST_ROWS:
        raise InputError(
            f"a plan needs {LEAST_ROWS} rows beside {num_queries} queries, got {x.shape} and a "
            f"sample of {most_rows}"
        )
    if not 0 < recall <= 1 or not 1 <= k <= 100 or num_queries < 1:
        raise InputError(
            "a plan needs a query, a recall above 0 and up to 1, and k from 1 to 100, got "
            f"{num_queries}, {recall} and {k}"
        )
    rows = sample(x, most_rows + num_queries, seed=seed)
    drawn = np.asarray(x[rows], np.float32)
    check_finite("vectors", drawn)
    drawn = drawn[np.random.default_rng(seed).permutation(len(drawn))]
    queries, database = drawn[:num_queries], drawn[num_queries:]
    truth = indexing.true_neighbours(database, queries, k)
    return Problem(database, queries, truth, len(x), ram / len(x), recall, seed)


def _scans(problem, size, dropped):
    """Yields each codec of a size with its index, measured by a scan of all codes."""
    dim, least = max(problem.database.shape[1], _SIZES[0]), None
    x = problem.database[sample(problem.database, _FITTED, seed=problem.seed)]
    for name, fit, num_codewords in _FITS:
        num_codebooks = 8 * size // int(math.log2(num_codewords or 2))
        # More codebooks than numbers, or signs than axes, would code zeros.
        most = min(dim, _MOST_RESIDUAL) if name == "rq" else dim
        family = f"{name} {num_codewords}"
        if num_codebooks > most or family in dropped:
            continue
        codec = fit(x, bits=8 * size, seed=problem.seed)
        trial, index = measure_scan(problem, Setting(name, 8 * size, num_codewords), codec)
        # Codecs that do no better than OPQ, the first, are not fitted to longer codes, which take
        # longest.
        if least is not None and trial.recall <= least:
            dropped.add(family)
        least = trial.recall if least is None else least
        yield trial, index


def _further(problem, trial, index, is_last, is_reranked):
    """Yields trials of re-ranking and of lists, where they may pay."""
    setting = trial.setting
    fits = trial.num_bytes + 2 * index.vectors.shape[1] <= problem.most_bytes
    if fits and not is_reranked and trial.recall < problem.target:
        depth = least_depth(problem, index)
        yield (again := measure_reranking(problem, index, setting._replace(rerank=depth)))
        # Lists make the cheapest re-ranking faster, too.
        if again.recall >= problem.target and not is_last:
            yield measure_lists(problem, setting, depth)
    if is_last:
        yield measure_lists(problem, setting, 0)
