"""Saves and loads codes as a safetensors file with a JSON manifest."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from quantjax.errors import InputError, MissingFileError
from quantjax.index import codecs
from quantjax.index.ids import Ids, id_tensors, read_ids
from quantjax.quantizers import ClassCodec, Codec, FloatCodec
from quantjax.run import files
from quantjax.run.files import one_line

FORMAT = "quantjax-codes"
VERSION = 1


class Index(NamedTuple):
    """Holds the codes of a database, with the codec and ids that a search needs.

    Attributes:
      codec: Codec that measures distances to the codes.
      codes: [N, num_bytes] uint8.
      ids: The items' numbers in their source, [N] int64, or names, [N] str objects.
      manifest: Format, version, metric, bits, count and digests, as on disk; empty in memory.
    """

    codec: Codec
    codes: np.ndarray
    ids: np.ndarray
    manifest: Mapping[str, Any] = MappingProxyType({})


def save(
    folder: str | pathlib.Path, codec: Codec, codes: np.ndarray, *, ids: Ids | None = None
) -> pathlib.Path:
    """Writes codes, codec and ids to codes.safetensors, and their description to codes.json.

    Args:
      folder: Created if it does not exist.
      codec: Codec that made the codes.
      codes: [N, num_bytes] uint8.
      ids: The items' numbers, [N] integers that fit in int64, or their names, [N] strings; 0 to
        N - 1 when None.

    Returns:
      Path of the manifest.

    Raises:
      ValueError: if codes, codec and ids do not fit, if `load` would not read them, or if the codec
        is of an unknown kind. Nothing is written then.
    """
    folder = pathlib.Path(folder)
    # A single number gets an axis, so that the error of a wrong shape is ours.
    codes = np.atleast_1d(np.asarray(codes))
    kind, arrays, settings = codecs.parts(codec)
    tensors = {"codes": codes, **id_tensors(ids, len(codes))}
    tensors |= arrays
    tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    with files.reading("codec, codes and ids do not fit", "nothing was saved"):
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "codec": kind,
            "settings": settings,
            "metric": codec.metric,
            "bits": codec.bits,
            "num_bytes": codec.num_bytes,
            "count": len(codes),
            "digests": {name: _digest(x) for name, x in tensors.items()},
        }
        _contents(manifest, tensors)  # raises now what `load` would raise later
    folder.mkdir(parents=True, exist_ok=True)
    # The manifest goes last and holds the digests, so `load` notices files of two different saves.
    files.write_arrays(folder / "codes.safetensors", tensors)
    files.write_text(folder / "codes.json", json.dumps(manifest, indent=2) + "\n")
    return folder / "codes.json"


def load(folder: str | pathlib.Path) -> Index:
    """Loads the codes, codec and ids that `save` wrote, and checks every digest.

    Args:
      folder: Folder of codes.json and codes.safetensors.

    Returns:
      Codec, codes, ids and manifest.

    Raises:
      FileNotFoundError: if either file is missing.
      ValueError: if the format is unknown, or a tensor's digest differs from the manifest's.
    """
    folder = pathlib.Path(folder)
    for name in ("codes.json", "codes.safetensors"):
        if not (folder / name).is_file():
            raise MissingFileError(f"{folder} has no {name}; save an index there first")
    with files.reading(f"{folder} holds no readable codes", "save them again"):
        manifest = dict(json.loads((folder / "codes.json").read_text()))
        tensors, _ = files.read_arrays(folder / "codes.safetensors")
    _check_manifest(manifest, folder)
    # Before anything else looks at the tensors: a flipped byte is damage, whatever it means.
    found = {name: _digest(x) for name, x in tensors.items()}
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
        codec, ids = _contents(manifest, tensors)
    return Index(codec, tensors["codes"], ids, manifest)


def _check_manifest(manifest, folder):
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise InputError(
            f"{folder}/codes.json must be {FORMAT} version {VERSION}, got "
            f"{one_line(manifest.get('format'))} version {one_line(manifest.get('version'))}"
        )
    missing = sorted({"codec", "settings", "digests"} - manifest.keys())
    if missing or str(manifest["codec"]) not in codecs.KINDS:
        raise InputError(
            f"{folder}/codes.json must name a codec ({', '.join(codecs.KINDS)}), settings and "
            f"digests, got codec {one_line(manifest.get('codec'))!r} and "
            f"{', '.join(missing) or 'nothing'} missing"
        )
    for name in ("settings", "digests"):
        if not isinstance(manifest[name], dict):
            raise InputError(
                f"{folder}/codes.json must have an object of {name}, got {one_line(manifest[name])}"
            )


def _contents(manifest, tensors):
    """Builds codec and ids from tensors, and raises an error if they do not fit the codes.

    `save` calls it too, so that `load` can read every saved folder.
    """
    codec, codes, ids = codecs.read(manifest, tensors), tensors["codes"], read_ids(tensors)
    if codes.dtype != np.uint8 or codes.shape[1:] != (codec.num_bytes,):
        raise InputError(
            f"codes must be uint8 [N, {codec.num_bytes}], got {codes.dtype} {codes.shape}"
        )
    # Distances count bits of whole bytes, so unused bits must not differ.
    if codec.bits % 8 and (codes[:, -1] >> codec.bits % 8).any():
        raise InputError(f"codes must have zeros behind their {codec.bits} bits")
    _check_values(codec, codes)
    if ids.shape != codes.shape[:1]:
        raise InputError(f"ids must have shape {codes.shape[:1]}, got {ids.shape}")
    due = {"metric": codec.metric, "bits": codec.bits, "count": len(codes)}
    for name, value in due.items():
        if manifest.get(name) != value:
            raise InputError(f"{name} must be {value!r}, got {manifest.get(name)!r}")
    return codec, ids


def _check_values(codec, codes):
    """Raises ValueError, with the first bad row, if codes decode to NaN or to unknown classes."""
    if isinstance(codec, FloatCodec):
        due = "finite numbers"
        x = np.ascontiguousarray(codes).view("<f4")
        wrong = ~np.isfinite(x).all(axis=1)
    elif isinstance(codec, ClassCodec):
        due = f"classes 0 to {codec.num_classes - 1}"
        wrong = np.asarray(codec.class_ids(jnp.asarray(codes))) >= codec.num_classes
    else:
        return
    rows = np.flatnonzero(wrong)
    if rows.size:
        raise InputError(
            f"codes must be of {due}, got others in row {rows[0]} ({rows.size} of {len(codes)} "
            "rows)"
        )


def _digest(x):
    # Type and shape enter too: equal bytes may be other numbers.
    head = f"{x.dtype.str} {x.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(x).tobytes()).hexdigest()
