"""Converts photos into ArrayRecord files, which appear whole or not at all."""

import contextlib
import io
import itertools
import os
import shutil
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path

import numpy as np

from quantjax.data import photos
from quantjax.data.array_records import from_records
from quantjax.data.class_counts import class_ids, num_labels
from quantjax.data.photos import Photos
from quantjax.data.record_manifest import Manifest, Shard, write_manifest
from quantjax.data.record_shards import import_array_record, import_grain
from quantjax.errors import FileError, InputError

# Groups of one for random access; compressed pixels are a quarter smaller and half as fast to read.
_OPTIONS = "group_size:1,uncompressed"
_PER_SHARD = 4096  # photos, while that makes no more than so many shards:
_MOST_SHARDS = 256  # all are open at once
_BATCH = 256  # photos in memory
_TABLE = 1 << 30  # bytes of one-hot labels above which class ids are written


def to_records(
    source: Photos,
    folder: str | Path,
    *,
    size: int | None = None,
    num_shards: int | None = None,
    num_threads: int | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Converts photos for `from_records`, in their order.

    Every photo is decoded once, so one that cannot be is named now. The folder appears when all is
    written; until then everything is in a hidden one beside it, which the next call clears away.

    Args:
      source: The photos, as `image_folder` or `file_lists` return them; its size is not used.
      folder: Made here; must not exist, or be empty.
      size: Stores pixels, of this height and width as `image_folder` makes them, which are faster
        to read; None stores the files as they are.
      num_shards: Number of files, at most one for each photo; None makes one for every 4,096
        photos, at most 256.
      num_threads: That decode; None takes one for each core.
      parts: Rows of parts, such as `image_folders` returns them, to find them again.
      progress: Called with how many photos are done, of how many.

    Raises:
      ModuleNotFoundError: if grain, array-record or Pillow is not installed.
      ValueError: if the folder is not empty, a photo is unreadable, or a number is out of range.
      OSError: if a file cannot be written.
    """
    import_grain()
    photos.check_side(size)
    total = len(source)
    if num_shards is None:
        num_shards = min(-(-total // _PER_SHARD), _MOST_SHARDS)
    if not 1 <= num_shards <= total:
        raise InputError(f"num_shards must be 1 to {total}, a photo each, got {num_shards}")
    folder = Path(folder).expanduser().resolve()
    if folder.is_mount():
        raise InputError(f"{folder} is where a disk is mounted; name a folder inside it")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder; choose another for the records")
    scratch = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        with futures.ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
            manifest = _write_all(source, scratch, size, num_shards, pool, parts or {}, progress)
        write_manifest(scratch, manifest)
        from_records(scratch, size=size or 1)  # counts what the library has really written
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_all(source, scratch, size, num_shards, pool, parts, progress):
    """Returns the manifest of photos written into shards of nearly equal numbers."""
    total = len(source)
    bounds = np.linspace(0, total, num_shards + 1).astype(int)
    checksums = np.zeros(total, np.uint32)
    shards, shapes = [], set()
    prepared = _prepared(source.paths, size, pool)
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        path = scratch / f"photos-{number:05d}-of-{num_shards:05d}.array_record"
        with _writing(path) as write:
            for row in range(start, stop):
                record, shape = next(prepared)
                write(record)
                checksums[row] = zlib.crc32(record)
                shapes.add(shape)
                if (row + 1) % _BATCH == 0 or row + 1 == total:
                    progress(row + 1, total)
        shards.append(Shard(path.name, int(stop - start), path.stat().st_size))
    return Manifest(
        labels=_labels(source.labels),
        classes=source.classes,
        parts={name: np.asarray(rows, np.int64) for name, rows in parts.items()},
        shards=tuple(shards),
        checksums=checksums,
        size=size,
        shape=shapes.pop() if len(shapes) == 1 else None,
    )


def _prepared(
    paths: Sequence[Path], size: int | None, pool: futures.Executor
) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yields the record of each photo, with height and width, holding one batch at a time."""
    for first in range(0, len(paths), _BATCH):
        batch = paths[first : first + _BATCH]
        yield from pool.map(_record, batch, [size] * len(batch))


def _record(path: Path, size: int | None) -> tuple[bytes, tuple[int, int]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise photos.unreadable(path, error) from error
    image = photos.decode(io.BytesIO(content), path, size=size)
    return content if size is None else image.tobytes(), (image.shape[0], image.shape[1])


@contextlib.contextmanager
def _writing(path: Path) -> Generator[Callable[[bytes], None]]:
    """Yields what writes a record into a new file; it is whole when the context ends.

    Raises:
      OSError: if it cannot be written.
    """
    module = import_array_record()
    try:
        writer = module.ArrayRecordWriter(str(path), _OPTIONS)
        yield writer.write
        writer.close()
    except RuntimeError as error:
        raise FileError(f"cannot write {path}: {error}") from error


def _labels(labels: np.ndarray) -> np.ndarray:
    """Returns the labels, as class ids where a table of one class each would be too large."""
    if labels.nbytes > _TABLE and (num_labels(labels) == 1).all():
        return class_ids(labels).astype(np.int64)
    return labels
