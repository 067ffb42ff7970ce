"""Makes splits of Microsoft COCO, photos labelled with the categories of their objects."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from quantjax.data.benchmarks.listed import from_lists
from quantjax.data.draws import at_random
from quantjax.data.list_files import Listing, below_root
from quantjax.data.lists import Counts, Options, copy_of
from quantjax.data.photo_files import by_name, existing_folder
from quantjax.data.protocols import Splits
from quantjax.errors import InputError, MissingFileError

COUNTS = Counts(photos=122_218, classes=80, query=5_000, train=10_000, database=117_218)
_YEARS = ("2014", "2017")
_PARTS = ("train", "val")
_MOST_LABELS = 1 << 30  # photos times categories, of which COCO has 1 << 23


class _Annotations(NamedTuple):
    names: dict[int, str]  # file name by image id
    pairs: list[tuple[int, int]]  # image id, category id
    categories: dict[int, str]


def coco(
    folder: str | Path,
    *,
    size: int | None = 256,
    num_validation: int = 1_000,
    seed: int = 0,
    counts: Counts = COUNTS,
    allow_incomplete: bool = False,
) -> Splits:
    """Splits COCO's training and validation photos that have an annotated object.

    5,000 queries, 9,000 training photos, 1,000 validation photos and 117,218 database photos, which
    are all photos except the queries.

    The folder holds either HashNet's train.txt, test.txt and database.txt, or annotations of one
    year. HashNet's lists give the split; of these only queries, training photos and categories are
    counted, since the published database list is shorter than the paper's. With annotations,
    `at_random` draws over the photos in the order of their ids:

        annotations/instances_train2014.json and instances_val2014.json, or the same of 2017

    2017 divides the photos of 2014 differently, under other file names. Photos may lie in any
    folders below.

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
      Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; Cao et al., HashNet: Deep
      Learning to Hash by Continuation, ICCV 2017 (5,000 queries, 10,000 training photos).
    """
    folder = existing_folder(folder)
    listing, classes = from_lists(folder), None
    if listing is None:
        listing, classes = _annotated(folder, counts, seed)
    else:
        # The published database list is shorter than the paper's.
        counts = counts._replace(photos=None, database=None)
    options = Options(size, num_validation, seed, allow_incomplete)
    return copy_of("coco", listing, folder, counts, options, classes=classes)


def _annotated(folder: Path, counts: Counts, seed: int) -> tuple[Listing, list[str]]:
    """Reads the photos with an object, sorted by image id, draws rows, and returns class names."""
    parts = [_read(file) for file in _files(folder)]
    names = {key: name for part in parts for key, name in part.names.items()}
    categories = {key: name for part in parts for key, name in part.categories.items()}
    pairs = np.array([pair for part in parts for pair in part.pairs], np.int64).reshape(-1, 2)
    image_ids, rows = np.unique(pairs[:, 0], return_inverse=True)
    if len(image_ids) * len(categories) > _MOST_LABELS:
        raise InputError(
            f"{folder / 'annotations'} describes {len(categories):,} categories, which are not "
            "COCO's; fetch it anew"
        )
    category_ids = np.array(sorted(categories), np.int64)
    # Category ids have gaps, up to 90 for 80 categories.
    labels = np.zeros((len(image_ids), len(category_ids)), np.uint8)
    labels[rows, np.searchsorted(category_ids, pairs[:, 1])] = 1
    # By file name, since photos of 2014 and 2017 are unpacked into folders of several names.
    place = by_name(folder)
    at = folder / "annotations"
    paths = tuple(below_root(names[key], at=at, place=place) for key in image_ids.tolist())
    drawn = at_random(len(paths), num_query=counts.query, num_train=counts.train, seed=seed)
    return Listing(paths, labels, drawn), [categories[key] for key in category_ids.tolist()]


def _files(folder: Path) -> list[Path]:
    """Returns the annotation files of the first year that is complete."""
    missing = []
    for year in _YEARS:
        files = [folder / "annotations" / f"instances_{part}{year}.json" for part in _PARTS]
        lacking = [file.name for file in files if not file.is_file()]
        if not lacking:
            return files
        missing.append(" and ".join(lacking))
    raise MissingFileError(
        f"{folder} has neither the lists train.txt, test.txt and database.txt nor the annotations "
        f"of a year, it lacks annotations/ {' or '.join(missing)}"
    )


def _read(file: Path) -> _Annotations:
    try:
        with file.open(encoding="utf-8") as stream:
            content: Any = json.load(stream)
        found = _Annotations(
            {int(image["id"]): str(image["file_name"]) for image in content["images"]},
            [(int(box["image_id"]), int(box["category_id"])) for box in content["annotations"]],
            {int(each["id"]): str(each["name"]) for each in content["categories"]},
        )
        # Objects may name images or categories that a damaged file does not describe.
        strangers = [pair for pair in found.pairs if pair[0] not in found.names]
        strangers += [pair for pair in found.pairs if pair[1] not in found.categories]
        if not all(-(2**63) <= key < 2**63 for key in (*found.names, *found.categories)):
            raise InputError("an id is of more than 64 bits")
        if strangers:
            raise InputError(
                f"an object is of image {strangers[0][0]} and category "
                f"{strangers[0][1]}, which are not both described"
            )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InputError(
            f"cannot read COCO's annotations in {file}: {type(error).__name__}: {error}; fetch it "
            "anew"
        ) from error
    return found
