"""Times random batches of 256 photos: from records, from their folder, and by grain.

    python -m experiments.benchmarks.records

The files are in the page cache, so what is measured is decoding and what is done around it: what
a disk or a network gains by few large files is not. Ours decodes with its default of threads,
`Photos` with one; grain's is its own pipeline of one example after another, the same decoder mapped
over a shuffled `MapDataset` of the same records, which threads read, and batches of it. Photos are
soft noise, as large in bytes as photos of that size.
"""

import functools
import importlib
import importlib.metadata
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from quantjax import data
from quantjax.data import decoding

from . import timing

_BATCH, _NUM_BATCHES = 256, 4
_NUM_PHOTOS = 2048
_CASES = {
    "png32": (32, "png", None),
    "jpeg32": (32, "jpg", None),
    "jpeg224": (224, "jpg", None),
    "pixels32": (32, "png", 32),
    "pixels224": (224, "jpg", 224),
}
"""Side of the photos, their format, and the side of the pixels that are stored, if any are."""
_BAR = 1.0


def write_photos(folder: Path, side: int, suffix: str) -> None:
    """Writes photos of soft noise into a single class folder.

    Args:
      folder: Path of the class folder.
      side: Height and width of each photo, in pixels.
      suffix: Format.
    """
    image_module = importlib.import_module("PIL.Image")
    rng = np.random.default_rng(0)
    (folder / "class").mkdir(parents=True)
    for number in range(_NUM_PHOTOS):
        coarse = rng.integers(0, 256, (side // 4, side // 4, 3), np.uint8)
        soft = image_module.fromarray(coarse).resize((side, side), image_module.Resampling.BICUBIC)
        soft.save(folder / "class" / f"{number:05d}.{suffix}")


def grain_reader(source: data.RecordsSource, num_threads: int, size: int | None) -> Any:
    """Returns a function that reads shuffled rows by grain's pipeline, batch by batch.

    Args:
      source: Whose records are read.
      num_threads: Number of threads of grain.
      size: Height and width of stored pixels, or None to decode.
    """
    grain = importlib.import_module("grain")
    seeds = iter(range(1 << 30))

    def decode(record):
        if size is not None:
            return np.frombuffer(record, np.uint8).reshape(size, size, 3)
        return decoding.decode(io.BytesIO(record), "record", size=None)

    def read():
        rows = grain.MapDataset.source(source.records).seed(next(seeds)).shuffle()
        examples = rows[: _BATCH * _NUM_BATCHES].map(decode)
        options = grain.ReadOptions(num_threads=num_threads)
        for batch in examples.to_iter_dataset(options).batch(_BATCH):
            assert len(batch) == _BATCH

    return read


def reading(side: int, suffix: str, size: int | None, seconds: float) -> Iterator[timing.Timing]:
    """Times batches of one size and format of photo.

    Args:
      side: Height and width of the photos.
      suffix: Their format.
      size: Height and width of stored pixels, or None to store the files.
      seconds: How long the comparison is timed.

    Yields:
      A line for each peer.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder) / "photos", side, suffix)
        of_files = data.image_folder(Path(folder) / "photos", size=size)
        data.to_records(of_files, Path(folder) / "records", size=size, num_shards=4)
        source = data.from_records(Path(folder) / "records")
        num_bytes = sum(path.stat().st_size for path in of_files.paths) // len(of_files)
        rng = np.random.default_rng(0)

        def batches_of(source):
            for rows in rng.integers(_NUM_PHOTOS, size=(_NUM_BATCHES, _BATCH)):
                assert len(source[rows]["image"]) == _BATCH

        cores = os.cpu_count() or 1
        peers = {
            "folder": functools.partial(batches_of, of_files),
            f"grain {cores} threads": grain_reader(source, cores, size),
            "grain 16 threads": grain_reader(source, 16, size),
        }
        ours, *others = timing.side_by_side(
            [functools.partial(batches_of, source), *peers.values()], seconds=seconds
        )
    total = _BATCH * _NUM_BATCHES
    stored = f"pixels {size}" if size else f"{suffix} {side}, {num_bytes:,} bytes"
    for name, other in zip(peers, others, strict=True):
        note = f"{total / ours:,.0f} images/s, {name} {total / other:,.0f}"
        yield timing.Timing(f"{total} photos, {stored}", ours, other, name, _BAR, note)


def main() -> None:
    """Runs the cases named on the command line, all by default."""
    cases = {name: functools.partial(reading, *case) for name, case in _CASES.items()}
    packages = ("grain", "array-record", "pillow")
    versions = (f"{name} {importlib.metadata.version(name)}" for name in packages)
    timing.run_cases(__doc__, cases, peers=", ".join(versions))


if __name__ == "__main__":
    main()
