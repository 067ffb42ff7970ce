"""Lists what is to be encoded, photos or vectors, in an order that is fixed by a digest."""

import glob
import hashlib
import io
import itertools
import posixpath
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from quantjax import data
from quantjax.data.decoding import decode, readable_suffixes
from quantjax.data.photo_files import classes_of, photos_below
from quantjax.errors import InputError, MissingFileError, load_package
from quantjax.index.preparation import Preparation
from quantjax.run.paths import user_path

_WILD = "*?["
_LOOKED_AT = 1024  # rows of vectors that enter the digest: all of a billion would take hours
_CODING = ("utf-8", "surrogatepass")  # as `index.ids` keeps names


class Items(NamedTuple):
    """Lists the items of a database, before they are read; made by `list_items`.

    Attributes:
      names: Ids of the N items: names of photos relative to the root, or row numbers of vectors.
      digest: SHA-256, in hex, of names and classes, or of the vectors' shape and some rows.
      root: Folder or URL of the photos; None for vectors.
      classes: Names of the classes, which are the folders of a folder.
      class_ids: Class numbers [N], -1 for unknown; None without classes.
      vectors: File of the vectors, or None for photos.
      notes: Notes on ignored files.
    """

    names: Sequence[str] | range
    digest: str
    root: str | None = None
    classes: Sequence[str] = ()
    class_ids: np.ndarray | None = None
    vectors: Path | None = None
    notes: Sequence[str] = ()


def list_items(source: str | Path, *, kind: str) -> Items:
    """Lists the items of a folder, a list, a pattern, a URL, or a file of vectors.

    Args:
      source: For photos: a folder, whose photos at any depth are taken; a .txt file with a path or
        URL on each line, relative to the file's folder; a pattern such as `photos/**/*.jpg`; or a
        URL of a folder or a pattern, which fsspec reads. For vectors: see `data.read_vectors`.
      kind: "photos" or "vectors", as the encoder has it.

    Raises:
      FileNotFoundError: if the source does not exist.
      ModuleNotFoundError: if a URL is given and fsspec is not installed.
      ValueError: if the source holds no item, or names one twice.
    """
    if kind == "vectors":
        return _vectors(user_path(source).resolve())
    text, path = str(source), user_path(source)
    if "://" in text:
        return _of_url(text)
    if path.is_dir():
        names, notes = photos_below(path)
        return _photos(names, path.resolve(), by_folder=True, notes=notes)
    if path.suffix.lower() == ".txt" and path.is_file():
        lines = path.read_text(*_CODING).splitlines()
        return _photos([line.strip() for line in lines if line.strip()], path.parent.resolve())
    if set(_WILD) & set(text):
        root = Path(_fixed_part(path.as_posix())).resolve()
        pattern = path.resolve().relative_to(root).as_posix()
        found = glob.iglob(pattern, root_dir=root, recursive=True)
        return _photos(sorted(filter(_is_photo, found)), root)
    raise MissingFileError(
        f"no photos at {text}; name a folder, a .txt file of paths, a pattern in quotes, or a URL"
    )


def _fixed_part(pattern):
    """Returns the folder of a path before the first part with a wildcard."""
    parts = itertools.takewhile(lambda part: not set(_WILD) & set(part), pattern.split("/"))
    return "/".join(parts) or ("/" if pattern.startswith("/") else ".")


def _is_photo(name):
    return name.lower().endswith(readable_suffixes())


def _of_url(url):
    files, path = _fsspec().core.url_to_fs(url)
    is_pattern = bool(set(_WILD) & set(path))
    root = _fixed_part(path) if is_pattern else path.rstrip("/")
    found = files.glob(path) if is_pattern else files.find(path)
    names = sorted(posixpath.relpath(name, root) for name in filter(_is_photo, found))
    return _photos(names, files.unstrip_protocol(root), by_folder=not is_pattern)


def _fsspec() -> ModuleType:
    return load_package("fsspec", extra="remote", purpose="reading photos from a URL")


def _photos(names, root, *, by_folder=False, notes=()):
    """Lists photos; only a folder's own folders are classes."""
    if not names:
        raise InputError("; ".join((f"{root} has no photo that can be read", *notes)))
    if len(set(names)) < len(names):
        twice = next(a for a, b in itertools.pairwise(sorted(names)) if a == b)
        raise InputError(f"photo {twice} is listed twice; take one line away")
    classes, class_ids = classes_of(names) if by_folder else ([], None)
    digest = hashlib.sha256(repr(classes).encode(*_CODING))
    for name in names:
        digest.update(b"\0" + name.encode(*_CODING))
    class_ids = class_ids if classes else None
    return Items(names, digest.hexdigest(), str(root), classes, class_ids, notes=notes)


def _vectors(path):
    vectors = data.read_vectors(path)
    rows = np.unique(np.linspace(0, len(vectors) - 1, _LOOKED_AT).astype(int))
    digest = hashlib.sha256(f"{vectors.dtype.str} {vectors.shape} ".encode())
    digest.update(np.ascontiguousarray(vectors[rows]).view(np.uint8).data)
    # The path alone, since a list may be sent to other processes.
    return Items(range(len(vectors)), digest.hexdigest(), vectors=path)


def read_photo(items: Items, row: int, photos: Preparation) -> np.ndarray:
    """Reads and prepares one photo, [H, W, C] uint8.

    Args:
      items: Lists photos.
      row: Number of the photo in the list.
      photos: How a file becomes a row of the encoder.

    Raises:
      ValueError: if the photo is unreadable.
      OSError, or another error of the file system of a URL: if the file cannot be read.
    """
    name = str(items.names[row])
    where = name if "://" in name else posixpath.join(items.root or "", name)
    if "://" not in where:
        return decode(Path(where), where, size=photos.size, mode=photos.mode)
    files, path = _fsspec().core.url_to_fs(where)
    content = io.BytesIO(files.cat_file(path))
    return decode(content, where, size=photos.size, mode=photos.mode)
