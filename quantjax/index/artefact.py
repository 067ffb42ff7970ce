"""Saves codes, with their codec and ids, as an index in a folder, and loads it."""

import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from quantjax.errors import InputError
from quantjax.index import codecs, columns, versions
from quantjax.index.ids import Ids, read_ids
from quantjax.index.lists import InvertedLists
from quantjax.quantizers import Codec
from quantjax.run import files, tensors
from quantjax.run.files import one_line
from quantjax.run.paths import user_path


class Index(NamedTuple):
    """Holds the codes of a database, with the codec and ids that a search needs.

    Attributes:
      codec: Codec that measures distances to the codes.
      codes: [N, num_bytes] uint8; a read-only memory map of the file if loaded.
      ids: The items' numbers, [N] int64, or names, [N] str objects.
      manifest: Description as on disk, with "root", "classes" and "encoder"; empty in memory.
      vectors: Embeddings to re-rank by, [N, D] float16, or None.
      labels: Numbers of `manifest["classes"]`, [N] int64, -1 for unknown; or None.
      lists: Inverted lists that the codes are sorted by, or None.
    """

    codec: Codec
    codes: np.ndarray
    ids: np.ndarray
    manifest: Mapping[str, Any] = MappingProxyType({})
    vectors: np.ndarray | None = None
    labels: np.ndarray | None = None
    lists: InvertedLists | None = None


def save(
    folder: str | pathlib.Path,
    codec: Codec,
    codes: np.ndarray,
    *,
    ids: Ids | None = None,
    vectors: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    classes: Sequence[str] = (),
    root: str | pathlib.Path | None = None,
    encoder: str | pathlib.Path | None = None,
    lists: InvertedLists | None = None,
) -> pathlib.Path:
    """Writes codes, codec, ids and what else belongs to them into a folder, atomically.

    Args:
      folder: Created if it does not exist; an index that it holds is replaced.
      codec: Codec that made the codes.
      codes: [N, num_bytes] uint8.
      ids: The items' numbers, [N] integers that fit in int64, or their names, [N] strings; 0 to
        N - 1 when None. No id may repeat.
      vectors: Embeddings to re-rank by, [N, D], stored as float16.
      labels: Class numbers [N], -1 for unknown.
      classes: Names of the classes.
      root: Folder or URL that names of files are relative to.
      encoder: Folder of the encoder of queries, which is copied into the index; its codec must be
        equal, or its embeddings as wide as the lists.
      lists: Inverted lists that the codes are sorted by.

    Returns:
      Path of the manifest.

    Raises:
      ValueError: if the values do not fit, if `load` would not read them, or if another process
        writes into the folder. Nothing is written then.
      OSError: if the disk is full; an older index in the folder is then as it was.
    """
    with files.reading("codec, codes and ids do not fit", "nothing was saved"):
        # What `load` would raise later is raised now.
        kind, tensors_of_codec, settings = codecs.parts(codec)
        codecs.read({"codec": kind, "settings": settings}, tensors_of_codec)
        table = columns.make(codes, ids, vectors, labels)
        columns.check(table, codec, len(classes))
        columns.check_unique([table])
        arrays = {} if lists is None else lists._asdict()
        arrays = {versions.LISTS + name: np.asarray(x) for name, x in arrays.items()}
        _lists(arrays, len(table["codes"]))
    about = {"root": None if root is None else str(root), "classes": list(classes)}
    return versions.write(folder, codec, {**table, **arrays}, about, encoder=encoder)


def load(folder: str | pathlib.Path) -> Index:
    """Loads an index that `save` wrote, mapped into memory, and checks every digest.

    Indexes of version 1, and the workdirs of runs, are read too.

    Args:
      folder: Folder of codes.json and its data file.

    Raises:
      FileNotFoundError: if either file is missing.
      ValueError: if the format is unknown or newer, or a tensor's digest differs from the
        manifest's.
    """
    folder = user_path(folder)
    manifest, arrays = versions.opened(folder)
    # Before anything else looks at the tensors: a flipped byte is damage, whatever it means.
    found = {name: tensors.digest(x) for name, x in arrays.items()}
    wrong = sorted(
        name
        for name in {*found, *manifest["digests"]}
        if found.get(name) != manifest["digests"].get(name)
    )
    if wrong:
        raise InputError(
            f"{folder}: {one_line(', '.join(wrong))} not what the manifest says; the files are "
            "damaged or of two different saves, save them again"
        )
    claim = f"{folder} holds codes, ids and a codec that do not fit"
    with files.reading(claim, "save them again"):
        return _index(manifest, arrays)


def _index(manifest, arrays):
    """Builds an index from a manifest and tensors, and raises an error if they do not fit."""
    codec = codecs.read(manifest, arrays)
    table = {name: x for name, x in arrays.items() if name in columns.NAMES}
    ids = read_ids(table)
    columns.check(table, codec, len(manifest["classes"]))
    due = {"metric": codec.metric, "bits": codec.bits, "count": len(table["codes"])}
    for name, value in due.items():
        if manifest.get(name) != value:
            raise InputError(f"{name} must be {value!r}, got {manifest.get(name)!r}")
    return Index(
        codec,
        table["codes"],
        ids,
        manifest,
        table.get("vectors"),
        table.get("labels"),
        _lists(arrays, len(table["codes"])),
    )


def _lists(arrays, num_items):
    """Builds the inverted lists of tensors, or None; raises an error if they do not fit."""
    prefix = versions.LISTS
    fields = {k.removeprefix(prefix): x for k, x in arrays.items() if k.startswith(prefix)}
    if not fields:
        return None
    lists = InvertedLists(**fields)
    centroids, starts = lists
    if centroids.ndim != 2 or centroids.dtype != np.float32 or not np.isfinite(centroids).all():
        raise InputError(
            f"centroids of lists must be finite float32 [L, D], got {centroids.dtype} "
            f"{centroids.shape}"
        )
    rises = starts.shape == (len(centroids) + 1,) and starts.dtype == np.int64
    if not (rises and starts[0] == 0 and starts[-1] == num_items and (np.diff(starts) >= 0).all()):
        raise InputError(
            f"starts of lists must be int64 ({len(centroids) + 1},) and rise from 0 to "
            f"{num_items}, got {starts.dtype} {starts.shape}"
        )
    return lists
