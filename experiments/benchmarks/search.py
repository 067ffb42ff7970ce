"""Times searches against faiss, usearch and nanopq: `python -m experiments.benchmarks.search`.

Each case runs ours, without faiss inside, and every installed peer in turns in one process and
compares minima. Vectors are pixels of Fashion-MNIST in 64 principal components; to reach a million
items each image is repeated with normal noise, of half each component's standard deviation over all
images, so that recall still means something. Rows named "delegated" time `engine="auto"` where it
hands over to faiss.
"""

import functools
import importlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import data, evaluate, index
from quantjax.errors import MissingPackageError, load_package
from quantjax.quantizers import BinaryCodec, Codec, ProductCodec, product

from .timing import Timing, run_cases, side_by_side

_DIM, _TOP_K = 64, 100
_CODEBOOKS, _LISTS = 8, 1024
_NOISE = 0.5  # of a component's spread


def main() -> None:
    """Runs the cases named on the command line, all by default, and prints a line for each."""
    run_cases(__doc__, CASES, peers=_describe())


def product_codes(seconds: float) -> Iterator[Timing]:
    """Times asymmetric search of a million 8-byte product codes, at 1, 100 and 1,000 queries."""
    artefact, queries, truth = _product_index(1_000_000)
    recall = evaluate.recall(artefact, queries[:100], truth[:100], engine="own")
    for number in (1, 100, 1000):
        asked = queries[:number]
        peers = _faiss_search(artefact, asked)
        if number == 1:
            peers |= _nanopq_search(artefact, asked)
        yield _compare(
            f"AQD M=8 K=256 N=1e6 Q={number}", artefact, asked, peers, 0.9, seconds, recall
        )


def hamming(seconds: float) -> Iterator[Timing]:
    """Times search of a million 64-bit codes, signs of the principal components."""
    vectors, queries = _vectors(1_000_000)
    codec = BinaryCodec(_DIM)
    artefact = _in_memory(codec, vectors)
    truth = index.true_neighbours(vectors, queries[:100], 100)
    recall = evaluate.recall(artefact, queries[:100], truth, engine="own")
    for number in (1, 100, 1000):
        asked = queries[:number]
        peers = _faiss_search(artefact, asked) | _usearch(artefact, asked)
        yield _compare(
            f"Hamming 64 bit N=1e6 Q={number}", artefact, asked, peers, 1.0, seconds, recall
        )


def inverted_lists(seconds: float) -> Iterator[Timing]:
    """Times a million codes in 1,024 inverted lists, of which 16 are probed."""
    vectors, queries = _vectors(1_000_000)
    built = index.build_lists(
        jax.random.key(0), vectors, num_lists=_LISTS, num_codebooks=_CODEBOOKS, num_iterations=5
    )  # few iterations: faiss searches the same lists
    built.codes.flags.writeable = False
    truth = index.true_neighbours(vectors, queries[:100], 100)
    recall = evaluate.recall(built, queries[:100], truth, num_probes=16, engine="own")
    for number in (1, 100, 1000):
        asked = queries[:number]
        ours = functools.partial(
            index.search, built, asked, top_k=_TOP_K, num_probes=16, engine="own"
        )
        peers = _faiss_search(built, asked, num_probes=16)
        name = f"IVF 16 of 1,024 lists N=1e6 Q={number}"
        yield _timing(name, ours, peers, 0.7, seconds, recall)
        yield from _delegated(name, built, asked, peers, seconds, num_probes=16)


def growth(seconds: float) -> Iterator[Timing]:
    """Times 100 queries on ten thousand to ten million product codes, and notes the memory."""
    artefact, queries, _ = _product_index(100_000)
    for exponent in (4, 5, 6, 7):
        codes = np.resize(artefact.codes, (10**exponent, _CODEBOOKS))
        codes.flags.writeable = False
        grown = artefact._replace(codes=codes, ids=np.arange(len(codes)))
        name, asked = f"AQD M=8 K=256 N=1e{exponent} Q=100", queries[:100]
        # Before faiss holds a copy of the codes too.
        rise = _most_memory(
            functools.partial(index.search, grown, asked, top_k=_TOP_K, engine="own")
        )
        line = _compare(name, grown, asked, _faiss_search(grown, asked), 0.9, seconds, {})
        yield line._replace(note=f"memory +{rise:.2f} GB")


CASES = {
    "product_codes": product_codes,
    "hamming": hamming,
    "inverted_lists": inverted_lists,
    "growth": growth,
}


@functools.cache
def _vectors(num_items):
    """Returns a database [N, 64] and 1,000 queries, which are other images."""
    source = data.fashion_mnist()
    pixels = np.concatenate(
        [
            np.float32(source[np.arange(i, i + 10_000)]["image"]).reshape(10_000, -1)
            for i in range(0, 70_000, 10_000)
        ]
    )
    middle = pixels.mean(0)
    _, axes = np.linalg.eigh(np.cov(pixels[::10].T))
    parts = (pixels - middle) @ np.float32(axes[:, : -_DIM - 1 : -1])
    rng = np.random.default_rng(0)
    base, queries = parts[:69_000], parts[69_000:]
    vectors = base[np.arange(num_items) % len(base)]
    for start in range(len(base), num_items, 100_000):
        copies = vectors[start : start + 100_000]
        copies += _NOISE * base.std(0) * rng.standard_normal(copies.shape, np.float32)
    return vectors, queries


def _in_memory(codec: Codec, vectors):
    codes = np.concatenate(
        [
            np.asarray(codec.encode(jnp.asarray(vectors[i : i + 100_000])))
            for i in range(0, len(vectors), 100_000)
        ]
    )
    codes.flags.writeable = False  # as after `index.load`, so that they stay on the device
    return index.Index(codec, codes, np.arange(len(codes)))


def _product_index(num_items):
    vectors, queries = _vectors(num_items)
    codebooks = product.fit_codebooks(
        jax.random.key(0),
        jnp.asarray(vectors[:: len(vectors) // 50_000]),
        num_codebooks=_CODEBOOKS,
        num_codewords=256,
    )
    truth = index.true_neighbours(vectors, queries[:100], 100)
    return _in_memory(ProductCodec(codebooks), vectors), queries, truth


def _compare(name, artefact, queries, peers, bar, seconds, recall):
    ours = functools.partial(index.search, artefact, queries, top_k=_TOP_K, engine="own")
    return _timing(name, ours, peers, bar, seconds, recall)


def _delegated(name, artefact, queries, faiss, seconds, **options):
    """Yields a line for the search that hands over to faiss, where that is installed."""
    if faiss:
        ours = functools.partial(index.search, artefact, queries, top_k=_TOP_K, **options)
        # The overhead of our checks and of the order by row: no bar of the project.
        yield _timing(f"{name} delegated", ours, faiss, 0.0, seconds, {})


def _most_memory(function):
    """Returns by how many gigabytes the memory of this process rises at most; NaN off Linux."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        function()
        return float("nan")

    def peak():
        line = next(
            x for x in status.read_text(encoding="utf-8").splitlines() if x.startswith("VmHWM:")
        )
        return int(line.split()[1]) / 1e6  # of kB

    # The peak is what is held now.
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = peak()
    function()
    return peak() - before


def _timing(name, ours, peers: dict[str, Callable[[], Any]], bar, seconds, recall):
    note = ", ".join(f"{key} {value:.3f}" for key, value in recall.items())
    if not peers:
        first = side_by_side([ours], seconds=seconds)[0]
        return Timing(name, first, float("nan"), "no peer", bar, note)
    first, *rest = side_by_side([ours, *peers.values()], seconds=seconds)
    best = int(np.argmin(rest))
    return Timing(name, first, rest[best], list(peers)[best], bar, note)


def _installed(name):
    try:
        return load_package(name, extra="bench", purpose="this comparison")
    except MissingPackageError:
        return None


def _describe():
    names = ("faiss", "usearch", "nanopq")
    found = ((name, _installed(name)) for name in names)
    return ", ".join(
        f"{name} {getattr(module, '__version__', '')}"
        if module
        else f"{name} skipped: not installed"
        for name, module in found
    )


def _faiss_search(artefact, queries, num_probes=None):
    faiss = _installed("faiss")
    if faiss is None:
        return {}
    flat = index.to_faiss(artefact._replace(ids=np.arange(len(artefact.codes))))
    if num_probes is not None:
        flat.nprobe = num_probes
    if isinstance(artefact.codec, BinaryCodec):
        queries = np.asarray(artefact.codec.encode(jnp.asarray(queries)))
    return {"faiss": lambda: flat.search(queries, _TOP_K)}


def _nanopq_search(artefact, queries):
    if _installed("nanopq") is None:
        return {}
    books = np.asarray(artefact.codec.codebooks)
    peer = importlib.import_module("nanopq").PQ(M=len(books), Ks=books.shape[1], verbose=False)
    peer.Ds, peer.codewords = books.shape[2], books

    def search():
        distances = peer.dtable(queries[0]).adist(artefact.codes)
        near = np.argpartition(distances, _TOP_K)[:_TOP_K]
        return near[np.argsort(distances[near])]

    return {"nanopq": search}


def _usearch(artefact, queries):
    if _installed("usearch") is None:
        return {}
    engine = importlib.import_module("usearch.index")
    asked = np.asarray(artefact.codec.encode(jnp.asarray(queries)))
    metric, kind = engine.MetricKind.Hamming, engine.ScalarKind.B1
    return {
        "usearch exact": lambda: engine.search(
            artefact.codes, asked, _TOP_K, metric, exact=True, dtype=kind, threads=0
        )
    }


if __name__ == "__main__":
    main()
