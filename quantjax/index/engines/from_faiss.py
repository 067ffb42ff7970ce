"""Converts a FAISS index to an index of the same codes, byte for byte."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from quantjax.errors import InputError, load_package
from quantjax.index.artefact import Index
from quantjax.index.lists import InvertedLists
from quantjax.quantizers import (
    BinaryCodec,
    FloatCodec,
    NeuralResidualCodec,
    ProductCodec,
    ResidualCodec,
)


def from_faiss(faiss_index: Any) -> Index:
    """Converts a FAISS index, trained by FAISS or made by `to_faiss`, to an index.

    Its `codec` encodes, decodes and measures as FAISS does; an empty FAISS index gives the codec of
    its quantizer and no codes.

    Args:
      faiss_index: An IndexPQ, IndexIVFPQ by residuals over an IndexFlat, IndexResidualQuantizer
        that decodes (ST_decompress), IndexFlat or IndexBinaryFlat; also within an IndexIDMap, and
        behind one square LinearTransform without bias, such as an OPQMatrix. An
        IndexQINCo by itself: FAISS returns none from a wrapper.

    Returns:
      Codec, codes and ids, row numbers if FAISS has none; of an IndexIVFPQ the inverted lists too,
      list by list.

    Raises:
      ValueError: if the index is of another kind.
      ModuleNotFoundError: if faiss is not installed.
    """
    faiss = load_package("faiss", extra="faiss", purpose="import from faiss")
    if not faiss_index.is_trained:
        raise InputError("the FAISS index is not trained; train it, or load one that is")
    flat, ids, rotation = _unwrap(faiss, faiss_index)
    codec, lists = _codec(faiss, flat, rotation), None
    if rotation is not None and not isinstance(codec, ProductCodec):
        raise InputError(f"a transform goes before product codes only, got {type(flat).__name__}")
    if isinstance(flat, faiss.IndexIVFPQ):
        codes, listed, lists = _lists(faiss, flat, rotation)
        ids = listed if ids is None else ids[listed]
    else:
        stored = flat.xb if isinstance(codec, BinaryCodec) else flat.codes
        codes = faiss.vector_to_array(stored).reshape(-1, codec.num_bytes)
    return Index(codec, codes, np.arange(len(codes)) if ids is None else ids, lists=lists)


def _unwrap(faiss, outer):
    """Returns the index inside of wrappers, the ids or None, and the rotation or None."""
    ids = rotation = None
    while not isinstance(outer, faiss.IndexQINCo):  # downcast_index would make it a plain Index
        is_binary = isinstance(outer, faiss.IndexBinary)
        outer = (faiss.downcast_IndexBinary if is_binary else faiss.downcast_index)(outer)
        if isinstance(outer, faiss.IndexIDMap | faiss.IndexBinaryIDMap):
            ids = faiss.vector_to_array(outer.id_map)
        elif isinstance(outer, faiss.IndexPreTransform):
            rotation = _rotation(faiss, outer)
        else:
            return outer, ids, rotation
        outer = outer.index
    return outer, ids, rotation


def _rotation(faiss, outer):
    step = faiss.downcast_VectorTransform(outer.chain.at(0))
    is_square = isinstance(step, faiss.LinearTransform) and step.d_in == step.d_out
    if outer.chain.size() != 1 or not is_square or step.have_bias:
        raise InputError(
            "a transform of FAISS must be one square LinearTransform without bias, got "
            f"{type(step).__name__}; apply it to the vectors instead"
        )
    # FAISS multiplies columns, A x, where the codec multiplies rows, x R.
    return jnp.asarray(faiss.vector_to_array(step.A).reshape(step.d_out, step.d_in).T)


def _codec(faiss, flat, rotation):
    if isinstance(flat, faiss.IndexBinaryFlat):
        return BinaryCodec(flat.d)
    if isinstance(flat, faiss.IndexFlat):
        return FloatCodec(flat.d, _metric(faiss, flat))
    if isinstance(flat, faiss.IndexPQ | faiss.IndexIVFPQ):
        pq = flat.pq
        books = faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)
        codec = ProductCodec(jnp.asarray(books), rotation, _metric(faiss, flat))
    elif isinstance(flat, faiss.IndexResidualQuantizer):
        rq = flat.rq
        # Other kinds store norms behind the codes.
        sizes = set(faiss.vector_to_array(rq.nbits).tolist())
        if rq.search_type != faiss.AdditiveQuantizer.ST_decompress or len(sizes) != 1:
            raise InputError(
                "an IndexResidualQuantizer must have search type ST_decompress and codebooks of "
                "one size; decode it, and add the vectors to one that has"
            )
        books = faiss.vector_to_array(rq.codebooks).reshape(rq.M, -1, rq.d)
        codec = ResidualCodec(jnp.asarray(books), _metric(faiss, flat), rq.max_beam_size)
    elif isinstance(flat, faiss.IndexQINCo):
        codec = _networks(faiss, flat)
    else:
        raise InputError(
            f"no codec for {type(flat).__name__}; there are IndexPQ, IndexIVFPQ, "
            "IndexResidualQuantizer, IndexQINCo, IndexFlat and IndexBinaryFlat"
        )
    codec.check()
    return codec


def _networks(faiss, flat):
    """Returns the codec of an IndexQINCo, which encodes as FAISS does: all codewords, greedily."""
    net = flat.qinco

    def array(layer, *shape):
        return faiss.vector_to_array(layer.weight).reshape(shape)

    def stacked(arrays, *shape):
        return jnp.asarray(np.array(list(arrays), np.float32).reshape(net.M - 1, *shape))

    steps = [net.get_step(number) for number in range(net.M - 1)]
    blocks = [[step.get_residual_block(each) for each in range(net.L)] for step in steps]
    hidden = [[array(block.linear1, net.h, net.d).T for block in row] for row in blocks]
    outputs = [[array(block.linear2, net.d, net.h).T for block in row] for row in blocks]
    books = [array(each, net.K, net.d) for each in (net.codebook0, *(s.codebook for s in steps))]
    return NeuralResidualCodec(
        codebooks=jnp.asarray(np.stack(books)),
        mixing=stacked((array(s.MLPconcat, net.d, 2 * net.d).T for s in steps), 2 * net.d, net.d),
        offsets=stacked((faiss.vector_to_array(s.MLPconcat.bias) for s in steps), net.d),
        expansions=stacked(hidden, net.L, net.d, net.h),
        contractions=stacked(outputs, net.L, net.h, net.d),
        lookup=jnp.asarray(np.stack(books)),
        metric=_metric(faiss, flat),
        num_candidates=net.K,
    )


def _metric(faiss, flat):
    names = {faiss.METRIC_L2: "l2", faiss.METRIC_INNER_PRODUCT: "ip"}
    if flat.metric_type not in names:
        raise InputError(f"the metric must be L2 or inner product, got {flat.metric_type}")
    return names[flat.metric_type]


def _lists(faiss, ivf, rotation):
    """Returns codes and ids list by list, and the lists."""
    coarse = faiss.downcast_index(ivf.quantizer)
    if not ivf.by_residual or not isinstance(coarse, faiss.IndexFlat):
        raise InputError("an IndexIVFPQ must code residuals to the centroids of an IndexFlat")
    centroids = coarse.reconstruct_n(0, ivf.nlist)
    if rotation is not None:
        centroids = centroids @ np.asarray(rotation).T
    lists = faiss.downcast_InvertedLists(ivf.invlists)
    sizes = [lists.list_size(number) for number in range(ivf.nlist)]
    codes, ids = np.zeros((sum(sizes), ivf.code_size), np.uint8), np.zeros(sum(sizes), np.int64)
    starts = np.cumsum([0, *sizes])
    for number, size in enumerate(sizes):
        rows = slice(starts[number], starts[number + 1])
        if size:
            stored = faiss.rev_swig_ptr(lists.get_codes(number), size * ivf.code_size)
            codes[rows] = stored.reshape(size, ivf.code_size)
            ids[rows] = faiss.rev_swig_ptr(lists.get_ids(number), size)
    return codes, ids, InvertedLists(centroids, starts)
