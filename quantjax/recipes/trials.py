"""Measures settings of an index on a sample: codes, re-ranking by vectors, inverted lists."""

import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import evaluate
from quantjax import index as indexing
from quantjax.index import Index
from quantjax.quantizers import Codec, ResidualCodec
from quantjax.recipes.codes import vector_embedding

_DEPTHS = (20, 50, 100, 200, 500, 1000)  # candidates that are re-ranked
_NEAR = 0.01  # recall that more probes would add at most
_REPEATS = 3


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


class Problem(NamedTuple):
    """Holds the sample: database [n, D], queries [Q, D], their nearest rows [Q, k], and limits."""

    database: np.ndarray
    queries: np.ndarray
    truth: np.ndarray
    num_rows: int
    most_bytes: float
    target: float
    seed: int


def measure_scan(problem: Problem, setting: Setting, codec: Codec) -> tuple[Trial, Index]:
    """Measures a fitted codec by a scan of all codes; returns its trial, and the index."""
    embed = jax.jit(vector_embedding(codec, "l2"))
    x = np.asarray(embed({}, problem.database))
    codes = evaluate.encode(codec, x)
    # Codes that cannot be written to stay on the device between searches.
    codes.flags.writeable = False
    index = Index(codec, codes, np.arange(len(codes)), vectors=x.astype(np.float16))
    recall, speed = _timed(problem, index, setting)
    lost = {"codes": 1 - recall}
    return Trial(setting, recall, _num_bytes(problem, index, setting), speed, lost), index


def least_depth(problem: Problem, index: Index) -> int:
    """Returns the fewest candidates among which enough true neighbours are."""
    found = _found(problem, index, _DEPTHS[-1])
    for depth in _DEPTHS:
        if depth >= problem.truth.shape[1] and _share(problem, found[:, :depth]) >= problem.target:
            return depth
    return _DEPTHS[-1]


def measure_reranking(problem: Problem, index: Index, setting: Setting) -> Trial:
    """Measures an index from `measure_scan` whose candidates are ordered anew by their vectors."""
    depth = setting.rerank
    candidates = _share(problem, _found(problem, index, depth))
    recall, speed = _timed(problem, index, setting)
    lost = {"depth": 1 - candidates}
    return Trial(setting, recall, _num_bytes(problem, index, setting), speed, lost)


def measure_lists(problem: Problem, setting: Setting, depth: int) -> Trial:
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
