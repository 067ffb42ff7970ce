"""Reads photo files on demand as a data source: from a list of paths, or from class folders."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from quantjax.data.arrays import as_multi_hot
from quantjax.data.class_counts import rows_per_class
from quantjax.data.decoding import UnreadablePhotoError, decode, header_size, pillow
from quantjax.data.photo_files import ClassFolders, dotted, notes_of, read_class_folders
from quantjax.data.sources import batch_label, check_rows
from quantjax.errors import InputError, MissingFileError, few
from quantjax.run.paths import user_path

_SIZE_ADVICE = "resize and crop by --size=PX (in Python size=PX)"
_SKIP_ADVICE = "go on without by --skip_unreadable (in Python skip_unreadable=True)"
_SHOWN = 200  # photos that an error names


@dataclasses.dataclass(frozen=True, eq=False)
class Photos:
    """Decodes photo files on demand, as a data source; made by `image_folder` or `file_lists`.

    Attributes:
      paths: Row i of the source is the photo `paths[i]`.
      labels: Multi-hot labels [N, L] uint8, or class ids [N] int64 where a photo has one class; a
        batch's "label" is multi-hot either way.
      classes: Names of the L classes.
      size: Height and width in pixels, or None for photos as they are.
      notes: Notes on ignored files and on oddities of the photos.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    size: int | None
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """Returns the numbers of photos and classes, and the notes, in one line."""
        counts = f"{len(self)} photos of {len(self.classes)} classes"
        return "; ".join((counts, *self.notes))

    def __len__(self) -> int:
        return len(self.paths)

    def name_of(self, row: int) -> Path:
        """Returns the path of the photo of a row."""
        return self.paths[row]

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        rows = check_rows(rows, len(self))
        paths = [self.paths[row] for row in rows.ravel()]
        decoded = [decode(path, path, size=self.size) for path in paths]
        return as_batch(decoded, paths, batch_label(self.labels, rows, len(self.classes)))


def from_photos(
    paths: Iterable[str | Path],
    label: np.ndarray | None = None,
    *,
    classes: Sequence[str] | None = None,
    size: int | None = None,
) -> Photos:
    """Makes a data source from a list of photo files, read as RGB in the order given.

    The photos need neither class folders nor labels.

    Args:
      paths: N files, such as `sorted(Path("photos").rglob("*.jpg"))`.
      label: Class ids [N], or one-hot or multi-hot rows [N, L]; None where the photos have no
        labels, see `from_arrays`.
      classes: Names of the L classes.
      size: Height and width in pixels, see `image_folder`; None takes photos of one size as they
        are.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      ValueError: if there is no path, labels do not fit, sizes are mixed, or (here or when rows are
        requested) a photo is unreadable.
    """
    files = tuple(map(user_path, paths))
    if not files:
        raise InputError("paths must name a photo at least, got none")
    labels, names = as_multi_hot(label, num_rows=len(files), classes=classes)
    check_headers(files, size)
    return Photos(files, labels, names, size)


def image_folder(
    path: str | Path, *, size: int | None = None, skip_unreadable: bool = False
) -> Photos:
    """Reads the photos in `path`/CLASS/ as RGB, with classes and photos sorted by name.

    Sub-folders of a class belong to the class. Photos are rotated upright by their Exif tag.
    Transparent pixels become white, 16-bit grey keeps its upper 8 bits, and an animation gives its
    first picture. Symbolic links to photos and folders are followed. HEIC files are read if
    pillow-heif is installed. Without a size all headers are read once, to check that sizes agree.

    Args:
      path: Folder of class folders; a class folder without a photo is no class.
      size: Height and width in pixels: the shorter side is resized to it and the longer side is
        cropped at the centre. None takes photos as they are, which must then have one size.
      skip_unreadable: Whether to read all headers and leave out photos with an unreadable header
        instead of raising an error. Only decoding finds damage after the header, see `to_records`.

    Returns:
      The photos. Print their `summary`: it counts left-out and ignored files by kind.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder does not exist.
      ValueError: if the class folders hold no photo, the folders are parts (train, test), sizes
        are mixed, or photos are unreadable, of other depths, or decompression bombs. Unreadable
        photos raise here, all named, or when their rows are requested.
    """
    folder = user_path(path)
    found = read_class_folders(folder)
    if not found.photos:
        raise InputError(f"{folder} has no class; put photos into a folder for each class in it")
    return _of_class_folders(folder, [found], size, skip_unreadable)[0]


def image_folders(
    path: str | Path,
    parts: Sequence[str],
    *,
    size: int | None = None,
    skip_unreadable: bool = False,
) -> tuple[Photos, list[np.ndarray]]:
    """Reads the photos in `path`/PART/CLASS/ as one source, and returns the rows of each part.

    The classes are those of all parts together; the notes name classes that a part lacks. A class
    that only queries and database have is an unseen class.

    Args:
      path: Folder of the parts.
      parts: Names of the parts, such as ("train", "validation", "test"); `image_folder` describes
        how each is read.
      size: See `image_folder`.
      skip_unreadable: See `image_folder`.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder of a part does not exist.
      ValueError: if a part is named twice, or sizes are mixed, and as `image_folder`.
    """
    root = user_path(path)
    if not all(parts) or len(set(parts)) < max(len(parts), 1):
        raise InputError(f"parts must be names that differ, got {', '.join(map(repr, parts))}")
    for part in parts:
        if root.is_dir() and not (root / part).is_dir():
            others = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
            raise MissingFileError(
                f"no folder {root / part} for the part {part}; {root} has "
                f"{', '.join(others) or 'no folder'}"
            )
    found = [read_class_folders(root / part) for part in parts]
    # A part may be a path such as "images/train"; only its first folder lies in the root.
    tops = {Path(part).parts[0] for part in parts}
    beside = [p for p in sorted(root.iterdir()) if p.name[0] != "." and p.name not in tops]
    if beside:
        found[0].ignored["beside the parts"] = beside
    source, rows = _of_class_folders(root, found, size, skip_unreadable)
    absent = absent_classes(source.labels, source.classes, dict(zip(parts, rows, strict=True)))
    return dataclasses.replace(source, notes=(*source.notes, *absent)), rows


def absent_classes(
    labels: np.ndarray, classes: Sequence[str], parts: Mapping[str, np.ndarray]
) -> list[str]:
    """Returns a note on each part that has no photo of some class.

    Args:
      labels: Labels of all rows, multi-hot [N, L] or class ids [N].
      classes: Names of the L classes.
      parts: Rows of each part.
    """
    notes = []
    for part, rows in parts.items():
        absent = np.flatnonzero(rows_per_class(labels[rows], len(classes)) == 0)
        if len(rows) == 0:
            notes.append(f"{part} has no photo")
        elif len(absent):
            names = dotted([classes[number] for number in absent])
            more = f" ({len(absent)} of {len(classes)} classes)" if len(absent) > 1 else ""
            notes.append(f"{part} has no photo of {names}{more}")
    return notes


def _of_class_folders(
    root: Path, found: Sequence[ClassFolders], size: int | None, skip_unreadable: bool
) -> tuple[Photos, list[np.ndarray]]:
    """Returns the photos of all parts as one source, and the rows of each part."""
    kept = [
        [(path, folder.name) for folder, paths in each.photos.items() for path in paths]
        for each in found
    ]
    notes = notes_of(root, found)
    bad = check_headers(
        [path for part in kept for path, _ in part], size, skip=skip_unreadable, may_skip=True
    )
    if bad:
        kept = [[photo for photo in part if photo[0] not in bad] for part in kept]
        notes.append(f"skipped {len(bad)} unreadable: {named(list(bad.values()))}")
    paths = tuple(path for part in kept for path, _ in part)
    if not paths:
        told = "".join(f"; {note}" for note in notes)
        raise InputError(f"{root} has no photo that can be read in its class folders{told}")
    classes = tuple(sorted({name for part in kept for _, name in part}))
    number_of = {name: number for number, name in enumerate(classes)}
    class_ids = [number_of[name] for part in kept for _, name in part]
    # Parts are stored one after another, so each part is a range of rows.
    ends = np.cumsum([len(part) for part in kept])
    rows = np.split(np.arange(ends[-1]), ends[:-1])
    labels = np.eye(len(classes), dtype=np.uint8)[class_ids]
    return Photos(paths, labels, classes, size, tuple(notes)), rows


def check_headers(
    paths: Sequence[Path], size: int | None, *, skip: bool = False, may_skip: bool = False
) -> dict[Path, UnreadablePhotoError]:
    """Raises ValueError if photos that will not be resized have several sizes.

    All headers are read, unless photos are resized and none is to be skipped.

    Args:
      paths: The photos.
      size: Height and width in pixels to which photos are resized, or None.
      skip: Whether to return the errors of unreadable photos instead of raising them.
      may_skip: Whether an error says how to continue without the photos.

    Returns:
      Errors of unreadable photos, by path.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      ValueError: if sizes are mixed, photos are unreadable, or the size is below 1.
    """
    pillow()
    check_side(size)
    sizes: dict[Path, tuple[int, int]] = {}
    errors: dict[Path, UnreadablePhotoError] = {}
    # Opening every file of a large set takes minutes, so that it is done only if it must be.
    for path in paths if size is None or skip else ():
        try:
            sizes[path] = header_size(path, path)
        except UnreadablePhotoError as error:
            errors[path] = error
    if errors and not skip:
        raise all_unreadable(list(errors.values()), len(paths), may_skip=may_skip)
    first = next(iter(sizes.items()), None)
    for path, found in sizes.items():
        if size is None and first and found != first[1]:
            raise mixed(*first, path, found)
    return errors


def check_side(size: int | None) -> None:
    """Raises ValueError if the size is below 1."""
    if size is not None and size < 1:
        raise InputError(f"size must be 1 pixel or more, got {size}")


def as_batch(
    photos: Sequence[np.ndarray], names: Sequence[object], label: np.ndarray
) -> dict[str, np.ndarray]:
    """Makes a batch of photos [H, W, C] and labels [..., L], with as many axes as the labels have.

    Raises:
      ValueError: with the names of two photos, if sizes differ.
    """
    for name, photo in zip(names, photos, strict=True):
        if photo.shape != photos[0].shape:
            raise mixed(names[0], photos[0].shape, name, photo.shape)
    image = np.stack(photos)
    return {"image": image.reshape(label.shape[:-1] + image.shape[1:]), "label": label}


def mixed(
    name: object, size: tuple[int, ...], other: object, other_size: tuple[int, ...]
) -> InputError:
    """Returns the error for two photos whose heights and widths differ."""
    return InputError(
        f"photos must have one size, got {name} of {size[0]} x {size[1]} and {other} "
        f"of {other_size[0]} x {other_size[1]} (height x width); {_SIZE_ADVICE}"
    )


def all_unreadable(
    errors: Sequence[UnreadablePhotoError], total: int, *, may_skip: bool
) -> InputError:
    """Returns the error that names all unreadable photos.

    Args:
      errors: One error for each unreadable photo, at least one.
      total: Number of all photos, readable and unreadable.
      may_skip: Whether the caller can continue without the photos; the error then says how.
    """
    text = str(errors[0])
    if len(errors) > 1:
        advice = dict.fromkeys(error.advice for error in errors if error.advice)
        told = f"cannot read {len(errors)} of {total} photos: {named(errors)}"
        text = "; ".join((told, *advice, "replace them or take them away"))
    return InputError(f"{text}, or {_SKIP_ADVICE}" if may_skip else text)


def named(errors: Sequence[UnreadablePhotoError]) -> str:
    """Lists unreadable photos and their reasons as text, for a one-line message."""
    return few((f"{error.photo} ({error.reason})" for error in errors), _SHOWN)
