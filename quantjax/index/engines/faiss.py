"""Converts an index to a FAISS index of the same codes, byte for byte."""

import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.errors import InputError, load_package
from quantjax.index.artefact import Index
from quantjax.index.engines import items, self_test
from quantjax.quantizers import (
    BinaryCodec,
    Codec,
    FloatCodec,
    NeuralResidualCodec,
    ProductCodec,
    ResidualCodec,
)
from quantjax.run import files


def to_faiss(index: Index, *, fast_scan: bool = False) -> Any:
    """Converts an index to a FAISS index.

    Product codes become an IndexPQ, with inverted lists an IndexIVFPQ, and a rotation becomes an
    OPQMatrix before it. Residual codes become an IndexResidualQuantizer that decodes
    (ST_decompress), neural residual codes an IndexQINCo, floats an IndexFlat, and binary codes an
    IndexBinaryFlat, whose queries are `codec.encode(queries)`. Whole numbers as ids are stored; for
    names FAISS returns row numbers. All inverted lists are searched until the caller lowers
    `nprobe`.

    Args:
      index: Codes with their codec, of metric "l2", "ip" or "hamming".
      fast_scan: Product codes of 16 codewords become an IndexPQFastScan, which is several times as
        fast and rounds distances.

    Returns:
      A faiss.Index or a faiss.IndexBinary.

    Raises:
      ValueError: if the index has no items, or no FAISS index ranks its codes as the codec does.
      ModuleNotFoundError: if faiss is not installed.
    """
    taken = ProductCodec, ResidualCodec, BinaryCodec, FloatCodec, NeuralResidualCodec
    # IndexPQ has no cosine: it would divide by the lengths of neither queries nor items.
    self_test.check_takes("faiss", index, taken, "l2", "ip", "hamming")
    faiss, codec = _faiss(), index.codec
    if fast_scan and (not isinstance(codec, ProductCodec) or codec.codebooks.shape[1] != 16):
        raise InputError(f"fast_scan needs product codes of 16 codewords, got {codec!r}")
    if index.lists is not None:
        if fast_scan or not isinstance(codec, ProductCodec):
            raise InputError("inverted lists go to faiss as product codes, without fast_scan")
        return _before(faiss, codec, _inverted_lists(faiss, index))
    flat = _empty(faiss, codec)
    # The bytes themselves: FAISS would encode vectors, and round ties in its own way.
    add = flat.add if isinstance(codec, BinaryCodec) else flat.add_sa_codes
    add(np.ascontiguousarray(index.codes))
    if fast_scan:
        flat = faiss.IndexPQFastScan(flat)  # its own add_sa_codes raises an error
    return _before(faiss, codec, _with_ids(faiss, flat, index))


def search(
    faiss_index: Any, codec: Codec, queries: np.ndarray, top_k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Searches a FAISS index, and returns distances in the codec's convention.

    Args:
      faiss_index: Result of `to_faiss`.
      codec: Codec of the index.
      queries: Embeddings [Q, D].
      top_k: Number of neighbours k.

    Returns:
      Distances [Q, k], smaller is nearer, and ids [Q, k] int64.
    """
    if codec.metric == "hamming":
        return faiss_index.search(np.asarray(codec.encode(jnp.asarray(queries))), top_k)
    distances, ids = faiss_index.search(np.ascontiguousarray(queries, np.float32), top_k)
    return (-distances if codec.metric == "ip" else distances), ids


def export(index: Index, path: pathlib.Path, *, fast_scan: bool = False) -> self_test.Exported:
    """Writes an index as a file of FAISS, and names as ids beside it, one a line.

    Args:
      index: Codes with their codec, see `to_faiss`.
      path: File to be written.
      fast_scan: See `to_faiss`; the recall is then measured and need not be 1.

    Returns:
      The files, an example and the recall.

    Raises:
      ValueError: if FAISS cannot hold the index, or gives other answers than the codec. Nothing is
        written then.
    """
    if isinstance(index.codec, NeuralResidualCodec):
        raise InputError(
            "faiss writes no files of an IndexQINCo; call index.to_faiss where you search, or "
            "export to npz"
        )
    items.check_names(index)
    numbered = items.row_numbered(index)
    found = to_faiss(index)
    recall = self_test.check_exact("faiss", numbered, lambda *q: search(found, index.codec, *q))
    if fast_scan:
        found = to_faiss(index, fast_scan=True)
        recall = self_test.recall(numbered, lambda *q: search(found, index.codec, *q))
    kind = "_binary" if index.codec.metric == "hamming" else ""
    with files.replacing(path) as scratch:
        getattr(_faiss(), f"write_index{kind}")(found, str(scratch))
    written = (path, *items.write_names(index, path))
    queries = "codec.encode(queries)" if kind else "queries"
    usage = f"faiss.read_index{kind}({str(path)!r}).search({queries}, 10)"
    return self_test.Exported(written, usage, recall)


def _faiss():
    return load_package("faiss", extra="faiss", purpose="export to faiss")


def _metric(faiss, codec):
    return {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}[codec.metric]


def _empty(faiss, codec):
    """Returns a trained FAISS index without items, for vectors after the codec's rotation."""
    if isinstance(codec, BinaryCodec):
        return faiss.IndexBinaryFlat(8 * codec.num_bytes)
    if isinstance(codec, FloatCodec):
        return faiss.IndexFlat(codec.dim, _metric(faiss, codec))
    if isinstance(codec, NeuralResidualCodec):
        return _networks(faiss, codec)
    books = np.asarray(codec.codebooks, np.float32)
    num_codebooks, num_codewords, width = books.shape
    size = num_codebooks, num_codewords.bit_length() - 1, _metric(faiss, codec)
    if isinstance(codec, ProductCodec):
        flat = faiss.IndexPQ(num_codebooks * width, *size)
        faiss.copy_array_to_vector(books.ravel(), flat.pq.centroids)
    else:
        flat = faiss.IndexResidualQuantizer(width, *size, faiss.AdditiveQuantizer.ST_decompress)
        faiss.copy_array_to_vector(books.ravel(), flat.rq.codebooks)
        flat.rq.max_beam_size = codec.beam_width
        flat.rq.is_trained = True
    flat.is_trained = True
    return flat


def _networks(faiss, codec):
    """Returns an empty IndexQINCo, which decodes as the codec does; it encodes greedily."""
    networks = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), codec.networks)
    num_codebooks, num_codewords, width = networks.codebooks.shape
    bits = num_codewords.bit_length() - 1
    _, blocks, _, hidden = networks.expansions.shape
    flat = faiss.IndexQINCo(width, num_codebooks, bits, blocks, hidden, _metric(faiss, codec))
    flat.qinco.codebook0.from_array(networks.codebooks[0])
    for number in range(num_codebooks - 1):
        step = flat.qinco.get_step(number)
        step.codebook.from_array(networks.codebooks[number + 1])
        # FAISS multiplies columns, W x, where the codec multiplies rows.
        step.MLPconcat.from_array(networks.mixing[number].T, networks.offsets[number])
        for each in range(blocks):
            block = step.get_residual_block(each)
            block.linear1.from_array(networks.expansions[number, each].T)
            block.linear2.from_array(networks.contractions[number, each].T)
    flat.is_trained = True
    return flat


def _inverted_lists(faiss, index):
    codec, starts = index.codec, np.asarray(index.lists.starts)
    centroids = np.asarray(index.lists.centroids, np.float32)
    if codec.rotation is not None:
        centroids = centroids @ np.asarray(codec.rotation, np.float32)
    width = centroids.shape[1]
    coarse = faiss.IndexFlat(width, _metric(faiss, codec))
    coarse.add(np.ascontiguousarray(centroids))
    flat = _empty(faiss, codec)
    ivf = faiss.IndexIVFPQ(
        coarse, width, len(centroids), flat.pq.M, flat.pq.nbits, _metric(faiss, codec)
    )
    ivf.pq, ivf.by_residual, ivf.is_trained = flat.pq, True, True
    codes = np.ascontiguousarray(index.codes)
    ids = np.ascontiguousarray(items.row_numbered(index).ids)
    for number, (start, end) in enumerate(itertools.pairwise(starts)):
        if end > start:
            pointers = faiss.swig_ptr(ids[start:end]), faiss.swig_ptr(codes[start:end])
            ivf.invlists.add_entries(number, int(end - start), *pointers)
    ivf.ntotal, ivf.nprobe = len(codes), len(centroids)
    # With the table of other codewords FAISS returns wrong, even negative distances.
    ivf.precompute_table()
    return ivf


def _with_ids(faiss, flat, index):
    """Adds the ids of a filled FAISS index; row numbers need none."""
    if items.has_names(index) or np.array_equal(index.ids, np.arange(len(index.ids))):
        return flat
    is_binary = isinstance(flat, faiss.IndexBinary)
    # The constructor accepts only an empty index, and codes are added without vectors.
    count, flat.ntotal = flat.ntotal, 0
    mapped = (faiss.IndexBinaryIDMap2 if is_binary else faiss.IndexIDMap2)(flat)
    flat.ntotal = mapped.ntotal = count
    faiss.copy_array_to_vector(np.ascontiguousarray(index.ids), mapped.id_map)
    mapped.construct_rev_map()
    return mapped


def _before(faiss, codec, flat):
    """Puts the codec's rotation before a FAISS index."""
    rotation = getattr(codec, "rotation", None)
    if rotation is None:
        return flat
    transform = faiss.OPQMatrix(len(rotation), 1, len(rotation))
    # FAISS multiplies columns, A x, where the codec multiplies rows, x R.
    faiss.copy_array_to_vector(np.asarray(rotation, np.float32).T.ravel(), transform.A)
    transform.is_trained = transform.is_orthonormal = True
    return faiss.IndexPreTransform(transform, flat)
