"""Converts photos into a folder of ArrayRecord files, which appears only when complete."""

import contextlib
import hashlib
import io
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quantjax.data.class_counts import class_ids, num_labels, rows_per_class
from quantjax.data.decoding import UnreadablePhotoError, check_file, decode
from quantjax.data.photos import Photos, all_unreadable, check_side, named
from quantjax.data.record_manifest import Manifest, Shard, write_manifest
from quantjax.data.records import from_records, load_records_package
from quantjax.data.sources import check_rows
from quantjax.errors import FileError, InputError
from quantjax.run import files
from quantjax.run.paths import user_path

# Groups of one for random access; compressed pixels are a quarter smaller and half as fast to read.
_OPTIONS = "group_size:1,uncompressed"
_PER_SHARD = 4096  # photos per file, if this makes at most `_MOST_SHARDS` files
_MOST_SHARDS = 256  # a reader has all files open at once
_BATCH = 256  # photos in memory at once
_TABLE = 1 << 30  # bytes of one-hot labels above which class ids are written


def to_records(
    source: Photos,
    folder: str | Path,
    *,
    size: int | None = None,
    num_shards: int | None = None,
    num_threads: int | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    skip_unreadable: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[str, ...]:
    """Converts photos into ArrayRecord files, which `from_records` reads in the same order.

    Every photo is decoded once, so unreadable photos are named now. The folder appears when all
    files are written. Until then they are in a hidden folder beside it, which the next call deletes
    if this call is killed.

    Args:
      source: The photos, as `image_folder` or `file_lists` return them; its size is not used.
      folder: Created here; must be empty if it exists.
      size: Height and width in pixels. Pixels are stored as `image_folder` makes them, which is
        faster to read. None stores the photo files unchanged.
      num_shards: Number of files, at most one for each photo; None makes one for every 4,096
        photos, at most 256.
      num_threads: Number of threads that decode; None takes one for each core.
      parts: Rows of each part, as `image_folders` returns them, to be stored in the manifest.
      skip_unreadable: Whether to leave out photos that cannot be decoded, from rows and parts too,
        instead of raising an error. A file without a readable photo is left out.
      progress: Called with the number of finished photos and the number of all photos.

    Returns:
      Notes: each change that photos needed, such as white behind transparency, with the number of
      photos and the first photo; and the skipped photos.

    Raises:
      ModuleNotFoundError: if grain, array-record or Pillow is not installed.
      ValueError: if the folder cannot be created or is not empty, photos are unreadable, or a
        number is out of range.
      IndexError: if a part has a row that the source does not have.
      OSError: if a file cannot be written.
    """
    load_records_package("grain")
    check_side(size)
    total = len(source)
    if num_shards is None:
        num_shards = min(-(-total // _PER_SHARD), _MOST_SHARDS)
    if not 1 <= num_shards <= total:
        raise InputError(f"num_shards must be 1 to {total}, a photo each, got {num_shards}")
    parts = {name: check_rows(np.asarray(rows, int), total) for name, rows in (parts or {}).items()}
    with _appearing(user_path(folder).resolve()) as scratch:
        with futures.ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
            written = _write_all(source, scratch, size, num_shards, pool, progress, skip_unreadable)
        if not written.rows.size or (written.errors and not skip_unreadable):
            raise all_unreadable(written.errors, total, may_skip=bool(written.rows.size))
        write_manifest(scratch, _manifest(source, written, size, parts))
        from_records(scratch, size=size or 1)  # checks the numbers of records really written
    return _notes(source, written)


@contextlib.contextmanager
def _appearing(folder: Path) -> Generator[Path]:
    """Yields a hidden folder, which gets the name of the given folder if no error is raised."""
    if folder.is_mount():
        raise InputError(f"{folder} is where a disk is mounted; name a folder inside it")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder; choose another for the records")
    scratch = folder.with_name(f".{folder.name}.unfinished")
    # A conversion that was killed has left it.
    files.remove(scratch)
    try:
        scratch.mkdir(parents=True)
    except (NotADirectoryError, FileExistsError) as error:
        raise InputError(f"cannot make {folder}, a file is above it; choose another") from error
    try:
        yield scratch
        os.replace(scratch, folder)
    finally:
        files.remove(scratch)


class _Photo(NamedTuple):
    """Holds a photo's record, its shape and the changes that it needed."""

    record: bytes
    shape: tuple[int, ...]
    changes: Sequence[str]


class _Written(NamedTuple):
    """Holds the results of a conversion, for the manifest and the notes."""

    shards: list[Shard]
    rows: np.ndarray  # rows of the source that were written
    digest: str  # SHA-256 of all records
    shapes: set[tuple[int, ...]]
    errors: list[UnreadablePhotoError]
    changes: dict[str, list[Path]]


def _write_all(source, scratch, size, num_shards, pool, progress, skip_unreadable):
    """Writes photos into files of nearly equal length.

    Without `skip_unreadable` no photo is written after an unreadable photo, but all are decoded, so
    that one error names all unreadable photos.
    """
    total = len(source)
    bounds = np.linspace(0, total, num_shards + 1).astype(int)
    digest, is_written = hashlib.sha256(), np.zeros(total, bool)
    shards, shapes, errors, changes = [], set(), [], defaultdict(list)
    # In the order of rows, whichever thread is first, so that a conversion is reproducible.
    prepared = _prepared(source.paths, size, pool)
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        path = scratch / f"photos-{number:05d}-of-{num_shards:05d}"
        with _writing(path) as write:
            for row in range(start, stop):
                photo = next(prepared)
                if isinstance(photo, UnreadablePhotoError):
                    # The rest is still decoded, since one error is to name all unreadable photos.
                    errors.append(photo)
                elif skip_unreadable or not errors:
                    write(photo.record)
                    digest.update(b"%d " % len(photo.record))
                    digest.update(photo.record)
                    is_written[row] = True
                    shapes.add(photo.shape)
                    for change in photo.changes:
                        changes[change].append(source.paths[row])
                if (row + 1) % _BATCH == 0 or row + 1 == total:
                    progress(row + 1, total)
        if count := int(is_written[start:stop].sum()):
            shards.append(Shard(path.name, count, path.stat().st_size))
        else:
            path.unlink()
    rows = np.flatnonzero(is_written)
    shards = [_renamed(scratch, shard, digest.hexdigest()) for shard in shards]
    return _Written(shards, rows, digest.hexdigest(), shapes, errors, changes)


def _renamed(folder, shard, digest):
    # Shards of two conversions have other names, so that none is ever taken for one of the other.
    name = f"{shard.name}.{digest[:8]}.array_record"
    (folder / shard.name).rename(folder / name)
    return shard._replace(name=name)


def _manifest(source, written, size, parts):
    """Returns the manifest of the written photos; row numbers leave out skipped photos."""
    # Old row -> new row; -1 for skipped photos, which then leave the parts.
    positions = np.full(len(source), -1, np.int64)
    positions[written.rows] = np.arange(len(written.rows))
    parts = {name: positions[rows] for name, rows in parts.items()}
    return Manifest(
        labels=_labels(source.labels[written.rows]),
        classes=source.classes,
        parts={name: rows[rows >= 0] for name, rows in parts.items()},
        shards=tuple(written.shards),
        photos=written.digest,
        size=size,
        shape=next(iter(written.shapes)) if len(written.shapes) == 1 else None,
    )


def _notes(source, written):
    notes = [
        f"{len(paths)} {change} ({paths[0]}{', ...' if len(paths) > 1 else ''})"
        for change, paths in sorted(written.changes.items())
    ]
    if written.errors:
        notes.append(f"skipped {len(written.errors)} unreadable: {named(written.errors)}")
        # A class that lost all photos keeps its column, but cannot be learned or found.
        before, after = (
            rows_per_class(labels, len(source.classes))
            for labels in (source.labels, source.labels[written.rows])
        )
        gone = [source.classes[number] for number in np.flatnonzero((before > 0) & (after == 0))]
        notes += [f"no photo is left of {', '.join(gone)}"] if gone else []
    return tuple(notes)


def _prepared(
    paths: Sequence[Path], size: int | None, pool: futures.Executor
) -> Iterator[_Photo | UnreadablePhotoError]:
    """Yields each photo, or its error if it is unreadable, with one batch in memory at a time."""
    for first in range(0, len(paths), _BATCH):
        batch = paths[first : first + _BATCH]
        yield from pool.map(_prepare, batch, [size] * len(batch))


def _prepare(path: Path, size: int | None) -> _Photo | UnreadablePhotoError:
    changes: list[str] = []
    try:
        check_file(path)
        content = path.read_bytes()
        image = decode(io.BytesIO(content), path, size=size, noted=changes.append)
    except OSError as error:
        return UnreadablePhotoError(path, error)
    except UnreadablePhotoError as error:
        return error
    # Decoded in any case, so that damage is found at the conversion and not while training.
    record = content if size is None else image.tobytes()
    return _Photo(record, image.shape[:2], changes)


@contextlib.contextmanager
def _writing(path: Path) -> Generator[Callable[[bytes], None]]:
    """Yields a function that appends records to a new file; leaving the context completes it.

    Raises:
      OSError: if the file cannot be written.
    """
    module = load_records_package("array_record.python.array_record_module")
    try:
        writer = module.ArrayRecordWriter(str(path), _OPTIONS)
        yield writer.write
        writer.close()
    except RuntimeError as error:
        raise FileError(f"cannot write {path}: {error}") from error


def _labels(labels: np.ndarray) -> np.ndarray:
    """Returns the labels, as class ids if they are one-hot and larger than 1 GiB."""
    if labels.nbytes > _TABLE and (num_labels(labels) == 1).all():
        return class_ids(labels).astype(np.int64)
    return labels
