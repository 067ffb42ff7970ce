"""ImageNet-100: the 100 classes of HashNet's lists."""

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
    """Returns HashNet's ImageNet-100.

    5,000 queries of ImageNet's validation photos search 128,503 of its training photos; 11,700 of
    these train and 1,300 validate.

    The folder holds HashNet's train.txt, test.txt and database.txt, and the photos under any
    folders, HashNet's or ImageNet's own: they are found by file name. The classes are part of
    ImageNet's 1,000, so a backbone that was trained on these has seen the answers.

    Args:
      folder: Where that is.
      size: Height and width in pixels, see `image_folder`.
      num_validation: Training photos, drawn whatever their labels, that validate instead; they stay
        in the database, but validation searches without them.
      seed: Of that draw.
      counts: What is checked.
      allow_incomplete: Goes on without missing photos and with other counts, under another name
        and digest.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder, a list or a photo is missing.
      ValueError: if a list is wrong, or counts are others.

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
