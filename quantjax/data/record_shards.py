"""Reads records by row from the ArrayRecord files of a folder, and checks their checksums."""

import importlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from quantjax.data.record_manifest import AGAIN, Manifest, Shard
from quantjax.errors import InputError, MissingFileError, MissingPackageError


class Shards(NamedTuple):
    """Numbers the records of several files in a row; made by `open_shards`.

    Attributes:
      names: Paths of the files.
      starts: First row of each file.
      checksums: CRC-32 of each record, [N] uint32.
      records: Grain's data source of all files.
    """

    names: tuple[str, ...]
    starts: np.ndarray
    checksums: np.ndarray
    records: Any

    def name_of(self, row: int) -> str:
        """Returns the name of a row for messages: its file and its position in the file."""
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{self.names[part]}[{row - self.starts[part]}]"

    def read(self, rows: np.ndarray) -> Sequence[bytes]:
        """Reads the records of rows [n]; call `check` on each record.

        Raises:
          ValueError: if a file is damaged or missing.
        """
        try:
            return self.records.__getitems__(rows.tolist())
        except Exception as error:  # of a C++ library, which does not say which record it was
            for row in rows.tolist():
                try:
                    self.records[row]
                except Exception as reason:
                    raise _damaged(self.name_of(row), reason) from reason
            raise _damaged(self.names[0], error) from error

    def check(self, row: int, record: bytes) -> None:
        """Raises ValueError if a record's checksum is not the checksum of its row."""
        if zlib.crc32(record) != self.checksums[row]:
            raise _damaged(self.name_of(row), "its checksum is not the one in the manifest")


def import_grain() -> ModuleType:
    """Imports grain, or raises ModuleNotFoundError with the command that installs it."""
    return _import("grain")


def import_array_record() -> ModuleType:
    """Imports array_record's writer, or raises ModuleNotFoundError as `import_grain` does."""
    return _import("array_record.python.array_record_module")


def open_shards(folder: Path, manifest: Manifest) -> Shards:
    """Opens the record files that a manifest lists, without reading a record.

    Args:
      folder: Folder of the files.
      manifest: Manifest of the folder.

    Raises:
      ModuleNotFoundError: if grain is not installed.
      FileNotFoundError: if a file is missing.
      ValueError: if a file has another size or number of records, or is damaged.
    """
    grain = import_grain()
    for shard in manifest.shards:
        path = folder / shard.name
        if not path.is_file():
            raise MissingFileError(f"{path} is missing; copy it again, or {AGAIN}")
        # Cheap check for a cut copy, before grain opens all files.
        if (size := path.stat().st_size) != shard.num_bytes:
            raise InputError(
                f"{path} has {size:,} bytes, due {shard.num_bytes:,}; copy it again, or {AGAIN}"
            )
    names = tuple(str(folder / shard.name) for shard in manifest.shards)
    counts = [shard.num_records for shard in manifest.shards]
    try:
        records = grain.sources.ArrayRecordDataSource(names)
    except RuntimeError as error:
        raise _first_damaged(names, manifest.shards, error) from error
    if len(records) != sum(counts):
        raise _first_damaged(names, manifest.shards, f"{len(records):,} records in all")
    return Shards(names, np.cumsum([0, *counts[:-1]]), manifest.checksums, records)


def _first_damaged(names: Sequence[str], shards: Sequence[Shard], reason: object) -> ValueError:
    """Returns the error for the first file that cannot be opened or has a wrong number of rows."""
    sources = import_grain().sources
    for name, shard in zip(names, shards, strict=True):
        try:
            found = len(sources.ArrayRecordDataSource([name]))
        except RuntimeError as error:
            return _damaged(name, error)
        if found != shard.num_records:
            return _damaged(name, f"it has {found:,} records, due {shard.num_records:,}")
    return _damaged(names[0], reason)


def _damaged(name: str, reason: object) -> ValueError:
    return InputError(f"cannot read {name}: {reason}; copy the file again, or {AGAIN}")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise MissingPackageError(
            f"records need grain and array-record, {missing} is not installed: "
            'pip install "quantjax[stream]"'
        ) from error
