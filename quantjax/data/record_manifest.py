"""Reads and writes the manifest of a record folder: labels, classes, parts, files, digests."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from quantjax.errors import InputError, MissingFileError
from quantjax.run import files

NAME = "manifest.safetensors"
AGAIN = "convert the photos again: quantjax records FOLDER OUT"
_VERSION = 2
_KEY = "records"
_PART = "part."


class Shard(NamedTuple):
    """Describes a finished file of records.

    Attributes:
      name: Name of the file in its folder.
      num_records: Number of rows in the file.
      num_bytes: Size of the file.
    """

    name: str
    num_records: int
    num_bytes: int


class Manifest(NamedTuple):
    """Describes N records without their images.

    Attributes:
      labels: Multi-hot [N, L] uint8, or class ids [N] int64.
      classes: Names of the L classes.
      parts: Rows of each part, such as "train", int64 [n].
      shards: Files of the records, in the order of rows.
      photos: SHA-256, in hex, of all records. Names of shards end in its first digits, so that no
        shard of another conversion is taken for one of this.
      size: Height and width of stored pixels, or None if photo files are stored unchanged.
      shape: Height and width of all photos as stored, or None if they differ.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    parts: Mapping[str, np.ndarray]
    shards: tuple[Shard, ...]
    photos: str
    size: int | None
    shape: tuple[int, int] | None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a manifest into the folder of its record files.

    Args:
      folder: Folder of the shards.
      manifest: Description of the shards' content.
    """
    arrays = _arrays(manifest)
    about = {
        "version": _VERSION,
        "classes": manifest.classes,
        "shards": manifest.shards,
        "photos": manifest.photos,
        "size": manifest.size,
        "shape": manifest.shape,
    }
    about["digest"] = _digest(about, arrays)
    # A single key, since safetensors writes several keys in no fixed order.
    files.write_arrays(folder / NAME, arrays, {_KEY: json.dumps(about)})


def digest_of_content(manifest: Manifest, size: int | None) -> str:
    """Returns the SHA-256, in hex, of the records' content: labels, classes, parts, photos, size.

    The folder and the division into shards do not enter.

    Args:
      manifest: Manifest of the records.
      size: Height and width in pixels to which photos are resized.
    """
    # The size enters because runs on photos of two sizes are two runs.
    about = {"classes": manifest.classes, "photos": manifest.photos, "size": size}
    return _digest(about, _arrays(manifest))


def _arrays(manifest: Manifest) -> dict[str, np.ndarray]:
    parts = {_PART + name: rows for name, rows in manifest.parts.items()}
    arrays = {"labels": manifest.labels, **parts}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks the manifest of a folder of records.

    Raises:
      FileNotFoundError: if the folder has no manifest.
      ValueError: if the manifest is damaged or of another version.
    """
    path = folder / NAME
    if not path.is_file():
        state = "holds no finished records" if folder.is_dir() else "is no folder"
        raise MissingFileError(f"{folder} {state}, {NAME} is not there; {AGAIN}")
    with files.reading(f"cannot read {path}", AGAIN):
        arrays, metadata = files.read_arrays(path)
        about = dict(json.loads(metadata[_KEY]))
        said, found = about.pop("digest", None), _digest(about, arrays)
    # Before the digest: another version may compute it differently.
    if (version := about.get("version")) != _VERSION:
        raise InputError(f"{path} is of version {files.one_line(version)}, due {_VERSION}; {AGAIN}")
    if said != found:
        raise InputError(f"{path} has another digest than it was written with; {AGAIN}")
    with files.reading(f"cannot read {path}", AGAIN):
        parts = {name: rows for name, rows in arrays.items() if name.startswith(_PART)}
        manifest = Manifest(
            labels=arrays["labels"],
            classes=tuple(about["classes"]),
            parts={name.removeprefix(_PART): rows for name, rows in parts.items()},
            shards=tuple(Shard(*shard) for shard in about["shards"]),
            photos=about["photos"],
            size=about["size"],
            shape=about["shape"] and tuple(about["shape"]),
        )
        _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    """Raises ValueError if fields of a manifest, which may be malicious, do not fit together."""
    for shard in manifest.shards:
        # A name alone: a path would read files from elsewhere.
        if type(shard.name) is not str or not re.fullmatch(r"\w[\w.-]{,99}", shard.name):
            raise InputError(f"a shard must have the name of a file, got {shard.name!r}")
        if not _are_counts(shard.num_records, shard.num_bytes):
            raise InputError(f"shard {shard.name} must have a number of records and of bytes")
    num_rows = sum(shard.num_records for shard in manifest.shards)
    labels, num_classes = manifest.labels, len(manifest.classes)
    are_ids = labels.ndim == 1
    shape, dtype = ((num_rows,), "int64") if are_ids else ((num_rows, num_classes), "uint8")
    if labels.shape != shape or labels.dtype != dtype:
        raise InputError(f"labels must be {dtype} {shape}, got {labels.dtype} {labels.shape}")
    most = num_classes - 1 if are_ids else 1
    if not ((labels >= 0) & (labels <= most)).all():
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


def _digest(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(about).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
