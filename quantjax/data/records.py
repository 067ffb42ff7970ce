"""Reads photos from ArrayRecord files by random access, for data sets larger than memory."""

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np

from quantjax.data.decoding import LIMIT_ADVICE, decode, max_pixels
from quantjax.data.photos import as_batch, check_side
from quantjax.data.record_manifest import AGAIN, Manifest, digest_of_content, read_manifest
from quantjax.data.sources import batch_label, check_rows
from quantjax.errors import InputError, MissingFileError, load_package
from quantjax.run.paths import user_path

_SMALL = 4096  # bytes per photo; with smaller photos threads gain nothing over Python's own work


@dataclasses.dataclass(frozen=True, eq=False)
class RecordsSource:
    """Reads and decodes photos from ArrayRecord files on demand; made by `from_records`.

    It holds no image and no state that reading changes, so the same rows always give the same
    batch. It may be pickled and used from several threads.

    Attributes:
      files: Paths of the record files.
      starts: First row of each file.
      records: Grain's data source of all files, by row.
      labels: Multi-hot labels [N, L] uint8, or class ids [N] int64 where a photo has one class; a
        batch's "label" is multi-hot either way.
      classes: Names of the L classes.
      parts: Rows of each part, such as "train", as they were named at the conversion.
      size: Height and width in pixels, or None for photos as they are.
      stored_size: Height and width of stored pixels, or None if photo files are stored.
      num_threads: Number of threads that decode a batch.
      digest: SHA-256, in hex, of the content: labels, parts and photos.
    """

    files: tuple[str, ...]
    starts: np.ndarray
    records: Any
    labels: np.ndarray
    classes: tuple[str, ...]
    parts: Mapping[str, np.ndarray]
    size: int | None
    stored_size: int | None
    num_threads: int
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def name_of(self, row: int) -> str:
        """Returns the record file of a row and the row's position in the file, for messages."""
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{self.files[part]}[{row - self.starts[part]}]"

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        rows = check_rows(rows, len(self))
        flat = rows.ravel().tolist()
        names, records = [self.name_of(row) for row in flat], self._read(flat)
        # A pool for each batch and not for the source, which must stay picklable.
        with futures.ThreadPoolExecutor(self.num_threads) as pool:
            over = pool.map if self.num_threads > 1 else map
            decoded = list(over(self._decode, names, records))
        return as_batch(decoded, names, batch_label(self.labels, rows, len(self.classes)))

    def _read(self, rows: list[int]) -> Sequence[bytes]:
        """Reads the records of rows; ArrayRecord's own checksums find damage."""
        try:
            return self.records.__getitems__(rows)
        except Exception as error:  # of a C++ library, which does not say which record it was
            for row in rows:
                try:
                    self.records[row]
                except Exception as reason:
                    raise _damaged(self.name_of(row), reason) from reason
            raise _damaged(self.files[0], error) from error

    def _decode(self, name: str, record: bytes) -> np.ndarray:
        if self.stored_size is not None:
            return np.frombuffer(record, np.uint8).reshape(self.stored_size, self.stored_size, 3)
        return decode(io.BytesIO(record), name, size=self.size)


def from_records(
    folder: str | Path, *, size: int | None = None, num_threads: int | None = None
) -> RecordsSource:
    """Opens a folder of ArrayRecord files that `to_records` or `quantjax records` wrote.

    Rows, labels and pixels equal those of the converted photos, bit for bit. Labels come from a
    small file. An image is read when its row is requested, and no image is kept in memory.

    Records from other people cannot run code or read other files, but a malicious record can take
    any amount of memory.

    Args:
      folder: Folder of the records.
      size: Height and width in pixels, see `image_folder`; None takes photos as they are, which
        must then have one size. If pixels are stored, only their size is allowed.
      num_threads: Number of threads that decode a batch. None takes one for each core if photo
        files of more than 4 KB are stored, else a single thread, which is then faster.

    Raises:
      ModuleNotFoundError: if grain or Pillow is not installed.
      FileNotFoundError: if the folder holds no finished records, or a file is missing.
      ValueError: if a file is damaged or of another version (here or when rows are requested),
        sizes are mixed, or size or num_threads is not possible.
    """
    check_side(size)
    if num_threads is not None and num_threads < 1:
        raise InputError(f"num_threads must be 1 or more, got {num_threads}")
    folder = user_path(folder).absolute()
    manifest = read_manifest(folder)
    # Before a file is opened, which takes long where there are many.
    size = _size(folder, manifest, size)
    files = tuple(str(folder / shard.name) for shard in manifest.shards)
    return RecordsSource(
        files=files,
        starts=np.cumsum([0, *(shard.num_records for shard in manifest.shards[:-1])]),
        records=_open(files, manifest),
        labels=manifest.labels,
        classes=manifest.classes,
        parts=manifest.parts,
        size=size,
        stored_size=manifest.size,
        num_threads=num_threads or _num_threads(manifest),
        digest=digest_of_content(manifest, size),
    )


def load_records_package(package: str) -> Any:
    """Imports grain or array_record; raises ModuleNotFoundError with the command to install it."""
    return load_package(package, extra="stream", purpose="reading or writing records")


def _num_threads(manifest: Manifest) -> int:
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    if manifest.size is not None or num_bytes < _SMALL * len(manifest.labels):
        return 1
    return os.cpu_count() or 1


def _size(folder: Path, manifest: Manifest, size: int | None) -> int | None:
    """Returns the size of the images of a batch, or raises ValueError if it is not possible."""
    if manifest.size is None:
        if size is None and manifest.shape is None:
            raise InputError(
                f"photos must have one size, those of {folder} have several; convert them again "
                "with --size=PX to resize and crop, or do so when they are read (in Python size=PX)"
            )
        return size
    # Stored pixels pass no decoder, so Pillow's limit is checked here.
    limit = max_pixels()
    if limit is not None and manifest.size**2 > limit:
        raise InputError(
            f"photos of {manifest.size} x {manifest.size} pixels in {folder} have more than "
            f"{limit:,}; {LIMIT_ADVICE}"
        )
    if size not in (None, manifest.size):
        raise InputError(
            f"size must be {manifest.size}, that of the pixels stored in {folder}, or absent, "
            f"got {size}; convert the photos again with --size={size}"
        )
    return manifest.size


def _open(files: Sequence[str], manifest: Manifest) -> Any:
    """Opens the record files that a manifest lists as one of grain's data sources."""
    open_files = load_records_package("grain").sources.ArrayRecordDataSource
    for file, shard in zip(files, manifest.shards, strict=True):
        if not os.path.isfile(file):
            raise MissingFileError(f"{file} is missing; copy it again, or {AGAIN}")
        # Cheap check for a cut copy, before grain opens all files.
        if (size := os.path.getsize(file)) != shard.num_bytes:
            raise InputError(
                f"{file} has {size:,} bytes, due {shard.num_bytes:,}; copy it again, or {AGAIN}"
            )
    try:
        records = open_files(files)
        if len(records) == len(manifest.labels):
            return records
        reason: object = f"{len(records):,} records in all"
    except RuntimeError as error:
        reason = error
    # Neither error nor sum says which file it is, so that each is opened alone.
    for file, shard in zip(files, manifest.shards, strict=True):
        try:
            found = len(open_files([file]))
        except RuntimeError as error:
            raise _damaged(file, error) from error
        if found != shard.num_records:
            raise _damaged(file, f"it has {found:,} records, due {shard.num_records:,}")
    raise _damaged(files[0], reason)


def _damaged(name: str, reason: object) -> InputError:
    return InputError(f"cannot read {name}: {reason}; copy the file again, or {AGAIN}")
