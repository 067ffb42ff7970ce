"""Measures what limits each fast path here: `python -m experiments.benchmarks.limits`.

A path's work is counted by hand: multiplications and additions of its matrix products, bytes that
it must read and write at least once, bytes whose bits it counts, table entries that it looks up, by
one query or by 32 that share each load.
What the machine could do is measured in the same process, by loops of one operation each, as
XLA compiles them. The largest quotient of the two is the bound on the time, and the table shows the
fraction of it that is reached; what a bound leaves out (a softmax, a selection) lowers it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import evaluate, index, losses, metrics
from quantjax.quantizers import BinaryCodec, ProductCodec, kmeans, product

from .timing import run_cases, side_by_side


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations of a path, or what a machine does of each in a second.

    Attributes:
      flops: Multiplications and additions of float32 matrix products.
      num_bytes: Bytes read and written.
      popcounts: Bytes whose bits are counted.
      look_ups: Entries taken from tables of 256 float32 numbers.
      block_look_ups: Rows taken from tables of 256 rows of 32 int16 numbers.
    """

    flops: float = 0.0
    num_bytes: float = 0.0
    popcounts: float = 0.0
    look_ups: float = 0.0
    block_look_ups: float = 0.0


NAMES = {
    "flops": "matrix products",
    "num_bytes": "memory",
    "popcounts": "bit counts",
    "look_ups": "look-ups",
    "block_look_ups": "look-ups by 32",
}


def main() -> None:
    """Prints the machine's limits, and a line for each path."""
    run_cases(__doc__, {"limits": limits}, peers="bounds: " + ", ".join(NAMES.values()))


def limits(seconds: float) -> Iterator[str]:
    """Times each path beside the bound that this machine sets to it."""
    able = machine(seconds)
    yield (
        f"this machine: {able.flops / 1e9:.0f} GFLOP/s of matrix products, "
        f"{able.num_bytes / 1e9:.1f} GB/s of memory, {able.popcounts / 1e9:.1f} G bytes/s of bit "
        f"counts, {able.look_ups / 1e9:.2f} G look-ups/s, {able.block_look_ups / 1e9:.2f} G "
        "look-ups/s by 32 queries"
    )
    for name, build in PATHS.items():
        run, work = build()
        time = side_by_side([run], seconds=seconds)[0]
        least = {field: getattr(work, field) / getattr(able, field) for field in NAMES}
        limit = max(least, key=least.__getitem__)
        share = least[limit] / time
        yield (
            f"{name:<36} {1e3 * time:9.2f} ms   bound {1e3 * least[limit]:9.2f} ms by "
            f"{NAMES[limit]:<16} {100 * share:4.1f} % reached"
        )


def machine(seconds: float) -> Work:
    """Measures what this machine does in a second of each operation alone."""
    rng = np.random.default_rng(0)
    square = jnp.asarray(rng.normal(size=(1024, 1024)), jnp.float32)
    large = jnp.asarray(rng.normal(size=1 << 26), jnp.float32)
    planes = jnp.asarray(rng.integers(0, 256, (8, 1 << 17), dtype=np.uint8))
    table = jnp.asarray(rng.normal(size=256), jnp.float32)
    block = jnp.asarray(rng.integers(0, 100, (256, 32)), jnp.int16)
    entries = jnp.asarray(rng.integers(0, 256, 1 << 20, dtype=np.uint8))

    def count(planes):
        return jnp.sum(jax.lax.population_count(planes ^ jnp.uint8(85)), axis=0, dtype=jnp.uint8)

    def sum_of_rows(rows):
        return sum(block[number] for number in rows)

    loops = [
        _ready(lambda a: a @ a, square),
        _ready(jnp.sum, large),
        _ready(count, planes),
        _ready(lambda e: jnp.sum(table[e]), entries),
        # Eight to a sum, as of eight codebooks: each sum is written once.
        _ready(sum_of_rows, entries.reshape(8, -1)),
    ]
    times = side_by_side(loops, seconds=seconds)
    amounts = 2 * 1024**3, large.nbytes, planes.size, entries.size, entries.size
    return Work(*(amount / time for amount, time in zip(amounts, times, strict=True)))


def _layer():
    rng = np.random.default_rng(0)
    batch, dim, num_codebooks, num_codewords = 1024, 128, 8, 256
    x, weight = jnp.asarray(rng.normal(size=(2, batch, dim)), jnp.float32)
    books = _normal(rng, num_codebooks, num_codewords, dim // num_codebooks)

    def loss(books, x):
        return jnp.sum(product.quantize(books, x, temperature=1.0) * weight)

    # One product of rows and codewords forward, three backward.
    return _ready(jax.grad(loss, argnums=(0, 1)), books, x), Work(
        flops=4 * 2 * batch * num_codewords * dim
    )


def _loss():
    rng = np.random.default_rng(0)
    batch, dim = 512, 64
    similar = jnp.asarray(rng.random((batch, batch)) < 0.1)

    def mean(x):
        return jnp.mean(losses.pairwise_cosine(x, x, similar))

    # One product of both sides forward, and one for the gradient of each.
    return _ready(jax.grad(mean), _normal(rng, batch, dim)), Work(flops=3 * 2 * batch**2 * dim)


def _encoding():
    rng = np.random.default_rng(0)
    num_rows, dim, num_codebooks = 1_000_000, 128, 8
    x, books = _normal(rng, num_rows, dim), _normal(rng, num_codebooks, 256, dim // num_codebooks)
    work = Work(flops=2 * num_rows * dim * 256, num_bytes=x.nbytes + num_rows * num_codebooks)
    return _ready(product.encode, books, x), work


def _clustering():
    rng = np.random.default_rng(0)
    num_rows, dim, num_iterations = 100_000, 32, 10
    x = _normal(rng, num_rows, dim)
    lloyd = functools.partial(
        kmeans.lloyd, mask=jnp.ones(num_rows, bool), num_iterations=num_iterations
    )
    flops = 2 * num_rows * dim * 256 * num_iterations
    return _ready(lloyd, x[:256], x), Work(flops=flops, num_bytes=num_iterations * x.nbytes)


def _hamming_ranking():
    queries, items, query_ids, ids = _codes(1000, 59_000)
    run = functools.partial(evaluate.hamming_average_precision, queries, items, query_ids, ids)
    return run, Work(popcounts=8 * len(queries) * len(items))


def _product_ranking():
    rng = np.random.default_rng(0)
    queries, items, query_ids, ids = _codes(128, 59_000)
    codec = ProductCodec(_normal(rng, 8, 256, 16))
    vectors = rng.normal(size=(len(queries), 128)).astype(np.float32)

    def run():
        labels = evaluate.relevance(query_ids, ids)
        tiles = evaluate.ranked_counts(codec, vectors, items, labels, num_grades=2)
        counts = map(evaluate.items_and_relevant, tiles)
        return [metrics.average_precision_from_counts(each) for each in counts]

    return run, Work(block_look_ups=items.size * len(queries) / 32)


def _search(codec_of, num_queries, work):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (1_000_000, 8), dtype=np.uint8)
    codes.flags.writeable = False  # as after `index.load`, so that they stay on the device
    codec = codec_of(rng)
    artefact = index.Index(codec, codes, np.arange(len(codes)))
    queries = rng.normal(size=(num_queries, 64)).astype(np.float32)
    run = functools.partial(index.search, artefact, queries, top_k=100, engine="own")
    return run, dataclasses.replace(work, num_bytes=codes.nbytes)


def _products(rng):
    return ProductCodec(_normal(rng, 8, 256, 8))


def _signs(rng):
    del rng
    return BinaryCodec(64)


PATHS: dict[str, Callable[[], tuple[Callable[[], Any], Work]]] = {
    "PQ layer B=1024 M=8 D=128 K=256": _layer,
    "pairwise_cosine B=512 D=64": _loss,
    "PQ encode N=1e6 M=8 D=128 K=256": _encoding,
    "k-means N=1e5 d=32 K=256 x10": _clustering,
    "Hamming mAP 1000 x 59000, 64 bit": _hamming_ranking,
    "PQ mAP 128 x 59000, M=8 K=256": _product_ranking,
    "AQD search N=1e6 M=8 Q=1": lambda: _search(_products, 1, Work(look_ups=8e6)),
    "AQD search N=1e6 M=8 Q=100": lambda: _search(_products, 100, Work(block_look_ups=8e8 / 32)),
    "Hamming search N=1e6 64 bit Q=1": lambda: _search(_signs, 1, Work(popcounts=8e6)),
    "Hamming search N=1e6 64 bit Q=100": lambda: _search(
        _signs, 100, Work(block_look_ups=8e8 / 32)
    ),
}


def _codes(num_queries, num_items):
    rng = np.random.default_rng(0)
    sides = [rng.integers(0, 256, (n, 8), dtype=np.uint8) for n in (num_queries, num_items)]
    return (*sides, *(rng.integers(0, 10, n) for n in (num_queries, num_items)))


def _normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _ready(function, *arguments):
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*arguments))


if __name__ == "__main__":
    main()
