"""Changes a saved index: adds items, removes items, replaces the encoder of queries."""

import contextlib
import pathlib
from collections.abc import Generator

import numpy as np

from quantjax.errors import InputError
from quantjax.index import columns, versions
from quantjax.index.artefact import Index, load
from quantjax.index.ids import Ids
from quantjax.run import files, tensors, workdirs
from quantjax.run.files import one_line
from quantjax.run.paths import user_path


@contextlib.contextmanager
def _changing(folder: pathlib.Path) -> Generator[tuple[Index, dict[str, np.ndarray]]]:
    """Locks an index, and yields it with its columns."""
    if not (folder / versions.MANIFEST).is_file():
        load(folder)  # raises the error of a missing index, before the lock makes a folder
    with workdirs.held(folder):
        index = load(folder)
        if index.lists is not None:
            raise InputError(
                f"{folder} has inverted lists, which no item can join or leave; change the index "
                "that they were made of, and make them again"
            )
        arrays = tensors.map_arrays(folder / index.manifest["file"])
        yield index, {name: x for name, x in arrays.items() if name in columns.NAMES}


def append(
    folder: str | pathlib.Path,
    codes: np.ndarray,
    *,
    ids: Ids,
    vectors: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    encoder: str | None = None,
) -> pathlib.Path:
    """Adds items to a saved index, as a new version that appears whole.

    The file is written anew, so that a few large appends cost less than many small ones.

    Args:
      folder: Folder of the index.
      codes: [N, num_bytes] uint8, by the codec of the index.
      ids: Numbers or names of the items, of the same type as in the index; none may repeat.
      vectors: [N, D], if the index has vectors.
      labels: [N], numbers of the classes of the index, if it has labels.
      encoder: Digest of the encoder that made the codes; None is not checked.

    Returns:
      Path of the manifest.

    Raises:
      ValueError: if the values do not fit the index, an id repeats, or another process writes
        into the folder; nothing is changed then.
      OSError: if the disk is full; the old version is whole.
    """
    with _changing(user_path(folder)) as (index, old):
        due = index.manifest["encoder"]
        if encoder is not None and due is not None and encoder != due:
            raise InputError(
                f"{folder} has codes of encoder {one_line(due)[:12]}, got those of {encoder[:12]}; "
                "encode the items by the encoder of the index"
            )
        with files.reading(f"cannot append to {folder}", "nothing was changed"):
            new = columns.make(codes, ids, vectors, labels)
            columns.check(new, index.codec, len(index.manifest["classes"]))
            both = columns.joined([old, new])
        return versions.write(folder, index.codec, both, _about(index))


def delete(folder: str | pathlib.Path, ids: Ids) -> pathlib.Path:
    """Removes items from a saved index, as a new version that appears whole.

    Args:
      folder: Folder of the index.
      ids: Numbers or names of the items to remove.

    Returns:
      Path of the manifest.

    Raises:
      ValueError: if the index has no item of an id, or another process writes into the folder;
        nothing is changed then.
      OSError: if the disk is full; the old version is whole.
    """
    with _changing(user_path(folder)) as (index, old):
        unwanted = set(np.asarray(ids, object).ravel().tolist())
        mask = np.fromiter((each in unwanted for each in index.ids.tolist()), bool)
        if mask.sum() < len(unwanted):
            absent = next(iter(unwanted - set(index.ids[mask].tolist())))
            raise InputError(f"{folder} has no item {absent!r:.200}; nothing was removed")
        return versions.write(folder, index.codec, columns.kept(old, ~mask), _about(index))


def replace_encoder(folder: str | pathlib.Path, encoder: str | pathlib.Path) -> pathlib.Path:
    """Gives a saved index another encoder of queries; the codes stay.

    Args:
      folder: Folder of the index.
      encoder: Folder of an encoder whose codec equals that of the index.

    Returns:
      Path of the manifest.

    Raises:
      ValueError: if the encoder has another codec.
    """
    folder = user_path(folder)
    digest = versions.encoder_digest(encoder, load(folder).codec)
    with workdirs.held(folder), versions.copied_encoder(encoder, folder) as install:
        manifest = versions.read_manifest(folder)
        changed = {"version": versions.VERSION, "encoder": digest}
        versions.write_manifest(folder, {**manifest, **changed})
        install()
    return folder / versions.MANIFEST


def _about(index):
    return {name: index.manifest[name] for name in versions.DEFAULTS}
