"""Damages what a file says, not how: each still parses, so that what comes behind is reached."""

import copy
import itertools
import json
import math
import pickletools
import random
import struct
from collections.abc import Sequence
from typing import Any

_ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 0.5, 2**31, 2**40, 2**62, 2**63, 2**64 - 1, 2**64, 10**30),
    *(float("inf"), float("nan"), "", "a", "\n", "\ud800", "..", "../../secret.jpg", "x" * 5000),
    *([], [[]], [1] * 70, [0, 2**63], [0, 0], [2, 2], [4, 4], {}, {"a": 1}, [None]),
    *("F32", "F64", "F16", "BF16", "F8_E4M3", "F4", "U8", "I64", "BOOL", "C64"),
    *("product", "residual", "binary", "float", "class", "ip", "l2", "cosine"),
)
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "U8": 8, "BOOL": 8}
_BITS |= {"F8_E4M3": 8, "F8_E5M2": 8, "F4": 4, "C64": 64, "U64": 64, "U32": 32}
_PARTS = ("a.jpg", "b 1", "b.jpg", "c.JPG", "d", "e", "d.jpg", "f.jpg", "..", ".", "", "~", "C:")
_PARTS += ("\\", "\\..\\", "out", "secret.jpg", "x" * 300, "\udcff", "\0", "\x85", "1", ".png", "g")


def json_value(seed: int, content: bytes) -> bytes:
    """Returns JSON with some values, keys and items replaced, moved or taken away."""
    rng = random.Random(seed)
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            break
        parent, key = rng.choice(places)
        new = rng.choice((*_ODD, *(old[at] for old, at in places)))
        match rng.randrange(5):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[rng.choice(("a", "\n", "codec.a", "num_bits", *parent))] = parent.pop(key)
            case _:
                parent[key] = copy.deepcopy(new)
    return json.dumps(value).encode()


def _places(value: Any) -> Any:
    """Yields every container within a value, and each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def safetensors(seed: int, content: bytes) -> bytes:
    """Returns a safetensors file that says other things, or one of other tensors."""
    (length,) = struct.unpack_from("<Q", content)
    header, content = content[8 : 8 + length], content[8 + length :]
    header, content = _retyped(seed, header) if seed % 3 else (json_value(seed, header), content)
    return struct.pack("<Q", len(header)) + header + content


def _retyped(seed: int, header: bytes) -> tuple[bytes, bytes]:
    """Returns a header that gives tensors other types and shapes, and content that fits it."""
    rng = random.Random(seed)
    found = json.loads(header)
    names = [name for name in found if name != "__metadata__"]
    content = b""
    for name in names:
        entry = found[name]
        if not rng.randrange(3):
            entry["dtype"] = rng.choice(tuple(_BITS))
        if not rng.randrange(3):
            entry["shape"] = rng.choices((0, 1, 1, 2, 3, 4), k=rng.choice((0, 1, 2, 3, 4, 33, 65)))
        if 0 in entry["shape"] and rng.randrange(2):
            entry["shape"].append(rng.choice((2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 1)))
        size = min(math.prod(entry["shape"]) * _BITS[entry["dtype"]] // 8, 10**5)
        entry["data_offsets"] = [len(content), len(content) + size]
        content += rng.randbytes(size)
    if not rng.randrange(4):
        found[rng.choice(("feature", "ids", "codes", "codec.\n"))] = found.pop(rng.choice(names))
    return json.dumps(found).encode(), content


def operations(tokens: Sequence[bytes]) -> Any:
    """Returns what changes a pickle's operations: puts in `tokens`, takes out, repeats, swaps."""

    def changed(seed: int, content: bytes) -> bytes:
        rng = random.Random(seed)
        places = [place for _, _, place in pickletools.genops(content)]
        found = [content[a:b] for a, b in itertools.pairwise([*places, len(content)])]
        for _ in range(rng.choice((1, 1, 2, 3))):
            at, other = rng.randrange(len(found)), rng.randrange(len(found))
            match rng.randrange(5):
                case 0:
                    found[at:at] = [rng.choice(tokens)]
                case 1:
                    found[at] = rng.choice(tokens)
                case 2:
                    found[at : at + rng.randint(1, 4)] = [b""]
                case 3:
                    found[at:at] = found[other : other + rng.randint(1, 12)]
                case _:
                    found[at], found[other] = found[other], found[at]
        return b"".join(found)

    return changed


def lines(seed: int, content: bytes) -> bytes:
    """Returns a list of photos with other paths and labels."""
    rng = random.Random(seed)
    found = content.decode(errors="surrogateescape").splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(found))
        path, *labels = found[at].rsplit(maxsplit=len(found[at].split()) - 1)
        path = "/".join(rng.choices(_PARTS, k=rng.randint(1, 4))) if rng.randrange(2) else path
        path = (
            path if rng.randrange(3) else f"{path}/{rng.choice(('a.jpg', 'secret.jpg', 'd.jpg'))}"
        )
        if not rng.randrange(4):
            labels = [rng.choice(("0", "1", "2", "7", "01", "999999", "train", "query", "gallery"))]
        found[at] = " ".join((path, *labels))
    if not rng.randrange(3):
        found.append(rng.choice(found))
    return "\n".join(found).encode(errors="surrogateescape")
