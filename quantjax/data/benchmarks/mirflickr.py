"""Makes splits of MIRFLICKR-25000, photos labelled with 24 topics."""

from pathlib import Path

import numpy as np

from quantjax.data.benchmarks.copies import Counts, copy_of, first_of
from quantjax.data.benchmarks.draws import at_random
from quantjax.data.list_format import Listing
from quantjax.data.listed_paths import existing_folder
from quantjax.data.protocols import Splits
from quantjax.errors import InputError, MissingFileError

TOPICS = (
    "animals",
    "baby",
    "bird",
    "car",
    "clouds",
    "dog",
    "female",
    "flower",
    "food",
    "indoor",
    "lake",
    "male",
    "night",
    "people",
    "plant_life",
    "portrait",
    "river",
    "sea",
    "sky",
    "structures",
    "sunset",
    "transport",
    "tree",
    "water",
)
COUNTS = Counts(photos=24_581, classes=24, query=2_000, train=5_000, database=22_581)
_NUM_PHOTOS = 25_000


def mirflickr_25k(
    folder: str | Path,
    *,
    size: int | None = 256,
    num_validation: int = 500,
    seed: int = 0,
    counts: Counts = COUNTS,
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
    if annotations.is_file():
        annotations = folder
    labels = np.stack([_column(annotations / f"{topic}.txt") for topic in TOPICS], axis=1)
    # A photo without a topic is relevant to no query, so the papers leave it out.
    kept = np.flatnonzero(labels.any(axis=1))
    rows = at_random(len(kept), num_query=counts.query or 0, num_train=counts.train or 0, seed=seed)
    return copy_of(
        Listing(tuple(f"im{row + 1}.jpg" for row in kept), labels[kept], rows),
        folder / "mirflickr" if (folder / "mirflickr").is_dir() else folder,
        name="mirflickr_25k",
        counts=counts,
        classes=TOPICS,
        size=size,
        num_validation=num_validation,
        seed=seed,
        allow_incomplete=allow_incomplete,
    )


def _column(file: Path) -> np.ndarray:
    """Reads a file with the numbers of a topic's photos into zeros and ones, [25000] uint8."""
    if not file.is_file():
        raise MissingFileError(f"no file {file} of a topic's photos")
    column = np.zeros(_NUM_PHOTOS, np.uint8)
    for line in file.read_text(encoding="utf-8", errors="replace").split():
        if not (line.isascii() and line.isdigit() and 1 <= int(line[:9]) <= _NUM_PHOTOS):
            raise InputError(
                f"{file} must hold numbers of photos from 1 to {_NUM_PHOTOS:,}, got {line[:40]!r}"
            )
        # Photos are numbered from 1.
        column[int(line[:9]) - 1] = 1
    return column
