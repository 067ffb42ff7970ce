"""Finds and names images that are equal pixel for pixel, or features equal byte for byte."""

import hashlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from quantjax.data.protocols import LISTS
from quantjax.data.sources import Source, row_name
from quantjax.errors import InputError
from quantjax.run import files

_SHOWN = 5  # pairs of equal images that a message shows


def image_hashes(
    source: Source,
    rows: np.ndarray,
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Hashes the shape and pixels of each image, or its features, with BLAKE2b of 128 bits.

    Equal hashes mean equal images: two different images share a hash with probability 2^-128.

    Args:
      source: Source of the images.
      rows: Row numbers, [n].
      batch_size: Images held in memory at once.
      progress: Called with the number of images hashed and n, after each batch.

    Returns:
      Hashes [n, 2] uint64.

    Raises:
      ValueError: if batch_size is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be 1 or more, got {batch_size}")
    digests = []
    for start in range(0, len(rows), batch_size):
        batch = source[rows[start : start + batch_size]]
        name = "image" if "image" in batch else "feature"
        if name not in batch:
            raise InputError(f"a source must give image or feature, got {', '.join(batch)}")
        images = np.ascontiguousarray(batch[name])
        # The shape is hashed once per batch, and each image continues from a copy.
        shape = hashlib.blake2b(repr(images.shape[1:]).encode(), digest_size=16)
        for image in images:
            digest = shape.copy()
            digest.update(image)
            digests.append(digest.digest())
        if progress is not None:
            progress(len(digests), len(rows))
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


def in_another_row(
    rows: np.ndarray, others: np.ndarray, images: np.ndarray, other_images: np.ndarray
) -> np.ndarray:
    """Marks the rows whose image also belongs to a different row of a second list.

    Args:
      rows: Row numbers of the first list, [n].
      others: Row numbers of the second list, [m].
      images: Image id of each row of the first list, equal for equal images, [n].
      other_images: Image id of each row of the second list, [m].

    Returns:
      Mask [n] bool.
    """
    num_images = max(images.max(initial=0), other_images.max(initial=0)) + 1
    # A row that is in both lists equals itself there, which does not count.
    equal = np.bincount(other_images, minlength=num_images)[images]
    return equal - np.isin(rows, others) > 0


def examples(
    source: Source,
    lists: dict[str, np.ndarray],
    images: dict[str, np.ndarray],
    mask: np.ndarray,
    second: str,
) -> str:
    """Returns the names of the first few pairs of a query and its equal image, for a message.

    Args:
      source: Source that names the rows.
      lists: Rows of each list.
      images: Image id of each row of each list, equal for equal images.
      mask: Whether each query has an equal image in the second list, [Q] bool.
      second: Name of the second list.
    """
    found = []
    for place in np.flatnonzero(mask)[:_SHOWN]:
        query = lists["query"][place]
        equal = lists[second][images[second] == images["query"][place]]
        # A query that is in the second list too equals itself there; name another row.
        other = equal[equal != query][0]
        found.append(f"{row_name(source, query)} = {row_name(source, other)}")
    rest = int(mask.sum()) - len(found)
    return ", ".join([*found, f"and {rest:,} more"] if rest else found)


def write_listing(
    path: Path,
    source: Source,
    lists: dict[str, np.ndarray],
    rows: np.ndarray,
    image_ids: np.ndarray,
) -> None:
    """Writes the names of all rows with equal images into a text file, grouped by image.

    Args:
      path: The file; it is removed if no images are equal.
      source: Source that names the rows.
      lists: Rows of each list.
      rows: All rows of the lists, sorted, each once, [n].
      image_ids: Image id of each row, equal for equal images, [n].

    Raises:
      OSError: if the file cannot be written.
    """
    # Image id -> places in `rows`; the groups come in the order of their first rows.
    groups: dict[int, list[int]] = defaultdict(list)
    for place in np.flatnonzero(np.bincount(image_ids)[image_ids] > 1):
        groups[image_ids[place]].append(place)
    if not groups:
        path.unlink(missing_ok=True)
        return
    inside = {name: np.isin(rows, lists[name]) for name in LISTS}
    lines = [
        "Equal images: a group for each, a line for each row that has it. A line holds the lists "
        "that the row is in, a tab, and its name."
    ]
    for group in groups.values():
        lines.append("")
        for place in group:
            name = row_name(source, rows[place])
            there = ",".join(each for each in LISTS if inside[each][place])
            # A name with a line end would look like two rows.
            shown = name if name.isprintable() else ascii(name)
            lines.append(f"{there or 'validation_searches'}\t{shown}")
    files.write_text(path, "\n".join(lines) + "\n")
