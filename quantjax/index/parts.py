"""Keeps parts of a database that were encoded apart, and merges them to an index.

A part is a folder of chunks, each with the columns of consecutive items, and of `part.json`, which
is complete when the part is. A chunk is written whole, so that a killed encoding goes on after the
last chunk.
"""

import itertools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from quantjax.errors import InputError, MissingFileError, few
from quantjax.index import columns, versions
from quantjax.run import files, sealing, tensors
from quantjax.run.paths import user_path

MANIFEST = "part.json"
FAILURES = "failures"
"""Tensor of a chunk: UTF-8 JSON, [name, reason] of each item that could not be read."""

_FORMAT, _VERSION = "quantjax-part", 1
_CHUNK = re.compile(r"chunk-(\d+)-(\d+)\.safetensors")


class Part(NamedTuple):
    """Describes one of several parts of a database; `part.json` holds its fields.

    Attributes:
      number: Number of the part, from 0.
      num_parts: How many parts there are.
      items: Digest of the list of all items.
      encoder: Digest of the encoder.
      keep_vectors: Whether embeddings are kept.
      begin: First item of the part in the list of all items.
      end: Item after the last.
      root: Folder or URL of the photos, or None.
      classes: Names of the classes.
      chunks: Digests of tensors by chunk, when the part is complete; before that None.
      failures: [name, reason] of each item that could not be read, when the part is complete.
    """

    number: int
    num_parts: int
    items: str
    encoder: str
    keep_vectors: bool
    begin: int
    end: int
    root: str | None
    classes: Sequence[str]
    chunks: Mapping[str, Mapping[str, str]] | None = None
    failures: Sequence[Sequence[str]] = ()

    @property
    def num_codes(self) -> int:
        """Returns the number of items that were encoded."""
        return self.end - self.begin - len(self.failures)


_IDENTITY = [name for name in Part._fields if name not in ("chunks", "failures")]


def folder_of(folder: pathlib.Path, number: int, num_parts: int) -> pathlib.Path:
    """Returns the folder of a part in the folder of all parts."""
    return folder / f"part-{number:05d}-of-{num_parts:05d}"


def start(folder: pathlib.Path, due: Part) -> tuple[Part, int]:
    """Begins a part, or finds what an earlier start of it has left.

    Args:
      folder: Folder of the part.
      due: The part as it is to be, with no chunks.

    Returns:
      The part, which may be complete; and the first item that is in no chunk.

    Raises:
      ValueError: if the folder holds a part of other items or of another encoder.
    """
    if not (folder / MANIFEST).is_file():
        _write(folder, due)
        return due, due.begin
    found = read(folder)
    # Numbers of items mean nothing in another list, nor codes of another encoder.
    names = [name for name in _IDENTITY if getattr(found, name) != getattr(due, name)]
    if names:
        raise InputError(
            f"{folder} was begun with other {', '.join(names)}; remove it, or encode to another "
            "folder"
        )
    if found.chunks is not None:
        return found, due.end
    # A killed process loses no more than the chunk that it was at.
    return found, max([due.begin, *(stop for _, stop in _chunks_of(folder))])


def _chunks_of(folder):
    """Returns the first item and the item after the last of each chunk, sorted."""
    found = (_CHUNK.fullmatch(path.name) for path in folder.glob("chunk-*"))
    return sorted((int(match[1]), int(match[2])) for match in found if match)


def _chunk_path(folder, begin, end):
    return folder / f"chunk-{begin:012d}-{end:012d}.safetensors"


def write_chunk(
    folder: pathlib.Path,
    begin: int,
    end: int,
    table: columns.Columns,
    failures: Sequence[tuple[str, str]],
) -> None:
    """Writes the items `begin` to `end` of the list.

    Args:
      folder: Folder of the part.
      begin: First item.
      end: Item after the last.
      table: Columns of those that could be read.
      failures: Names of the others, with reasons.
    """
    # As a tensor beside the others: one file is written as a whole, two might not be.
    text = np.frombuffer(json.dumps(failures).encode("utf-8"), np.uint8)
    path = _chunk_path(folder, begin, end)
    tensors.write(path, {**table, FAILURES: text})


def finish(folder: pathlib.Path, part: Part) -> Part:
    """Checks that the chunks of a part hold all its items, and completes its manifest.

    Raises:
      ValueError: if a chunk is missing or damaged.
    """
    place, chunks, failures = part.begin, {}, []
    for begin, end in _chunks_of(folder):
        path = _chunk_path(folder, begin, end)
        # A chunk that was deleted by hand, as they are written in order.
        if begin != place:
            raise InputError(f"{folder} lacks items {place} to {begin}; remove it and start again")
        with files.reading(f"cannot read {path}", "remove its folder and encode the part again"):
            arrays = tensors.map_arrays(path)
            failures += json.loads(arrays[FAILURES].tobytes())
        chunks[path.name] = {name: tensors.digest(x) for name, x in arrays.items()}
        place = end
    # A manifest with chunks says that the part is complete, so it is written last.
    part = part._replace(chunks=chunks, failures=failures)
    _write(folder, part)
    return part


def _write(folder, part):
    about = {"format": _FORMAT, "version": _VERSION, **part._asdict()}
    files.write_text(folder / MANIFEST, json.dumps(sealing.sealed(about), indent=2) + "\n")


def read(folder: pathlib.Path) -> Part:
    """Reads the manifest of a part.

    Raises:
      FileNotFoundError: if the folder holds no part.
      ValueError: if the manifest is damaged or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingFileError(f"{folder} has no {MANIFEST}; name folders of `quantjax encode`")
    with files.reading(f"cannot read {path}", "remove its folder and encode the part again"):
        about = sealing.unsealed(json.loads(path.read_text(encoding="utf-8")))
        if (about.pop("format"), about.pop("version")) != (_FORMAT, _VERSION):
            raise InputError(f"it must be {_FORMAT} version {_VERSION}")
        return Part(**about)


def load(folder: pathlib.Path, part: Part) -> list[columns.Columns]:
    """Maps the columns of each chunk of a complete part, and checks every digest.

    Args:
      folder: Folder of the part.
      part: Its manifest.

    Raises:
      ValueError: if a chunk is missing, cut or altered.
    """
    tables = []
    for name, digests in (part.chunks or {}).items():
        path = folder / name
        with files.reading(f"cannot read {path}", "remove its folder and encode the part again"):
            if not path.is_file():
                raise InputError("the file is not there")
            arrays = tensors.map_arrays(path)
            if {key: tensors.digest(x) for key, x in arrays.items()} != digests:
                raise InputError("it is not what part.json says")
        del arrays[FAILURES]
        tables.append(arrays)
    return tables


def merge(folders: Sequence[str | pathlib.Path], out: str | pathlib.Path) -> dict[str, Any]:
    """Merges all parts of a database to an index; the parts stay.

    Args:
      folders: Folders of `encode`, or folders of single parts, in any order.
      out: Folder of the index; an index that it holds is replaced.

    Returns:
      Manifest of the index.

    Raises:
      FileNotFoundError: if a folder holds no part.
      ValueError: if a part is missing, doubled, not complete, damaged, or of other items or another
        encoder; each is named. Nothing is written then.
      OSError: if the disk is full; an older index is then as it was.
    """
    # Loaded here, since it brings JAX's exported programs along.
    from quantjax.index.encoder import load_encoder

    # In the order of the list: parts are numbered along it.
    found = [(path, read(path)) for path in _part_folders(folders)]
    found.sort(key=lambda each: each[1].number)
    _check_whole(found)
    first_folder, first = found[0]
    encoder = first_folder.parent / versions.ENCODER
    codec = load_encoder(encoder).codec
    # Mapped, not read: parts may be larger than memory.
    tables = [table for path, part in found for table in load(path, part)]
    failures = [failure for _, part in found for failure in part.failures]
    with files.reading("cannot merge the parts", "nothing was written"):
        for table in tables:
            columns.check(table, codec, len(first.classes))
        joined = columns.joined(tables)
        if not joined["codes"].shape[0]:
            raise InputError(f"no item could be read, such as {' ('.join(failures[0])})")
    about = {"root": first.root, "classes": first.classes, "failures": failures}
    versions.write(out, codec, joined, about, encoder=encoder)
    return versions.read_manifest(user_path(out))


def _part_folders(folders):
    for folder in map(pathlib.Path, folders):
        below = [] if (folder / MANIFEST).is_file() else sorted(folder.glob(f"part-*/{MANIFEST}"))
        yield from [path.parent for path in below] or [folder]


def _check_whole(found):
    """Raises ValueError unless the parts, sorted by number, are all parts of one database."""
    first_folder, first = found[0]
    for folder, part in found:
        for name in ("items", "encoder", "num_parts", "keep_vectors", "root", "classes"):
            if getattr(part, name) != getattr(first, name):
                raise InputError(
                    f"{folder} has other {name} than {first_folder}; merge the parts of one list, "
                    "encoded by one encoder"
                )
    for (folder, part), (other, next_part) in itertools.pairwise(found):
        if part.number == next_part.number:
            raise InputError(f"{folder} and {other} are the same part; name one of them")
    numbers = {part.number for _, part in found}
    missing = [str(number) for number in range(first.num_parts) if number not in numbers]
    if missing:
        raise InputError(
            f"parts {few(missing)} of {first.num_parts} are missing; encode them by "
            f"--shard={missing[0]}/{first.num_parts}"
        )
    if begun := [str(folder) for folder, part in found if part.chunks is None]:
        raise InputError(f"not complete: {few(begun)}; start their encoding again, it goes on")
