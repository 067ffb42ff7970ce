"""Times losses and quantizers against torch and faiss: `python -m experiments.benchmarks.layers`.

Each case runs ours and every peer in turns in one process and compares minima. Peers get their best
form: eager and compiled, einsum and batched matmul, and both cores. What a bar asks is fixed
beforehand, and a miss is printed as one.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import losses
from quantjax.quantizers import kmeans, product

from . import peers
from .timing import Timing, run_cases, side_by_side

_DIM = 128
_CODEWORDS = 256


def main() -> None:
    """Runs the cases named on the command line, all by default, and prints a line for each."""
    run_cases(__doc__, CASES, peers=peers.describe())


def quantization_layer(seconds: float) -> Iterator[Timing]:
    """Times straight-through product quantization, forward and backward."""
    rng = np.random.default_rng(0)
    for batch in (128, 1024):
        for num_codebooks in (4, 8, 16):
            x, weight = rng.normal(size=(2, batch, _DIM)).astype(np.float32)
            books = rng.normal(size=(num_codebooks, _CODEWORDS, _DIM // num_codebooks))
            books = books.astype(np.float32)

            def ours(books, x, weight):
                return jnp.sum(product.quantize(books, x, temperature=1.0) * weight)

            gradient = _ready(jax.jit(jax.grad(ours, argnums=(0, 1))), books, x, weight)
            yield _compare(
                f"PQ layer B={batch} M={num_codebooks} D={_DIM} K={_CODEWORDS}",
                gradient,
                peers.quantization_layers(books, x, weight),
                bar=1.0 if batch == 128 else 1.5,
                seconds=seconds,
            )


def pair_losses(seconds: float) -> Iterator[Timing]:
    """Times pairwise losses on a batch, forward and backward."""
    rng = np.random.default_rng(0)
    batch, dim = 512, 64
    x = rng.normal(size=(batch, dim)).astype(np.float32)
    similar = rng.random((batch, batch)) < 0.1
    cases: dict[str, tuple[Callable[..., Any], dict[str, float]]] = {
        "pairwise_cosine": (losses.pairwise_cosine, {}),
        "pairwise_inner_product": (losses.pairwise_inner_product, {}),
        "pairwise_likelihood": (losses.pairwise_likelihood, {}),
        "pairwise_contrastive": (losses.pairwise_contrastive, {"margin": 2.0 * dim}),
        "pairwise_cauchy": (losses.pairwise_cauchy, {"gamma": 20.0}),
    }
    for name, (loss, options) in cases.items():

        def ours(x, similar, loss=loss, options=options):
            return jnp.mean(loss(x, x, similar, **options))

        gradient = _ready(jax.jit(jax.grad(ours)), x, similar)
        yield _compare(
            f"{name} B={batch} D={dim}",
            gradient,
            peers.pair_losses(name, x, similar, **options),
            bar=1.1,
            seconds=seconds,
        )


def encoding(seconds: float, num_rows: int = 1_000_000) -> Iterator[Timing]:
    """Times encoding of a database, and counts the codes that differ from brute force."""
    rng = np.random.default_rng(0)
    num_codebooks = 8
    x = rng.normal(size=(num_rows, _DIM)).astype(np.float32)
    books = rng.normal(size=(num_codebooks, _CODEWORDS, _DIM // num_codebooks)).astype(np.float32)
    encode = jax.jit(product.encode)
    ours = np.asarray(encode(books, x))
    yield _compare(
        f"PQ encode N={num_rows} M={num_codebooks} D={_DIM} K={_CODEWORDS}",
        _ready(encode, books, x),
        {"faiss": peers.encoder(books, x)},
        bar=2.5,
        seconds=seconds,
        note=_differing(books, x, ours),
    )


def clustering(seconds: float) -> Iterator[Timing]:
    """Times k-means of 100,000 rows: Lloyd's iterations alone, like faiss, and ours at its inertia.

    Ours has momentum, half the iterations, and a start by k-means++ that counts.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100_000, 32)).astype(np.float32)
    rows, mask = jnp.asarray(x), jnp.ones(len(x), bool)
    peer = peers.clustering(x, _CODEWORDS)

    def lloyd(key):
        start = rows[jax.random.choice(key, len(x), (_CODEWORDS,), replace=False)]
        return kmeans.lloyd(start, rows, mask=mask, num_iterations=20)

    def ours(key):
        start = kmeans.plus_plus(key, rows, num_centroids=_CODEWORDS, mask=mask)
        return kmeans.fit(start, rows, mask=mask, num_iterations=10)

    for name, fit in {"lloyd x20": jax.jit(lloyd), "k-means++ and fit x10": jax.jit(ours)}.items():
        inertia = [_inertia(x, np.asarray(c)) for c in (fit(jax.random.key(0)), peer())]
        yield _compare(
            f"k-means N={len(x)} d=32 K={_CODEWORDS}, {name}",
            _ready(fit, jax.random.key(0)),
            {"faiss x20": peer},
            bar=1.0,
            seconds=seconds,
            note=f"inertia ours {inertia[0]:.4f}, faiss {inertia[1]:.4f}",
        )


def large_clustering(seconds: float) -> Iterator[Timing]:
    """Times k-means of 1,000,000 rows on all of them, and on 256 rows for each centroid.

    That many rows faiss draws if it is not told otherwise. The inertia is over the first rows.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1_000_000, 32)).astype(np.float32)

    def ours(key, rows):
        mask = jnp.ones(len(rows), bool)
        start = kmeans.plus_plus(key, rows, num_centroids=_CODEWORDS, mask=mask)
        return kmeans.fit(start, rows, mask=mask, num_iterations=10)

    for words, most in (("all rows", len(x)), ("256 rows a centroid", 256)):
        rows = jnp.asarray(x[:: max(1, len(x) // (most * _CODEWORDS))])
        peer, fit = peers.clustering(x, _CODEWORDS, most), jax.jit(ours)
        some = x[:100_000]
        found = (fit(jax.random.key(0), rows), peer())
        inertia = [_inertia(some, np.asarray(centroids)) for centroids in found]
        yield _compare(
            f"k-means N={len(x)} d=32 K={_CODEWORDS}, fit x10, {words}",
            _ready(fit, jax.random.key(0), rows),
            {"faiss x20": peer},
            bar=1.0,
            seconds=seconds,
            note=f"inertia ours {inertia[0]:.4f}, faiss {inertia[1]:.4f}",
        )


CASES = {
    "quantization_layer": quantization_layer,
    "pair_losses": pair_losses,
    "encoding": encoding,
    "clustering": clustering,
    "large_clustering": large_clustering,
}


def _compare(name, ours, others, *, bar, seconds, note=""):
    first, *rest = side_by_side([ours, *others.values()], seconds=seconds)
    best = int(np.argmin(rest))
    return Timing(name, first, rest[best], list(others)[best], bar, note)


def _ready(function, *arguments):
    arguments = jax.device_put(arguments)
    return lambda: jax.block_until_ready(function(*arguments))


def _differing(books, x, codes):
    """Counts codes that differ from brute force in float64, except near ties."""
    differing, within = 0, 0
    for m, book in enumerate(books.astype(np.float64)):
        width = book.shape[1]
        for start in range(0, len(x), 100_000):
            part = x[start : start + 100_000, m * width : (m + 1) * width].astype(np.float64)
            gaps = np.square(book).sum(1) - 2 * part @ book.T
            mine = np.take_along_axis(gaps, codes[start : start + 100_000, m, None], axis=1)[:, 0]
            square = np.square(part).sum(1)
            nearest = gaps.min(1)
            other = codes[start : start + 100_000, m] != gaps.argmin(1)
            tie = (mine - nearest) <= 1e-5 * np.maximum(nearest + square, 1e-12)
            differing += int(np.sum(other & ~tie))
            within += int(np.sum(other & tie))
    return f"{differing} of {codes.size} codes differ from brute force, {within} more within 1e-5"


def _inertia(x, centroids):
    gaps = np.square(centroids).sum(1) - 2 * x @ centroids.T
    return float(np.mean(gaps.min(1) + np.square(x).sum(1)))


if __name__ == "__main__":
    main()
