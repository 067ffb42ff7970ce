"""Encodes the items of a list to an index, in parts that survive a kill."""

import contextlib
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from quantjax import data
from quantjax.data.decoding import UnreadablePhotoError, pixel_limit
from quantjax.errors import InputError, MissingPackageError
from quantjax.index import columns, parts, versions
from quantjax.index.build import list_index, listed_sizes
from quantjax.index.encoder import load_encoder
from quantjax.index.items import Items, list_items, read_photo
from quantjax.run import workdirs
from quantjax.run.files import one_line
from quantjax.run.paths import user_path
from quantjax.run.prefetch import prefetched

BLOCK = 128
"""Items that are encoded at once.

Parts and chunks begin at multiples of it. So the blocks, and with them the codes to the bit, are
the same in any number of parts.
"""

_CHUNK = 512 * BLOCK  # items of the largest chunk
_SECONDS = 30.0  # after which a chunk is written although it is small: the most that a kill costs
_STAGING = ".encoding"  # folder in that of an index that holds its parts until they are merged
_WHOLE = "whole"  # folder among the parts for the index that inverted lists are made of

Progress = Callable[[int, int], None]


class Job(NamedTuple):
    """Describes an encoding, which any process of any machine can take a part of.

    Attributes:
      encoder: Folder of the encoder, or of a run or an index that has one.
      items: The items.
      folder: Folder of the parts.
      num_parts: How many parts there are.
      keep_vectors: Whether embeddings are kept, as float16, for re-ranking.
    """

    encoder: pathlib.Path
    items: Items
    folder: pathlib.Path
    num_parts: int = 1
    keep_vectors: bool = False


class _Block(NamedTuple):
    """Holds consecutive items, read: the rows of those that could be read, and their values."""

    rows: np.ndarray
    x: np.ndarray
    failures: list[tuple[str, str]]


def make_job(
    encoder: str | pathlib.Path,
    source: str | pathlib.Path,
    folder: str | pathlib.Path,
    *,
    num_parts: int = 1,
    keep_vectors: bool = False,
) -> Job:
    """Lists the items of a source, and copies the encoder into the folder of the parts.

    Args:
      encoder: See `Job`.
      source: See `items.list_items`.
      folder: Made if it does not exist.
      num_parts: See `Job`.
      keep_vectors: See `Job`.

    Raises:
      FileNotFoundError: if there is no encoder or no source.
      ValueError: if the source has no items, or the folder has parts of another encoder.
    """
    # Absolute, since workers of other processes may have another current folder.
    folder, loaded = user_path(folder).resolve(), load_encoder(encoder)
    if loaded.input == "photos" and loaded.photos is None:
        raise InputError(f"{encoder} encodes arrays of pixels, not files")
    items = list_items(source, kind=loaded.input)
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / versions.ENCODER
    # A folder cannot replace another, so that of several processes the first is left alone.
    with tempfile.TemporaryDirectory(prefix=".encoder", dir=folder) as scratch:
        whole = pathlib.Path(scratch) / versions.ENCODER
        shutil.copytree(versions.encoder_folder(encoder), whole, copy_function=shutil.copyfile)
        with contextlib.suppress(OSError):
            whole.rename(copy)
    if load_encoder(copy).digest != loaded.digest:
        raise InputError(f"{folder} has parts of another encoder; encode to another folder")
    return Job(copy, items, folder, num_parts, keep_vectors)


def encode_part(
    job: Job, number: int, *, progress: Progress = lambda done, total: None
) -> parts.Part:
    """Encodes one part of a list, or goes on where a killed process stopped.

    Items that cannot be read are skipped and recorded.

    Args:
      job: The encoding.
      number: Number of the part, from 0.
      progress: Called with the numbers of items done and of all items of the part.

    Returns:
      The complete part.

    Raises:
      ValueError: if another process is at work on the part, or the folder has a part of other items
        or of another encoder.
      ModuleNotFoundError: if Pillow is not installed.
      OSError: if the disk is full; chunks that are there stay.
    """
    items, encoder = job.items, load_encoder(job.encoder)
    folder = parts.folder_of(job.folder, number, job.num_parts)
    num_blocks = -(-len(items.names) // BLOCK)
    begin, end = (
        min(num_blocks * place // job.num_parts * BLOCK, len(items.names))
        for place in (number, number + 1)
    )
    due = parts.Part(
        number, job.num_parts, items.digest, encoder.digest, job.keep_vectors, begin, end,
        items.root, list(items.classes),
    )  # fmt: skip
    # Photos that are too large are failures, of which Pillow need not warn.
    limit = contextlib.nullcontext() if items.vectors else pixel_limit(None)
    with limit, workdirs.held(folder), futures.ThreadPoolExecutor() as pool:
        part, place = parts.start(folder, due)
        if part.chunks is None:
            blocks = _read_blocks(job, encoder, pool, range(place, end, BLOCK), end)
            with prefetched(blocks) as take:
                while place < end:
                    chunk = _encode_chunk(job, encoder, take, end - place)
                    parts.write_chunk(
                        folder, place, place + chunk.size, chunk.table, chunk.failures
                    )
                    place += chunk.size
                    progress(place - begin, end - begin)
            part = parts.finish(folder, part)
    return part


class _Chunk(NamedTuple):
    """Holds consecutive items, encoded: their number, columns of the readable, other names."""

    size: int
    table: columns.Columns
    failures: list[tuple[str, str]]


def _encode_chunk(job, encoder, take, left):
    """Encodes the next items until a chunk is full or some time has gone by."""
    began, size = time.monotonic(), 0
    rows, codes, vectors, failures = [], [], [], []
    while size < min(left, _CHUNK) and not (size and time.monotonic() - began > _SECONDS):
        block, _ = take()
        if job.keep_vectors:
            found, block_codes = encoder.embed_and_encode(block.x)
            vectors.append(found.astype(np.float16))
        else:
            block_codes = encoder(block.x)
        codes.append(block_codes)
        rows.append(block.rows)
        failures += block.failures
        size += min(BLOCK, left - size)
    rows, names, class_ids = np.concatenate(rows), job.items.names, job.items.class_ids
    table = columns.make(
        np.concatenate(codes),
        rows if isinstance(names, range) else [names[row] for row in rows],
        np.concatenate(vectors) if vectors else None,
        None if class_ids is None else class_ids[rows],
    )
    return _Chunk(size, table, failures)


def _read_blocks(job, encoder, pool, starts, end) -> Iterator[_Block]:
    """Yields blocks of items as arrays, without those that cannot be read."""
    vectors = job.items.vectors and data.read_vectors(job.items.vectors)
    for start in starts:
        rows = np.arange(start, min(start + BLOCK, end))
        if vectors is None:
            yield _read_photos(job, encoder, pool, rows)
            continue
        x = np.asarray(vectors[rows[0] : rows[-1] + 1], np.float32)
        good = np.isfinite(x).all(axis=1)
        failures = [(str(row), "NaN or infinity") for row in rows[~good]]
        yield _Block(rows[good], x[good], failures)


def _read_photos(job, encoder, pool, rows):
    read = list(pool.map(lambda row: _read_photo(job.items, encoder, row), rows))
    good = [place for place, found in enumerate(read) if isinstance(found, np.ndarray)]
    failures = [found for found in read if not isinstance(found, np.ndarray)]
    # An empty block has the shape of a row too.
    x = np.stack([read[place] for place in good] or [np.zeros((0, *encoder.row_shape), np.uint8)])
    return _Block(rows[good], x.reshape(-1, *encoder.row_shape), failures)


def _read_photo(items, encoder, row):
    """Returns the pixels of a photo, or its name and the reason why there are none."""
    try:
        photo = read_photo(items, row, encoder.photos)
    except MissingPackageError:
        raise
    except UnreadablePhotoError as error:
        return items.names[row], error.reason
    except Exception as error:  # file systems of URLs raise errors of many libraries
        return items.names[row], one_line(error)
    if photo.shape != encoder.row_shape:
        return items.names[row], f"it must be of {encoder.row_shape} pixels, got {photo.shape}"
    return photo


def encode_here(job: Job, progress: Progress) -> None:
    """Encodes all parts of a job in this process, one after another."""
    done, total = 0, len(job.items.names)
    for number in range(job.num_parts):
        part = encode_part(job, number, progress=lambda n, _, at=done: progress(at + n, total))
        done = part.end


def encode(
    encoder: str | pathlib.Path,
    source: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    keep_vectors: bool = False,
    num_lists: int | None = None,
    progress: Progress = lambda done, total: None,
    items_per_part: int | None = None,
    encode_parts: Callable[[Job, Progress], None] = encode_here,
) -> dict[str, Any]:
    """Encodes the items of a source to an index; called again after a kill, it goes on.

    Args:
      encoder: Folder of an encoder, or of a run or an index that has one.
      source: Folder of photos, or another source that `items.list_items` takes.
      out: Folder of the index; an index that it holds is replaced when all is encoded.
      keep_vectors: Whether the index keeps embeddings, as float16, for re-ranking.
      num_lists: Inverted lists that the items are sorted into, see `build.list_index`; None for
        none.
      progress: Called with the numbers of items done and of all items.
      items_per_part: Items of a part at most; None makes one part of all.
      encode_parts: Encodes all parts of a job: `encode_here`, or `ray_parts.encode_parts`.

    Returns:
      Manifest of the index; its "failures" are [name, reason] of items that could not be read.

    Raises:
      FileNotFoundError: if there is no encoder or no source.
      ValueError: if the source has no items or none that can be read, the folder holds other
        things, another process is at work in it, or the encoder's codes take no lists.
      OSError: if the disk is full; an older index is then as it was.
    """
    out = user_path(out)
    others = {path.name for path in out.glob("[!.]*")} if (out / "").is_dir() else set()
    if others and versions.MANIFEST not in others:
        raise InputError(f"{out} is not empty and holds no index; choose another folder")
    if num_lists is not None:
        # Before hours of encoding.
        listed_sizes(load_encoder(encoder).codec)
    with workdirs.held(out):
        kept = keep_vectors or num_lists is not None
        job = make_job(encoder, source, out / _STAGING, keep_vectors=kept)
        num_items = len(job.items.names)
        if num_lists is not None and not 1 <= num_lists <= num_items:
            raise InputError(f"num_lists must be from 1 to {num_items} items, got {num_lists}")
        job = job._replace(num_parts=-(-num_items // (items_per_part or num_items)))
        encode_parts(job, progress)
        folders = [parts.folder_of(job.folder, n, job.num_parts) for n in range(job.num_parts)]
        if num_lists is None:
            manifest = parts.merge(folders, out)
        else:
            whole = job.folder / _WHOLE
            parts.merge(folders, whole)
            manifest = list_index(whole, out, num_lists=num_lists, keep_vectors=keep_vectors)
        shutil.rmtree(job.folder)
    return manifest
