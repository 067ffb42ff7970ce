"""Compares the reconstruction error of codecs, and their time, with faiss's.

    python -m experiments.benchmarks.codec_errors

Both sides fit to the same rows and encode other rows; the error is the mean over those of
||x - reconstruction||^2. Times are seconds of one run, in turns in one process: the fit includes
our compiling, and encoding is the second call. Residual codes are fitted at the larger length, and
the smaller one takes the first of their codebooks and that share of the time. Prints a table in
Markdown.

Vectors are pixels of Fashion-MNIST in 64 principal components, and descriptors of patches of the
clothing photos: 128 numbers each, histograms of gradients as SIFT has them.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from quantjax import data
from quantjax.data.locate import locate
from quantjax.errors import load_package
from quantjax.quantizers import ProductCodec, ResidualCodec, additive, product, rotation

_BITS, _CODEWORDS = 8, 256
_PATCH, _CELLS, _ANGLES = 16, 4, 8
_FLAT = 4.0  # summed gradients, of pixels from 0 to 1, below which a patch shows nothing
_DIM = 64
_FITTED_BEAM = 5
_ROUNDS = 6  # of refined codebooks
_TURNS = 50  # of OPQ, as many as FAISS takes
_COUNTS = (8, 16)  # bytes of a code, and codebooks
_HEADS = (
    "vectors", "bytes", "codec", "error", "faiss's error", "fit, s", "faiss's fit, s", "encode, s",
    "faiss's encode, s",
)  # fmt: skip


class Fitted(NamedTuple):
    """A codec and the time of its fit.

    Attributes:
      encode: From rows [N, D] to codes.
      decode: From codes to rows.
      seconds: Seconds of fitting.
    """

    encode: Callable[[np.ndarray], Any]
    decode: Callable[[Any], Any]
    seconds: float


def main() -> None:
    """Prints one line for each codec, code length and data set, ours beside faiss's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codecs", nargs="*", default=[], help=f"of {', '.join(CODECS)}")
    parser.add_argument("--vectors", choices=[*DATA], help="one kind of vectors; all where absent")
    parser.add_argument("--rows", type=int, default=10_000, help="rows that are fitted to")
    parser.add_argument("--other_rows", type=int, default=10_000, help="rows that are encoded")
    parser.add_argument("--bytes", nargs="+", type=int, choices=_COUNTS, default=_COUNTS)
    arguments = parser.parse_args()
    counts = sorted(arguments.bytes)
    sizes = arguments.rows, arguments.other_rows
    versions = f"jax {jax.__version__}, faiss {_faiss().__version__}"
    print(f"{jax.devices()[0]}, {versions}, fitted to {sizes[0]} rows, {sizes[1]} others encoded\n")
    print(f"| {' | '.join(_HEADS)} |\n|{'---|' * len(_HEADS)}")
    for name in [arguments.vectors] if arguments.vectors else DATA:
        train, test = DATA[name](*sizes)
        for codec in arguments.codecs or CODECS:
            ours, theirs = (fit(train, counts) for fit in CODECS[codec])
            for count in counts:
                columns = zip(*(measure(each[count], test) for each in (ours, theirs)), strict=True)
                cells = name, count, codec, *(cell for pair in columns for cell in pair)
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


def measure(fitted: Fitted, test: np.ndarray) -> tuple[str, str, str]:
    """Returns error, seconds of the fit and seconds of encoding, as text.

    Args:
      fitted: Codec.
      test: Rows [N, D].
    """
    jax.block_until_ready(fitted.encode(test))
    start = time.perf_counter()
    codes = jax.block_until_ready(fitted.encode(test))
    seconds = time.perf_counter() - start
    gaps = np.float64(test) - np.asarray(fitted.decode(codes))
    return f"{np.mean(np.sum(gaps**2, axis=1)):.4g}", f"{fitted.seconds:.1f}", f"{seconds:.3f}"


def pixels(num_rows: int, num_others: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns training and test images of Fashion-MNIST in 64 principal components.

    Args:
      num_rows: Rows from the training images, which also give the components.
      num_others: Rows from the test images.
    """
    source = data.fashion_mnist()
    rng = np.random.default_rng(0)
    rows = rng.permutation(60_000)[:num_rows], np.arange(60_000, 60_000 + num_others)
    train, test = (np.float32(source[r]["image"]).reshape(len(r), -1) / 255 for r in rows)
    middle = train.mean(0)
    _, axes = np.linalg.eigh(np.cov((train - middle).T))
    axes = np.float32(axes[:, : -_DIM - 1 : -1])
    return (train - middle) @ axes, (test - middle) @ axes


def descriptors(num_rows: int, num_others: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns descriptors of patches of the clothing photos, others' photos for the test.

    Args:
      num_rows: Rows from the training photos.
      num_others: Rows from the photos of the test and validation folders.
    """
    folder = locate(None, "clothing", origin="the clothing data set", files=["train"])
    paths = [sorted((folder / part).rglob("*.jpg")) for part in ("train", "test", "validation")]
    rng = np.random.default_rng(0)
    return _described(paths[0], num_rows, rng), _described(paths[1] + paths[2], num_others, rng)


def histograms(patches: np.ndarray) -> np.ndarray:
    """Describes patches by gradient directions, 8 in each of 4 x 4 cells, as SIFT does.

    Args:
      patches: Grey patches [N, 16, 16], from 0 to 1.

    Returns:
      Descriptors [N, 128] float32 of length 1, clipped at 0.2 and made length 1 again; patches
      without gradients are left out.

    Reference:
      Lowe, Distinctive Image Features from Scale-Invariant Keypoints, IJCV 60(2), 2004.
    """
    down, right = np.gradient(patches, axis=(1, 2))
    sizes = np.hypot(down, right)
    angles = np.arctan2(down, right)[..., None] * (_ANGLES / (2 * np.pi)) - np.arange(_ANGLES)
    # Each gradient is shared by its two nearest directions, on a circle of 8.
    gaps = np.abs((angles + _ANGLES / 2) % _ANGLES - _ANGLES / 2)
    shared = sizes[..., None] * np.maximum(1 - gaps, 0)
    side = _PATCH // _CELLS
    cells = shared.reshape(-1, _CELLS, side, _CELLS, side, _ANGLES).sum(axis=(2, 4))
    rows = cells.reshape(len(patches), -1)[sizes.sum(axis=(1, 2)) > _FLAT]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.minimum(rows, 0.2)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _timed(fit, *arguments):
    """Returns the result of a fit, and its seconds."""
    start = time.perf_counter()
    result = jax.block_until_ready(fit(*arguments))
    return result, time.perf_counter() - start


def _pq(train, counts):
    found = {}
    for count in counts:
        fit = functools.partial(_fit_product, num_codebooks=count, num_codewords=_CODEWORDS)
        codebooks, seconds = _timed(fit, jax.random.key(0), train)
        found[count] = _ours(ProductCodec(codebooks), seconds)
    return found


def _opq(train, counts):
    found = {}
    for count in counts:
        fit = functools.partial(_fit_rotated, num_codebooks=count, num_codewords=_CODEWORDS)
        fitted, seconds = _timed(fit, jax.random.key(0), train)
        codec = ProductCodec(fitted.codebooks, rotation=fitted.rotation)
        found[count] = _ours(codec, seconds)
    return found


def _rq(train, counts, beam_width):
    """Fits the longer codes; the shorter ones have the first of their codebooks."""
    # Codebooks that are fitted with a beam are better without one, too.
    sizes = {"num_codebooks": counts[-1], "num_codewords": _CODEWORDS}
    fit = functools.partial(_fit_residual, beam_width=_FITTED_BEAM, **sizes)
    books, seconds = _timed(fit, jax.random.key(0), train)
    codecs = {n: ResidualCodec(books[:n], beam_width=beam_width) for n in counts}
    return {n: _ours(codec, seconds * n / counts[-1]) for n, codec in codecs.items()}


def _additive(train, counts):
    """Fits all codewords at once in rounds, from codebooks of `_rq`, and encodes as that does."""
    found = {}
    for count in counts:
        sizes = {"num_codebooks": count, "num_codewords": _CODEWORDS, "beam_width": _FITTED_BEAM}
        books, seconds = _timed(functools.partial(_fit_residual, **sizes), jax.random.key(0), train)
        refine = functools.partial(additive.refine_codebooks, num_rounds=_ROUNDS)
        books, more = _timed(refine, books, train)
        found[count] = _ours(ResidualCodec(books, beam_width=_FITTED_BEAM), seconds + more)
    return found


def _ours(codec, seconds):
    return Fitted(codec.encode, codec.decode, seconds)


def _faiss_pq(train, counts):
    found = {}
    for count in counts:
        codec = _faiss().ProductQuantizer(train.shape[1], count, _BITS)
        _, seconds = _timed(codec.train, train)
        found[count] = Fitted(codec.compute_codes, codec.decode, seconds)
    return found


def _faiss_opq(train, counts):
    found = {}
    for count in counts:
        codec = _faiss().index_factory(train.shape[1], f"OPQ{count},PQ{count}")
        _, seconds = _timed(codec.train, train)
        found[count] = Fitted(codec.sa_encode, codec.sa_decode, seconds)
    return found


def _faiss_rq(train, counts, beam_width):
    """Fits the longer codes, as `_rq` does, in faiss's own way: by growing dimensions."""

    def make(count):
        codec = _faiss().ResidualQuantizer(train.shape[1], count, _BITS)
        codec.max_beam_size = beam_width
        return codec

    whole = make(counts[-1])
    _, seconds = _timed(whole.train, train)
    books = _faiss().vector_to_array(whole.codebooks)
    found = {}
    for count in counts:
        codec = make(count)
        _faiss().copy_array_to_vector(books[: len(books) * count // counts[-1]], codec.codebooks)
        codec.is_trained = True
        share = count / counts[-1]
        found[count] = Fitted(codec.compute_codes, codec.decode, seconds * share)
    return found


def _faiss_lsq(train, counts):
    found = {}
    for count in counts:
        codec = _faiss().LocalSearchQuantizer(train.shape[1], count, _BITS)
        _, seconds = _timed(codec.train, train)
        found[count] = Fitted(codec.compute_codes, codec.decode, seconds)
    return found


def _with_beam(fit, beam_width):
    return functools.partial(fit, beam_width=beam_width)


CODECS = {
    "PQ": (_pq, _faiss_pq),
    "OPQ": (_opq, _faiss_opq),
    "RQ, beam 1": (_with_beam(_rq, 1), _with_beam(_faiss_rq, 1)),
    "RQ, beam 5": (_with_beam(_rq, 5), _with_beam(_faiss_rq, 5)),
    "additive": (_additive, _faiss_lsq),
}
"""Fits of ours and of faiss's by codec: from rows to a codec for each number of bytes."""

DATA = {"pixels": pixels, "descriptors": descriptors}
"""Functions that load the vectors, by name."""

# Compiled whole, instead of operation by operation.
_SIZES = ("num_codebooks", "num_codewords")
_fit_product = jax.jit(product.fit_codebooks, static_argnames=_SIZES)
_fit_rotated = jax.jit(
    functools.partial(rotation.opq, num_iterations=_TURNS), static_argnames=_SIZES
)
_fit_residual = jax.jit(additive.fit_codebooks, static_argnames=(*_SIZES, "beam_width"))


def _described(paths, num_rows, rng):
    """Returns descriptors [num_rows, 128] of patches drawn evenly from photos."""
    photos = data.from_photos(paths, size=128)
    found, count = [], 0
    while count < num_rows:
        for start in range(0, len(photos), 512):
            rows = np.arange(start, min(start + 512, len(photos)))
            grey = np.float32(photos[rows]["image"]).mean(axis=-1) / 255
            corners = rng.integers(0, grey.shape[1] - _PATCH + 1, size=(2, len(rows), 4))
            windows = np.lib.stride_tricks.sliding_window_view(grey, (_PATCH, _PATCH), axis=(1, 2))
            patches = windows[np.arange(len(rows))[:, None], *corners]
            found.append(histograms(patches.reshape(-1, _PATCH, _PATCH)))
            count += len(found[-1])
    # Shuffled, or the last photos would have fewer patches.
    return rng.permutation(np.concatenate(found))[:num_rows]


def _faiss():
    return load_package("faiss", extra="bench", purpose="this comparison")


if __name__ == "__main__":
    main()
