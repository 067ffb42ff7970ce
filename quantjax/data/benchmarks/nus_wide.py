"""Makes the two common splits of NUS-WIDE, with 21 and with 81 concepts."""

from pathlib import Path

import numpy as np

from quantjax.data.benchmarks.copies import Counts, copy_of, first_of, from_lists, needs_lists
from quantjax.data.benchmarks.draws import classwise
from quantjax.data.list_format import Listing
from quantjax.data.listed_paths import below_root, existing_folder
from quantjax.data.protocols import Splits
from quantjax.errors import InputError, MissingFileError

CONCEPTS_21 = (
    "animal",
    "beach",
    "buildings",
    "clouds",
    "flowers",
    "grass",
    "lake",
    "mountain",
    "ocean",
    "person",
    "plants",
    "reflection",
    "road",
    "rocks",
    "sky",
    "snow",
    "sunset",
    "tree",
    "vehicle",
    "water",
    "window",
)
COUNTS_21 = Counts(photos=195_834, classes=21, query=2_100, train=10_500, database=193_734)
COUNTS_81 = Counts(photos=223_496, classes=81, query=5_000, train=10_000, database=None)


def nus_wide_21(
    folder: str | Path,
    *,
    size: int | None = 256,
    num_validation: int = 1_050,
    seed: int = 0,
    counts: Counts = COUNTS_21,
    allow_incomplete: bool = False,
) -> Splits:
    """Splits NUS-WIDE's photos that have one of its 21 most frequent concepts.

    2,100 queries, 9,450 training photos, 1,050 validation photos and 193,734 database photos, which
    are all photos except the queries.

    The folder holds either train.txt, test.txt and database.txt of a paper, which give the split
    (papers drew different splits), and the photos in any folders; or the official files, from which
    `classwise` draws 100 queries and 500 training photos of each concept:

        ImageList/Imagelist.txt, Groundtruth/AllLabels/Labels_sky.txt and so on for 21 concepts,
        Flickr/actor/0001_2124494179.jpg and so on

    Args:
      folder: Folder of the copy.
      size: Height and width in pixels, see `image_folder`.
      num_validation: Number of training photos, drawn at random, that validate instead; they stay
        in the database, but validation queries do not search them.
      seed: Seed of both draws.
      counts: Expected numbers, and numbers to draw; other numbers make another protocol.
      allow_incomplete: Whether to continue with missing photos and other counts, under another
        name and digest. The draw comes before the search for photos, so existing photos keep their
        list.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder, a file in it or a photo is missing.
      ValueError: if a file is damaged, or counts differ.

    Reference:
      Chua et al., NUS-WIDE: A Real-World Web Image Database from National University of Singapore,
      CIVR 2009; Xia et al., Supervised Hashing for Image Retrieval via Image Representation
      Learning, AAAI 2014 (21 concepts, 100 queries and 500 training photos of each).
    """
    folder = existing_folder(folder)
    listing = from_lists(folder)
    drawn = listing is None
    listing = _official(folder, counts, seed) if listing is None else listing
    return copy_of(
        listing,
        folder / "Flickr" if drawn and (folder / "Flickr").is_dir() else folder,
        name="nus_wide_21",
        counts=counts,
        classes=CONCEPTS_21 if drawn else None,
        size=size,
        num_validation=num_validation,
        seed=seed,
        allow_incomplete=allow_incomplete,
    )


def nus_wide_81(
    folder: str | Path,
    *,
    size: int | None = 256,
    num_validation: int = 1_000,
    seed: int = 0,
    counts: Counts = COUNTS_81,
    allow_incomplete: bool = False,
) -> Splits:
    """Makes HashNet's split of NUS-WIDE, with labels of 81 concepts and 5,000 queries.

    The folder holds HashNet's train.txt, test.txt and database.txt, and its photos in any folders.
    Only the lists define which 223,496 of the 269,648 photos belong to the split.

    Args:
      folder: Folder of the copy.
      size: Height and width in pixels, see `image_folder`.
      num_validation: Number of training photos, drawn at random, that validate instead.
      seed: Seed of that draw.
      counts: Expected numbers of photos and classes.
      allow_incomplete: Whether to continue with missing photos and other counts, under another
        name and digest.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder, a list or a photo is missing.
      ValueError: if a list is wrong, or counts differ.

    Reference:
      Cao et al., HashNet: Deep Learning to Hash by Continuation, ICCV 2017. The number of photos
      is that of DeepHash-pytorch's README; the database's is published nowhere, so not checked.
    """
    folder = existing_folder(folder)
    return copy_of(
        needs_lists(folder, "nus_wide_81"),
        folder,
        name="nus_wide_81",
        counts=counts,
        size=size,
        num_validation=num_validation,
        seed=seed,
        allow_incomplete=allow_incomplete,
    )


def _official(folder: Path, counts: Counts, seed: int) -> Listing:
    """Reads the photos with a concept, in the order of the image list, and draws rows."""
    image_list = first_of(
        folder, ("ImageList/Imagelist.txt", "Imagelist.txt"), "list of NUS-WIDE's images"
    )
    paths = _paths(image_list)
    labels_folder = first_of(
        folder, ("Groundtruth/AllLabels", "AllLabels"), "folder of NUS-WIDE's labels"
    )
    columns = [
        _column(labels_folder / f"Labels_{name}.txt", image_list, len(paths))
        for name in CONCEPTS_21
    ]
    labels = np.stack(columns, axis=1)
    # The protocol is of photos with one of the 21 concepts; 195,834 of 269,648 have one.
    kept = np.flatnonzero(labels.any(axis=1))
    rows = classwise(
        labels[kept],
        classes=CONCEPTS_21,
        query_per_class=(counts.query or 0) // len(CONCEPTS_21),
        train_per_class=(counts.train or 0) // len(CONCEPTS_21),
        seed=seed,
    )
    return Listing(tuple(paths[row] for row in kept), labels[kept], rows)


def _paths(image_list: Path) -> list[str]:
    lines = image_list.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    paths = []
    for number, line in enumerate(lines, 1):
        if line := line.strip():
            try:
                paths.append(below_root(line))
            except ValueError as error:
                raise InputError(f"{image_list} line {number}: {error}") from error
    if len(set(paths)) < len(paths):
        raise InputError(f"{image_list} names a photo twice; fetch it anew")
    return paths


def _column(file: Path, image_list: Path, num_photos: int) -> np.ndarray:
    """Reads a concept's label file, a 0 or 1 per line, into [N] uint8."""
    if not file.is_file():
        raise MissingFileError(f"no file {file} of a concept's labels")
    text = np.frombuffer(file.read_bytes(), np.uint8)
    # Drops spaces and line ends; any other character than 0 and 1 then fails the check below.
    values = text[text > ord(" ")] - ord("0")
    if len(values) != num_photos or values.max(initial=0) > 1:
        raise InputError(
            f"{file} must hold a 0 or 1 for each of the {num_photos:,} photos of {image_list}, got "
            f"{len(values):,} characters; fetch it anew"
        )
    return values
