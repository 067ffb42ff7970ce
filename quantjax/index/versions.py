"""Writes and opens the versions of an index: a manifest, a data file and an encoder in a folder.

`codes.json` names the data file, such as `codes-3.safetensors` for the third version. A change
writes the next file, then replaces the manifest, then removes the last file. A reader thus finds
the old version or the new version, and keeps its memory map of a file that is removed.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np

from quantjax.errors import InputError, MissingFileError
from quantjax.index import codecs
from quantjax.index.codecs import KINDS
from quantjax.quantizers import Codec
from quantjax.run import files, tensors, workdirs
from quantjax.run.files import one_line
from quantjax.run.paths import user_path
from quantjax.run.tensors import Blocks

FORMAT = "quantjax-codes"
VERSION = 2
MANIFEST = "codes.json"
ENCODER = "encoder"
"""Folder in the folder of an index that holds the encoder of its queries."""
LISTS = "lists."
"""Prefix of the tensors of inverted lists."""
DEFAULTS: Mapping[str, Any] = {"root": None, "classes": [], "encoder": None, "failures": []}
"""Entries of a manifest that version 1 does not have; "failures" has names and reasons."""

_FIRST_FILE = "codes.safetensors"  # of version 1, whose manifest names no file
_DATA_FILE = re.compile(r"codes(?:-(\d{1,18}))?\.safetensors")


def write(
    folder: str | pathlib.Path,
    codec: Codec,
    table: Mapping[str, np.ndarray | Blocks],
    about: Mapping[str, Any],
    *,
    encoder: str | pathlib.Path | None = None,
) -> pathlib.Path:
    """Writes checked columns as the next version of an index.

    Args:
      folder: See `artefact.save`.
      codec: Codec of the codes.
      table: Columns of all items, and tensors of inverted lists.
      about: "root", "classes", and maybe "encoder", the digest of the encoder in the folder.
      encoder: See `artefact.save`.

    Returns:
      Path of the manifest.

    Raises:
      ValueError: if another process writes into the folder, or the encoder has another codec.
      OSError: if the disk is full; an older version is then as it was.
    """
    folder = user_path(folder)
    kind, arrays, settings = codecs.parts(codec)
    if encoder is not None:
        centroids = table.get(LISTS + "centroids")
        # Codes of inverted lists are those of residuals, which no encoder makes.
        digest = (
            encoder_digest(encoder, codec)
            if centroids is None
            else embedding_digest(encoder, centroids.shape[1])
        )
        about = {**about, "encoder": digest}
    with workdirs.held(folder), copied_encoder(encoder, folder) as install:
        path = folder / f"codes-{_last_version(folder) + 1}.safetensors"
        try:
            digests = tensors.write(path, {**table, **arrays})
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "file": path.name,
                "codec": kind,
                "settings": settings,
                "metric": codec.metric,
                "bits": codec.bits,
                "num_bytes": codec.num_bytes,
                "count": table["codes"].shape[0],
                **DEFAULTS,
                **about,
                "digests": dict(sorted(digests.items())),
            }
            write_manifest(folder, manifest)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        install()
        for other in folder.glob("codes*.safetensors"):
            if other != path and _DATA_FILE.fullmatch(other.name):
                other.unlink()
    return folder / MANIFEST


def _last_version(folder):
    """Returns the largest number of a data file, 0 if there is none."""
    found = (_DATA_FILE.fullmatch(path.name) for path in folder.glob("codes*.safetensors"))
    return max((int(match[1] or 0) for match in found if match), default=0)


def codec_digest(codec: Codec) -> str:
    """Returns the SHA-256, in hex, of a codec; codes of equal digests are comparable."""
    kind, arrays, settings = codecs.parts(codec)
    about = [kind, settings, {name: tensors.digest(x) for name, x in arrays.items()}]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def encoder_digest(encoder: str | pathlib.Path, codec: Codec) -> str:
    """Returns the digest of an encoder, and checks that its codec is the given codec.

    Raises:
      ValueError: if the encoder has another codec.
    """
    # Imported here: an index without an encoder needs no program.
    from quantjax.index.encoder import load_encoder

    loaded = load_encoder(encoder)
    if codec_digest(loaded.codec) != codec_digest(codec):
        raise InputError(
            f"{encoder} has another codec than the codes; take the encoder that made them, or "
            "encode the items again"
        )
    return loaded.digest


def encoder_folder(source: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder of an encoder; a workdir and an index have it in theirs."""
    source = user_path(source)
    return source / ENCODER if (source / ENCODER).is_dir() else source


def embedding_digest(encoder: str | pathlib.Path, dim: int) -> str:
    """Returns the digest of an encoder, and checks the width of its embeddings.

    Raises:
      ValueError: if the encoder's embeddings do not have D numbers.
    """
    from quantjax.index.encoder import load_encoder

    loaded = load_encoder(encoder)
    if loaded.manifest["dim"] != dim:
        raise InputError(
            f"{encoder} embeds in {loaded.manifest['dim']} numbers, and the lists are of {dim}; "
            "take the encoder that embedded them"
        )
    return loaded.digest


@contextlib.contextmanager
def copied_encoder(
    source: str | pathlib.Path | None, folder: pathlib.Path
) -> Generator[Callable[[], None]]:
    """Copies an encoder beside an index, and yields a function that puts the copy in its place.

    Args:
      source: Folder of an encoder, or a folder that holds it, such as a workdir; None copies
        nothing.
      folder: Folder of the index.

    Yields:
      Function that replaces the index's encoder by the copy; it needs no space on the disk.
    """
    due, scratch = folder / ENCODER, folder / f".{ENCODER}.{os.getpid()}.tmp"
    old = scratch.with_suffix(".old")
    found = None if source is None else encoder_folder(source)
    if found is None or found.resolve() == due.resolve():
        yield lambda: None
        return

    def install():
        # A folder cannot replace another in one step.
        if os.path.lexists(due):
            due.rename(old)
        scratch.rename(due)

    try:
        files.remove(scratch)
        # Without the modes of the source, so that the umask decides.
        shutil.copytree(found, scratch, copy_function=shutil.copyfile)
        yield install
    finally:
        for path in (scratch, old):
            files.remove(path)


def write_manifest(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest of an index, which makes its data file the current version."""
    files.write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def opened(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads the manifest of an index, and maps the tensors of its data file.

    Raises:
      FileNotFoundError: if a file is missing.
      ValueError: if a file is damaged, or of a newer version.
    """
    manifest = read_manifest(folder)
    while not (folder / manifest["file"]).is_file():
        # A writer may have replaced the version in between.
        before, manifest = manifest, read_manifest(folder)
        if before == manifest:
            raise MissingFileError(f"{folder} has no {manifest['file']}; save an index there first")
    with files.reading(f"{folder} holds no readable codes", "save them again"):
        return manifest, tensors.map_arrays(folder / manifest["file"])


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Reads and checks the manifest of an index; errors are those of `opened`."""
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingFileError(f"{folder} has no {MANIFEST}; save an index there first")
    with files.reading(f"{folder} holds no readable codes", "save them again"):
        manifest = {
            "file": _FIRST_FILE,
            **DEFAULTS,
            **dict(json.loads(path.read_text(encoding="utf-8"))),
        }
    version = manifest.get("version")
    if manifest.get("format") != FORMAT or type(version) is not int or version < 1:
        raise InputError(
            f"{path} must be {FORMAT} version 1 or 2, got {one_line(manifest.get('format'))} "
            f"version {one_line(version)}"
        )
    if version > VERSION:
        raise InputError(
            f"{path} is of version {version}, this quantjax reads 1 to {VERSION}; "
            "pip install --upgrade quantjax"
        )
    _check_manifest(manifest, path)
    return manifest


def _check_manifest(manifest, path):
    missing = sorted({"codec", "settings", "digests"} - manifest.keys())
    if missing or str(manifest["codec"]) not in KINDS:
        raise InputError(
            f"{path} must name a codec ({', '.join(KINDS)}), settings and digests, "
            f"got codec {one_line(manifest.get('codec'))!r} and "
            f"{', '.join(missing) or 'nothing'} missing"
        )
    for name in ("settings", "digests"):
        if not isinstance(manifest[name], dict):
            raise InputError(
                f"{path} must have an object of {name}, got {one_line(manifest[name])}"
            )
    # A bare name: a path would read files from elsewhere.
    if not _DATA_FILE.fullmatch(str(manifest["file"])):
        raise InputError(f"{path} must name codes-N.safetensors, got {one_line(manifest['file'])}")
    classes = manifest["classes"]
    if not isinstance(classes, list) or not all(type(name) is str for name in classes):
        raise InputError(f"{path} must have a list of classes, got {one_line(classes)}")
