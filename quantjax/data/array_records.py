"""Reads photos from ArrayRecord files by random access, for data sets larger than memory."""

import dataclasses
import io
import os
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path

import numpy as np

from quantjax.data.decoding import LIMIT_ADVICE, decode, max_pixels
from quantjax.data.photos import check_side, stacked
from quantjax.data.record_manifest import Manifest, digest_of_content, read_manifest
from quantjax.data.record_shards import Shards, open_shards
from quantjax.data.sources import batch_label, check_rows
from quantjax.errors import InputError

_SMALL = 4096  # bytes per photo; with smaller photos threads gain nothing over Python's own work


@dataclasses.dataclass(frozen=True, eq=False)
class RecordsSource:
    """Reads and decodes photos from ArrayRecord files on demand; made by `from_records`.

    It holds no image and no state that reading changes, so the same rows always give the same
    batch. It may be pickled and used from several threads.

    Attributes:
      shards: Files of the records.
      labels: Multi-hot labels [N, L] uint8, or class ids [N] int64 where a photo has one class; a
        batch's "label" is multi-hot either way.
      classes: Names of the L classes.
      parts: Rows of each part, such as "train", as they were named at the conversion.
      size: Height and width in pixels, or None for photos as they are.
      stored_size: Height and width of stored pixels, or None if photo files are stored.
      num_threads: Number of threads that decode a batch.
      digest: SHA-256, in hex, of the content: labels, parts, and checksums of the photos.
    """

    shards: Shards
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
        return self.shards.name_of(row)

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        rows = check_rows(rows, len(self))
        records = self.shards.read(rows.ravel())
        # A pool for each batch and not for the source, which must stay picklable.
        with futures.ThreadPoolExecutor(self.num_threads) as pool:
            over = pool.map if self.num_threads > 1 else map
            decoded = list(over(self._decode, rows.ravel(), records))
        image = stacked(decoded, [self.shards.name_of(row) for row in rows.ravel()])
        label = batch_label(self.labels, rows, len(self.classes))
        return {"image": image.reshape(rows.shape + image.shape[1:]), "label": label}

    def _decode(self, row: int, record: bytes) -> np.ndarray:
        self.shards.check(row, record)
        if self.stored_size is not None:
            return np.frombuffer(record, np.uint8).reshape(self.stored_size, self.stored_size, 3)
        return decode(io.BytesIO(record), self.shards.name_of(row), size=self.size)


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
      ValueError: if a file is damaged, of another version or of another conversion (here or when
        rows are requested), sizes are mixed, or size or num_threads is not possible.
    """
    check_side(size)
    if num_threads is not None and num_threads < 1:
        raise InputError(f"num_threads must be 1 or more, got {num_threads}")
    folder = Path(folder).expanduser().absolute()
    manifest = read_manifest(folder)
    size = _size(folder, manifest, size)
    return RecordsSource(
        shards=open_shards(folder, manifest),
        labels=manifest.labels,
        classes=manifest.classes,
        parts=manifest.parts,
        size=size,
        stored_size=manifest.size,
        num_threads=num_threads or _num_threads(manifest),
        digest=digest_of_content(manifest, size),
    )


def _num_threads(manifest: Manifest) -> int:
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    if manifest.size is not None or num_bytes < _SMALL * len(manifest.labels):
        return 1
    return os.cpu_count() or 1


def _size(folder: Path, manifest: Manifest, size: int | None) -> int | None:
    if manifest.size is not None:
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
    if size is None and manifest.shape is None:
        raise InputError(
            f"photos must have one size, those of {folder} have several; convert them again with "
            "--size=PX to resize and crop, or do so when they are read (in Python size=PX)"
        )
    return size
