"""Makes the splits that published lists define: those of HashNet, and In-shop's partition."""

from pathlib import Path

import numpy as np

from quantjax.data.list_files import Listing, below_root, read_lists
from quantjax.data.lists import Counts, Options, copy_of
from quantjax.data.photo_files import by_name, existing_folder, first_of
from quantjax.data.protocols import Splits
from quantjax.errors import InputError, MissingFileError

COUNTS_100 = Counts(photos=None, classes=100, query=5_000, train=13_000, database=128_503)
COUNTS_81 = Counts(photos=223_496, classes=81, query=5_000, train=10_000, database=None)
COUNTS_ITEMS = Counts(photos=52_712, classes=7_982, query=14_218, train=25_882, database=12_612)
_PARTS = {"train": "train", "query": "query", "gallery": "database"}  # In-shop's word -> ours


def imagenet_100(
    folder: str | Path,
    *,
    size: int | None = 256,
    num_validation: int = 1_300,
    seed: int = 0,
    counts: Counts = COUNTS_100,
    allow_incomplete: bool = False,
) -> Splits:
    """Makes HashNet's split of ImageNet-100.

    5,000 queries from ImageNet's validation photos search 128,503 of its training photos. 11,700 of
    the searched photos train and 1,300 validate.

    The folder holds HashNet's train.txt, test.txt and database.txt, and the photos in any folders,
    since they are found by file name. The classes are among ImageNet's 1,000 classes, so a backbone
    trained on ImageNet has seen the answers.

    Args:
      folder: Folder of the copy.
      size: Height and width in pixels, see `image_folder`.
      num_validation: Number of training photos, drawn at random, that validate instead; they stay
        in the database, but validation queries do not search them.
      seed: Seed of that draw.
      counts: Expected numbers of photos and classes.
      allow_incomplete: Whether to continue with missing photos and other counts, under another
        name and digest.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder, a list or a photo is missing.
      ValueError: if a list is wrong, or counts differ.

    Reference:
      Cao et al., HashNet: Deep Learning to Hash by Continuation, ICCV 2017.
    """
    folder = existing_folder(folder)
    options = Options(size, num_validation, seed, allow_incomplete)
    return copy_of("imagenet_100", _due_lists(folder, "imagenet_100"), folder, counts, options)


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
    options = Options(size, num_validation, seed, allow_incomplete)
    return copy_of("nus_wide_81", _due_lists(folder, "nus_wide_81"), folder, counts, options)


def in_shop(
    folder: str | Path,
    *,
    size: int | None = 256,
    num_validation_items: int = 400,
    seed: int = 0,
    counts: Counts = COUNTS_ITEMS,
    allow_incomplete: bool = False,
) -> Splits:
    """Makes the official split: 14,218 queries search 12,612 photos for the same item.

    25,882 photos of 3,997 items train; queries and database show 3,985 other items. Labels are
    class ids [N]. Validation repeats the task: some training items leave training, and half of
    each item's photos, rounded down, search the other half (`Splits.validation_searches`).

    The folder holds the unpacked benchmark:

        Eval/list_eval_partition.txt, Img/img/WOMEN/... or img/WOMEN/...

    Args:
      folder: Folder of the copy.
      size: Height and width in pixels, see `image_folder`.
      num_validation_items: Number of items with two photos or more that validate; 0 for no
        validation.
      seed: Seed of `numpy.random.default_rng`, which draws items, sorted by name, then each item's
        photos.
      counts: Expected numbers of photos and classes.
      allow_incomplete: Whether to continue with missing photos and other counts, under another
        name and digest.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder, the partition or a photo is missing.
      ValueError: if the partition is damaged, or counts differ.

    Reference:
      Liu et al., DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich
      Annotations, CVPR 2016.
    """
    folder = existing_folder(folder)
    partition = first_of(
        folder, ("Eval/list_eval_partition.txt", "list_eval_partition.txt"), "partition of In-shop"
    )
    listing, items = _partition(partition)
    listing = _with_validation_items(listing, num_validation_items, seed)
    options = Options(size, 0, seed, allow_incomplete)
    # Listed paths begin with img/, which the archive unpacks into Img/.
    root = folder / "Img" if (folder / "Img" / "img").is_dir() else folder
    return copy_of("in_shop", listing, root, counts, options, classes=items)


def from_lists(folder: Path) -> Listing | None:
    """Reads train.txt, test.txt (or query.txt) and database.txt, or returns None without them.

    Photos are found by file name, anywhere below the folder, since published lists hold paths of
    another machine.

    Raises:
      FileNotFoundError: if one or two of the three are missing.
      ValueError: if a list is wrong, see `read_lists`.
    """
    # Published lists call the queries test.txt; query.txt wins if both exist.
    query = "query" if (folder / "query.txt").is_file() else "test"
    names = {"train": "train", "query": query, "database": "database"}
    files = {name: folder / f"{stem}.txt" for name, stem in names.items()}
    # None is a copy in another layout; one or two are a copy that is not whole.
    missing = [file.name for file in files.values() if not file.is_file()]
    if len(missing) == len(files):
        return None
    if missing:
        raise MissingFileError(
            f"{folder} lacks {' and '.join(missing)}; train.txt, test.txt and database.txt belong "
            "together"
        )
    return read_lists(files, place=by_name(folder))


def _due_lists(folder: Path, name: str) -> Listing:
    listing = from_lists(folder)
    if listing is None:
        raise MissingFileError(
            f"{name} is defined by the list files train.txt, test.txt and database.txt of HashNet "
            f"(github.com/thuml/HashNet), which {folder} lacks; put them there"
        )
    return listing


def _partition(partition: Path) -> tuple[Listing, list[str]]:
    """Reads the photos of the partition file, in its order, and the names of the items."""
    count, _, *lines = (
        partition.read_text(encoding="utf-8", errors="replace").splitlines() + [""] * 2
    )
    photos: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lines, 3):
        if not (words := line.split()):
            continue
        if len(words) != 3 or words[2] not in _PARTS:
            raise InputError(
                f"{partition} line {number}: must be a photo, its item, and train, query or "
                f"gallery, got {line[:80]!r}"
            )
        path = below_root(words[0], at=f"{partition} line {number}")
        if path in photos:
            raise InputError(f"{partition} line {number}: photo {path} is listed already")
        photos[path] = (words[1], _PARTS[words[2]])
    if count.strip() != str(len(photos)):
        raise InputError(
            f"{partition} says in line 1 that it lists {count.strip()[:40]!r} photos, got "
            f"{len(photos)}; fetch it anew"
        )
    # Not np.unique of the names: its fixed-width strings would all be as long as the longest.
    items = sorted({item for item, _ in photos.values()})
    class_of = {item: class_id for class_id, item in enumerate(items)}
    class_ids = np.array([class_of[item] for item, _ in photos.values()], np.int64)
    parts = np.array([part for _, part in photos.values()])
    rows = {part: np.flatnonzero(parts == part) for part in _PARTS.values()}
    seen = np.intersect1d(class_ids[rows["train"]], class_ids[parts != "train"])
    if seen.size:
        name = items[seen[0]][:80]
        raise InputError(f"{partition}: item {name} trains and is searched for as well")
    return Listing(tuple(photos), class_ids, rows), items


def _with_validation_items(listing: Listing, num_items: int, seed: int) -> Listing:
    """Moves some training items of a listing into a separate retrieval task for validation."""
    train, class_ids = listing.rows["train"], listing.labels
    none = np.array([], np.int64)
    if not num_items:
        return listing._replace(rows={**listing.rows, "validation": none})
    items, photos = np.unique(class_ids[train], return_counts=True)
    # An item with a single photo has nothing left to search for.
    items = items[photos > 1]
    # All of them would leave nothing to train on.
    if not 0 < num_items < len(items):
        raise InputError(
            "num_validation_items is a part of the training items of two photos or more and must "
            f"be smaller, got {num_items} of {len(items)}"
        )
    rng = np.random.default_rng(seed)
    queries, searched = [], []
    for item in rng.permutation(items)[:num_items]:
        rows = rng.permutation(train[class_ids[train] == item])
        queries.append(rows[: len(rows) // 2])
        searched.append(rows[len(rows) // 2 :])
    held, gallery = np.sort(np.concatenate(queries)), np.sort(np.concatenate(searched))
    kept = np.setdiff1d(train, np.concatenate([held, gallery]))
    new = {"train": kept, "validation": held, "validation_searches": gallery}
    return listing._replace(rows={**listing.rows, **new})
