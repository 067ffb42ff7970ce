"""Writes an index as files that engines load by a command of their own."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from quantjax.index.artefact import Index
from quantjax.index.engines import items, self_test
from quantjax.quantizers import (
    BinaryCodec,
    FloatCodec,
    NeuralResidualCodec,
    ProductCodec,
    ResidualCodec,
)
from quantjax.run import files

_TILE = 1 << 16  # rows that are decoded at once
_DECODED = ProductCodec, ResidualCodec, NeuralResidualCodec, FloatCodec, BinaryCodec
_QDRANT = {"l2": "Euclid", "ip": "Dot", "cosine": "Cosine", "hamming": "Manhattan"}
_CUVS = {"l2": "sqeuclidean", "ip": "inner_product", "cosine": "cosine", "hamming": "sqeuclidean"}


def export_npz(index: Index, path: pathlib.Path) -> self_test.Exported:
    """Writes all arrays of an index as one npz file, without pickles.

    They are codes, ids, the codec's metric, bits and arrays (`codec.codebooks` and so on), class
    names, and, if the index has them, vectors, labels, `lists.centroids` and `lists.starts`.

    Args:
      index: Codes of any codec.
      path: File to be written.

    Returns:
      The file and an example.
    """
    codec, lists = index.codec, index.lists._asdict() if index.lists is not None else {}
    # Names of one width: arrays of Python objects would need pickle.
    arrays = {
        "codes": index.codes,
        "ids": index.ids.astype(str) if items.has_names(index) else index.ids,
        "metric": codec.metric,
        "bits": codec.bits,
        **{f"codec.{name}": x for name, x in vars(codec).items()},
        "classes": np.array(list(index.manifest.get("classes", ())), str),
        "vectors": index.vectors,
        "labels": index.labels,
        **{f"lists.{name}": x for name, x in lists.items()},
    }
    stored = {name: np.asarray(x) for name, x in arrays.items() if x is not None}
    with files.replacing(path) as scratch, scratch.open("wb") as file:
        np.savez(file, allow_pickle=False, **stored)
    return self_test.Exported((path,), f"numpy.load({str(path)!r})['codes']")


def export_opensearch(index: Index, path: pathlib.Path) -> self_test.Exported:
    """Writes binary codes as bulk JSON of OpenSearch, and the mapping beside it.

    Args:
      index: Codes of a BinaryCodec.
      path: File to be written; the mapping goes to `<file>.mapping.json`.

    Returns:
      The files and the two commands that load them.

    Raises:
      ValueError: if the codes are not binary.
    """
    kind = {"type": "knn_vector", "data_type": "binary", "space_type": "hamming"}
    field = {**kind, "dimension": 8 * index.codec.num_bytes}
    return _export_bulk("opensearch", index, path, field, {"index": {"knn": True}})


def export_elasticsearch(index: Index, path: pathlib.Path) -> self_test.Exported:
    """Writes binary codes as bulk JSON of Elasticsearch, and the mapping beside it.

    Args:
      index: Codes of a BinaryCodec.
      path: File to be written; the mapping goes to `<file>.mapping.json`.

    Returns:
      The files and the two commands that load them.

    Raises:
      ValueError: if the codes are not binary.
    """
    field = {"type": "dense_vector", "element_type": "bit", "dims": 8 * index.codec.num_bytes}
    return _export_bulk("elasticsearch", index, path, field, {})


def export_qdrant(index: Index, path: pathlib.Path) -> self_test.Exported:
    """Writes arrays for Qdrant: vectors.npy, and items.jsonl with id and class of each row.

    Binary codes are a byte of 0 or 1 for each bit, since their Manhattan distance is Hamming's.
    Other codes are written as reconstructions, whose distances are those of the codes (Euclid is
    the root of ours): 4 D bytes for each item, which Qdrant may quantize again.

    Args:
      index: Codes of any codec but a ClassCodec.
      path: Folder to be made.

    Returns:
      The files and the Python lines that upload them.

    Raises:
      ValueError: if the codec has no such vectors.
    """
    self_test.check_takes("qdrant", index, _DECODED, *_QDRANT)
    written = _export_arrays(index, path, np.uint8 if _is_binary(index) else np.float32)
    kind = "UINT8" if _is_binary(index) else "FLOAT32"
    usage = (
        "import json, numpy, qdrant_client as q; client = q.QdrantClient(url='http://localhost:6333')\n"
        f"x = numpy.load({str(written[0])!r}, mmap_mode='r')\n"
        f"size = q.models.VectorParams(size=x.shape[1], distance='{_QDRANT[index.codec.metric]}', "
        f"datatype=q.models.Datatype.{kind})\n"
        "client.create_collection('codes', vectors_config=size)\n"
        f"with open({str(written[1])!r}) as items:\n"
        "  client.upload_collection('codes', vectors=x, payload=map(json.loads, items))"
    )
    return self_test.Exported(written, usage)


def export_cuvs(index: Index, path: pathlib.Path) -> self_test.Exported:
    """Writes arrays for cuVS: vectors.npy, float32, and items.jsonl with id and class of each row.

    Binary codes are a number 0 or 1 for each bit, whose squared Euclidean distance is Hamming's.
    Other codes are written as reconstructions, whose distances are those of the codes.

    Args:
      index: Codes of any codec but a ClassCodec.
      path: Folder to be made.

    Returns:
      The files and the Python lines that search them on a GPU.

    Raises:
      ValueError: if the codec has no such vectors.
    """
    self_test.check_takes("cuvs", index, _DECODED, *_CUVS)
    written = _export_arrays(index, path, np.float32)
    usage = (
        "import cupy; from cuvs.neighbors import brute_force\n"
        f"x = cupy.load({str(written[0])!r})\n"
        f"index = brute_force.build(x, metric='{_CUVS[index.codec.metric]}')\n"
        "distances, rows = brute_force.search(index, x[:5], 10)"
    )
    return self_test.Exported(written, usage)


def _is_binary(index):
    return isinstance(index.codec, BinaryCodec)


def _described(index) -> Iterator[dict[str, Any]]:
    """Yields id and, where it is known, class of each item."""
    names = items.class_names(index) or [None] * len(index.ids)
    for key, name in zip(index.ids.tolist(), names, strict=True):
        yield {"id": key} if name is None else {"id": key, "class": name}


def _export_bulk(engine, index, path, field, settings):
    self_test.check_takes(engine, index, (BinaryCodec,), "hamming")
    items.check_names(index)
    mapping = path.with_name(path.name + ".mapping.json")
    fields = {"code": field, "class": {"type": "keyword"}}
    files.write_text(
        mapping, json.dumps({"settings": settings, "mappings": {"properties": fields}})
    )
    with files.replacing(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        for code, item in zip(index.codes, _described(index), strict=True):
            # Both engines read the bytes of a code as signed numbers.
            body = {"code": code.view(np.int8).tolist()}
            body |= {name: x for name, x in item.items() if name != "id"}
            head = {"index": {"_id": str(item["id"])}}
            file.write(f"{json.dumps(head)}\n{json.dumps(body)}\n")
    json_type, url = "-H 'Content-Type: application/x-ndjson'", "localhost:9200/codes"
    usage = (
        f"curl -X PUT {url} -H 'Content-Type: application/json' --data-binary @{mapping}\n"
        # A request may have 100 MB: the file goes in parts of whole pairs of lines.
        f'split -l 200000 --filter="curl {json_type} --data-binary @- {url}/_bulk" {path}'
    )
    return self_test.Exported((path, mapping), usage)


def _export_arrays(index, path, dtype):
    path.mkdir(parents=True, exist_ok=True)
    # Written through a memory map: only a tile of the vectors is ever in memory.
    with files.replacing(path / "vectors.npy") as scratch:
        rows = range(0, len(index.codes), _TILE)
        tiles = (_vectors(index, np.arange(n, min(n + _TILE, len(index.codes)))) for n in rows)
        out = None
        for start, tile in zip(rows, tiles, strict=True):
            if out is None:
                shape = len(index.codes), tile.shape[1]
                out = np.lib.format.open_memmap(scratch, "w+", dtype, shape)
            out[start : start + len(tile)] = tile
    lines = (json.dumps(item) for item in _described(index))
    with (
        files.replacing(path / "items.jsonl") as scratch,
        scratch.open("w", encoding="utf-8") as file,
    ):
        file.writelines(f"{line}\n" for line in lines)
    return path / "vectors.npy", path / "items.jsonl"


def _vectors(index, rows):
    if _is_binary(index):
        return np.unpackbits(index.codes[rows], 1, index.codec.bits, "little")
    return self_test.reconstructions(index, rows)
