"""Reads files that `torch.save` wrote, without torch and without running code from the file.

The pickle goes through `run.pickles`; it may name only tensors and their storages. A tensor becomes
a view of the file's bytes when its storage has been read.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from quantjax.errors import InputError
from quantjax.run import files, pickles
from quantjax.run.pickles import are_counts

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
ZIP_MAGIC = b"PK\x03\x04"
_AGAIN = "the file is truncated or damaged, fetch it anew"

_STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# What the standard library raises over a damaged archive, beside `files.DAMAGE`.
_DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, RuntimeError, OSError)


class Storage(NamedTuple):
    """Describes the flat array behind tensors: `size` values from `start`, out of `total`."""

    key: str
    dtype: np.dtype
    total: int
    start: int
    size: int


class Tensor(NamedTuple):
    """Describes a tensor as a view of a storage; offset and strides count values, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _storage(identity: Any) -> Storage:
    """Parses a persistent id: ("storage", class, key, device, number of values[, view])."""
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
        raise InputError("refused a persistent id that is no storage")
    _, kind, key, _, total, *view = identity
    if not isinstance(kind, np.dtype) or type(key) is not str or not are_counts(total):
        raise InputError("a storage must have a class, a key and a number of values")
    _, start, size = view[0] if view and view[0] is not None else ("", 0, total)
    if not are_counts(start, size) or start + size > total:
        raise InputError(f"a part of storage {key[:40]!r} goes beyond its {total} values")
    return Storage(key, kind, total, start, size)


def _tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> Tensor:
    """Replaces torch._utils._rebuild_tensor_v2: checks that a view fits into its storage."""
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        raise InputError("a tensor must have a storage, a shape and strides")
    if not len(shape) == len(strides) <= 8 or not are_counts(offset, *shape, *strides):
        raise InputError("shape and strides of a tensor must be up to 8 whole numbers, 0 or more")
    count = math.prod(shape)
    last = offset + sum((axis - 1) * stride for axis, stride in zip(shape, strides, strict=True))
    # Equal strides of 0 would make a tensor of any size from one value.
    if count > storage.size or (count and last >= storage.size) or max(shape, default=0) > 2**40:
        raise InputError(f"a tensor {list(shape)} goes beyond its storage of {storage.size} values")
    return Tensor(storage, offset, shape, strides)


def _parameter(tensor: Tensor, *_: Any) -> Tensor:
    """Replaces torch._utils._rebuild_parameter: returns the parameter's tensor."""
    if type(tensor) is not Tensor:
        raise InputError("a parameter must have a tensor")
    return tensor


def _ordered_dict(*pairs: Any) -> dict:
    """Replaces collections.OrderedDict, empty or, from Python 2, with [key, value] pairs."""
    items = pairs[0] if pairs else []
    if type(items) is not list or not all(
        type(pair) in (list, tuple) and len(pair) == 2 and type(pair[0]) is str for pair in items
    ):
        raise InputError("an ordered dict must have a list of pairs of text and value")
    return dict(items)


_ALLOWED: Mapping[str, Any] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    **{f"torch {name}": dtype for name, dtype in _STORAGES.items()},
}


def view(tensor: Tensor, content: Mapping[str, bytes]) -> np.ndarray:
    """Returns a tensor as a read-only view of its storage's bytes, `content[key]`."""
    storage = tensor.storage
    if storage.key not in content:
        raise InputError(f"the file has no storage {storage.key[:40]!r}")
    data, width = content[storage.key], storage.dtype.itemsize
    if len(data) != storage.total * width:
        raise InputError(
            f"storage {storage.key[:40]!r} takes {storage.total * width} bytes, got {len(data)}"
        )
    # An empty tensor may start behind the end of its storage, which np.ndarray does not allow.
    if not math.prod(tensor.shape):
        return np.zeros(tensor.shape, storage.dtype)
    return np.ndarray(
        tensor.shape,
        storage.dtype,
        data,
        offset=(storage.start + tensor.offset) * width,
        strides=tuple(stride * width for stride in tensor.strides),
    )


def read_zip(data: bytes, name: str) -> tuple[Any, dict[str, bytes]]:
    """Reads the object in a zip file of torch 1.6 or later, and its storages by key.

    Raises:
      ValueError: if the archive is truncated, damaged or not torch's, or its pickle not allowed.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            # A malicious archive may overlap or compress its members so that they fill the memory.
            # Torch's archives do neither.
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
                raise InputError("torch does not compress, this archive is compressed")
            if sum(info.file_size for info in members.values()) > len(data):
                raise InputError("its members are larger than the archive")
            content = {key: archive.read(info) for key, info in members.items()}
    except (*files.DAMAGE, *_DAMAGED_ZIP) as error:
        raise InputError(f"cannot read {name}: {files.one_line(error)}; {_AGAIN}") from error
    if "data.pkl" not in content:
        raise InputError(f"{name} is a zip archive, but torch.save did not write it: no data.pkl")
    if content.get("byteorder", b"little") != b"little":
        raise InputError(f"{name} was written on a big-endian machine, which is not supported")
    value = _load(io.BytesIO(content["data.pkl"]), name)
    return value, {
        key.removeprefix("data/"): part for key, part in content.items() if key.startswith("data/")
    }


def read_legacy(data: bytes, name: str) -> tuple[Any, dict[str, bytes]]:
    """Reads the object in a file of torch before 1.6, and its storages by key.

    The file holds five pickles (a magic number, the protocol, the machine, the object, the
    storages' keys), then each storage: its number of values in eight bytes, and its values.

    Raises:
      ValueError: if the file is truncated, damaged or not torch's, or its pickle not allowed.
    """
    stream, storages = io.BytesIO(data), {}
    _load(stream, name)  # the magic number, which the caller has checked
    protocol, machine = _load(stream, name), _load(stream, name)
    if protocol != 1001 or type(machine) is not dict or machine.get("little_endian") is not True:
        raise InputError(f"{name} is no file of protocol 1001 by a little-endian machine")
    value = _load(stream, name, storages)
    keys = _load(stream, name)
    if type(keys) is not list or not all(type(key) is str and key in storages for key in keys):
        raise InputError(f"cannot read {name}: its storages are not those that its tensors have")
    content = {}
    for key in keys:
        total = int.from_bytes(stream.read(8), "little")
        storage = storages[key]
        size = storage.total * storage.dtype.itemsize
        # Bounded: a false size must not allocate more memory than the file has bytes.
        content[key] = stream.read(min(size, len(data)))
        if total != storage.total or len(content[key]) != size:
            raise InputError(
                f"cannot read {name}: storage {key[:40]!r} takes {size} bytes, got "
                f"{len(content[key])}; {_AGAIN}"
            )
    return value, content


def _load(stream: io.BytesIO, name: str, storages: dict[str, Storage] | None = None) -> Any:
    def persistent_load(identity):
        storage = _storage(identity)
        if storages is not None:
            first = storages.setdefault(storage.key, storage)
            # Several tensors may share a storage, but they must agree on its size.
            if (first.dtype, first.total) != (storage.dtype, storage.total):
                raise InputError(f"storage {storage.key[:40]!r} has two sizes")
        return storage

    try:
        return pickles.load(stream, name=name, allowed=_ALLOWED, persistent_load=persistent_load)
    except ValueError as error:
        raise InputError(
            f"{error}; if it holds a whole module, save the module's state_dict() alone"
        ) from error
