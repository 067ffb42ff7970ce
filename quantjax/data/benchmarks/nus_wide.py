"""NUS-WIDE: the field's two protocols, of 21 and of 81 concepts."""

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
    """Returns NUS-WIDE's photos that have one of its 21 most frequent concepts.

    2,100 queries, 9,450 train, 1,050 validation, 193,734 database: all but the queries.

    The folder holds either the field's train.txt, test.txt and database.txt, whose split is then
    taken (everybody drew an own one), and the photos under any folders; or the official files,
    from which `classwise` draws 100 queries and 500 training photos of each concept:

        ImageList/Imagelist.txt, Groundtruth/AllLabels/Labels_sky.txt and so on for 21 concepts,
        Flickr/actor/0001_2124494179.jpg and so on

    Args:
      folder: Where that is.
      size: Height and width in pixels, see `image_folder`.
      num_validation: Training photos, drawn whatever their labels, that validate instead; they stay
        in the database, but validation searches without them.
      seed: Of both draws.
      counts: What is checked, and how many are drawn; other numbers make another protocol.
      allow_incomplete: Goes on without missing photos and with other counts, under another name
        and digest. The draw is made before photos are looked for, so those that are there keep
        their list.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder, a file in it or a photo is missing.
      ValueError: if a file is damaged, or counts are others.

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
    """Returns HashNet's split of NUS-WIDE, with labels of 81 concepts: 5,000 queries.

    The folder holds HashNet's train.txt, test.txt and database.txt, and its photos under any
    folders. Which 223,496 of the 269,648 photos belong to it follows from nothing but the lists.

    Args:
      folder: Where that is.
      size: Height and width in pixels, see `image_folder`.
      num_validation: Training photos, drawn whatever their labels, that validate instead.
      seed: Of that draw.
      counts: What is checked.
      allow_incomplete: Goes on without missing photos and with other counts, under another name
        and digest.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder, a list or a photo is missing.
      ValueError: if a list is wrong, or counts are others.

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
    """Returns the photos with a concept, in the order of the image list, and their drawn rows."""
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
    """Returns a concept's zeros and ones, [N] uint8, of a file that has one in a line."""
    if not file.is_file():
        raise MissingFileError(f"no file {file} of a concept's labels")
    text = np.frombuffer(file.read_bytes(), np.uint8)
    values = text[text > ord(" ")] - ord("0")
    if len(values) != num_photos or values.max(initial=0) > 1:
        raise InputError(
            f"{file} must hold a 0 or 1 for each of the {num_photos:,} photos of {image_list}, got "
            f"{len(values):,} characters; fetch it anew"
        )
    return values
