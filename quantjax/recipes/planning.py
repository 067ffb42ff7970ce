"""Plans an index: measures codes, lists and re-ranking on a sample, from small codes to large ones.

The sweep is pruned. A longer code is tried only while shorter ones miss the target, and the least
depth and the fewest lists that reach it are found before any search is timed.
"""

import functools
import math
import operator
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import evaluate
from quantjax import index as indexing
from quantjax.arrays import check_finite
from quantjax.errors import InputError
from quantjax.index import Index
from quantjax.quantizers import Codec, ResidualCodec
from quantjax.recipes.codes import itq, opq, pq, rq, sample, vector_embedding

LEAST_ROWS = 1000
"""Rows beside the queries below which a measured recall would say nothing about codes."""

_SIZES = (4, 8, 16, 32, 64, 128)  # bytes of a code
_DEPTHS = (20, 50, 100, 200, 500, 1000)  # candidates that are re-ranked
_FITTED = 8_192  # rows of a fit: a plan takes them many times, and all codecs lose alike
_MOST_RESIDUAL = 16  # codebooks of residual codes, whose encoding takes all of D for each
_NEAR = 0.01  # recall that more probes would add at most
_REPEATS = 3

# OPQ of most codewords comes first, as the others are compared with it.
_FITS: tuple[tuple[str, Callable[..., Codec], int | None], ...] = (
    ("opq", functools.partial(opq, num_codewords=256), 256),
    ("pq", functools.partial(pq, num_codewords=256), 256),
    ("rq", functools.partial(rq, num_codewords=256), 256),
    ("opq", functools.partial(opq, num_codewords=16), 16),
    ("itq", itq, None),
)


class Setting(NamedTuple):
    """Names what an index is made of, and how it is searched.

    Attributes:
      codec: "pq", "opq", "rq" or "itq".
      bits: Code length.
      num_codewords: K; None for "itq".
      num_lists: Inverted lists, of residual "pq" codes; 0 for none.
      num_probes: Lists that a query scans.
      rerank: Candidates that are ordered anew by kept vectors; 0 for none.
    """

    codec: str
    bits: int
    num_codewords: int | None
    num_lists: int = 0
    num_probes: int = 0
    rerank: int = 0


class Trial(NamedTuple):
    """Holds a measured setting.

    Attributes:
      setting: The setting.
      recall: Mean share of the k nearest neighbours among the first k found.
      num_bytes: Memory of an item where all rows are indexed: code, id and kept vector, and its
        share of codebooks and centroids.
      queries_per_second: Of a search of the sample by all queries at once.
      lost: Recall that each stage loses, by "codes" (without re-ranking), "depth" (neighbours that
        are no candidates) and "probes" (neighbours in other lists).
    """

    setting: Setting
    recall: float
    num_bytes: float
    queries_per_second: float
    lost: dict[str, float]


class _Problem(NamedTuple):
    """Holds the sample: database [n, D], queries [Q, D], their nearest rows [Q, k], and limits."""

    database: np.ndarray
    queries: np.ndarray
    truth: np.ndarray
    num_rows: int
    most_bytes: float
    target: float
    seed: int


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
    return _Problem(database, queries, truth, len(x), ram / len(x), recall, seed)


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
        trial, index = _scanned(problem, Setting(name, 8 * size, num_codewords), codec)
        # Codecs that do no better than OPQ, the first, are not fitted to longer codes, which take
        # longest.
        if least is not None and trial.recall <= least:
            dropped.add(family)
        least = trial.recall if least is None else least
        yield trial, index


def _scanned(problem, setting, codec):
    embed = jax.jit(vector_embedding(codec, "l2"))
    x = np.asarray(embed({}, problem.database))
    codes = evaluate.encode(codec, x)
    # Codes that cannot be written to stay on the device between searches.
    codes.flags.writeable = False
    index = Index(codec, codes, np.arange(len(codes)), vectors=x.astype(np.float16))
    recall, speed = _timed(problem, index, setting)
    lost = {"codes": 1 - recall}
    return Trial(setting, recall, _num_bytes(problem, index, setting), speed, lost), index


def _further(problem, trial, index, is_last, is_reranked):
    """Yields trials of re-ranking and of lists, where they may pay."""
    setting = trial.setting
    fits = trial.num_bytes + 2 * index.vectors.shape[1] <= problem.most_bytes
    if fits and not is_reranked and trial.recall < problem.target:
        depth = _depth(problem, index)
        yield (again := _reranked(problem, index, setting._replace(rerank=depth)))
        # Lists make the cheapest re-ranking faster, too.
        if again.recall >= problem.target and not is_last:
            yield _in_lists(problem, setting, depth)
    if is_last:
        yield _in_lists(problem, setting, 0)


def _depth(problem, index):
    """Returns the fewest candidates among which enough true neighbours are."""
    found = _found(problem, index, _DEPTHS[-1])
    for depth in _DEPTHS:
        if depth >= problem.truth.shape[1] and _share(problem, found[:, :depth]) >= problem.target:
            return depth
    return _DEPTHS[-1]


def _reranked(problem, index, setting):
    depth = setting.rerank
    candidates = _share(problem, _found(problem, index, depth))
    recall, speed = _timed(problem, index, setting)
    lost = {"depth": 1 - candidates}
    return Trial(setting, recall, _num_bytes(problem, index, setting), speed, lost)


def _in_lists(problem, setting, depth):
    """Measures inverted lists, with the fewest probes that do."""
    count, dim = problem.database.shape
    num_codebooks = min(setting.bits // 8, dim)
    # As `vector_embedding` does: zeros change no distance.
    x = np.pad(problem.database, ((0, 0), (0, -dim % num_codebooks)))
    num_lists = 1 << round(math.log2(math.sqrt(count)))
    index = indexing.build_lists(
        jax.random.key(problem.seed), x, num_lists=num_lists, num_codebooks=num_codebooks
    )
    index.codes.flags.writeable = False
    index = index._replace(vectors=x[index.ids].astype(np.float16))
    # All lists are scanned once, which tells the loss of the codes from that of the probes.
    wanted = max(depth, problem.truth.shape[1])
    whole = _share(problem, _found(problem, index, wanted))
    probes, share = 1, 0.0
    while probes < num_lists:
        share = _share(problem, _found(problem, index, wanted, num_probes=probes))
        if share >= problem.target or share >= whole - _NEAR:
            break
        probes *= 2
    found = Setting("pq", 8 * num_codebooks, 256, num_lists, probes, depth)
    recall, speed = _timed(problem, index, found)
    lost = {"depth" if depth else "codes": 1 - whole, "probes": max(whole - share, 0.0)}
    return Trial(found, recall, _num_bytes(problem, index, found), speed, lost)


def _found(problem, index, top_k, **options):
    """Returns the rows of the sample that a search finds, [Q, k]."""
    # The width of the codec, where M does not divide that of the vectors.
    padding = index.vectors.shape[1] - problem.queries.shape[1]
    queries = np.pad(problem.queries, ((0, 0), (0, padding)))
    return indexing.search(index, queries, top_k=top_k, **options).ids


def _share(problem, found):
    """Returns the mean share of the true neighbours that were found."""
    pairs = zip(found, problem.truth, strict=True)
    return float(np.mean([np.isin(true, some).mean() for some, true in pairs]))


def _timed(problem, index, setting):
    """Returns the recall of a search, and queries in a second at the fastest of its repeats."""
    options = {"num_probes": setting.num_probes or None, "rerank": setting.rerank or None}
    top_k = problem.truth.shape[1]
    # The first search compiles, and copies the codes to the device.
    recall = _share(problem, _found(problem, index, top_k, **options))
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        _found(problem, index, top_k, **options)
        seconds.append(time.perf_counter() - start)
    return recall, len(problem.queries) / min(seconds)


def _num_bytes(problem, index, setting):
    """Returns the bytes of an item in memory where all rows are indexed."""
    shared = [*jax.tree.leaves(index.codec)]
    if index.lists is not None:
        shared.append(index.lists.centroids)
    # An id is an int64. Sums of codewords and residuals of lists have a float32 term beside.
    num_bytes = index.codec.num_bytes + 8
    if index.lists is not None or isinstance(index.codec, ResidualCodec):
        num_bytes += 4
    if setting.rerank:
        num_bytes += 2 * index.vectors.shape[1]
    return num_bytes + sum(jnp.asarray(leaf).nbytes for leaf in shared) / problem.num_rows
