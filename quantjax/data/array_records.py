"""Photos in ArrayRecord files: a source of more images than memory holds, by random access."""

import dataclasses
import io
import os
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path

import numpy as np

from quantjax.data import photos
from quantjax.data.photo_formats import LIMIT_ADVICE, max_pixels
from quantjax.data.record_manifest import Manifest, digest_of_content, read_manifest
from quantjax.data.record_shards import Shards, open_shards
from quantjax.data.sources import batch_label, check_rows
from quantjax.errors import InputError

_SMALL = 4096  # bytes a photo; below, Python's own work on each hides what threads do at once


@dataclasses.dataclass(frozen=True, eq=False)
class RecordsSource:
    """A source of photos read and decoded when they are asked for; made by `from_records`.

    It holds no image, and nothing that changes with what was read, so a run that asks for the rows
    of a step has the same batch whatever was read before. May be pickled, and used from threads.

    Attributes:
      shards: The records.
      labels: Multi-hot labels [N, L] uint8, or class ids [N] int64 where a photo has one class; a
        batch's "label" is multi-hot either way.
      classes: Names of the L classes.
      parts: Rows of each part that was named when the photos were converted.
      size: Height and width in pixels, or None for photos as they are.
      stored_size: Height and width of stored pixels, or None where files are stored.
      num_threads: That decode a batch.
      digest: SHA-256, in hex, of what it gives: labels, parts, and checksums of the photos.
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
        """Returns the file of records and the place in it of a row."""
        return self.shards.name_of(row)

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        rows = check_rows(rows, len(self))
        records = self.shards.read(rows.ravel())
        with futures.ThreadPoolExecutor(self.num_threads) as pool:
            over = pool.map if self.num_threads > 1 else map
            decoded = list(over(self._decode, rows.ravel(), records))
        image = photos.stacked(decoded, [self.shards.name_of(row) for row in rows.ravel()])
        label = batch_label(self.labels, rows, len(self.classes))
        return {"image": image.reshape(rows.shape + image.shape[1:]), "label": label}

    def _decode(self, row: int, record: bytes) -> np.ndarray:
        self.shards.check(row, record)
        if self.stored_size is not None:
            return np.frombuffer(record, np.uint8).reshape(self.stored_size, self.stored_size, 3)
        return photos.decode(io.BytesIO(record), self.shards.name_of(row), size=self.size)


def from_records(
    folder: str | Path, *, size: int | None = None, num_threads: int | None = None
) -> RecordsSource:
    """Returns the photos that `to_records` or `quantjax records` converted.

    Rows, labels and pixels are those of the photos that were converted, bit for bit. Labels come
    from a small file; an image is read when its row is asked for, and none is kept.

    Records of other people run no code and read no other files, but a record may be written to take
    any amount of memory.

    Args:
      folder: Of the records.
      size: Height and width in pixels, see `image_folder`; None takes photos as they are, which
        must then be of one size. Where pixels are stored, their size is the only one.
      num_threads: That decode a batch; None takes one for each core where photos are stored, and of
        more than 4 KB, and one alone for what is quicker than a change of threads.

    Raises:
      ModuleNotFoundError: if grain or Pillow is not installed.
      FileNotFoundError: if the folder holds no finished records, or a file is missing.
      ValueError: if a file is damaged, of another version or of another conversion (here or when
        rows are asked for), sizes are mixed, or size or num_threads is none that can be had.
    """
    photos.check_side(size)
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
