"""Times evaluation against public code's loops: `python -m experiments.benchmarks.evaluation`.

Ours evaluates all queries of a case, a peer's loop some of them, and the time per query is
compared: minima over turns in one process. Peers run with one BLAS thread and with all; the faster
form counts. Values are compared too: with ties in the order of an unstable sort a peer's must lie
between our bounds.
"""

import functools
import multiprocessing
import pathlib
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
import threadpoolctl

from quantjax import evaluate, metrics
from quantjax.quantizers import ProductCodec

from . import evaluators
from .timing import Timing, run_cases, side_by_side

_BITS = 64
_CLASSES = 10


def main() -> None:
    """Runs the cases named on the command line, all by default, and prints a line for each."""
    run_cases(__doc__, CASES, peers=evaluators.describe())


def hamming(seconds: float) -> Iterator[Timing]:
    """Times whole rankings by Hamming distance, exact in ties, against unstable sorts."""
    for num_queries, num_items, bar in ((1000, 59_000, 12.0), (32, 1_000_000, 20.0)):
        case = _codes(num_queries, num_items)
        ours = functools.partial(evaluate.hamming_average_precision, *case)
        some = tuple(side[:16] if i % 2 == 0 else side for i, side in enumerate(case))
        bits = [_signs(some[0]), _signs(some[1])]
        one_hot = [np.eye(_CLASSES, dtype=np.float32)[ids] for ids in case[2:]]
        one_hot[0] = one_hot[0][:16]
        loops = {
            "DeepHash-pytorch": evaluators.deephash_pytorch(*bits, *one_hot),
            "thulab": evaluators.thulab(*bits, *one_hot),
            "torchmetrics": evaluators.torchmetrics(*bits, case[2][:16], case[3]),
        }
        bounds = [evaluate.hamming_average_precision(*case, ties=t)[:16] for t in ("worst", "best")]
        yield from _against(
            f"Hamming mAP {num_queries} x {num_items}, {_BITS} bit",
            ours, num_queries, loops, 16, bar, seconds, bounds,
        )  # fmt: skip


def product(seconds: float) -> Iterator[Timing]:
    """Times whole rankings by asymmetric distances to product codes."""
    rng = np.random.default_rng(0)
    num_queries, num_items, num_books = 128, 59_000, 8
    books = rng.normal(size=(num_books, 256, 16)).astype(np.float32)
    queries = rng.normal(size=(num_queries, 128)).astype(np.float32)
    codes = rng.integers(0, 256, (num_items, num_books), dtype=np.uint8)
    query_ids, ids = rng.integers(0, _CLASSES, num_queries), rng.integers(0, _CLASSES, num_items)
    codec = ProductCodec(jnp.asarray(books), metric="l2")
    one_hot = [np.eye(_CLASSES, dtype=np.float32)[side] for side in (query_ids[:4], ids)]
    spq = functools.partial(evaluators.spq, books, queries[:4], codes, *one_hot)

    def ours(ties="expected"):
        labels = evaluate.relevance(query_ids, ids)
        tiles = evaluate.ranked_counts(codec, queries, codes, labels, num_grades=2)
        counts = map(evaluate.items_and_relevant, tiles)
        values = [metrics.average_precision_from_counts(each, ties=ties) for each in counts]
        return np.concatenate(values)

    yield from _against(
        f"PQ mAP {num_queries} x {num_items}, M={num_books} K=256",
        ours,
        num_queries,
        {"SPQ, squared": spq(squared=True), "SPQ": spq(squared=False)},
        4,
        20.0,
        seconds,
        [ours(ties)[:4] for ties in ("worst", "best")],
    )


def growth(seconds: float) -> Iterator[str]:
    """Measures how time grows with the number of items; proportional growth is expected."""
    rng = np.random.default_rng(0)
    books = jnp.asarray(rng.normal(size=(8, 256, 16)), jnp.float32)
    codec = ProductCodec(books, metric="l2")
    for num_items in (10_000, 100_000, 1_000_000):
        case = _codes(64, num_items)
        queries = rng.normal(size=(64, 128)).astype(np.float32)
        labels = evaluate.relevance(*case[2:])

        def by_rank(case=case, queries=queries, labels=labels):
            tiles = evaluate.ranked_counts(codec, queries, case[1], labels, num_grades=2)
            counts = map(evaluate.items_and_relevant, tiles)
            return [metrics.average_precision_from_counts(each) for each in counts]

        hamming, ranked = side_by_side(
            [functools.partial(evaluate.hamming_average_precision, *case), by_rank],
            seconds=seconds,
        )
        pairs = 64 * num_items
        times = {"Hamming": hamming, "PQ": ranked}
        yield f"64 x {num_items:>7}: " + "; ".join(
            f"{name} {1e3 * time:7.1f} ms, {1e9 * time / pairs:5.2f} ns a pair"
            for name, time in times.items()
        )


def memory(seconds: float) -> Iterator[str]:
    """Measures peak memory of a process that evaluates 10,000 queries x 50,000 items (Linux)."""
    del seconds
    spawn = multiprocessing.get_context("spawn")
    for kind in ("nothing", "hamming", "product"):
        with spawn.Pool(1) as pool:
            peak = pool.apply(_peak_of, (kind,))
        yield f"10000 x 50000, {kind}: peak memory of the process {peak / 1e9:.2f} GB (bar 2 GB)"


def _peak_of(kind):
    rng = np.random.default_rng(0)
    case = _codes(10_000, 50_000)
    if kind == "hamming":
        evaluate.hamming_average_precision(*case)
    if kind == "product":
        codec = ProductCodec(jnp.asarray(rng.normal(size=(8, 256, 16)), jnp.float32))
        queries = rng.normal(size=(10_000, 128)).astype(np.float32)
        evaluate.evaluate(codec, queries, *case[1:], name="random", distance="aqd")
    # Not getrusage: that of a child begins with what its parent held.
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


CASES: dict[str, Callable[[float], Iterator[object]]] = {
    "hamming": hamming,
    "product": product,
    "growth": growth,
    "memory": memory,
}


def _codes(num_queries, num_items):
    """Returns random codes and class ids of queries and database."""
    rng = np.random.default_rng(0)
    sides = [
        rng.integers(0, 256, (n, _BITS // 8), dtype=np.uint8) for n in (num_queries, num_items)
    ]
    ids = [rng.integers(0, _CLASSES, n) for n in (num_queries, num_items)]
    return (*sides, *ids)


def _signs(codes):
    return np.unpackbits(codes, axis=1, bitorder="little").astype(np.float32) * 2 - 1


def _against(name, ours, num_queries, loops, num_some, bar, seconds, bounds):
    limited = {}
    for peer, loop in loops.items():
        limited[peer, "1 thread"] = _with_threads(loop, 1)
        limited[peer, "all threads"] = _with_threads(loop, None)
    mine, *theirs = side_by_side([ours, *limited.values()], seconds=seconds)
    for peer, loop in loops.items():
        both = {t: theirs[i] for i, (p, t) in enumerate(limited) if p == peer}
        threads = min(both, key=both.__getitem__)
        values = loop()
        within = np.all((values >= bounds[0] - 1e-4) & (values <= bounds[1] + 1e-4))
        note = f"of {num_some} queries, {threads}; "
        note += "its values lie within our bounds" if within else "its values leave our bounds"
        peer_time = both[threads] * num_queries / num_some
        yield Timing(name, mine, peer_time, peer, bar, note)


def _with_threads(loop, limit):
    if limit is None:
        return loop

    def limited():
        with threadpoolctl.threadpool_limits(limit):
            return loop()

    return limited


if __name__ == "__main__":
    main()
