"""Makes the split of ImageNet-100, the 100 ImageNet classes of HashNet's lists."""

from pathlib import Path

from quantjax.data.benchmarks.copies import Counts, copy_of, needs_lists
from quantjax.data.listed_paths import existing_folder
from quantjax.data.protocols import Splits

COUNTS = Counts(photos=None, classes=100, query=5_000, train=13_000, database=128_503)


def imagenet_100(
    folder: str | Path,
    *,
    size: int | None = 256,
    num_validation: int = 1_300,
    seed: int = 0,
    counts: Counts = COUNTS,
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
    return copy_of(
        needs_lists(folder, "imagenet_100"),
        folder,
        name="imagenet_100",
        counts=counts,
        size=size,
        num_validation=num_validation,
        seed=seed,
        allow_incomplete=allow_incomplete,
    )
