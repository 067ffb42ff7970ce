"""Readers of photos, and of lists that name photos."""

import io
import itertools
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantjax import data
from quantjax.data.benchmarks import Counts
from quantjax.data.decoding import decode, header_size, reads_heic
from tests.data.photo_files import tiff, write_photo
from tests.data.test_photos import rle_bmp
from tests.fuzz import restructured
from tests.fuzz.reader import JSON_TOKENS, Reader

Image = pytest.importorskip("PIL.Image")

_PNG = b"\x89PNG\r\n\x1a\n"
_LIST_TOKENS = (
    *b"../ / \\ \\..\\ ./ // .. . C: .jpg .JPG 0 1 -1 7 999999 1000000 ~/".split(),
    b" ",
    b"\t",
    b"\n",
    b"\r\n",
    b"\0",
    b" 0",
    b" 1",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\xd9\xa3",
    b"../secret.jpg 0 1\n",
    b"out/secret.jpg 0 1\n",
    b"x" * 300,
)


def _saved(mode: str, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    ramp = np.add.outer(np.arange(10), np.arange(12) * 17).astype(np.uint8)
    Image.fromarray(ramp).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def _photos() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    frame = Image.new("P", (12, 10))
    return [
        _saved("RGB", "JPEG", exif=exif),
        _saved("CMYK", "JPEG", progressive=True),
        _saved("L", "JPEG", optimize=True, icc_profile=b"none"),
        _saved("RGB", "PNG", exif=exif),
        _saved("P", "PNG", transparency=b"\0\1\2"),
        _saved("1", "PNG"),
        _saved("LA", "PNG"),
        _saved("P", "GIF", save_all=True, append_images=[frame], transparency=3),
        _saved("RGB", "BMP"),
        _saved("P", "BMP"),
        rle_bmp(10, 12),
        _saved("RGB", "WEBP", quality=50),
        _saved("RGBA", "WEBP", lossless=True, exif=exif),
        _saved("RGB", "TIFF", exif=exif),
        _saved("RGB", "TIFF", compression="tiff_lzw"),
        _saved("L", "TIFF", compression="tiff_deflate"),
        _saved("YCbCr", "TIFF", compression="jpeg"),
        _saved("1", "TIFF", compression="group4"),
        tiff(16, 32, [zlib.compress(bytes(range(256)))] * 2, (16, 16), deflated=True),
        tiff(8, 12, [bytes(range(48)), bytes(48)], (4, 12), deflated=False),
        _saved("RGB", "PPM"),
        _saved("1", "PPM"),
        *_deep_and_animated(),
        b"P3\n# by hand\n2 2\n255\n" + b"1 2 3 " * 4,
    ]


def _deep_and_animated() -> list[bytes]:
    streams = [io.BytesIO() for _ in range(6)]
    deep = Image.fromarray(np.arange(120, dtype=np.uint16).reshape(10, 12) * 500)
    deep.save(streams[0], "PNG", transparency=500)
    deep.save(streams[1], "TIFF")
    deep.save(streams[2], "PPM")
    frames = [Image.new("RGBA", (12, 10), (9, 9, 9, alpha)) for alpha in (0, 90, 255)]
    for stream, kind in zip(streams[3:], ("PNG", "WEBP", "TIFF"), strict=True):
        frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return [stream.getvalue() for stream in streams]


def _checked(content: bytes) -> bytes:
    """Returns a PNG with the checksums that its chunks have to have, and all else as it is."""
    if not content.startswith(_PNG):
        return content
    parts, place = [_PNG], len(_PNG)
    while place + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunk = content[place + 4 : place + 8 + length]
        parts.append(struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk)))
        place += 12 + length
    return b"".join(parts)


def _read_photo(path: Path) -> None:
    height, width = header_size(path, path)
    assert height * width <= Image.MAX_IMAGE_PIXELS
    # Of a file, but not of bytes, Pillow asks for as many as a PNG claims, which it then lacks.
    content = path.read_bytes()
    changes: list[str] = []
    assert decode(io.BytesIO(content), path, size=None, noted=changes.append).shape[2:] == (3,)
    assert len(set(changes)) == len(changes) <= 3
    assert decode(io.BytesIO(content), path, size=4, mode="L").shape == (4, 4, 1)


def _lists() -> list[bytes]:
    photos = ("a.jpg", "b 1/b.jpg", "./c.JPG", "d/e/d.jpg", "d/../f.jpg")
    labels = ("0 1", "1 1", "1 0", "0 0", "1 1")
    lines = [f"{photo} {label}" for photo, label in zip(photos, labels, strict=True)]
    ids = [f"{photo} {label}" for photo, label in zip(photos, (3, 0, 7, 7, 1), strict=True)]
    return ["\n".join(lines).encode(), "\r\n".join(lines[::-1]).encode(), "\n".join(ids).encode()]


def _root(path: Path) -> Path:
    return path.parent / "root"


def _photos_and_other_lists(path: Path) -> None:
    for name in ("a.jpg", "b 1/b.jpg", "c.JPG", "d/e/d.jpg", "f.jpg", "q.jpg"):
        write_photo(_root(path) / name)
    write_photo(path.parent / "secret.jpg")
    (_root(path) / "circle.jpg").symlink_to("circle.jpg")
    (path.parent / "query.txt").write_text("q.jpg 0 1\n")
    (path.parent / "database.txt").write_text("d/e/d.jpg 0 0\n")
    (path.parent / "query_ids.txt").write_text("q.jpg 3\n")
    (path.parent / "database_ids.txt").write_text("d/e/d.jpg 7\n")


def _assert_below(root: Path, splits: data.Splits) -> None:
    for photo in splits.source.paths:
        assert photo.is_relative_to(root)
        assert ".." not in photo.parts


def _read_list(path: Path) -> None:
    root, suffix = _root(path), "_ids" if b" 7" in path.read_bytes() else ""
    others = {name: path.parent / f"{name}{suffix}.txt" for name in ("query", "database")}
    for place, is_whole in ((data.by_name(root), False), (str, False), (str, True)):
        splits = data.file_lists(
            root, train=path, **others, place=place, allow_incomplete=not is_whole
        )
        _assert_below(root, splits)
        splits.source[splits.train[:2]]


_ITEMS = (("train", "a"), ("train", "b"), ("query", "c"), ("gallery", "c"), ("gallery", "d"))


def _partitions() -> list[bytes]:
    lines = [f"img/{part}/{item}{n}.jpg  {item} {part}" for part, item in _ITEMS for n in range(3)]
    content = f"{len(lines)}\nimage_name item_id status\n" + "\n".join(lines)
    return [content.encode(), content.replace("\n", " \r\n").encode()]


def _photos_of_partition(path: Path) -> None:
    for (part, item), n in itertools.product(_ITEMS, range(3)):
        write_photo(path.parent / "img" / part / f"{item}{n}.jpg")


_IN_SHOP = Counts(photos=None, classes=None, query=None, train=None, database=None)


def _read_partition(path: Path) -> None:
    splits = data.in_shop(
        path.parent, counts=_IN_SHOP, num_validation_items=0, allow_incomplete=True
    )
    _assert_below(path.parent, splits)


def _annotations() -> list[bytes]:
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(6)],
        "annotations": [{"image_id": n, "category_id": n % 2} for n in range(6)],
        "categories": [{"id": n, "name": name} for n, name in enumerate("ab")],
    }
    return [json.dumps(content).encode(), json.dumps({**content, "info": None}).encode()]


def _other_annotations(path: Path) -> None:
    path.parent.mkdir()
    content = {"images": [], "annotations": [], "categories": []}
    path.with_name("instances_val2014.json").write_text(json.dumps(content))
    for n in range(6):
        write_photo(path.parent.parent / "train" / f"{n}.jpg")


def _read_annotations(path: Path) -> None:
    counts = _IN_SHOP._replace(query=1, train=2)
    folder = path.parent.parent
    splits = data.coco(folder, counts=counts, num_validation=1, allow_incomplete=True)
    _assert_below(folder, splits)


def _heic() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return [_saved("RGB", "HEIF", exif=exif), _saved("RGBA", "HEIF"), _saved("L", "HEIF")]


_MISSING = (ValueError, FileNotFoundError)
READERS = {
    "photo": Reader(_photos, _read_photo, wrap=_checked),
    "list": Reader(
        _lists,
        _read_list,
        "train.txt",
        _LIST_TOKENS,
        restructured.lines,
        prepare=_photos_and_other_lists,
        errors=_MISSING,
        names_file=False,
    ),
    "In-shop": Reader(
        _partitions,
        _read_partition,
        "list_eval_partition.txt",
        _LIST_TOKENS,
        restructured.lines,
        prepare=_photos_of_partition,
        errors=_MISSING,
        names_file=False,
    ),
    "COCO": Reader(
        _annotations,
        _read_annotations,
        "annotations/instances_train2014.json",
        (*JSON_TOKENS, b'"../../secret.jpg"', b'".."', b"9223372036854775808"),
        restructured.json_value,
        prepare=_other_annotations,
        errors=_MISSING,
        names_file=False,
    ),
}
if reads_heic():  # pillow-heif is optional
    READERS["HEIC"] = Reader(_heic, _read_photo)
