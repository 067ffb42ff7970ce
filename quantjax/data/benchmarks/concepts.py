"""Makes splits of NUS-WIDE and MIRFLICKR, which have a label file for each concept or topic."""

from pathlib import Path

import numpy as np

from quantjax.data.benchmarks.listed import from_lists
from quantjax.data.draws import at_random, classwise
from quantjax.data.list_files import Listing, below_root
from quantjax.data.lists import Counts, Options, copy_of
from quantjax.data.photo_files import existing_folder, first_of
from quantjax.data.protocols import Splits
from quantjax.errors import InputError, MissingFileError

CONCEPTS = (
    "animal", "beach", "buildings", "clouds", "flowers", "grass", "lake", "mountain", "ocean",
    "person", "plants", "reflection", "road", "rocks", "sky", "snow", "sunset", "tree", "vehicle",
    "water", "window",
)  # fmt: skip
TOPICS = (
    "animals", "baby", "bird", "car", "clouds", "dog", "female", "flower", "food", "indoor", "lake",
    "male", "night", "people", "plant_life", "portrait", "river", "sea", "sky", "structures",
    "sunset", "transport", "tree", "water",
)  # fmt: skip
COUNTS_21 = Counts(photos=195_834, classes=21, query=2_100, train=10_500, database=193_734)
COUNTS_25K = Counts(photos=24_581, classes=24, query=2_000, train=5_000, database=22_581)
_NUM_PHOTOS = 25_000  # of MIRFLICKR, with a topic or without


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
    # Lists name their columns nowhere, so that their classes are numbered.
    listing, root, classes = from_lists(folder), folder, None
    if listing is None:
        listing, classes = _official(folder, counts, seed), CONCEPTS
        root = first_of(folder, ("Flickr", "."), "photos")
    options = Options(size, num_validation, seed, allow_incomplete)
    return copy_of("nus_wide_21", listing, root, counts, options, classes=classes)


def mirflickr_25k(
    folder: str | Path,
    *,
    size: int | None = 256,
    num_validation: int = 500,
    seed: int = 0,
    counts: Counts = COUNTS_25K,
    allow_incomplete: bool = False,
) -> Splits:
    """Splits the photos of MIRFLICKR-25000 that have a topic.

    2,000 queries, 4,500 training photos, 500 validation photos and 22,581 database photos, which
    are all photos except the queries. `at_random` draws them, since no split is published. The 14
    further label files (`_r1`, a stricter judgement of some topics) are not used.

    The folder holds the two official archives, unpacked:

        mirflickr/im1.jpg to im25000.jpg, mirflickr25k_annotations_v080/animals.txt and so on

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
      Huiskes and Lew, The MIR Flickr Retrieval Evaluation, MIR 2008. Papers draw 2,000 queries and
      5,000 training photos, or 1,000 and 4,000 outside the database.
    """
    folder = existing_folder(folder)
    annotations = first_of(
        folder,
        ("mirflickr25k_annotations_v080", "annotations", TOPICS[0] + ".txt"),
        "folder of MIRFLICKR's annotations",
    )
    # Both archives may have been unpacked into one folder.
    if annotations.is_file():
        annotations = folder
    labels = np.stack([_topic(annotations / f"{topic}.txt") for topic in TOPICS], axis=1)
    # A photo without a topic is relevant to no query, so the papers leave it out.
    kept = np.flatnonzero(labels.any(axis=1))
    rows = at_random(len(kept), num_query=counts.query, num_train=counts.train, seed=seed)
    listing = Listing(tuple(f"im{row + 1}.jpg" for row in kept), labels[kept], rows)
    root = first_of(folder, ("mirflickr", "."), "photos")
    options = Options(size, num_validation, seed, allow_incomplete)
    return copy_of("mirflickr_25k", listing, root, counts, options, classes=TOPICS)


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
        _concept(labels_folder / f"Labels_{name}.txt", image_list, len(paths)) for name in CONCEPTS
    ]
    labels = np.stack(columns, axis=1)
    # The protocol is of photos with one of the 21 concepts; 195,834 of 269,648 have one.
    kept = np.flatnonzero(labels.any(axis=1))
    rows = classwise(
        labels[kept],
        classes=CONCEPTS,
        query_per_class=counts.query // len(CONCEPTS),
        train_per_class=counts.train // len(CONCEPTS),
        seed=seed,
    )
    return Listing(tuple(paths[row] for row in kept), labels[kept], rows)


def _paths(image_list: Path) -> list[str]:
    lines = image_list.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    paths = [
        below_root(line.strip(), at=f"{image_list} line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if len(set(paths)) < len(paths):
        raise InputError(f"{image_list} names a photo twice; fetch it anew")
    return paths


def _concept(file: Path, image_list: Path, num_photos: int) -> np.ndarray:
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


def _topic(file: Path) -> np.ndarray:
    """Reads a file with the numbers of a topic's photos into zeros and ones, [25000] uint8."""
    if not file.is_file():
        raise MissingFileError(f"no file {file} of a topic's photos")
    column = np.zeros(_NUM_PHOTOS, np.uint8)
    for line in file.read_text(encoding="utf-8", errors="replace").split():
        # Cut to 9 digits, since Python refuses to parse thousands of them.
        if not (line.isascii() and line.isdigit() and 1 <= int(line[:9]) <= _NUM_PHOTOS):
            raise InputError(
                f"{file} must hold numbers of photos from 1 to {_NUM_PHOTOS:,}, got {line[:40]!r}"
            )
        # Photos are numbered from 1.
        column[int(line[:9]) - 1] = 1
    return column
