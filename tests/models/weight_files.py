"""Files of weights, byte by byte: neither torch nor safetensors writes them."""

import io
import json
import pickle
import struct
import zipfile
from typing import NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


class Part(NamedTuple):
    """A tensor as a pickle describes it: which storage, and which view of it."""

    storage: str
    kind: str
    total: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(part: Part, view: bytes = b"") -> bytes:
    identity = b"(" + text("storage") + b"ctorch\n" + part.kind.encode() + b"\n"
    identity += text(part.storage) + text("cpu") + number(part.total) + view + b"tQ"
    rest = number(part.offset) + numbers(part.shape) + numbers(part.strides) + b"\x89"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + rest + ORDERED_DICT + b"tR"


def entries(values: dict[str, bytes]) -> bytes:
    """The operations that make an OrderedDict."""
    items = b"".join(text(key) + value for key, value in values.items())
    return ORDERED_DICT + b"(" + items + b"u"


def program(operations: bytes) -> bytes:
    return b"\x80\x02" + operations + b"."


def zipped(value: bytes, storages: dict[str, bytes], compression=zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program(value))
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", b"3\n")
    return stream.getvalue()


def legacy(value: bytes, storages: dict[str, bytes], width: int = 4) -> bytes:
    content = b"".join(pickle.dumps(each, 2) for each in (MAGIC, 1001, MACHINE))
    content += program(value) + pickle.dumps(list(storages), 2)
    for each in storages.values():
        content += struct.pack("<q", len(each) // width) + each
    return content


def safetensors(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    header, start = {"__metadata__": {"by": "hand"}}, 0
    for key, (kind, shape, content) in tensors.items():
        offsets = [start, start + len(content)]
        header[key] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
        start += len(content)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(each[2] for each in tensors.values())


def example() -> tuple[bytes, dict[str, bytes], dict[str, np.ndarray]]:
    """Returns a pickled state dict, its storages and its tensors, one of them empty."""
    first = np.arange(24, dtype=np.float32)
    second = np.asarray([7.5, -2], np.float32)
    parts = {
        "plain": Part("0", "FloatStorage", 24, 0, (4, 6), (6, 1)),
        "transposed": Part("0", "FloatStorage", 24, 0, (6, 4), (1, 6)),
        "tail": Part("0", "FloatStorage", 24, 13, (2, 3), (5, 2)),
        "scalar": Part("1", "FloatStorage", 2, 1, (), ()),
        "empty": Part("1", "FloatStorage", 2, 0, (0, 3), (3, 1)),
    }
    due = {
        "plain": first.reshape(4, 6),
        "transposed": first.reshape(4, 6).T,
        "tail": np.asarray([[13, 15, 17], [18, 20, 22]], np.float32),
        "scalar": np.float32(-2),
        "empty": np.zeros((0, 3), np.float32),
    }
    value = entries({key: tensor(part) for key, part in parts.items()})
    return value, {"0": first.tobytes(), "1": second.tobytes()}, due
