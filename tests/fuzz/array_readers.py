"""Readers of arrays: pickles, idx, weights, features, codes."""

import contextlib
import gzip
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from quantjax import data, index
from quantjax.data import record_manifest
from quantjax.errors import InputError, MissingFileError
from quantjax.models import features, weights
from quantjax.quantizers import ProductCodec
from quantjax.run import pickles, tensors
from tests.data.test_mnist import idx_bytes
from tests.fuzz import restructured
from tests.fuzz.reader import JSON_TOKENS, Reader
from tests.models import weight_files
from tests.run.test_pickles import CONTENT, PYTHON_2

_PICKLE_TOKENS = (
    b"cposix\nsystem\n",
    b"cbuiltins\neval\n",
    b"iposix\nsystem\n",
    b"\x8c\x05posix\x8c\x06system\x93",
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    b"X\x04\0\0\0echo",
    b"X\x03\0\0\0O,|",
    b"\x8a\x09" + b"\xff" * 8 + b"\x00",
    b"\x8a\x06" + bytes(5) + b"\x01",
    b"P1\n",
    b"\x82\x01",
    *(bytes([byte]) for byte in b"().0123NQRbcdegh]}aelopstuq\x81\x85\x86\x87\x88\x92\x93\x94"),
)
# What damaged tensors raise where the tests themselves read them.
_NO_TENSORS = (SafetensorError, ValueError, LookupError, AttributeError, OverflowError)
_OPERATIONS = restructured.operations(_PICKLE_TOKENS)
_FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def _batches() -> list[bytes]:
    """CIFAR-10 batches of one photo."""
    batch: dict[str, Any] = {"batch_label": "training batch 1 of 5", "labels": [3]}
    batch |= {"data": np.arange(3072).astype(np.uint8)[None], "filenames": ["a.png"]}
    return [pickle.dumps(batch, protocol) for protocol in (2, 4, 5)]


def _other_batches(path: Path) -> None:
    for name in _FILES:
        (path.parent / name).write_bytes(_batches()[1])


def _read_batches(path: Path) -> None:
    assert len(data.cifar10(path.parent)) == len(_FILES)


def _pickles() -> list[bytes]:
    return [PYTHON_2, *(pickle.dumps(CONTENT, protocol) for protocol in (2, 4, 5))]


def _read_pickle(path: Path) -> None:
    pickles.load(io.BytesIO(path.read_bytes()), name=str(path))


def _idx_files() -> list[bytes]:
    rng = np.random.default_rng(0)
    codes = ("u1", "i2", "f8")
    return [
        idx_bytes(np.zeros((0, 28, 28), np.uint8)),
        *(idx_bytes(rng.integers(0, 99, (2, 3, 4)).astype(code)) for code in codes),
    ]


def _npy_files() -> list[bytes]:
    arrays = (np.arange(6, dtype=code).reshape(3, 2) for code in ("<f4", ">i2", "u1"))
    streams = [io.BytesIO() for _ in range(3)]
    for stream, array in zip(streams, arrays, strict=True):
        np.save(stream, array)
    return [stream.getvalue() for stream in streams]


def _fvecs_files() -> list[bytes]:
    return [b"".join(struct.pack("<i4f", 4, *range(row, row + 4)) for row in range(5))]


def _read_vectors(path: Path) -> None:
    x = data.read_vectors(path)
    assert x.nbytes <= path.stat().st_size
    x.tobytes()


def _gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _read_weights(path: Path) -> None:
    tensors = weights.read(path)
    assert sum(tensor.size for tensor in tensors.values()) <= 8 * path.stat().st_size
    for tensor in tensors.values():
        tensor.tobytes()


def _programs() -> list[bytes]:
    """Pickles of a state dict: itself, inside a checkpoint, as Python 2 wrote it."""
    value, _, _ = weight_files.example()
    tensor = weight_files.tensor(weight_files.Part("1", "FloatStorage", 2, 0, (2,), (1,)))
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + tensor + b"\x88}tR"
    old = b"ccollections\nOrderedDict\n](" + b"(" + weight_files.text("x") + parameter + b"te\x85R"
    inside = weight_files.entries({"epoch": b"K\x07", "state_dict": value})
    return [weight_files.program(each) for each in (value, inside, old)]


def _archive(program: bytes) -> bytes:
    _, storages, _ = weight_files.example()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
    return stream.getvalue()


def _legacy(program: bytes) -> bytes:
    _, storages, _ = weight_files.example()
    named = {key: each for key, each in storages.items() if weight_files.text(key) in program}
    head = weight_files.legacy(b"", named)
    return head.replace(weight_files.program(b""), program, 1)


def _legacy_files() -> list[bytes]:
    value, storages, _ = weight_files.example()
    inside = weight_files.entries({"state_dict": value})
    return [weight_files.legacy(each, storages) for each in (value, inside)]


def _safetensors() -> list[bytes]:
    _, _, due = weight_files.example()
    plain = {key: ("F32", array.shape, array.tobytes()) for key, array in due.items()}
    kinds = {"a": ("BF16", (2, 3), bytes(12)), "b": ("BOOL", (3,), bytes(3)), "c": ("I64", (), b"")}
    kinds["c"] = ("I64", (), bytes(8))
    return [weight_files.safetensors(plain), weight_files.safetensors(kinds)]


_SAFETENSORS_TOKENS = (
    *JSON_TOKENS,
    *(f'"{kind}"'.encode() for kind in ("F8_E4M3", "F4", "C64", "BF16", "U8", "F64", "BOOL")),
    b"[0,9223372036854775808]",
    b"[0,18446744073709551615]",
    b"[" + b"1," * 70 + b"1]",
)
_DUE = {"weights": "0" * 64, "images": "4 " + "1" * 64, "preprocessing": "none"}


def _feature_files() -> list[bytes]:
    found = np.arange(8, dtype=np.float32).reshape(4, 2)
    return [
        safetensors_numpy.save({"feature": found}, metadata=_DUE),
        safetensors_numpy.save({"feature": found, "more": found[0]}, metadata=_DUE),
    ]


def _read_features(path: Path) -> None:
    found = features.read(path, _DUE)
    assert (found.ndim, found.dtype) == (2, np.float32)


def _save_codes(path: Path) -> None:
    codec = ProductCodec(jnp.arange(8.0).reshape(2, 2, 2), metric="ip")
    index.save(path.parent, codec, np.arange(3, dtype=np.uint8)[:, None])


def _tensors_of_codes() -> list[bytes]:
    tensors = {
        "codes": np.arange(3, dtype=np.uint8)[:, None],
        "ids": np.arange(3),
        "codec.codebooks": np.arange(8, dtype=np.float32).reshape(2, 2, 2),
    }
    rotated = {**tensors, "codec.rotation": np.eye(4, dtype=np.float32)}
    named = {name: x for name, x in tensors.items() if name != "ids"}
    named |= {"ids.text": np.arange(65, 69, dtype=np.uint8), "ids.ends": np.array([1, 1, 4])}
    return [safetensors_numpy.save(each) for each in (tensors, rotated, named)]


def _manifests() -> list[bytes]:
    manifest = {
        "format": "quantjax-codes",
        "version": 2,
        "file": "codes-1.safetensors",
        "root": None,
        "classes": ["a", "b"],
        "encoder": None,
        "codec": "product",
        "settings": {"metric": "ip"},
        "metric": "ip",
        "bits": 2,
        "num_bytes": 1,
        "count": 3,
        "digests": _digests(_tensors_of_codes()[0]),
    }
    return [json.dumps(manifest).encode(), json.dumps(manifest, indent=2).encode()]


_MANIFEST_TOKENS = (
    *JSON_TOKENS,
    *b'"product" "residual" "binary" "float" "class" "cosine" "codec" "settings" "digests"'.split(),
    b'"num_bits": 2',
    b'"beam_width": 1',
    b'"codebooks": 3',
    b'{"dim": 1}',
    b"True",
)


def _digests(content: bytes) -> dict[str, str]:
    return {name: tensors.digest(x) for name, x in safetensors_numpy.load(content).items()}


def _read_tensors_of_codes(path: Path) -> None:
    """Loads the index with digests that are right, so that what comes after them is looked at."""
    manifest = path.with_name("codes.json")
    content = json.loads(manifest.read_text())
    with contextlib.suppress(*_NO_TENSORS):
        manifest.write_text(json.dumps(content | {"digests": _digests(path.read_bytes())}))
    _read_codes(path)


_RECORDS = {
    "labels": np.eye(3, 2, dtype=np.uint8),
    "part.train": np.arange(2),
}


def _signed(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    about = {**about, "digest": record_manifest._digest(about, arrays)}
    return safetensors_numpy.save(arrays, {"records": json.dumps(about)})


def _records() -> list[bytes]:
    about = {"version": 2, "photos": "0", "classes": ["a", "b"]}
    about["shards"] = [["s-0.array_record", 3, 9]]
    return [
        _signed({**about, "size": None, "shape": [4, 5]}, _RECORDS),
        _signed({**about, "size": 4, "shape": [4, 4]}, {**_RECORDS, "labels": np.arange(3) % 2}),
    ]


def _other_records(seed: int, content: bytes) -> bytes:
    """Returns a manifest of other records, with the digest that it has to have."""
    (length,) = struct.unpack_from("<Q", content)
    about = json.loads(content[8 : 8 + length])["__metadata__"]["records"]
    if seed % 3:
        content = restructured.safetensors(seed, content)
    else:
        about = restructured.json_value(seed, about.encode())
    with contextlib.suppress(*_NO_TENSORS):
        about = {key: value for key, value in json.loads(about).items() if key != "digest"}
        return _signed(about, safetensors_numpy.load(content))
    return content


def _read_records(path: Path) -> None:
    found = record_manifest.read_manifest(path.parent)
    assert len(found.labels) == sum(each[1] for each in found.shards)
    assert all(Path(shard.name).name == shard.name for shard in found.shards)


def _read_codes(path: Path) -> None:
    try:
        found = index.load(path.parent)
    except MissingFileError as error:  # a manifest may name a file that is not there
        raise InputError(*error.args) from error
    assert found.codes.shape == (len(found.ids), found.codec.num_bytes)


READERS = {
    "CIFAR": Reader(
        _batches,
        _read_batches,
        "data_batch_1",
        _PICKLE_TOKENS,
        _OPERATIONS,
        prepare=_other_batches,
    ),
    "pickle": Reader(_pickles, _read_pickle, tokens=_PICKLE_TOKENS, restructured=_OPERATIONS),
    "idx": Reader(_idx_files, data.read_idx),
    "npy": Reader(_npy_files, _read_vectors, "x.npy"),
    "fvecs": Reader(_fvecs_files, _read_vectors, "x.fvecs"),
    "idx gz": Reader(lambda: list(map(_gzipped, _idx_files())), data.read_idx),
    "idx in gz": Reader(_idx_files, data.read_idx, wrap=_gzipped),
    "pth zip": Reader(lambda: list(map(_archive, _programs())), _read_weights),
    "pth in zip": Reader(
        _programs,
        _read_weights,
        tokens=_PICKLE_TOKENS,
        restructured=_OPERATIONS,
        wrap=_archive,
    ),
    "pth legacy": Reader(_legacy_files, _read_weights, tokens=_PICKLE_TOKENS),
    "pth in legacy": Reader(
        _programs,
        _read_weights,
        tokens=_PICKLE_TOKENS,
        restructured=_OPERATIONS,
        wrap=_legacy,
    ),
    "safetensors": Reader(
        _safetensors,
        _read_weights,
        tokens=_SAFETENSORS_TOKENS,
        restructured=restructured.safetensors,
    ),
    "features": Reader(
        _feature_files,
        _read_features,
        tokens=_SAFETENSORS_TOKENS,
        restructured=restructured.safetensors,
    ),
    "codes": Reader(
        _tensors_of_codes,
        _read_tensors_of_codes,
        "codes-1.safetensors",
        _SAFETENSORS_TOKENS,
        restructured.safetensors,
        prepare=_save_codes,
    ),
    "records": Reader(
        _records, _read_records, record_manifest.NAME, _SAFETENSORS_TOKENS, _other_records
    ),
    "codes manifest": Reader(
        _manifests,
        _read_codes,
        "codes.json",
        _MANIFEST_TOKENS,
        restructured.json_value,
        prepare=_save_codes,
    ),
}
