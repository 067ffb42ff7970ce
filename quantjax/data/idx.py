"""Reads idx files, the format of MNIST, and Fashion-MNIST from them."""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from quantjax.data.arrays import ArraySource, from_arrays
from quantjax.data.locate import locate
from quantjax.errors import InputError, MissingFileError

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_ORIGIN = "https://github.com/zalandoresearch/fashion-mnist or Debian's dataset-fashion-mnist"
_PARTS = {"train": 60_000, "t10k": 10_000}
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHUNK = 1 << 24
_MAX_AXES = 8
_DEBIAN = "/usr/share/datasets"  # where the package dataset-fashion-mnist puts its folder


def _read_header(stream: io.BufferedIOBase) -> tuple[np.dtype, tuple[int, ...]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
        raise InputError(f"an idx file begins with 0, 0, a type and a rank, got {magic.hex(' ')!r}")
    rank = magic[3]
    if rank > _MAX_AXES:
        raise InputError(f"the header names {rank} axes, no more than {_MAX_AXES} are read")
    axes = stream.read(4 * rank)
    if rank == 0 or len(axes) < 4 * rank:
        raise InputError(f"the header must name {max(rank, 1)} axes, got {len(axes) // 4}")
    return np.dtype(_DTYPES[magic[2]]), struct.unpack(f">{rank}I", axes)


def _read_content(stream: io.BufferedIOBase, due: int) -> bytearray:
    """Reads `due` bytes in chunks, so that a false header cannot allocate much memory."""
    content = bytearray()
    while len(content) <= due and (chunk := stream.read(min(_CHUNK, due + 1 - len(content)))):
        content += chunk
    if len(content) != due:
        came = "more" if len(content) > due else f"{len(content):,}"
        raise InputError(f"its header promises {due:,} bytes of content, got {came}")
    return content


def read_idx(path: str | Path, *, max_bytes: int = 1 << 30) -> np.ndarray:
    """Reads the array of an idx file, plain or gzipped, in the machine's byte order.

    Args:
      path: The file.
      max_bytes: Largest unzipped content of a gzipped file, which may be a thousand times larger
        than the file.

    Raises:
      FileNotFoundError: if the file does not exist.
      ValueError: if the header is not that of an idx file, the content does not have the length
        that the header gives, or a gzipped file holds more than `max_bytes`.
    """
    path = Path(path)
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if is_gzip else path.open("rb") as stream:
            dtype, shape = _read_header(stream)
            due = math.prod(shape) * dtype.itemsize
            # A plain file cannot claim more than its size on disk, a gzipped file can.
            if is_gzip and due > max_bytes:
                raise InputError(
                    f"its header promises {due:,} bytes of gzipped content, which may be no more "
                    f"than max_bytes={max_bytes:,}"
                )
            content = _read_content(stream, due)
        array = np.frombuffer(content, dtype).reshape(shape)
        return array.astype(dtype.newbyteorder("="), copy=False)
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"cannot read {path}: {error}; the file is truncated, damaged or no idx file: "
            "fetch it anew from its source"
        ) from error


def _read_part(folder: Path, part: str, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images [N, 28, 28] and class ids [N] of the part "train" or "t10k"."""
    arrays = []
    due = {"images-idx3": (num_rows, 28, 28), "labels-idx1": (num_rows,)}
    for kind, shape in due.items():
        plain = folder / f"{part}-{kind}-ubyte"
        zipped = plain.with_name(f"{plain.name}.gz")
        path = zipped if zipped.is_file() else plain
        array = read_idx(path, max_bytes=math.prod(shape))
        if array.shape != shape or array.dtype != np.uint8:
            raise InputError(
                f"{path} must hold uint8 {shape}, got {array.dtype} {array.shape}; "
                "fetch the file anew from its source"
            )
        arrays.append(array)
    return arrays[0], arrays[1]


def fashion_mnist(data_dir: str | Path | None = None) -> ArraySource:
    """Reads the 70,000 images of Fashion-MNIST, [70000, 28, 28, 1].

    Training images come first; the official test images are rows 60,000 and above.

    Args:
      data_dir: Folder that holds `fashion-mnist`, or that folder; None searches $QUANTJAX_DATA and
        the folder of Debian's package dataset-fashion-mnist.

    Raises:
      FileNotFoundError: if the folder, or some of its four files, is missing.
      ValueError: if a file is truncated, damaged, or holds another data set.
    """
    names = [f"{part}-{kind}-ubyte" for part in _PARTS for kind in ("images-idx3", "labels-idx1")]
    files = [f"{name}{suffix}" for name in names for suffix in ("", ".gz")]
    folder = locate(data_dir, "fashion-mnist", origin=_ORIGIN, files=files, extra=[_DEBIAN])
    missing = [
        name
        for name in names
        if not any((folder / f"{name}{suffix}").is_file() for suffix in ("", ".gz"))
    ]
    if missing:
        raise MissingFileError(
            f"{folder} is half there, it lacks {', '.join(missing)} (plain or .gz); fetch them "
            f"from {_ORIGIN}"
        )
    parts = [_read_part(folder, part, num_rows) for part, num_rows in _PARTS.items()]
    images, class_ids = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return from_arrays(images, class_ids, classes=FASHION_CLASSES)
