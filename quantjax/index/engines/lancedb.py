"""Writes an index as a LanceDB table, whose product codes Lance searches natively."""

import pathlib
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from quantjax.errors import FileError, InputError, load_package
from quantjax.index.artefact import Index
from quantjax.index.engines import items, self_test
from quantjax.quantizers import BinaryCodec, Codec, ProductCodec
from quantjax.run import files

TABLE = "codes"
_TILE = 1 << 16  # rows that are decoded and written at once
_METRICS = {"l2": "l2", "ip": "dot", "hamming": "hamming"}


def export(index: Index, path: pathlib.Path) -> self_test.Exported:
    """Writes the table `codes` of a LanceDB folder: id, class, and the column that is searched.

    Binary codes are the column `code`, searched exactly under hamming. Product codes are the index
    IVF_PQ of the column `vector`, with the codec's own codebooks and one list, centred at zero.
    Lance encodes vectors itself, so the column holds reconstructions, which encode to the same
    codes: 4 D bytes for each item on disk beside the codes. They are turned by the codec's
    rotation, and so must queries be, see `search_vectors`.

    Args:
      index: Codes of a BinaryCodec, or of a ProductCodec with codebooks of 256 codewords, or an
        even number of codebooks of 16.
      path: Folder to be made.

    Returns:
      The folder, an example and the recall, which is 1.

    Raises:
      ValueError: if Lance cannot hold the index, or gives other answers than the codec.
      OSError: if the folder exists. Nothing is written in either case.
      ModuleNotFoundError: if lancedb or pylance is not installed.
    """
    self_test.check_takes("lancedb", index, (ProductCodec, BinaryCodec), *_METRICS)
    items.check_names(index)
    codec = index.codec
    is_binary = isinstance(codec, BinaryCodec)
    if not is_binary and not _has_lance_sizes(codec):
        raise InputError(
            "lancedb takes codebooks of 256 codewords, or an even number of 16 codewords, got "
            f"{codec!r}"
        )
    if index.lists is not None:
        raise InputError("lancedb cannot take inverted lists; encode the items without lists")
    if path.exists():
        raise FileError(f"{path} exists; name a folder that does not, or remove it")
    lance = load_package("lance", extra="lancedb", purpose="export to lancedb")
    with files.replacing_folder(path) as scratch:
        table = scratch / f"{TABLE}.lance"
        for number, part in enumerate(_tables(index)):
            mode = "append" if number else "create"
            dataset = lance.write_dataset(part, table, mode=mode)
        if not is_binary:
            _index_codes(dataset, codec)
        recall = self_test.check_exact("lancedb", index, lambda *q: search(table, codec, *q))
    usage = (
        f"lancedb.connect({str(path)!r}).open_table({TABLE!r})"
        f".search(search_vectors(codec, queries)[0]).distance_type({_METRICS[codec.metric]!r})"
    )
    return self_test.Exported((path,), usage, recall)


def search_vectors(codec: Codec, queries: np.ndarray) -> np.ndarray:
    """Converts queries to the vectors that the table is searched with.

    Args:
      codec: Codec of the index.
      queries: Embeddings [Q, D].

    Returns:
      Codes [Q, num_bytes] uint8 for binary codes; for product codes queries @ rotation.
    """
    if isinstance(codec, BinaryCodec):
        return np.asarray(codec.encode(jnp.asarray(queries)))
    return _rotated(codec, queries)


def search(
    table: pathlib.Path, codec: Codec, queries: np.ndarray, top_k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Searches the table `codes`, and returns distances in the codec's convention.

    Args:
      table: Folder `codes.lance` of the export.
      codec: Codec of the index.
      queries: Embeddings [Q, D].
      top_k: Number of neighbours k.

    Returns:
      Distances [Q, k], smaller is nearer, and ids [Q, k].
    """
    lance = load_package("lance", extra="lancedb", purpose="search of lancedb")
    dataset = lance.dataset(table)
    asked = {"column": _column(codec), "k": top_k, "metric": _METRICS[codec.metric]}
    found = [
        dataset.to_table(nearest={**asked, "q": vector}, columns=["id", "_distance"])
        for vector in search_vectors(codec, queries)
    ]
    distances = np.array([answer["_distance"].to_numpy() for answer in found])
    # Lance's dot distance is 1 - <q, x>.
    return distances - (codec.metric == "ip"), np.array([x["id"].to_pylist() for x in found])


def _has_lance_sizes(codec):
    num_codebooks, num_codewords, _ = codec.codebooks.shape
    return num_codewords == 256 or (num_codewords == 16 and num_codebooks % 2 == 0)


def _column(codec):
    return "code" if isinstance(codec, BinaryCodec) else "vector"


def _rotated(codec, x):
    rotation = codec.rotation
    return np.asarray(x, np.float32) if rotation is None else np.float32(x @ np.asarray(rotation))


def _index_codes(dataset, codec):
    books = np.ascontiguousarray(codec.codebooks, np.float32)
    num_codebooks, num_codewords, width = books.shape
    dataset.create_index(
        "vector",
        "IVF_PQ",
        metric=_METRICS[codec.metric],
        num_partitions=1,
        num_sub_vectors=num_codebooks,
        num_bits=num_codewords.bit_length() - 1,
        # Residuals to a centroid of zero are the vectors, so that our codebooks fit.
        ivf_centroids=np.zeros((1, num_codebooks * width), np.float32),
        pq_codebook=books,
    )


def _tables(index) -> Iterator[Any]:
    """Yields the items as Arrow tables of at most 65,536 rows."""
    arrow = load_package("pyarrow", extra="lancedb", purpose="export to lancedb")
    codec, names = index.codec, items.class_names(index)
    for start in range(0, len(index.codes), _TILE):
        rows = slice(start, start + _TILE)
        x = np.ascontiguousarray(index.codes[rows])
        if isinstance(codec, ProductCodec):
            x = np.ascontiguousarray(_rotated(codec, codec.decode(jnp.asarray(x))))
        vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(x.ravel()), x.shape[1])
        classes = {} if names is None else {"class": arrow.array(names[rows], arrow.string())}
        yield arrow.table({"id": arrow.array(index.ids[rows]), **classes, _column(codec): vectors})
