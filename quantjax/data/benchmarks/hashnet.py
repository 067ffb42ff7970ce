"""Makes the splits that the list files of HashNet define, and reads those of other papers."""

from pathlib import Path

from quantjax.data.list_files import Listing, read_lists
from quantjax.data.lists import Counts, Options, copy_of
from quantjax.data.photo_files import by_name, existing_folder
from quantjax.data.protocols import Splits
from quantjax.errors import MissingFileError

COUNTS_100 = Counts(photos=None, classes=100, query=5_000, train=13_000, database=128_503)
COUNTS_81 = Counts(photos=223_496, classes=81, query=5_000, train=10_000, database=None)


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
