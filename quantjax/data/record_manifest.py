"""What a folder of records holds beside its images: labels, classes, parts, shards, checksums."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import numpy as safetensors_numpy
from safetensors import safe_open

from quantjax.errors import InputError, MissingFileError

NAME = "manifest.safetensors"
AGAIN = "convert the photos again: quantjax records FOLDER OUT"
_VERSION = 1
_KEY = "records"
_PART = "part."


class Shard(NamedTuple):
    """One file of records, as it was when it was finished.

    Attributes:
      name: Of the file, in its folder.
      num_records: Rows that it holds.
      num_bytes: Its size.
    """

    name: str
    num_records: int
    num_bytes: int


class Manifest(NamedTuple):
    """All that is known of N records without reading one.

    Attributes:
      labels: Multi-hot [N, L] uint8, or class ids [N] int64.
      classes: Names of the L classes.
      parts: Rows of each part, such as "train", int64 [n].
      shards: In the order of rows.
      checksums: CRC-32 of each record, [N] uint32; a shard of another conversion has other ones.
      size: Height and width of stored pixels, or None where files are stored as they were.
      shape: Height and width of all photos as stored, or None where they differ.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    parts: Mapping[str, np.ndarray]
    shards: tuple[Shard, ...]
    checksums: np.ndarray
    size: int | None
    shape: tuple[int, int] | None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a manifest into a folder.

    Args:
      folder: Of the shards.
      manifest: What they hold.
    """
    parts = {_PART + name: rows for name, rows in manifest.parts.items()}
    arrays = {"labels": manifest.labels, "checksums": manifest.checksums, **parts}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    about = {
        "version": _VERSION,
        "classes": manifest.classes,
        "shards": manifest.shards,
        "size": manifest.size,
        "shape": manifest.shape,
    }
    about["digest"] = _digest(about, arrays)
    # One key, as safetensors writes several in no fixed order; and not by its save_file, whose
    # files only their owner may read.
    content = safetensors_numpy.save(arrays, {_KEY: json.dumps(about)})
    (folder / NAME).write_bytes(content)


def digest_of_content(manifest: Manifest, size: int | None) -> str:
    """Returns the SHA-256, in hex, of all that training sees of records, wherever they lie.

    How records are cut into shards does not enter.

    Args:
      manifest: Its labels, classes, parts and checksums.
      size: To which photos are resized.
    """
    arrays = {_PART + name: rows for name, rows in manifest.parts.items()}
    arrays |= {"labels": manifest.labels, "checksums": manifest.checksums}
    return _digest({"classes": manifest.classes, "size": size}, arrays)


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a folder.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is damaged or of another version.
    """
    path = folder / NAME
    if not path.is_file():
        state = "holds no finished records" if folder.is_dir() else "is no folder"
        raise MissingFileError(f"{folder} {state}, {NAME} is not there; {AGAIN}")
    try:
        with safe_open(path, "numpy") as file:
            about = dict(json.loads((file.metadata() or {})[_KEY]))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        said, found = about.pop("digest", None), _digest(about, arrays)
    except Exception as error:  # of a damaged file, whose numbers and types may be any
        raise InputError(f"cannot read {path}: {_shown(error)}; {AGAIN}") from error
    if (version := about.get("version")) != _VERSION:
        raise InputError(f"{path} is of version {_shown(version)}, due {_VERSION}; {AGAIN}")
    if said != found:
        raise InputError(f"{path} has another digest than it was written with; {AGAIN}")
    try:
        parts = {name: rows for name, rows in arrays.items() if name.startswith(_PART)}
        manifest = Manifest(
            labels=arrays["labels"],
            classes=tuple(about["classes"]),
            parts={name.removeprefix(_PART): rows for name, rows in parts.items()},
            shards=tuple(Shard(*shard) for shard in about["shards"]),
            checksums=arrays["checksums"],
            size=about["size"],
            shape=about["shape"] and tuple(about["shape"]),
        )
        _check(manifest)
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"cannot read {path}: {_shown(error)}; {AGAIN}") from error
    return manifest


def _check(manifest: Manifest) -> None:
    """Raises ValueError where a manifest, whoever wrote it, is not what its fields say."""
    for shard in manifest.shards:
        # A name alone: a path would read files from elsewhere.
        if type(shard.name) is not str or not re.fullmatch(r"\w[\w.-]{,99}", shard.name):
            raise InputError(f"a shard must have the name of a file, got {shard.name!r}")
        if not _are_counts(shard.num_records, shard.num_bytes):
            raise InputError(f"shard {shard.name} must have a number of records and of bytes")
    num_rows = sum(shard.num_records for shard in manifest.shards)
    table, ids = ((num_rows, len(manifest.classes)), np.uint8), ((num_rows,), np.int64)
    due = {
        "labels": (manifest.labels, *(ids if manifest.labels.ndim == 1 else table)),
        "checksums": (manifest.checksums, (num_rows,), np.uint32),
    }
    for name, (array, shape, dtype) in due.items():
        if array.shape != shape or array.dtype != dtype:
            raise InputError(
                f"{name} must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}"
            )
    most = len(manifest.classes) - 1 if manifest.labels.ndim == 1 else 1
    if not ((manifest.labels >= 0) & (manifest.labels <= most)).all():
        raise InputError(f"labels must lie in 0 to {most}")
    for name, rows in manifest.parts.items():
        if rows.ndim != 1 or rows.dtype != np.int64 or not ((rows >= 0) & (rows < num_rows)).all():
            raise InputError(f"part {name} must hold rows from 0 to {num_rows - 1}")
    if not all(type(name) is str for name in manifest.classes):
        raise InputError("classes must be names")
    if manifest.size is not None and not (_are_counts(manifest.size) and manifest.size):
        raise InputError(f"size must be 1 or more, got {manifest.size!r}")
    if manifest.shape is not None and not (
        len(manifest.shape) == 2 and _are_counts(*manifest.shape)
    ):
        raise InputError(f"shape must be a height and a width, got {manifest.shape!r}")


def _are_counts(*numbers: Any) -> bool:
    return all(type(number) is int and number >= 0 for number in numbers)


def _shown(value: object) -> str:
    return " ".join(str(value)[:200].split())


def _digest(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(about).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].data)
    return digest.hexdigest()
